//! How far the opening of a data folder is, for whoever shows it.

use std::sync::Arc;

/// Is told how many logs and states of how many are open; cheap to clone.
#[derive(Clone, Default)]
pub struct Opening(Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl Opening {
    /// Tells `watch`.
    pub fn watched(watch: impl Fn(u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(watch)))
    }

    /// So many of all are open.
    pub fn say(&self, done: usize, all: usize) {
        if let Some(watch) = &self.0 {
            watch(done as u64, all as u64);
        }
    }
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opening")
    }
}
