//! Models for other systems: one model server in three protocols, in every running pipeline and in `millstream serve`.
//!
//! | who asks | routes |
//! |---|---|
//! | SageMaker (container contract) | `GET /ping`, `POST /invocations` |
//! | KServe, Triton (Open Inference Protocol v2) | `/v2`, `/v2/health/…`, `/v2/models/…` |
//! | Hugging Face TEI | `POST /embed`, `POST /predict`, `GET /info`, `GET /health` |
//!
//! Each protocol has a pure `wire` (bytes to texts or [`rows`], predictions to bytes) and handlers around it;
//! [`admission`] bounds what is held at once, [`refusal`] is what a client gets instead of an answer. A request goes
//! the same way as the records of the pipeline: through the [`Scorer`] of its model.

mod admission;
#[cfg(fuzzing)]
mod fuzz;
mod kserve;
mod refusal;
mod rows;
mod sagemaker;
mod tei;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use millstream_models::Task;
use tokio::sync::Semaphore;

#[cfg(fuzzing)]
pub use fuzz::read_every_protocol;
use millstream_engine::room::Room;
use millstream_engine::scorer::Scorer;
use refusal::Refusal;

/// Loaded models by name.
pub type Models = BTreeMap<Arc<str>, Scorer>;

/// What requests may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// How long a request waits for its turn before it is answered with 429.
    pub wait_max: Duration,
    /// How long the body may take to arrive, and the model to answer.
    pub answer_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // The body as SageMaker's batch transform sends at most (6 MB), with room; the time as its endpoints wait.
        let (wait_max, answer_max) = (Duration::from_secs(2), Duration::from_secs(60));
        Self { body_bytes_max: 8 << 20, wait_max, answer_max }
    }
}

/// The models of a server, and the bounds around them; cheap to clone.
#[derive(Clone)]
pub struct Inference(Arc<Inner>);

struct Inner {
    /// Empty while they are being loaded.
    models: OnceLock<Models>,
    limits: Limits,
    /// For bodies, and for what they are while they are read.
    bodies: Arc<Room>,
    /// KiB of answers that may be held at once.
    answer_kib: Arc<Semaphore>,
    /// By model, once it is asked for: texts that may be in its queue at once on behalf of requests.
    turns: parking_lot::Mutex<BTreeMap<Arc<str>, Arc<Semaphore>>>,
}

impl std::fmt::Debug for Inference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Inference").field(&self.0.models.get().map(|m| m.keys().collect::<Vec<_>>())).finish()
    }
}

impl Inference {
    /// A server whose models are still being loaded; see [`Inference::loaded`].
    pub fn loading(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            models: OnceLock::new(),
            limits,
            bodies: Room::new(admission::body_bytes_in_all(&limits)),
            answer_kib: Arc::new(Semaphore::new(admission::ANSWER_BYTES_IN_ALL >> 10)),
            turns: parking_lot::Mutex::default(),
        }))
    }

    /// A server for these models.
    pub fn of(models: Models, limits: Limits) -> Self {
        let inference = Self::loading(limits);
        inference.loaded(models);
        inference
    }

    /// From here on requests are answered. Counts once.
    pub fn loaded(&self, models: Models) {
        let _ = self.0.models.set(models);
    }

    /// True once the models are loaded, while none of them is out of order.
    pub fn is_ready(&self) -> bool {
        let works = |scorer: &Scorer| scorer.model().stats().out_of_order.is_none();
        self.0.models.get().is_some_and(|models| models.values().all(works))
    }

    /// The models; none while they are being loaded.
    pub fn models(&self) -> Option<&Models> {
        self.0.models.get()
    }

    /// The model that is asked for by name; without a name the only one there is, or the only one that does `task`.
    fn choose(&self, name: Option<&str>, task: Option<Task>) -> Result<&Scorer, Refusal> {
        let models = self.models().ok_or_else(Refusal::loading)?;
        if let Some(name) = name {
            let known = || models.keys().map(|k| &**k).collect::<Vec<_>>().join(", ");
            let model = models.get(name);
            let model =
                model.ok_or_else(|| Refusal::unknown_model(format!("no model `{name}`; models: {}", known())))?;
            return match task {
                Some(task) if model.info().task != task => {
                    let does = model.info().task.as_str();
                    Err(Refusal::input(format!("model `{name}` does {does}, not {}", task.as_str())))
                }
                _ => Ok(model),
            };
        }
        let fitting: Vec<_> = models.iter().filter(|(_, m)| task.is_none_or(|task| m.info().task == task)).collect();
        match fitting.as_slice() {
            [(_, model)] => Ok(model),
            [] => {
                let what = task.map_or("model", Task::as_str);
                Err(Refusal::unknown_model(format!("this server has no {what} model")))
            }
            several => {
                let names: Vec<&str> = several.iter().map(|(name, _)| &***name).collect();
                Err(Refusal::input(format!("say which model, such as ?model={}: {}", names[0], names.join(", "))))
            }
        }
    }
}

/// All routes.
pub fn router(inference: Inference) -> Router {
    Router::new()
        .route("/ping", get(sagemaker::ping))
        .route("/health", get(tei::health))
        .route("/v2/health/live", get(kserve::live))
        .route("/v2/health/ready", get(kserve::ready))
        .route("/invocations", post(sagemaker::invocations))
        .route("/v2", get(kserve::server))
        .route("/v2/repository/index", post(kserve::index))
        .route("/v2/models/{model}", get(kserve::metadata))
        .route("/v2/models/{model}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/infer", post(kserve::infer))
        .route("/v2/models/{model}/versions/{version}", get(kserve::metadata))
        .route("/v2/models/{model}/versions/{version}/ready", get(kserve::model_ready))
        .route("/v2/models/{model}/versions/{version}/infer", post(kserve::infer))
        .route("/embed", post(tei::embed))
        .route("/predict", post(tei::predict))
        .route("/info", get(tei::info))
        .with_state(inference)
}

/// The value of `model` in a query string.
fn model_of_query(query: Option<&str>) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.find(|(key, _)| key == "model").map(|(_, value)| value.into_owned())
}
