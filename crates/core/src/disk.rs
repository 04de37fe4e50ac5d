//! The only way to the disk for what must survive a crash: a small seam, the real disk behind it, and a faulty one for
//! tests ([`faulty::FaultyDisk`]).
//!
//! What a caller may rely on after a power cut, and no more: bytes written before a successful [`DiskFile::sync`] are
//! there; names created, renamed or removed before a successful [`Disk::sync_dir`] of their folder are so; anything
//! later may be there, be missing, or be there in part.

mod access;
pub mod faulty;
mod slow;

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::Path;

pub use access::{
    create_fresh, create_private_dir_all, is_open_to_others, make_private, make_tree_private, private_options,
};
pub use faulty::{Fault, FaultyDisk};
pub use slow::SlowDisk;

use crate::descriptors::wait_for_one;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To read; it must exist.
    Read,
    /// To read and write; it must exist.
    Write,
    /// To read and write; it must not exist yet.
    CreateNew,
}

/// A place that keeps files. Every call blocks.
pub trait Disk: Debug + Send + Sync {
    /// Creates a folder and its parents, where they are missing.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;

    /// The names of the files in a folder, sorted; no folders.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// True where there is a file or folder of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The length of a file, in bytes.
    fn file_len(&self, path: &Path) -> io::Result<u64>;

    /// Removes a file. Handles that are open stay usable.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Renames a file, in one step, over whatever had the new name. Both names are in one folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Reads at `position`, as many bytes as there are and fit; 0 at the end.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `position`. After an error, any part of them may have been written.
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// Makes everything written durable. After an error, nobody knows what of it is: do not sync again and believe it.
    fn sync(&self) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    fn truncate(&self, len: u64) -> io::Result<()>;

    /// The length, in bytes.
    fn file_len(&self) -> io::Result<u64>;

    /// True where `path` leads to this very file: nobody has removed, renamed or replaced it, or a folder above it.
    fn is_at(&self, path: &Path) -> io::Result<bool>;

    /// Fills `buffer` from `position`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the file ends earlier.
    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => done += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// All of a file.
pub fn read_all(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = usize::try_from(file.file_len()?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a small file in one step: after a crash it has the old or the new content, never a part.
///
/// Writes `path` + `.tmp`, syncs it, renames it over `path` and syncs the folder. A `.tmp` that a crash left is
/// replaced.
pub fn write_atomic(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(path);
    name.push(".tmp");
    let tmp = Path::new(&name);
    if disk.exists(tmp)? {
        disk.remove(tmp)?;
    }
    let file = disk.open(tmp, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync()?;
    drop(file);
    disk.rename(tmp, path)?;
    match path.parent() {
        Some(dir) => disk.sync_dir(dir),
        None => Ok(()),
    }
}

/// The machine's own disk. What it makes is its owner's alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        create_private_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in wait_for_one(|| std::fs::read_dir(dir))? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let write = mode != OpenMode::Read;
        let create = mode == OpenMode::CreateNew;
        // A segment is replaced by nobody's link; what is only read may be one.
        let options = || if write { private_options() } else { File::options() };
        let file = wait_for_one(|| options().read(true).write(write).create_new(create).open(path))?;
        Ok(Box::new(RealFile(file)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn file_len(&self, path: &Path) -> io::Result<u64> {
        Ok(std::fs::metadata(path)?.len())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        // `Path::parent` of a bare name is the empty path, which means the current folder.
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        wait_for_one(|| File::open(dir))?.sync_all()
    }

    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        // Windows journals names itself and can't sync a folder.
        Ok(())
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, position)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buffer, position)
    }

    #[cfg(unix)]
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, bytes, position)
    }

    #[cfg(windows)]
    fn write_all_at(&self, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = std::os::windows::fs::FileExt::seek_write(&self.0, bytes, position)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            bytes = &bytes[written..];
            position += written as u64;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // `sync_data` keeps the length too, where it changed; it only skips times and modes.
        self.0.sync_data()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn file_len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    #[cfg(unix)]
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let own = self.0.metadata()?;
        match std::fs::metadata(path) {
            Ok(there) => Ok(own.nlink() > 0 && (own.dev(), own.ino()) == (there.dev(), there.ino())),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }

    #[cfg(not(unix))]
    fn is_at(&self, path: &Path) -> io::Result<bool> {
        // Windows does not remove or rename what is open.
        path.try_exists()
    }
}
