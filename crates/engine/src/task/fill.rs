//! Filling outputs that are younger than the task: a part of its log is read again, for them alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_core::Result;
use millstream_storage::state::Writes;

use super::commit::{Committing, commit_batches, finish};
use super::{Task, open_tables};
use crate::outputs::OUTPUTS_KEY;
use crate::plan::StagePlan;

impl Task {
    /// The first filling: reads a part of the log again, for its outputs alone. A stop leaves it where it is.
    pub(super) async fn fill(&mut self) -> Result<()> {
        let Some(fill) = self.outputs.fills.first().cloned() else { return Ok(()) };
        let whole = self.plan.clone();
        let shown = || fill.outputs.iter().map(|output| whole.shown(output)).collect::<Vec<_>>().join(", ");
        if !self.begins.iter().any(|begins| begins.filled && fill.outputs.contains(&begins.output)) {
            tracing::info!(
                partition = self.partition,
                "{} is being filled from offset {} of `{}`",
                shown(),
                fill.at,
                whole.input
            );
        }
        self.enter(Arc::new(whole.restricted_to(&fill.outputs)), fill.quiet.clone()).await?;
        self.is_filling = true;
        let mut committing: Option<Committing> = None;
        while let Some(at) = self.outputs.fills.first().map(|fill| fill.at).filter(|at| *at < fill.until)
            && self.room().await
            && !self.context.stop.is_cancelled()
        {
            let batches = self.read_from(at).await?.into_iter().filter_map(|batch| batch.before_offset(fill.until));
            let batches = commit_batches(batches.collect())?;
            if batches.is_empty() {
                // Retention has taken what was left.
                self.move_fill(fill.until);
            }
            self.commit_each(batches, &mut committing).await?;
        }
        finish(&mut committing).await?;
        if self.outputs.fills.first().is_some_and(|fill| fill.at >= fill.until) {
            self.outputs.fills.remove(0);
            self.store_outputs().await?;
            tracing::info!(
                partition = self.partition,
                "{} filled up to offset {} of `{}`",
                shown(),
                fill.until,
                whole.input
            );
        }
        self.is_filling = false;
        self.enter(whole, BTreeSet::new()).await?;
        self.report();
        Ok(())
    }

    /// From here on the task does what `plan` says.
    async fn enter(&mut self, plan: Arc<StagePlan>, quiet: BTreeSet<String>) -> Result<()> {
        self.graph = self.context.graph(&plan, &self.models)?.quiet(quiet);
        // Anew: what a table keeps in memory is only right while nobody else writes it.
        self.tables.clear();
        self.tables = open_tables(&self.context, &self.state, &plan).await?;
        self.plan = plan;
        Ok(())
    }

    pub(super) fn move_fill(&mut self, offset: u64) {
        if let Some(fill) = self.outputs.fills.first_mut() {
            fill.at = offset;
        }
    }

    pub(super) async fn store_outputs(&mut self) -> Result<()> {
        let mut writes = Writes::new();
        writes.put(OUTPUTS_KEY, self.outputs.encode()?);
        self.state.commit(writes).await.map(drop)
    }
}
