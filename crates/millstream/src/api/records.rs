//! `POST /streams/{name}/records`: answered when the records are durable.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use millstream_connectors::http::charset;
use millstream_core::Headers;

use super::ApiState;
use super::bodies::{self, Unread};
use super::error::ApiError;
use millstream_engine::push::Pushed;

/// Header by which a client makes a request safe to repeat.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// How long a piece of a body waits for memory.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// One record, a JSON array, or several records; see `docs/decoding.md`. The body may be gzip.
pub async fn push(
    State(state): State<ApiState>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let running = &state.running;
    if !running.pushes.contains_key(name.as_str()) {
        let known: Vec<&str> = running.pushes.keys().map(|k| &**k).collect();
        let hint = if known.is_empty() {
            "the pipeline has no source of type http".into()
        } else {
            format!("sources of type http: {}", known.join(", "))
        };
        return Err(ApiError::not_found(format!("no source `{name}` takes records over HTTP; {hint}")));
    }
    let key = match headers.get(IDEMPOTENCY_KEY).map(|v| v.to_str()) {
        Some(Ok(key)) if !key.is_empty() && key.len() <= 255 => Some(key.to_owned()),
        Some(_) => return Err(ApiError::bad_request("Idempotency-Key: 1 to 255 visible ASCII characters")),
        None => None,
    };
    if !running.is_ready() {
        let refused = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the pipeline is stopping; send this again later");
        return Ok(([(RETRY_AFTER, "1")], refused).into_response());
    }
    if let Some(trouble) = running.whereabouts.trouble() {
        return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, trouble));
    }
    let charset = headers.get(CONTENT_TYPE).and_then(charset);
    let is_gzip = is_gzip(&headers)?;
    let kept = running.pushes.get(name.as_str()).map(|push| kept(&headers, &push.spec().headers)).unwrap_or_default();
    // Spawned, so that a client that goes away does not leave a half-told story: what was begun is finished.
    let running = running.clone();
    let pushed = tokio::spawn(async move {
        let Some(push) = running.pushes.get(name.as_str()) else { return Err(too_much()) };
        if let Some(shortage) = push.disk_shortage() {
            return Err(ApiError::new(StatusCode::INSUFFICIENT_STORAGE, format!("{shortage}; send this again later")));
        }
        let Some(mut share) = push.room() else { return Err(too_much()) };
        let limit = push.spec().body_bytes_max;
        let mut body = bodies::read(body, limit, &mut share, ROOM_WAIT).await.map_err(unread)?;
        if is_gzip {
            (body, share) = bodies::unpack(body, limit, share).await.map_err(unread)?;
        }
        let pushed = push.push(body, charset.as_deref(), key.as_deref(), kept).await;
        drop(share);
        Ok(pushed?)
    });
    let pushed = match pushed.await {
        Ok(Ok(pushed)) => pushed,
        Ok(Err(refused)) if refused.status() == StatusCode::TOO_MANY_REQUESTS => {
            return Ok(([(RETRY_AFTER, "1")], refused).into_response());
        }
        Ok(Err(refused)) if refused.status() == StatusCode::INSUFFICIENT_STORAGE => {
            return Ok(([(RETRY_AFTER, "10")], refused).into_response());
        }
        Ok(Err(refused)) => return Err(refused),
        Err(e) => return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    };
    Ok(match pushed {
        Pushed::Stored(stored) if stored.accepted == 0 && !stored.rejected.is_empty() => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(stored)).into_response()
        }
        Pushed::Stored(stored) => (StatusCode::OK, Json(stored)).into_response(),
        Pushed::Malformed(message) => ApiError::bad_request(message).into_response(),
        Pushed::KeyReused => ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "this Idempotency-Key was used for a request with another body: nothing of this one is stored; send it \
             with a key of its own",
        )
        .into_response(),
        Pushed::InProgress => {
            let refused = ApiError::new(
                StatusCode::CONFLICT,
                "a request with this Idempotency-Key is under way; send it again later",
            );
            ([(RETRY_AFTER, "1")], refused).into_response()
        }
    })
}

fn too_much() -> ApiError {
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too many records are waiting; send this again later")
}

/// The headers called as in `names`; those of one name joined, as RFC 9110 (section 5.3) allows.
fn kept(headers: &HeaderMap, names: &[Arc<str>]) -> Headers {
    let value = |name: &Arc<str>| {
        let values: Vec<&[u8]> = headers.get_all(&**name).iter().map(HeaderValue::as_bytes).collect();
        (!values.is_empty()).then(|| (name.clone(), Bytes::from(values.join(&b", "[..]))))
    };
    names.iter().filter_map(value).collect()
}

/// Whether the body is compressed.
fn is_gzip(headers: &HeaderMap) -> Result<bool, ApiError> {
    let encodings: Vec<&str> = headers.get_all(CONTENT_ENCODING).iter().map(|v| v.to_str().unwrap_or("?")).collect();
    let named = encodings.iter().flat_map(|list| list.split(',')).map(str::trim);
    match named.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity")).collect::<Vec<_>>()[..] {
        [] => Ok(false),
        [name] if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => Ok(true),
        _ => Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Encoding: only gzip is understood, and only once; send the body in gzip or as it is",
        )),
    }
}

fn unread(why: Unread) -> ApiError {
    match why {
        Unread::NoRoom => too_much(),
        Unread::TooLarge(limit) => {
            let message = format!("the body is larger than {limit} bytes (`max_body` of the source)");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
        }
        Unread::TooSlow(why) => ApiError::new(StatusCode::REQUEST_TIMEOUT, why),
        Unread::Broken(why) => ApiError::bad_request(why),
    }
}
