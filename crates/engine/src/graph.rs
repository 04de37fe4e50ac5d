//! The operators that one task evaluates on each batch, and what comes out of it: rows for tables, rows for streams,
//! and rows that failed.
//!
//! Operators are evaluated one after the other in the order of the plan, each when everything that it reads has been.
//! Rows that meet (in a UNION ALL, a table or a stream with several inputs) are merged by their origin: per key, their
//! order is that of the input, whatever way they took and however the batches were cut.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use millstream_core::{DeadLetter, Error, ErrorKind, Result, RowFailure, Rows, Stage};
use millstream_sql::SqlStep;
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Late, Watermark};
use millstream_storage::state::{State, Writes};
use tokio_util::sync::CancellationToken;

use crate::failures::{FailedRows, Reject};
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::ops::dedup::Dedup;
use crate::ops::{FILL_LANE, Origins, STAGE_LANE};
use crate::plan::{At, OpPlan, StagePlan};
use crate::predict::PredictStep;
use crate::spec::{OnError, TransformKind};
use crate::streams::StreamBatch;
use crate::tally::Fate;
use crate::watch::Watchers;

/// Rows that meet are merged into one batch of up to so many bytes. More than one row that come to more are too much at
/// once.
const MERGED_BYTES_MAX: usize = 256 << 20;

/// The operators of one task.
pub struct Graph {
    plan: Arc<StagePlan>,
    /// By operator; none for the input.
    steps: Vec<Option<Step>>,
    /// Who takes the rows of each operator.
    readers: Vec<Vec<Reader>>,
    pipeline_version: Arc<str>,
    metrics: Arc<Metrics>,
    /// Steps whose failures were dealt with when these records were read the first time.
    quiet: BTreeSet<String>,
    watched: Watched,
    /// See [`Self::is_behind`].
    is_behind: bool,
}

/// Whose rows are kept for those who watch.
#[derive(Debug, Clone, Default)]
pub enum Watched {
    /// Nobody's.
    #[default]
    None,
    /// Those of the steps that somebody watches.
    By(Arc<Watchers>),
    /// Those of every step.
    All,
}

impl Watched {
    fn wants(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::By(watchers) => watchers.want(name),
            Self::All => true,
        }
    }
}

enum Step {
    Sql(SqlStep),
    Predict(Box<PredictStep>),
    Dedup(Box<Dedup>),
}

/// When a batch is computed.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// By the clock, microseconds since the epoch.
    pub now_us: i64,
    /// How far event time is behind the batch; none where nobody waits for it.
    pub watermark: Option<Watermark>,
}

/// Where the operators with state by key keep it.
#[derive(Debug, Clone, Copy)]
pub enum Kept<'a> {
    /// In the state of the task, for the stage.
    Stage(&'a State),
    /// There too, for a filling. An operator that is not among these steps has not seen a record yet: what it keeps
    /// here is the stage's from then on.
    Filling(&'a State, &'a BTreeSet<String>),
}

impl<'a> Kept<'a> {
    fn of(self, op: &str) -> (&'a State, &'static str) {
        match self {
            Self::Stage(state) => (state, STAGE_LANE),
            Self::Filling(state, known) if known.contains(op) => (state, FILL_LANE),
            Self::Filling(state, _) => (state, STAGE_LANE),
        }
    }
}

/// What one batch came to.
#[derive(Debug, Default)]
pub struct Effects {
    /// Rows for table `i` of the plan, in order.
    pub tables: Vec<(usize, Arriving)>,
    /// Rows for output streams, in order.
    pub emits: Vec<Emitted>,
    /// Rows that failed for good.
    pub dead_letters: Vec<DeadLetter>,
    /// Rows of steps that are watched, by operator.
    pub seen: Vec<(usize, Rows)>,
    /// What is counted once the whole batch is through: it may have to be done again in halves.
    counted: Vec<Counted>,
}

/// Rows for a stream.
#[derive(Debug)]
pub struct Emitted {
    /// The stream.
    pub stream: Arc<str>,
    /// The rows.
    pub rows: Rows,
    /// Those of them that came late, by their number.
    pub late: Vec<Late>,
}

/// What a step did.
#[derive(Debug)]
enum Counted {
    /// Rows in and out.
    Passed { op: usize, received: usize, sent: usize },
    /// Rows that failed.
    Failed { name: Arc<str>, kind: &'static str, stage: Stage, failures: Vec<RowFailure>, fate: Fate },
}

/// Who takes the rows of an operator.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Op { op: usize, slot: usize },
    Table { table: usize, slot: usize },
    Emit { emit: usize, slot: usize },
}

/// Rows of some of the inputs of an operator, table or stream, each with which input it is.
type Inbox = Vec<(usize, Rows)>;

/// Rows that have been computed, but not yet taken.
struct Inboxes {
    ops: Vec<Inbox>,
    tables: Vec<Inbox>,
    emits: Vec<Inbox>,
}

/// Rows for a table.
#[derive(Debug, Clone)]
pub struct Arriving {
    /// The rows, in the columns of the table.
    pub rows: Rows,
    /// Which of the table's inputs each row is from.
    pub slots: Slots,
}

/// Which of several inputs each row is from.
#[derive(Debug, Clone)]
pub enum Slots {
    /// All from one.
    One(usize),
    /// By row.
    Each(Arc<[u32]>),
}

impl Slots {
    /// The input of one row.
    pub fn of(&self, row: u32) -> usize {
        match self {
            Self::One(slot) => *slot,
            Self::Each(slots) => slots[row as usize] as usize,
        }
    }
}

impl Graph {
    /// Opens the operators of one task.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(
        plan: Arc<StagePlan>,
        models: &ModelSet,
        (kept, schemas): (Kept<'_>, &Arc<SchemaStore>),
        pipeline_version: Arc<str>,
        metrics: Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let mut steps = Vec::with_capacity(plan.ops.len());
        for op in &plan.ops {
            let Some(step) = &op.step else {
                steps.push(None);
                continue;
            };
            steps.push(Some(match &step.kind {
                TransformKind::Sql(sql) => Step::Sql(sql.step().map_err(|e| Error::bug(e.to_string()))?),
                TransformKind::Predict(spec) => {
                    let scorer = models.scorers.get(&spec.model).ok_or_else(|| Error::bug("a model was not loaded"))?;
                    let (spec, schema) = (spec.as_ref().clone(), op.schema.clone());
                    let told = models.told(&op.name, &spec.model);
                    let (scorer, stop) = (scorer.clone(), stop.clone());
                    Step::Predict(Box::new(PredictStep::new(spec, schema, step.on_error, scorer, stop, told)?))
                }
                TransformKind::Dedup(spec) => {
                    let (state, lane) = kept.of(&op.name);
                    let at = (state.clone(), lane);
                    Step::Dedup(Box::new(Dedup::open(at, &op.name, &op.schema, schemas, spec.clone()).await?))
                }
            }));
        }
        let readers = readers(&plan);
        Ok(Self {
            plan,
            steps,
            readers,
            pipeline_version,
            metrics,
            quiet: BTreeSet::new(),
            watched: Watched::None,
            is_behind: false,
        })
    }

    /// The same for records that these steps have seen before.
    #[must_use]
    pub fn quiet(self, steps: BTreeSet<String>) -> Self {
        Self { quiet: steps, ..self }
    }

    /// Keeps the rows of steps that are watched.
    #[must_use]
    pub fn watched(self, watched: Watched) -> Self {
        Self { watched, ..self }
    }

    /// Runs one batch of the input through every operator, then the time that has passed with it; a redriven batch
    /// enters in front of its target. What operators keep goes into `writes`.
    ///
    /// # Errors
    /// `TooMuch` for a batch that has to be run in halves, after opening the operators anew: no more than what they
    /// keep was done. What a step fails with.
    pub async fn run(&mut self, input: &StreamBatch, moment: Moment, writes: &mut Writes) -> Result<Effects> {
        let mut effects = Effects::default();
        let mut origins = Origins::new(input);
        let plan = self.plan.clone();
        let mut inboxes = Inboxes::new(&plan);
        self.is_behind = false;
        if !input.is_empty() && !self.take_in(input, moment, &mut inboxes, &mut effects)? {
            return Ok(effects);
        }
        for op in 1..plan.ops.len() {
            let inbox = std::mem::take(&mut inboxes.ops[op]);
            let rows = match &self.steps[op] {
                Some(Step::Dedup(_)) => {
                    let of = (input, &mut origins);
                    self.keyed_step(op, inbox, of, moment, (&mut effects, &mut *writes)).await?
                }
                _ if inbox.is_empty() => continue,
                _ => self.step(op, inbox, input, moment.now_us, &mut effects).await?,
            };
            if rows.is_empty() {
                continue;
            }
            inboxes.take_in(&self.readers[op], &rows);
            if self.watched.wants(&plan.ops[op].name) {
                effects.seen.push((op, rows));
            }
        }
        for (table, inbox) in inboxes.tables.into_iter().enumerate().filter(|(_, inbox)| !inbox.is_empty()) {
            let (rows, slots) = merge(inbox, &plan.tables[table].spec.schema, input)?;
            effects.tables.push((table, Arriving { rows, slots }));
        }
        for (emit, inbox) in inboxes.emits.into_iter().enumerate().filter(|(_, inbox)| !inbox.is_empty()) {
            let schema = inbox[0].1.batch.schema();
            let rows = merge(inbox, &schema, input)?.0;
            let late = origins.late_among(&rows.origin);
            effects.emits.push(Emitted { stream: plan.emits[emit].stream.clone(), rows, late });
        }
        Ok(effects)
    }

    /// Lets rows in where they enter; false where they are for nobody here.
    fn take_in(
        &self,
        input: &StreamBatch,
        moment: Moment,
        inboxes: &mut Inboxes,
        effects: &mut Effects,
    ) -> Result<bool> {
        let plan = &self.plan;
        let entry = match &input.target {
            None => plan.entry(&plan.input, None),
            // A target that is not of this stage is a sink's.
            Some(target) => plan.entry(&target.component, target.input.as_deref()),
        };
        let Some(entry) = entry else { return Ok(false) };
        let (rows, misfits) = input.fit(&entry.schema)?;
        if !misfits.is_empty() {
            let all = Rows::all(input.batch.clone());
            let reject = self.reject(&plan.input, "source", OnError::DeadLetter, input, moment.now_us);
            reject.put_aside(&FailedRows::of(Stage::Transform, &all, &misfits), effects)?;
        }
        match entry.at {
            At::Input => inboxes.take_in(&self.readers[0], &rows),
            At::Op { op, slot } => inboxes.ops[op].push((slot, rows)),
            At::Table { table, slot } => inboxes.tables[table].push((slot, rows)),
        }
        Ok(true)
    }

    /// What an operator with state by key makes of rows, if there are any, and of the time that has passed.
    async fn keyed_step(
        &mut self,
        op: usize,
        inbox: Inbox,
        (input, origins): (&StreamBatch, &mut Origins<'_>),
        moment: Moment,
        (effects, writes): (&mut Effects, &mut Writes),
    ) -> Result<Rows> {
        let plan = self.plan.clone();
        let OpPlan { name, inputs, step, .. } = &plan.ops[op];
        let from = &plan.ops[inputs[0]];
        let (rows, _) = merge(inbox, &from.schema, input)?;
        let Some(Step::Dedup(dedup)) = self.steps[op].as_mut() else {
            return Err(Error::bug(format!("`{name}` has no state by key")));
        };
        let judged = dedup.run(&rows, origins, moment.watermark, writes).await?;
        self.is_behind |= dedup.is_behind(moment.watermark);
        effects.counted.push(Counted::Passed { op, received: rows.len(), sent: judged.through.len() });
        let on_error = step.as_ref().map_or(OnError::DeadLetter, |step| step.on_error);
        for (rows, failures) in [(&rows, &judged.unjudged), (&judged.turn, &judged.too_late)] {
            if !failures.is_empty() && !self.is_quiet(name) {
                let failed = FailedRows::of(Stage::Transform, rows, failures).from(&from.name).timed(from.event_time);
                self.reject(name, "transform", on_error, input, moment.now_us).put_aside(&failed, effects)?;
            }
        }
        Ok(judged.through)
    }

    /// True where the last run has left work that its moment asks for: to be run again, with no rows.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The steps whose failures were dealt with when these records were read the first time.
    pub fn quiet_steps(&self) -> &BTreeSet<String> {
        &self.quiet
    }

    /// True for one of them.
    pub fn is_quiet(&self, name: &str) -> bool {
        self.quiet.contains(name)
    }

    /// Counts what was done, once all of it was.
    pub fn count(&self, effects: &mut Effects) {
        effects.counted.drain(..).for_each(|counted| self.count_one(counted));
    }

    fn count_one(&self, counted: Counted) {
        match counted {
            Counted::Passed { op, received, sent } => {
                let name = &self.plan.ops[op].name;
                self.metrics.received("transform", name, received);
                self.metrics.sent("transform", name, sent);
            }
            Counted::Failed { name, kind, stage, failures, fate } => {
                self.metrics.failed(kind, stage, &name, &failures, fate);
            }
        }
    }

    /// What an operator makes of the rows of its inputs.
    async fn step(
        &mut self,
        op: usize,
        mut inbox: Inbox,
        input: &StreamBatch,
        now_us: i64,
        effects: &mut Effects,
    ) -> Result<Rows> {
        let plan = self.plan.clone();
        let OpPlan { name, schema, inputs, step, .. } = &plan.ops[op];
        let on_error = step.as_ref().map_or(OnError::DeadLetter, |step| step.on_error);
        inbox.sort_by_key(|(slot, _)| *slot);
        let mut outputs = Inbox::new();
        for (slot, rows) in inbox {
            let from = &plan.ops[inputs[slot]].name;
            let (stage, model_version, (output, failures)) = match self.steps[op].as_mut() {
                Some(Step::Sql(sql)) => (Stage::Transform, None, sql.run(from, &rows)?),
                Some(Step::Predict(predict)) => {
                    (Stage::Predict, Some(predict.model_version()), predict.run(&rows).await?)
                }
                Some(Step::Dedup(_)) | None => return Err(Error::bug(format!("`{name}` is an input, not a step"))),
            };
            effects.counted.push(Counted::Passed { op, received: rows.len(), sent: output.len() });
            if !failures.is_empty() && !self.is_quiet(name) {
                let failed = FailedRows::of(stage, &rows, &failures).from(from).model(model_version.as_deref());
                self.reject(name, "transform", on_error, input, now_us).put_aside(&failed, effects)?;
            }
            outputs.push((slot, output));
        }
        Ok(merge(outputs, schema, input)?.0)
    }

    fn reject<'a>(
        &'a self,
        component: &'a Arc<str>,
        component_kind: &'static str,
        on_error: OnError,
        input: &'a StreamBatch,
        now_us: i64,
    ) -> Reject<'a> {
        let (stream, pipeline_version) = (&self.plan.input, &*self.pipeline_version);
        Reject { component, component_kind, on_error, stream, input, now_us, pipeline_version }
    }
}

impl Effects {
    /// Keeps what became of rows that failed; counted when the batch is through.
    pub(crate) fn failed(
        &mut self,
        reject: &Reject<'_>,
        failed: &FailedRows<'_>,
        fate: Fate,
        letters: Vec<DeadLetter>,
    ) {
        self.dead_letters.extend(letters);
        self.counted.push(Counted::Failed {
            name: reject.component.clone(),
            kind: reject.component_kind,
            stage: failed.stage,
            failures: failed.failures.to_vec(),
            fate,
        });
    }
}

impl Inboxes {
    fn new(plan: &StagePlan) -> Self {
        let empty = |count| (0..count).map(|_| Inbox::new()).collect();
        Self { ops: empty(plan.ops.len()), tables: empty(plan.tables.len()), emits: empty(plan.emits.len()) }
    }

    /// Gives rows to all who read them.
    fn take_in(&mut self, readers: &[Reader], rows: &Rows) {
        for reader in readers {
            let (inbox, slot) = match *reader {
                Reader::Op { op, slot } => (&mut self.ops[op], slot),
                Reader::Table { table, slot } => (&mut self.tables[table], slot),
                Reader::Emit { emit, slot } => (&mut self.emits[emit], slot),
            };
            inbox.push((slot, rows.clone()));
        }
    }
}

/// Who takes the rows of each operator.
fn readers(plan: &StagePlan) -> Vec<Vec<Reader>> {
    let mut readers = vec![Vec::new(); plan.ops.len()];
    for (op, of) in plan.ops.iter().enumerate() {
        of.inputs.iter().enumerate().for_each(|(slot, &input)| readers[input].push(Reader::Op { op, slot }));
    }
    for (table, of) in plan.tables.iter().enumerate() {
        of.inputs.iter().enumerate().for_each(|(slot, &input)| readers[input].push(Reader::Table { table, slot }));
    }
    for (emit, of) in plan.emits.iter().enumerate() {
        of.inputs.iter().enumerate().for_each(|(slot, &input)| readers[input].push(Reader::Emit { emit, slot }));
    }
    readers
}

/// The rows of several inputs as one batch, in the order of what they come from, and for the same origin in the order
/// of the inputs; and which input each is from.
///
/// # Errors
/// `TooMuch` where they come to too many bytes, and fewer rows of `input` would come to less.
fn merge(mut inbox: Inbox, schema: &SchemaRef, input: &StreamBatch) -> Result<(Rows, Slots)> {
    inbox.retain(|(_, rows)| !rows.is_empty());
    inbox.sort_by_key(|(slot, _)| *slot);
    if inbox.len() <= 1 {
        let Some((slot, rows)) = inbox.pop() else {
            let batch = RecordBatch::new_empty(schema.clone());
            return Ok((Rows { batch, origin: Arc::from([]) }, Slots::One(0)));
        };
        return Ok((Rows { batch: with_schema(rows.batch, schema)?, origin: rows.origin }, Slots::One(slot)));
    }
    let bytes: usize = inbox.iter().flat_map(|(_, rows)| rows.batch.columns()).map(bytes_of).sum();
    if bytes > MERGED_BYTES_MAX && input.batch.num_rows() > 1 {
        return Err(Error::new(ErrorKind::TooMuch, "rows that meet are too much at once"));
    }
    let batches = inbox.iter().map(|(_, rows)| with_schema(rows.batch.clone(), schema)).collect::<Result<Vec<_>>>()?;
    let batch = concat_batches(schema, &batches)?;
    let origin: Vec<u32> = inbox.iter().flat_map(|(_, rows)| rows.origin.iter().copied()).collect();
    let slots = inbox.iter().flat_map(|(slot, rows)| std::iter::repeat_n(*slot as u32, rows.len())).collect::<Vec<_>>();
    if origin.is_sorted() {
        return Ok((Rows { batch, origin: origin.into() }, Slots::Each(slots.into())));
    }
    let mut order: Vec<u32> = (0..origin.len() as u32).collect();
    // Stable: rows of one origin stay in the order of the inputs.
    order.sort_by_key(|&row| origin[row as usize]);
    let slots = order.iter().map(|&row| slots[row as usize]).collect();
    let origin = order.iter().map(|&row| origin[row as usize]).collect();
    let batch = take_record_batch(&batch, &UInt32Array::from(order))?;
    Ok((Rows { batch, origin }, Slots::Each(slots)))
}

/// The same columns under the names and nullability of `schema`.
fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let rows = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &rows)?)
}

/// The bytes of the values of a column, without what else is in the buffers that it shares.
fn bytes_of(column: &Arc<dyn Array>) -> usize {
    column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())
}

#[cfg(test)]
mod tests;
