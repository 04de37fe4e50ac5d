//! Which files were found not to be what was written.
//!
//! An error of the store passes through many hands of the engine, some of which keep its words and some of which don't.
//! So what was found is kept here, and whoever tells a person about it looks here first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// Kept at most; the first is what matters.
const KEPT_MAX: usize = 64;

/// Damage that was found in a folder.
#[derive(Debug)]
pub(super) struct Damage {
    root: PathBuf,
    found: Mutex<BTreeMap<String, &'static str>>,
    missing: Mutex<Option<String>>,
}

/// A file that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Damaged {
    path: PathBuf,
    what: &'static str,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.what)
    }
}

impl std::error::Error for Damaged {}

impl Damage {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), found: Mutex::default(), missing: Mutex::default() }
    }

    /// Keeps what was found about an object.
    pub(super) fn found(&self, object: &str, what: &'static str) -> Damaged {
        let mut found = self.found.lock();
        if found.len() < KEPT_MAX {
            found.insert(object.to_owned(), what);
        }
        self.damaged(object, what)
    }

    /// Keeps the last object that was asked for and is not there. That is damage only where the engine says so.
    pub(super) fn missing(&self, object: &str) {
        *self.missing.lock() = Some(object.to_owned());
    }

    /// What was found about an object.
    pub(super) fn of(&self, object: &str) -> Option<Damaged> {
        self.found.lock().get(object).map(|what| self.damaged(object, what))
    }

    /// What was found first below `path`.
    pub(super) fn below(&self, path: &str) -> Option<Damaged> {
        let found = self.found.lock();
        found.iter().find(|(object, _)| is_below(object, path)).map(|(object, what)| self.damaged(object, what))
    }

    /// The last object below `path` that was asked for and was not there.
    pub(super) fn missing_below(&self, path: &str) -> Option<Damaged> {
        let missing = self.missing.lock();
        let object = missing.as_deref().filter(|object| is_below(object, path))?;
        Some(self.damaged(object, "is missing"))
    }

    /// Forgets what was found below `path`: it is looked at anew.
    pub(super) fn forget(&self, path: &str) {
        self.found.lock().retain(|object, _| !is_below(object, path));
        *self.missing.lock() = None;
    }

    fn damaged(&self, object: &str, what: &'static str) -> Damaged {
        Damaged { path: self.root.join(object), what }
    }
}

fn is_below(object: &str, path: &str) -> bool {
    object.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'))
}
