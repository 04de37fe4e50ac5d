//! Reading a segment file: frames one after another, payloads by position, everything checked.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc32c::{crc32c, crc32c_append};
use millstream_core::disk::{Disk, DiskFile, OpenMode};
use millstream_core::{Error, Result, ResultExt};

use super::frame::{self, ALIGNMENT, FrameKind, HEADER_BYTES, Header, HeaderRead};
use super::meta::{self, ChunkMeta, Content};

/// How much is read from the file at once.
const BLOCK_BYTES: usize = 256 << 10;

/// The file of the segment that begins with frame `base_group`.
pub(super) fn segment_path(dir: &Path, base_group: u64) -> PathBuf {
    dir.join(format!("{base_group:020}.seg"))
}

/// The file of its index.
pub(super) fn index_path(dir: &Path, base_group: u64) -> PathBuf {
    dir.join(format!("{base_group:020}.idx"))
}

/// What is found where a frame should begin.
#[derive(Debug)]
pub(super) enum FrameRead {
    /// A frame whose header and meta check. Payloads are checked when they are read.
    Frame(Frame),
    /// The file ends here.
    End,
    /// No whole frame.
    Bad(BadFrame),
}

/// Why something is no frame.
#[derive(Debug)]
pub(super) struct BadFrame {
    pub position: u64,
    pub reason: &'static str,
    /// Where the frame ends, if its header checks.
    pub end: Option<u64>,
}

/// A frame's header and the bytes of its meta, which match the header's CRC.
#[derive(Debug)]
pub(super) struct Frame {
    pub header: Header,
    meta: Vec<u8>,
}

/// Reads through one segment, a block at a time.
#[derive(Debug)]
pub(super) struct SegmentReader {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    /// Nothing at or beyond this position is looked at.
    limit: u64,
    block: Vec<u8>,
    block_start: u64,
}

impl SegmentReader {
    /// Opens a segment up to `limit` bytes, or all of it.
    pub fn open(disk: &dyn Disk, path: PathBuf, limit: Option<u64>) -> Result<Self> {
        let open = || {
            let file = disk.open(&path, OpenMode::Read)?;
            let len = file.file_len()?;
            Ok::<_, std::io::Error>((file, len))
        };
        let (file, len) = open().doing(|| format!("open segment {}", path.display()))?;
        match limit {
            Some(limit) if limit > len => {
                let what = format!("ends here, but {limit} bytes had been written");
                Err(corrupt(&path, len, &what))
            }
            _ => Ok(Self { path, file, limit: limit.unwrap_or(len), block: Vec::new(), block_start: 0 }),
        }
    }

    /// Lets the reader see what has been appended meanwhile.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Up to where the file is read.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// An error that says what is wrong where.
    pub fn corrupt(&self, position: u64, what: &str) -> Error {
        corrupt(&self.path, position, what)
    }

    /// The frame at `position`.
    ///
    /// # Errors
    /// The file can't be read, or is of a newer version. What does not check is [`FrameRead::Bad`].
    pub fn frame_at(&mut self, position: u64) -> Result<FrameRead> {
        let left = self.limit.saturating_sub(position);
        if left == 0 {
            return Ok(FrameRead::End);
        }
        let bad = |reason, end| Ok(FrameRead::Bad(BadFrame { position, reason, end }));
        if left < HEADER_BYTES as u64 {
            return bad("a frame header is cut short", None);
        }
        let header = match Header::decode(self.bytes(position, HEADER_BYTES)?, position) {
            HeaderRead::Valid(header) => header,
            HeaderRead::Other(version) => return Err(other_version(&self.path, u32::from(version))),
            HeaderRead::Bad => return bad("a frame header does not check", None),
        };
        if left < header.frame_len {
            return bad("a frame is cut short", Some(header.end()));
        }
        let meta = self.bytes(position + HEADER_BYTES as u64, header.meta_len as usize)?;
        if crc32c(meta) != header.meta_crc {
            return bad("the meta of a frame does not match its CRC", Some(header.end()));
        }
        let meta = meta.to_vec();
        Ok(FrameRead::Frame(Frame { header, meta }))
    }

    /// The frame at `position`, which had been written whole; none at the end.
    ///
    /// # Errors
    /// Also where it does not check.
    pub fn sound_frame_at(&mut self, position: u64) -> Result<Option<Frame>> {
        match self.frame_at(position)? {
            FrameRead::Frame(frame) => Ok(Some(frame)),
            FrameRead::End => Ok(None),
            FrameRead::Bad(bad) => Err(self.corrupt(bad.position, bad.reason)),
        }
    }

    /// The chunks of one partition in a frame.
    pub fn chunks_of(&self, frame: &Frame, partition: u32) -> Result<Vec<ChunkMeta>> {
        match frame.header.kind {
            FrameKind::Snapshot => Ok(Vec::new()),
            FrameKind::Data => {
                meta::chunks_of(&frame.header, &frame.meta, partition).ok_or_else(|| self.unreadable(frame))
            }
        }
    }

    /// Everything that a frame says.
    pub fn content(&self, frame: &Frame) -> Result<Content> {
        meta::content(&frame.header, &frame.meta).ok_or_else(|| self.unreadable(frame))
    }

    fn unreadable(&self, frame: &Frame) -> Error {
        self.corrupt(frame.header.position, "a frame checks, but its content can't be read")
    }

    /// The payload of a chunk, checked.
    pub fn payload(&mut self, chunk: &ChunkMeta) -> Result<Bytes> {
        let len = chunk.payload_len as usize;
        let payload = if len <= BLOCK_BYTES {
            // A copy, so that a chunk that is kept does not keep the block.
            Bytes::copy_from_slice(self.bytes(chunk.payload_position, len)?)
        } else {
            let mut payload = vec![0; len];
            self.read_exact(&mut payload, chunk.payload_position)?;
            payload.into()
        };
        if crc32c(&payload) != chunk.payload_crc {
            return Err(self.corrupt(chunk.payload_position, PAYLOAD_CRC));
        }
        Ok(payload)
    }

    /// True where the payload of a chunk matches its CRC. Holds no more than a block of it.
    fn payload_checks(&mut self, chunk: &ChunkMeta) -> Result<bool> {
        let (mut crc, mut position) = (0, chunk.payload_position);
        let end = position + u64::from(chunk.payload_len);
        while position < end {
            let len = (end - position).min(BLOCK_BYTES as u64) as usize;
            crc = crc32c_append(crc, self.bytes(position, len)?);
            position += len as u64;
        }
        Ok(crc == chunk.payload_crc)
    }

    /// The frame at `position` with its content, all payloads and the padding checked.
    pub fn checked_frame_at(&mut self, position: u64) -> Result<CheckedRead> {
        let frame = match self.frame_at(position)? {
            FrameRead::Frame(frame) => frame,
            FrameRead::End => return Ok(CheckedRead::End),
            FrameRead::Bad(bad) => return Ok(CheckedRead::Bad(bad)),
        };
        let content = self.content(&frame)?;
        let end = frame.header.end();
        let mut payload_end = frame.header.payload_start();
        for chunk in &content.chunks {
            if !self.payload_checks(chunk)? {
                return Ok(CheckedRead::Bad(BadFrame { position, reason: PAYLOAD_CRC, end: Some(end) }));
            }
            payload_end += u64::from(chunk.payload_len);
        }
        let padding = end - payload_end;
        if padding >= ALIGNMENT || self.bytes(payload_end, padding as usize)?.iter().any(|&byte| byte != 0) {
            return Ok(CheckedRead::Bad(BadFrame {
                position,
                reason: "a frame is not padded with zeros",
                end: Some(end),
            }));
        }
        Ok(CheckedRead::Frame(frame.header, content))
    }

    /// The position of a whole header behind `position` that is of a group above `group`: what lies at `position` had
    /// then been durable.
    pub fn later_header(&mut self, position: u64, group: u64) -> Result<Option<u64>> {
        let mut at = position + ALIGNMENT;
        while at + HEADER_BYTES as u64 <= self.limit {
            // The cheap comparison first: a header is decoded only where the magic is.
            let bytes = self.bytes(at, HEADER_BYTES)?;
            if bytes.starts_with(&frame::MAGIC) {
                match Header::decode(bytes, at) {
                    HeaderRead::Valid(header) if header.group > group => return Ok(Some(at)),
                    HeaderRead::Other(version) => return Err(other_version(&self.path, u32::from(version))),
                    _ => {}
                }
            }
            at += ALIGNMENT;
        }
        Ok(None)
    }

    /// `len` bytes at `position`, from the block or by reading the next one.
    fn bytes(&mut self, position: u64, len: usize) -> Result<&[u8]> {
        let end = position + len as u64;
        if position < self.block_start || end > self.block_start + self.block.len() as u64 {
            let left = self.limit.saturating_sub(position);
            let block_len = left.min(len.max(BLOCK_BYTES) as u64) as usize;
            let mut block = std::mem::take(&mut self.block);
            block.resize(block_len.max(len), 0);
            self.read_exact(&mut block, position)?;
            self.block = block;
            self.block_start = position;
        }
        let start = (position - self.block_start) as usize;
        Ok(&self.block[start..start + len])
    }

    fn read_exact(&self, buffer: &mut [u8], position: u64) -> Result<()> {
        self.file.read_exact_at(buffer, position).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt(position, "the file is shorter than what was written"),
            _ => Error::from(e).context(format!("read segment {} at byte {position}", self.path.display())),
        })
    }
}

/// As [`FrameRead`], with everything checked.
#[derive(Debug)]
pub(super) enum CheckedRead {
    Frame(Header, Content),
    End,
    Bad(BadFrame),
}

const PAYLOAD_CRC: &str = "the payload of a chunk does not match its CRC";

/// An error that says what is wrong where, and what to do.
pub(super) fn corrupt(path: &Path, position: u64, what: &str) -> Error {
    Error::corruption(format!("{} at byte {position}: {what}", path.display())).advise(
        "the file was damaged after it was written: restore it from a backup, or move the stream's folder away and \
         read the source again",
    )
}

/// An error for files that another version of the program wrote.
pub(super) fn other_version(path: &Path, version: u32) -> Error {
    let (path, known) = (path.display(), u32::from(frame::VERSION));
    Error::environment(if version > known {
        format!(
            "{path} was written by a newer version of Millstream (log format {version}, this program knows up to \
             {known}): start that version; nothing has been changed"
        )
    } else {
        format!(
            "{path} was written before the first release of Millstream (log format {version}, this program knows \
             {known}): take another folder with --data-dir, and read the sources again; nothing has been changed"
        )
    })
}
