//! Reading one partition in order: from memory where the reader keeps up, else from the segments.

use std::sync::Arc;

use millstream_core::Result;

use super::LogChunk;
use super::index::SegmentIndex;
use super::limits::beyond_end;
use super::meta::ChunkMeta;
use super::recovery;
use super::segment::{SegmentReader, segment_path};
use super::shared::Shared;
use super::writer::log_chunk;

/// What a chunk counts in [`Reader::read`] on top of its payload, so that tiny chunks are bounded too.
const CHUNK_BYTES: usize = 128;

/// Reads the chunks of one partition, in order. Not tied to the writer: it can be used after the log is closed.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    partition: u32,
    slot: usize,
    position: u64,
    /// Offsets that were gone when it came to them, since somebody asked.
    skipped: u64,
    place: Option<Place>,
}

/// Where a reader stands in a file.
#[derive(Debug)]
struct Place {
    base_group: u64,
    segment: SegmentReader,
    /// The frame that comes next.
    frame: u64,
    /// The offset that comes next; a seek elsewhere makes the place useless.
    offset: u64,
}

/// What is to be read from, as published.
#[derive(Debug)]
pub(super) struct Source {
    base_group: u64,
    len: u64,
    is_active: bool,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, partition: u32, from: u64) -> Result<Self> {
        let slot = shared.slot(partition)?;
        let end = shared.state.read().ends[slot];
        if from > end {
            return Err(beyond_end(&shared.name, partition, from, end));
        }
        Ok(Self { shared, partition, slot, position: from, skipped: 0, place: None })
    }

    /// This reader with its place, to go on elsewhere; what stays is in the same position.
    pub(super) fn take(&mut self) -> Self {
        Self { shared: self.shared.clone(), place: self.place.take(), ..*self }
    }

    /// The offset that comes next.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Goes to another offset. One below the start is moved up to it by the next read, one at or beyond the end reads
    /// nothing until the log gets there.
    pub fn seek(&mut self, offset: u64) {
        self.position = offset;
    }

    /// See [`super::LogReader::skipped`].
    pub fn skipped(&mut self) -> u64 {
        std::mem::take(&mut self.skipped)
    }

    /// What [`Reader::read`] would give, from memory; else the segment to read from.
    pub(super) fn read_kept(&mut self, max_bytes: usize) -> Result<Vec<LogChunk>, Source> {
        let state = self.shared.state.read();
        let start = state.start(self.slot);
        self.skipped += start.saturating_sub(self.position);
        self.position = self.position.max(start);
        let found = if self.position >= state.ends[self.slot] {
            Some(Vec::new())
        } else {
            state.tail.read(self.slot, self.position, max_bytes)
        };
        let Some(found) = found else {
            let i = state.segment_of(self.slot, self.position);
            let base_group = state.segments[i].base_group;
            return Err(Source { base_group, len: state.segment_len(i), is_active: i + 1 == state.segments.len() });
        };
        drop(state);
        // Who keeps up needs no file: neither its descriptor nor the block in memory is kept for it.
        self.place = None;
        if let Some(last) = found.last() {
            self.position = last.end_offset();
        }
        Ok(found)
    }

    /// The next chunks, whole and in order: as many as are at hand and within `max_bytes`, but at least one; none at
    /// the end. The first may begin before the wanted offset. May read from a file, and so block.
    ///
    /// # Errors
    /// `Corruption` names file and position; `Environment` where the disk refuses. The position stays.
    pub fn read(&mut self, max_bytes: usize) -> Result<Vec<LogChunk>> {
        loop {
            let source = match self.read_kept(max_bytes) {
                Ok(found) => return Ok(found),
                Err(source) => source,
            };
            match self.read_file(&source, max_bytes) {
                Ok(found) => {
                    self.position = found.last().map_or(self.position, LogChunk::end_offset);
                    return Ok(found);
                }
                // Deleted by retention between the look and the open: look again.
                Err(_) if self.was_deleted(source.base_group) => self.place = None,
                Err(error) => {
                    self.place = None;
                    return Err(error.context(format!(
                        "read stream `{}`, partition {}, offset {}",
                        self.shared.name, self.partition, self.position
                    )));
                }
            }
        }
    }

    fn was_deleted(&self, base_group: u64) -> bool {
        self.shared.state.read().segments.front().is_some_and(|first| first.base_group > base_group)
    }

    fn read_file(&mut self, source: &Source, max_bytes: usize) -> Result<Vec<LogChunk>> {
        let wanted = self.position;
        let mut place = match self.place.take() {
            Some(place) if place.base_group == source.base_group && place.offset == wanted => place,
            _ => {
                let index_place = |index: &SegmentIndex| index.position_of(self.partition, wanted);
                open_place(&self.shared, source, wanted, index_place)?
            }
        };
        place.segment.set_limit(source.len);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while let Some((frame_time_ms, chunks, next)) = next_frame(&mut place, self.partition)? {
            for chunk in &chunks {
                if chunk.end_offset() <= place.offset {
                    continue;
                }
                if !found.is_empty() && bytes + chunk.payload_len as usize > max_bytes {
                    self.place = Some(place);
                    return Ok(found);
                }
                let payload = place.segment.payload(chunk)?;
                bytes += payload.len() + CHUNK_BYTES;
                place.offset = chunk.end_offset();
                found.push(log_chunk(chunk, frame_time_ms, payload));
            }
            place.frame = next;
        }
        let first = found.first().map(|chunk| chunk.base_offset);
        if first.is_none_or(|first| first > wanted) {
            return Err(place.segment.corrupt(place.frame, &format!("offset {wanted} is not where it should be")));
        }
        self.place = Some(place);
        Ok(found)
    }
}

/// The chunks of a partition in the frame at the place, their append time, and where the next frame is.
fn next_frame(place: &mut Place, partition: u32) -> Result<Option<(i64, Vec<ChunkMeta>, u64)>> {
    let Some(frame) = place.segment.sound_frame_at(place.frame)? else { return Ok(None) };
    let chunks = place.segment.chunks_of(&frame, partition)?;
    Ok(Some((frame.header.append_time_ms, chunks, frame.header.end())))
}

/// Opens a segment at the frame that `find` picks from its index, or at its beginning.
fn open_place(
    shared: &Shared,
    source: &Source,
    offset: u64,
    find: impl Fn(&SegmentIndex) -> Option<u64>,
) -> Result<Place> {
    let disk = shared.disk.as_ref();
    let known = {
        let state = shared.state.read();
        // It may have been sealed since `source` was looked up.
        (source.is_active && state.active.base_group == source.base_group).then(|| find(&state.active))
    };
    let frame = match known {
        Some(frame) => frame,
        None => match SegmentIndex::load(disk, &shared.dir, source.base_group)? {
            Some(index) => find(&index),
            None => find(&recovery::index_of(disk, &shared.dir, source.base_group, source.len)?),
        },
    };
    let path = segment_path(&shared.dir, source.base_group);
    let segment = SegmentReader::open(disk, path, Some(source.len))?;
    Ok(Place { base_group: source.base_group, segment, frame: frame.unwrap_or(0), offset })
}

/// See [`super::DiskLog::offset_at`].
pub(super) fn offset_at(shared: &Shared, partition: u32, time_ms: i64) -> Result<u64> {
    let slot = shared.slot(partition)?;
    // From the first segment that ends at or after the time; one without chunks of the partition leads to the next.
    let (sources, end) = {
        let state = shared.state.read();
        let last = state.segments.len() - 1;
        let first = state.segments.iter().take(last).take_while(|s| s.last_time_ms < time_ms).count();
        let source = |i: usize| Source {
            base_group: state.segments[i].base_group,
            len: state.segment_len(i),
            is_active: i == last,
        };
        ((first..=last).map(source).collect::<Vec<_>>(), state.ends[slot])
    };
    for source in &sources {
        let mut place = open_place(shared, source, 0, |index| index.position_of_time(partition, time_ms))?;
        while let Some((frame_time_ms, chunks, next)) = next_frame(&mut place, partition)? {
            match chunks.first() {
                Some(chunk) if frame_time_ms >= time_ms => return Ok(chunk.base_offset),
                _ => place.frame = next,
            }
        }
    }
    Ok(end)
}
