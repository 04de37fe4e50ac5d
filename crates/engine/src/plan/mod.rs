//! From the checked pipeline file to what runs: streams (logs), stages (one task per partition of a log), and the
//! operators that each stage evaluates, in topological order. Pure; opens nothing.
//!
//! A stage reads one log and evaluates every transform that depends on it. A table lives in the stage's own state where
//! its key is the log's partition key; otherwise its rows pass through an *exchange*, a log of its own, partitioned by
//! the table's key, that a second stage reads. The changes of a table are a log already: what is computed from them is
//! a stage of its own, which can be filled and replayed like any other.

mod planner;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::{Error, Result};

use crate::spec::{OnError, Pipeline, PredictSpec, RetentionSpec, SinkSpec, Start, TableSpec, TransformKind};
use planner::Planner;

/// Everything that runs.
#[derive(Debug)]
pub struct Plan {
    /// Every log, by name.
    pub streams: Vec<StreamPlan>,
    /// Stages, upstream before downstream.
    pub stages: Vec<StagePlan>,
    /// Sinks, as in the file.
    pub sinks: Vec<SinkSpec>,
}

/// One log.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// Its name: that of a source or transform, `table.changes`, or `table.input` for an exchange.
    pub name: Arc<str>,
    /// Partitions.
    pub partitions: u32,
    /// The schema of its rows.
    pub schema: SchemaRef,
    /// The columns whose hash chooses the partition; empty: rows stay in the partition they came from.
    pub key: Vec<usize>,
    /// Column of the event time, where known.
    pub event_time: Option<usize>,
    /// How long it is kept.
    pub retention: RetentionSpec,
    /// What it holds.
    pub kind: StreamKind,
    /// True where somebody below waits for its event time: each of its partitions is told how far that is, also where
    /// no rows come.
    pub keeps_time: bool,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// Decoded records of a source.
    Source,
    /// The rows of a transform that a sink reads.
    Transform,
    /// The change stream of a table.
    Changes,
    /// Rows on their way to a table or operator that is partitioned otherwise.
    Exchange,
}

/// Who writes a stream, and says how far event time is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Writer {
    /// A source, all partitions.
    Source(Arc<str>),
    /// Each task of a stage, of which there are so many, any partition.
    Tasks(Arc<str>, u32),
    /// Each task of a stage, the partition that it has itself.
    Task(Arc<str>),
}

impl Writer {
    /// The names under which one partition is written.
    pub fn producers(&self, partition: u32) -> Vec<Arc<str>> {
        match self {
            Self::Source(name) => vec![name.clone()],
            Self::Tasks(stage, tasks) => (0..*tasks).map(|task| producer(stage, task)).collect(),
            Self::Task(stage) => vec![producer(stage, partition)],
        }
    }
}

/// The name under which a task writes.
pub fn producer(stage: &str, partition: u32) -> Arc<str> {
    format!("{stage}/{partition}").into()
}

/// The tasks of one log, one per partition.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Name of the stage, of its state folder and of its producers: that of its log, but for a replay into another
    /// table.
    pub id: Arc<str>,
    /// The log it reads.
    pub input: Arc<str>,
    /// Partitions.
    pub partitions: u32,
    /// The operators, each behind those whose rows it takes. Index 0 is the input itself.
    pub ops: Vec<OpPlan>,
    /// The tables in this stage's state.
    pub tables: Vec<TablePlan>,
    /// The streams that it writes, but for the changes of its tables.
    pub emits: Vec<EmitPlan>,
    /// Where those streams begin when they are new, and who reads them.
    pub written: BTreeMap<Arc<str>, Written>,
    /// Whom it waits for to know how far event time is; nobody where it does not matter.
    pub timekeepers: Vec<Writer>,
}

/// A stream that a stage writes.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where it begins when it is new.
    pub start: Start,
    /// The table that it brings rows, where it is an exchange.
    pub table: Option<Arc<str>>,
    /// The sinks that read it.
    pub sinks: Vec<Arc<str>>,
}

/// An operator: the input of a stage, or a transform of it.
#[derive(Debug, Clone)]
pub struct OpPlan {
    /// The name of the relation that it yields.
    pub name: Arc<str>,
    /// The columns of its rows.
    pub schema: SchemaRef,
    /// The column of their event time, where they have one.
    pub event_time: Option<usize>,
    /// What it does; none for the input.
    pub step: Option<StepPlan>,
    /// The operators whose rows it takes, in the order of the file. Rows of several are merged by their origin.
    pub inputs: Vec<usize>,
}

/// What an operator does.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// What it does.
    pub kind: TransformKind,
    /// What happens to a row that fails.
    pub on_error: OnError,
}

/// A table, what brings it rows, and where its changes go.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table.
    pub spec: TableSpec,
    /// Name of its change stream.
    pub changes: Arc<str>,
    /// The operators whose rows it takes.
    pub inputs: Vec<usize>,
}

/// A stream and what goes into it.
#[derive(Debug, Clone)]
pub struct EmitPlan {
    /// The stream.
    pub stream: Arc<str>,
    /// The operators whose rows it takes.
    pub inputs: Vec<usize>,
}

/// Name of a table's change stream.
pub fn changes_name(table: &str) -> Arc<str> {
    format!("{table}.changes").into()
}

/// Name of the log that brings a table or operator its rows where it is partitioned otherwise than its input.
pub fn exchange_name(table: &str) -> Arc<str> {
    format!("{table}{EXCHANGE_SUFFIX}").into()
}

const EXCHANGE_SUFFIX: &str = ".input";

impl Plan {
    /// Plans the whole pipeline.
    ///
    /// # Errors
    /// Only what the checks of the pipeline file should have found: `Bug`.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        Planner::new(pipeline).plan()
    }

    /// Logs and states that are opened.
    pub fn parts(&self) -> usize {
        self.streams.len() + self.states()
    }

    /// States that are opened: one for each partition of each stage, and one for each sink.
    pub fn states(&self) -> usize {
        self.stages.iter().map(|stage| stage.partitions as usize).sum::<usize>() + self.sinks.len()
    }

    /// True where some step uses the model called `name`, or falls back on it.
    pub fn uses_model(&self, name: &str) -> bool {
        self.predictions().any(|predict| predict.uses_model(name))
    }

    /// True where some step asks the model called `name` first.
    pub fn asks_model(&self, name: &str) -> bool {
        self.predictions().any(|predict| &*predict.model == name)
    }

    fn predictions(&self) -> impl Iterator<Item = &PredictSpec> {
        let steps = self.stages.iter().flat_map(|s| &s.ops).filter_map(|op| op.step.as_ref());
        steps.filter_map(|step| match &step.kind {
            TransformKind::Predict(predict) => Some(&**predict),
            TransformKind::Sql(_) | TransformKind::Dedup(_) => None,
        })
    }

    /// The stream called `name`.
    ///
    /// # Errors
    /// `Bug`: every name was checked before.
    pub fn stream(&self, name: &str) -> Result<&StreamPlan> {
        self.streams
            .iter()
            .find(|s| &*s.name == name)
            .ok_or_else(|| Error::bug(format!("no stream `{name}` in the plan")))
    }

    /// Only what brings rows to `table` directly: the stages that read what they need for it, and its own.
    #[must_use]
    pub fn for_table(mut self, table: &str) -> Self {
        let outputs = BTreeSet::from([table.to_owned(), exchange_name(table).to_string()]);
        let stages = self.stages.iter().map(|stage| stage.restricted_to(&outputs));
        self.stages = stages.filter(|stage| !stage.tables.is_empty() || !stage.emits.is_empty()).collect();
        let stages = &self.stages;
        self.streams.retain(|stream| stages.iter().any(|stage| stage.uses(&stream.name)));
        self.sinks.clear();
        self
    }
}

impl StagePlan {
    /// What it feeds, each once: tables by their names, streams by theirs.
    pub fn outputs(&self) -> impl Iterator<Item = (Arc<str>, Start)> {
        let tables = self.tables.iter().map(|table| (table.spec.name.clone(), table.spec.start));
        tables.chain(self.written.iter().map(|(name, written)| (name.clone(), written.start)))
    }

    /// The streams that it writes.
    pub fn streams(&self) -> impl Iterator<Item = Arc<str>> {
        let changes = self.tables.iter().map(|table| table.changes.clone());
        changes.chain(self.emits.iter().map(|emit| emit.stream.clone()))
    }

    /// True where it reads or writes the stream called `name`.
    fn uses(&self, name: &str) -> bool {
        *self.input == *name
            || self.tables.iter().any(|table| *table.changes == *name)
            || self.emits.iter().any(|emit| *emit.stream == *name)
    }

    /// The names of what puts records aside: its steps and tables.
    pub fn step_names(&self) -> BTreeSet<String> {
        let steps = self.ops.iter().filter(|op| op.step.is_some()).map(|op| &op.name);
        crate::outputs::names(steps.chain(self.tables.iter().map(|table| &table.spec.name)))
    }

    /// The operator that yields the relation called `name`.
    pub fn op(&self, name: &str) -> Option<usize> {
        self.ops.iter().position(|op| *op.name == *name)
    }

    /// The table that an output is, or brings rows.
    pub fn table_of(&self, output: &str) -> Option<Arc<str>> {
        match self.written.get(output) {
            Some(written) => written.table.clone(),
            None => self.tables.iter().map(|t| t.spec.name.clone()).find(|name| **name == *output),
        }
    }

    /// An output in the words of the pipeline file.
    pub fn shown(&self, output: &str) -> String {
        let Some(written) = self.written.get(output).filter(|written| written.table.is_none()) else {
            return format!("`{}`", self.table_of(output).as_deref().unwrap_or(output));
        };
        if written.sinks.is_empty() {
            // The exchange of a transform.
            return format!("`{}`", output.trim_end_matches(EXCHANGE_SUFFIX));
        }
        written.sinks.iter().map(|sink| format!("`{sink}`")).collect::<Vec<_>>().join(", ")
    }

    /// The same stage for these outputs alone: without the operators that lead to none of them.
    #[must_use]
    pub fn restricted_to(&self, outputs: &BTreeSet<String>) -> Self {
        let mut stage = self.clone();
        stage.tables.retain(|table| outputs.contains(&*table.spec.name));
        stage.emits.retain(|emit| outputs.contains(&*emit.stream));
        stage.written.retain(|name, _| outputs.contains(&**name));
        let mut leads = vec![false; stage.ops.len()];
        let ends = stage.tables.iter().map(|t| &t.inputs).chain(stage.emits.iter().map(|e| &e.inputs));
        ends.flatten().for_each(|&op| leads[op] = true);
        for (index, op) in stage.ops.iter().enumerate().rev().filter(|(_, op)| op.step.is_some()) {
            if leads[index] {
                op.inputs.iter().for_each(|&input| leads[input] = true);
            }
        }
        stage.keep(&leads);
        stage
    }

    /// The same stage without some operators, and without what takes rows from them alone.
    pub fn without(&mut self, gone: &BTreeSet<usize>) {
        let mut stays = vec![true; self.ops.len()];
        for (index, op) in self.ops.iter().enumerate().skip(1) {
            stays[index] = !gone.contains(&index) && op.inputs.iter().any(|&input| stays[input]);
        }
        self.keep(&stays);
    }

    /// Drops operators; the input stays.
    fn keep(&mut self, keeps: &[bool]) {
        let mut at = vec![None; self.ops.len()];
        let mut ops = Vec::new();
        for (index, op) in std::mem::take(&mut self.ops).into_iter().enumerate() {
            if index == 0 || keeps[index] {
                at[index] = Some(ops.len());
                ops.push(op);
            }
        }
        self.ops = ops;
        let renumber = |inputs: &mut Vec<usize>| *inputs = inputs.iter().filter_map(|&input| at[input]).collect();
        self.ops.iter_mut().for_each(|op| renumber(&mut op.inputs));
        self.tables.iter_mut().for_each(|table| renumber(&mut table.inputs));
        self.emits.iter_mut().for_each(|emit| renumber(&mut emit.inputs));
        self.tables.retain(|table| !table.inputs.is_empty());
        self.emits.retain(|emit| !emit.inputs.is_empty());
    }

    /// Where redriven rows for a step or table of this stage enter, which took them from the relation `input`; none
    /// where it has no such step, or that relation is no longer one that it reads. Rows for `self.input` enter with all
    /// others.
    pub fn entry(&self, component: &str, input: Option<&str>) -> Option<Entry> {
        if *self.input == *component {
            return Some(Entry { at: At::Input, schema: self.ops[0].schema.clone() });
        }
        let slot = |inputs: &[usize]| match input {
            Some(name) => inputs.iter().position(|&op| *self.ops[op].name == *name),
            // A letter that does not say so can only have come from the one.
            None => (inputs.len() == 1).then_some(0),
        };
        let schema = |inputs: &[usize], slot: usize| self.ops[inputs[slot]].schema.clone();
        if let Some(table) = self.tables.iter().position(|table| *table.spec.name == *component) {
            let inputs = &self.tables[table].inputs;
            let slot = slot(inputs)?;
            return Some(Entry { at: At::Table { table, slot }, schema: schema(inputs, slot) });
        }
        let op = self.ops.iter().position(|op| op.step.is_some() && *op.name == *component)?;
        let inputs = &self.ops[op].inputs;
        let slot = slot(inputs)?;
        Some(Entry { at: At::Op { op, slot }, schema: schema(inputs, slot) })
    }
}

/// Where rows enter a stage.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The place.
    pub at: At,
    /// The schema they have there.
    pub schema: SchemaRef,
}

/// A place where rows enter a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The input, where all rows do.
    Input,
    /// One input of one operator.
    Op {
        /// The operator.
        op: usize,
        /// Which of its inputs.
        slot: usize,
    },
    /// One input of one table.
    Table {
        /// The table.
        table: usize,
        /// Which of its inputs.
        slot: usize,
    },
}

/// The table as the storage crate wants it.
pub fn storage_spec(table: &TableSpec) -> millstream_storage::table::TableSpec {
    millstream_storage::table::TableSpec {
        name: table.name.clone(),
        key: table.key.clone(),
        schema: table.schema.clone(),
        ttl_us: table.ttl.map(|ttl| i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests;
