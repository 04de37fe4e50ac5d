//! The bytes of a weight file: mapped into memory, or a part of the program.

use std::borrow::Cow;
use std::fs::File;
use std::path::Path;

use memmap2::Mmap;
use millstream_core::{Result, ResultExt};

/// All bytes of a file.
pub enum FileBytes {
    /// Of a file that is mapped.
    Mapped(Mmap),
    /// In memory anyway: a part of the program.
    InMemory(Cow<'static, [u8]>),
}

impl FileBytes {
    /// The bytes of `path`, mapped into memory.
    ///
    /// # Errors
    /// `Environment`: the file can't be opened or mapped.
    pub fn map(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| format!("open {}", path.display()))?;
        // SAFETY: the mapping is only read, as bytes, while the model is checked or loaded. Whoever changes the file
        // during that time makes the model wrong, as they would if it were read.
        unsafe { Mmap::map(&file) }.map(Self::Mapped).doing(|| format!("map {} into memory", path.display()))
    }

    /// All of them.
    pub fn all(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::InMemory(bytes) => bytes,
        }
    }

    /// Says that `length` bytes from `start` on, all of them inside, are not needed for now: the pages of a mapped file
    /// no longer count as memory of this process, and the system may keep them or not. They can still be read.
    pub fn release(&self, start: usize, length: usize) {
        #[cfg(unix)]
        if let (Self::Mapped(map), 1..) = (self, length) {
            // SAFETY: the mapping is shared and read-only, so its pages hold what the file holds: a reader that comes
            // back, now or later, finds the same bytes. Where the system refuses, the pages stay, which is no harm.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, length) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = FileBytes::map(&path).unwrap();
        for (start, length) in [(0, content.len()), (5000, 20_000), (content.len() - 1, 1), (7, 0)] {
            assert!(bytes.all() == content);
            bytes.release(start, length);
        }
        assert!(bytes.all() == content);
    }
}
