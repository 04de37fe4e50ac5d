//! Health, metrics, and what is running.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millstream_storage::log::DEAD_LETTERS;
use serde_json::{Value, json};

use super::ApiState;
use super::error::ApiError;
use millstream_engine::health::ComponentView;

/// The media type of figures.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Everything is open and running, every model answers, and nothing waits for another system. A pipeline that waits
/// goes on by itself; that it does not do its work now is what whoever watches it wants to know.
/// `?waiting=ok`: for whoever only asks whether records can be sent here, which they can all the same.
pub async fn readyz(State(state): State<ApiState>, Query(asked): Query<Asked>) -> Response {
    let running = &state.running;
    let not_ready = |why: String| (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response();
    if let Some((model, why)) = running.models.out_of_order().first() {
        return not_ready(format!("model `{model}` is out of order: {why}"));
    }
    if let Some(trouble) = running.whereabouts.trouble() {
        return not_ready(trouble);
    }
    let waiting = running.health.waiting();
    if !waiting.is_empty() && asked.waiting.as_deref() != Some("ok") {
        return not_ready(waiting.join("; "));
    }
    if running.is_ready() { "ready\n".into_response() } else { not_ready("starting or stopping".into()) }
}

/// What `/readyz` can be asked.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Asked {
    waiting: Option<String>,
}

/// What every component is doing.
pub async fn components(State(state): State<ApiState>) -> Json<Value> {
    Json(json!({ "components": state.running.health.views().iter().map(component).collect::<Vec<_>>() }))
}

fn component(view: &ComponentView) -> Value {
    let moment = |us: i64| {
        chrono::DateTime::from_timestamp_micros(us).map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    };
    json!({
        "kind": view.kind,
        "name": view.name,
        "state": view.state,
        "reason": view.reason,
        "since": view.since_us.map(moment),
        "attempt": view.attempt,
        "retries": view.retries,
        "last_error": view.last_error.as_ref().map(|e| json!({ "message": e.message, "at": moment(e.at_us) })),
    })
}

/// Prometheus text.
pub async fn metrics(State(state): State<ApiState>) -> Response {
    state.running.take_figures();
    let models = &state.running.models;
    let stats: Vec<_> = models.scorers.iter().map(|(name, scorer)| (name.clone(), scorer.model().stats())).collect();
    (
        [(CONTENT_TYPE, OPEN_METRICS)],
        state.running.metrics.text_with(&stats, |text| super::models::figures(models, text)),
    )
        .into_response()
}

/// The OpenAPI document.
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], super::OPENAPI).into_response()
}

/// Names, places and models.
pub async fn pipeline(State(state): State<ApiState>) -> Json<Value> {
    let running = &state.running;
    let readers: Vec<Value> = running
        .progress
        .readers()
        .iter()
        .map(|reader| {
            let partitions: Vec<Value> = (0..reader.partitions())
                .map(|p| {
                    let end = running.streams.get(&reader.stream).map_or(0, |s| s.log.end_offset(p));
                    json!({ "partition": p, "offset": reader.offset(p), "end": end, "lag": end.saturating_sub(reader.offset(p)) })
                })
                .collect();
            json!({ "reader": reader.reader, "stream": reader.stream, "partitions": partitions })
        })
        .collect();
    let models: Vec<Value> = running
        .models
        .scorers
        .iter()
        .map(|(name, scorer)| json!({ "name": name, "digest": scorer.info().digest, "labels": scorer.info().labels }))
        .collect();
    let pipeline = &running.pipeline;
    Json(json!({
        "pipeline": pipeline.name,
        "version": pipeline.version,
        "ready": running.is_ready(),
        "idle": running.is_idle(),
        "sources": pipeline.sources.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "transforms": pipeline.transforms.iter().map(|t| &t.name).collect::<Vec<_>>(),
        "tables": running.catalog.tables.iter().map(|t| &t.name).collect::<Vec<_>>(),
        "sinks": pipeline.sinks.iter().map(|s| &s.name).collect::<Vec<_>>(),
        "models": models,
        "readers": readers,
    }))
}

/// Streams with their offsets and dead letters.
pub async fn streams(State(state): State<ApiState>) -> Json<Value> {
    let streams: Vec<Value> = state
        .running
        .streams
        .values()
        .map(|stream| {
            let log = &stream.log;
            let partitions: Vec<Value> = (0..stream.plan.partitions)
                .map(|p| json!({ "partition": p, "start": log.start_offset(p), "end": log.end_offset(p) }))
                .collect();
            let dead = log.end_offset(DEAD_LETTERS) - log.start_offset(DEAD_LETTERS);
            json!({ "name": stream.name(), "partitions": partitions, "bytes": log.bytes(), "dead_letters_ever": dead })
        })
        .collect();
    Json(json!({ "streams": streams }))
}

/// Names the way out.
pub async fn not_found() -> ApiError {
    ApiError::not_found("no such path; see /api/v1/openapi.json")
}
