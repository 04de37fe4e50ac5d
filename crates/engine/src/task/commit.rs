//! What one commit writes, and writing it: state, tables, outbox and offset at once, then the outbox to the logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_core::{DeadLetter, Error, Result};
use millstream_storage::log::{Chunk, Late, Watermark};
use millstream_storage::state::Writes;

use tokio::time::Instant;

use super::{TELL_EVERY, Task};
use crate::heard::Heard;
use crate::outbox::{self, COMMIT_KEY, Commit, Offset, Outbox};
use crate::outputs::OUTPUTS_KEY;
use crate::watch::Seen;

impl Task {
    /// Begins to write everything at once, and behind that to append the outbox. The one before must have been
    /// finished; the next batch is computed meanwhile, and its look-ups see what is written here.
    pub(super) fn commit(&mut self, pending: Pending, outbox: Outbox) -> Result<Committing> {
        let mut writes = pending.writes;
        self.heard = pending.heard;
        let (next, heard) = match self.filled_from.clone() {
            Some(stage) => {
                self.move_fill(pending.next_offset);
                writes.put(OUTPUTS_KEY, self.outputs.encode()?);
                (self.next_offset, stage)
            }
            None => (pending.next_offset, self.heard.clone()),
        };
        let at = Offset { stream: self.input.name().clone(), partition: self.partition, next, heard };
        let commit = Commit::of_one(self.sequence + 1, at, outbox);
        writes.put(COMMIT_KEY, commit.encode());
        self.sequence = commit.sequence;
        self.next_offset = next;
        let next_offset = next;
        // What is left to do belongs to what was read: that is not done yet.
        let reached = (!self.owes && !self.graph.is_behind()).then(|| self.outputs.lowest(next_offset));
        let (state, context, plan) = (self.state.clone(), self.context.clone(), self.plan.clone());
        let (producer, position, partition) = (self.producer.clone(), self.position.clone(), self.partition);
        Ok(tokio::spawn(async move {
            state.commit(writes).await.map_err(|e| e.context(format!("commit {producer}")))?;
            context.watchers.show(pending.seen);
            context.metrics.committed(&plan.id, partition, next_offset);
            outbox::publish(commit, &producer, &context.streams).await?;
            if let Some(reached) = reached {
                context.progress.advance(&position, partition, reached);
            }
            Ok(())
        }))
    }

    /// What a commit owes the logs: rows, how far event time is, dead letters.
    pub(super) fn outbox(&mut self, pending: &Pending) -> Result<Outbox> {
        let mut outbox = Vec::new();
        for (name, rows) in &pending.rows {
            let stream = self.context.streams.get(name).ok_or_else(|| Error::bug(format!("no stream {name}")))?;
            let mut chunks = stream.chunks_with(&concat(&rows.batches)?, &rows.late, self.partition, None)?;
            for chunk in &mut chunks {
                chunk.event_time_max_us = pending.event_time_max_us.or(chunk.event_time_max_us);
            }
            outbox.push((name.clone(), chunks));
        }
        if let Some(watermark) = pending.watermark {
            self.tell(watermark, &mut outbox);
        }
        if let Some(chunk) = self.input.dead_letters_chunk(&pending.dead_letters)? {
            outbox.push((self.input.name().clone(), vec![chunk]));
        }
        Ok(outbox)
    }

    /// Says how far event time is: with the rows of each partition, and now and then to those that get none.
    fn tell(&mut self, watermark: Watermark, outbox: &mut Outbox) {
        let is_time = matches!(watermark, Watermark::At(_));
        let to_all = !is_time || Instant::now() >= self.tell_at;
        let mut owes = false;
        let is_written =
            |name: &Arc<str>| self.filled_from.is_none() || self.plan.streams().any(|written| written == *name);
        for (name, told) in self.told.iter_mut().filter(|(name, _)| is_written(name)) {
            let rows = outbox.iter_mut().find(|(stream, _)| stream == name).map(|(_, chunks)| chunks);
            for chunk in rows.into_iter().flatten().filter(|_| is_time) {
                chunk.watermark = Some(watermark);
                told.tell(chunk.partition, watermark);
            }
            let owed = told.owed(watermark);
            if owed.is_empty() {
                continue;
            }
            if !to_all {
                owes = true;
                continue;
            }
            let controls: Vec<Chunk> = owed.iter().map(|&partition| Chunk::control(partition, watermark)).collect();
            owed.iter().for_each(|&partition| told.tell(partition, watermark));
            match outbox.iter_mut().find(|(stream, _)| stream == name) {
                Some((_, chunks)) => chunks.extend(controls),
                None => outbox.push((name.clone(), controls)),
            }
        }
        self.owes = owes;
        if to_all && !self.told.is_empty() {
            self.tell_at = Instant::now() + TELL_EVERY;
        }
    }
}

/// What one commit will write.
pub(super) struct Pending {
    pub(super) writes: Writes,
    pub(super) rows: BTreeMap<Arc<str>, Leaving>,
    /// How many rows it comes of.
    pub(super) rows_in: usize,
    /// What was heard up to `next_offset`, and how far event time is with that.
    pub(super) heard: Heard,
    pub(super) watermark: Option<Watermark>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) seen: Vec<Seen>,
    pub(super) next_offset: u64,
    pub(super) event_time_max_us: Option<i64>,
}

impl Pending {
    pub(super) fn new(next_offset: u64, heard: Heard) -> Self {
        Self {
            writes: Writes::new(),
            rows: BTreeMap::new(),
            rows_in: 0,
            heard,
            watermark: None,
            dead_letters: Vec::new(),
            seen: Vec::new(),
            next_offset,
            event_time_max_us: None,
        }
    }
}

/// Rows for one stream.
#[derive(Default)]
pub(super) struct Leaving {
    batches: Vec<RecordBatch>,
    rows: usize,
    /// Those that came late, by their number among all.
    late: Vec<Late>,
}

impl Leaving {
    /// Adds rows, and those of them that came late.
    pub(super) fn push(&mut self, batch: RecordBatch, late: impl Iterator<Item = Late>) {
        let before = self.rows as u32;
        self.late.extend(late.map(|late| Late { row: before + late.row, ..late }));
        self.rows += batch.num_rows();
        self.batches.push(batch);
    }
}

fn concat(batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        [first, ..] => Ok(concat_batches(&first.schema(), batches)?),
        [] => Err(Error::bug("nothing to concatenate")),
    }
}

/// A commit on its way to the state, and its outbox to the logs.
pub(super) type Committing = tokio::task::JoinHandle<Result<()>>;

pub(super) async fn finish(committing: &mut Option<Committing>) -> Result<()> {
    match committing.take() {
        Some(handle) => handle.await.map_err(|e| Error::bug(format!("a commit ended: {e}")))?,
        None => Ok(()),
    }
}
