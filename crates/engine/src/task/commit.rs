//! What one commit writes, and writing it: state, tables, outbox and offset at once, then the outbox to the logs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_core::{DeadLetter, Error, Result};
use millstream_storage::log::Chunk;
use millstream_storage::state::Writes;

use super::{COMMIT_ROWS, Task};
use crate::outbox::{self, COMMIT_KEY, Commit};
use crate::outputs::OUTPUTS_KEY;
use crate::streams::StreamBatch;
use crate::watch::Seen;

impl Task {
    /// Begins to write everything at once, and behind that to append the outbox. The one before must have been
    /// finished; the next batch is computed meanwhile, and its look-ups see what is written here.
    pub(super) fn commit(&mut self, pending: Pending) -> Result<Committing> {
        let outbox = self.outbox(&pending)?;
        let mut writes = pending.writes;
        let next_offset = if self.is_filling {
            self.move_fill(pending.next_offset);
            writes.put(OUTPUTS_KEY, self.outputs.encode()?);
            self.next_offset
        } else {
            pending.next_offset
        };
        let commit = Commit::of_one(self.sequence + 1, self.input.name(), self.partition, next_offset, outbox);
        writes.put(COMMIT_KEY, commit.encode());
        self.sequence = commit.sequence;
        self.next_offset = next_offset;
        let reached = self.outputs.lowest(next_offset);
        let (state, context, plan) = (self.state.clone(), self.context.clone(), self.plan.clone());
        let (producer, position, partition) = (self.producer.clone(), self.position.clone(), self.partition);
        Ok(tokio::spawn(async move {
            state.commit(writes).await.map_err(|e| e.context(format!("commit {producer}")))?;
            context.watchers.show(pending.seen);
            context.metrics.committed(&plan.id, partition, next_offset);
            outbox::publish(commit, &producer, &context.streams).await?;
            context.progress.advance(&position, partition, reached);
            Ok(())
        }))
    }

    fn outbox(&self, pending: &Pending) -> Result<Vec<(Arc<str>, Vec<Chunk>)>> {
        let mut outbox = Vec::new();
        for (name, batches) in &pending.rows {
            let stream = self.context.streams.get(name).ok_or_else(|| Error::bug(format!("no stream {name}")))?;
            let rows = concat(batches)?;
            let mut chunks = stream.chunks(&rows, self.partition, None)?;
            for chunk in &mut chunks {
                chunk.event_time_max_us = pending.event_time_max_us.or(chunk.event_time_max_us);
            }
            outbox.push((name.clone(), chunks));
        }
        if let Some(chunk) = self.input.dead_letters_chunk(&pending.dead_letters)? {
            outbox.push((self.input.name().clone(), vec![chunk]));
        }
        Ok(outbox)
    }
}

/// What one commit will write.
pub(super) struct Pending {
    pub(super) writes: Writes,
    pub(super) rows: BTreeMap<Arc<str>, Vec<RecordBatch>>,
    pub(super) dead_letters: Vec<DeadLetter>,
    pub(super) seen: Vec<Seen>,
    pub(super) next_offset: u64,
    pub(super) event_time_max_us: Option<i64>,
}

impl Pending {
    pub(super) fn new(next_offset: u64) -> Self {
        Self {
            writes: Writes::new(),
            rows: BTreeMap::new(),
            dead_letters: Vec::new(),
            seen: Vec::new(),
            next_offset,
            event_time_max_us: None,
        }
    }
}

fn concat(batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        [first, ..] => Ok(concat_batches(&first.schema(), batches)?),
        [] => Err(Error::bug("nothing to concatenate")),
    }
}

/// Joins neighbours into batches of about [`COMMIT_ROWS`] rows and cuts larger ones: one batch is one commit. Redriven
/// batches stay alone, since they enter elsewhere.
pub(super) fn commit_batches(batches: Vec<StreamBatch>) -> Result<Vec<StreamBatch>> {
    let mut groups: Vec<Vec<StreamBatch>> = Vec::new();
    let mut rows = 0;
    for mut batch in batches {
        while batch.batch.num_rows() > 0 {
            let joins = groups.last().and_then(|g| g.last()).is_some_and(|last: &StreamBatch| {
                rows < COMMIT_ROWS
                    && last.target.is_none()
                    && batch.target.is_none()
                    && last.end_offset() == batch.base_offset
                    // An earlier pipeline file may have stored other columns.
                    && last.batch.schema_ref() == batch.batch.schema_ref()
            });
            if !joins {
                groups.push(Vec::new());
                rows = 0;
            }
            let mut head = batch.clone();
            head.batch = batch.batch.slice(0, batch.batch.num_rows().min(COMMIT_ROWS - rows));
            rows += head.batch.num_rows();
            batch = batch.from_offset(head.end_offset());
            if let Some(group) = groups.last_mut() {
                group.push(head);
            }
        }
    }
    groups.into_iter().map(StreamBatch::join).collect()
}

/// A commit on its way to the state, and its outbox to the logs.
pub(super) type Committing = tokio::task::JoinHandle<Result<()>>;

pub(super) async fn finish(committing: &mut Option<Committing>) -> Result<()> {
    match committing.take() {
        Some(handle) => handle.await.map_err(|e| Error::bug(format!("a commit ended: {e}")))?,
        None => Ok(()),
    }
}
