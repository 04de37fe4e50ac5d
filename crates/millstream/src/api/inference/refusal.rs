//! What a client gets instead of an answer.

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use millstream_core::{Error, ErrorKind, Failure, FailureKind};

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The request is not of the protocol.
    Input,
    /// There is no such model.
    UnknownModel,
    /// No answer can be of the type that the client accepts.
    NotAcceptable,
    /// The body, or the number of texts.
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    /// The body is of a type that nobody here reads.
    UnsupportedType,
    /// The model fails on one of the texts; the others might go through.
    Text,
    /// Too much is waiting.
    Overloaded,
    /// Models are being loaded.
    Loading,
    /// The model gives no answer now; it may later.
    Unavailable,
    /// The model gives no answer, and asking again would not help.
    Model,
}

/// A refused request: why, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Reason::Input, message)
    }

    pub fn unknown_model(message: impl Into<String>) -> Self {
        Self::new(Reason::UnknownModel, message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(Reason::TooLarge, message)
    }

    pub fn loading() -> Self {
        Self::new(Reason::Loading, "the model is being loaded; ask again in a moment")
    }

    /// The model failed on text number `index` (from 0).
    pub fn text(index: usize, failure: &Failure) -> Self {
        let reason = if failure.kind == FailureKind::Timeout { Reason::Unavailable } else { Reason::Text };
        Self::new(reason, format!("text {}: {}", index + 1, failure.message))
    }

    /// The model as a whole gave no answer.
    pub fn model_error(kind: ErrorKind, message: impl Into<String>) -> Self {
        let reason = match kind {
            ErrorKind::Retry | ErrorKind::Unavailable => Reason::Unavailable,
            ErrorKind::Input => Reason::Text,
            _ => Reason::Model,
        };
        Self::new(reason, message)
    }

    /// The status that HTTP has for it; SageMaker containers and KServe use it as it is.
    pub fn status(&self) -> StatusCode {
        match self.reason {
            Reason::Input | Reason::Text => StatusCode::BAD_REQUEST,
            Reason::UnknownModel => StatusCode::NOT_FOUND,
            Reason::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Reason::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Reason::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Reason::UnsupportedType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Reason::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Reason::Loading | Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Reason::Model => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// An answer of that status and body, with `Retry-After` where asking again is worth it.
    pub fn respond(&self, status: StatusCode, body: serde_json::Value) -> Response {
        match self.reason {
            Reason::Overloaded | Reason::Loading | Reason::Unavailable => {
                (status, [(RETRY_AFTER, "1")], Json(body)).into_response()
            }
            _ => (status, Json(body)).into_response(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(e: Error) -> Self {
        Self::model_error(e.kind(), e.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.respond(self.status(), serde_json::json!({ "error": self.message }))
    }
}
