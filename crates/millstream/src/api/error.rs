//! Errors as answers: a status, and JSON that says what happened and what to do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use millstream_core::{Error, ErrorKind};

/// Of a message that repeats what was sent, which may be long.
const MESSAGE_BYTES_MAX: usize = 16 << 10;

/// An error on its way to a client.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    /// An error with that status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl From<Error> for ApiError {
    fn from(e: Error) -> Self {
        let status = match e.kind() {
            ErrorKind::Input | ErrorKind::Config | ErrorKind::TooMuch => StatusCode::BAD_REQUEST,
            ErrorKind::Retry | ErrorKind::Unavailable | ErrorKind::Gone | ErrorKind::Stopped => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            ErrorKind::Environment => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Corruption | ErrorKind::Bug => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, e.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut message = self.message;
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message.push('…');
        }
        (self.status, Json(serde_json::json!({ "error": message }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_that_repeats_a_large_body_is_cut() {
        let answer = ApiError::bad_request("ö".repeat(1 << 20)).into_response();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert!(body.len() < 2 * MESSAGE_BYTES_MAX, "{}", body.len());
    }
}
