//! The dead letter queue over HTTP.

use axum::Json;
use axum::extract::{Path, Query, State};
use base64::Engine;
use millstream_core::Stage;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::error::ApiError;
use millstream_engine::dead_letters::summary::{self, Group, Summary};
use millstream_engine::dead_letters::{self, Entry, Filter, Ids, Redrive, RedriveProgress, Redriver, scan};

/// Entries that one answer lists.
const LIST_MAX: usize = 1000;
/// Bytes of a record that a list shows.
const PREVIEW_BYTES: usize = 200;

/// A dead letter as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetterView {
    /// `stream/offset`.
    pub id: String,
    /// Stage that failed.
    pub stage: Stage,
    /// Source, transform, table or sink that failed.
    pub component: String,
    /// Of a transform or table: the relation that it took the record from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Kind of failure.
    pub kind: String,
    /// Why.
    pub message: String,
    /// The record as text, where it is UTF-8; in a list only its beginning.
    pub raw: Option<String>,
    /// The record's bytes in base64, where it is not.
    pub raw_base64: Option<String>,
    /// Its length in bytes.
    pub bytes: usize,
    /// File or stream it came from.
    pub origin: Option<String>,
    /// Where it began there.
    pub position: Option<u64>,
    /// Partition of the stream it was read from.
    pub partition: Option<u32>,
    /// Offset there.
    pub offset: Option<u64>,
    /// Event time, RFC 3339.
    pub event_time: Option<String>,
    /// When it failed, RFC 3339.
    pub failed_at: Option<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// Digest of the pipeline file that ran.
    pub pipeline_version: String,
    /// Model that failed.
    pub model_version: Option<String>,
}

impl DeadLetterView {
    /// A view with at most `bytes_max` bytes of the record.
    pub fn new(entry: &Entry, bytes_max: usize) -> Self {
        let letter = &entry.letter;
        let raw = &letter.raw[..letter.raw.len().min(bytes_max)];
        let text = match std::str::from_utf8(raw) {
            Ok(text) => Some(text),
            // Cut inside a character.
            Err(e) if e.error_len().is_none() => std::str::from_utf8(&raw[..e.valid_up_to()]).ok(),
            Err(_) => None,
        };
        let time = |us: i64| {
            chrono::DateTime::from_timestamp_micros(us).map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
        };
        Self {
            id: entry.id(),
            stage: letter.stage,
            component: letter.component.clone(),
            input: letter.input.clone(),
            kind: letter.kind.clone(),
            message: letter.message.clone(),
            raw: text.map(str::to_owned),
            raw_base64: text.is_none().then(|| base64::engine::general_purpose::STANDARD.encode(raw)),
            bytes: letter.raw.len(),
            origin: letter.origin.clone(),
            position: letter.position,
            partition: letter.partition,
            offset: letter.offset,
            event_time: letter.event_time_us.and_then(time),
            failed_at: time(letter.failed_at_us),
            attempts: letter.attempts,
            pipeline_version: letter.pipeline_version.clone(),
            model_version: letter.model_version.clone(),
        }
    }
}

impl DeadLetterView {
    /// The record's bytes, as far as the view holds them.
    pub fn raw_bytes(&self) -> Vec<u8> {
        let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
        match &self.raw {
            Some(text) => text.clone().into_bytes(),
            None => self.raw_base64.as_ref().map(decode).unwrap_or_default(),
        }
    }
}

/// Which dead letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveRequest {
    /// Ids; empty: all.
    #[serde(default)]
    pub ids: Vec<String>,
    /// Only of this source, transform, table or sink.
    pub component: Option<String>,
    /// Only of this stage.
    pub stage: Option<Stage>,
    /// Only of this kind.
    pub kind: Option<String>,
}

impl RedriveRequest {
    /// As a filter.
    pub fn filter(&self) -> Filter {
        Filter {
            ids: Ids::of(self.ids.iter().map(String::as_str)),
            component: self.component.clone(),
            stage: self.stage,
            kind: self.kind.clone(),
        }
    }
}

/// What to list.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    component: Option<String>,
    stage: Option<Stage>,
    kind: Option<String>,
    limit: Option<usize>,
    /// Also say how many there are in all; that reads the whole queue.
    #[serde(default)]
    count: bool,
}

/// The dead letters that have not been redriven.
pub async fn list(
    State(state): State<ApiState>,
    Query(query): Query<ListQuery>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let filter = Filter { ids: Ids::default(), component: query.component, stage: query.stage, kind: query.kind };
    let limit = query.limit.unwrap_or(LIST_MAX).min(LIST_MAX);
    let (mut letters, mut total) = (Vec::new(), 0_u64);
    // It reads files: other requests go on meanwhile.
    tokio::task::block_in_place(|| {
        for stream in state.running.streams.values() {
            if letters.len() >= limit && !query.count {
                break;
            }
            scan(&stream.log, &state.running.schemas, &filter, &mut |entry| {
                total += 1;
                if letters.len() < limit {
                    letters.push(DeadLetterView::new(&entry, PREVIEW_BYTES));
                }
                query.count || letters.len() < limit
            })?;
        }
        Ok::<_, millstream_core::Error>(())
    })?;
    if letters.is_empty() && !filter.is_open() {
        summary::check(&filter, &groups(&state)?, components(&state))?;
    }
    let mut answer = serde_json::json!({ "dead_letters": letters });
    if query.count {
        answer["total"] = total.into();
    }
    Ok(Json(answer))
}

/// Dead letters counted by component, stage, kind and message.
pub async fn summary(State(state): State<ApiState>) -> Result<Json<serde_json::Value>, ApiError> {
    Ok(Json(serde_json::json!({ "groups": groups(&state)? })))
}

fn groups(state: &ApiState) -> millstream_core::Result<Vec<Group>> {
    tokio::task::block_in_place(|| {
        let mut summary = Summary::default();
        for stream in state.running.streams.values() {
            scan(&stream.log, &state.running.schemas, &Filter::default(), &mut |entry| {
                summary.add(&entry);
                true
            })?;
        }
        Ok(summary.groups())
    })
}

fn components(state: &ApiState) -> impl Iterator<Item = String> {
    state.running.health.views().into_iter().map(|view| view.name)
}

/// Takes dead letters out of the queue for good.
pub async fn discard(
    State(state): State<ApiState>,
    Json(request): Json<RedriveRequest>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let running = &state.running;
    let filter = request.filter();
    let _alone = running.redrive.lock().await;
    let logs: Vec<_> = running.streams.values().map(|stream| stream.log.clone()).collect();
    let discarded = dead_letters::discard(&logs, &running.schemas, &filter).await?;
    if discarded == 0 && !filter.is_open() {
        summary::check(&filter, &groups(&state)?, components(&state))?;
    }
    Ok(Json(serde_json::json!({ "discarded": discarded })))
}

/// One dead letter, whole.
pub async fn show(
    State(state): State<ApiState>,
    Path((stream, offset)): Path<(String, u64)>,
) -> Result<Json<DeadLetterView>, ApiError> {
    let id = format!("{stream}/{offset}");
    let filter = Filter { ids: Ids::of([&*id]), ..Filter::default() };
    let mut found = None;
    if let Some(stream) = state.running.streams.get(stream.as_str()) {
        tokio::task::block_in_place(|| {
            scan(&stream.log, &state.running.schemas, &filter, &mut |entry| {
                found = Some(DeadLetterView::new(&entry, usize::MAX));
                false
            })
        })?;
    }
    found
        .map(Json)
        .ok_or_else(|| ApiError::not_found(format!("no dead letter `{id}`; it may have been redriven or discarded")))
}

/// Resets a progress, however the work ends.
struct Over<'a>(&'a RedriveProgress);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.set(0, 0);
    }
}

/// How far the redrive that is under way is: `{"done": n, "all": n}`, both 0 where there is none.
pub async fn redrive_progress(State(state): State<ApiState>) -> Json<serde_json::Value> {
    let (done, all) = state.running.redrive_progress.get();
    Json(serde_json::json!({ "done": done, "all": all }))
}

/// Sends dead letters back in front of the stage that failed.
pub async fn redrive(
    State(state): State<ApiState>,
    Json(request): Json<RedriveRequest>,
) -> Result<Json<Redrive>, ApiError> {
    let running = &state.running;
    let _alone = running.redrive.lock().await;
    let redriver = Redriver {
        plan: &running.plan,
        streams: &running.streams,
        ingests: &running.ingests,
        schemas: &running.schemas,
    };
    let filter = request.filter();
    let _over = Over(&running.redrive_progress);
    let done = redriver.redrive(&filter, &mut |done, all| running.redrive_progress.set(done, all)).await?;
    if done == Redrive::default() && !filter.is_open() {
        summary::check(&filter, &groups(&state)?, components(&state))?;
    }
    Ok(Json(done))
}
