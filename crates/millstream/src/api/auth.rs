//! The bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millstream_core::Secret;

use super::error::ApiError;

/// Lets a request through where no token is set, or it carries it.
pub async fn require_token(State(token): State<Option<Arc<Secret>>>, request: Request, next: Next) -> Response {
    let Some(token) = &token else { return next.run(request).await };
    let given =
        request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    if given.is_some_and(|given| same(given.as_bytes(), token.expose().as_bytes())) {
        return next.run(request).await;
    }
    let refused = ApiError::new(StatusCode::UNAUTHORIZED, "send the server's token as `Authorization: Bearer …`");
    ([(WWW_AUTHENTICATE, "Bearer")], refused).into_response()
}

/// Takes the same time wherever the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}
