//! The models of a pipeline, loaded and warmed, with what stands beside them: caches, fallbacks and shadows. And a
//! model's replacement while the pipeline runs.
//!
//! Models of the same files share their weights, and nothing else: each has its own queue, so that a model can be
//! replaced and the others stay.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use millstream_core::{Clock, Error, Result};
use millstream_models::{Fallback, ModelHandle, SharedWeights};
use millstream_storage::state::StateOptions;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::health::{ComponentKind, Health};
use crate::model_cache::{LATER, ModelCache, SWEEP_EVERY};
use crate::plan::Plan;
use crate::scorer::Scorer;
use crate::shadow::Shadow;
use crate::spec::{ModelSpec, Pipeline};
use crate::step_waits::StepWaits;

/// Everything that scores.
#[derive(Debug)]
pub struct ModelSet {
    /// Loaded models by name, with what stands beside them.
    pub scorers: BTreeMap<Arc<str>, Scorer>,
    /// The steps that ask them, by name: who waits for which.
    told: Mutex<BTreeMap<Arc<str>, Arc<StepWaits>>>,
    health: Arc<Health>,
    clock: Arc<dyn Clock>,
    weights: SharedWeights,
    /// One reload at a time.
    reload: tokio::sync::Mutex<()>,
    _tending: DropGuard,
}

/// What a reload came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The model.
    pub model: Arc<str>,
    /// The digest of the model that was there.
    pub replaced: Arc<str>,
    /// The digest of the model that is there now.
    pub digest: Arc<str>,
}

impl ModelSet {
    /// Loads and warms the models that `plan` needs, and opens their caches below `folder`. Models that no step asks
    /// first, but which are there as a fallback or a shadow, have nothing beside them.
    ///
    /// # Errors
    /// A model can't be loaded or does not answer; a cache can't be opened.
    pub async fn open(
        pipeline: &Pipeline,
        plan: &Plan,
        (folder, state_options): (PathBuf, &StateOptions),
        clock: &Arc<dyn Clock>,
        health: &Arc<Health>,
    ) -> Result<Self> {
        let weights = SharedWeights::default();
        let is_asked = |model: &&ModelSpec| plan.asks_model(&model.name);
        let shadows: Vec<&str> =
            pipeline.models.iter().filter(is_asked).filter_map(|m| m.config.shadow.as_deref()).collect();
        let mut scorers = BTreeMap::new();
        for model in pipeline.models.iter().filter(|m| plan.uses_model(&m.name) || shadows.contains(&&*m.name)) {
            scorers.insert(model.name.clone(), Scorer::alone(load(model, &weights).await?));
        }
        let tending = CancellationToken::new();
        for model in pipeline.models.iter().filter(is_asked) {
            let Some(scorer) = scorers.get(&model.name).cloned() else { continue };
            let loaded = |name: &str| scorers.get(name).map(|scorer| scorer.model().clone());
            let fallback = model.config.endpoint.fallback.as_ref();
            let fallback = fallback.map(|config| Fallback::new(&scorer.info(), config, loaded)).transpose()?;
            let shadow = model.config.shadow.as_deref().and_then(loaded).map(Shadow::spawn).map(Arc::new);
            let cache = match model.config.cache {
                None => None,
                Some(config) => {
                    let cache =
                        Arc::new(ModelCache::open((&folder, state_options), &model.name, config, clock.clone()).await?);
                    tokio::spawn(tend(cache.clone(), model.name.clone(), tending.clone()));
                    Some(cache)
                }
            };
            scorers.insert(model.name.clone(), scorer.with_fallback(fallback).with_cache(cache).with_shadow(shadow));
        }
        let (health, clock) = (health.clone(), clock.clone());
        Ok(Self {
            scorers,
            told: Mutex::default(),
            health,
            clock,
            weights,
            reload: tokio::sync::Mutex::new(()),
            _tending: tending.drop_guard(),
        })
    }

    /// Loads the model's files anew, warms it, and puts it in the place of the one that runs. Records go on meanwhile.
    ///
    /// # Errors
    /// `Config`: there is no such model, it is an endpoint, or the new one does not fit. Whatever the error, the model
    /// that was there stays.
    pub async fn reload(&self, pipeline: &Pipeline, name: &str) -> Result<Reloaded> {
        let Some((scorer, spec)) = self.scorers.get(name).zip(pipeline.model(name)) else {
            let known: Vec<&str> = self.scorers.keys().map(|name| &**name).collect();
            return Err(Error::config(format!("the pipeline uses no model `{name}`; it uses: {}", known.join(", "))));
        };
        if spec.config.is_endpoint() {
            return Err(Error::config(format!(
                "model `{name}` is behind an endpoint: there is nothing to load here, replace it there"
            )));
        }
        let _one_at_a_time = self.reload.lock().await;
        let new = load(spec, &self.weights).await?;
        let digest = new.info().digest.clone();
        let replaced = scorer.model().replace(new)?;
        tracing::info!(model = name, %replaced, %digest, "model reloaded");
        Ok(Reloaded { model: spec.name.clone(), replaced, digest })
    }

    /// Who is told that the step `component` waits for `model`: one for the tasks of all partitions.
    pub fn told(&self, component: &Arc<str>, model: &Arc<str>) -> Arc<StepWaits> {
        let mut told = self.told.lock();
        let health = || self.health.of(ComponentKind::Transform, component, &self.clock);
        told.entry(component.clone())
            .or_insert_with(|| Arc::new(StepWaits::new(model.clone(), health().part())))
            .clone()
    }

    /// The models that answer nothing any more, and why.
    pub fn out_of_order(&self) -> Vec<(Arc<str>, String)> {
        let broken = |(name, scorer): (&Arc<str>, &Scorer)| Some((name.clone(), scorer.model().stats().out_of_order?));
        self.scorers.iter().filter_map(broken).collect()
    }

    /// Closes the caches.
    ///
    /// # Errors
    /// The first one that can't be closed.
    pub async fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for cache in self.scorers.values().filter_map(Scorer::cache) {
            first = first.and(cache.close().await);
        }
        first
    }

    /// How many sets of weights are in memory: models of the same files share one.
    pub fn weights_in_memory(&self) -> usize {
        self.weights.in_memory()
    }
}

/// A model, ready for its first record. An endpoint is asked nothing: a pipeline starts while it is down.
async fn load(model: &ModelSpec, weights: &SharedWeights) -> Result<ModelHandle> {
    let handle = tokio::task::block_in_place(|| model.config.load_sharing(&model.name, weights))
        .map_err(|e| e.context(format!("load model {}", model.name)))?;
    if !model.config.is_endpoint() {
        handle.warm_up().await?;
    }
    Ok(handle)
}

/// Deletes from a cache what is over, and writes what was left to be kept.
async fn tend(cache: Arc<ModelCache>, model: Arc<str>, stop: CancellationToken) {
    let mut sweep = tokio::time::interval(SWEEP_EVERY);
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            _ = sweep.tick() => cache.sweep().await.map(drop),
            () = cache.something_waits() => {
                tokio::time::sleep(LATER).await;
                cache.keep_what_waits().await
            }
        };
        if let Err(e) = done {
            // Entries that are over are not used, and what was not kept is asked for again.
            tracing::warn!(%model, "the cache could not be tended: {e}");
        }
    }
}
