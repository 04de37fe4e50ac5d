//! A tiny file that is replaced as a whole: a sink's committed offsets.
//!
//! ```text
//! "MSCP" | version u8 = 1 | 3 × 0 | payload length u32 LE | CRC-32C of the payload u32 LE | payload
//! ```
//!
//! Limit: a payload of 16 MiB. After a crash the file holds either the old or the new payload, never a mix of both.

use std::fs::File;
use std::io::{ErrorKind as Io, Read, Write};
use std::path::{Path, PathBuf};

use millstream_core::descriptors::wait_for_one;
use millstream_core::disk::{create_private_dir_all, private_options};
use millstream_core::{Error, Result, ResultExt};

const MAGIC: &[u8; 4] = b"MSCP";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 16;
const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// A payload in a file that changes as a whole. All calls block on the disk.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    path: PathBuf,
}

impl Checkpoint {
    /// The checkpoint at `path`. Creates the folder that it lives in; the file appears with the first [`Self::store`].
    ///
    /// # Errors
    /// The folder can't be created.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            create_private_dir_all(folder).doing(|| format!("create folder {}", folder.display()))?;
        }
        Ok(Self { path: path.to_path_buf() })
    }

    /// The stored payload; `None` where nothing has been stored yet.
    ///
    /// # Errors
    /// `Corruption` where the file is not what was stored, `Environment` where it can't be read or is of a newer version.
    pub fn load(&self) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match wait_for_one(|| File::open(&self.path)) {
            Ok(mut file) => file.read_to_end(&mut bytes).doing(|| self.doing("read"))?,
            Err(e) if e.kind() == Io::NotFound => return Ok(None),
            Err(e) => return Err(Error::from(e).context(self.doing("open"))),
        };
        parse(&bytes).map(Some).doing(|| self.doing("read"))
    }

    /// Replaces the payload. Durable when this returns.
    ///
    /// # Errors
    /// The disk refuses; the old payload is then still in place.
    pub fn store(&self, payload: &[u8]) -> Result<()> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::bug(format!("a checkpoint of {} bytes is over the limit", payload.len())));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
        bytes.extend_from_slice(payload);
        replace_file(&self.path, &bytes).doing(|| self.doing("write"))
    }

    fn doing(&self, what: &str) -> String {
        format!("{what} checkpoint {}", self.path.display())
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.len() < HEADER_BYTES || &bytes[..4] != MAGIC {
        return Err(Error::corruption("this is no checkpoint file"));
    }
    if bytes[4] > VERSION {
        return Err(Error::environment(format!(
            "written by a newer Millstream (format {}, this one reads up to {VERSION}): use that version",
            bytes[4]
        )));
    }
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let payload = &bytes[HEADER_BYTES..];
    if payload.len() != word(8) as usize || crc32c::crc32c(payload) != word(12) {
        return Err(Error::corruption("the checksum does not match"));
    }
    Ok(payload.to_vec())
}

/// Puts `bytes` at `path` so that a crash leaves the old or the new file, and the new one once this has returned:
/// temporary file, fsync, rename, fsync of the folder.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = wait_for_one(|| private_options().write(true).create_new(true).open(&temporary))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(folder) => wait_for_one(|| File::open(folder))?.sync_all(),
            None => Ok(()),
        }
    };
    write().inspect_err(|_| {
        // Nothing more can be done about a file that can't be removed; the next store uses another name.
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use millstream_core::ErrorKind;

    use super::*;

    #[test]
    fn the_last_stored_payload_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sinks/queue.checkpoint");
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.load().unwrap(), None);
        checkpoint.store(b"one").unwrap();
        checkpoint.store(b"").unwrap();
        assert_eq!(checkpoint.load().unwrap(), Some(vec![]));
        checkpoint.store(b"two").unwrap();
        assert_eq!(Checkpoint::open(&path).unwrap().load().unwrap(), Some(b"two".to_vec()));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let checkpoint = Checkpoint::open(&path).unwrap();
        checkpoint.store(b"offsets").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in (0..whole.len()).filter(|at| !(5..8).contains(at)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            std::fs::write(&path, &bytes).unwrap();
            let kind = checkpoint.load().unwrap_err().kind();
            assert_eq!(kind, if at == 4 { ErrorKind::Environment } else { ErrorKind::Corruption }, "byte {at}");
        }
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(checkpoint.load().unwrap_err().kind(), ErrorKind::Corruption, "length {len}");
        }
    }
}
