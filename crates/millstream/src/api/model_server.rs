//! The server of `millstream serve`: models and their figures, without a pipeline.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millstream_core::Result;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::inference::{self, Inference};
use super::tls::Entrance;
use super::{Auth, listen, status};
use millstream_engine::metrics::Metrics;

/// Serves until `stop` is cancelled, and then until what is under way is answered.
pub async fn serve(
    listener: TcpListener,
    entrance: Entrance,
    inference: Inference,
    auth: Auth,
    guard: Guard,
    stop: CancellationToken,
) -> Result<()> {
    let app = guard.over(router(inference, auth));
    listen::serve(listener, entrance, app, listen::Limits::default(), stop).await
}

fn router(inference: Inference, auth: Auth) -> Router {
    let app = routes().with_state(inference.clone()).merge(inference::router(inference));
    auth.over(app).layer(axum::middleware::map_response(super::name_server))
}

/// Those that are not of the models' protocols.
pub(super) fn routes() -> Router<Inference> {
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/openapi.json", get(status::openapi))
        .fallback(status::not_found)
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
