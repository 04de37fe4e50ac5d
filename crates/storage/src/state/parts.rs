//! Reading an object, or parts of it, from its file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use object_store::GetRange;
#[cfg(target_os = "linux")]
use rustix::io::{ReadWriteFlags, preadv2};

use super::seal::{SEAL_BYTES, Seal};

/// Bytes that a thread which must not wait may copy: a few blocks, some microseconds.
#[cfg(target_os = "linux")]
const READ_AT_ONCE_MAX: usize = 64 << 10;

/// What is read of an object.
pub(super) enum Parts {
    /// Nothing.
    Head,
    One(Option<GetRange>),
    Many(Vec<Range<u64>>),
}

/// Why an object was not read.
pub(super) enum Unread {
    Damaged(&'static str),
    Range(Box<dyn std::error::Error + Send + Sync>),
    Io(io::Error),
}

impl From<io::Error> for Unread {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl Parts {
    /// True of less than the whole: who asks for that will ask for more of the same object.
    pub(super) fn are_some(&self) -> bool {
        matches!(self, Self::One(Some(_)) | Self::Many(_))
    }

    /// The bytes of each part, from the file with this seal, by [`read_from_disk`] or [`read_from_memory`]. A part that
    /// is the whole is compared with the seal.
    pub(super) fn read(
        &self,
        file: &File,
        seal: &Seal,
        read_exactly: impl Fn(&File, &mut [u8], u64) -> io::Result<()>,
    ) -> Result<Vec<Bytes>, Unread> {
        let ranges = match self {
            Self::Head => Vec::new(),
            Self::One(None) => Vec::from_iter([Range { start: 0, end: seal.length }]),
            Self::One(Some(range)) => vec![range.as_range(seal.length).map_err(|e| Unread::Range(Box::new(e)))?],
            Self::Many(ranges) => ranges.clone(),
        };
        let read = |range: Range<u64>| {
            if range.end > seal.length || range.start > range.end {
                let asked = format!("bytes {}..{} of an object of {}", range.start, range.end, seal.length);
                return Err(Unread::Range(asked.into()));
            }
            let mut bytes = vec![0; (range.end - range.start) as usize];
            read_exactly(file, &mut bytes, range.start)?;
            if range == (0..seal.length) {
                seal.check(&bytes).map_err(Unread::Damaged)?;
            }
            Ok(Bytes::from(bytes))
        };
        ranges.into_iter().map(read).collect()
    }
}

/// The seal of a file of `raw` bytes.
pub(super) fn read_seal(file: &File, raw: u64) -> Result<Seal, Unread> {
    let mut tail = vec![0; raw.min(SEAL_BYTES) as usize];
    let at = raw - tail.len() as u64;
    file.read_exact_at(&mut tail, at)?;
    Seal::decode(&tail, raw).map_err(Unread::Damaged)
}

/// Fills `bytes` with those of the file from `at`. It blocks.
pub(super) fn read_from_disk(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    file.read_exact_at(bytes, at)
}

/// The same where they are few and the system has them in memory; otherwise an error, after which the disk must be
/// asked. It does not block.
#[cfg(target_os = "linux")]
pub(super) fn read_from_memory(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    let wanted = bytes.len();
    if wanted > READ_AT_ONCE_MAX {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let read = preadv2(file, &mut [io::IoSliceMut::new(bytes)], at, ReadWriteFlags::NOWAIT)?;
    if read == wanted { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

/// Other systems don't say whether they have it in memory.
#[cfg(not(target_os = "linux"))]
pub(super) fn read_from_memory(_: &File, _: &mut [u8], _: u64) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}
