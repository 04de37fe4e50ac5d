//! What one batch of the input comes to.

use millstream_core::{Result, RowFailure, Rows, Stage};
use millstream_storage::log::{Late, Watermark};

use super::commit::Pending;
use super::{EXPIRE_ROWS, Task};
use crate::failures::{FailedRows, Reject};
use crate::graph::{Arriving, Effects, Emitted, Moment};
use crate::streams::StreamBatch;
use crate::table::{deletes, rows_without};
use crate::watch::Seen;

impl Task {
    /// Computes everything that one commit will write.
    pub(super) async fn process(&mut self, input: &StreamBatch) -> Result<Pending> {
        let mut heard = self.heard.clone();
        heard.take_all(&input.words);
        let watermark = heard.watermark(&self.timekeepers);
        if let (Some(Watermark::At(time)), None) = (watermark, &self.filled_from) {
            self.context.metrics.time_passed(&self.plan.id, self.partition, time);
        }
        let mut pending = Pending::new(input.end_offset(), heard);
        pending.event_time_max_us = input.event_time_max_us;
        (pending.rows_in, pending.watermark) = (input.batch.num_rows(), watermark);
        self.run_graph(input, &mut pending).await?;
        self.context.metrics.received("stage", &self.plan.id, input.batch.num_rows());
        Ok(pending)
    }

    /// Runs the operators, and keeps what comes of it.
    async fn run_graph(&mut self, input: &StreamBatch, pending: &mut Pending) -> Result<()> {
        let moment = Moment { now_us: self.context.clock.now_us(), watermark: pending.watermark };
        let mut effects = self.graph.run(input, moment, &mut pending.writes).await?;
        for (table, arriving) in std::mem::take(&mut effects.tables) {
            self.apply_to_table(table, &arriving, input, moment.now_us, &mut effects, pending).await?;
        }
        self.graph.count(&mut effects);
        for emitted in effects.emits {
            let Some(first) = self.first_unsent(&emitted, input) else { continue };
            let Emitted { stream, rows, late } = emitted;
            let late = late.into_iter().filter_map(|late| Some(Late { row: late.row.checked_sub(first)?, ..late }));
            let left = rows.len() - first as usize;
            pending.rows.entry(stream).or_default().push(rows.batch.slice(first as usize, left), late);
        }
        pending.dead_letters.extend(effects.dead_letters);
        // While an output is filled, these rows come a second time.
        if self.filled_from.is_none() {
            pending.seen.extend(effects.seen.into_iter().map(|(op, rows)| self.seen(op, rows, input)));
        }
        Ok(())
    }

    /// The first row for a stream that was not sent before: a replay computes again what was. None where all were.
    fn first_unsent(&self, emitted: &Emitted, input: &StreamBatch) -> Option<u32> {
        let is_replayed =
            input.base_offset < self.outputs.sent_below && self.filled_from.is_none() && input.target.is_none();
        let brings_a_table_rows = self.plan.written.get(&emitted.stream).is_some_and(|written| written.table.is_some());
        if !is_replayed || brings_a_table_rows {
            return Some(0);
        }
        let sent = |row: &u32| input.offset_of(*row) < self.outputs.sent_below;
        let first = emitted.rows.origin.partition_point(sent);
        (first < emitted.rows.len()).then_some(first as u32)
    }

    fn seen(&self, op: usize, rows: Rows, input: &StreamBatch) -> Seen {
        Seen {
            name: self.plan.ops[op].name.clone(),
            partition: self.partition,
            offsets: rows.origin.iter().map(|&row| input.offset_of(row)).collect(),
            batch: rows.batch,
        }
    }

    async fn apply_to_table(
        &mut self,
        index: usize,
        arriving: &Arriving,
        input: &StreamBatch,
        now_us: i64,
        effects: &mut Effects,
        pending: &mut Pending,
    ) -> Result<()> {
        let plan = self.plan.clone();
        let (table_plan, table) = (&plan.tables[index], &mut self.tables[index]);
        let name = &table_plan.spec.name;
        let (kept, deletes, undecided) = deletes(&table_plan.spec, &arriving.rows)?;
        let applied = table.apply(&kept.batch, deletes.as_ref(), now_us, &mut pending.writes).await?;
        self.context.metrics.received("table", name, arriving.rows.len());
        self.context.metrics.sent("table", name, applied.changes.num_rows());
        if applied.changes.num_rows() > 0 {
            pending.rows.entry(table_plan.changes.clone()).or_default().push(applied.changes, std::iter::empty());
        }
        if self.graph.is_quiet(name) {
            return Ok(());
        }
        let input_of = |row: u32| plan.ops[table_plan.inputs[arriving.slots.of(row)]].name.clone();
        // A row of `kept` is one of those that arrived.
        let kept_rows: Vec<u32> = rows_without(arriving.rows.len(), &undecided);
        let refused = applied.failures.into_iter().map(|f| RowFailure { row: kept_rows[f.row as usize], ..f });
        let mut failures: Vec<RowFailure> = undecided.into_iter().chain(refused).collect();
        failures.sort_by_key(|failure| failure.row);
        let reject = Reject {
            component: name,
            component_kind: "table",
            on_error: table_plan.spec.on_error,
            stream: &plan.input,
            input,
            now_us,
            pipeline_version: &self.context.pipeline_version,
        };
        let failed = FailedRows::of(Stage::Transform, &arriving.rows, &failures).from_each(&input_of);
        reject.put_aside(&failed, effects)
    }

    /// What comes of time alone: rows that expire, where that is looked for, and how far event time is.
    pub(super) async fn time_passed(&mut self, expire: bool) -> Result<Pending> {
        let now_us = self.context.clock.now_us();
        let mut pending = Pending::new(self.next_offset(), self.heard.clone());
        pending.watermark = pending.heard.watermark(&self.timekeepers);
        if self.graph.is_behind() {
            let nothing = StreamBatch::nothing(self.partition, self.next_offset());
            self.run_graph(&nothing, &mut pending).await?;
        }
        if !expire {
            return Ok(pending);
        }
        for (table, plan) in self.tables.iter_mut().zip(&self.plan.tables) {
            if let Some(changes) = table.expire(now_us, EXPIRE_ROWS, &mut pending.writes).await? {
                pending.rows.entry(plan.changes.clone()).or_default().push(changes, std::iter::empty());
            }
        }
        Ok(pending)
    }
}
