//! One task owns one partition of one stage: it reads its log, runs its steps, and commits state changes, table changes,
//! outbox and next input offset in **one atomic write**.
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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use millstream_core::{Clock, DeadLetter, Error, ErrorKind, Result, RowFailure, Rows, Stage};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Chunk, Log};
use millstream_storage::state::{State, Writes};
use millstream_storage::table::Table;
use tokio_util::sync::CancellationToken;

use crate::failures::{FailedRows, Reject};
use crate::graph::{Arriving, Effects, Graph, Watched};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::outbox::{self, COMMIT_KEY, Commit};
use crate::outputs::{Begins, OUTPUTS_KEY, Outputs, Position};
use crate::plan::{StagePlan, storage_spec};
use crate::progress::{Progress, ReaderProgress};
use crate::reopen::{Reader, ReaderKind, reopen};
use crate::spec::CommitSpec;
use crate::streams::{Stream, StreamBatch, StreamReader, Streams};
use crate::table::{deletes, rows_without};
use crate::watch::{Seen, Watchers};

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

/// A stop has a deadline. What is under way may be finished for a part of it; then it is dropped, and done again at the next
/// start.
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

    async fn store_outputs(&mut self) -> Result<()> {
        let mut writes = Writes::new();
        writes.put(OUTPUTS_KEY, self.outputs.encode()?);
        self.state.commit(writes).await.map(drop)
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
        let mut publishing: Option<Publishing> = None;
        let mut expire_at = tokio::time::Instant::now();
        let mut next_commit = expire_at;
        while !stop.is_cancelled() {
            if !self.room().await || !self.pace(next_commit).await? {
                break;
            }
            let batches = self.read().await?;
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
            next_commit = tokio::time::Instant::now() + self.context.commit.interval;
            self.commit_each(commit_batches(batches)?, &mut publishing).await?;
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

    /// Waits until the next commit is due: its moment has come, or enough waits for one. A record that comes alone finds a
    /// moment that has come long ago. False where the pipeline stops before that.
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

    /// Computes and commits one batch after the other, until the pipeline stops. One that gives too much at once is done in
    /// halves, each a commit of its own.
    async fn commit_each(&mut self, batches: Vec<StreamBatch>, publishing: &mut Option<Publishing>) -> Result<()> {
        let mut waiting = VecDeque::from(batches);
        while let Some(batch) = waiting.pop_front() {
            match self.process_unless_stopped(&batch).await {
                Ok(Some(pending)) => {
                    finish(publishing).await?;
                    *publishing = self.commit(pending).await?;
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

    /// What a batch comes to; none where the pipeline stops before that. Nothing of it is done then: the next start reads
    /// it again.
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

    /// The first filling: reads a part of the log again, for its outputs alone. A stop leaves it where it is.
    async fn fill(&mut self) -> Result<()> {
        let Some(fill) = self.outputs.fills.first().cloned() else { return Ok(()) };
        let whole = self.plan.clone();
        let shown = || fill.outputs.iter().map(|output| whole.shown(output)).collect::<Vec<_>>().join(", ");
        if !self.begins.iter().any(|begins| begins.filled && fill.outputs.contains(&begins.output)) {
            tracing::info!(
                partition = self.partition,
                "{} is being filled from offset {} of `{}`",
                shown(),
                fill.at,
                whole.input
            );
        }
        self.enter(Arc::new(whole.restricted_to(&fill.outputs)), fill.quiet.clone()).await?;
        self.is_filling = true;
        let mut publishing: Option<Publishing> = None;
        while let Some(at) = self.outputs.fills.first().map(|fill| fill.at).filter(|at| *at < fill.until)
            && self.room().await
            && !self.context.stop.is_cancelled()
        {
            let batches = self.read_from(at).await?.into_iter().filter_map(|batch| batch.before_offset(fill.until));
            let batches = commit_batches(batches.collect())?;
            if batches.is_empty() {
                // Retention has taken what was left.
                self.move_fill(fill.until);
            }
            self.commit_each(batches, &mut publishing).await?;
        }
        finish(&mut publishing).await?;
        if self.outputs.fills.first().is_some_and(|fill| fill.at >= fill.until) {
            self.outputs.fills.remove(0);
            self.store_outputs().await?;
            tracing::info!(
                partition = self.partition,
                "{} filled up to offset {} of `{}`",
                shown(),
                fill.until,
                whole.input
            );
        }
        self.is_filling = false;
        self.enter(whole, BTreeSet::new()).await?;
        self.report();
        Ok(())
    }

    /// From here on the task does what `plan` says.
    async fn enter(&mut self, plan: Arc<StagePlan>, quiet: BTreeSet<String>) -> Result<()> {
        self.graph = self.context.graph(&plan, &self.models)?.quiet(quiet);
        // Anew: what a table keeps in memory is only right while nobody else writes it.
        self.tables.clear();
        self.tables = open_tables(&self.context, &self.state, &plan).await?;
        self.plan = plan;
        Ok(())
    }

    fn move_fill(&mut self, offset: u64) {
        if let Some(fill) = self.outputs.fills.first_mut() {
            fill.at = offset;
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

    /// Computes everything that one commit will write.
    async fn process(&mut self, input: &StreamBatch) -> Result<Pending> {
        let now_us = self.context.clock.now_us();
        let mut pending = Pending::new(input.end_offset());
        pending.event_time_max_us = input.event_time_max_us;
        let mut effects = self.graph.run(input, now_us).await?;
        for (table, arriving) in std::mem::take(&mut effects.tables) {
            self.apply_to_table(table, &arriving, input, now_us, &mut effects, &mut pending).await?;
        }
        self.graph.count(&mut effects);
        for (stream, rows) in effects.emits {
            if let Some(rows) = self.not_yet_sent(&stream, rows, input) {
                pending.rows.entry(stream).or_default().push(rows);
            }
        }
        pending.dead_letters.extend(effects.dead_letters);
        // While an output is filled, these rows come a second time.
        if !self.is_filling {
            pending.seen.extend(effects.seen.into_iter().map(|(op, rows)| self.seen(op, rows, input)));
        }
        self.context.metrics.received("stage", &self.plan.id, input.batch.num_rows());
        Ok(pending)
    }

    /// Rows for the stream of a transform, without those that a replay computes again.
    fn not_yet_sent(&self, stream: &str, rows: Rows, input: &StreamBatch) -> Option<RecordBatch> {
        let is_replayed = input.base_offset < self.outputs.sent_below && !self.is_filling && input.target.is_none();
        let brings_a_table_rows = self.plan.written.get(stream).is_some_and(|written| written.table.is_some());
        if !is_replayed || brings_a_table_rows {
            return Some(rows.batch);
        }
        let sent = |row: &u32| input.base_offset + u64::from(*row) < self.outputs.sent_below;
        let first = rows.origin.partition_point(sent);
        (first < rows.len()).then(|| rows.batch.slice(first, rows.len() - first))
    }

    fn seen(&self, op: usize, rows: Rows, input: &StreamBatch) -> Seen {
        Seen {
            name: self.plan.ops[op].name.clone(),
            partition: self.partition,
            offsets: rows.origin.iter().map(|&row| input.base_offset + u64::from(row)).collect(),
            batch: rows.batch,
        }
    }

    async fn apply_to_table(
        &mut self,
        index: usize,
        arriving: &Arriving,
        input: &StreamBatch,
        now_us: i64,
        effects: &mut Effects,
        pending: &mut Pending,
    ) -> Result<()> {
        let plan = self.plan.clone();
        let (table_plan, table) = (&plan.tables[index], &mut self.tables[index]);
        let name = &table_plan.spec.name;
        let (kept, deletes, undecided) = deletes(&table_plan.spec, &arriving.rows)?;
        let applied = table.apply(&kept.batch, deletes.as_ref(), now_us, &mut pending.writes).await?;
        self.context.metrics.received("table", name, arriving.rows.len());
        self.context.metrics.sent("table", name, applied.changes.num_rows());
        if applied.changes.num_rows() > 0 {
            pending.rows.entry(table_plan.changes.clone()).or_default().push(applied.changes);
        }
        if self.graph.is_quiet(name) {
            return Ok(());
        }
        let input_of = |row: u32| plan.ops[table_plan.inputs[arriving.slots.of(row)]].name.clone();
        // A row of `kept` is one of those that arrived.
        let kept_rows: Vec<u32> = rows_without(arriving.rows.len(), &undecided);
        let refused = applied.failures.into_iter().map(|f| RowFailure { row: kept_rows[f.row as usize], ..f });
        let mut failures: Vec<RowFailure> = undecided.into_iter().chain(refused).collect();
        failures.sort_by_key(|failure| failure.row);
        let reject = Reject {
            component: name,
            component_kind: "table",
            on_error: table_plan.spec.on_error,
            stream: &plan.input,
            input,
            now_us,
            pipeline_version: &self.context.pipeline_version,
        };
        let failed = FailedRows::of(Stage::Transform, &arriving.rows, &failures).from_each(&input_of);
        reject.put_aside(&failed, effects)
    }

    async fn expire(&mut self) -> Result<Option<Pending>> {
        let now_us = self.context.clock.now_us();
        let mut pending = Pending::new(self.next_offset);
        for (table, plan) in self.tables.iter_mut().zip(&self.plan.tables) {
            if let Some(changes) = table.expire(now_us, EXPIRE_ROWS, &mut pending.writes).await? {
                pending.rows.entry(plan.changes.clone()).or_default().push(changes);
            }
        }
        // There can be writes without a change: the index of what expires when.
        Ok((!pending.writes.is_empty()).then_some(pending))
    }

    /// Writes everything at once, then starts to append the outbox.
    async fn commit(&mut self, pending: Pending) -> Result<Option<Publishing>> {
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
        self.state.commit(writes).await.map_err(|e| e.context(format!("commit {}", self.producer)))?;
        self.sequence = commit.sequence;
        self.next_offset = next_offset;
        self.context.watchers.show(pending.seen);
        self.context.metrics.committed(&self.plan.id, self.partition, self.next_offset);
        if commit.outbox.is_empty() {
            self.report();
            return Ok(None);
        }
        let (producer, streams) = (self.producer.clone(), self.context.streams.clone());
        let (progress, position, partition) = (self.context.progress.clone(), self.position.clone(), self.partition);
        let next_offset = self.outputs.lowest(self.next_offset);
        Ok(Some(tokio::spawn(async move {
            outbox::publish(commit, &producer, &streams).await?;
            progress.advance(&position, partition, next_offset);
            Ok(())
        })))
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

/// What one commit will write.
struct Pending {
    writes: Writes,
    rows: BTreeMap<Arc<str>, Vec<RecordBatch>>,
    dead_letters: Vec<DeadLetter>,
    seen: Vec<Seen>,
    next_offset: u64,
    event_time_max_us: Option<i64>,
}

impl Pending {
    fn new(next_offset: u64) -> Self {
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

/// The outbox of a commit on its way to the logs.
type Publishing = tokio::task::JoinHandle<Result<()>>;

async fn finish(publishing: &mut Option<Publishing>) -> Result<()> {
    match publishing.take() {
        Some(handle) => handle.await.map_err(|e| Error::bug(format!("the outbox task ended: {e}")))?,
        None => Ok(()),
    }
}
