//! Redrives: dead letters back in front of the stage that failed.
//!
//! The queue is read once, and a batch of letters becomes one append: those of one step and partition, in their order,
//! as one chunk. How far it is can be asked at any time ([`RedriveProgress`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::SchemaRef;
use bytes::BytesMut;
use millstream_core::{DeadLetter, RawBatch, Result, Stage};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Append, Chunk, DEAD_LETTERS};

use super::{Entry, Filter, PRODUCER, Redriven, rows_from_json, scan_from};
use crate::deliver::sink_target;
use crate::ingest::Ingest;
use crate::plan::Plan;
use crate::streams::{Stream, Streams};
use crate::tally::Fate;
use crate::target::Target;

/// Dead letters, and bytes of their records, that one append redrives at most.
const BATCH: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;

/// What a redrive did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Redrive {
    /// Records that went back in front of their stage.
    pub redriven: usize,
    /// Records that failed again at once and are dead letters as before, with one attempt more.
    pub failed_again: usize,
    /// Records whose stage the pipeline no longer has; they stay.
    pub unknown: usize,
}

/// How far a redrive is: how much of the queue it has gone through.
#[derive(Debug, Default)]
pub struct RedriveProgress {
    done: AtomicU64,
    all: AtomicU64,
}

impl RedriveProgress {
    /// Dead letters that have been looked at, and how many there are to look at; 0 of 0 where no redrive is under way.
    pub fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Acquire), self.all.load(Ordering::Acquire))
    }

    /// So many of so many are done.
    pub fn set(&self, done: u64, all: u64) {
        self.done.store(done, Ordering::Release);
        self.all.store(all, Ordering::Release);
    }
}

/// What a redrive needs of a pipeline, running or at rest.
pub struct Redriver<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Open logs.
    pub streams: &'a Streams,
    /// Sources, by name.
    pub ingests: &'a BTreeMap<Arc<str>, Arc<Ingest>>,
    /// Schemas.
    pub schemas: &'a SchemaStore,
}

impl Redriver<'_> {
    /// Redrives every dead letter that `filter` takes; `watch` is told how much of the queue is done, of how much.
    ///
    /// # Errors
    /// A log can't be read or written; what was redriven before stays so.
    pub async fn redrive(&self, filter: &Filter, watch: &mut (dyn FnMut(u64, u64) + Send)) -> Result<Redrive> {
        let mut total = Redrive::default();
        // What fails again lands behind these ends and is not tried twice.
        let bounds = |stream: &Stream| {
            let log = &stream.log;
            let (first, end) = filter.ids.bounds(&stream.plan.name);
            let end = end.min(log.end_offset(DEAD_LETTERS));
            (first.max(log.start_offset(DEAD_LETTERS)).min(end), end)
        };
        let queues: Vec<(&Stream, (u64, u64))> = self.streams.values().map(|stream| (stream, bounds(stream))).collect();
        let all = queues.iter().map(|(_, (first, end))| end - first).sum();
        let mut before = 0;
        for (stream, (first, end)) in queues {
            let mut from = first;
            while from < end {
                let (entries, next) = tokio::task::block_in_place(|| self.next(stream, filter, from, end))?;
                from = next;
                if !entries.is_empty() {
                    self.redrive_batch(stream, &entries, &mut total).await?;
                }
                watch(before + from - first, all);
            }
            before += end - first;
        }
        Ok(total)
    }

    /// The next letters that `filter` takes, and where to go on behind them.
    fn next(&self, stream: &Stream, filter: &Filter, from: u64, end: u64) -> Result<(Vec<Entry>, u64)> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, end);
        scan_from(&stream.log, self.schemas, filter, from, &mut |entry| {
            if entry.offset >= end {
                return false;
            }
            bytes += entry.letter.raw.len();
            let is_full = entries.len() + 1 >= BATCH || bytes >= BATCH_BYTES;
            if is_full {
                next = entry.offset + 1;
            }
            entries.push(entry);
            !is_full
        })?;
        Ok((entries, next))
    }

    async fn redrive_batch(&self, stream: &Stream, entries: &[Entry], total: &mut Redrive) -> Result<()> {
        let (cursor, chunks) = tokio::task::block_in_place(|| {
            let before = Redriven::load(&stream.log);
            let mut marks = before.clone();
            let mut chunks = Vec::new();
            for run in runs(entries) {
                let taken = self.chunks(stream, &run, total, &mut chunks)?;
                total.unknown += run.len() - taken.len();
                taken.into_iter().for_each(|offset| marks.insert(offset));
            }
            Ok::<_, millstream_core::Error>((marks.delta(&before), chunks))
        })?;
        let append = Append { producer: PRODUCER.into(), sequence: None, cursor, chunks };
        stream.log.append(append).await.map(drop)
    }

    /// Puts a run in front of its stage, or among the dead letters again: the offsets of those that were taken. The
    /// others' stage is gone.
    fn chunks(
        &self,
        stream: &Stream,
        run: &[&Entry],
        total: &mut Redrive,
        chunks: &mut Vec<Chunk>,
    ) -> Result<Vec<u64>> {
        let letter = &run[0].letter;
        if letter.stage == Stage::Decode {
            return self.decode_again(stream, run, total, chunks);
        }
        let (target, schema) = match letter.stage {
            Stage::Deliver => {
                let known =
                    self.plan.sinks.iter().any(|s| *s.name == *letter.component && s.from.contains(stream.name()));
                (sink_target(&letter.component), known.then(|| stream.plan.schema.clone()))
            }
            _ => (letter.component.as_str().into(), self.step_input(stream.name(), letter)),
        };
        let Some(schema) = schema else { return Ok(Vec::new()) };
        let Ok((rows, good)) = rows_from_json(&joined(run), &schema) else { return Ok(Vec::new()) };
        total.redriven += rows.num_rows();
        let input = letter.input.as_deref().map(Into::into);
        let tag = Target { component: target, input, attempt: letter.attempts + 1 }.encode()?;
        let partition = letter.partition.unwrap_or(0);
        let newest = good.iter().filter_map(|&i| run[i as usize].letter.event_time_us).max();
        let redriven = stream.chunks(&rows, partition, Some(&tag))?;
        chunks.extend(redriven.into_iter().map(|chunk| Chunk { event_time_max_us: newest, ..chunk }));
        Ok(good.into_iter().map(|i| run[i as usize].offset).collect())
    }

    fn decode_again(
        &self,
        stream: &Stream,
        run: &[&Entry],
        total: &mut Redrive,
        chunks: &mut Vec<Chunk>,
    ) -> Result<Vec<u64>> {
        let Some(ingest) = self.ingests.get(run[0].letter.component.as_str()) else { return Ok(Vec::new()) };
        let raw = joined(run);
        let prepared = ingest.prepare(&raw)?;
        chunks.extend(prepared.chunks);
        total.redriven += run.len() - prepared.failures.len();
        total.failed_again += prepared.failures.len();
        ingest.failed(&prepared.failures, Fate::DeadLetter);
        let again = |failure| {
            let letter = ingest.letter(&raw, failure);
            DeadLetter { attempts: run[failure.row as usize].letter.attempts + 1, ..letter }
        };
        let again: Vec<DeadLetter> = prepared.failures.iter().map(again).collect();
        chunks.extend(stream.dead_letters_chunk(&again)?);
        Ok(run.iter().map(|entry| entry.offset).collect())
    }

    /// The schema of the rows that the component of a letter takes in the stage that reads `stream`.
    fn step_input(&self, stream: &str, letter: &DeadLetter) -> Option<SchemaRef> {
        let stage = self.plan.stages.iter().find(|s| &*s.input == stream)?;
        stage.entry(&letter.component, letter.input.as_deref()).map(|entry| entry.schema)
    }
}

/// Letters that can go back together, those of each component in their order.
fn runs(entries: &[Entry]) -> Vec<Vec<&Entry>> {
    let mut runs: Vec<Vec<&Entry>> = Vec::new();
    let mut last: HashMap<(Stage, &str, Option<&str>), usize> = HashMap::new();
    for entry in entries {
        let letter = &entry.letter;
        let component = (letter.stage, letter.component.as_str(), letter.input.as_deref());
        match last.get(&component).map(|&at| &mut runs[at]).filter(|run| go_together(&run[0].letter, &entry.letter)) {
            Some(run) => run.push(entry),
            None => {
                last.insert(component, runs.len());
                runs.push(vec![entry]);
            }
        }
    }
    runs
}

/// Whether two letters of one component differ in nothing that a chunk has only one of.
fn go_together(a: &DeadLetter, b: &DeadLetter) -> bool {
    match a.stage {
        Stage::Decode => a.origin == b.origin && a.header == b.header && a.position.is_some() == b.position.is_some(),
        _ => a.input == b.input && a.partition == b.partition && a.attempts == b.attempts,
    }
}

/// The records of a run in one buffer.
fn joined(run: &[&Entry]) -> RawBatch {
    let letter = &run[0].letter;
    let mut data = BytesMut::with_capacity(run.iter().map(|entry| entry.letter.raw.len()).sum());
    let mut spans = Vec::with_capacity(run.len());
    for entry in run {
        let begin = data.len();
        data.extend_from_slice(&entry.letter.raw);
        spans.push(begin..data.len());
    }
    RawBatch {
        data: data.freeze(),
        spans,
        positions: run.iter().filter_map(|entry| entry.letter.position).collect(),
        origin: letter.origin.as_deref().unwrap_or_default().into(),
        header: letter.header.clone(),
        ..RawBatch::default()
    }
}
