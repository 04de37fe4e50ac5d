//! Filling outputs that are younger than the task: a part of its log is read again, for them alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_core::Result;
use millstream_storage::state::Writes;

use super::commit::{Committing, finish};
use super::{Task, open_tables};
use crate::heard::Heard;
use crate::ops;
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
        let heard = Heard::decode(&mut fill.heard.clone().into())?;
        self.filled_from = Some(std::mem::replace(&mut self.heard, heard));
        self.enter(Arc::new(whole.restricted_to(&fill.outputs)), &fill.quiet).await?;
        let mut committing: Option<Committing> = None;
        while let Some(at) = self.outputs.fills.first().map(|fill| fill.at).filter(|at| *at < fill.until)
            && self.room().await
            && !self.context.stop.is_cancelled()
        {
            let batches = self.read_from(at, fill.until).await?;
            if batches.is_empty() {
                // Retention has taken what was left.
                self.move_fill(fill.until);
            }
            self.commit_each(batches, &mut committing).await?;
        }
        finish(&mut committing).await?;
        if self.outputs.fills.first().is_some_and(|fill| fill.at >= fill.until) {
            self.outputs.fills.remove(0);
            // They have dealt with their failures, and know what they have seen.
            let steps = self.plan.step_names();
            self.outputs.fills.iter_mut().for_each(|fill| fill.quiet.extend(steps.iter().cloned()));
            // Before it is known to be done: the next filling begins with nothing.
            ops::forget_all(&self.state, ops::FILL_LANE).await?;
            self.store_outputs().await?;
            tracing::info!(
                partition = self.partition,
                "{} filled up to offset {} of `{}`",
                shown(),
                fill.until,
                whole.input
            );
        }
        if let Some(heard) = self.filled_from.take() {
            self.heard = heard;
        }
        self.enter(whole, &BTreeSet::new()).await?;
        self.report();
        Ok(())
    }

    /// From here on the task does what `plan` says.
    async fn enter(&mut self, plan: Arc<StagePlan>, quiet: &BTreeSet<String>) -> Result<()> {
        self.plan = plan;
        // Anew: what is kept in memory of a state is only right while nobody else writes it.
        self.open_graph(quiet).await?;
        self.tables.clear();
        self.tables = open_tables(&self.context, &self.state, &self.plan).await?;
        Ok(())
    }

    /// Where the task reads on: for the stage, or for the filling under way.
    pub(super) fn next_offset(&self) -> u64 {
        let filling = self.filled_from.as_ref().and(self.outputs.fills.first());
        filling.map_or(self.next_offset, |fill| fill.at)
    }

    pub(super) fn move_fill(&mut self, offset: u64) {
        let heard = self.heard.to_vec();
        if let Some(fill) = self.outputs.fills.first_mut() {
            (fill.at, fill.heard) = (offset, heard);
        }
    }

    pub(super) async fn store_outputs(&mut self) -> Result<()> {
        let mut writes = Writes::new();
        writes.put(OUTPUTS_KEY, self.outputs.encode()?);
        self.state.commit(writes).await.map(drop)
    }
}
