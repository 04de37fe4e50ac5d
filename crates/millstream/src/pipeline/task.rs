//! One task owns one partition of one stage: it reads its log, runs its steps, and commits state changes, table changes,
//! outbox and next input offset in **one atomic write**.
//!
//! ```text
//!   log ── read ──▶ batch ── graph ──▶ effects ── tables ──▶ writes ──┐
//!                                                                     ▼
//!                     log ◀── append (deduplicated) ◀── outbox ◀── commit
//! ```
//!
//! Where a crash can fall, and what it costs: before the commit, the batch is read and computed again; between commit
//! and append, the stored outbox is appended at the next start, and logs drop what they have; after it, nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_core::{Clock, DeadLetter, Error, Result, Rows, Stage};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Chunk;
use millstream_storage::state::{State, Writes};
use millstream_storage::table::Table;
use tokio_util::sync::CancellationToken;

use super::dead_letters::FailedRows;
use super::graph::Graph;
use super::outbox::{self, COMMIT_KEY, Commit};
use super::plan::{StagePlan, storage_spec};
use super::progress::{Progress, ReaderProgress};
use super::scorer::waiting::STOPPED;
use super::streams::{Stream, StreamBatch, Streams};
use crate::metrics::Metrics;

/// A commit covers about this much of the log at most (compressed bytes), and this many rows.
const READ_BYTES: usize = 512 << 10;
const COMMIT_ROWS: usize = 8192;
/// Rows that one commit expires at most.
const EXPIRE_ROWS: usize = 4096;
/// How often a table with a TTL is looked through.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);

/// What every task of a pipeline shares.
#[derive(Clone)]
pub struct TaskContext {
    /// All logs.
    pub streams: Arc<Streams>,
    /// Schemas of stored rows.
    pub schemas: Arc<SchemaStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Positions.
    pub progress: Arc<Progress>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Cancelled when the pipeline stops.
    pub stop: CancellationToken,
    /// Digest of the pipeline file.
    pub pipeline_version: Arc<str>,
}

/// A task.
pub struct Task {
    context: TaskContext,
    plan: Arc<StagePlan>,
    partition: u32,
    producer: Arc<str>,
    input: Stream,
    state: State,
    /// Tables by node, in the order of the plan.
    tables: BTreeMap<usize, Vec<Table>>,
    graph: Graph,
    position: Arc<ReaderProgress>,
    sequence: u64,
    next_offset: u64,
}

impl Task {
    /// Opens the task: reads its last commit and appends whatever that still owes.
    ///
    /// # Errors
    /// A state that is ahead of its log is `Corruption`: the log was truncated or replaced.
    pub async fn open(
        context: TaskContext,
        plan: Arc<StagePlan>,
        partition: u32,
        state: State,
        graph: Graph,
        position: Arc<ReaderProgress>,
    ) -> Result<Self> {
        let input = context.streams.get(&plan.input).ok_or_else(|| Error::bug("a stage without its log"))?.clone();
        let producer: Arc<str> = format!("{}/{partition}", plan.id).into();
        let commit = match state.get(COMMIT_KEY).await? {
            Some(bytes) => Commit::decode(bytes)?,
            None => Commit { next_offset: input.log.start_offset(partition), ..Commit::default() },
        };
        let (sequence, next_offset) = (commit.sequence, commit.next_offset);
        if next_offset > input.log.end_offset(partition) {
            return Err(Error::corruption(format!(
                "stage {} is at offset {next_offset} of {} partition {partition}, but that log ends at {}: \
                 the log folder was removed or replaced. Restore it, or start with another data folder",
                plan.id,
                plan.input,
                input.log.end_offset(partition)
            )));
        }
        outbox::publish(commit, &producer, &context.streams).await?;
        let mut tables = BTreeMap::new();
        for (index, node) in plan.nodes.iter().enumerate().filter(|(_, n)| !n.tables.is_empty()) {
            let mut opened = Vec::new();
            for table in &node.tables {
                opened.push(Table::open(state.clone(), storage_spec(&table.spec), context.schemas.clone()).await?);
            }
            tables.insert(index, opened);
        }
        context.progress.advance(&position, partition, next_offset);
        Ok(Self { context, plan, partition, producer, input, state, tables, graph, position, sequence, next_offset })
    }

    /// Goes to another offset of the input: a replay.
    pub async fn rewind(&mut self, offset: u64) -> Result<()> {
        let commit = Commit { sequence: self.sequence, next_offset: offset, outbox: Vec::new() };
        let mut writes = Writes::new();
        writes.put(COMMIT_KEY, commit.encode());
        self.state.commit(writes).await?;
        self.next_offset = offset;
        self.report();
        Ok(())
    }

    /// Runs until the pipeline stops.
    pub async fn run(mut self) -> Result<()> {
        let stop = self.context.stop.clone();
        let has_ttl = self.plan.tables().any(|t| t.spec.ttl.is_some());
        let mut publishing: Option<tokio::task::JoinHandle<Result<()>>> = None;
        let mut expire_at = tokio::time::Instant::now();
        while !stop.is_cancelled() {
            let batches = self.read()?;
            let expire = has_ttl && tokio::time::Instant::now() >= expire_at;
            if batches.is_empty() && !expire {
                finish(&mut publishing).await?;
                self.report();
                let changed = self.input.log.changed(self.partition, self.next_offset);
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = changed => changed?,
                    () = tokio::time::sleep_until(expire_at), if has_ttl => {}
                }
                continue;
            }
            for batch in commit_batches(batches)? {
                let commit = match self.process(&batch).await {
                    // Nothing of it is done: the next start reads it again.
                    Err(e) if e.message() == STOPPED => break,
                    processed => processed?,
                };
                finish(&mut publishing).await?;
                publishing = self.commit(commit).await?;
            }
            if expire {
                expire_at = tokio::time::Instant::now() + EXPIRE_EVERY;
                if let Some(commit) = self.expire().await? {
                    finish(&mut publishing).await?;
                    publishing = self.commit(commit).await?;
                }
            }
        }
        finish(&mut publishing).await?;
        self.report();
        self.state.close().await
    }

    /// Reads on, with every batch in the schema of the node where it enters.
    fn read(&self) -> Result<Vec<StreamBatch>> {
        let batches = self.input.read(self.partition, self.next_offset, READ_BYTES)?;
        let conform = |batch: StreamBatch| match &batch.target {
            None => batch.conform(&self.plan.nodes[0].schema),
            Some(target) => match self.plan.entry(target) {
                Some(entry) => batch.conform(&entry.schema),
                None => Ok(batch),
            },
        };
        batches.into_iter().map(conform).collect()
    }

    /// Computes everything that one commit will write.
    async fn process(&mut self, input: &StreamBatch) -> Result<Pending> {
        let now_us = self.context.clock.now_us();
        let mut pending = Pending::new(input.end_offset());
        pending.event_time_max_us = input.event_time_max_us;
        let effects = self.graph.run(input, now_us).await?;
        for (node, rows) in effects.tables {
            for index in 0..self.plan.nodes[node].tables.len() {
                self.apply_to_table(node, index, &rows, input, now_us, &mut pending).await?;
            }
        }
        for (stream, rows) in effects.emits {
            pending.rows.entry(stream).or_default().push(rows.batch);
        }
        pending.dead_letters.extend(effects.dead_letters);
        self.context.metrics.received("stage", &self.plan.id, input.batch.num_rows());
        Ok(pending)
    }

    async fn apply_to_table(
        &mut self,
        node: usize,
        index: usize,
        rows: &Rows,
        input: &StreamBatch,
        now_us: i64,
        pending: &mut Pending,
    ) -> Result<()> {
        let table_plan = &self.plan.nodes[node].tables[index];
        let Some(table) = self.tables.get_mut(&node).and_then(|tables| tables.get_mut(index)) else {
            return Err(Error::bug("a table was not opened"));
        };
        let deletes = table_plan.spec.delete_when.as_ref().map(|p| p.evaluate(&rows.batch)).transpose()?;
        let applied = table.apply(&rows.batch, deletes.as_ref(), now_us, &mut pending.writes).await?;
        self.context.metrics.received("table", &table_plan.spec.name, rows.len());
        self.context.metrics.sent("table", &table_plan.spec.name, applied.changes.num_rows());
        if applied.changes.num_rows() > 0 {
            pending.rows.entry(table_plan.changes.clone()).or_default().push(applied.changes);
        }
        if !applied.failures.is_empty() {
            let offset_of = |row: u32| input.base_offset + u64::from(rows.origin[row as usize]);
            let failed = FailedRows {
                stage: Stage::Transform,
                component: &table_plan.spec.name,
                stream: &self.plan.input,
                partition: self.partition,
                offset_of: &offset_of,
                rows: &rows.batch,
                event_time_us: input.event_time_max_us,
                now_us,
                attempts: input.attempt,
                pipeline_version: &self.context.pipeline_version,
                model_version: None,
            };
            self.context.metrics.dead_letters(Stage::Transform, &table_plan.spec.name, applied.failures.len());
            pending.dead_letters.extend(failed.letters(&applied.failures)?);
        }
        Ok(())
    }

    async fn expire(&mut self) -> Result<Option<Pending>> {
        let now_us = self.context.clock.now_us();
        let mut pending = Pending::new(self.next_offset);
        for (node, tables) in &mut self.tables {
            for (table, plan) in tables.iter_mut().zip(&self.plan.nodes[*node].tables) {
                if let Some(changes) = table.expire(now_us, EXPIRE_ROWS, &mut pending.writes).await? {
                    pending.rows.entry(plan.changes.clone()).or_default().push(changes);
                }
            }
        }
        // There can be writes without a change: the index of what expires when.
        Ok((!pending.writes.is_empty()).then_some(pending))
    }

    /// Writes everything at once, then starts to append the outbox.
    async fn commit(&mut self, pending: Pending) -> Result<Option<tokio::task::JoinHandle<Result<()>>>> {
        let outbox = self.outbox(&pending)?;
        let commit = Commit { sequence: self.sequence + 1, next_offset: pending.next_offset, outbox };
        let mut writes = pending.writes;
        writes.put(COMMIT_KEY, commit.encode());
        self.state.commit(writes).await.map_err(|e| e.context(format!("commit {}", self.producer)))?;
        self.sequence = commit.sequence;
        self.next_offset = commit.next_offset;
        self.context.metrics.committed(&self.plan.id, self.partition, self.next_offset);
        if commit.outbox.is_empty() {
            self.report();
            return Ok(None);
        }
        let (producer, streams) = (self.producer.clone(), self.context.streams.clone());
        let (progress, position, partition) = (self.context.progress.clone(), self.position.clone(), self.partition);
        let next_offset = self.next_offset;
        Ok(Some(tokio::spawn(async move {
            outbox::publish(commit, &producer, &streams).await?;
            progress.advance(&position, partition, next_offset);
            Ok(())
        })))
    }

    fn outbox(&self, pending: &Pending) -> Result<Vec<(Arc<str>, Vec<Chunk>)>> {
        let now_us = self.context.clock.now_us();
        let mut outbox = Vec::new();
        for (name, batches) in &pending.rows {
            let stream = self.context.streams.get(name).ok_or_else(|| Error::bug(format!("no stream {name}")))?;
            let rows = concat(batches)?;
            let mut chunks = stream.chunks(&rows, self.partition, None, now_us)?;
            for chunk in &mut chunks {
                chunk.event_time_max_us = pending.event_time_max_us.or(chunk.event_time_max_us);
            }
            outbox.push((name.clone(), chunks));
        }
        if let Some(chunk) = self.input.dead_letters_chunk(&pending.dead_letters, now_us)? {
            outbox.push((self.input.name().clone(), vec![chunk]));
        }
        Ok(outbox)
    }

    fn report(&self) {
        self.context.progress.advance(&self.position, self.partition, self.next_offset);
    }
}

/// What one commit will write.
struct Pending {
    writes: Writes,
    rows: BTreeMap<Arc<str>, Vec<RecordBatch>>,
    dead_letters: Vec<DeadLetter>,
    next_offset: u64,
    event_time_max_us: Option<i64>,
}

impl Pending {
    fn new(next_offset: u64) -> Self {
        Self {
            writes: Writes::new(),
            rows: BTreeMap::new(),
            dead_letters: Vec::new(),
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
fn commit_batches(batches: Vec<StreamBatch>) -> Result<Vec<StreamBatch>> {
    let mut groups: Vec<Vec<StreamBatch>> = Vec::new();
    let mut rows = 0;
    for mut batch in batches {
        while batch.batch.num_rows() > 0 {
            let joins = groups.last().and_then(|g| g.last()).is_some_and(|last: &StreamBatch| {
                rows < COMMIT_ROWS
                    && last.target.is_none()
                    && batch.target.is_none()
                    && last.end_offset() == batch.base_offset
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

async fn finish(publishing: &mut Option<tokio::task::JoinHandle<Result<()>>>) -> Result<()> {
    match publishing.take() {
        Some(handle) => handle.await.map_err(|e| Error::bug(format!("the outbox task ended: {e}")))?,
        None => Ok(()),
    }
}
