//! The rows of a transform that has no stream of its own, computed again from the stored records of its sources.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_core::{Error, ErrorKind, Result, ResultExt, SystemClock};
use millstream_storage::state::{State, StateOptions, Writes, local_store};
use tokio_util::sync::CancellationToken;

use crate::graph::{Emitted, Graph, Kept, Moment};
use crate::health::Health;
use crate::heard::Heard;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::plan::{EmitPlan, Plan, StagePlan};
use crate::relations::AtRest;
use crate::spec::{Pipeline, TransformKind};
use crate::streams::{StreamBatch, StreamReader};
use crate::trial::without_caches;

/// Name of the stream that takes the rows; no stream of a pipeline can have it.
const OUTPUT: &str = "(rows)";
const READ_BYTES: usize = 256 << 10;

/// Rows, the partition of the log that they come from, and for each row its record's offset there.
pub type Visit<'v> = dyn FnMut(u32, Vec<u64>, RecordBatch) -> Result<bool> + Send + 'v;

/// Calls `visit` with the rows of `transform` until it answers false.
///
/// # Errors
/// `Config`: a model behind an endpoint would have to be asked, or the stored records do not fit the pipeline file.
pub async fn recompute(pipeline: &Pipeline, transform: &str, opened: &AtRest, visit: &mut Visit<'_>) -> Result<()> {
    let plan = Plan::new(pipeline)?;
    for mut stage in plan.stages {
        let Some(op) = stage.op(transform).filter(|op| *op > 0) else { continue };
        stage.emits.push(EmitPlan { stream: OUTPUT.into(), inputs: vec![op] });
        let stage = stage.restricted_to(&BTreeSet::from([OUTPUT.to_owned()]));
        refuse_endpoints(pipeline, transform, &stage)?;
        if !stage_rows(pipeline, stage, opened, visit).await? {
            return Ok(());
        }
    }
    Ok(())
}

fn refuse_endpoints(pipeline: &Pipeline, transform: &str, stage: &StagePlan) -> Result<()> {
    let steps = stage.ops.iter().filter_map(|op| op.step.as_ref());
    for step in steps {
        let TransformKind::Predict(predict) = &step.kind else { continue };
        if pipeline.model(&predict.model).is_some_and(|model| model.config.is_endpoint()) {
            return Err(Error::config(format!(
                "`{transform}` needs model `{}`, which is behind an endpoint: tap it on the running pipeline",
                predict.model
            )));
        }
    }
    Ok(())
}

async fn stage_rows(pipeline: &Pipeline, stage: StagePlan, opened: &AtRest, visit: &mut Visit<'_>) -> Result<bool> {
    let folder = tempfile::tempdir().doing(|| "create a temporary folder".to_owned())?;
    let alone = Plan { streams: Vec::new(), stages: vec![stage.clone()], sinks: Vec::new() };
    let clock: Arc<dyn millstream_core::Clock> = Arc::new(SystemClock);
    let health = Arc::new(Health::default());
    let models = ModelSet::open(
        &without_caches(pipeline),
        &alone,
        (folder.path().into(), &StateOptions::default()),
        &clock,
        &health,
    )
    .await?;
    let stage = Arc::new(stage);
    let metrics = Arc::new(Metrics::default());
    let log = opened.log(&stage.input)?;
    for partition in 0..log.partitions() {
        let path = format!("state/{partition}");
        let state = State::open(local_store(folder.path())?, &path, &StateOptions::default()).await?;
        let (version, stop) = (pipeline.version.clone(), CancellationToken::new());
        let kept = (Kept::Stage(&state), &opened.schemas);
        let graph = Graph::open(stage.clone(), &models, kept, version, metrics.clone(), &stop).await?;
        let reader = StreamReader::new(&log, &opened.schemas, partition, log.start_offset(partition))?;
        let timekeepers = stage.timekeepers.iter().flat_map(|writer| writer.producers(partition)).collect();
        let part = Part { graph, reader, heard: Heard::default(), timekeepers, clock: clock.clone() };
        let is_wanted = part.visit(partition, &state, visit).await?;
        state.close().await?;
        if !is_wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// One partition, computed again.
struct Part {
    graph: Graph,
    reader: StreamReader,
    heard: Heard,
    timekeepers: BTreeSet<Arc<str>>,
    clock: Arc<dyn millstream_core::Clock>,
}

impl Part {
    /// Visits all rows; false where the visitor wants no more.
    async fn visit(mut self, partition: u32, state: &State, visit: &mut Visit<'_>) -> Result<bool> {
        loop {
            let mut batches = self.reader.read_all(READ_BYTES).await?;
            if batches.is_empty() {
                return Ok(true);
            }
            self.heard.drop_repeats(&mut batches);
            batches.retain(|batch| batch.target.is_none());
            let mut waiting = VecDeque::from(batches);
            while let Some(batch) = waiting.pop_front() {
                self.heard.take_all(&batch.words);
                let watermark = self.heard.watermark(&self.timekeepers);
                let mut writes = Writes::new();
                let moment = Moment { now_us: self.clock.now_us(), watermark };
                let effects = match self.graph.run(&batch, moment, &mut writes).await {
                    Err(e) if e.kind() == ErrorKind::TooMuch => {
                        batch.halves().rev().for_each(|half| waiting.push_front(half));
                        continue;
                    }
                    ran => ran?,
                };
                state.commit(writes).await?;
                if self.graph.is_behind() {
                    waiting.push_front(StreamBatch::nothing(partition, batch.end_offset()));
                }
                for Emitted { rows, .. } in effects.emits {
                    let offsets = rows.origin.iter().map(|&row| batch.offset_of(row)).collect();
                    if !visit(partition, offsets, rows.batch)? {
                        return Ok(false);
                    }
                }
            }
        }
    }
}
