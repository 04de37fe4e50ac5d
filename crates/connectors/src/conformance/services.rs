//! Services, for sources: feeds, answers without an end, and WebSockets.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use super::sources::{Record, System, Unsteady};
use super::systems::Held;
use crate::test_server::{Part, answer, chunked, serve};

/// An RSS feed with an entry for each record, the newest first.
pub(super) struct Feed(Service);

/// Server-sent events, each once more for whoever asks behind an earlier one.
pub(super) struct Events(Service);

/// Lines, each sent once.
pub(super) struct Lines(Service);

/// Messages, each sent once.
pub(super) struct Socket(Service);

/// Its records, and its address.
struct Service(Arc<Held>, String);

impl Service {
    async fn start(answers: impl Fn(&Held, &str) -> Vec<Part> + Send + Sync + 'static) -> Self {
        let held = Arc::new(Held::default());
        let of_server = held.clone();
        let (url, _) = serve(move |_, request| match of_server.is_away() {
            true => answer("503 Service Unavailable", &[], "back soon"),
            false => answers(&of_server, request),
        })
        .await;
        Self(held, url)
    }
}

macro_rules! held_by_a_service {
    ($($kind:ident)*) => {
        $(impl Unsteady for $kind {
            fn set_away(&self, is_away: bool) {
                self.0.0.set_away(is_away);
            }

            fn tear(&self) {
                self.0.0.tear();
            }
        })*
    };
}

held_by_a_service!(Feed Events Lines Socket);

#[async_trait]
impl System for Feed {
    async fn start() -> Self {
        let document = |held: &Held, _: &str| {
            let item = |r: &Record| format!("<item><guid>{}</guid><title>{}</title></item>", r.n, "x".repeat(r.bytes));
            let items: String = held.records().iter().rev().map(item).collect();
            let text = format!("<rss version=\"2.0\"><channel><title>News</title>{items}</channel></rss>");
            let mut parts = answer("200 OK", &[], text);
            if let [Part::Bytes(bytes)] = parts.as_mut_slice()
                && held.is_torn_now()
            {
                bytes.truncate(bytes.len() - 60);
            }
            parts
        };
        Self(Service::start(document).await)
    }

    fn settings(&self) -> Value {
        json!({ "type": "feed", "url": self.0.1, "interval": "3ms", "max_body": "64MiB" })
    }

    fn add(&self, records: &[Record]) {
        self.0.0.add(records);
    }

    fn number(&self, record: &[u8]) -> u64 {
        let entry: Value = serde_json::from_slice(record).unwrap();
        entry["id"].as_str().unwrap().parse().unwrap()
    }
}

/// An answer with these pieces, a few in each chunk. Where it is torn, the last is cut off and the connection breaks.
fn pieces(pieces: &[String], is_torn: bool) -> Vec<Part> {
    let mut chunks: Vec<Vec<u8>> =
        pieces.chunks(7.max(pieces.len() / 20)).map(|some| some.concat().into_bytes()).collect();
    if is_torn && let Some(last) = chunks.last_mut() {
        last.truncate(last.len() - 10);
    }
    let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
    chunked(&chunks, !is_torn)
}

fn stream_settings(service: &Service, format: &str) -> Value {
    let backoff = json!({ "initial": "2ms", "max": "10ms" });
    json!({ "type": "http_stream", "url": service.1, "format": format, "backoff": backoff })
}

#[async_trait]
impl System for Events {
    async fn start() -> Self {
        let events = |held: &Held, request: &str| {
            let last =
                request.lines().find_map(|line| line.strip_prefix("last-event-id: ")?.trim().parse::<u64>().ok());
            let records: Vec<Record> = held.records().into_iter().filter(|record| last < Some(record.n)).collect();
            let event = |record: &Record| format!("id: {}\ndata: {}\n\n", record.n, record.text());
            let is_torn = !records.is_empty() && held.is_torn_now();
            pieces(&records.iter().map(event).collect::<Vec<_>>(), is_torn)
        };
        Self(Service::start(events).await)
    }

    fn settings(&self) -> Value {
        stream_settings(&self.0, "sse")
    }

    fn add(&self, records: &[Record]) {
        self.0.0.add(records);
    }
}

#[async_trait]
impl System for Lines {
    async fn start() -> Self {
        let lines = |held: &Held, _: &str| {
            let mut lines = Vec::new();
            while let Some(record) = held.next() {
                lines.push(record.text() + "\n");
                if held.is_torn_now() {
                    // It will come again.
                    return pieces(&lines, true);
                }
                held.has_sent();
            }
            pieces(&lines, false)
        };
        Self(Service::start(lines).await)
    }

    fn settings(&self) -> Value {
        stream_settings(&self.0, "lines")
    }

    fn add(&self, records: &[Record]) {
        self.0.0.add(records);
    }
}

#[async_trait]
impl System for Socket {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let held = Arc::new(Held::default());
        let of_server = held.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                // The source has one connection; the next one comes when that is over.
                talk(socket, &of_server).await;
            }
        });
        Self(Service(held, url))
    }

    fn settings(&self) -> Value {
        json!({ "type": "websocket", "url": self.0.1, "backoff": { "initial": "2ms", "max": "10ms" } })
    }

    fn add(&self, records: &[Record]) {
        self.0.0.add(records);
    }
}

/// Sends what there is, and then what comes, until the connection is over.
async fn talk(socket: TcpStream, held: &Held) {
    if held.is_away() {
        return;
    }
    let Ok(mut client) = accept_async(socket).await else { return };
    loop {
        let Some(record) = held.next().filter(|_| !held.is_away()) else {
            match tokio::time::timeout(Duration::from_millis(2), client.next()).await {
                Err(_) if !held.is_away() => continue,
                _ => return,
            }
        };
        if held.is_torn_now() {
            // A frame of 100 bytes, of which three come.
            let _ = client.into_inner().write_all(b"\x81\x64{\"n").await;
            return;
        }
        if client.send(Message::text(record.text())).await.is_err() {
            return;
        }
        held.has_sent();
        while record.is_over && matches!(client.next().await, Some(Ok(_))) {}
        if record.is_over {
            return;
        }
    }
}
