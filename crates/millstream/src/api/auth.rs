//! The bearer token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use millstream_core::Secret;

use super::error::ApiError;

/// Lets a request through where no token is set, or it carries it.
pub async fn require_token(State(token): State<Option<Arc<Secret>>>, request: Request, next: Next) -> Response {
    match has_token(token.as_deref(), request.headers()) {
        true => next.run(request).await,
        false => refusal(),
    }
}

/// True where no token is set, or the headers carry it.
pub fn has_token(token: Option<&Secret>, headers: &HeaderMap) -> bool {
    let Some(token) = token else { return true };
    let given = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    given.is_some_and(|given| same(given.as_bytes(), token.expose().as_bytes()))
}

/// The answer to who has no token, or a wrong one.
pub fn refusal() -> Response {
    let refused = ApiError::new(StatusCode::UNAUTHORIZED, "send the server's token as `Authorization: Bearer …`");
    ([(WWW_AUTHENTICATE, "Bearer")], refused).into_response()
}

/// Takes the same time wherever the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}
