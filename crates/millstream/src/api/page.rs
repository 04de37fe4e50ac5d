//! A page for people: what runs, how far it is, what to call. It holds no data itself: with a token set, it asks for
//! the token, keeps it for as long as its tab is open (`sessionStorage`), and sends it along as any other client would.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_FRAME_OPTIONS};
use axum::response::{Html, IntoResponse, Response};

use super::{ApiState, auth};

/// What the page may do: speak with this server. A token that is typed into it goes nowhere else.
const POLICY: &str = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                      img-src data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'";

/// The page, for a browser or for whoever has the token; for others the API's refusal.
pub async fn page(State(state): State<ApiState>, headers: HeaderMap) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if !accepts.contains("text/html") && !state.auth.knows(&headers) {
        return auth::refusal();
    }
    let page = Html(include_str!("page.html"));
    let headers = [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, page).into_response()
}
