//! Health, metrics, and what is running.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use millstream_storage::log::DEAD_LETTERS;
use serde_json::{Value, json};

use super::ApiState;
use super::error::ApiError;

/// The media type of figures.
pub const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Everything is open and running, and every model answers.
pub async fn readyz(State(state): State<ApiState>) -> Response {
    let broken = state.running.models.out_of_order();
    if let Some((model, why)) = broken.first() {
        let text = format!("not ready: model `{model}` is out of order: {why}\n");
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    if state.running.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

/// Prometheus text.
pub async fn metrics(State(state): State<ApiState>) -> Response {
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
