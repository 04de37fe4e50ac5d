//! The Open Inference Protocol v2, as KServe and Triton speak it over HTTP.
//!
//! Source: <https://github.com/kserve/open-inference-protocol>, and Triton's binary tensor data extension.

pub(super) mod wire;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Inference;
use super::admission::{all_good, answered};
use super::refusal::Refusal;
use millstream_core::blocking::with_bytes;
use millstream_engine::scorer::Scorer;

/// Where the JSON of a body ends and binary tensors begin.
const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A model, and perhaps a version of it: its digest.
#[derive(Debug, Deserialize)]
pub struct Asked {
    model: String,
    version: Option<String>,
}

impl Asked {
    fn find<'a>(&self, inference: &'a Inference) -> Result<&'a Scorer, Refusal> {
        let model = inference.choose(Some(&self.model), None)?;
        match &self.version {
            Some(version) if **version != *model.info().digest => {
                let (name, digest) = (&self.model, &model.info().digest);
                Err(Refusal::unknown_model(format!("model `{name}` has no version `{version}`; it has `{digest}`")))
            }
            _ => Ok(model),
        }
    }
}

/// The process answers.
pub async fn live() -> Json<Value> {
    Json(json!({ "live": true }))
}

/// The models are loaded.
pub async fn ready(State(inference): State<Inference>) -> Response {
    let status = if inference.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": inference.is_ready() }))).into_response()
}

/// What this server is.
pub async fn server() -> Json<Value> {
    let extensions = ["binary_tensor_data"];
    Json(json!({ "name": "millstream", "version": env!("CARGO_PKG_VERSION"), "extensions": extensions }))
}

/// The models that there are (the first part of Triton's model repository extension).
pub async fn index(State(inference): State<Inference>) -> Result<Json<Value>, Refusal> {
    let models = inference.models().ok_or_else(Refusal::loading)?;
    let models = models.values().map(Scorer::info);
    let models = models.map(|info| json!({ "name": info.name, "version": info.digest, "state": "READY" }));
    Ok(Json(models.collect()))
}

/// What a model takes and gives.
pub async fn metadata(State(inference): State<Inference>, Path(asked): Path<Asked>) -> Result<Json<Value>, Refusal> {
    Ok(Json(wire::metadata(&asked.find(&inference)?.info())))
}

/// Whether a model answers; there is none that is known and does not.
pub async fn model_ready(State(inference): State<Inference>, Path(asked): Path<Asked>) -> Result<Json<Value>, Refusal> {
    asked.find(&inference)?;
    Ok(Json(json!({ "name": asked.model, "ready": true })))
}

/// Predictions for the texts of a `BYTES` tensor, or for rows of columns.
pub async fn infer(
    State(inference): State<Inference>,
    Path(asked): Path<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let model = asked.find(&inference)?;
    let header_length = match headers.get(HEADER_LENGTH).map(|v| v.to_str().ok().and_then(|v| v.parse().ok())) {
        Some(None) => return Err(Refusal::input("Inference-Header-Content-Length is no number")),
        length => length.flatten(),
    };
    let admitted = inference.read(&headers, body).await?;
    let request = with_bytes(admitted.body.len(), || wire::decode(&admitted.body, header_length, &model.info().reads))?;
    let outputs = wire::outputs(&request, &model.info())?;
    let (answers, receipt) = inference.predict(model, request.inputs.clone()).await?;
    let predictions = all_good(answers)?;
    let answer = wire::encode(&request, &outputs, &model.info(), &predictions)?;
    let body = answered(answer.body, receipt);
    Ok(match answer.header_length {
        None => ([(CONTENT_TYPE, "application/json")], body).into_response(),
        Some(length) => {
            let headers = [(CONTENT_TYPE, "application/octet-stream"), (HEADER_LENGTH, &length.to_string())];
            (headers, body).into_response()
        }
    })
}
