//! What a pipeline would make of a few records: everything that [`super::task`] and [`super::deliver`] do, without a
//! data folder and without a connection. Tables begin empty, in a folder that is gone afterwards.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use millstream_connectors::format;
use millstream_core::{Clock, DeadLetter, Decoder, Error, RawBatch, Result, ResultExt, Rows, Stage};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::Watermark;
use millstream_storage::state::{State, Writes, local_store};
use millstream_storage::table::Table;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::row_from_json;
use crate::graph::{Graph, Kept, Moment, Watched};
use crate::health::Health;
use crate::ingest::with_metadata;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::plan::{Plan, TablePlan, storage_spec};
use crate::spec::{Pipeline, SinkSpec, SourceSpec, TransformKind};
use crate::streams::StreamBatch;
use crate::table::deletes;
use crate::target::Target;

/// How long a model behind an endpoint is waited for.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(10);

/// What one component made of the record.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What it is.
    pub step: StepKind,
    /// The component.
    pub name: Arc<str>,
    /// Rows, changes, or what is sent (`to` and `body`).
    pub out: Vec<Value>,
    /// What failed here, and becomes a dead letter.
    pub failures: Vec<Failed>,
    /// Why nothing was computed here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// A source decodes.
    Decode,
    /// A transform.
    Transform,
    /// A table changes.
    Table,
    /// A sink sends.
    Sink,
}

/// A failure of a record.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// Kind of failure.
    pub kind: String,
    /// Why.
    pub message: String,
}

/// What goes in.
#[derive(Debug, Clone)]
pub enum Entering {
    /// Bytes for a source, with one record or several in them.
    Body(Arc<str>, Bytes),
    /// Records of a source.
    Source(Arc<str>, RawBatch),
    /// A row in front of a transform or table: a dead letter of it.
    Component(DeadLetter),
}

/// A pipeline, ready to be tried.
pub struct Trial<'a> {
    pipeline: &'a Pipeline,
    plan: Plan,
    models: ModelSet,
    clock: Arc<dyn Clock>,
    /// Predictions that are left out, and why.
    left_out: BTreeMap<Arc<str>, String>,
    tables: BTreeMap<Arc<str>, (State, Table)>,
    /// What operators keep.
    state: State,
    schemas: Arc<SchemaStore>,
    steps: Vec<Step>,
    _folder: tempfile::TempDir,
}

impl<'a> Trial<'a> {
    /// Loads the models and opens empty tables. Models behind endpoints are asked only `with_endpoints`.
    ///
    /// # Errors
    /// A model can't be loaded, or there is no place for temporary files.
    pub async fn open(pipeline: &'a Pipeline, with_endpoints: bool, clock: Arc<dyn Clock>) -> Result<Self> {
        let folder = tempfile::tempdir().doing(|| "create a temporary folder".to_owned())?;
        let mut plan = Plan::new(pipeline)?;
        let left_out = prepare(&mut plan, pipeline, with_endpoints);
        let bare = without_caches(pipeline);
        let health = Arc::new(Health::default());
        let state_options = pipeline.settings.memory_budget().share(pipeline.tables.len() + 1);
        let models = ModelSet::open(&bare, &plan, (folder.path().into(), &state_options), &clock, &health).await?;
        let schemas = SchemaStore::open(&folder.path().join("schemas"))?;
        let store = local_store(&folder.path().join("state"))?;
        let mut tables = BTreeMap::new();
        for table in &pipeline.tables {
            let state = State::open(store.clone(), &table.name, &state_options).await?;
            let open = Table::open(state.clone(), storage_spec(table), schemas.clone()).await?;
            tables.insert(table.name.clone(), (state, open));
        }
        let state = State::open(store, "operators", &state_options).await?;
        Ok(Self { pipeline, plan, models, clock, left_out, tables, state, schemas, steps: Vec::new(), _folder: folder })
    }

    /// Everything that the pipeline makes of it, step by step, in the order of the flow.
    ///
    /// # Errors
    /// The pipeline can't take it at all: no such component, or bytes that are not a row of it.
    pub async fn run(mut self, entering: Entering) -> Result<Vec<Step>> {
        let mut arrived: BTreeMap<Arc<str>, Vec<RecordBatch>> = BTreeMap::new();
        let mut waiting: VecDeque<(Arc<str>, StreamBatch)> = VecDeque::new();
        let entering = match entering {
            Entering::Body(name, body) => match self.split(&name, body)? {
                Some(raw) => Entering::Source(name, raw),
                None => return Ok(self.in_order()),
            },
            other => other,
        };
        match entering {
            Entering::Body(..) => {}
            Entering::Source(name, raw) => {
                let rows = self.decode(&name, &raw)?;
                if rows.num_rows() > 0 {
                    arrived.entry(name.clone()).or_default().push(rows.clone());
                    waiting.push_back((name, self.batch(rows, None)));
                }
            }
            Entering::Component(letter) => waiting.push_back(self.in_front(&letter)?),
        }
        while let Some((stream, batch)) = waiting.pop_front() {
            for (emitted, rows) in self.stage(&stream, &batch).await? {
                arrived.entry(emitted.clone()).or_default().push(rows.clone());
                waiting.push_back((emitted, self.batch(rows, None)));
            }
        }
        for sink in &self.pipeline.sinks {
            self.steps.push(sends(sink, &arrived)?);
        }
        for (state, _) in self.tables.values() {
            state.close().await?;
        }
        self.state.close().await?;
        Ok(self.in_order())
    }

    fn batch(&self, batch: RecordBatch, target: Option<Target>) -> StreamBatch {
        StreamBatch::alone(batch, target, self.clock.now_ms())
    }

    fn source(&self, name: &str) -> Result<(&'a SourceSpec, Arc<dyn Decoder>)> {
        let spec = self.pipeline.source(name);
        let spec = spec.ok_or_else(|| Error::config(format!("the pipeline has no source `{name}`")))?;
        Ok((spec, format::build(&spec.decode, &spec.declared).map_err(Error::config)?))
    }

    /// The records in `body`; none where it can't be taken apart, which is then the first step's failure.
    fn split(&mut self, name: &Arc<str>, body: Bytes) -> Result<Option<RawBatch>> {
        let (_, decoder) = self.source(name)?;
        match decoder.split(body, None) {
            Ok(raw) => Ok(Some(raw)),
            Err(failure) => {
                let failed = Failed { kind: failure.kind.as_str().into(), message: failure.message };
                self.step(StepKind::Decode, name).failures.push(failed);
                Ok(None)
            }
        }
    }

    fn decode(&mut self, name: &Arc<str>, raw: &RawBatch) -> Result<RecordBatch> {
        let (spec, decoder) = self.source(name)?;
        let decoded = decoder.decode(raw);
        let rows = with_metadata(spec, &decoded, raw, self.clock.now_us())?;
        let failed = |f: &millstream_core::RowFailure| Failed {
            kind: f.failure.kind.as_str().into(),
            message: f.failure.message.clone(),
        };
        let failures = decoded.failures.iter().map(failed).collect();
        self.steps.push(Step { step: StepKind::Decode, name: name.clone(), out: values(&rows)?, failures, note: None });
        Ok(rows)
    }

    /// A dead letter's row in front of the component that refused it.
    fn in_front(&self, letter: &DeadLetter) -> Result<(Arc<str>, StreamBatch)> {
        let mut stages = self.plan.stages.iter();
        let input = letter.input.as_deref();
        let entry = stages.find_map(|stage| Some((stage.input.clone(), stage.entry(&letter.component, input)?)));
        let Some((stream, entry)) = entry.filter(|_| letter.stage != Stage::Deliver) else {
            let name = &letter.component;
            return Err(Error::config(match letter.stage {
                Stage::Deliver => {
                    format!("that record failed on its way out of sink `{name}`, and nothing is sent here to try it")
                }
                _ => format!("the pipeline has no `{name}`, where that record failed"),
            }));
        };
        let rows = row_from_json(&letter.raw, &entry.schema)?;
        let (component, input) = (letter.component.as_str().into(), letter.input.as_deref().map(Into::into));
        Ok((stream, self.batch(rows, Some(Target { component, input, attempt: letter.attempts + 1 }))))
    }

    /// Runs the stage that reads `stream`, where there is one, and gives the rows that it writes to streams.
    async fn stage(&mut self, stream: &str, batch: &StreamBatch) -> Result<Vec<(Arc<str>, RecordBatch)>> {
        let Some(stage) = self.plan.stages.iter().find(|stage| &*stage.input == stream) else { return Ok(Vec::new()) };
        let plan = Arc::new(stage.clone());
        let (version, metrics) = (self.pipeline.version.clone(), Arc::new(Metrics::default()));
        let (kept, stop) = ((Kept::Stage(&self.state), &self.schemas), CancellationToken::new());
        let graph = Graph::open(plan.clone(), &self.models, kept, version, metrics, &stop).await?;
        let now_us = self.clock.now_us();
        let mut writes = Writes::new();
        let effects = graph
            .watched(Watched::All)
            .run(batch, Moment { now_us, watermark: Some(Watermark::End) }, &mut writes)
            .await?;
        self.state.commit(writes).await?;
        for (op, rows) in &effects.seen {
            self.step(StepKind::Transform, &plan.ops[*op].name).out.extend(values(&rows.batch)?);
        }
        for letter in effects.dead_letters {
            let failed = Failed { kind: letter.kind, message: letter.message };
            self.step(StepKind::Transform, &letter.component.as_str().into()).failures.push(failed);
        }
        let mut emitted: Vec<(Arc<str>, RecordBatch)> =
            effects.emits.into_iter().map(|emitted| (emitted.stream, emitted.rows.batch)).collect();
        for (table, arriving) in effects.tables {
            emitted.extend(self.change_table(&plan.tables[table], &arriving.rows, now_us).await?);
        }
        Ok(emitted)
    }

    async fn change_table(
        &mut self,
        table: &TablePlan,
        rows: &Rows,
        now_us: i64,
    ) -> Result<Option<(Arc<str>, RecordBatch)>> {
        let name = table.spec.name.clone();
        let Some((state, open)) = self.tables.get_mut(&name) else { return Ok(None) };
        let (kept, deletes, undecided) = deletes(&table.spec, rows)?;
        let mut writes = Writes::new();
        let applied = open.apply(&kept.batch, deletes.as_ref(), now_us, &mut writes).await?;
        state.commit(writes).await?;
        let failed = |f: &millstream_core::RowFailure| Failed {
            kind: f.failure.kind.as_str().into(),
            message: f.failure.message.clone(),
        };
        let failures: Vec<Failed> = undecided.iter().chain(&applied.failures).map(failed).collect();
        let out = values(&applied.changes)?;
        let is_deleted = deletes.is_some() && out.is_empty() && failures.is_empty();
        let step = self.step(StepKind::Table, &name);
        step.out.extend(out);
        step.failures.extend(failures);
        if is_deleted {
            step.note = Some("`delete_when` is true: the row with this key would be deleted".into());
        }
        Ok((applied.changes.num_rows() > 0).then(|| (table.changes.clone(), applied.changes)))
    }

    fn step(&mut self, kind: StepKind, name: &Arc<str>) -> &mut Step {
        let at = self.steps.iter().position(|s| s.step == kind && s.name == *name).unwrap_or_else(|| {
            self.steps.push(Step { step: kind, name: name.clone(), out: Vec::new(), failures: Vec::new(), note: None });
            self.steps.len() - 1
        });
        &mut self.steps[at]
    }

    /// The steps as they follow each other in the file, with those that nothing reached.
    fn in_order(mut self) -> Vec<Step> {
        let transforms = self.pipeline.transforms.iter().map(|t| (StepKind::Transform, t.name.clone()));
        let tables = self.pipeline.tables.iter().map(|t| (StepKind::Table, t.name.clone()));
        let sinks = self.pipeline.sinks.iter().map(|s| (StepKind::Sink, s.name.clone()));
        let wanted: Vec<_> = transforms.chain(tables).chain(sinks).collect();
        let mut ordered: Vec<Step> = self.steps.iter().filter(|s| s.step == StepKind::Decode).cloned().collect();
        for (kind, name) in wanted {
            let left_out = self.left_out.get(&name).filter(|_| kind == StepKind::Transform).cloned();
            let step = self.step(kind, &name);
            step.note = step.note.take().or(left_out);
            ordered.push(step.clone());
        }
        ordered
    }
}

/// The pipeline with models that neither keep nor compare: nothing is left behind, and one model is asked at a time.
pub fn without_caches(pipeline: &Pipeline) -> Pipeline {
    let mut bare = pipeline.clone();
    for model in &mut bare.models {
        (model.config.cache, model.config.shadow) = (None, None);
    }
    bare
}

/// Takes predictions that are not to be asked out of the plan, and gives the others an end to their patience.
fn prepare(plan: &mut Plan, pipeline: &Pipeline, with_endpoints: bool) -> BTreeMap<Arc<str>, String> {
    let mut left_out = BTreeMap::new();
    for stage in &mut plan.stages {
        let mut gone = BTreeSet::new();
        for (index, op) in stage.ops.iter_mut().enumerate() {
            let Some(step) = &mut op.step else { continue };
            let TransformKind::Predict(predict) = &mut step.kind else { continue };
            let is_endpoint = |name: &str| pipeline.model(name).is_some_and(|model| model.config.is_endpoint());
            if !is_endpoint(&predict.model) {
                continue;
            }
            let patience = predict.give_up_after.unwrap_or(ENDPOINT_PATIENCE).min(ENDPOINT_PATIENCE);
            predict.give_up_after = Some(patience);
            if !with_endpoints {
                gone.insert(index);
                let note = format!("model `{}` is behind an endpoint: --with-endpoints asks it", predict.model);
                left_out.insert(op.name.clone(), note);
            }
        }
        stage.without(&gone);
    }
    left_out
}

fn sends(sink: &SinkSpec, arrived: &BTreeMap<Arc<str>, Vec<RecordBatch>>) -> Result<Step> {
    let mut out = Vec::new();
    for batch in sink.from.iter().filter_map(|from| arrived.get(from)).flatten() {
        let sent = sink.connector.preview(batch).map_err(|e| e.context(format!("sink {}", sink.name)))?;
        for sent in sent {
            out.push(serde_json::to_value(sent).map_err(|e| Error::bug(e.to_string()))?);
        }
    }
    Ok(Step { step: StepKind::Sink, name: sink.name.clone(), out, failures: Vec::new(), note: None })
}

fn values(batch: &RecordBatch) -> Result<Vec<Value>> {
    let lines = millstream_core::json::lines(batch)?;
    let lines = lines.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(|e| Error::bug(e.to_string()))).collect()
}
