//! The source that reads an endless HTTP answer: request, read, over again when it breaks.
//!
//! The answer's body is read only when a batch is asked for, so a slow pipeline slows the server down through TCP, and
//! nothing is buffered beyond one batch and one unfinished record.
//!
//! Cursor, for server-sent events: `last_event_id` → the id behind which the server is asked to go on.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use millstream_core::units::redact_url;
use millstream_core::{CursorDelta, Result, Source, SourceBatch, SourceRead};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, Url};
use tokio::time::{Instant, timeout, timeout_at};

use super::config::{HttpStreamSourceConfig, HttpStreamSpec, StreamFormat};
use super::documents::{Document, Documents};
use super::events::Events;
use super::lines::{Line, Lines};
use crate::backoff::Reconnect;
use crate::context::SourceContext;
use crate::format::Framing;
use crate::format::framing::too_large;
use crate::http_client::{HttpClient, Outgoing, SERVER_WAIT_MAX, charset, describe, retry_after};
use crate::record_buffer::RecordBuffer;

const LAST_EVENT_ID: &str = "last_event_id";

/// Reads an HTTP answer that does not end; see [`HttpStreamSourceConfig`].
pub struct HttpStreamSource {
    config: HttpStreamSourceConfig,
    context: SourceContext,
    client: HttpClient,
    url: Url,
    method: Method,
    reconnect: Reconnect,
    connection: Connection,
    lines: Lines,
    documents: Documents,
    events: Events,
    /// The id of the last whole event, and whether the cursor has yet to be told.
    last_id: Vec<u8>,
    last_id_changed: bool,
    records: RecordBuffer,
    /// A batch was handed out since the last read: the time until now was the pipeline's, not the server's.
    resumed: bool,
}

enum Connection {
    None,
    /// Kept here, and not in the future of `next`, so that a dropped call does not start it over.
    Connecting(BoxFuture<'static, Result<Response, Refused>>),
    Open {
        response: Box<Response>,
        heard_at: Instant,
        unread: Bytes,
    },
}

/// Why there is no answer to read, and how long the server wants to be left alone.
struct Refused {
    why: String,
    wait: Duration,
}

impl HttpStreamSource {
    /// A source that makes its request at the first `next`.
    ///
    /// # Errors
    /// `Environment`: TLS can't be set up.
    pub fn new(spec: &HttpStreamSpec, context: SourceContext) -> Result<Self> {
        let config = spec.config.clone();
        let mut headers = spec.headers.clone();
        if config.format == StreamFormat::Sse {
            headers.entry(ACCEPT).or_insert(HeaderValue::from_static("text/event-stream"));
        }
        if matches!(&config.body, Some(body) if !body.is_text()) {
            headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        let client = HttpClient::new(headers, None, spec.access())?;
        let max_record = usize::try_from(config.max_record.0).unwrap_or(usize::MAX);
        let last_id = context.cursor.get(LAST_EVENT_ID).map(|id| id.to_vec()).unwrap_or_default();
        // The name of a field comes before an event's data.
        let sse = config.format == StreamFormat::Sse;
        let max_line = if sse { max_record.saturating_add("data: ".len()) } else { max_record };
        Ok(Self {
            client,
            url: spec.url.clone(),
            method: spec.method.clone(),
            reconnect: Reconnect::new(&config.backoff, &context),
            connection: Connection::None,
            lines: Lines::new(max_line, true),
            documents: Documents::default(),
            events: Events::new(max_record, last_id.clone()),
            last_id,
            last_id_changed: false,
            records: RecordBuffer::for_messages(redact_url(config.url.expose()).into(), &context),
            resumed: false,
            context,
            config,
        })
    }

    /// Sends the request and waits for the head of the answer.
    fn connect(&self) -> BoxFuture<'static, Result<Response, Refused>> {
        let method = self.method.clone();
        let body = self.config.body.as_ref().map(|body| body.expose().into_bytes());
        let mut headers = HeaderMap::new();
        if !self.last_id.is_empty()
            && let Ok(id) = HeaderValue::from_bytes(&self.last_id)
        {
            headers.insert("last-event-id", id);
        }
        let (client, url, what) = (self.client.clone(), self.url.clone(), Outgoing { method, headers, body });
        let patience = self.config.stall_timeout.0;
        let clock = self.context.clock.clone();
        async move {
            let refused = |why| Refused { why, wait: Duration::ZERO };
            let response = timeout(patience, client.send(&url, what))
                .await
                .map_err(|_| refused(format!("no answer within {patience:?}")))?
                .map_err(refused)?;
            if response.status().is_success() {
                return Ok(response);
            }
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| retry_after(value, &*clock));
            let why = format!("the server answered {}", response.status());
            Err(Refused { why, wait: wait.unwrap_or_default().min(SERVER_WAIT_MAX) })
        }
        .boxed()
    }

    /// Waits for bytes, then takes what else is there already. Says why where the answer is of no more use.
    async fn read(&mut self) -> Result<(), String> {
        let stall = self.config.stall_timeout.0;
        let Connection::Open { response, heard_at, unread } = &mut self.connection else { return Ok(()) };
        if std::mem::take(&mut self.resumed) {
            *heard_at = Instant::now();
        }
        if unread.is_empty() {
            let chunk = timeout_at(*heard_at + stall, response.chunk())
                .await
                .map_err(|_| format!("nothing came for {stall:?}"))?
                .map_err(describe)?;
            *heard_at = Instant::now();
            match chunk {
                Some(chunk) => *unread = chunk,
                None => return Err(self.end()),
            }
        }
        loop {
            self.take_unread();
            let Connection::Open { response, unread, .. } = &mut self.connection else { return Ok(()) };
            if self.records.is_full() {
                return Ok(());
            }
            match response.chunk().now_or_never() {
                None => return Ok(()),
                Some(Ok(Some(chunk))) => *unread = chunk,
                Some(Ok(None)) => return Err(self.end()),
                Some(Err(e)) => return Err(describe(e)),
            }
        }
    }

    /// Cuts what has come into records, until the batch is full.
    fn take_unread(&mut self) {
        let Connection::Open { unread, .. } = &mut self.connection else { return };
        let mut unread = std::mem::take(unread);
        while !self.records.is_full()
            && let Some(line) = self.lines.next(&mut unread)
        {
            self.take_line(line);
        }
        if let Connection::Open { unread: left, .. } = &mut self.connection {
            *left = unread;
        }
    }

    fn take_line(&mut self, line: Line) {
        match (self.config.format, line) {
            (StreamFormat::Lines, Line::Whole(line)) if line.trim_ascii().is_empty() => return,
            (StreamFormat::Lines, Line::Whole(line)) => self.take_text(&line),
            (StreamFormat::Lines, Line::TooLarge { kept, size }) => {
                self.end_document();
                self.records.push_refused(&kept, too_large(size, self.lines.max_line()));
            }
            (StreamFormat::Sse, line) => {
                let Some(event) = self.events.take(&line) else { return };
                if self.last_id != self.events.id() {
                    self.last_id = self.events.id().to_vec();
                    self.last_id_changed = true;
                }
                let wanted = |kind: &str| self.config.events.is_empty() || self.config.events.iter().any(|e| e == kind);
                match event {
                    Some(event) if wanted(&event.kind) => {
                        self.records.push_event(&event.kind, &self.last_id, &event.data, event.refused);
                    }
                    // A comment is a sign of life.
                    _ => {}
                }
            }
        }
        self.reconnect.worked();
    }

    /// Takes a line: a record, or for JSON a piece of a document that may go on over several lines.
    fn take_text(&mut self, line: &[u8]) {
        if self.context.framing != Framing::Json {
            return self.records.push_message(line);
        }
        let max_record = self.lines.max_line();
        for document in self.documents.push_line(line, max_record) {
            match document {
                Document::Whole(text) => self.records.push_message(&text),
                Document::TooLarge { kept, size } => self.records.push_refused(&kept, too_large(size, max_record)),
            }
        }
    }

    /// What has begun ends here: a document that is not whole is a record that fails.
    fn end_document(&mut self) {
        let rest = self.documents.finish();
        rest.into_iter().for_each(|text| self.records.push_message(&text));
    }

    /// The answer ended, in order: a last line without a line end is a record, an event without its empty line is none.
    fn end(&mut self) -> String {
        if self.config.format == StreamFormat::Lines
            && let Some(line) = self.lines.last()
        {
            self.take_line(line);
        }
        self.end_document();
        "the server ended its answer".into()
    }

    fn disconnect(&mut self, why: &str, wait: Duration) {
        self.connection = Connection::None;
        self.end_document();
        self.lines.clear();
        self.events.clear(&self.last_id);
        self.reconnect.failed(why, wait.max(self.events.retry.min(SERVER_WAIT_MAX)));
    }

    fn take_cursor(&mut self) -> CursorDelta {
        if !std::mem::take(&mut self.last_id_changed) {
            return CursorDelta::new();
        }
        vec![(LAST_EVENT_ID.into(), Some(Bytes::copy_from_slice(&self.last_id)))]
    }
}

#[async_trait]
impl Source for HttpStreamSource {
    async fn next(&mut self) -> Result<SourceRead> {
        loop {
            if !self.records.is_empty() {
                self.resumed = true;
                let (raw, cursor) = (self.records.take(), self.take_cursor());
                return Ok(SourceRead::Batch(SourceBatch { raw, cursor, ack: None }));
            }
            match &mut self.connection {
                Connection::None => {
                    self.reconnect.wait().await;
                    self.connection = Connection::Connecting(self.connect());
                }
                Connection::Connecting(connecting) => match connecting.await {
                    Ok(response) => {
                        // Server-sent events are UTF-8 by definition.
                        let content_type = response.headers().get(CONTENT_TYPE);
                        let named =
                            content_type.filter(|_| self.config.format == StreamFormat::Lines).and_then(charset);
                        self.records.charset = named.map(Into::into);
                        let response = Box::new(response);
                        self.connection = Connection::Open { response, heard_at: Instant::now(), unread: Bytes::new() };
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
