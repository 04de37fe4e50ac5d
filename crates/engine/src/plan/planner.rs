//! How a pipeline is cut into stages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_core::{Error, Result};

use super::{
    EmitPlan, OpPlan, Plan, StagePlan, StepPlan, StreamKind, StreamPlan, TablePlan, Written, changes_name,
    exchange_name, storage_spec, time,
};
use crate::spec::{Pipeline, RetentionSpec, SinkSpec, SourceSpec, TableSpec, TransformKind, TransformSpec};

/// Cuts one pipeline.
pub(super) struct Planner<'a> {
    pipeline: &'a Pipeline,
    streams: Vec<StreamPlan>,
    stages: Vec<StagePlan>,
    /// Streams whose stages are still to be planned, and whom an exchange brings rows.
    waiting: Vec<(StreamPlan, Option<Receiver<'a>>)>,
}

/// Whom an exchange brings rows: its stage begins with that.
#[derive(Clone, Copy)]
enum Receiver<'a> {
    Table(&'a TableSpec),
    /// A transform with state by key, and all that reads it.
    Transform(&'a TransformSpec),
}

/// For each column of an operator, which column of the stage's input it is, unchanged; `None` where rows of several
/// relations meet in it, perhaps in several stages.
type Lineage = Option<Vec<Option<usize>>>;

impl<'a> Planner<'a> {
    pub fn new(pipeline: &'a Pipeline) -> Self {
        Self { pipeline, streams: Vec::new(), stages: Vec::new(), waiting: Vec::new() }
    }

    pub fn plan(mut self) -> Result<Plan> {
        for source in &self.pipeline.sources {
            self.stage_for(source_stream(source), None);
        }
        while let Some((stream, table)) = self.waiting.pop() {
            let stage = self.stage(&stream, table);
            self.stages.push(stage);
        }
        let mut stages = upstream_first(self.stages)?;
        let timed = self.pipeline.sources.iter().filter(|source| source.event_time.is_some());
        let sources = timed.map(|source| source.name.clone()).collect();
        time::keep(&mut self.streams, &mut stages, &sources);
        Ok(Plan { streams: self.streams, stages, sinks: self.pipeline.sinks.clone() })
    }

    /// A stream that a stage of its own reads.
    fn stage_for(&mut self, stream: StreamPlan, receiver: Option<Receiver<'a>>) {
        self.streams.push(stream.clone());
        self.waiting.insert(0, (stream, receiver));
    }

    fn stage(&mut self, stream: &StreamPlan, receiver: Option<Receiver<'a>>) -> StagePlan {
        let root = OpPlan {
            name: stream.name.clone(),
            schema: stream.schema.clone(),
            event_time: stream.event_time,
            step: None,
            inputs: Vec::new(),
        };
        let mut stage = StagePlan {
            id: stream.name.clone(),
            input: stream.name.clone(),
            partitions: stream.partitions,
            ops: vec![root],
            tables: Vec::new(),
            emits: Vec::new(),
            written: BTreeMap::new(),
            timekeepers: Vec::new(),
        };
        let as_it_is: Lineage = Some((0..stream.schema.fields().len()).map(Some).collect());
        match receiver {
            Some(Receiver::Table(table)) => self.add_table(&mut stage, stream, table, vec![0]),
            Some(Receiver::Transform(transform)) => {
                self.add_transform(&mut stage, transform, stream, vec![0]);
                self.add_readers(&mut stage, stream, vec![as_it_is.clone(), as_it_is]);
            }
            None => self.add_readers(&mut stage, stream, vec![as_it_is]),
        }
        stage.written = self.written(&stage);
        stage
    }

    /// Every transform and table that depends on the input of the stage, of which some operators are there.
    fn add_readers(&mut self, stage: &mut StagePlan, stream: &StreamPlan, mut lineages: Vec<Lineage>) {
        let pipeline = self.pipeline;
        // Transforms follow those that they read: one pass finds all.
        for transform in &pipeline.transforms {
            let inputs: Vec<usize> = transform.inputs().filter_map(|name| stage.op(name)).collect();
            let Some(&first) = inputs.first() else { continue };
            let of_input = &lineages[first];
            if let TransformKind::Dedup(dedup) = &transform.kind
                && !lives_with(&dedup.key, stream.partitions, stream, of_input)
            {
                let plan = StreamPlan {
                    partitions: stream.partitions,
                    schema: stage.ops[first].schema.clone(),
                    key: dedup.key.clone(),
                    event_time: Some(dedup.event_time),
                    ..exchange(&transform.name, stream)
                };
                self.add_exchange(stage, plan, inputs, Receiver::Transform(transform));
                continue;
            }
            lineages.push(lineage(transform, &stage.ops[first].name, of_input));
            self.add_transform(stage, transform, stream, inputs);
        }
        for table in &pipeline.tables {
            let inputs: Vec<usize> = table.from.iter().filter_map(|name| stage.op(name)).collect();
            let Some(&first) = inputs.first() else { continue };
            if table.from.len() == 1 && lives_with(&table.key, table.partitions, stream, &lineages[first]) {
                self.add_table(stage, stream, table, inputs);
                continue;
            }
            let plan = StreamPlan {
                partitions: table.partitions,
                schema: table.schema.clone(),
                key: table.key.clone(),
                ..exchange(&table.name, stream)
            };
            self.add_exchange(stage, plan, inputs, Receiver::Table(table));
        }
    }

    fn add_transform(
        &mut self,
        stage: &mut StagePlan,
        transform: &TransformSpec,
        stream: &StreamPlan,
        inputs: Vec<usize>,
    ) {
        let step = StepPlan { kind: transform.kind.clone(), on_error: transform.on_error };
        let (name, schema) = (transform.name.clone(), transform.schema.clone());
        stage.ops.push(OpPlan { name, schema, event_time: transform.event_time, step: Some(step), inputs });
        self.add_stream(stage, transform, stream);
    }

    /// Rows go through an exchange, to a stage of its own, once for all stages that write it.
    fn add_exchange(&mut self, stage: &mut StagePlan, plan: StreamPlan, inputs: Vec<usize>, to: Receiver<'a>) {
        stage.emits.push(EmitPlan { stream: plan.name.clone(), inputs });
        if !self.streams.iter().any(|known| known.name == plan.name) {
            self.stage_for(plan, Some(to));
        }
    }

    /// The stream of a transform that a sink reads.
    fn add_stream(&mut self, stage: &mut StagePlan, transform: &TransformSpec, input: &StreamPlan) {
        if !self.pipeline.sinks.iter().any(|sink| sink.from.contains(&transform.name)) {
            return;
        }
        if !self.streams.iter().any(|known| known.name == transform.name) {
            self.streams.push(StreamPlan {
                name: transform.name.clone(),
                partitions: input.partitions,
                schema: transform.schema.clone(),
                key: Vec::new(),
                event_time: transform.event_time,
                retention: input.retention.clone(),
                kind: StreamKind::Transform,
                keeps_time: false,
            });
        }
        stage.emits.push(EmitPlan { stream: transform.name.clone(), inputs: vec![stage.ops.len() - 1] });
    }

    /// A table in the state of this stage, and the stream of its changes.
    fn add_table(&mut self, stage: &mut StagePlan, stream: &StreamPlan, table: &'a TableSpec, inputs: Vec<usize>) {
        let changes = self.changes(table, stream.retention.clone());
        stage.tables.push(TablePlan { spec: table.clone(), changes: changes.name.clone(), inputs });
        let is_read = self.pipeline.transforms.iter().any(|t| t.inputs().any(|name| *name == *changes.name))
            || self.pipeline.tables.iter().any(|t| t.from.contains(&changes.name));
        match is_read {
            true => self.stage_for(changes, None),
            false => self.streams.push(changes),
        }
    }

    fn changes(&self, table: &TableSpec, retention: RetentionSpec) -> StreamPlan {
        StreamPlan {
            name: changes_name(&table.name),
            partitions: table.partitions,
            schema: millstream_storage::table::change_schema(&storage_spec(table)),
            key: Vec::new(),
            event_time: None,
            retention,
            kind: StreamKind::Changes,
            keeps_time: false,
        }
    }

    /// Where the streams that a stage writes begin, and who reads them.
    fn written(&self, stage: &StagePlan) -> BTreeMap<Arc<str>, Written> {
        let describe = |emit: &EmitPlan| {
            let stream = &emit.stream;
            let table = self.pipeline.tables.iter().find(|table| exchange_name(&table.name) == *stream);
            let sinks: Vec<&SinkSpec> = self.pipeline.sinks.iter().filter(|s| s.from.contains(stream)).collect();
            // `Earliest` is less: one sink that wants what is older is enough.
            let start = table.map(|table| table.start).or(sinks.iter().map(|sink| sink.start).min());
            let (table, sinks) = (table.map(|t| t.name.clone()), sinks.iter().map(|s| s.name.clone()).collect());
            (stream.clone(), Written { start: start.unwrap_or_default(), table, sinks })
        };
        stage.emits.iter().map(describe).collect()
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
        keeps_time: false,
    }
}

/// The exchange that brings `to` rows of `input`; the columns are still to be filled in.
fn exchange(to: &str, input: &StreamPlan) -> StreamPlan {
    StreamPlan {
        name: exchange_name(to),
        key: Vec::new(),
        event_time: None,
        kind: StreamKind::Exchange,
        keeps_time: false,
        ..input.clone()
    }
}

/// The stages so that each stands behind those that write what it reads.
fn upstream_first(mut waiting: Vec<StagePlan>) -> Result<Vec<StagePlan>> {
    let mut ordered: Vec<StagePlan> = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let to_come: BTreeSet<Arc<str>> = waiting.iter().flat_map(StagePlan::streams).collect();
        let (ready, rest): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|stage| !to_come.contains(&stage.input));
        if ready.is_empty() {
            return Err(Error::bug("the stages of the pipeline go round in a circle"));
        }
        ordered.extend(ready);
        waiting = rest;
    }
    Ok(ordered)
}

fn lineage(transform: &TransformSpec, input: &str, of_input: &Lineage) -> Lineage {
    let of_input = of_input.as_ref()?;
    if transform.inputs().count() > 1 {
        return None;
    }
    let direct = match &transform.kind {
        TransformKind::Sql(sql) => sql.lineage(input),
        TransformKind::Predict(_) | TransformKind::Dedup(_) => (0..of_input.len()).map(Some).collect(),
    };
    let mut lineage: Vec<_> =
        direct.into_iter().map(|column| column.and_then(|column| of_input.get(column).copied().flatten())).collect();
    lineage.resize(transform.schema.fields().len(), None);
    Some(lineage)
}

/// True where every row of the operator with the same `key` is in the same partition of `stream`, and that partition's
/// number is the one that it has among `partitions`.
fn lives_with(key: &[usize], partitions: u32, stream: &StreamPlan, lineage: &Lineage) -> bool {
    let Some(lineage) = lineage.as_ref().filter(|_| partitions == stream.partitions) else { return false };
    let same_key = || key.iter().map(|&column| lineage[column]).eq(stream.key.iter().map(|&column| Some(column)));
    stream.partitions == 1 || (!stream.key.is_empty() && same_key())
}
