//! The contract of containers on SageMaker: `GET /ping`, `POST /invocations`.
//!
//! Source: "Use Your Own Inference Code with Hosting Services", Amazon SageMaker AI Developer Guide.

pub(super) mod wire;

pub use wire::ranked;

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::admission::answered;
use super::refusal::Refusal;
use super::{Inference, model_of_query};
use millstream_core::blocking::with_bytes;

/// What a client tells the container beside the body, and the container the client.
const CUSTOM_ATTRIBUTES: HeaderName = HeaderName::from_static("x-amzn-sagemaker-custom-attributes");

/// Whether requests are answered.
pub async fn ping(State(inference): State<Inference>) -> Response {
    match inference.is_ready() {
        true => StatusCode::OK.into_response(),
        false => Refusal::loading().into_response(),
    }
}

/// Predictions for the texts of the body, in the type that the client accepts.
pub async fn invocations(
    State(inference): State<Inference>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let name = header(CUSTOM_ATTRIBUTES).and_then(wire::model_of_attributes).map(str::to_owned);
    let name = name.or_else(|| model_of_query(query.as_deref()));
    let model = inference.choose(name.as_deref(), None)?;
    let format = wire::body_format(header(CONTENT_TYPE))?;
    let answer_format = wire::accepted_format(header(ACCEPT), format)?;
    let admitted = inference.read(&headers, body).await?;
    let (texts, envelope) =
        with_bytes(admitted.body.len(), || wire::decode(format, &admitted.body, &model.info().reads))?;
    let (answers, receipt) = inference.predict(model, texts).await?;
    let body = wire::encode(answer_format, envelope, &model.info().labels, &answers)?;
    let attributes = wire::attributes(receipt.scored_by());
    Ok(([(CONTENT_TYPE, answer_format.media_type()), (CUSTOM_ATTRIBUTES, &attributes)], answered(body, receipt))
        .into_response())
}
