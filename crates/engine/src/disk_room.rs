//! Whether the data folder's disk has room for more records.
//!
//! A disk that is full in the middle of a write ends the run: what is on it is whole, but log and state have to be
//! opened again. So nothing new is taken in before that, while there is still room for the work on what was taken in
//! already. Sources wait, pushes are refused (507), and both go on by themselves when there is room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The most that is kept free.
const RESERVE_MAX: u64 = 256 << 20;
/// Of a small disk, this part of it is kept free.
const RESERVE_PART: u64 = 4;

/// The room on a disk, in bytes.
#[derive(Debug, Clone, Copy)]
struct Space {
    total: u64,
    free: u64,
}

/// Looks at the disk of a folder.
#[derive(Debug)]
pub struct DiskRoom {
    folder: PathBuf,
    /// It was short when it was looked at last.
    is_short: AtomicBool,
}

impl DiskRoom {
    /// Of the disk that `folder` is on.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), is_short: AtomicBool::new(false) }
    }

    /// Why nothing more should be taken in; none where there is room, or nobody knows. The text is the same each time.
    pub fn shortage(&self) -> Option<String> {
        let space = space(&self.folder).ok()?;
        let (needed, is_short) = needed(space, self.is_short.load(Ordering::Relaxed));
        self.is_short.store(is_short, Ordering::Relaxed);
        is_short.then(|| {
            format!(
                "the disk of the data folder {} has less than {} MiB left: make room, it goes on by itself",
                self.folder.display(),
                needed.div_ceil(1 << 20)
            )
        })
    }
}

/// What is kept free, and whether less than that is. Once it was short, a quarter more has to be there.
fn needed(space: Space, was_short: bool) -> (u64, bool) {
    let reserve = RESERVE_MAX.min(space.total / RESERVE_PART);
    let enough = if was_short { reserve + reserve / 4 } else { reserve };
    (reserve, space.free < enough)
}

#[cfg(unix)]
fn space(folder: &Path) -> io::Result<Space> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(Space { total: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
}

#[cfg(not(unix))]
fn space(_folder: &Path) -> io::Result<Space> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_small_disk_is_kept_free_and_a_little_of_a_large_one() {
        let short = |total: u64, free: u64, was: bool| needed(Space { total: total << 20, free: free << 20 }, was).1;
        assert!(!short(16, 4, false) && short(16, 3, false));
        assert!(!short(1_000_000, 256, false) && short(1_000_000, 255, false));
        assert!(short(1_000_000, 256, true), "not on and off with each record");
        assert!(!short(1_000_000, 320, true));
    }

    #[test]
    fn a_disk_with_room_and_a_folder_that_is_gone_hold_nothing_up() {
        let temp = tempfile::tempdir().unwrap();
        assert!(space(temp.path()).unwrap().total > 0);
        assert_eq!(DiskRoom::of(&temp.path().join("gone")).shortage(), None);
    }
}
