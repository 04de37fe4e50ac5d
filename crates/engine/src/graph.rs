//! The tree of steps that one task evaluates on each batch, and what comes out of it: rows for tables, rows for streams,
//! and rows that failed.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::compute::concat_batches;
use futures::future::BoxFuture;
use millstream_core::{DeadLetter, Error, Result, RowFailure, Rows, Stage};
use millstream_sql::SqlStep;
use tokio_util::sync::CancellationToken;

use crate::dead_letters::FailedRows;
use crate::metrics::Metrics;
use crate::models::ModelSet;
use crate::plan::{Entry, StagePlan};
use crate::predict::PredictStep;
use crate::spec::{OnError, TransformKind};
use crate::streams::StreamBatch;
use crate::tally::Fate;
use crate::watch::Watchers;

/// The steps of one task.
pub struct Graph {
    plan: Arc<StagePlan>,
    steps: Vec<Option<Step>>,
    pipeline_version: Arc<str>,
    metrics: Arc<Metrics>,
    /// Steps whose failures were dealt with when these records were read the first time.
    quiet: BTreeSet<String>,
    watched: Watched,
}

/// Whose rows are kept for those who watch.
#[derive(Debug, Clone, Default)]
pub enum Watched {
    /// Nobody's.
    #[default]
    None,
    /// Those of the steps that somebody watches.
    By(Arc<Watchers>),
    /// Those of every step.
    All,
}

impl Watched {
    fn wants(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::By(watchers) => watchers.want(name),
            Self::All => true,
        }
    }
}

enum Step {
    Sql(SqlStep),
    Predict(Box<PredictStep>),
}

/// What one batch came to.
#[derive(Debug, Default)]
pub struct Effects {
    /// Rows for the tables of node `i`, in order.
    pub tables: Vec<(usize, Rows)>,
    /// Rows for output streams.
    pub emits: Vec<(Arc<str>, Rows)>,
    /// Rows that failed for good.
    pub dead_letters: Vec<DeadLetter>,
    /// Rows of steps that are watched, by node.
    pub seen: Vec<(usize, Rows)>,
    /// What is counted once the whole batch is through: it may have to be done again in halves.
    counted: Vec<Counted>,
}

/// What a step did.
#[derive(Debug)]
enum Counted {
    /// Rows in and out.
    Passed { node: usize, received: usize, sent: usize },
    /// Rows that failed.
    Failed { node: usize, stage: Stage, failures: Vec<RowFailure>, fate: Fate },
}

impl Effects {
    /// A node that two parents feed gives its tables one batch all the same: a table takes one batch per commit.
    fn add_table_rows(&mut self, node: usize, rows: &Rows) -> Result<()> {
        let Some((_, known)) = self.tables.iter_mut().find(|(n, _)| *n == node) else {
            self.tables.push((node, rows.clone()));
            return Ok(());
        };
        known.batch = concat_batches(&rows.batch.schema(), [&known.batch, &rows.batch])?;
        known.origin = known.origin.iter().chain(rows.origin.iter()).copied().collect();
        Ok(())
    }
}

impl Graph {
    /// Builds the steps of one task.
    pub fn new(
        plan: Arc<StagePlan>,
        models: &ModelSet,
        pipeline_version: Arc<str>,
        metrics: Arc<Metrics>,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let steps = plan.nodes.iter().map(|node| {
            let Some(step) = &node.step else { return Ok(None) };
            Ok(Some(match &step.kind {
                TransformKind::Sql(sql) => Step::Sql(sql.step().map_err(|e| Error::bug(e.to_string()))?),
                TransformKind::Predict(spec) => {
                    let scorer = models.scorers.get(&spec.model).ok_or_else(|| Error::bug("a model was not loaded"))?;
                    let (spec, schema) = (spec.as_ref().clone(), node.schema.clone());
                    let told = models.told(&node.name, &spec.model);
                    let (scorer, stop) = (scorer.clone(), stop.clone());
                    Step::Predict(Box::new(PredictStep::new(spec, schema, step.on_error, scorer, stop, told)?))
                }
            }))
        });
        let steps = steps.collect::<Result<_>>()?;
        Ok(Self { plan, steps, pipeline_version, metrics, quiet: BTreeSet::new(), watched: Watched::None })
    }

    /// The same for records that these steps have seen before.
    #[must_use]
    pub fn quiet(self, steps: BTreeSet<String>) -> Self {
        Self { quiet: steps, ..self }
    }

    /// Keeps the rows of steps that are watched.
    #[must_use]
    pub fn watched(self, watched: Watched) -> Self {
        Self { watched, ..self }
    }

    /// Runs one batch of the input through every step below it; a redriven batch enters in front of its target.
    ///
    /// # Errors
    /// [`millstream_sql::TOO_MUCH_AT_ONCE`] for a batch that has to be run in halves; nothing was done. What a step fails with.
    pub async fn run(&mut self, input: &StreamBatch, now_us: i64) -> Result<Effects> {
        let mut effects = Effects::default();
        let rows = Rows::all(input.batch.clone());
        match &input.target {
            None => self.visit(0, rows, input, now_us, &mut effects).await?,
            // A target that is not of this stage is a sink's.
            Some(target) => match self.plan.entry(target) {
                Some(Entry { parent, step: Some(node), .. }) => {
                    self.step(parent, node, &rows, input, now_us, &mut effects).await?;
                }
                Some(Entry { parent, step: None, .. }) => effects.add_table_rows(parent, &rows)?,
                None => {}
            },
        }
        effects.counted.drain(..).for_each(|counted| self.count(counted));
        Ok(effects)
    }

    fn count(&self, counted: Counted) {
        let name = |node: usize| &self.plan.nodes[node].name;
        match counted {
            Counted::Passed { node, received, sent } => {
                self.metrics.received("transform", name(node), received);
                self.metrics.sent("transform", name(node), sent);
            }
            Counted::Failed { node, stage, failures, fate } => {
                self.metrics.failed("transform", stage, name(node), &failures, fate);
            }
        }
    }

    /// Hands the rows of `node` to its tables, streams and children.
    fn visit<'a>(
        &'a mut self,
        node: usize,
        rows: Rows,
        input: &'a StreamBatch,
        now_us: i64,
        effects: &'a mut Effects,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if rows.is_empty() {
                return Ok(());
            }
            let plan = self.plan.clone();
            if node > 0 && self.watched.wants(&plan.nodes[node].name) {
                effects.seen.push((node, rows.clone()));
            }
            for stream in &plan.nodes[node].emits {
                effects.emits.push((stream.clone(), rows.clone()));
            }
            if !plan.nodes[node].tables.is_empty() {
                effects.add_table_rows(node, &rows)?;
            }
            for &child in &plan.nodes[node].children {
                self.step(node, child, &rows, input, now_us, effects).await?;
            }
            Ok(())
        })
    }

    async fn step(
        &mut self,
        parent: usize,
        node: usize,
        rows: &Rows,
        input: &StreamBatch,
        now_us: i64,
        effects: &mut Effects,
    ) -> Result<()> {
        let plan = self.plan.clone();
        let name = &plan.nodes[node].name;
        let (kind, model_version, (output, failures)) = match self.steps[node].as_mut() {
            Some(Step::Sql(sql)) => (Stage::Transform, None, sql.run(&plan.nodes[parent].name, rows)?),
            Some(Step::Predict(predict)) => (Stage::Predict, Some(predict.model_version()), predict.run(rows).await?),
            None => return Err(Error::bug(format!("`{name}` is an input, not a step"))),
        };
        effects.counted.push(Counted::Passed { node, received: rows.len(), sent: output.len() });
        if !failures.is_empty() {
            let failed = Failed { stage: kind, node, rows, failures: &failures, input, now_us, model_version };
            self.put_aside(&failed, effects)?;
        }
        self.visit(node, output, input, now_us, effects).await
    }

    /// Does with failed rows what the step's `on_error` says.
    fn put_aside(&self, failed: &Failed<'_>, effects: &mut Effects) -> Result<()> {
        let node = &self.plan.nodes[failed.node];
        if self.quiet.contains(&*node.name) {
            return Ok(());
        }
        let on_error = node.step.as_ref().map_or(OnError::DeadLetter, |step| step.on_error);
        let fate = match on_error {
            OnError::Fail => {
                let first = &failed.failures[0];
                let offset = failed.input.base_offset + u64::from(failed.rows.origin[first.row as usize]);
                return Err(Error::input(format!(
                    "{} failed on the record at partition {} offset {offset} of {}: {} (on_error: fail)",
                    node.name, failed.input.partition, self.plan.input, first.failure.message
                )));
            }
            OnError::Skip => Fate::Skipped,
            OnError::DeadLetter | OnError::Default => {
                effects.dead_letters.extend(self.letters(failed)?);
                Fate::DeadLetter
            }
        };
        let failures = failed.failures.to_vec();
        effects.counted.push(Counted::Failed { node: failed.node, stage: failed.stage, failures, fate });
        Ok(())
    }

    fn letters(&self, failed: &Failed<'_>) -> Result<Vec<DeadLetter>> {
        let offset_of = |row: u32| failed.input.base_offset + u64::from(failed.rows.origin[row as usize]);
        let rows = FailedRows {
            stage: failed.stage,
            component: &self.plan.nodes[failed.node].name,
            stream: &self.plan.input,
            partition: failed.input.partition,
            offset_of: &offset_of,
            rows: &failed.rows.batch,
            event_time_of: &|row| failed.input.event_time_us(failed.rows.origin[row as usize]),
            now_us: failed.now_us,
            attempts: failed.input.attempt,
            pipeline_version: &self.pipeline_version,
            model_version: failed.model_version.as_deref(),
        };
        rows.letters(failed.failures)
    }
}

struct Failed<'a> {
    stage: Stage,
    node: usize,
    rows: &'a Rows,
    failures: &'a [RowFailure],
    input: &'a StreamBatch,
    now_us: i64,
    model_version: Option<String>,
}
