//! The meta of a frame, which says what is in it; the layout is in the parent module.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::source::CursorDelta;

use super::frame::{Fields, FrameKind, Header};
use super::types::span;
use super::{Late, ProducerState, Watermark};

const HAS_EVENT_TIME: u8 = 1;
const HAS_TARGET: u8 = 2;
const HAS_WATERMARK: u8 = 4;
const IS_IDLE: u8 = 8;
const IS_END: u8 = HAS_WATERMARK | IS_IDLE;
const HAS_LATE: u8 = 16;
const HAS_SEQUENCE: u8 = 1;
const HAS_CURSOR: u8 = 2;
/// A chunk as a frame describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChunkMeta {
    pub partition: u32,
    pub count: u32,
    pub base_offset: u64,
    pub schema: u64,
    pub payload_len: u32,
    pub payload_crc: u32,
    pub producer: Arc<str>,
    pub sequence: Option<u64>,
    /// Its number in its append.
    pub index: u32,
    pub event_time_max_us: Option<i64>,
    pub watermark: Option<Watermark>,
    pub late: Arc<[Late]>,
    pub target: Option<Arc<str>>,
    /// Where the payload lies in the segment; follows from the lengths.
    pub payload_position: u64,
}

impl ChunkMeta {
    pub fn end_offset(&self) -> u64 {
        self.base_offset + span(self.count)
    }
}

/// What an append, or a snapshot, says about a producer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProducerUpdate {
    pub id: Arc<str>,
    pub sequence: Option<u64>,
    /// None where it is left as it is.
    pub cursor: Option<CursorDelta>,
}

/// The variable part of a frame, being written.
#[derive(Debug, Default)]
pub(super) struct Meta {
    pub bytes: Vec<u8>,
    pub items: u32,
    pub producers: u32,
    pub partitions: u32,
}

impl Meta {
    pub fn new(partitions: u32) -> Self {
        Self { partitions, ..Self::default() }
    }

    /// Adds an append to a data frame, or a producer to a snapshot: all of these first.
    pub fn producer(&mut self, id: &str, sequence: Option<u64>, has_cursor: bool) {
        self.producers += 1;
        self.text16(id);
        let cursor = if has_cursor { HAS_CURSOR } else { 0 };
        self.bytes.push(cursor | if sequence.is_some() { HAS_SEQUENCE } else { 0 });
        if let Some(sequence) = sequence {
            self.u64(sequence);
        }
    }

    /// Adds a chunk of the append that was added as number `append`. Chunks come in the order of their appends.
    pub fn chunk(&mut self, append: u32, chunk: &ChunkMeta) {
        self.items += 1;
        self.u32(append);
        self.u32(chunk.partition);
        self.u32(chunk.count);
        self.u64(chunk.base_offset);
        self.u64(chunk.schema);
        self.u32(chunk.payload_len);
        self.u32(chunk.payload_crc);
        let event_time = if chunk.event_time_max_us.is_some() { HAS_EVENT_TIME } else { 0 };
        let target = if chunk.target.is_some() { HAS_TARGET } else { 0 };
        let watermark = match chunk.watermark {
            Some(Watermark::At(_)) => HAS_WATERMARK,
            Some(Watermark::Idle) => IS_IDLE,
            Some(Watermark::End) => IS_END,
            None => 0,
        };
        let late = if chunk.late.is_empty() { 0 } else { HAS_LATE };
        self.bytes.push(event_time | target | watermark | late);
        if let Some(time) = chunk.event_time_max_us {
            self.u64(time as u64);
        }
        if let Some(target) = &chunk.target {
            self.text16(target);
        }
        if let Some(Watermark::At(time)) = chunk.watermark {
            self.u64(time as u64);
        }
        if !chunk.late.is_empty() {
            self.u32(chunk.late.len() as u32);
            for late in &*chunk.late {
                self.u32(late.row);
                self.u64(late.watermark_us as u64);
            }
        }
    }

    /// Adds a partition of a snapshot.
    pub fn partition(&mut self, partition: u32, next_offset: u64) {
        self.items += 1;
        self.u32(partition);
        self.u64(next_offset);
    }

    /// Adds what an append changes of its producer's cursor. All that were added with one, in their order, last.
    pub fn cursor_delta(&mut self, cursor: &CursorDelta) {
        self.u32(cursor.len() as u32);
        for (key, value) in cursor {
            self.cursor_entry(key, value.as_ref());
        }
    }

    /// Adds the whole cursor of a producer.
    pub fn cursor_snapshot(&mut self, state: &ProducerState) {
        self.u32(state.cursor.len() as u32);
        for (key, value) in &state.cursor {
            self.cursor_entry(key, Some(value));
        }
    }

    fn cursor_entry(&mut self, key: &str, value: Option<&Bytes>) {
        self.u32(key.len() as u32);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.push(u8::from(value.is_some()));
        if let Some(value) = value {
            self.u32(value.len() as u32);
            self.bytes.extend_from_slice(value);
        }
    }

    fn text16(&mut self, text: &str) {
        self.bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
}

/// The chunks of one partition in a data frame; `None` where the bytes are not what the header says.
pub(super) fn chunks_of(header: &Header, meta: &[u8], partition: u32) -> Option<Vec<ChunkMeta>> {
    let mut fields = Fields(meta);
    let heads = read_heads(header, &mut fields)?;
    read_chunks(header, &heads, &mut fields, Some(partition))
}

/// A whole meta.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub chunks: Vec<ChunkMeta>,
    /// Partition and next offset; of a snapshot.
    pub partitions: Vec<(u32, u64)>,
    pub producers: Vec<ProducerUpdate>,
}

/// Everything in the meta of a frame; `None` where the bytes are not what the header says.
pub(super) fn content(header: &Header, meta: &[u8]) -> Option<Content> {
    let mut fields = Fields(meta);
    let mut content = Content { chunks: Vec::new(), partitions: Vec::new(), producers: Vec::new() };
    let heads = read_heads(header, &mut fields)?;
    match header.kind {
        FrameKind::Data => content.chunks = read_chunks(header, &heads, &mut fields, None)?,
        FrameKind::Snapshot => {
            for _ in 0..header.items {
                content.partitions.push((fields.u32()?, fields.u64()?));
            }
        }
    }
    for head in heads {
        let cursor = if head.has_cursor { Some(read_cursor(&mut fields)?) } else { None };
        content.producers.push(ProducerUpdate { id: head.id.into(), sequence: head.sequence, cursor });
    }
    fields.0.is_empty().then_some(content)
}

/// What a frame says of an append, or a snapshot of a producer, in front of everything else.
struct Head<'a> {
    id: &'a str,
    sequence: Option<u64>,
    has_cursor: bool,
}

fn read_heads<'a>(header: &Header, fields: &mut Fields<'a>) -> Option<Vec<Head<'a>>> {
    let mut heads = Vec::with_capacity((header.producers as usize).min(fields.0.len() / 3));
    for _ in 0..header.producers {
        let len = fields.u16()?;
        let id = fields.text(usize::from(len))?;
        let flags = fields.u8()?;
        let sequence = if flags & HAS_SEQUENCE != 0 { Some(fields.u64()?) } else { None };
        heads.push(Head { id, sequence, has_cursor: flags & HAS_CURSOR != 0 });
    }
    Some(heads)
}

/// The chunks, of one partition or of all.
fn read_chunks(
    header: &Header,
    heads: &[Head<'_>],
    fields: &mut Fields<'_>,
    only: Option<u32>,
) -> Option<Vec<ChunkMeta>> {
    let mut chunks = Vec::with_capacity((header.items as usize).min(fields.0.len() / 37));
    let mut payload_position = header.payload_start();
    let (mut last, mut index) = (None, 0);
    // The name of the append that it is of: one for all chunks of an append that are kept.
    let mut name: Option<(u32, Arc<str>)> = None;
    for _ in 0..header.items {
        let append = fields.u32()?;
        index = if last == Some(append) { index + 1 } else { 0 };
        if last.is_some_and(|last| last > append) {
            return None;
        }
        last = Some(append);
        let head = heads.get(append as usize)?;
        let (partition, count) = (fields.u32()?, fields.u32()?);
        let (base_offset, schema) = (fields.u64()?, fields.u64()?);
        let (payload_len, payload_crc) = (fields.u32()?, fields.u32()?);
        let flags = fields.u8()?;
        let event_time_max_us = if flags & HAS_EVENT_TIME != 0 { Some(fields.u64()? as i64) } else { None };
        let target = match flags & HAS_TARGET {
            0 => None,
            _ => {
                let len = fields.u16()?;
                Some(fields.text(usize::from(len))?)
            }
        };
        let watermark = match (flags & HAS_WATERMARK != 0, flags & IS_IDLE != 0) {
            (false, false) => None,
            (true, false) => Some(Watermark::At(fields.u64()? as i64)),
            (false, true) => Some(Watermark::Idle),
            (true, true) => Some(Watermark::End),
        };
        let late = if flags & HAS_LATE != 0 { read_late(fields, count)? } else { [].into() };
        base_offset.checked_add(span(count))?;
        if only.is_none_or(|only| only == partition) {
            let producer = match &name {
                Some((of, name)) if *of == append => name.clone(),
                _ => name.insert((append, head.id.into())).1.clone(),
            };
            chunks.push(ChunkMeta {
                partition,
                count,
                base_offset,
                schema,
                payload_len,
                payload_crc,
                producer,
                sequence: head.sequence,
                index,
                event_time_max_us,
                watermark,
                late,
                target: target.map(Into::into),
                payload_position,
            });
        }
        payload_position += u64::from(payload_len);
    }
    (payload_position <= header.end()).then_some(chunks)
}

fn read_late(fields: &mut Fields<'_>, count: u32) -> Option<Arc<[Late]>> {
    let len = fields.u32()?;
    let mut late = Vec::with_capacity((len as usize).min(fields.0.len() / 12));
    for _ in 0..len {
        late.push(Late { row: fields.u32()?, watermark_us: fields.u64()? as i64 });
    }
    late.iter().all(|late| late.row < count).then(|| late.into())
}

fn read_cursor(fields: &mut Fields<'_>) -> Option<CursorDelta> {
    let entries = fields.u32()?;
    let mut cursor = CursorDelta::new();
    for _ in 0..entries {
        let key_len = fields.u32()?;
        let key = fields.text(key_len as usize)?.to_owned();
        let value = if fields.u8()? == 0 {
            None
        } else {
            let value_len = fields.u32()?;
            Some(Bytes::copy_from_slice(fields.take(value_len as usize)?))
        };
        cursor.push((key, value));
    }
    Some(cursor)
}
