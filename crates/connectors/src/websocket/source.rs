//! The WebSocket source: connect, subscribe, read; over again when it breaks.
//!
//! Messages are read from the socket only when a batch is asked for, so a slow pipeline slows the server down through
//! TCP, and nothing is buffered beyond one batch.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use millstream_core::units::redact_url;
use millstream_core::{Failure, FailureKind, Result, SecretValue, Source, SourceBatch, SourceRead};
use regex::bytes::Regex;
use reqwest::header::RETRY_AFTER;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::tungstenite::error::CapacityError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::config::{WebsocketSourceConfig, WebsocketSpec};
use super::connect::{Socket, connect};
use crate::backoff::Reconnect;
use crate::context::SourceContext;
use crate::http_client::{SERVER_WAIT_MAX, retry_after};
use crate::record_buffer::RecordBuffer;

/// Reads the messages of a WebSocket; see [`WebsocketSourceConfig`]. It has no cursor: a WebSocket can't be asked for
/// the past.
pub struct WebsocketSource {
    config: WebsocketSourceConfig,
    request: Request,
    subscribe: Arc<[String]>,
    ignore: Vec<Regex>,
    context: SourceContext,
    reconnect: Reconnect,
    connection: Connection,
    records: RecordBuffer,
    /// A batch was handed out since the last read: the time until now was the pipeline's, not the server's.
    resumed: bool,
}

enum Connection {
    None,
    /// Kept here, and not in the future of `next`, so that a dropped call does not start it over.
    Connecting(BoxFuture<'static, Result<Socket, Refused>>),
    Open {
        socket: Box<Socket>,
        heard_at: Instant,
        ping_at: Instant,
        /// When the next heartbeat is due, where there are any.
        beat_at: Option<Instant>,
    },
}

/// Why there is no connection, and how long the server wants to be left alone.
struct Refused {
    why: String,
    wait: Duration,
}

/// What waiting for a message gave.
enum Heard {
    /// A message, or why there are no more.
    Message(Option<Result<Message, WsError>>),
    /// Nothing for a while.
    Quiet,
}

impl WebsocketSource {
    /// A source that connects at the first `next`.
    pub fn new(spec: &WebsocketSpec, context: SourceContext) -> Self {
        let config = spec.config.clone();
        Self {
            request: spec.request.clone(),
            subscribe: config.subscribe.iter().map(SecretValue::expose).collect(),
            reconnect: Reconnect::new(&config.backoff, &context),
            connection: Connection::None,
            ignore: spec.ignore.clone(),
            records: RecordBuffer::for_messages(redact_url(config.url.expose()).into(), &context),
            resumed: false,
            context,
            config,
        }
    }

    /// Connects and subscribes; says why where that fails.
    fn connect(&self) -> BoxFuture<'static, Result<Socket, Refused>> {
        let (request, subscribe, patience) =
            (self.request.clone(), self.subscribe.clone(), self.config.stall_timeout.0);
        let max = usize::try_from(self.config.max_record.0).unwrap_or(usize::MAX);
        let limits = WebSocketConfig::default().max_message_size(Some(max)).max_frame_size(Some(max));
        let (clock, deny_private) = (self.context.clock.clone(), self.config.deny_private);
        async move {
            match timeout(patience, connect(request, limits, &subscribe, deny_private)).await {
                Ok(Ok(socket)) => Ok(socket),
                Ok(Err(e)) => {
                    let header = match &e {
                        WsError::Http(response) => response.headers().get(RETRY_AFTER),
                        _ => None,
                    };
                    let wait = header.and_then(|value| retry_after(value, &*clock)).unwrap_or_default();
                    Err(Refused { why: describe(&e), wait: wait.min(SERVER_WAIT_MAX) })
                }
                Err(_) => Err(Refused { why: format!("no connection within {patience:?}"), wait: Duration::ZERO }),
            }
        }
        .boxed()
    }

    /// Takes a message; says why where the connection is of no more use.
    fn take(&mut self, message: Option<Result<Message, WsError>>) -> Result<(), String> {
        match message {
            Some(Ok(Message::Text(text))) => self.take_record(text.as_bytes()),
            Some(Ok(Message::Binary(bytes))) => self.take_record(&bytes),
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(Some(frame)))) => {
                return Err(format!("the server closed with code {} {}", frame.code, frame.reason)
                    .trim_end()
                    .to_owned());
            }
            Some(Ok(Message::Close(None))) | None => return Err("the server closed the connection".into()),
            Some(Err(WsError::Capacity(CapacityError::MessageTooLong { size, max_size }))) => {
                let message = format!(
                    "the message has {size} bytes, more than the {max_size} that `max_record` allows; none are kept"
                );
                self.records.push_refused(&[], Failure::new(FailureKind::TooLarge, message));
                return Err(format!("a message was larger than {max_size} bytes"));
            }
            Some(Err(e)) => return Err(describe(&e)),
        }
        self.reconnect.worked();
        Ok(())
    }

    fn take_record(&mut self, message: &[u8]) {
        if !self.ignore.iter().any(|pattern| pattern.is_match(message)) {
            self.records.push_message(message);
        }
    }

    /// Sends the heartbeat that is due.
    async fn beat(&mut self) -> Result<(), String> {
        let (Some(heartbeat), stall) = (&self.config.heartbeat, self.config.stall_timeout.0) else { return Ok(()) };
        let Connection::Open { socket, beat_at, .. } = &mut self.connection else { return Ok(()) };
        let now = Instant::now();
        if beat_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        *beat_at = Some(now + heartbeat.every.0);
        match timeout(stall, socket.send(Message::text(heartbeat.send.expose()))).await {
            Ok(sent) => sent.map_err(|e| describe(&e)),
            Err(_) => Err(format!("nothing could be sent for {stall:?}")),
        }
    }

    /// Waits for a message or for the time of the next ping, then takes what else is there already.
    async fn read(&mut self) -> Result<(), String> {
        let (stall, ping) = (self.config.stall_timeout.0, self.config.ping_interval.0);
        self.beat().await?;
        let Connection::Open { socket, heard_at, ping_at, beat_at } = &mut self.connection else { return Ok(()) };
        if std::mem::take(&mut self.resumed) {
            *heard_at = Instant::now();
        }
        let stalled_at = *heard_at + stall;
        let wake_at = stalled_at.min(*ping_at).min(beat_at.unwrap_or(stalled_at));
        let heard = match timeout_at(wake_at, socket.next()).await {
            Ok(message) => Heard::Message(message),
            Err(_) => Heard::Quiet,
        };
        let now = Instant::now();
        match heard {
            Heard::Quiet if now >= stalled_at => Err(format!("nothing came for {stall:?}")),
            Heard::Quiet if now < *ping_at => Ok(()),
            Heard::Quiet => {
                *ping_at = now + ping;
                match timeout_at(stalled_at, socket.send(Message::Ping(Default::default()))).await {
                    Ok(sent) => sent.map_err(|e| describe(&e)),
                    Err(_) => Err(format!("nothing could be sent for {stall:?}")),
                }
            }
            Heard::Message(message) => {
                (*heard_at, *ping_at) = (now, now + ping);
                self.take(message)?;
                while !self.records.is_full() {
                    let Connection::Open { socket, .. } = &mut self.connection else { break };
                    let Some(message) = socket.next().now_or_never() else { break };
                    self.take(message)?;
                }
                Ok(())
            }
        }
    }

    fn disconnect(&mut self, why: &str, wait: Duration) {
        self.connection = Connection::None;
        self.reconnect.failed(why, wait);
    }
}

#[async_trait]
impl Source for WebsocketSource {
    async fn next(&mut self) -> Result<SourceRead> {
        loop {
            if !self.records.is_empty() {
                self.resumed = true;
                return Ok(SourceRead::Batch(SourceBatch { raw: self.records.take(), ..SourceBatch::default() }));
            }
            match &mut self.connection {
                Connection::None => {
                    self.reconnect.wait().await;
                    self.connection = Connection::Connecting(self.connect());
                }
                Connection::Connecting(connecting) => match connecting.await {
                    Ok(socket) => {
                        let now = Instant::now();
                        let ping_at = now + self.config.ping_interval.0;
                        let beat_at = self.config.heartbeat.as_ref().map(|beat| now + beat.every.0);
                        self.connection =
                            Connection::Open { socket: Box::new(socket), heard_at: now, ping_at, beat_at };
                        self.reconnect.connected();
                    }
                    Err(refused) => self.disconnect(&refused.why, refused.wait),
                },
                Connection::Open { .. } => {
                    if let Err(why) = self.read().await {
                        self.disconnect(&why, Duration::ZERO);
                    }
                }
            }
        }
    }
}

/// What went wrong, without the address, which may hold a token.
fn describe(error: &WsError) -> String {
    match error {
        WsError::Http(response) => format!("the server answered {}", response.status()),
        WsError::ConnectionClosed | WsError::AlreadyClosed => "the server closed the connection".into(),
        other => other.to_string(),
    }
}
