//! `millstream sse`: the lines of a file as a stream of events, to try a source of type `http_stream` with.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clap::Args;
use futures::stream;
use millstream_core::{Error, HumanDuration, Result};
use tokio_util::sync::CancellationToken;

use super::asked_to_stop;
use crate::api::connections::ReadByHand;
use crate::api::{self, Guard, listen};

/// A comment goes out this often where there is nothing left to send: the line stays open.
const HEARTBEAT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct SseArgs {
    /// The file; each line is one event.
    file: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8099")]
    listen: String,
    /// Pause between events.
    #[arg(long, default_value = "200ms", value_parser = HumanDuration::parse)]
    pause: HumanDuration,
    /// Hang up after so many events, as real feeds do now and then.
    #[arg(long, value_name = "EVENTS")]
    hang_up_after: Option<usize>,
}

/// What every connection gets.
struct Feed {
    events: Vec<String>,
    pause: Duration,
    hang_up_after: Option<usize>,
}

/// `millstream sse`.
pub async fn run(args: SseArgs) -> Result<()> {
    let wrong = |e: std::io::Error| Error::config(format!("{} can't be read: {e}", args.file.display()));
    let text = std::fs::read_to_string(&args.file).map_err(wrong)?;
    let events: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    let listener = api::bind(&args.listen).await?;
    let address = listener.local_addr()?;
    let guard = Guard::new(&args.listen, address, &[], &[])?;
    tracing::info!(events = events.len(), "http://{address}/stream");
    let feed = Feed { events, pause: args.pause.0, hang_up_after: args.hang_up_after };
    let app = guard.over(axum::Router::new().fallback(serve).with_state(Arc::new(feed)));
    let limits = listen::Limits::default();
    tokio::select! {
        // Connections are open for ever: nobody waits for their end.
        () = asked_to_stop() => Ok(()),
        ended = listen::serve(listener, listen::Plain, app, limits, CancellationToken::new()) => ended,
    }
}

/// The events behind `Last-Event-ID`, which is the number of a line.
async fn serve(State(feed): State<Arc<Feed>>, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.parse::<usize>().ok());
    let begin = (last.map_or(0, |last| last.saturating_add(1)), 0);
    let events = stream::unfold(begin, move |(next, sent)| {
        let feed = feed.clone();
        async move {
            let is_over = next >= feed.events.len();
            if !is_over && feed.hang_up_after.is_some_and(|most| sent >= most) {
                return None;
            }
            if sent > 0 {
                tokio::time::sleep(if is_over { HEARTBEAT } else { feed.pause }).await;
            }
            Some(match feed.events.get(next) {
                Some(event) => (event_bytes(next, event), (next + 1, sent + 1)),
                None => (Ok(Bytes::from_static(b": nothing new\n\n")), (next, sent + 1)),
            })
        }
    });
    let mut answer = ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response();
    // It has no end, and may be read as slowly as one likes.
    answer.extensions_mut().insert(ReadByHand);
    answer
}

fn event_bytes(number: usize, event: &str) -> std::result::Result<Bytes, Infallible> {
    Ok(format!("id: {number}\ndata: {event}\n\n").into())
}
