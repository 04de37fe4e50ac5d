//! The API of Hugging Face's Text Embeddings Inference: `POST /embed`, `POST /predict`, `GET /info`, `GET /health`.
//!
//! Source: its OpenAPI document. Errors are `{"error", "error_type"}`: 400 `Empty`, 413 `Validation`, 422 `Tokenizer`
//! (and what can't be read), 424 `Backend`, 429 `Overloaded`, 503 `Unhealthy`.

pub(super) mod wire;

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use millstream_models::Task;
use serde_json::json;

use super::admission::{Receipt, all_good, answered};
use super::refusal::{Reason, Refusal};
use super::{Inference, model_of_query};
use millstream_core::blocking::with_bytes;

/// A refusal as this API says it.
#[derive(Debug)]
pub struct TeiRefusal(Refusal);

impl From<Refusal> for TeiRefusal {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl IntoResponse for TeiRefusal {
    fn into_response(self) -> Response {
        let (status, error_type) = match self.0.reason {
            Reason::Input if self.0.message == wire::EMPTY => (StatusCode::BAD_REQUEST, "Empty"),
            Reason::Input | Reason::Text => (StatusCode::UNPROCESSABLE_ENTITY, "Tokenizer"),
            Reason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Validation"),
            Reason::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "Overloaded"),
            Reason::Loading | Reason::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Unhealthy"),
            Reason::Model => (StatusCode::FAILED_DEPENDENCY, "Backend"),
            Reason::UnknownModel | Reason::NotAcceptable | Reason::UnsupportedType | Reason::TooSlow => {
                (self.0.status(), "Validation")
            }
        };
        self.0.respond(status, json!({ "error": self.0.message, "error_type": error_type }))
    }
}

/// Whether requests are answered.
pub async fn health(State(inference): State<Inference>) -> Response {
    match inference.is_ready() {
        true => StatusCode::OK.into_response(),
        false => TeiRefusal(Refusal::loading()).into_response(),
    }
}

/// What a model is.
pub async fn info(
    State(inference): State<Inference>,
    RawQuery(query): RawQuery,
) -> Result<Json<serde_json::Value>, TeiRefusal> {
    let model = inference.choose(model_of_query(query.as_deref()).as_deref(), None)?;
    Ok(Json(wire::info(&model.info())))
}

/// Embeddings of texts.
pub async fn embed(
    State(inference): State<Inference>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, TeiRefusal> {
    let model = inference.choose(model_of_query(query.as_deref()).as_deref(), Some(Task::Embedding))?;
    let admitted = inference.read(&headers, body).await?;
    let request = with_bytes(admitted.body.len(), || wire::decode_embed(&admitted.body))?;
    let (answers, receipt) = inference.predict(model, request.texts.iter().cloned().map(Into::into).collect()).await?;
    let predictions = all_good(answers)?;
    as_json(wire::encode_embed(&request, predictions)?, receipt)
}

/// Labels of texts with their scores, the highest first.
pub async fn predict(
    State(inference): State<Inference>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, TeiRefusal> {
    let model = inference.choose(model_of_query(query.as_deref()).as_deref(), Some(Task::TextClassification))?;
    let admitted = inference.read(&headers, body).await?;
    let request = with_bytes(admitted.body.len(), || wire::decode_predict(&admitted.body))?;
    let (answers, receipt) = inference.predict(model, request.texts.iter().cloned().map(Into::into).collect()).await?;
    let predictions = all_good(answers)?;
    as_json(wire::encode_predict(&request, &model.info().labels, &predictions)?, receipt)
}

fn as_json(body: Vec<u8>, receipt: Receipt) -> Result<Response, TeiRefusal> {
    Ok(([(CONTENT_TYPE, "application/json")], answered(body, receipt)).into_response())
}
