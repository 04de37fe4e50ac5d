//! What is done to the dead letters of a data folder that no pipeline runs on.

use std::path::Path;
use std::sync::Arc;

use millstream_core::disk::RealDisk;
use millstream_core::{Clock, Result};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Log, LogOptions};
use tokio_util::sync::CancellationToken;

use crate::data_dir::DataDir;
use crate::dead_letters;
use crate::metrics::Metrics;
use crate::open::{open_ingests, open_streams};
use crate::opening::Opening;
use crate::plan::Plan;
use crate::progress::Progress;
use crate::relations::AtRest;
use crate::spec::Pipeline;
use crate::task::{Hurry, TaskContext};

/// Redrives dead letters of a data folder at rest: they are in front of their stage when the pipeline runs next.
pub async fn redrive_at_rest(
    pipeline: Arc<Pipeline>,
    folder: &Path,
    filter: &dead_letters::Filter,
    clock: Arc<dyn Clock>,
    watch: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<dead_letters::Redrive> {
    let plan = Plan::new(&pipeline)?;
    let data_dir = DataDir::open(folder, &pipeline.name)?;
    let schemas = SchemaStore::open(&data_dir.schemas())?;
    let streams = Arc::new(open_streams(&plan, &data_dir, &schemas, &clock, &Opening::default()).await?);
    let context = TaskContext {
        streams: streams.clone(),
        schemas: schemas.clone(),
        clock,
        progress: Arc::new(Progress::default()),
        metrics: Arc::new(Metrics::default()),
        health: Arc::default(),
        watchers: Arc::default(),
        stop: CancellationToken::new(),
        hurry: Hurry::default(),
        pipeline_version: pipeline.version.clone(),
        backlog_max: pipeline.settings.max_backlog,
        commit: pipeline.settings.commit,
        folder: data_dir.id()?,
    };
    let ingests = open_ingests(&pipeline, &context, &data_dir)?;
    let redriver = dead_letters::Redriver { plan: &plan, streams: &streams, ingests: &ingests, schemas: &schemas };
    let done = redriver.redrive(filter, watch).await?;
    for stream in streams.values() {
        stream.log.close().await?;
    }
    Ok(done)
}

/// Discards dead letters of a data folder at rest; how many.
pub async fn discard_at_rest(folder: &Path, filter: &dead_letters::Filter, clock: Arc<dyn Clock>) -> Result<usize> {
    let opened = AtRest::open(folder)?;
    // Nobody else writes there while this is open.
    let data_dir = DataDir::open(folder, &opened.dir.pipeline()?)?;
    let mut logs = Vec::new();
    for stream in &opened.catalog.streams {
        let options = LogOptions::new(opened.log(&stream.name)?.partitions());
        let path = data_dir.log(&stream.name);
        logs.push(Log::open(Arc::new(RealDisk), &path, &stream.name, options, clock.clone())?);
    }
    let discarded = dead_letters::discard(&logs, &opened.schemas, filter).await?;
    for log in &logs {
        log.close().await?;
    }
    Ok(discarded)
}
