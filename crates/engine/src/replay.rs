//! Running a pipeline again from a point in its logs, into its own tables or into another one.

use std::sync::Arc;

use millstream_core::{Error, Result};

use crate::plan::{Plan, StagePlan, StreamKind, exchange_name};
use crate::spec::Pipeline;
use crate::streams::Streams;

/// What to run again.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Only this source; none: all.
    pub source: Option<Arc<str>>,
    /// Where to begin.
    pub from: From,
    /// Only the table of that name.
    pub table: Option<Arc<str>>,
    /// With `table`: its rows go into a new table called so.
    pub into: Option<Arc<str>>,
}

/// A point in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The oldest record that is kept.
    Earliest,
    /// An offset, in every partition.
    Offset(u64),
    /// The first record that was stored at or after this moment, milliseconds since the epoch.
    Time(i64),
    /// Where each task is; one without a state begins with the oldest record. Sources are not read.
    Kept,
}

impl Replay {
    /// The plan: the pipeline's own, or only what feeds the one table.
    pub fn plan(&self, pipeline: &Pipeline) -> Result<Plan> {
        if let Some(source) = &self.source
            && !pipeline.sources.iter().any(|s| s.name == *source)
        {
            return Err(Error::config(format!("the pipeline has no source `{source}`")));
        }
        let Some(table) = &self.table else { return Plan::new(pipeline) };
        if let Some(new_name) = self.into.as_ref().filter(|name| pipeline.table(name).is_some()) {
            return Err(Error::config(format!("`{new_name}` is a table of the pipeline: name one that is not")));
        }
        let mut all = pipeline.clone();
        let Some(spec) = all.tables.iter_mut().find(|t| t.name == *table) else {
            let known = pipeline.tables.iter().map(|t| format!("`{}`", t.name)).collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!("the pipeline has no table `{table}`; it has {known}")));
        };
        let name = self.into.as_ref().unwrap_or(table).clone();
        spec.name = name.clone();
        let mut plan = Plan::new(&all)?.for_table(&name);
        if self.into.is_some() {
            // Beside the pipeline's own stages, which read the same logs.
            let exchange = exchange_name(&name);
            for stage in plan.stages.iter_mut().filter(|stage| stage.input != exchange) {
                stage.id = format!("{}@{name}", stage.id).into();
            }
        }
        Ok(plan)
    }

    /// True where one table is filled, beside everything else that its stage has done.
    pub fn fills(&self) -> bool {
        self.table.is_some() && self.into.is_none()
    }

    /// Where a task begins, with a warning where that is not where it was asked to; none for stages that are
    /// brought their rows again.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn begin(&self, stage: &StagePlan, partition: u32, streams: &Streams) -> Result<Option<u64>> {
        let begin = self.offset(stage, partition, streams).await?;
        let stream = streams.get(&stage.input).filter(|stream| stream.plan.kind != StreamKind::Exchange);
        if let (From::Offset(asked), Some(_), Some(stream)) = (self.from, begin, stream) {
            say_gone(stage, partition, asked, stream.log.start_offset(partition));
        }
        Ok(begin)
    }

    /// The same, and nothing is said.
    ///
    /// # Errors
    /// The log can't be read.
    pub async fn offset(&self, stage: &StagePlan, partition: u32, streams: &Streams) -> Result<Option<u64>> {
        if self.source.as_ref().is_some_and(|source| *source != stage.input) {
            return Ok(None);
        }
        let Some(stream) = streams.get(&stage.input).filter(|stream| match stream.plan.kind {
            StreamKind::Source => true,
            // What has changed already changes nothing again: a table that is built of changes reads those that are
            // kept.
            StreamKind::Changes => self.table.is_some(),
            // What an operator with state by key has been brought lies there: nobody brings it again.
            StreamKind::Exchange => stage.ops.len() > 1,
            StreamKind::Transform => false,
        }) else {
            return Ok(None);
        };
        let (start, end) = (stream.log.start_offset(partition), stream.log.end_offset(partition));
        let offset = match self.from {
            From::Kept => return Ok(None),
            From::Earliest => start,
            // Offsets are meant in the log of a source.
            From::Offset(_) if stream.plan.kind == StreamKind::Exchange => start,
            From::Offset(offset) => offset,
            From::Time(time_ms) => stream.log.offset_at(partition, time_ms).await?,
        };
        Ok(Some(offset.clamp(start, end)))
    }
}

/// Says that a replay can't begin where it was asked to.
fn say_gone(stage: &StagePlan, partition: u32, asked: u64, start: u64) {
    if asked < start {
        tracing::warn!(
            "a replay of `{}` partition {partition} from offset {asked} begins at {start}: the {} records before are \
             no longer kept",
            stage.input,
            start - asked
        );
    }
}
