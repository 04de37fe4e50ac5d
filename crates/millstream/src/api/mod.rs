//! The server: records in, tables and streams out, dead letters, models, metrics and health.
//!
//! It binds to loopback unless told otherwise; with a token set, everything but health asks for `Authorization:
//! Bearer`. [`roles`] says which route asks for which role.

mod audit;
pub mod auth;
mod bodies;
pub mod connections;
mod crowd;
mod dead_letters;
mod error;
mod files;
pub mod guard;
pub mod inference;
pub mod listen;
pub mod model_server;
mod models;
pub mod paced;
mod page;
mod query;
mod records;
pub mod roles;
mod status;
mod tables;
pub mod tap;
pub mod tls;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use millstream_core::{Error, Result};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use millstream_engine::Running;

pub use auth::Auth;
use crowd::Crowd;
pub use dead_letters::{DeadLetterView, RedriveRequest};
pub use guard::Guard;
pub use query::QueryRequest;

/// Answers of each kind that may be read at once; what one of them holds says how many.
const TAPS_MAX: usize = 64;
const QUERIES_MAX: usize = 64;
const ROWS_MAX: usize = 64;
const SCANS_MAX: usize = 8;
/// Of dead letters with all of their bytes.
const WHOLE_MAX: usize = 4;

/// The OpenAPI document of everything below.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What every handler has.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// The pipeline.
    pub running: Arc<Running>,
    /// Who may ask for what.
    pub auth: Auth,
    /// Cancelled when the server goes down: ends endless answers.
    pub stop: CancellationToken,
}

/// Binds the listener, so that a taken port is found before anything runs. `address` is an IP address or a name, and a
/// port: `127.0.0.1:8080`, `localhost:0`.
///
/// # Errors
/// `Config`: it is no address, or not this machine's. `Environment`: it is taken.
pub async fn bind(address: &str) -> Result<TcpListener> {
    let wrong = |why: &str| {
        Error::config(format!("--listen {address}: {why}; write an address and a port, such as 127.0.0.1:8080"))
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("there is no port"))?;
    let port: u16 = port.parse().map_err(|_| wrong("the port is no number up to 65535"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong("there is no address before the port (0.0.0.0 is all of them)"));
    }
    TcpListener::bind((host, port)).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::environment(format!(
            "--listen {address}: another program listens there, perhaps another Millstream: stop it, or choose another \
             port (0 takes a free one)"
        )),
        std::io::ErrorKind::PermissionDenied => {
            Error::environment(format!("--listen {address}: ports below 1024 need more rights: choose another port"))
        }
        std::io::ErrorKind::AddrNotAvailable => wrong("this machine does not have that address"),
        _ => wrong(&format!("it can't be listened on ({e})")),
    })
}

/// Says with each answer who gives it, so that a client knows a Millstream from whatever else may have the port.
pub async fn name_server(mut answer: axum::response::Response) -> axum::response::Response {
    let name = const { axum::http::HeaderValue::from_static(concat!("millstream/", env!("CARGO_PKG_VERSION"))) };
    answer.headers_mut().insert(axum::http::header::SERVER, name);
    answer
}

/// Serves until `stop` is cancelled.
pub async fn serve(listener: TcpListener, entrance: tls::Entrance, state: ApiState, guard: Guard) -> Result<()> {
    let stop = state.stop.clone();
    let app = guard.over(router(state));
    listen::serve(listener, entrance, app, listen::Limits::default(), stop).await
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let models = inference::Inference::of(state.running.models.scorers.clone(), inference::Limits::default());
    let auth = state.auth.clone();
    let app = auth.over(routes().with_state(state).merge(inference::router(models)));
    app.layer(axum::middleware::map_response(name_server))
}

/// The pipeline's own.
fn routes() -> Router<ApiState> {
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/", get(page::page))
        .route("/metrics", get(status::metrics))
        .route("/api/v1/openapi.json", get(status::openapi))
        .route("/api/v1/pipeline", get(status::pipeline))
        .route("/api/v1/components", get(status::components))
        .route("/api/v1/streams", get(status::streams))
        .route("/api/v1/streams/{name}/tap", get(tap::tap).read_by_hand(TAPS_MAX))
        .route("/api/v1/models", get(models::list))
        .route("/api/v1/models/{name}/reload", post(models::reload))
        .route("/api/v1/tables", get(tables::list))
        .route("/api/v1/tables/{name}/rows", get(tables::rows).at_most(ROWS_MAX))
        .route("/api/v1/query", post(query::query).read_by_hand(QUERIES_MAX))
        .route("/api/v1/dlq", get(dead_letters::list).at_most(SCANS_MAX))
        .route("/api/v1/dlq/summary", get(dead_letters::summary).at_most(SCANS_MAX))
        .route("/api/v1/dlq/discard", post(dead_letters::discard))
        .route("/api/v1/dlq/{stream}/{offset}", get(dead_letters::show).at_most(WHOLE_MAX))
        .route("/api/v1/dlq/redrive", get(dead_letters::redrive_progress))
        .route("/api/v1/dlq/redrive", post(dead_letters::redrive))
        // The limit of a body is the source's own, checked where it is read.
        .route("/streams/{name}/records", post(records::push).layer(DefaultBodyLimit::disable()))
        .fallback(status::not_found)
}
