//! Where what is in a segment: one entry per partition about every 64 KiB of the file, and the segment's summary.
//!
//! The index of the newest segment is in memory; a sealed segment's is in its `.idx` file, read when a reader has to
//! find its place. It can always be made again from the segment.
//!
//! ```text
//!  0  4  magic "MSLI"          4  4  format version, 1
//!  8  8  base group           16  8  last group
//! 24  8  segment length       32  8  append time of the last frame, ms
//! 40  4  partitions in here   44  4  zero
//! per partition: partition u32, entries u32, start offset u64, end offset u64, payload bytes u64,
//!                and per entry: offset u64, position of its frame u64, append time ms u64, payload bytes before u64
//! CRC32C u32 of all before it
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use crc32c::crc32c;
use millstream_core::Result;
use millstream_core::disk::{Disk, read_all, write_atomic};

use super::frame::{Fields, Header};
use super::meta::ChunkMeta;
use super::segment::{index_path, other_version};

const MAGIC: [u8; 4] = *b"MSLI";
const VERSION: u32 = 1;
const INTERVAL_BYTES: u64 = 64 << 10;

/// A place in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The first offset of a chunk.
    pub offset: u64,
    /// Where the frame begins that holds the chunk.
    pub position: u64,
    pub append_time_ms: i64,
    /// Payload bytes of the partition in this segment before the chunk.
    pub payload_bytes_before: u64,
}

/// What a segment holds of one partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PartitionIndex {
    /// The partition's next offset when the segment was begun.
    pub start: u64,
    /// The partition's next offset after the segment.
    pub end: u64,
    pub payload_bytes: u64,
    pub entries: Vec<IndexEntry>,
}

/// What a segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub base_group: u64,
    pub last_group: u64,
    /// The segment's length, in bytes.
    pub len: u64,
    pub last_time_ms: i64,
    /// By partition; one without chunks so far may be absent, and then starts and ends at 0.
    pub partitions: BTreeMap<u32, PartitionIndex>,
}

impl SegmentIndex {
    /// The index of a segment that holds only its snapshot frame.
    pub fn new(snapshot: &Header, next_offsets: impl IntoIterator<Item = (u32, u64)>) -> Self {
        let partitions = next_offsets
            .into_iter()
            .map(|(partition, next)| (partition, PartitionIndex { start: next, end: next, ..Default::default() }))
            .collect();
        Self {
            base_group: snapshot.group,
            last_group: snapshot.group,
            len: snapshot.end(),
            last_time_ms: snapshot.append_time_ms,
            partitions,
        }
    }

    /// Takes in the next frame; false where its offsets do not follow on those before.
    pub fn add(&mut self, header: &Header, chunks: &[ChunkMeta]) -> bool {
        for chunk in chunks {
            let partition = self.partitions.entry(chunk.partition).or_default();
            if chunk.base_offset != partition.end {
                return false;
            }
            if partition.entries.last().is_none_or(|e| header.position >= e.position + INTERVAL_BYTES) {
                partition.entries.push(IndexEntry {
                    offset: chunk.base_offset,
                    position: header.position,
                    append_time_ms: header.append_time_ms,
                    payload_bytes_before: partition.payload_bytes,
                });
            }
            partition.end = chunk.end_offset();
            partition.payload_bytes += u64::from(chunk.payload_len);
        }
        self.last_group = header.group;
        self.len = header.end();
        self.last_time_ms = header.append_time_ms;
        true
    }

    /// A partition's offset behind this segment.
    pub fn end(&self, partition: u32) -> u64 {
        self.partitions.get(&partition).map_or(0, |p| p.end)
    }

    /// The position of a frame at or before the one that holds `offset`; none where the segment has nothing of the
    /// partition.
    pub fn position_of(&self, partition: u32, offset: u64) -> Option<u64> {
        let entries = &self.partitions.get(&partition)?.entries;
        let after = entries.partition_point(|e| e.offset <= offset);
        Some(entries.get(after.saturating_sub(1))?.position)
    }

    /// The position of a frame at or before the first of the partition that was appended at or after `time_ms`.
    pub fn position_of_time(&self, partition: u32, time_ms: i64) -> Option<u64> {
        let entries = &self.partitions.get(&partition)?.entries;
        let after = entries.partition_point(|e| e.append_time_ms < time_ms);
        Some(entries.get(after.saturating_sub(1))?.position)
    }

    /// Payload bytes of a partition in this segment before `offset`, to within an entry's distance.
    pub fn payload_bytes_before(&self, partition: u32, offset: u64) -> u64 {
        let Some(partition) = self.partitions.get(&partition) else { return 0 };
        let after = partition.entries.partition_point(|e| e.offset <= offset);
        let low = after.checked_sub(1).and_then(|i| partition.entries.get(i));
        let (low_offset, low_bytes) = low.map_or((partition.start, 0), |e| (e.offset, e.payload_bytes_before));
        let high = partition.entries.get(after);
        let (high_offset, high_bytes) =
            high.map_or((partition.end, partition.payload_bytes), |e| (e.offset, e.payload_bytes_before));
        between(offset, (low_offset, low_bytes), (high_offset, high_bytes))
    }

    /// Writes the `.idx` file.
    pub fn store(&self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        Ok(write_atomic(disk, &index_path(dir, self.base_group), &self.encode())?)
    }

    /// Reads the `.idx` file of a segment; `None` where it is missing or damaged.
    ///
    /// # Errors
    /// It is of a newer version.
    pub fn load(disk: &dyn Disk, dir: &Path, base_group: u64) -> Result<Option<Self>> {
        let path = index_path(dir, base_group);
        let Ok(bytes) = read_all(disk, &path) else { return Ok(None) };
        match Self::decode(&bytes) {
            Ok(index) => Ok(index.filter(|i| i.base_group == base_group)),
            Err(version) => Err(other_version(&path, version)),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for value in [self.base_group, self.last_group, self.len, self.last_time_ms as u64] {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.partitions.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for (partition, index) in &self.partitions {
            bytes.extend_from_slice(&partition.to_le_bytes());
            bytes.extend_from_slice(&(index.entries.len() as u32).to_le_bytes());
            for value in [index.start, index.end, index.payload_bytes] {
                bytes.extend_from_slice(&value.to_le_bytes());
            }
            for e in &index.entries {
                for value in [e.offset, e.position, e.append_time_ms as u64, e.payload_bytes_before] {
                    bytes.extend_from_slice(&value.to_le_bytes());
                }
            }
        }
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `Ok(None)` where the bytes are damaged; `Err` with the version where it is a newer one.
    fn decode(bytes: &[u8]) -> Result<Option<Self>, u32> {
        let Some((body, crc)) = bytes.split_last_chunk::<4>() else { return Ok(None) };
        if u32::from_le_bytes(*crc) != crc32c(body) {
            return Ok(None);
        }
        let mut fields = Fields(body);
        if fields.take(4) != Some(&MAGIC) {
            return Ok(None);
        }
        match fields.u32() {
            Some(version) if version > VERSION => Err(version),
            _ => Ok(Self::decode_fields(&mut fields)),
        }
    }

    fn decode_fields(fields: &mut Fields<'_>) -> Option<Self> {
        let mut index = Self {
            base_group: fields.u64()?,
            last_group: fields.u64()?,
            len: fields.u64()?,
            last_time_ms: fields.u64()? as i64,
            partitions: BTreeMap::new(),
        };
        let partitions = fields.u32()?;
        fields.u32()?;
        for _ in 0..partitions {
            let partition = fields.u32()?;
            let entries = fields.u32()?;
            let mut read = PartitionIndex {
                start: fields.u64()?,
                end: fields.u64()?,
                payload_bytes: fields.u64()?,
                entries: Vec::with_capacity((entries as usize).min(fields.0.len() / 32)),
            };
            for _ in 0..entries {
                read.entries.push(IndexEntry {
                    offset: fields.u64()?,
                    position: fields.u64()?,
                    append_time_ms: fields.u64()? as i64,
                    payload_bytes_before: fields.u64()?,
                });
            }
            index.partitions.insert(partition, read);
        }
        fields.0.is_empty().then_some(index)
    }
}

/// The bytes at `offset` on the line between two known (offset, bytes).
pub(super) fn between(offset: u64, low: (u64, u64), high: (u64, u64)) -> u64 {
    let (span, part) = (high.0.saturating_sub(low.0), offset.clamp(low.0, high.0.max(low.0)) - low.0);
    let bytes = high.1.saturating_sub(low.1);
    let share = u128::from(bytes) * u128::from(part) / u128::from(span.max(1));
    low.1 + share as u64
}
