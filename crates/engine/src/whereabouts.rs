//! Whether the folders that a run works in are still where they were. A process goes on writing to files that were
//! removed or moved under it, and nothing of that is there when it starts again: it must be said as soon as it can be
//! seen.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use millstream_storage::log::Log;
use parking_lot::Mutex;

/// For how long an answer holds: whoever asks at each request costs next to nothing.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Folders, and which they were.
#[derive(Debug)]
pub struct Whereabouts {
    known: Vec<(PathBuf, Identity)>,
    logs: Vec<Log>,
    // This is a `parking_lot` mutex: nothing awaits while it is held.
    last: Mutex<Option<(Instant, Option<String>)>>,
}

/// Device and inode.
type Identity = (u64, u64);

impl Whereabouts {
    /// Of those of `paths` that are there.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        let known = paths.into_iter().filter_map(|path| Some((identity(&path)?, path)));
        Self {
            known: known.map(|(identity, path)| (path, identity)).collect(),
            logs: Vec::new(),
            last: Mutex::default(),
        }
    }

    /// And whether these logs have the files that they write to.
    #[must_use]
    pub fn and(mut self, logs: impl IntoIterator<Item = Log>) -> Self {
        self.logs.extend(logs);
        self
    }

    /// What is not where it was, and what to do; looks again where the last look is a while ago.
    pub fn trouble(&self) -> Option<String> {
        let mut last = self.last.lock();
        if let Some((_, trouble)) = last.as_ref().filter(|(at, _)| at.elapsed() < LOOK_EVERY) {
            return trouble.clone();
        }
        let trouble = self.look();
        *last = Some((Instant::now(), trouble.clone()));
        trouble
    }

    fn look(&self) -> Option<String> {
        let moved = |(path, was): &&(PathBuf, Identity)| identity(path) != Some(*was);
        let moved = self.known.iter().find(moved).map(|(path, _)| path.clone());
        let path = moved.or_else(|| self.logs.iter().find_map(Log::missing))?;
        let what = if path.exists() { "was replaced" } else { "was removed or moved" };
        Some(format!(
            "{} {what} while this process works in it: what it would store is lost at the next start. Stop it; put the \
             folder back, or start anew",
            path.display()
        ))
    }
}

fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_moved_or_replaced_is_seen() {
        let temp = tempfile::tempdir().unwrap();
        let (log, state) = (temp.path().join("data/log"), temp.path().join("data/state"));
        for folder in [&log, &state] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let place = Whereabouts::of([temp.path().join("data"), log.clone(), state.clone(), temp.path().join("absent")]);
        assert_eq!(place.look(), None);
        std::fs::remove_dir(&state).unwrap();
        assert!(place.look().unwrap().contains("state was removed or moved"));
        std::fs::create_dir(temp.path().join("data/other")).unwrap();
        std::fs::create_dir(&state).unwrap();
        assert!(place.look().unwrap().contains("state was replaced"), "{:?}", place.look());
        let moved = temp.path().join("moved");
        std::fs::rename(temp.path().join("data"), &moved).unwrap();
        assert!(place.look().unwrap().contains("data was removed or moved"));
        // Put back as it was, all but what is gone for good.
        std::fs::rename(&moved, temp.path().join("data")).unwrap();
        assert!(place.look().unwrap().contains("state was replaced"));
    }
}
