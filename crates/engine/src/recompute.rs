//! The rows of a transform that has no stream of its own, computed again from the stored records of its sources.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_core::{Error, Result, ResultExt, SystemClock};
use millstream_sql::TOO_MUCH_AT_ONCE;
use millstream_storage::state::StateOptions;
use tokio_util::sync::CancellationToken;

use crate::graph::Graph;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::plan::{Plan, StagePlan};
use crate::relations::AtRest;
use crate::spec::{Pipeline, TransformKind};
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
        let node = stage.nodes.iter_mut().find(|node| node.step.is_some() && *node.name == *transform);
        let Some(node) = node else { continue };
        node.emits.push(OUTPUT.into());
        let stage = stage.restricted_to(&BTreeSet::from([OUTPUT.to_owned()]));
        refuse_endpoints(pipeline, transform, &stage)?;
        if !stage_rows(pipeline, stage, opened, visit).await? {
            return Ok(());
        }
    }
    Ok(())
}

fn refuse_endpoints(pipeline: &Pipeline, transform: &str, stage: &StagePlan) -> Result<()> {
    let steps = stage.nodes.iter().filter_map(|node| node.step.as_ref());
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
    let mut graph = Graph::new(stage.clone(), &models, pipeline.version.clone(), metrics, &CancellationToken::new())?;
    let log = opened.log(&stage.input)?;
    for partition in 0..log.partitions() {
        let mut reader = log.reader(partition, log.start_offset(partition))?;
        loop {
            let chunks = reader.read(READ_BYTES)?;
            if chunks.is_empty() {
                break;
            }
            for chunk in chunks {
                let batch = opened.decode(chunk)?;
                if batch.target.is_some() {
                    continue;
                }
                let mut waiting = VecDeque::from([batch.conform(&stage.nodes[0].schema)?]);
                while let Some(batch) = waiting.pop_front() {
                    let effects = match graph.run(&batch, clock.now_us()).await {
                        Err(e) if e.message() == TOO_MUCH_AT_ONCE => {
                            batch.halves().rev().for_each(|half| waiting.push_front(half));
                            continue;
                        }
                        ran => ran?,
                    };
                    for (_, rows) in effects.emits {
                        let offsets = rows.origin.iter().map(|&row| batch.base_offset + u64::from(row)).collect();
                        if !visit(partition, offsets, rows.batch)? {
                            return Ok(false);
                        }
                    }
                }
            }
        }
    }
    Ok(true)
}
