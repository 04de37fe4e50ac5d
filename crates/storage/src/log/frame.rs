//! The head of a frame; the layout is in the parent module.

use crc32c::crc32c;
use millstream_core::source::{Cursor, CursorDelta};

use super::meta::Meta;

pub(super) const HEADER_BYTES: usize = 64;
pub(super) const ALIGNMENT: u64 = 8;
pub(super) const MAGIC: [u8; 4] = *b"MSLF";
pub(super) const VERSION: u16 = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    Data,
    Snapshot,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: FrameKind,
    pub group: u64,
    pub position: u64,
    pub append_time_ms: i64,
    pub meta_len: u32,
    pub meta_crc: u32,
    pub frame_len: u64,
    /// Chunks of a data frame, partitions of a snapshot.
    pub items: u32,
    /// Appends of a data frame, producers of a snapshot.
    pub producers: u32,
    pub partitions: u32,
}

/// What 64 bytes turn out to be.
#[derive(Debug)]
pub(super) enum HeaderRead {
    Valid(Header),
    /// Whole, but of a format version that this program does not read.
    Other(u16),
    Bad,
}

impl Header {
    /// The header of a frame with this meta and these payload bytes.
    pub fn new(kind: FrameKind, group: u64, position: u64, append_time_ms: i64, meta: &Meta, payload: u64) -> Self {
        let len = HEADER_BYTES as u64 + meta.bytes.len() as u64 + payload;
        Self {
            kind,
            group,
            position,
            append_time_ms,
            meta_len: meta.bytes.len() as u32,
            meta_crc: crc32c(&meta.bytes),
            frame_len: len.next_multiple_of(ALIGNMENT),
            items: meta.items,
            producers: meta.producers,
            partitions: meta.partitions,
        }
    }

    pub fn end(&self) -> u64 {
        self.position + self.frame_len
    }

    pub fn payload_start(&self) -> u64 {
        self.position + HEADER_BYTES as u64 + u64::from(self.meta_len)
    }

    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&u16::from(self.kind == FrameKind::Snapshot).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.group.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.position.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.append_time_ms.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.meta_len.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.meta_crc.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.frame_len.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.items.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.producers.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.partitions.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header of a frame that begins at `position`.
    pub fn decode(bytes: &[u8], position: u64) -> HeaderRead {
        Self::fields(bytes, position).unwrap_or(HeaderRead::Bad)
    }

    fn fields(bytes: &[u8], position: u64) -> Option<HeaderRead> {
        let checked = bytes.get(..60)?;
        let mut fields = Fields(bytes);
        if fields.take(4)? != MAGIC {
            return None;
        }
        let version = fields.u16()?;
        let kind = fields.u16()?;
        let header = Self {
            kind: if kind == 0 { FrameKind::Data } else { FrameKind::Snapshot },
            group: fields.u64()?,
            position: fields.u64()?,
            append_time_ms: fields.u64()? as i64,
            meta_len: fields.u32()?,
            meta_crc: fields.u32()?,
            frame_len: fields.u64()?,
            items: fields.u32()?,
            producers: fields.u32()?,
            partitions: fields.u32()?,
        };
        if fields.u32()? != crc32c(checked) || header.position != position {
            return None;
        }
        if version != VERSION {
            return Some(HeaderRead::Other(version));
        }
        let fits = header.frame_len >= HEADER_BYTES as u64 + u64::from(header.meta_len)
            && header.frame_len.is_multiple_of(ALIGNMENT)
            && position.checked_add(header.frame_len).is_some();
        (fits && kind <= 1).then_some(HeaderRead::Valid(header))
    }
}

/// Applies changes to a cursor.
pub(super) fn apply_cursor(cursor: &mut Cursor, delta: CursorDelta) {
    for (key, value) in delta {
        match value {
            Some(value) => cursor.insert(key, value),
            None => cursor.remove(&key),
        };
    }
}

/// Little-endian fields, taken from the front.
pub(super) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn text(&mut self, len: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(len)?).ok()
    }
}
