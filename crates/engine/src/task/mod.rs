//! One task owns one partition of one stage: it reads its log, runs its steps, and commits state changes, table
//! changes, outbox and next input offset in **one atomic write**.
//!
//! ```text
//!   log ── read ──▶ batch ── graph ──▶ effects ── tables ──▶ writes ──┐
//!                                                                     ▼
//!                     log ◀── append (deduplicated) ◀── outbox ◀── commit
//! ```
//!
//! Outputs that are younger than the task are filled first, from the same log ([`super::outputs`]).
//!
//! Where a crash can fall, and what it costs: before the commit, the batch is read and computed again; between commit
//! and append, the stored outbox is appended at the next start, and logs drop what they have; after it, nothing.

mod commit;
mod compute;
mod fill;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Clock, Error, ErrorKind, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Log;
use millstream_storage::state::{State, Writes};
use millstream_storage::table::Table;
use tokio_util::sync::CancellationToken;

use crate::graph::{Graph, Watched};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::outbox::{COMMIT_KEY, Commit};
use crate::outputs::{Begins, OUTPUTS_KEY, Outputs, Position};
use crate::plan::{StagePlan, storage_spec};
use crate::progress::{Progress, ReaderProgress};
use crate::reopen::{Reader, ReaderKind, reopen};
use crate::spec::CommitSpec;
use crate::streams::{Stream, StreamBatch, StreamReader, Streams};
use crate::watch::Watchers;
use commit::{Committing, Pending, commit_batches, finish};

/// A commit covers this many rows at most.
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
    /// What each component is doing.
    pub health: Arc<Health>,
    /// Who watches the rows of transforms.
    pub watchers: Arc<Watchers>,
    /// Cancelled when the pipeline stops.
    pub stop: CancellationToken,
    /// Cancelled where a stop takes too long.
    pub hurry: Hurry,
    /// Digest of the pipeline file.
    pub pipeline_version: Arc<str>,
    /// Bytes that the slowest stage may be behind in a log before whoever writes it is held back.
    pub backlog_max: u64,
    /// When what was computed is committed.
    pub commit: CommitSpec,
    /// The identity of the data folder; every id that leaves the program begins with it.
    pub folder: Arc<str>,
}

/// A stop has a deadline. What is under way may be finished for a part of it; then it is dropped, and done again at the
/// next start.
#[derive(Debug, Clone, Default)]
pub struct Hurry {
    /// Tasks drop the batch that they compute.
    pub tasks: CancellationToken,
    /// Sinks drop the delivery that they wait for.
    pub sinks: CancellationToken,
}

/// A task.
pub struct Task {
    context: TaskContext,
    plan: Arc<StagePlan>,
    partition: u32,
    producer: Arc<str>,
    input: Stream,
    reader: StreamReader,
    state: State,
    /// The tables, in the order of the plan.
    tables: Vec<Table>,
    graph: Graph,
    /// The logs that it writes and that stages read.
    written: Vec<Log>,
    position: Arc<ReaderProgress>,
    sequence: u64,
    next_offset: u64,
    outputs: Outputs,
    /// True while the first filling of `outputs` is under way: `plan`, `graph` and `tables` are those of its outputs.
    is_filling: bool,
    /// What began when the task was opened.
    begins: Vec<Begins>,
    role: Role,
    models: Arc<ModelSet>,
}

/// What a task is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The whole stage.
    Run,
    /// Only to fill the outputs of its plan, from this offset on; the stage itself stays where it is.
    Fill(u64),
}

/// How a task is opened.
pub struct Opening {
    /// What it is there for.
    pub role: Role,
    /// Streams and tables that the data folder knew before.
    pub known: Arc<BTreeSet<String>>,
    /// The models that its steps ask.
    pub models: Arc<ModelSet>,
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
        position: Arc<ReaderProgress>,
        opening: Opening,
    ) -> Result<Self> {
        let input = context.streams.get(&plan.input).ok_or_else(|| Error::bug("a stage without its log"))?.clone();
        let producer: Arc<str> = format!("{}/{partition}", plan.id).into();
        let log_start = input.log.start_offset(partition);
        let reader = Reader { kind: ReaderKind::Stage, id: &plan.id, producer: &producer };
        let reopened = reopen(reader, &state, &context.streams).await?;
        if reopened.is_lost() {
            tracing::warn!(
                "{producer} has no state: it is built anew from `{}`, and sends everything again",
                plan.input
            );
        }
        let (is_fresh, sequence) = (reopened.is_fresh, reopened.commit.sequence);
        let next_offset = match reopened.commit.next_offset(&plan.input, partition) {
            Some(stored) => reader.goes_on_at(stored, &input, partition, &context.metrics),
            None => log_start,
        };
        let at = Position { is_fresh, next: next_offset, log_start };
        let stored = state.get(OUTPUTS_KEY).await?;
        let mut outputs = match &stored {
            Some(bytes) => Outputs::decode(bytes)?,
            None if is_fresh => Outputs::default(),
            None => Outputs::of_earlier_version(&plan, &opening.known, log_start),
        };
        let mut begins = Vec::new();
        match opening.role {
            Role::Run => begins = outputs.follow(&plan, at),
            Role::Fill(from) => outputs.refill(&plan, from, at),
        }
        let reader = input.reader(partition, next_offset)?;
        let graph = context.graph(&plan, &opening.models)?;
        let written = plan.emits.iter().map(|emit| &emit.stream).chain(plan.tables.iter().map(|table| &table.changes));
        let written = written.filter_map(|name| Some(context.streams.get(name)?.log.clone())).collect();
        let tables = open_tables(&context, &state, &plan).await?;
        let Opening { role, models, .. } = opening;
        let mut task = Self {
            context,
            plan,
            partition,
            producer,
            input,
            reader,
            state,
            tables,
            graph,
            written,
            position,
            sequence,
            next_offset,
            outputs,
            is_filling: false,
            begins,
            role,
            models,
        };
        // At once: what has begun has begun, also where this run ends before its first record.
        if stored.as_deref() != Some(&*task.outputs.encode()?) {
            task.store_outputs().await?;
        }
        task.report();
        Ok(task)
    }

    /// The partition, and what began when it was opened.
    pub fn begins(&self) -> impl Iterator<Item = (u32, Begins)> {
        self.begins.iter().map(|begins| (self.partition, begins.clone()))
    }

    /// Goes to another offset of the input: a replay.
    pub async fn rewind(&mut self, offset: u64) -> Result<()> {
        let commit = Commit::of_one(self.sequence, self.input.name(), self.partition, offset, Vec::new());
        self.outputs.rewind(offset, self.next_offset);
        let mut writes = Writes::new();
        writes.put(COMMIT_KEY, commit.encode());
        writes.put(OUTPUTS_KEY, self.outputs.encode()?);
        self.state.commit(writes).await?;
        self.next_offset = offset;
        self.report();
        Ok(())
    }

    /// Runs until the pipeline stops.
    pub async fn run(mut self) -> Result<()> {
        let stop = self.context.stop.clone();
        while !self.outputs.fills.is_empty() && !stop.is_cancelled() {
            self.fill().await?;
        }
        if self.role != Role::Run {
            self.report();
            stop.cancelled().await;
            return self.close().await;
        }
        let has_ttl = self.plan.tables.iter().any(|t| t.spec.ttl.is_some());
        let mut committing: Option<Committing> = None;
        let mut expire_at = tokio::time::Instant::now();
        let mut next_commit = expire_at;
        while !stop.is_cancelled() {
            if !self.room().await || !self.pace(next_commit).await? {
                break;
            }
            let batches = self.read().await?;
            let expire = has_ttl && tokio::time::Instant::now() >= expire_at;
            if batches.is_empty() && !expire {
                finish(&mut committing).await?;
                self.report();
                let changed = self.input.log.changed(self.partition, self.next_offset);
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = changed => changed?,
                    () = tokio::time::sleep_until(expire_at), if has_ttl => {}
                }
                continue;
            }
            next_commit = tokio::time::Instant::now() + self.context.commit.interval;
            self.commit_each(commit_batches(batches)?, &mut committing).await?;
            // A stop may have dropped a batch half-way: the tables show rows then that were never written.
            if expire && !stop.is_cancelled() {
                expire_at = tokio::time::Instant::now() + EXPIRE_EVERY;
                if let Some(pending) = self.expire().await? {
                    finish(&mut committing).await?;
                    committing = Some(self.commit(pending)?);
                }
            }
        }
        finish(&mut committing).await?;
        self.report();
        self.close().await
    }

    /// Waits until the stages below this one have caught up; false where the pipeline stops before that. Whoever writes
    /// the log that this task reads is held back by it in turn, up to the source.
    async fn room(&self) -> bool {
        let is_full = || self.written.iter().any(|log| self.context.progress.backlog(log) > self.context.backlog_max);
        while is_full() {
            tokio::select! {
                () = self.context.stop.cancelled() => return false,
                () = self.context.progress.moved() => {}
            }
        }
        true
    }

    /// Waits until the next commit is due: its moment has come, or enough waits for one. A record that comes alone
    /// finds a moment that has come long ago. False where the pipeline stops before that.
    async fn pace(&self, next_commit: tokio::time::Instant) -> Result<bool> {
        let (log, stop) = (&self.input.log, &self.context.stop);
        let mut seen = self.next_offset;
        while tokio::time::Instant::now() < next_commit
            && log.bytes_behind(self.partition, self.next_offset) < self.context.commit.bytes
        {
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep_until(next_commit) => {}
                changed = log.changed(self.partition, seen) => {
                    changed?;
                    seen = log.end_offset(self.partition);
                }
            }
        }
        Ok(true)
    }

    /// Computes and commits one batch after the other, until the pipeline stops. One that gives too much at once is
    /// done in halves, each a commit of its own.
    async fn commit_each(&mut self, batches: Vec<StreamBatch>, committing: &mut Option<Committing>) -> Result<()> {
        let mut waiting = VecDeque::from(batches);
        while let Some(batch) = waiting.pop_front() {
            match self.process_unless_stopped(&batch).await {
                Ok(Some(pending)) => {
                    finish(committing).await?;
                    *committing = Some(self.commit(pending)?);
                }
                Ok(None) => break,
                Err(e) if e.kind() == ErrorKind::TooMuch => {
                    batch.halves().rev().for_each(|half| waiting.push_front(half));
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// What a batch comes to; none where the pipeline stops before that. Nothing of it is done then: the next start
    /// reads it again.
    async fn process_unless_stopped(&mut self, batch: &StreamBatch) -> Result<Option<Pending>> {
        if self.context.stop.is_cancelled() {
            return Ok(None);
        }
        let hurry = self.context.hurry.tasks.clone();
        let processed = tokio::select! {
            processed = self.process(batch) => processed,
            () = hurry.cancelled() => return Ok(None),
        };
        match processed {
            Err(e) if e.kind() == ErrorKind::Stopped => Ok(None),
            processed => processed.map(Some),
        }
    }

    /// Closes the state, unless that takes too long: what was committed is durable without it.
    async fn close(self) -> Result<()> {
        let hurry = self.context.hurry.tasks.clone();
        tokio::select! {
            closed = self.state.close() => closed,
            () = hurry.cancelled() => Ok(()),
        }
    }

    async fn read(&mut self) -> Result<Vec<StreamBatch>> {
        let batches = self.read_from(self.next_offset).await?;
        if batches.is_empty() {
            // Behind control chunks, which come to nothing to commit.
            self.next_offset = self.reader.position();
        }
        Ok(batches)
    }

    async fn read_from(&mut self, offset: u64) -> Result<Vec<StreamBatch>> {
        self.reader.seek(offset);
        self.reader.read(self.context.commit.bytes as usize).await
    }

    fn report(&self) {
        let offset = match self.role {
            Role::Run => self.outputs.lowest(self.next_offset),
            // What lies behind the stage is not this run's.
            Role::Fill(_) if self.outputs.fills.is_empty() => self.input.log.end_offset(self.partition),
            Role::Fill(_) => self.outputs.lowest(self.next_offset),
        };
        self.context.progress.advance(&self.position, self.partition, offset);
    }
}

async fn open_tables(context: &TaskContext, state: &State, plan: &StagePlan) -> Result<Vec<Table>> {
    let mut tables = Vec::with_capacity(plan.tables.len());
    for table in &plan.tables {
        tables.push(Table::open(state.clone(), storage_spec(&table.spec), context.schemas.clone()).await?);
    }
    Ok(tables)
}

impl TaskContext {
    fn graph(&self, plan: &Arc<StagePlan>, models: &ModelSet) -> Result<Graph> {
        let version = self.pipeline_version.clone();
        let graph = Graph::new(plan.clone(), models, version, self.metrics.clone(), &self.stop)?;
        Ok(graph.watched(Watched::By(self.watchers.clone())))
    }
}
