//! Start in four moves: open the data folder, open everything in it, spawn, watch; and stop in the order of the flow.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_connectors::sink::SinkContext;
use millstream_connectors::source::{SourceConfig, SourceContext, SourceStatus, Status};
use millstream_connectors::{format, sink, source};
use millstream_core::disk::RealDisk;
use millstream_core::{Clock, Error, Result};
use millstream_storage::checkpoint::Checkpoint;
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{LogOptions, Retention, StreamLog};
use millstream_storage::state::{State, StateOptions, StateStore, local_store};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::data_dir::DataDir;
use crate::deliver::{Deliver, STOPPED, Wish};
use crate::disk_room::DiskRoom;
use crate::health::{ComponentHealth, ComponentKind, Health, Part};
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::opening::Opening;
use crate::plan::{Plan, StagePlan, StreamPlan};
use crate::progress::Progress;
use crate::push::Push;
use crate::replay::Replay;
use crate::spec::{Pipeline, SinkSpec, Start};
use crate::streams::{Stream, Streams};
use crate::task::{Hurry, Role, Task, TaskContext};
use crate::watch::Watchers;
use crate::whereabouts::Whereabouts;
use crate::{dead_letters, outputs, preflight, replay};

/// How often old segments are looked for, and figures taken.
const RETAIN_EVERY: Duration = Duration::from_secs(30);
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// How to run.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The data folder.
    pub data_dir: PathBuf,
    /// End when every source is read and everything is delivered.
    pub exit_when_idle: bool,
    /// How long a stop may take before what is left is dropped (it is done again at the next start).
    pub stop_deadline: Duration,
    /// Where to start again in the logs; sources are not read then.
    pub replay: Option<replay::Replay>,
    /// Is told how far the opening of the data folder is.
    pub opening: Opening,
}

/// A running pipeline, as its server and its commands see it.
pub struct Running {
    /// The checked pipeline file.
    pub pipeline: Arc<Pipeline>,
    /// What runs.
    pub plan: Plan,
    /// Open logs.
    pub streams: Arc<Streams>,
    /// Schemas of stored rows.
    pub schemas: Arc<SchemaStore>,
    /// States of all tasks, by stage and partition.
    pub states: BTreeMap<(Arc<str>, u32), State>,
    /// Streams and tables, those of earlier replays too.
    pub catalog: Catalog,
    /// Ways in, by source.
    pub ingests: BTreeMap<Arc<str>, Arc<Ingest>>,
    /// Ways in over HTTP, by source.
    pub pushes: BTreeMap<Arc<str>, Push>,
    /// Loaded models, with what stands beside them.
    pub models: Arc<ModelSet>,
    /// Positions.
    pub progress: Arc<Progress>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// What each component is doing.
    pub health: Arc<Health>,
    /// Who watches the rows of transforms.
    pub watchers: Arc<Watchers>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Serialises redrives: two at once would redrive a record twice.
    pub redrive: tokio::sync::Mutex<()>,
    /// How far the one that is under way is.
    pub redrive_progress: dead_letters::RedriveProgress,
    /// Whether all that is stored is where it was.
    pub whereabouts: Whereabouts,
    ready: AtomicBool,
    _data_dir: DataDir,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.pipeline.name)
    }
}

/// Everything that was spawned, and the handles to stop it.
#[derive(Debug)]
pub struct Supervisor {
    running: Arc<Running>,
    sources: JoinSet<Result<()>>,
    tasks: JoinSet<Result<()>>,
    sinks: JoinSet<Result<()>>,
    stop_sources: CancellationToken,
    stop_tasks: CancellationToken,
    hurry: Hurry,
    wish: watch::Sender<Wish>,
    options: RunOptions,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was read, delivered and committed.
    Idle,
    /// It was asked to stop.
    Stopped,
}

impl Running {
    /// Opens everything and spawns it. When this returns, the pipeline is ready.
    pub async fn start(pipeline: Arc<Pipeline>, options: RunOptions, clock: Arc<dyn Clock>) -> Result<Supervisor> {
        let plan = match &options.replay {
            Some(replay) => replay.plan(&pipeline)?,
            None => Plan::new(&pipeline)?,
        };
        let data_dir = DataDir::open(&options.data_dir, &pipeline.name)?;
        let metrics = Arc::new(Metrics::default());
        let health = Arc::new(Health::new(components(&pipeline), &clock, &metrics));
        // Before anything is opened that takes a while.
        preflight::look(&pipeline, &health, &clock, options.replay.is_none()).await?;
        let schemas = SchemaStore::open(&data_dir.schemas())?;
        let streams = Arc::new(open_streams(&plan, &data_dir, &schemas, &clock, &options.opening).await?);
        let state_options = pipeline.settings.memory_budget().share(plan.states() + pipeline.model_caches());
        let caches = (data_dir.model_caches(), &state_options);
        let models = ModelSet::open(&pipeline, &plan, caches, &clock, &health).await?;
        let catalog = Catalog::load(&data_dir.catalog())?;
        let known = Arc::new(catalog.names());
        let sinks_are_known = catalog.knows_sinks();
        let catalog = catalog.update(&data_dir.catalog(), &plan, &schemas)?;
        let models = Arc::new(models);

        let mut progress = Progress::default();
        let readers = register_readers(&plan, &streams, &mut progress);
        let reads_sources = options.replay.is_none();
        for source in pipeline.sources.iter().filter(|s| reads_sources && !is_push(&s.connector)) {
            progress.add_source(source.name.clone());
        }
        let stop_tasks = CancellationToken::new();
        let context = TaskContext {
            streams: streams.clone(),
            schemas: schemas.clone(),
            clock: clock.clone(),
            progress: Arc::new(progress),
            metrics,
            health,
            watchers: Arc::default(),
            stop: stop_tasks.clone(),
            hurry: Hurry::default(),
            pipeline_version: pipeline.version.clone(),
            folder: data_dir.id()?,
        };
        let mut states = BTreeMap::new();
        let store = (local_store(&data_dir.state())?, &state_options);
        let tasks = open_tasks(&plan, &context, store, (&models, &known), &readers, &options, &mut states).await?;
        let (wish, wishes) = watch::channel(Wish::Run);
        let sinks = open_sinks(&plan, &context, &data_dir, &readers, &wishes, (&pipeline, sinks_are_known)).await?;
        let ingests = open_ingests(&pipeline, &context, &data_dir)?;
        let pushes = open_pushes(&pipeline, &ingests);
        let whereabouts = data_dir.whereabouts(
            streams.keys().map(|name| &**name),
            states.keys().map(|(stage, partition)| (&**stage, *partition)),
        );
        let whereabouts = whereabouts.and(streams.values().map(|stream| stream.log.clone()));
        let running = Arc::new(Self {
            pipeline,
            plan,
            streams,
            schemas,
            states,
            catalog,
            ingests,
            pushes,
            models,
            progress: context.progress.clone(),
            metrics: context.metrics.clone(),
            health: context.health.clone(),
            watchers: context.watchers.clone(),
            clock,
            redrive: tokio::sync::Mutex::new(()),
            redrive_progress: dead_letters::RedriveProgress::default(),
            whereabouts,
            ready: AtomicBool::new(false),
            _data_dir: data_dir,
        });
        Supervisor::spawn(running, context, tasks, sinks, wish, options)
    }

    /// True once everything is open and running.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// True where everything that was read has been delivered and committed.
    pub fn is_idle(&self) -> bool {
        // Upstream first: once a stage is at the end of a log that nobody writes any more, it stays there.
        let at_end = |reader: &Arc<super::progress::ReaderProgress>| {
            let log = self.streams.get(&reader.stream).map(|s| &s.log);
            (0..reader.partitions()).all(|p| log.is_none_or(|log| reader.offset(p) >= log.end_offset(p)))
        };
        self.progress.sources_at_end() && self.progress.readers().iter().all(at_end)
    }

    /// True where every stage has done all that is in its log.
    fn stages_are_idle(&self) -> bool {
        let mut stages = self.progress.readers().iter().filter(|r| r.holds_back);
        let log_end = |reader: &super::progress::ReaderProgress, p| {
            self.streams.get(&reader.stream).map_or(0, |s| s.log.end_offset(p))
        };
        self.progress.sources_at_end() && stages.all(|r| (0..r.partitions()).all(|p| r.offset(p) >= log_end(r, p)))
    }

    fn take_figures(&self) {
        for reader in self.progress.readers() {
            let Some(stream) = self.streams.get(&reader.stream) else { continue };
            for partition in 0..reader.partitions() {
                let lag = stream.log.end_offset(partition).saturating_sub(reader.offset(partition));
                self.metrics.reader_lag(&reader.reader, partition, lag);
            }
        }
    }

    fn retain(&self) -> Result<()> {
        for stream in self.streams.values() {
            let oldest_letter = dead_letters::oldest(&stream.log, &self.schemas)?;
            let keep_from = |partition| match partition {
                millstream_storage::log::DEAD_LETTERS => oldest_letter,
                partition => self.progress.lowest_offset(stream.name(), partition),
            };
            let report = stream.log.retain(self.clock.now_ms(), &keep_from)?;
            if report.segments > 0 {
                tracing::info!(stream = %stream.name(), segments = report.segments, "old segments removed");
            }
        }
        Ok(())
    }
}

impl Supervisor {
    fn spawn(
        running: Arc<Running>,
        context: TaskContext,
        tasks: Vec<Task>,
        sinks: Vec<Deliver>,
        wish: watch::Sender<Wish>,
        options: RunOptions,
    ) -> Result<Self> {
        let mut supervisor = Self {
            running,
            sources: JoinSet::new(),
            tasks: JoinSet::new(),
            sinks: JoinSet::new(),
            stop_sources: CancellationToken::new(),
            stop_tasks: context.stop.clone(),
            hurry: context.hurry.clone(),
            wish,
            options,
        };
        for task in tasks {
            supervisor.tasks.spawn(task.run());
        }
        for sink in sinks {
            supervisor.sinks.spawn(sink.run());
        }
        if supervisor.options.replay.is_none() {
            for ingest in supervisor.running.ingests.values().filter(|i| !is_push(&i.spec.connector)) {
                let source = open_source(ingest, &supervisor.running.health)?;
                supervisor.sources.spawn(ingest.clone().pull(source, supervisor.stop_sources.clone()));
            }
        }
        let (pipeline, health) = (supervisor.running.pipeline.clone(), supervisor.running.health.clone());
        let (clock, stop) = (supervisor.running.clock.clone(), supervisor.stop_tasks.clone());
        tokio::spawn(preflight::look_again(pipeline, health.clone(), clock, stop));
        health.started();
        supervisor.running.ready.store(true, Ordering::Release);
        Ok(supervisor)
    }

    /// The pipeline.
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Watches until something fails, `shutdown` resolves, or all is done; then stops everything in the order of the flow.
    ///
    /// # Errors
    /// The first error of any part.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<Outcome> {
        let mut figures = tokio::time::interval(FIGURES_EVERY);
        let mut retain = tokio::time::interval(RETAIN_EVERY);
        let running = self.running.clone();
        let mut missing = None;
        tokio::pin!(shutdown);
        let ended = loop {
            tokio::select! {
                () = &mut shutdown => break Ok(Outcome::Stopped),
                Some(ended) = self.sources.join_next() => {
                    if let Err(e) = flatten(ended) { break Err(e); }
                }
                Some(ended) = self.tasks.join_next() => break Err(unexpected(flatten(ended), "a task")),
                Some(ended) = self.sinks.join_next() => break Err(unexpected(flatten(ended), "a sink")),
                _ = figures.tick() => {
                    running.take_figures();
                    running.metrics.tally().say_more();
                    let trouble = running.whereabouts.trouble();
                    if let Some(trouble) = trouble.as_ref().filter(|_| missing.is_none()) {
                        tracing::error!("{trouble}");
                    }
                    missing = trouble;
                }
                _ = retain.tick() => if let Err(e) = running.retain() { break Err(e) },
                () = running.progress.moved(), if self.options.exit_when_idle => {
                    if running.stages_are_idle() {
                        self.wish.send_if_modified(|w| std::mem::replace(w, Wish::Drain) != Wish::Drain);
                        if running.is_idle() { break Ok(Outcome::Idle); }
                    } else {
                        self.wish.send_if_modified(|w| std::mem::replace(w, Wish::Run) != Wish::Run);
                    }
                }
            }
        };
        running.ready.store(false, Ordering::Release);
        running.take_figures();
        let deadline = self.options.stop_deadline;
        match tokio::time::timeout(deadline, self.stop(deadline)).await {
            Ok(stopped) => ended.and_then(|outcome| stopped.map(|()| outcome)),
            Err(_) => {
                tracing::warn!(
                    ?deadline,
                    "not everything stopped in time; what was under way is done again at the next start"
                );
                ended
            }
        }
    }

    /// Sources first, then tasks, then sinks, then logs. Whoever takes more than a share of the deadline drops what is under
    /// way, so that all get their turn.
    async fn stop(mut self, deadline: Duration) -> Result<()> {
        self.stop_sources.cancel();
        let mut first = join_all(&mut self.sources).await;
        self.stop_tasks.cancel();
        first = first.and(hurried(join_all(&mut self.tasks), &self.hurry.tasks, deadline * 2 / 5).await);
        // Predictions are kept when they are made: closing only tidies up.
        if let Ok(closed) = tokio::time::timeout(deadline / 10, self.running.models.close()).await {
            first = first.and(closed);
        }
        self.wish.send_replace(Wish::Stop);
        first = first.and(hurried(join_all(&mut self.sinks), &self.hurry.sinks, deadline / 5).await);
        for stream in self.running.streams.values() {
            first = first.and(stream.log.close().await);
        }
        first
    }
}

/// Waits for `work`, and tells it to hurry after a while.
async fn hurried(work: impl Future<Output = Result<()>>, hurry: &CancellationToken, after: Duration) -> Result<()> {
    tokio::pin!(work);
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(after) => hurry.cancel(),
    }
    work.await
}

async fn join_all(set: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut first = Ok(());
    while let Some(ended) = set.join_next().await {
        first = first.and(flatten(ended));
    }
    first
}

fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    match ended {
        Ok(Err(e)) if [STOPPED, super::scorer::waiting::STOPPED].contains(&e.message()) => Ok(()),
        Ok(result) => result,
        Err(e) => Err(Error::bug(format!("a part of the pipeline panicked: {e}"))),
    }
}

fn unexpected(ended: Result<()>, what: &str) -> Error {
    ended.err().unwrap_or_else(|| Error::bug(format!("{what} ended by itself")))
}

fn is_push(connector: &SourceConfig) -> bool {
    matches!(connector, SourceConfig::Http(_))
}

/// Opens the log of one stream.
pub fn open_log(plan: &StreamPlan, data_dir: &DataDir, clock: &Arc<dyn Clock>) -> Result<StreamLog> {
    let options = LogOptions {
        retention: Retention {
            age_ms: plan.retention.time.map(|t| i64::try_from(t.as_millis()).unwrap_or(i64::MAX)),
            bytes: plan.retention.size,
        },
        ..LogOptions::new(plan.partitions)
    };
    StreamLog::open(Arc::new(RealDisk), &data_dir.log(&plan.name), &plan.name, options, clock.clone())
        .map_err(|e| e.context(format!("open stream {}", plan.name)))
}

pub(super) async fn open_streams(
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

type Readers = BTreeMap<(Arc<str>, Arc<str>), Arc<super::progress::ReaderProgress>>;

fn register_readers(plan: &Plan, streams: &Streams, progress: &mut Progress) -> Readers {
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

#[allow(clippy::too_many_arguments)]
async fn open_tasks(
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
            let from = replay.map(|r| r.offset(&stage, partition, &context.streams)).transpose()?.flatten();
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

async fn open_sinks(
    plan: &Plan,
    context: &TaskContext,
    data_dir: &DataDir,
    readers: &Readers,
    wishes: &watch::Receiver<Wish>,
    (pipeline, are_known): (&Pipeline, bool),
) -> Result<Vec<Deliver>> {
    let mut sinks = Vec::new();
    for spec in &plan.sinks {
        let sink_context = SinkContext {
            name: spec.name.clone(),
            clock: context.clock.clone(),
            schema: spec.schema.clone(),
            pipeline: pipeline.name.clone(),
        };
        let sink = sink::build(&spec.connector, sink_context).map_err(|e| e.context(format!("sink {}", spec.name)))?;
        let id = super::deliver::sink_target(&spec.name);
        let positions = spec.from.iter().map(|from| readers[&(id.clone(), from.clone())].clone()).collect();
        let checkpoint = Checkpoint::open(&data_dir.sink(&spec.name))?;
        // A version that did not list sinks began all of them with the oldest record.
        let start = if are_known { spec.start } else { Start::Earliest };
        let spec = Arc::new(SinkSpec { start, ..spec.clone() });
        sinks.push(Deliver::open(context.clone(), spec, sink, positions, checkpoint, wishes.clone()).await?);
    }
    Ok(sinks)
}

pub(super) fn open_ingests(
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

fn open_pushes(pipeline: &Pipeline, ingests: &BTreeMap<Arc<str>, Arc<Ingest>>) -> BTreeMap<Arc<str>, Push> {
    let mut pushes = BTreeMap::new();
    for spec in &pipeline.sources {
        let (SourceConfig::Http(config), Some(ingest)) = (&spec.connector, ingests.get(&spec.name)) else { continue };
        let window_us = i64::try_from(config.idempotency_window.0.as_micros()).unwrap_or(i64::MAX);
        pushes.insert(spec.name.clone(), Push::new(ingest.clone(), window_us));
    }
    pushes
}

fn open_source(ingest: &Ingest, health: &Health) -> Result<Box<dyn millstream_core::Source>> {
    let name = ingest.spec.name.clone();
    let cursor = ingest.stream.log.producer(&name).map(|p| p.cursor).unwrap_or_default();
    let component = health.of(ComponentKind::Source, &name, &ingest.clock);
    let context = SourceContext {
        name: name.clone(),
        cursor,
        clock: ingest.clock.clone(),
        framing: format::framing(&ingest.spec.decode),
        encoding: format::encoding(&ingest.spec.decode),
        status: status_of(component),
    };
    source::build(&ingest.spec.connector, context).map_err(|e| e.context(format!("source {name}")))
}

/// Takes what a source says of its systems, one part of the component for each.
fn status_of(component: ComponentHealth) -> Status {
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
fn components(pipeline: &Pipeline) -> Vec<(ComponentKind, Arc<str>)> {
    let sources = pipeline.sources.iter().map(|s| (ComponentKind::Source, s.name.clone()));
    let transforms = pipeline.transforms.iter().map(|t| (ComponentKind::Transform, t.name.clone()));
    let tables = pipeline.tables.iter().map(|t| (ComponentKind::Table, t.name.clone()));
    let sinks = pipeline.sinks.iter().map(|s| (ComponentKind::Sink, s.name.clone()));
    sources.chain(transforms).chain(tables).chain(sinks).collect()
}
