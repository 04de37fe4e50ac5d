//! A log in memory: the promises of a log and nothing behind them. For tests, and as the second implementation that
//! shows which promises are the seam's and which only the files'. It is gone with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millstream_core::{Clock, Error, Result};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::frame::apply_cursor;
use super::limits::{beyond_end, check_append, no_partition};
use super::shared::{Progress, partition_of_slot, slot};
use super::types::span;
use super::{Append, Appended, Chunk, LogChunk, LogOptions, ProducerState, RetainReport};

/// What a chunk counts in a read on top of its payload.
const CHUNK_BYTES: usize = 128;

/// A stream's log in memory. Clones are the same log.
#[derive(Debug, Clone)]
pub struct MemoryLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    state: RwLock<State>,
    /// Per slot, for those who wait.
    progress: Vec<watch::Sender<Progress>>,
    /// Appends come one after another, also while those who wait are told.
    appends: Mutex<()>,
}

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    /// The slot of each chunk that is kept, oldest first.
    order: VecDeque<usize>,
    producers: HashMap<Arc<str>, ProducerState>,
    bytes: u64,
    last_time_ms: i64,
    is_closed: bool,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    start: u64,
    end: u64,
    chunks: VecDeque<LogChunk>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new(name: &str, options: LogOptions, clock: Arc<dyn Clock>) -> Self {
        let slots = vec![Slot::default(); options.partitions as usize + 1];
        let progress = slots.iter().map(|_| watch::channel(Progress { end: 0, stopped: false }).0).collect();
        let state = State {
            slots,
            order: VecDeque::new(),
            producers: HashMap::new(),
            bytes: 0,
            last_time_ms: i64::MIN,
            is_closed: false,
        };
        let (name, state) = (name.to_owned(), RwLock::new(state));
        Self(Arc::new(Inner { name, options, clock, state, progress, appends: Mutex::default() }))
    }

    pub(super) fn name(&self) -> &str {
        &self.0.name
    }

    pub(super) fn partitions(&self) -> u32 {
        self.0.options.partitions
    }

    pub(super) fn slot(&self, partition: u32) -> Option<usize> {
        slot(partition, self.partitions())
    }

    fn closed(&self) -> Error {
        Error::environment(format!("stream `{}` is closed", self.0.name))
    }

    pub(super) fn append(&self, append: Append) -> Result<Appended> {
        check_append(&self.0.name, self.partitions(), &append)?;
        let _alone = self.0.appends.lock();
        let (answer, moved) = {
            let mut state = self.0.state.write();
            if state.is_closed {
                return Err(self.closed());
            }
            let known = state.producers.get(&append.producer).and_then(|p| p.sequence);
            if append.sequence.zip(known).is_some_and(|(sequence, known)| sequence <= known) {
                return Ok(Appended { first_offsets: Vec::new(), duplicate: true });
            }
            self.store(&mut state, append)
        };
        for (slot, end) in moved {
            self.0.progress[slot].send_modify(|progress| progress.end = end);
        }
        Ok(answer)
    }

    /// The answer, and the new end of each slot that has one.
    fn store(&self, state: &mut State, append: Append) -> (Appended, Vec<(usize, u64)>) {
        let Append { producer, sequence, cursor, chunks } = append;
        state.last_time_ms = self.0.clock.now_ms().max(state.last_time_ms);
        let (mut answer, mut moved) = (Appended::default(), Vec::new());
        for (chunk, index) in chunks.into_iter().zip(0..) {
            let Some(slot) = self.slot(chunk.partition) else { continue };
            let base_offset = state.slots[slot].end;
            answer.first_offsets.push(base_offset);
            let Chunk { partition, count, event_time_max_us, watermark, late, target, schema, payload } = chunk;
            let (append_time_ms, producer) = (state.last_time_ms, producer.clone());
            state.bytes += payload.len() as u64;
            state.slots[slot].end += span(count);
            state.slots[slot].chunks.push_back(LogChunk {
                partition,
                base_offset,
                count,
                append_time_ms,
                producer,
                sequence,
                index,
                event_time_max_us,
                late,
                watermark,
                target,
                schema,
                payload,
            });
            state.order.push_back(slot);
            moved.push((slot, state.slots[slot].end));
        }
        if sequence.is_some() || !cursor.is_empty() {
            let known = state.producers.entry(producer).or_default();
            known.sequence = sequence.or(known.sequence);
            apply_cursor(&mut known.cursor, cursor);
        }
        (answer, moved)
    }

    pub(super) fn producer(&self, id: &str) -> Option<ProducerState> {
        self.0.state.read().producers.get(id).cloned()
    }

    /// The first offset that is kept, and the end.
    pub(super) fn bounds(&self, partition: u32) -> (u64, u64) {
        let Some(slot) = self.slot(partition) else { return (0, 0) };
        let state = self.0.state.read();
        (state.slots[slot].start, state.slots[slot].end)
    }

    pub(super) fn offset_at(&self, partition: u32, time_ms: i64) -> Result<u64> {
        let slot = self.slot(partition).ok_or_else(|| no_partition(&self.0.name, partition))?;
        let state = self.0.state.read();
        let Slot { chunks, end, .. } = &state.slots[slot];
        let first = chunks.partition_point(|chunk| chunk.append_time_ms < time_ms);
        Ok(chunks.get(first).map_or(*end, |chunk| chunk.base_offset))
    }

    pub(super) fn reader(&self, partition: u32, from: u64) -> Result<MemoryReader> {
        let slot = self.slot(partition).ok_or_else(|| no_partition(&self.0.name, partition))?;
        let (_, end) = self.bounds(partition);
        if from > end {
            return Err(beyond_end(&self.0.name, partition, from, end));
        }
        Ok(MemoryReader { log: self.clone(), slot, position: from, skipped: 0 })
    }

    pub(super) async fn changed(&self, partition: u32, end_seen: u64) -> Result<()> {
        let slot = self.slot(partition).ok_or_else(|| no_partition(&self.0.name, partition))?;
        let mut progress = self.0.progress[slot].subscribe();
        let seen = progress.wait_for(|p| p.end > end_seen || p.stopped).await.map_err(|_| self.closed())?;
        if seen.end > end_seen { Ok(()) } else { Err(self.closed()) }
    }

    /// As the files do it, a chunk in the place of a segment.
    pub(super) fn retain(&self, now_ms: i64, keep_from: &dyn Fn(u32) -> u64) -> RetainReport {
        let keep_from: Vec<u64> = partition_of_slot(self.partitions()).map(keep_from).collect();
        let retention = self.0.options.retention;
        let (mut report, mut state) = (RetainReport::default(), self.0.state.write());
        while let Some(&slot) = state.order.front().filter(|_| state.order.len() > 1) {
            let Some(oldest) = state.slots[slot].chunks.front() else { break };
            let too_old = retention.age_ms.is_some_and(|age| now_ms.saturating_sub(oldest.append_time_ms) > age);
            let too_large = retention.bytes.is_some_and(|limit| state.bytes > limit);
            let (end, bytes) = (oldest.end_offset(), oldest.payload.len() as u64);
            if !too_old && !too_large {
                break;
            }
            if keep_from[slot] < end {
                report.held_back = true;
                break;
            }
            state.order.pop_front();
            state.slots[slot].chunks.pop_front();
            state.slots[slot].start = end;
            state.bytes -= bytes;
            report.segments += 1;
            report.bytes += bytes;
        }
        report
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.state.read().bytes
    }

    pub(super) fn bytes_behind(&self, partition: u32, offset: u64) -> u64 {
        let Some(slot) = self.slot(partition) else { return 0 };
        let state = self.0.state.read();
        let behind = state.slots[slot].chunks.iter().rev().take_while(|chunk| chunk.end_offset() > offset);
        behind.map(|chunk| chunk.payload.len() as u64).sum()
    }

    pub(super) fn close(&self) {
        self.0.state.write().is_closed = true;
        for progress in &self.0.progress {
            progress.send_modify(|progress| progress.stopped = true);
        }
    }
}

/// Reads the chunks of one partition, in order.
#[derive(Debug, Clone)]
pub struct MemoryReader {
    log: MemoryLog,
    slot: usize,
    pub(super) position: u64,
    pub(super) skipped: u64,
}

impl MemoryReader {
    pub(super) fn read(&mut self, bytes_max: usize) -> Vec<LogChunk> {
        let state = self.log.0.state.read();
        let Slot { start, chunks, .. } = &state.slots[self.slot];
        self.skipped += start.saturating_sub(self.position);
        self.position = self.position.max(*start);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for chunk in chunks.range(chunks.partition_point(|chunk| chunk.end_offset() <= self.position)..) {
            if !found.is_empty() && bytes + chunk.payload.len() > bytes_max {
                break;
            }
            bytes += chunk.payload.len() + CHUNK_BYTES;
            found.push(chunk.clone());
        }
        if let Some(last) = found.last() {
            self.position = last.end_offset();
        }
        found
    }
}
