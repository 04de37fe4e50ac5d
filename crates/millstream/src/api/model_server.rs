//! The server of `millstream serve`: models and their figures, without a pipeline.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millstream_core::{Result, Secret};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::inference::{self, Inference};
use super::{auth, listen, status};
use crate::metrics::Metrics;

/// Serves until `stop` is cancelled, and then until what is under way is answered.
pub async fn serve(
    listener: TcpListener,
    inference: Inference,
    token: Option<Arc<Secret>>,
    guard: Guard,
    stop: CancellationToken,
) -> Result<()> {
    let app = guard.over(router(inference, token));
    listen::serve(listener, listen::Plain, app, listen::Limits::default(), stop).await
}

fn router(inference: Inference, token: Option<Arc<Secret>>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(status::openapi))
        .layer(axum::middleware::from_fn_with_state(token.clone(), auth::require_token));
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .fallback(status::not_found)
        .with_state(inference.clone())
        .merge(inference::router(inference, token))
        .layer(axum::middleware::map_response(super::name_server))
}

async fn readyz(State(inference): State<Inference>) -> Response {
    if inference.is_ready() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response()
    }
}

async fn metrics(State(inference): State<Inference>) -> Response {
    let models = inference.models().into_iter().flatten();
    let models: Vec<_> = models.map(|(name, scorer)| (name.clone(), scorer.model().stats())).collect();
    ([(CONTENT_TYPE, status::OPEN_METRICS)], Metrics::default().text(&models)).into_response()
}
