//! Models over HTTP: what they are, how they do, and their replacement.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::ApiState;
use super::error::ApiError;
use crate::metrics::figure;
use crate::pipeline::Running;
use crate::pipeline::models::{ModelSet, Reloaded};

/// Every loaded model with its figures.
pub async fn list(State(state): State<ApiState>) -> Json<Value> {
    let models: Vec<Value> = state.running.models.keys().map(|name| view(&state.running, name)).collect();
    Json(json!({ "models": models }))
}

fn view(running: &Running, name: &Arc<str>) -> Value {
    let Some(handle) = running.models.get(name) else { return Value::Null };
    let (info, stats) = (handle.info(), handle.stats());
    let config = running.pipeline.model(name).map(|model| &model.config);
    let shadow = running.model_set.shadows.get(name).map(|shadow| shadow.report());
    let mut view = json!({
        "name": name,
        "source": config.map(|config| config.shown_source()),
        "task": info.task,
        "labels": info.labels,
        "dimensions": info.dimensions,
        "digest": info.digest,
        "queue_depth": stats.queue_depth,
        "batches": stats.batch_size.count(),
        "records": stats.batch_size.sum as u64,
        "seconds": stats.inference_seconds.sum,
        "failures": stats.failed,
        "stalls": stats.stalls,
        "threads_given_up": stats.threads_given_up,
        "out_of_order": stats.out_of_order,
        "cache": running.model_set.caches.get(name).map(|cache| cache.stats()),
    });
    if let Some(report) = shadow {
        view["shadow"] = json!(report);
        view["shadow"]["agreement"] = json!(report.agreement());
    }
    view
}

/// Loads a model's files anew and puts it in the place of the one that runs. Answers when that is done.
pub async fn reload(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<Reloaded>, ApiError> {
    if !state.running.models.contains_key(name.as_str()) {
        let known: Vec<&str> = state.running.models.keys().map(|name| &**name).collect();
        return Err(ApiError::not_found(format!("the pipeline uses no model `{name}`; it uses: {}", known.join(", "))));
    }
    // A task of its own: a client that goes away does not stop it half-way.
    let running = state.running.clone();
    let reload = tokio::spawn(async move { running.model_set.reload(&running.pipeline, &name).await });
    let reloaded = reload.await.map_err(|e| millstream_core::Error::bug(format!("the reload ended: {e}")))?;
    Ok(Json(reloaded?))
}

/// Figures of caches and shadows, for `/metrics`.
pub fn figures(models: &ModelSet, text: &mut String) {
    let caches: Vec<_> = models.caches.iter().map(|(name, cache)| (name, cache.stats())).collect();
    let about = |name, help| (name, "counter", help);
    let hits = about("model_cache_hits", "Records that a model's cache has answered");
    figure(text, hits, caches.iter().map(|(name, stats)| (*name, stats.hits)));
    let misses = about("model_cache_misses", "Texts that a model with a cache was asked for");
    figure(text, misses, caches.iter().map(|(name, stats)| (*name, stats.misses)));

    let shadows: Vec<_> = models.shadows.iter().map(|(name, shadow)| (name, shadow.report())).collect();
    let total = about("model_shadow", "Records that a model and its shadow have scored");
    figure(text, total, shadows.iter().map(|(name, report)| (*name, report.total)));
    let disagreements = about("model_shadow_disagreements", "Records that a model and its shadow disagree on");
    figure(text, disagreements, shadows.iter().map(|(name, report)| (*name, report.disagreements)));
    let dropped = about("model_shadow_dropped", "Records that a shadow was not asked for: it could not keep up");
    figure(text, dropped, shadows.iter().map(|(name, report)| (*name, report.dropped)));
    let failed = about("model_shadow_failures", "Records that a shadow failed on");
    figure(text, failed, shadows.iter().map(|(name, report)| (*name, report.failed)));
}
