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
use millstream_core::{Clock, DeadLetter, Error, Result, Rows, Stage};
use millstream_sql::TOO_MUCH_AT_ONCE;
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Chunk;
use millstream_storage::state::{State, Writes};
use millstream_storage::table::Table;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::FailedRows;
use crate::graph::{Graph, Watched};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::outbox::{self, COMMIT_KEY, Commit};
use crate::outputs::{Begins, OUTPUTS_KEY, Outputs, Position};
use crate::plan::{StagePlan, storage_spec};
use crate::progress::{Progress, ReaderProgress};
use crate::reopen::{Reader, ReaderKind, reopen};
use crate::scorer::waiting::STOPPED;
use crate::streams::{Stream, StreamBatch, Streams};
use crate::tally::Fate;
use crate::watch::{Seen, Watchers};

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
    state: State,
    /// Tables by node, in the order of the plan.
    tables: BTreeMap<usize, Vec<Table>>,
    graph: Graph,
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
        let graph = context.graph(&plan, &opening.models)?;
        let tables = open_tables(&context, &state, &plan).await?;
        let Opening { role, models, .. } = opening;
        let mut task = Self {
            context,
            plan,
            partition,
            producer,
            input,
            state,
            tables,
            graph,
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
        self.outputs.rewind(offset);
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
        let has_ttl = self.plan.tables().any(|t| t.spec.ttl.is_some());
        let mut publishing: Option<Publishing> = None;
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
                Err(e) if e.message() == TOO_MUCH_AT_ONCE => {
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
            Err(e) if e.message() == STOPPED => Ok(None),
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
            && !self.context.stop.is_cancelled()
        {
            let batches = self.read_from(at)?.into_iter().filter_map(|batch| batch.before_offset(fill.until));
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

    fn read(&self) -> Result<Vec<StreamBatch>> {
        self.read_from(self.next_offset)
    }

    /// Reads on, with every batch in the schema of the node where it enters.
    fn read_from(&self, offset: u64) -> Result<Vec<StreamBatch>> {
        let offset = offset.max(self.input.log.start_offset(self.partition));
        let batches = self.input.read(self.partition, offset, READ_BYTES)?;
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
        // While an output is filled, these rows come a second time.
        if !self.is_filling {
            pending.seen.extend(effects.seen.into_iter().map(|(node, rows)| self.seen(node, rows, input)));
        }
        self.context.metrics.received("stage", &self.plan.id, input.batch.num_rows());
        Ok(pending)
    }

    fn seen(&self, node: usize, rows: Rows, input: &StreamBatch) -> Seen {
        Seen {
            name: self.plan.nodes[node].name.clone(),
            partition: self.partition,
            offsets: rows.origin.iter().map(|&row| input.base_offset + u64::from(row)).collect(),
            batch: rows.batch,
        }
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
            let (metrics, name) = (&self.context.metrics, &table_plan.spec.name);
            metrics.failed("table", Stage::Transform, name, &applied.failures, Fate::DeadLetter);
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
        let offset = match self.role {
            Role::Run => self.outputs.lowest(self.next_offset),
            // What lies behind the stage is not this run's.
            Role::Fill(_) if self.outputs.fills.is_empty() => self.input.log.end_offset(self.partition),
            Role::Fill(_) => self.outputs.lowest(self.next_offset),
        };
        self.context.progress.advance(&self.position, self.partition, offset);
    }
}

async fn open_tables(context: &TaskContext, state: &State, plan: &StagePlan) -> Result<BTreeMap<usize, Vec<Table>>> {
    let mut tables = BTreeMap::new();
    for (index, node) in plan.nodes.iter().enumerate().filter(|(_, n)| !n.tables.is_empty()) {
        let mut opened = Vec::new();
        for table in &node.tables {
            opened.push(Table::open(state.clone(), storage_spec(&table.spec), context.schemas.clone()).await?);
        }
        tables.insert(index, opened);
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
