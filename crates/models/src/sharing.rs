//! Weights in memory, shared by the models that are made of the same ones.
//!
//! Two models of a pipeline may be the same files with different queues, caches or threads. Each has its own of these;
//! what was read from the files is there once, and never changes. A model whose files have changed has another digest,
//! so loading it again leaves the others as they are.

use std::any::Any;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use millstream_core::Result;
use parking_lot::Mutex;

use crate::{ModelInfo, Task};

/// What two models have to agree on to share their weights.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    /// The folder or the file, without links; a name for what is in the binary. The digest alone would do among
    /// friends: it is not made to withstand an attacker.
    place: PathBuf,
    task: Task,
    /// Of the files, and of all settings that decide what is kept of them.
    digest: Arc<str>,
}

impl Identity {
    /// The identity of a model of that place.
    pub(crate) fn new(place: PathBuf, info: &ModelInfo) -> Self {
        Self { place, task: info.task, digest: info.digest.clone() }
    }
}

/// The weights that are in memory. It keeps none there: they go away with their last model.
#[derive(Default)]
pub struct SharedWeights(Mutex<HashMap<Identity, Weak<dyn Any + Send + Sync>>>);

impl SharedWeights {
    /// How many different ones there are.
    pub fn in_memory(&self) -> usize {
        self.0.lock().values().filter(|weights| weights.strong_count() > 0).count()
    }

    /// Those that are there, or else those that `load` gives. Two callers at once load them once.
    ///
    /// # Errors
    /// As `load`.
    pub(crate) fn get_or_load<T: Any + Send + Sync>(
        &self,
        identity: Identity,
        load: impl FnOnce() -> Result<T>,
    ) -> Result<Arc<T>> {
        let mut known = self.0.lock();
        if let Some(Ok(weights)) = known.get(&identity).and_then(Weak::upgrade).map(Arc::downcast) {
            return Ok(weights);
        }
        let weights = Arc::new(load()?);
        let any: Arc<dyn Any + Send + Sync> = weights.clone();
        known.retain(|_, weights| weights.strong_count() > 0);
        known.insert(identity, Arc::downgrade(&any));
        Ok(weights)
    }
}

impl std::fmt::Debug for SharedWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedWeights({} in memory)", self.in_memory())
    }
}

#[cfg(test)]
mod tests;
