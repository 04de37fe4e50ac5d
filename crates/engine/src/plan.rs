//! From the checked pipeline file to what runs: streams (logs), stages (one task per partition of a log), and the tree of
//! steps that each stage evaluates. Pure; opens nothing.
//!
//! A stage reads one log and evaluates every transform that hangs below it. A table lives in the stage's own state where
//! its key is the log's partition key; otherwise its rows pass through an *exchange*, a log of its own, partitioned by
//! the table's key, that a second stage reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::{Error, Result};

use crate::spec::{
    OnError, Pipeline, PredictSpec, RetentionSpec, SinkSpec, SourceSpec, Start, TableSpec, TransformKind, TransformSpec,
};

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
    /// Rows on their way to a table that is partitioned otherwise.
    Exchange,
}

/// The tasks of one log, one per partition.
#[derive(Debug, Clone)]
pub struct StagePlan {
    /// Name of the stage, of its state folder and of its producers: that of its log, but for a replay into another table.
    pub id: Arc<str>,
    /// The log it reads.
    pub input: Arc<str>,
    /// Partitions.
    pub partitions: u32,
    /// The steps, parents before children. Index 0 is the input itself.
    pub nodes: Vec<Node>,
    /// Where the streams that it writes begin when they are new, and who reads them.
    pub written: BTreeMap<Arc<str>, Written>,
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

/// A relation inside a stage: the input, or a transform below it, with everything that takes its rows.
#[derive(Debug, Clone)]
pub struct Node {
    /// The relation's name.
    pub name: Arc<str>,
    /// Its schema.
    pub schema: SchemaRef,
    /// How it comes from its parent; none for the input.
    pub step: Option<StepPlan>,
    /// Nodes that read it.
    pub children: Vec<usize>,
    /// Tables in this stage's state that take its rows.
    pub tables: Vec<TablePlan>,
    /// Streams that take its rows.
    pub emits: Vec<Arc<str>>,
}

/// A step between two nodes.
#[derive(Debug, Clone)]
pub struct StepPlan {
    /// What it does.
    pub kind: TransformKind,
    /// What happens to a row that fails.
    pub on_error: OnError,
}

/// A table and where its changes go.
#[derive(Debug, Clone)]
pub struct TablePlan {
    /// The table.
    pub spec: TableSpec,
    /// Name of its change stream.
    pub changes: Arc<str>,
}

/// Name of a table's change stream.
pub fn changes_name(table: &str) -> Arc<str> {
    format!("{table}.changes").into()
}

/// Name of the log that brings a table its rows where it is partitioned otherwise than its input.
pub fn exchange_name(table: &str) -> Arc<str> {
    format!("{table}.input").into()
}

impl Plan {
    /// Plans the whole pipeline.
    ///
    /// # Errors
    /// Only what the checks of the pipeline file should have found: `Bug`.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        let mut planner = Planner { pipeline, streams: Vec::new(), exchanges: Vec::new() };
        let sources: Vec<StreamPlan> = pipeline.sources.iter().map(source_stream).collect();
        let mut stages = Vec::new();
        for stream in sources {
            planner.streams.push(stream.clone());
            stages.push(planner.stage(&stream, stream.name.clone())?);
        }
        for (stream, table) in std::mem::take(&mut planner.exchanges) {
            stages.push(planner.exchange_stage(&stream, &table));
        }
        Ok(Self { streams: planner.streams, stages, sinks: pipeline.sinks.clone() })
    }

    /// Logs and states that are opened.
    pub fn parts(&self) -> usize {
        self.streams.len() + self.states()
    }

    /// States that are opened: one for each partition of each stage.
    pub fn states(&self) -> usize {
        self.stages.iter().map(|stage| stage.partitions as usize).sum()
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
        let steps = self.stages.iter().flat_map(|s| &s.nodes).filter_map(|n| n.step.as_ref());
        steps.filter_map(|step| match &step.kind {
            TransformKind::Predict(predict) => Some(&**predict),
            TransformKind::Sql(_) => None,
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
}

impl StagePlan {
    /// All tables in this stage.
    pub fn tables(&self) -> impl Iterator<Item = &TablePlan> {
        self.nodes.iter().flat_map(|n| &n.tables)
    }

    /// What it feeds, each once: tables by their names, streams by theirs.
    pub fn outputs(&self) -> impl Iterator<Item = (Arc<str>, Start)> {
        let tables = self.tables().map(|table| (table.spec.name.clone(), table.spec.start));
        tables.chain(self.written.iter().map(|(name, written)| (name.clone(), written.start)))
    }

    /// The names of its steps.
    pub fn step_names(&self) -> BTreeSet<String> {
        super::outputs::names(self.nodes.iter().filter(|n| n.step.is_some()).map(|n| &n.name))
    }

    /// The table that an output is, or brings rows.
    pub fn table_of(&self, output: &str) -> Option<Arc<str>> {
        match self.written.get(output) {
            Some(written) => written.table.clone(),
            None => self.tables().map(|t| t.spec.name.clone()).find(|name| **name == *output),
        }
    }

    /// An output in the words of the pipeline file.
    pub fn shown(&self, output: &str) -> String {
        let Some(written) = self.written.get(output).filter(|written| written.table.is_none()) else {
            return format!("`{}`", self.table_of(output).as_deref().unwrap_or(output));
        };
        written.sinks.iter().map(|sink| format!("`{sink}`")).collect::<Vec<_>>().join(", ")
    }

    /// The same stage for these outputs alone: steps that lead to none of them have no parent any more.
    #[must_use]
    pub fn restricted_to(&self, outputs: &BTreeSet<String>) -> Self {
        let mut stage = self.clone();
        for node in &mut stage.nodes {
            node.tables.retain(|table| outputs.contains(&*table.spec.name));
            node.emits.retain(|stream| outputs.contains(&**stream));
        }
        stage.written.retain(|name, _| outputs.contains(&**name));
        let mut leads: Vec<bool> = stage.nodes.iter().map(|n| !n.tables.is_empty() || !n.emits.is_empty()).collect();
        // A UNION may have a parent behind it: so often as there are nodes is enough for any order.
        for _ in 0..stage.nodes.len() {
            for (index, node) in stage.nodes.iter().enumerate().rev() {
                leads[index] |= node.children.iter().any(|&child| leads[child]);
            }
        }
        for (index, node) in stage.nodes.iter_mut().enumerate() {
            node.children.retain(|&child| leads[child]);
            if !leads[index] {
                node.step = None;
            }
        }
        stage
    }

    /// Where redriven rows for `target`, a step or table of this stage, enter.
    pub fn entry(&self, target: &str) -> Option<Entry> {
        if let Some(node) = self.nodes.iter().position(|n| n.tables.iter().any(|t| &*t.spec.name == target)) {
            return Some(Entry { parent: node, step: None, schema: self.nodes[node].schema.clone() });
        }
        let node = self.nodes.iter().position(|n| n.step.is_some() && &*n.name == target)?;
        let parent = self.nodes.iter().position(|n| n.children.contains(&node))?;
        Some(Entry { parent, step: Some(node), schema: self.nodes[parent].schema.clone() })
    }
}

/// Where rows enter the tree of a stage other than at its root.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The node whose rows they are.
    pub parent: usize,
    /// The step they enter; none: the tables of `parent`.
    pub step: Option<usize>,
    /// The schema they have.
    pub schema: SchemaRef,
}

struct Planner<'a> {
    pipeline: &'a Pipeline,
    streams: Vec<StreamPlan>,
    exchanges: Vec<(StreamPlan, TableSpec)>,
}

impl Planner<'_> {
    fn stage(&mut self, stream: &StreamPlan, id: Arc<str>) -> Result<StagePlan> {
        let root = Node {
            name: stream.name.clone(),
            schema: stream.schema.clone(),
            step: None,
            children: Vec::new(),
            tables: Vec::new(),
            emits: Vec::new(),
        };
        let mut lineages: Vec<Lineage> = vec![Some((0..stream.schema.fields().len()).map(Some).collect())];
        let mut nodes = vec![root];
        let mut next = 0;
        while next < nodes.len() {
            let name = nodes[next].name.clone();
            for transform in readers(self.pipeline, &name) {
                if let Some(known) = nodes.iter().position(|n| n.name == transform.name) {
                    // A UNION of two relations of this stage: one step, two parents.
                    nodes[next].children.push(known);
                    continue;
                }
                lineages.push(lineage(transform, &name, &lineages[next]));
                let child = self.transform_node(transform, stream);
                nodes.push(child);
                let index = nodes.len() - 1;
                nodes[next].children.push(index);
            }
            self.attach_tables(&mut nodes[next], stream, &lineages[next]);
            next += 1;
        }
        let written = self.written(&nodes);
        Ok(StagePlan { id, input: stream.name.clone(), partitions: stream.partitions, nodes, written })
    }

    /// The streams that the nodes of a stage write.
    fn written(&self, nodes: &[Node]) -> BTreeMap<Arc<str>, Written> {
        let describe = |stream: &Arc<str>| {
            let table = self.pipeline.tables.iter().find(|table| exchange_name(&table.name) == *stream);
            let sinks: Vec<&SinkSpec> = self.pipeline.sinks.iter().filter(|s| s.from.contains(stream)).collect();
            // `Earliest` is less: one sink that wants what is older is enough.
            let start = table.map(|table| table.start).or(sinks.iter().map(|sink| sink.start).min());
            let (table, sinks) = (table.map(|t| t.name.clone()), sinks.iter().map(|s| s.name.clone()).collect());
            (stream.clone(), Written { start: start.unwrap_or_default(), table, sinks })
        };
        nodes.iter().flat_map(|node| &node.emits).map(describe).collect()
    }

    fn transform_node(&mut self, transform: &TransformSpec, input: &StreamPlan) -> Node {
        let wanted_by_sink = self.pipeline.sinks.iter().any(|s| s.from.contains(&transform.name));
        if wanted_by_sink && !self.streams.iter().any(|s| s.name == transform.name) {
            self.streams.push(StreamPlan {
                name: transform.name.clone(),
                partitions: input.partitions,
                schema: transform.schema.clone(),
                key: Vec::new(),
                event_time: None,
                retention: input.retention.clone(),
                kind: StreamKind::Transform,
            });
        }
        Node {
            name: transform.name.clone(),
            schema: transform.schema.clone(),
            step: Some(StepPlan { kind: transform.kind.clone(), on_error: transform.on_error }),
            children: Vec::new(),
            tables: Vec::new(),
            emits: if wanted_by_sink { vec![transform.name.clone()] } else { Vec::new() },
        }
    }

    fn attach_tables(&mut self, node: &mut Node, stream: &StreamPlan, lineage: &Lineage) {
        for table in self.pipeline.tables.iter().filter(|t| t.from.contains(&node.name)) {
            if lives_with(table, stream, lineage) {
                self.add_changes(table, stream.retention.clone());
                node.tables.push(TablePlan { spec: table.clone(), changes: changes_name(&table.name) });
                continue;
            }
            let exchange = exchange_name(&table.name);
            if !self.streams.iter().any(|s| s.name == exchange) {
                let plan = StreamPlan {
                    name: exchange.clone(),
                    partitions: table.partitions,
                    schema: table.schema.clone(),
                    key: table.key.clone(),
                    event_time: None,
                    retention: stream.retention.clone(),
                    kind: StreamKind::Exchange,
                };
                self.streams.push(plan.clone());
                self.add_changes(table, stream.retention.clone());
                self.exchanges.push((plan, table.clone()));
            }
            node.emits.push(exchange);
        }
    }

    fn add_changes(&mut self, table: &TableSpec, retention: RetentionSpec) {
        self.streams.push(StreamPlan {
            name: changes_name(&table.name),
            partitions: table.partitions,
            schema: millstream_storage::table::change_schema(&storage_spec(table)),
            key: Vec::new(),
            event_time: None,
            retention,
            kind: StreamKind::Changes,
        });
    }

    fn exchange_stage(&self, stream: &StreamPlan, table: &TableSpec) -> StagePlan {
        let node = Node {
            name: stream.name.clone(),
            schema: stream.schema.clone(),
            step: None,
            children: Vec::new(),
            tables: vec![TablePlan { spec: table.clone(), changes: changes_name(&table.name) }],
            emits: Vec::new(),
        };
        StagePlan {
            id: stream.name.clone(),
            input: stream.name.clone(),
            partitions: stream.partitions,
            nodes: vec![node],
            written: BTreeMap::new(),
        }
    }
}

fn source_stream(source: &SourceSpec) -> StreamPlan {
    StreamPlan {
        name: source.name.clone(),
        partitions: source.partitions,
        schema: source.schema.clone(),
        key: source.key.clone(),
        event_time: source.event_time,
        retention: source.retention.clone(),
        kind: StreamKind::Source,
    }
}

fn readers<'a>(pipeline: &'a Pipeline, name: &'a str) -> impl Iterator<Item = &'a TransformSpec> {
    pipeline.transforms.iter().filter(move |t| match &t.kind {
        TransformKind::Sql(sql) => sql.inputs().iter().any(|input| input == name),
        TransformKind::Predict(spec) => *spec.from == *name,
    })
}

/// For each column of a node, which column of the stage's input it is, unchanged; `None` where rows of several
/// relations meet in the node, perhaps in several stages.
type Lineage = Option<Vec<Option<usize>>>;

fn lineage(transform: &TransformSpec, parent: &str, parent_lineage: &Lineage) -> Lineage {
    let parent_lineage = parent_lineage.as_ref()?;
    if matches!(&transform.kind, TransformKind::Sql(sql) if sql.inputs().len() > 1) {
        return None;
    }
    let direct = match &transform.kind {
        TransformKind::Sql(sql) => sql.lineage(parent),
        TransformKind::Predict(_) => (0..parent_lineage.len()).map(Some).collect(),
    };
    let mut lineage: Vec<_> =
        direct.into_iter().map(|c| c.and_then(|c| parent_lineage.get(c).copied().flatten())).collect();
    lineage.resize(transform.schema.fields().len(), None);
    Some(lineage)
}

/// True where every row of `node` with the same table key is in the same partition of `stream`, and that partition's
/// number is the table's.
fn lives_with(table: &TableSpec, stream: &StreamPlan, lineage: &Lineage) -> bool {
    let Some(lineage) = lineage else { return false };
    if table.from.len() != 1 || table.partitions != stream.partitions {
        return false;
    }
    let same_key = || table.key.iter().map(|&column| lineage[column]).eq(stream.key.iter().map(|&column| Some(column)));
    stream.partitions == 1 || (!stream.key.is_empty() && same_key())
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
