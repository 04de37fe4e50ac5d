//! What a source can't read for now: said once, not in every round.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::context::{SourceStatus, Status};

/// The files and folders that can't be read, and why.
pub(crate) struct Troubles {
    source: std::sync::Arc<str>,
    status: Status,
    said: BTreeMap<PathBuf, String>,
    /// Those of the round under way.
    seen: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Troubles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Troubles").field("said", &self.said).finish_non_exhaustive()
    }
}

impl Troubles {
    pub(crate) fn new(source: std::sync::Arc<str>, status: Status) -> Self {
        Self { source, status, said: BTreeMap::new(), seen: BTreeSet::new() }
    }

    /// Begins a round: what is not said in it is over.
    pub(crate) fn begin_round(&mut self) {
        self.seen.clear();
    }

    /// Ends a round.
    pub(crate) fn end_round(&mut self) {
        let over: Vec<PathBuf> = self.said.keys().filter(|path| !self.seen.contains(*path)).cloned().collect();
        for path in over {
            tracing::info!(source = %self.source, path = %path.display(), "no more in the way");
            self.said.remove(&path);
        }
    }

    /// `path` is left out for now.
    pub(crate) fn say(&mut self, path: &Path, why: &str) {
        self.seen.insert(path.to_owned());
        if self.said.get(path).is_some_and(|said| said == why) {
            return;
        }
        self.said.insert(path.to_owned(), why.to_owned());
        tracing::warn!(
            source = %self.source, path = %path.display(),
            "can't be read, and is left out until it can: {why}"
        );
        (self.status)(SourceStatus::Trouble { why: &format!("{}: {why}", path.display()) });
    }

    /// Something about `path` that a person should know, said where it happens.
    pub(crate) fn note(&mut self, path: &Path, what: &str) {
        tracing::warn!(source = %self.source, path = %path.display(), "{what}");
        (self.status)(SourceStatus::Trouble { why: &format!("{}: {what}", path.display()) });
    }

    /// True where nothing is known of `path`: it, or a folder above it, can't be looked at.
    pub(crate) fn hides(&self, path: &Path) -> bool {
        self.seen.iter().any(|hidden| path.starts_with(hidden))
    }
}
