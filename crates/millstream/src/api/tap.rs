//! `GET /api/v1/streams/{names}/tap`: records as they come, one JSON object a line.
//!
//! Sources, change streams and transforms that a sink reads are stored: they are read from their logs, at the reader's
//! own speed, and from wherever it likes. Any other transform is watched ([`millstream_engine::watch`]): from now on,
//! and what the reader is too slow for is missed, and counted. Either way a record is seen when it is committed, not
//! before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::SchemaRef;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use millstream_core::json::RowWriter;
use millstream_core::{Error, Result};
use millstream_sql::Predicate;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::error::ApiError;
use millstream_core::names::nearest;
use millstream_engine::Running;
use millstream_engine::plan::changes_name;
use millstream_engine::streams::{Stream, StreamReader, is_visible};
use millstream_engine::watch::Watch;

const READ_BYTES: usize = 128 << 10;
/// Bytes of rows, as they are in memory, that are written at once; and pieces that wait for the reader.
const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 2;
/// Streams and transforms that one tap shows at most.
const NAMES_MAX: usize = 32;

/// Where to begin, what to show, and when to end.
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
    /// Only the records for which this SQL condition is true.
    #[serde(default, rename = "where")]
    condition: Option<String>,
}

/// Answers with `{"name": …, "partition": …, "offset": …, "record": {…}}` a line. Another line may be `{"name": …,
/// "missed": …}`, a number of records that came faster than they were read, or `{"name": …, "partition": …, "removed":
/// …}`, a number of those that retention took before they were read; and the last one `{"error": …}`.
pub async fn tap(
    State(state): State<ApiState>,
    Path(names): Path<String>,
    Query(query): Query<TapQuery>,
) -> Result<Response, ApiError> {
    let names: Vec<&str> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(ApiError::bad_request(format!("name 1 to {NAMES_MAX} streams or transforms")));
    }
    let follow = query.follow.unwrap_or(true);
    let origins =
        names.iter().map(|name| origin(&state.running, name, &query, follow)).collect::<Result<Vec<_>, _>>()?;
    let filters = origins.iter().map(|o| o.filter(query.condition.as_deref())).collect::<Result<Vec<_>, _>>()?;
    let (lines, body) = mpsc::channel::<Result<Bytes>>(PIECES);
    let left = Arc::new(Left::new(query.limit.unwrap_or(u64::MAX)));
    for (origin, predicate) in origins.into_iter().zip(filters) {
        let (name, stop) = (origin.name(), state.stop.clone());
        let out = Out { name, predicate, left: left.clone(), lines: lines.clone(), stop };
        tokio::spawn(run(origin, out, follow));
    }
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(ReceiverStream::new(body))).into_response())
}

/// Where records come from.
enum Origin {
    Stored { stream: Arc<Stream>, readers: Vec<StreamReader> },
    Watched { name: Arc<str>, schema: SchemaRef, watch: Watch },
}

impl Origin {
    fn name(&self) -> Arc<str> {
        match self {
            Self::Stored { stream, .. } => stream.name().clone(),
            Self::Watched { name, .. } => name.clone(),
        }
    }

    fn filter(&self, condition: Option<&str>) -> Result<Option<Predicate>, ApiError> {
        let schema = match self {
            Self::Stored { stream, .. } => &stream.plan.schema,
            Self::Watched { schema, .. } => schema,
        };
        let compiled = condition.map(|condition| Predicate::compile(condition, schema)).transpose();
        compiled.map_err(|e| ApiError::bad_request(format!("the condition does not fit `{}`: {e}", self.name())))
    }
}

/// The stored stream or the transform of that name; a table's name stands for its change stream.
fn origin(running: &Running, name: &str, query: &TapQuery, follow: bool) -> Result<Origin, ApiError> {
    let changes = changes_name(name);
    let is_table = running.pipeline.table(name).is_some();
    let stream = running.streams.get(if is_table { &*changes } else { name });
    if let Some(stream) = stream.filter(|stream| is_visible(stream.plan.kind)) {
        let readers = readers(stream, query.from.as_deref())?;
        return Ok(Origin::Stored { stream: Arc::new(stream.clone()), readers });
    }
    let Some(transform) = running.pipeline.transforms.iter().find(|t| &*t.name == name) else {
        return Err(ApiError::not_found(unknown(name, &names_of(running))));
    };
    let from_now = query.from.as_deref().is_none_or(|from| from == "latest");
    if !from_now || !follow {
        return Err(ApiError::bad_request(format!(
            "the rows of `{name}` are not stored, since no sink reads it: it can only be watched from now on. \
             Leave out where to begin, and to end with what is there"
        )));
    }
    let watch = running.watchers.watch(&transform.name);
    Ok(Origin::Watched { name: transform.name.clone(), schema: transform.schema.clone(), watch })
}

fn readers(stream: &Stream, from: Option<&str>) -> Result<Vec<StreamReader>, ApiError> {
    let offset = match from {
        None | Some("latest" | "earliest") => None,
        Some(offset) => {
            let wrong = |_| ApiError::bad_request("`from` is `earliest`, `latest` or an offset");
            Some(offset.parse::<u64>().map_err(wrong)?)
        }
    };
    let of = |partition| {
        let (start, end) = (stream.log.start_offset(partition), stream.log.end_offset(partition));
        match (offset, from) {
            // One below the start is said to be by the reader.
            (Some(offset), _) => offset.min(end),
            (None, Some("earliest")) => start,
            (None, _) => end,
        }
    };
    let reader = |partition| stream.reader(partition, of(partition)).map_err(ApiError::from);
    (0..stream.plan.partitions).map(reader).collect()
}

fn names_of(running: &Running) -> Vec<String> {
    let stored = running.streams.values().filter(|s| is_visible(s.plan.kind)).map(|s| s.name().to_string());
    let mut names: Vec<String> = stored.chain(running.pipeline.transforms.iter().map(|t| t.name.to_string())).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// What to say where there is no `name` among `known`.
pub fn unknown(name: &str, known: &[String]) -> String {
    let nearest = nearest(name, known.iter().map(String::as_str));
    let meant = nearest.map_or(String::new(), |nearest| format!("did you mean `{nearest}`? "));
    format!("no stream or transform `{name}`: {meant}There is {}", known.join(", "))
}

/// What a limit has left, for all names together.
struct Left {
    /// Rows that may still be taken.
    rows: AtomicU64,
    /// Rows that must still be sent.
    unsent: AtomicU64,
    /// Cancelled when the last one has been sent.
    over: CancellationToken,
}

impl Left {
    fn new(limit: u64) -> Self {
        Self { rows: AtomicU64::new(limit), unsent: AtomicU64::new(limit), over: CancellationToken::new() }
    }

    /// Takes as many of `rows` as may still be shown.
    fn take(&self, rows: usize) -> usize {
        let rows = rows as u64;
        let before = self.rows.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| Some(left - left.min(rows)));
        before.map_or(0, |left| left.min(rows)) as usize
    }

    /// Says that so many that were taken have been sent.
    fn sent(&self, rows: usize) {
        let rows = rows as u64;
        if self.unsent.fetch_sub(rows, Ordering::AcqRel) == rows {
            self.over.cancel();
        }
    }
}

/// Where records go.
struct Out {
    name: Arc<str>,
    predicate: Option<Predicate>,
    left: Arc<Left>,
    lines: mpsc::Sender<Result<Bytes>>,
    stop: CancellationToken,
}

async fn run(origin: Origin, out: Out, follow: bool) {
    if out.left.rows.load(Ordering::Acquire) == 0 {
        return;
    }
    let (stop, over, lines) = (out.stop.clone(), out.left.over.clone(), out.lines.clone());
    let shown = async {
        match origin {
            Origin::Stored { stream, readers } => stored(&stream, readers, &out, follow).await,
            Origin::Watched { mut watch, .. } => watched(&mut watch, &out).await,
        }
    };
    // A client that went away closes the channel: that ends the tap.
    let ended = tokio::select! {
        biased;
        () = over.cancelled() => return,
        () = lines.closed() => return,
        () = stop.cancelled(), if follow => return,
        ended = shown => ended,
    };
    if let Err(e) = ended {
        let _ = lines.send(Ok(format!("{}\n", json!({ "error": e.to_string() })).into())).await;
    }
}

async fn stored(stream: &Stream, mut readers: Vec<StreamReader>, out: &Out, follow: bool) -> Result<()> {
    loop {
        let mut moved = false;
        for (partition, reader) in readers.iter_mut().enumerate() {
            let batches = reader.read(READ_BYTES).await?;
            let removed = reader.skipped();
            if removed > 0 {
                let said = json!({ "name": out.name, "partition": partition, "removed": removed });
                out.line(format!("{said}\n").into()).await?;
            }
            for batch in batches {
                moved = true;
                // Redriven rows are for one step only; they were here before.
                if batch.target.is_none() {
                    let rows: Vec<u64> = (batch.base_offset..batch.end_offset()).collect();
                    let batch = Shown { partition: batch.partition, offsets: rows, rows: batch.batch };
                    out.send(batch).await?;
                }
            }
        }
        if !moved && !follow {
            return Ok(());
        }
        if !moved {
            let changed = readers.iter().enumerate().map(|(p, r)| Box::pin(stream.log.changed(p as u32, r.position())));
            let _ = futures::future::select_all(changed).await;
        }
    }
}

async fn watched(watch: &mut Watch, out: &Out) -> Result<()> {
    while let Some(seen) = watch.next().await {
        let batch = Shown { partition: seen.partition, offsets: seen.offsets, rows: seen.batch };
        out.send(batch).await?;
        let missed = watch.missed();
        if missed > 0 {
            out.line(format!("{}\n", json!({ "name": out.name, "missed": missed })).into()).await?;
        }
    }
    Ok(())
}

struct Shown {
    partition: u32,
    offsets: Vec<u64>,
    rows: RecordBatch,
}

impl Out {
    async fn send(&self, batch: Shown) -> Result<()> {
        let (offsets, rows) = kept(self.predicate.as_ref(), batch.offsets, batch.rows)?;
        let room = self.left.take(rows.num_rows());
        if room == 0 {
            return Ok(());
        }
        let at_once = (room * PIECE_BYTES).checked_div(rows.get_array_memory_size()).unwrap_or(room).clamp(1, room);
        for first in (0..room).step_by(at_once) {
            let end = (first + at_once).min(room);
            let lines = lines(&self.name, batch.partition, &offsets[first..end], &rows.slice(first, end - first))?;
            self.line(lines.into()).await?;
            self.left.sent(end - first);
        }
        Ok(())
    }

    async fn line(&self, line: Bytes) -> Result<()> {
        self.lines.send(Ok(line)).await.map_err(|_| Error::retry("the client went away"))
    }
}

/// The rows that meet a condition, with their offsets.
pub fn kept(predicate: Option<&Predicate>, offsets: Vec<u64>, rows: RecordBatch) -> Result<(Vec<u64>, RecordBatch)> {
    let Some(predicate) = predicate else { return Ok((offsets, rows)) };
    let mask = predicate.evaluate(&rows)?;
    let offsets = filter(&arrow::array::UInt64Array::from(offsets), &mask)?;
    let offsets = arrow::array::AsArray::as_primitive::<arrow::datatypes::UInt64Type>(&offsets).values().to_vec();
    Ok((offsets, filter_record_batch(&rows, &mask)?))
}

/// Rows as `{"name": …, "partition": …, "offset": …, "record": {…}}` lines.
pub fn lines(name: &str, partition: u32, offsets: &[u64], rows: &RecordBatch) -> Result<Vec<u8>> {
    use std::io::Write as _;
    let writer = RowWriter::bind(rows)?;
    let mut lines = Vec::new();
    let name = json!(name);
    for (row, offset) in offsets.iter().enumerate() {
        write!(lines, r#"{{"name":{name},"partition":{partition},"offset":{offset},"record":"#)?;
        writer.write(row, &mut lines);
        lines.extend_from_slice(b"}\n");
    }
    Ok(lines)
}
