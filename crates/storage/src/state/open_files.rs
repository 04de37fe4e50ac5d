//! Files that stay open between two reads of parts of them.
//!
//! A look-up of one key reads one block of one file. To open the file for that, to ask for its length and to read its
//! [`Seal`] again costs more than the block does. So files that are read in parts stay open, with their seals read and
//! checked: those that were read last, as many as this process has descriptors for.
//!
//! An open file does not hide what happens to it: before each read, its length, its time of change and whether it is
//! still in its folder are compared with what they were when its seal was read. One that is not as it was is opened
//! anew, and what is wrong with it is found then. Files that were removed are let go of, so that they take no room on
//! the disk: at once where this store removed them, and otherwise soon after another file is opened.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::ObjectMeta;
use object_store::path::Path;
use parking_lot::Mutex;

use super::seal::Seal;

/// How often files that somebody else has removed are looked for, at most.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// A file whose seal was read and found right.
#[derive(Debug)]
pub(super) struct SealedFile {
    pub(super) file: File,
    pub(super) seal: Seal,
    /// Of the object, as its seal describes it.
    pub(super) meta: ObjectMeta,
    /// What the file was like before its seal was read.
    pub(super) stamp: Stamp,
}

impl SealedFile {
    /// True where nothing has happened to the file since then.
    fn is_as_it_was(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|now| now == self.stamp && now.links > 0)
    }
}

/// What changes when a file is written to, cut off or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) bytes: u64,
    changed: (i64, i64),
    links: u64,
}

impl Stamp {
    /// What an open file is like now.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let now = file.metadata()?;
        Ok(Self { bytes: now.len(), changed: (now.ctime(), now.ctime_nsec()), links: now.nlink() })
    }
}

/// The files of one store that are open.
#[derive(Debug)]
pub(super) struct OpenFiles {
    files_max: usize,
    /// Nothing awaits while it is held.
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    files: HashMap<Path, Known>,
    /// Reads so far.
    reads: u64,
    swept: Instant,
}

#[derive(Debug)]
struct Known {
    file: Arc<SealedFile>,
    /// The number of the last read.
    read: u64,
}

impl OpenFiles {
    /// At most `files_max` files.
    pub(super) fn new(files_max: usize) -> Self {
        let inner = Inner { files: HashMap::new(), reads: 0, swept: Instant::now() };
        Self { files_max, inner: Mutex::new(inner) }
    }

    /// The file at `at`, where it is open and as it was.
    pub(super) fn get(&self, at: &Path) -> Option<Arc<SealedFile>> {
        let file = {
            let mut inner = self.inner.lock();
            inner.reads += 1;
            let read = inner.reads;
            let known = inner.files.get_mut(at)?;
            known.read = read;
            known.file.clone()
        };
        if file.is_as_it_was() {
            return Some(file);
        }
        self.forget(at);
        None
    }

    /// Keeps a file open, in place of the one that was read longest ago where there are too many.
    pub(super) fn insert(&self, at: Path, file: Arc<SealedFile>) {
        let mut inner = self.inner.lock();
        if inner.swept.elapsed() >= SWEEP_INTERVAL {
            inner.files.retain(|_, known| known.file.is_as_it_was());
            inner.swept = Instant::now();
        }
        if inner.files.len() >= self.files_max {
            let oldest = inner.files.iter().min_by_key(|(_, known)| known.read).map(|(at, _)| at.clone());
            oldest.and_then(|at| inner.files.remove(&at));
        }
        let read = inner.reads;
        inner.files.insert(at, Known { file, read });
    }

    /// Closes the file at `at`, once nobody reads it any more.
    pub(super) fn forget(&self, at: &Path) {
        self.inner.lock().files.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use xxhash_rust::xxh3::Xxh3;

    use super::*;

    fn sealed(path: &std::path::Path) -> Arc<SealedFile> {
        let file = File::open(path).unwrap();
        let stamp = Stamp::of(&file).unwrap();
        let meta = ObjectMeta {
            location: Path::from("x"),
            last_modified: chrono::DateTime::UNIX_EPOCH,
            size: stamp.bytes,
            e_tag: None,
            version: None,
        };
        Arc::new(SealedFile { file, seal: Seal::of(&Xxh3::new(), 0, 0), meta, stamp })
    }

    #[test]
    fn those_that_were_read_last_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, b"x").unwrap();
        let open = OpenFiles::new(2);
        for name in ["a", "b"] {
            open.insert(Path::from(name), sealed(&path));
        }
        assert!(open.get(&Path::from("a")).is_some());
        open.insert(Path::from("c"), sealed(&path));
        let left = ["a", "b", "c"].map(|name| open.get(&Path::from(name)).is_some());
        assert_eq!(left, [true, false, true]);
        open.forget(&Path::from("a"));
        assert!(open.get(&Path::from("a")).is_none());
    }

    #[test]
    fn one_that_something_has_happened_to_is_let_go_of() {
        type Act = fn(&std::path::Path);
        let cut: Act = |path| File::options().write(true).open(path).unwrap().set_len(1).unwrap();
        let remove: Act = |path| std::fs::remove_file(path).unwrap();
        let replace: Act = |path| {
            let other = path.with_extension("new");
            std::fs::write(&other, Bytes::from("same")).unwrap();
            std::fs::rename(other, path).unwrap();
        };
        for (name, act) in [("cut", cut), ("remove", remove), ("replace", replace)] {
            let dir = tempfile::tempdir().unwrap();
            let (path, at) = (dir.path().join("x"), Path::from("x"));
            std::fs::write(&path, b"some").unwrap();
            let open = OpenFiles::new(2);
            open.insert(at.clone(), sealed(&path));
            assert!(open.get(&at).is_some());
            act(&path);
            assert!(open.get(&at).is_none(), "{name}");
            assert!(open.inner.lock().files.is_empty(), "{name}");
        }
    }
}
