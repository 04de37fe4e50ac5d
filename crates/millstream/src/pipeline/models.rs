//! The models of a pipeline, loaded and warmed, with what stands beside them: caches and shadows. And a model's replacement
//! while the pipeline runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use millstream_core::{Clock, Error, Result};
use millstream_models::ModelHandle;
use serde::Serialize;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::model_cache::{ModelCache, SWEEP_EVERY};
use super::plan::Plan;
use super::shadow::Shadow;
use crate::config::checked::{ModelSpec, Pipeline};

/// Everything that scores.
#[derive(Debug)]
pub struct ModelSet {
    /// Loaded models, by name.
    pub handles: BTreeMap<Arc<str>, ModelHandle>,
    /// Caches, by the name of their model.
    pub caches: BTreeMap<Arc<str>, Arc<ModelCache>>,
    /// Shadows, by the name of the model in whose shadow they are.
    pub shadows: BTreeMap<Arc<str>, Arc<Shadow>>,
    /// One reload at a time.
    reload: tokio::sync::Mutex<()>,
    _sweeping: DropGuard,
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
    /// Loads and warms the models that `plan` needs, and opens their caches below `folder`.
    ///
    /// # Errors
    /// A model can't be loaded or does not answer; a cache can't be opened.
    pub async fn open(pipeline: &Pipeline, plan: &Plan, folder: &Path, clock: &Arc<dyn Clock>) -> Result<Self> {
        let (mut handles, mut caches, mut shadows) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let used: Vec<&ModelSpec> = pipeline.models.iter().filter(|m| plan.uses_model(&m.name)).collect();
        let is_shadow = |name: &str| used.iter().any(|m| m.config.shadow.as_deref() == Some(name));
        for model in pipeline.models.iter().filter(|m| plan.uses_model(&m.name) || is_shadow(&m.name)) {
            handles.insert(model.name.clone(), load(model).await?);
        }
        let sweeping = CancellationToken::new();
        for model in used {
            if let Some(config) = model.config.cache {
                let cache = Arc::new(ModelCache::open(folder, &model.name, config, clock.clone()).await?);
                tokio::spawn(sweep(cache.clone(), model.name.clone(), sweeping.clone()));
                caches.insert(model.name.clone(), cache);
            }
            if let Some(shadow) = model.config.shadow.as_deref().and_then(|name| handles.get(name)) {
                shadows.insert(model.name.clone(), Arc::new(Shadow::spawn(shadow.clone())));
            }
        }
        let reload = tokio::sync::Mutex::new(());
        Ok(Self { handles, caches, shadows, reload, _sweeping: sweeping.drop_guard() })
    }

    /// Loads the model's files anew, warms it, and puts it in the place of the one that runs. Records go on meanwhile.
    ///
    /// # Errors
    /// `Config`: there is no such model, it is an endpoint, or the new one does not fit. Whatever the error, the model that
    /// was there stays.
    pub async fn reload(&self, pipeline: &Pipeline, name: &str) -> Result<Reloaded> {
        let Some((handle, spec)) = self.handles.get(name).zip(pipeline.model(name)) else {
            let known: Vec<&str> = self.handles.keys().map(|name| &**name).collect();
            return Err(Error::config(format!("the pipeline uses no model `{name}`; it uses: {}", known.join(", "))));
        };
        if spec.config.is_endpoint() {
            return Err(Error::config(format!(
                "model `{name}` is behind an endpoint: there is nothing to load here, replace it there"
            )));
        }
        let _one_at_a_time = self.reload.lock().await;
        let new = load(spec).await?;
        let digest = new.info().digest.clone();
        let replaced = handle.replace(new)?;
        tracing::info!(model = name, %replaced, %digest, "model reloaded");
        Ok(Reloaded { model: spec.name.clone(), replaced, digest })
    }

    /// The models that answer nothing any more, and why.
    pub fn out_of_order(&self) -> Vec<(Arc<str>, String)> {
        let broken = |(name, handle): (&Arc<str>, &ModelHandle)| Some((name.clone(), handle.stats().out_of_order?));
        self.handles.iter().filter_map(broken).collect()
    }

    /// Closes the caches.
    ///
    /// # Errors
    /// The first one that can't be closed.
    pub async fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for cache in self.caches.values() {
            first = first.and(cache.close().await);
        }
        first
    }
}

/// A model, ready for its first record. An endpoint is asked nothing: a pipeline starts while it is down.
async fn load(model: &ModelSpec) -> Result<ModelHandle> {
    let handle = tokio::task::block_in_place(|| model.config.load(&model.name))
        .map_err(|e| e.context(format!("load model {}", model.name)))?;
    if !model.config.is_endpoint() {
        handle.warm_up().await?;
    }
    Ok(handle)
}

async fn sweep(cache: Arc<ModelCache>, model: Arc<str>, stop: CancellationToken) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        if let Err(e) = cache.sweep().await {
            // Entries that are over are not used; they only take space until the next sweep.
            tracing::warn!(%model, "the cache could not be swept: {e}");
        }
    }
}
