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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Clock, Error, ErrorKind, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Log;
use millstream_storage::state::{State, Writes};
use millstream_storage::table::Table;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::event_time::Told;
use crate::graph::{Graph, Kept, Watched};
use crate::health::Health;
use crate::heard::Heard;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::ops;
use crate::outbox::{COMMIT_KEY, Commit, Offset};
use crate::outputs::{Begins, OUTPUTS_KEY, Outputs, Position};
use crate::plan::{StagePlan, producer, storage_spec};
use crate::progress::{Progress, ReaderProgress};
use crate::reopen::{Reader, ReaderKind, reopen};
use crate::spec::CommitSpec;
use crate::streams::{Stream, StreamBatch, StreamReader, Streams};
use crate::watch::Watchers;
use commit::{Committing, Pending, finish};

/// A commit covers this many rows at most.
const COMMIT_ROWS: usize = 8192;
/// Rows that one commit expires at most.
const EXPIRE_ROWS: usize = 4096;
/// How often a table with a TTL is looked through.
const EXPIRE_EVERY: Duration = Duration::from_millis(500);
/// So many batches may come to nothing before the offset behind them is committed all the same.
const UNCOMMITTED_MAX: u32 = 64;
/// How often who gets no rows is told how far event time is.
const TELL_EVERY: Duration = Duration::from_millis(200);

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
    /// Batches behind the last commit that came to nothing.
    uncommitted: u32,
    /// What was heard of the input's producers up to `next_offset`; while outputs are filled, up to there.
    heard: Heard,
    /// The producers that are waited for to know how far event time is.
    timekeepers: BTreeSet<Arc<str>>,
    /// What was told to whom, by output that keeps time.
    told: BTreeMap<Arc<str>, Told>,
    /// When partitions that get no rows are told next, where something is owed to one.
    tell_at: Instant,
    owes: bool,
    outputs: Outputs,
    /// While the first filling of `outputs` is under way: what the stage itself has heard. `plan`, `graph`, `tables`
    /// and `heard` are those of the filling.
    filled_from: Option<Heard>,
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
        let producer = producer(&plan.id, partition);
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
        let (next_offset, heard) = match reopened.commit.offset(&plan.input, partition) {
            Some(stored) => (reader.goes_on_at(stored.next, &input, partition, &context.metrics), stored.heard.clone()),
            None => (log_start, Heard::default()),
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
        let graph = context.graph(&plan, &opening.models, Kept::Stage(&state)).await?;
        let streams = || plan.streams().filter_map(|name| context.streams.get(&name));
        let written = streams().map(|stream| stream.log.clone()).collect();
        let told = streams().filter(|stream| stream.plan.keeps_time);
        let told = told.map(|stream| (stream.name().clone(), Told::new(stream.plan.partitions))).collect();
        let timekeepers = plan.timekeepers.iter().flat_map(|writer| writer.producers(partition)).collect();
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
            uncommitted: 0,
            heard,
            timekeepers,
            told,
            tell_at: Instant::now(),
            owes: false,
            outputs,
            filled_from: None,
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
        let at = Offset::at(self.input.name().clone(), self.partition, offset);
        let commit = Commit::of_one(self.sequence, at, Vec::new());
        self.outputs.rewind(offset, self.next_offset);
        // In this order: after a crash in between they have seen nothing of what comes.
        ops::forget_all(&self.state, ops::STAGE_LANE).await?;
        let mut writes = Writes::new();
        writes.put(COMMIT_KEY, commit.encode());
        writes.put(OUTPUTS_KEY, self.outputs.encode()?);
        self.state.commit(writes).await?;
        self.next_offset = offset;
        self.heard = Heard::default();
        self.open_graph(&BTreeSet::new()).await?;
        self.report();
        Ok(())
    }

    /// Opens the operators anew; `quiet` steps have dealt with their failures before.
    async fn open_graph(&mut self, quiet: &BTreeSet<String>) -> Result<()> {
        let kept =
            if self.filled_from.is_some() { Kept::Filling(&self.state, quiet) } else { Kept::Stage(&self.state) };
        self.graph = self.context.graph(&self.plan, &self.models, kept).await?.quiet(quiet.clone());
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
        let mut expire_at = Instant::now();
        let mut next_commit = expire_at;
        while !stop.is_cancelled() {
            if !self.room().await || !self.pace(next_commit).await? {
                break;
            }
            let batches = self.read_from(self.next_offset, u64::MAX).await?;
            let expire = has_ttl && Instant::now() >= expire_at;
            let tell = self.owes && Instant::now() >= self.tell_at;
            if batches.is_empty() && !expire && !tell {
                finish(&mut committing).await?;
                self.report();
                let changed = self.input.log.changed(self.partition, self.next_offset);
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = changed => changed?,
                    () = tokio::time::sleep_until(expire_at), if has_ttl => {}
                    () = tokio::time::sleep_until(self.tell_at), if self.owes => {}
                }
                continue;
            }
            next_commit = Instant::now() + self.context.commit.interval;
            self.commit_each(batches, &mut committing).await?;
            // A stop may have dropped a batch half-way: the tables show rows then that were never written.
            if (expire || tell) && !stop.is_cancelled() {
                if expire {
                    expire_at = Instant::now() + EXPIRE_EVERY;
                }
                let pending = self.time_passed(expire).await?;
                self.commit_behind(pending, &mut committing).await?;
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
    async fn pace(&self, next_commit: Instant) -> Result<bool> {
        let (log, stop) = (&self.input.log, &self.context.stop);
        let mut seen = self.next_offset;
        while Instant::now() < next_commit
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
                    self.commit_behind(pending, committing).await?;
                    while self.graph.is_behind() && !self.context.stop.is_cancelled() {
                        let pending = self.time_passed(false).await?;
                        self.commit_behind(pending, committing).await?;
                    }
                }
                Ok(None) => break,
                Err(e) if e.kind() == ErrorKind::TooMuch => {
                    batch.halves().rev().for_each(|half| waiting.push_front(half));
                    // What they keep of the batch was never written. They see what is on its way when it has arrived.
                    finish(committing).await?;
                    let quiet = self.graph.quiet_steps().clone();
                    self.open_graph(&quiet).await?;
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

    /// Commits behind the commit under way. What comes to nothing moves the offset in memory only, for a while: it is
    /// read again after a crash, and comes to nothing again.
    async fn commit_behind(&mut self, pending: Pending, committing: &mut Option<Committing>) -> Result<()> {
        let outbox = self.outbox(&pending)?;
        let is_nothing = outbox.is_empty() && pending.writes.is_empty() && pending.rows_in == 0;
        let has_moved = pending.next_offset != self.next_offset;
        if is_nothing && self.filled_from.is_none() && (!has_moved || self.uncommitted < UNCOMMITTED_MAX) {
            self.uncommitted += u32::from(has_moved);
            (self.next_offset, self.heard) = (pending.next_offset, pending.heard);
            return Ok(());
        }
        self.uncommitted = 0;
        finish(committing).await?;
        *committing = Some(self.commit(pending, outbox)?);
        Ok(())
    }

    /// The next batches below `until`, each to be one commit, without the rows of repeats.
    async fn read_from(&mut self, offset: u64, until: u64) -> Result<Vec<StreamBatch>> {
        self.reader.seek(offset);
        let mut batches = self.reader.read_all(self.context.commit.bytes as usize).await?;
        self.heard.drop_repeats(&mut batches);
        // Cut before they are joined: what a chunk says is known behind all of it. What was sent before, and what was
        // not, are never one batch: what comes of time was sent with one of them.
        let sent_below = self.outputs.sent_below;
        let (mut sent, mut unsent) = (Vec::new(), Vec::new());
        for batch in batches.into_iter().filter_map(|batch| batch.before_offset(until)) {
            if batch.end_offset() <= sent_below {
                sent.push(batch);
            } else if batch.base_offset >= sent_below {
                unsent.push(batch);
            } else {
                sent.extend(batch.clone().before_offset(sent_below));
                unsent.push(batch.from_offset(sent_below));
            }
        }
        let mut batches = StreamBatch::regroup(sent, COMMIT_ROWS)?;
        batches.extend(StreamBatch::regroup(unsent, COMMIT_ROWS)?);
        Ok(batches)
    }

    /// Says how far the task is, unless it owes something: work for which the time has come, or telling others the
    /// time.
    fn report(&self) {
        if self.owes || self.graph.is_behind() {
            return;
        }
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
    async fn graph(&self, plan: &Arc<StagePlan>, models: &ModelSet, kept: Kept<'_>) -> Result<Graph> {
        let version = self.pipeline_version.clone();
        let kept = (kept, &self.schemas);
        let graph = Graph::open(plan.clone(), models, kept, version, self.metrics.clone(), &self.stop).await?;
        Ok(graph.watched(Watched::By(self.watchers.clone())))
    }
}
