//! `GET /api/v1/streams/{name}/tap`: the records of a stream as they come, one JSON object a line.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use millstream_core::{Error, Result};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::error::ApiError;
use crate::pipeline::streams::{Stream, StreamBatch};
use crate::render::tap_lines;

const READ_BYTES: usize = 128 << 10;

/// Where to begin and when to end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapQuery {
    /// `latest` (default), `earliest`, or an offset.
    #[serde(default)]
    from: Option<String>,
    /// End after so many records.
    #[serde(default)]
    limit: Option<u64>,
    /// Go on with what comes later (default), or end with what is there.
    #[serde(default)]
    follow: Option<bool>,
}

/// Answers with `{"partition": …, "offset": …, "record": {…}}` a line.
pub async fn tap(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    Query(query): Query<TapQuery>,
) -> Result<Response, ApiError> {
    let Some(stream) = state.running.streams.get(name.as_str()).cloned() else {
        let known: Vec<&str> = state.running.streams.keys().map(|k| &**k).collect();
        return Err(ApiError::not_found(format!(
            "no stream `{name}`; streams: {} (a transform is a stream of its own once a sink reads it)",
            known.join(", ")
        )));
    };
    let mut offsets = Vec::new();
    for partition in 0..stream.plan.partitions {
        let (start, end) = (stream.log.start_offset(partition), stream.log.end_offset(partition));
        offsets.push(match query.from.as_deref() {
            None | Some("latest") => end,
            Some("earliest") => start,
            Some(offset) => {
                let offset: u64 =
                    offset.parse().map_err(|_| ApiError::bad_request("`from` is `earliest`, `latest` or an offset"))?;
                offset.clamp(start, end)
            }
        });
    }
    let (lines, body) = mpsc::channel::<Result<Bytes>>(16);
    let tap = Tap {
        stream: Arc::new(stream),
        offsets,
        left: query.limit.unwrap_or(u64::MAX),
        lines,
        stop: state.stop.clone(),
    };
    tokio::spawn(tap.run(query.follow.unwrap_or(true)));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(ReceiverStream::new(body))).into_response())
}

struct Tap {
    stream: Arc<Stream>,
    offsets: Vec<u64>,
    left: u64,
    lines: mpsc::Sender<Result<Bytes>>,
    stop: CancellationToken,
}

impl Tap {
    async fn run(mut self, follow: bool) {
        // A client that went away closes the channel: that ends the tap.
        while self.left > 0 && !self.lines.is_closed() {
            match self.advance().await {
                Ok(true) => {}
                Ok(false) if !follow => return,
                Ok(false) => tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.lines.closed() => return,
                    () = self.more() => {}
                },
                Err(e) => {
                    let _ = self.lines.send(Err(e)).await;
                    return;
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<bool> {
        let mut moved = false;
        for partition in 0..self.offsets.len() {
            let batches = self.stream.read(partition as u32, self.offsets[partition], READ_BYTES)?;
            for batch in batches {
                moved = true;
                self.offsets[partition] = batch.end_offset();
                if batch.target.is_none() {
                    self.send(batch).await?;
                }
            }
        }
        Ok(moved)
    }

    async fn send(&mut self, mut batch: StreamBatch) -> Result<()> {
        let rows = batch.batch.num_rows().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        batch.batch = batch.batch.slice(0, rows);
        self.left -= rows as u64;
        let gone = |_| Error::retry("the client went away");
        self.lines.send(Ok(tap_lines(&batch)?.into())).await.map_err(gone)
    }

    async fn more(&self) {
        let changed =
            self.offsets.iter().enumerate().map(|(p, &offset)| Box::pin(self.stream.log.changed(p as u32, offset)));
        let _ = futures::future::select_all(changed).await;
    }
}
