//! What is stored is its owner's alone.

use std::collections::HashSet;
use std::path::PathBuf;

use millstream_core::disk::make_private;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use parking_lot::Mutex;

/// Takes from what is written what others may do with it.
#[derive(Debug)]
pub(super) struct Closed {
    root: PathBuf,
    /// Folders that are their owner's alone already. Nothing awaits while it is held.
    known: Mutex<HashSet<PathBuf>>,
}

impl Closed {
    /// For the folder `root`, which is so already.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, known: Mutex::default() }
    }

    /// What was written at `at`, and its folders. A file system without modes refuses that: it was said at the start.
    pub(super) fn close(&self, files: &LocalFileSystem, at: &Path) {
        let Ok(path) = files.path_to_filesystem(at) else { return };
        let _ = make_private(&path);
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.root)) {
            if !self.known.lock().insert(folder.to_owned()) {
                break;
            }
            let _ = make_private(folder);
        }
    }
}
