//! A disk whose reads and removals wait until they are let go. For tests of what must not wait with them.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::{Disk, DiskFile, OpenMode};

/// A call that nobody lets go fails after so long, so that a test fails too.
const PATIENCE: Duration = Duration::from_secs(60);

/// The disk; clones are the same disk.
#[derive(Debug, Clone)]
pub struct SlowDisk {
    disk: Arc<dyn Disk>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_held: bool,
    waiting: usize,
}

impl SlowDisk {
    /// One that is as fast as `disk`, for now.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, gate: Arc::default() }
    }

    /// From now on, who reads or removes something waits.
    pub fn hold(&self) {
        self.gate.state.lock().is_held = true;
    }

    /// Lets everybody go on.
    pub fn release(&self) {
        self.gate.state.lock().is_held = false;
        self.gate.released.notify_all();
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.gate.state.lock().waiting
    }
}

impl Gate {
    fn pass(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.waiting += 1;
        let ended = self.released.wait_while_for(&mut state, |state| state.is_held, PATIENCE);
        state.waiting -= 1;
        if ended.timed_out() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Disk for SlowDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SlowFile { file: self.disk.open(path, mode)?, gate: self.gate.clone() }))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        self.disk.file_len(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.gate.pass()?;
        self.disk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

#[derive(Debug)]
struct SlowFile {
    file: Box<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.gate.pass()?;
        self.file.read_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn file_len(&self) -> io::Result<u64> {
        self.file.file_len()
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        self.file.is_at(path)
    }
}
