//! Opening what a pipeline consists of: logs, tasks, sinks, ways in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millstream_connectors::{Intake, SinkContext, SourceContext, SourceStatus, Status, format};
use millstream_core::disk::RealDisk;
use millstream_core::{Clock, Error, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Log, LogOptions, Retention};
use millstream_storage::state::{State, StateOptions, StateStore};
use tokio::sync::watch;

use crate::catalog::Catalog;
use crate::data_dir::DataDir;
use crate::deliver::{Deliver, Wish};
use crate::disk_room::DiskRoom;
use crate::event_time::EventClock;
use crate::health::{ComponentHealth, ComponentKind, Health, Part};
use crate::ingest::Ingest;
use crate::models::ModelSet;
use crate::opening::Opening;
use crate::plan::{Plan, StagePlan, StreamPlan};
use crate::progress::Progress;
use crate::push::Push;
use crate::replay::Replay;
use crate::spec::Pipeline;
use crate::streams::{Stream, Streams};
use crate::task::{Role, Task, TaskContext};
use crate::worker::RunOptions;
use crate::{deliver, outputs};

/// Opens the log of one stream.
pub fn open_log(plan: &StreamPlan, data_dir: &DataDir, clock: &Arc<dyn Clock>) -> Result<Log> {
    let options = LogOptions {
        retention: Retention {
            age_ms: plan.retention.time.map(|t| i64::try_from(t.as_millis()).unwrap_or(i64::MAX)),
            bytes: plan.retention.size,
        },
        ..LogOptions::new(plan.partitions)
    };
    Log::open(Arc::new(RealDisk), &data_dir.log(&plan.name), &plan.name, options, clock.clone())
        .map_err(|e| e.context(format!("open stream {}", plan.name)))
}

pub(crate) async fn open_streams(
    plan: &Plan,
    data_dir: &DataDir,
    schemas: &Arc<SchemaStore>,
    clock: &Arc<dyn Clock>,
    opening: &Opening,
) -> Result<Streams> {
    let mut streams = Streams::new();
    for (done, stream) in plan.streams.iter().enumerate() {
        opening.say(done, plan.parts());
        let log = tokio::task::block_in_place(|| open_log(stream, data_dir, clock))?;
        streams.insert(stream.name.clone(), Stream::new(stream.clone(), log, schemas.clone())?);
    }
    Ok(streams)
}

pub(crate) type Readers = BTreeMap<(Arc<str>, Arc<str>), Arc<super::progress::ReaderProgress>>;

pub(crate) fn register_readers(plan: &Plan, streams: &Streams, progress: &mut Progress) -> Readers {
    let mut readers = Readers::new();
    for stage in &plan.stages {
        let reader = progress.add_reader(stage.id.clone(), stage.input.clone(), stage.partitions, true);
        readers.insert((stage.id.clone(), stage.input.clone()), reader);
    }
    for sink in &plan.sinks {
        let id = super::deliver::sink_target(&sink.name);
        for from in &sink.from {
            let partitions = streams.get(from).map_or(0, |s| s.plan.partitions);
            readers
                .insert((id.clone(), from.clone()), progress.add_reader(id.clone(), from.clone(), partitions, false));
        }
    }
    readers
}

#[allow(clippy::too_many_arguments)] // Each is another part of what is opened; a struct of them would be used once.
pub(crate) async fn open_tasks(
    plan: &Plan,
    context: &TaskContext,
    (store, state_options): (StateStore, &StateOptions),
    (models, known): (&Arc<ModelSet>, &Arc<BTreeSet<String>>),
    readers: &Readers,
    options: &RunOptions,
    states: &mut BTreeMap<(Arc<str>, u32), State>,
) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for stage in &plan.stages {
        let stage: Arc<StagePlan> = Arc::new(stage.clone());
        let reader = &readers[&(stage.id.clone(), stage.input.clone())];
        let mut begins = Vec::new();
        for partition in 0..stage.partitions {
            let doing = || format!("open state of {} partition {partition}", stage.id);
            options.opening.say(plan.streams.len() + tasks.len(), plan.parts());
            let path = DataDir::state_path(&stage.id, partition);
            let state = State::open(store.clone(), &path, state_options).await.map_err(|e| e.context(doing()))?;
            states.insert((stage.id.clone(), partition), state.clone());
            let replay = options.replay.as_ref();
            let from = match replay {
                Some(replay) => replay.begin(&stage, partition, &context.streams).await?,
                None => None,
            };
            let role = match from {
                Some(from) if replay.is_some_and(Replay::fills) => Role::Fill(from),
                _ => Role::Run,
            };
            let opening = super::task::Opening { role, known: known.clone(), models: models.clone() };
            let mut task = Task::open(context.clone(), stage.clone(), partition, state, reader.clone(), opening)
                .await
                .map_err(|e| e.context(doing()))?;
            if let Some(offset) = from.filter(|_| role == Role::Run) {
                task.rewind(offset).await?;
            }
            begins.extend(task.begins());
            tasks.push(task);
            options.opening.say(plan.streams.len() + tasks.len(), plan.parts());
        }
        if options.replay.is_none() {
            outputs::announce(&stage, &begins);
        }
    }
    Ok(tasks)
}

pub(crate) async fn open_sinks(
    plan: &Plan,
    context: &TaskContext,
    (store, state_options): (StateStore, &StateOptions),
    readers: &Readers,
    wishes: &watch::Receiver<Wish>,
    (pipeline, catalog): (&Pipeline, &Catalog),
    states: &mut BTreeMap<(Arc<str>, u32), State>,
) -> Result<Vec<Deliver>> {
    let state_options = deliver::state_options(state_options);
    let mut sinks = Vec::new();
    for spec in &plan.sinks {
        let sink_context =
            SinkContext { name: spec.name.clone(), clock: context.clock.clone(), pipeline: pipeline.name.clone() };
        let sink = spec.connector.open(sink_context).map_err(|e| e.context(format!("sink {}", spec.name)))?;
        let id = super::deliver::sink_target(&spec.name);
        let positions = spec.from.iter().map(|from| readers[&(id.clone(), from.clone())].clone()).collect();
        let doing = |e: Error| e.context(format!("open state of sink {}", spec.name));
        let path = DataDir::sink_state_path(&spec.name);
        let state = State::open(store.clone(), &path, &state_options).await.map_err(doing)?;
        states.insert((id, 0), state.clone());
        let opening = deliver::Opening { state, positions, is_known: catalog.sinks.contains(&*spec.name) };
        let deliver = Deliver::open(context.clone(), Arc::new(spec.clone()), sink, opening, wishes.clone()).await;
        sinks.push(deliver.map_err(doing)?);
    }
    Ok(sinks)
}

pub(crate) fn open_ingests(
    pipeline: &Pipeline,
    context: &TaskContext,
    data_dir: &DataDir,
) -> Result<BTreeMap<Arc<str>, Arc<Ingest>>> {
    let disk = Arc::new(DiskRoom::of(data_dir.root()));
    let mut ingests = BTreeMap::new();
    for spec in &pipeline.sources {
        let Some(stream) = context.streams.get(&spec.name) else { continue };
        let decoder = format::build(&spec.decode, &spec.declared)
            .map_err(|message| Error::config(message).context(format!("source {}", spec.name)))?;
        let backlog_max = pipeline.settings.max_backlog;
        let ingest = Ingest::new(Arc::new(spec.clone()), stream.clone(), decoder, context, backlog_max, disk.clone());
        ingests.insert(spec.name.clone(), Arc::new(ingest));
    }
    Ok(ingests)
}

pub(crate) fn open_pushes(pipeline: &Pipeline, ingests: &BTreeMap<Arc<str>, Arc<Ingest>>) -> BTreeMap<Arc<str>, Push> {
    let mut pushes = BTreeMap::new();
    for spec in &pipeline.sources {
        if let (Intake::Push(push), Some(ingest)) = (spec.connector.intake(), ingests.get(&spec.name)) {
            pushes.insert(spec.name.clone(), Push::new(ingest.clone(), push));
        }
    }
    pushes
}

/// The source to read from; none where others push its records.
pub(crate) fn open_source(ingest: &Ingest, health: &Health) -> Result<Option<Box<dyn millstream_core::Source>>> {
    let Intake::Pull(pull) = ingest.spec.connector.intake() else { return Ok(None) };
    let name = ingest.spec.name.clone();
    let mut cursor = ingest.stream.log.producer(&name).map(|p| p.cursor).unwrap_or_default();
    // Not the source's own.
    EventClock::strip(&mut cursor);
    let component = health.of(ComponentKind::Source, &name, &ingest.clock);
    let context = SourceContext {
        name: name.clone(),
        cursor,
        clock: ingest.clock.clone(),
        framing: format::framing(&ingest.spec.decode),
        encoding: format::encoding(&ingest.spec.decode),
        status: status_of(component),
    };
    pull.open(context).map(Some).map_err(|e| e.context(format!("source {name}")))
}

/// Takes what a source says of its systems, one part of the component for each.
pub(crate) fn status_of(component: ComponentHealth) -> Status {
    let parts: parking_lot::Mutex<BTreeMap<String, Part>> = parking_lot::Mutex::default();
    Arc::new(move |status| {
        let mut parts = parts.lock();
        match status {
            SourceStatus::Waiting { part, why } => {
                parts.entry(part.to_owned()).or_insert_with(|| component.part()).waits(why);
            }
            SourceStatus::Works { part } => parts.entry(part.to_owned()).or_insert_with(|| component.part()).works(),
            SourceStatus::Trouble { why } => component.error(why),
        }
    })
}

/// All components of a pipeline, in the order of the flow.
pub(crate) fn components(pipeline: &Pipeline) -> Vec<(ComponentKind, Arc<str>)> {
    let sources = pipeline.sources.iter().map(|s| (ComponentKind::Source, s.name.clone()));
    let transforms = pipeline.transforms.iter().map(|t| (ComponentKind::Transform, t.name.clone()));
    let tables = pipeline.tables.iter().map(|t| (ComponentKind::Table, t.name.clone()));
    let sinks = pipeline.sinks.iter().map(|s| (ComponentKind::Sink, s.name.clone()));
    sources.chain(transforms).chain(tables).chain(sinks).collect()
}
