//! Models over HTTP: what they are, how they do, and their replacement.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::ApiState;
use super::error::ApiError;
use millstream_engine::Running;
use millstream_engine::metrics::figure;
use millstream_engine::models::{ModelSet, Reloaded};
use millstream_engine::scorer::Scorer;

/// Every loaded model with its figures.
pub async fn list(State(state): State<ApiState>) -> Json<Value> {
    let models: Vec<Value> =
        state.running.models.scorers.iter().map(|(name, scorer)| view(&state.running, name, scorer)).collect();
    Json(json!({ "models": models }))
}

fn view(running: &Running, name: &Arc<str>, scorer: &Scorer) -> Value {
    let (info, stats) = (scorer.info(), scorer.model().stats());
    let config = running.pipeline.model(name).map(|model| &model.config);
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
        "cache": scorer.cache().map(|cache| cache.stats()),
    });
    if let Some(report) = scorer.shadow().map(|shadow| shadow.report()) {
        view["shadow"] = json!(report);
        view["shadow"]["agreement"] = json!(report.agreement());
    }
    view
}

/// Loads a model's files anew and puts it in the place of the one that runs. Answers when that is done.
pub async fn reload(State(state): State<ApiState>, Path(name): Path<String>) -> Result<Json<Reloaded>, ApiError> {
    let scorers = &state.running.models.scorers;
    if !scorers.contains_key(name.as_str()) {
        let known: Vec<&str> = scorers.keys().map(|name| &**name).collect();
        return Err(ApiError::not_found(format!("the pipeline uses no model `{name}`; it uses: {}", known.join(", "))));
    }
    // A task of its own: a client that goes away does not stop it half-way.
    let running = state.running.clone();
    let reload = tokio::spawn(async move { running.models.reload(&running.pipeline, &name).await });
    let reloaded = reload.await.map_err(|e| millstream_core::Error::bug(format!("the reload ended: {e}")))?;
    Ok(Json(reloaded?))
}

/// Figures of caches and shadows, for `/metrics`.
pub fn figures(models: &ModelSet, text: &mut String) {
    let scorers = models.scorers.iter();
    let caches: Vec<_> = scorers.filter_map(|(name, scorer)| Some((name, scorer.cache()?.stats()))).collect();
    let about = |name, help| (name, "counter", help);
    let hits = about("model_cache_hits", "Records that a model's cache has answered");
    figure(text, hits, caches.iter().map(|(name, stats)| (*name, stats.hits)));
    let misses = about("model_cache_misses", "Texts that a model with a cache was asked for");
    figure(text, misses, caches.iter().map(|(name, stats)| (*name, stats.misses)));

    let scorers = models.scorers.iter();
    let shadows: Vec<_> = scorers.filter_map(|(name, scorer)| Some((name, scorer.shadow()?.report()))).collect();
    let total = about("model_shadow", "Records that a model and its shadow have scored");
    figure(text, total, shadows.iter().map(|(name, report)| (*name, report.total)));
    let disagreements = about("model_shadow_disagreements", "Records that a model and its shadow disagree on");
    figure(text, disagreements, shadows.iter().map(|(name, report)| (*name, report.disagreements)));
    let dropped = about("model_shadow_dropped", "Records that a shadow was not asked for: it could not keep up");
    figure(text, dropped, shadows.iter().map(|(name, report)| (*name, report.dropped)));
    let failed = about("model_shadow_failures", "Records that a shadow failed on");
    figure(text, failed, shadows.iter().map(|(name, report)| (*name, report.failed)));
}
