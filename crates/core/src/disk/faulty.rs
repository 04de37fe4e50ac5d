//! A disk in memory that fails as asked and forgets, at a power cut, what was not synced. For tests.
//!
//! Every changing call (create, write, truncate, sync, rename, remove, sync of a folder) is one numbered *step*; a
//! [`Fault`] is planned for the n-th of them. [`FaultyDisk::crash`] is the power cut: of the bytes that were not
//! synced, any sector of 512 bytes may survive or not, in any order; of the names that were not synced, a prefix of the
//! changes of each folder survives, as a journal would have it. Handles opened before the cut are dead after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{Disk, DiskFile, OpenMode};

const SECTOR_BYTES: usize = 512;

/// What goes wrong at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The step fails and does nothing. For a sync: the bytes stay readable until the power cut, but no later sync
    /// makes them durable either (as Linux does it).
    Error,
    /// The step fails as on a full disk; of a write, the first half is done.
    NoSpace,
    /// A write does this many bytes at most, then fails. Other steps fail as with [`Fault::Error`].
    Torn(usize),
    /// This step and everything after it fails until [`FaultyDisk::crash`]: the process is as good as dead.
    PowerCut,
}

/// The disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    dirs: BTreeSet<PathBuf>,
    /// What the process sees.
    names: BTreeMap<PathBuf, Inode>,
    /// What a power cut leaves for sure.
    durable_names: BTreeMap<PathBuf, Inode>,
    /// Changes to names since the last sync of their folder.
    pending_names: Vec<NameChange>,
    files: Vec<FileData>,
    /// Steps done so far.
    steps: u64,
    faults: BTreeMap<u64, Fault>,
    off: bool,
    /// Counts power cuts; a handle of an earlier count is dead.
    boots: u64,
}

type Inode = usize;

#[derive(Debug, Clone)]
enum NameChange {
    Link(PathBuf, Inode),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Default)]
struct FileData {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<DataChange>,
}

#[derive(Debug, Clone)]
enum DataChange {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// What a step may do.
enum Step {
    All,
    Part(usize, io::ErrorKind),
}

impl FaultyDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self::default()
    }

    /// Plans a fault for step number `step`; the first step of a new disk is 0.
    pub fn fail_at(&self, step: u64, fault: Fault) {
        self.0.lock().faults.insert(step, fault);
    }

    /// Forgets all planned faults.
    pub fn heal(&self) {
        self.0.lock().faults.clear();
    }

    /// The number of changing calls so far.
    pub fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Cuts the power and starts again: see the module. `seed` decides what of the unsynced survives.
    pub fn crash(&self, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut inner = self.0.lock();
        let inner = &mut *inner;
        for file in &mut inner.files {
            file.crash(&mut rng);
        }
        inner.crash_names(&mut rng);
        inner.faults.clear();
        inner.off = false;
        inner.boots += 1;
    }

    /// Flips `mask` in one byte of a file, durably; false where the file has no such byte.
    pub fn flip(&self, path: &Path, position: u64, mask: u8) -> bool {
        let mut inner = self.0.lock();
        let Some(&inode) = inner.names.get(path) else { return false };
        let file = &mut inner.files[inode];
        let at = position as usize;
        let Some(byte) = file.seen.get_mut(at) else { return false };
        *byte ^= mask;
        if let Some(byte) = file.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }

    /// A disk of its own with the same, fully durable, content.
    pub fn copy(&self) -> Self {
        let inner = self.0.lock();
        let mut files = Vec::new();
        let mut names = BTreeMap::new();
        for (path, &inode) in &inner.names {
            let bytes = inner.files[inode].seen.clone();
            names.insert(path.clone(), files.len());
            files.push(FileData { seen: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        let copy = Inner { dirs: inner.dirs.clone(), durable_names: names.clone(), names, files, ..Inner::default() };
        Self(Arc::new(Mutex::new(copy)))
    }
}

impl Inner {
    /// Counts a step and says how much of it may be done.
    fn step(&mut self) -> io::Result<Step> {
        self.powered()?;
        let fault = self.faults.remove(&self.steps);
        self.steps += 1;
        match fault {
            None => Ok(Step::All),
            Some(Fault::Error) => Ok(Step::Part(0, io::ErrorKind::Other)),
            Some(Fault::NoSpace) => Ok(Step::Part(usize::MAX, io::ErrorKind::StorageFull)),
            Some(Fault::Torn(bytes)) => Ok(Step::Part(bytes, io::ErrorKind::Other)),
            Some(Fault::PowerCut) => {
                self.off = true;
                self.powered().map(|()| Step::All)
            }
        }
    }

    /// A step that is done wholly or not at all.
    fn whole_step(&mut self) -> io::Result<()> {
        match self.step()? {
            Step::All => Ok(()),
            Step::Part(_, kind) => Err(kind.into()),
        }
    }

    fn powered(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is cut")) } else { Ok(()) }
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn crash_names(&mut self, rng: &mut StdRng) {
        let dirs: BTreeSet<PathBuf> = self.pending_names.iter().map(|c| c.dir().to_path_buf()).collect();
        for dir in dirs {
            let changes: Vec<&NameChange> = self.pending_names.iter().filter(|c| c.dir() == dir).collect();
            let survive = rng.random_range(0..=changes.len());
            for change in &changes[..survive] {
                change.apply(&mut self.durable_names);
            }
        }
        self.pending_names.clear();
        self.names = self.durable_names.clone();
    }
}

impl NameChange {
    fn dir(&self) -> &Path {
        let (Self::Link(path, _) | Self::Unlink(path) | Self::Rename(path, _)) = self;
        path.parent().unwrap_or(Path::new(""))
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Inode>) {
        match self {
            Self::Link(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Unlink(path) => {
                names.remove(path);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }
}

impl FileData {
    fn change(&mut self, change: DataChange) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, rng: &mut StdRng) {
        // One draw per file decides between nothing, a prefix and a shuffle, so that each is common.
        let mode = rng.random_range(0..4);
        for change in self.pending.drain(..) {
            match change {
                DataChange::Truncate(_) if mode > 0 && rng.random() => change.apply(&mut self.durable),
                DataChange::Truncate(_) => {}
                DataChange::Write(position, bytes) if mode > 0 => {
                    // A prefix (mode 1), any sectors (mode 2), or all of it (mode 3).
                    let prefix = rng.random_range(0..=bytes.len());
                    for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        let start = i * SECTOR_BYTES;
                        let sector = match mode {
                            1 => &sector[..prefix.saturating_sub(start).min(sector.len())],
                            2 if rng.random() => &[],
                            _ => sector,
                        };
                        if !sector.is_empty() {
                            DataChange::Write(position + start as u64, sector.to_vec()).apply(&mut self.durable);
                        }
                    }
                }
                DataChange::Write(..) => {}
            }
        }
        self.seen = self.durable.clone();
    }
}

impl DataChange {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Truncate(len) => bytes.resize(*len as usize, 0),
            Self::Write(position, written) => {
                let start = *position as usize;
                let end = start + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(written);
            }
        }
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.powered()?;
        // Folders are simply there: losing one is losing all in it, which the names cover.
        inner.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.0.lock();
        inner.powered()?;
        if !inner.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let names = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut inner = self.0.lock();
        inner.powered()?;
        let inode = if mode == OpenMode::CreateNew {
            if inner.names.contains_key(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            inner.whole_step()?;
            let inode = inner.files.len();
            inner.files.push(FileData::default());
            inner.change_name(NameChange::Link(path.to_path_buf(), inode));
            inode
        } else {
            inner.inode(path)?
        };
        Ok(Box::new(FaultyFile { disk: self.clone(), inode, boot: inner.boots }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let inner = self.0.lock();
        inner.powered()?;
        Ok(inner.names.contains_key(path) || inner.dirs.contains(path))
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        let inner = self.0.lock();
        inner.powered()?;
        let inode = inner.inode(path)?;
        Ok(inner.files[inode].seen.len() as u64)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.inode(path)?;
        inner.whole_step()?;
        inner.change_name(NameChange::Unlink(path.to_path_buf()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.inode(from)?;
        inner.whole_step()?;
        inner.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.0.lock();
        inner.whole_step()?;
        let inner = &mut *inner;
        let durable = &mut inner.durable_names;
        inner.pending_names.retain(|change| {
            let synced = change.dir() == dir;
            if synced {
                change.apply(durable);
            }
            !synced
        });
        Ok(())
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inode: Inode,
    boot: u64,
}

impl FaultyFile {
    fn with<T>(&self, call: impl FnOnce(&mut Inner) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.0.lock();
        inner.powered()?;
        if inner.boots != self.boot {
            return Err(io::Error::other("opened before the power was cut"));
        }
        call(&mut inner)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.with(|inner| {
            let bytes = &inner.files[self.inode].seen;
            let start = bytes.len().min(position as usize);
            let read = buffer.len().min(bytes.len() - start);
            buffer[..read].copy_from_slice(&bytes[start..start + read]);
            Ok(read)
        })
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.with(|inner| {
            let (done, result) = match inner.step()? {
                Step::All => (bytes.len(), Ok(())),
                Step::Part(usize::MAX, kind) => (bytes.len() / 2, Err(kind.into())),
                Step::Part(done, kind) => (done.min(bytes.len()), Err(kind.into())),
            };
            if done > 0 {
                inner.files[self.inode].change(DataChange::Write(position, bytes[..done].to_vec()));
            }
            result
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|inner| match inner.step()? {
            Step::All => {
                inner.files[self.inode].sync();
                Ok(())
            }
            Step::Part(_, kind) => {
                inner.files[self.inode].pending.clear();
                Err(kind.into())
            }
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|inner| {
            inner.whole_step()?;
            inner.files[self.inode].change(DataChange::Truncate(len));
            Ok(())
        })
    }

    fn file_len(&self) -> io::Result<u64> {
        self.with(|inner| Ok(inner.files[self.inode].seen.len() as u64))
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.with(|inner| Ok(inner.names.get(path) == Some(&self.inode)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{read_all, write_atomic};
    use super::*;

    fn create(disk: &FaultyDisk, path: &str) -> Box<dyn DiskFile> {
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.open(Path::new(path), OpenMode::CreateNew).unwrap()
    }

    #[test]
    fn what_was_synced_survives_every_power_cut() {
        for seed in 0..64 {
            let disk = FaultyDisk::new();
            let file = create(&disk, "/d/a");
            file.write_all_at(b"kept", 0).unwrap();
            file.sync().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_all_at(&[1; 2000], 4).unwrap();
            disk.crash(seed);
            assert!(file.file_len().is_err(), "a handle from before the cut is dead");
            assert_eq!(&read_all(&disk, Path::new("/d/a")).unwrap()[..4], b"kept");
        }
    }

    #[test]
    fn what_was_not_synced_is_lost_or_torn_under_some_seed() {
        let outcome = |seed| {
            let disk = FaultyDisk::new();
            let file = create(&disk, "/d/a");
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_all_at(&[1; 2000], 0).unwrap();
            disk.crash(seed);
            read_all(&disk, Path::new("/d/a")).unwrap()
        };
        let all: Vec<Vec<u8>> = (0..64).map(outcome).collect();
        assert!(all.iter().any(Vec::is_empty));
        assert!(all.iter().any(|b| !b.is_empty() && b.len() < 2000));
        assert!(all.iter().any(|b| b.len() == 2000 && b.contains(&0)), "a hole");
        assert!(all.iter().any(|b| *b == vec![1; 2000]));
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let disk = FaultyDisk::new();
        let file = create(&disk, "/d/a");
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(b"gone", 0).unwrap();
        disk.fail_at(disk.steps(), Fault::Error);
        assert!(file.sync().is_err());
        file.sync().unwrap();
        assert_eq!(read_all(&disk, Path::new("/d/a")).unwrap(), b"gone");
        disk.crash(0);
        assert_eq!(read_all(&disk, Path::new("/d/a")).unwrap(), b"");
    }

    #[test]
    fn an_atomic_write_is_old_or_new_wherever_the_power_is_cut() {
        for step in 0..12 {
            for seed in 0..16 {
                let disk = FaultyDisk::new();
                disk.create_dir_all(Path::new("/d")).unwrap();
                let path = Path::new("/d/a");
                write_atomic(&disk, path, b"old").unwrap();
                disk.fail_at(disk.steps() + step, Fault::PowerCut);
                let written = write_atomic(&disk, path, &[7; 1500]);
                disk.crash(seed);
                let found = read_all(&disk, path).unwrap();
                assert!(found == [7; 1500] || (written.is_err() && found == b"old"), "step {step} seed {seed}");
            }
        }
    }

    #[test]
    fn a_full_disk_is_reported_as_such() {
        let disk = FaultyDisk::new();
        let file = create(&disk, "/d/a");
        disk.fail_at(disk.steps(), Fault::NoSpace);
        let error = crate::Error::from(file.write_all_at(&[0; 10], 0).unwrap_err());
        assert_eq!(error.kind(), crate::ErrorKind::Environment);
        assert!(error.to_string().contains("disk is full"), "{error}");
    }
}
