//! A running pipeline: it is opened here, spawned and watched by its supervisor.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_core::{Clock, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::state::{State, local_store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::data_dir::DataDir;
use crate::deliver::Wish;
use crate::health::Health;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::open::{components, open_ingests, open_pushes, open_sinks, open_streams, open_tasks, register_readers};
use crate::opening::Opening;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::push::Push;
use crate::spec::Pipeline;
use crate::streams::Streams;
use crate::supervise::Supervisor;
use crate::task::{Hurry, TaskContext};
use crate::watch::Watchers;
use crate::whereabouts::Whereabouts;
use crate::{dead_letters, preflight, replay};

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
    /// States of all tasks and sinks, by stage (or `sink:NAME`) and partition.
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
    pub(crate) ready: AtomicBool,
    pub(crate) _data_dir: DataDir,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Running({})", self.pipeline.name)
    }
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
        let catalog = catalog.update(&data_dir.catalog(), &plan, &schemas)?;
        let models = Arc::new(models);

        let mut progress = Progress::default();
        let readers = register_readers(&plan, &streams, &mut progress);
        let reads_sources = options.replay.is_none();
        for source in pipeline.sources.iter().filter(|s| reads_sources && !s.connector.is_pushed()) {
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
            backlog_max: pipeline.settings.max_backlog,
            commit: pipeline.settings.commit,
            folder: data_dir.id()?,
        };
        let mut states = BTreeMap::new();
        let store = (local_store(&data_dir.state())?, &state_options);
        let tasks =
            open_tasks(&plan, &context, store.clone(), (&models, &known), &readers, &options, &mut states).await?;
        let (wish, wishes) = watch::channel(Wish::Run);
        let sinks = open_sinks(&plan, &context, store, &readers, &wishes, (&pipeline, &catalog), &mut states).await?;
        let catalog = catalog.add_sinks(&data_dir.catalog(), &plan)?;
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
    pub(crate) fn stages_are_idle(&self) -> bool {
        let mut stages = self.progress.readers().iter().filter(|r| r.holds_back);
        let log_end = |reader: &super::progress::ReaderProgress, p| {
            self.streams.get(&reader.stream).map_or(0, |s| s.log.end_offset(p))
        };
        self.progress.sources_at_end()
            && !self.ingests.values().any(|ingest| ingest.owes())
            && stages.all(|r| (0..r.partitions()).all(|p| r.offset(p) >= log_end(r, p)))
    }

    /// Takes the figures that nobody counts as they change: lags.
    pub fn take_figures(&self) {
        for reader in self.progress.readers() {
            let Some(stream) = self.streams.get(&reader.stream) else { continue };
            for partition in 0..reader.partitions() {
                let lag = stream.log.end_offset(partition).saturating_sub(reader.offset(partition));
                self.metrics.reader_lag(&reader.reader, partition, lag);
            }
        }
        self.ingests.values().for_each(|ingest| ingest.take_figures());
        self.metrics.take_figures(self.clock.now_us());
    }
}
