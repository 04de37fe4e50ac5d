//! A step: a transform at work, one batch in and one batch out, synchronously.
//!
//! The physical plan is lowered once to a small tree of [`Op`]s, one tree for each input. Running it is evaluating its
//! expressions on the batch: no executor, no channel, no task. Only `UNNEST` borrows DataFusion's operator, on a leaf
//! that holds the batch.
//!
//! Where a batch fails, it is halved until the rows that fail stand alone. A row's fate does not depend on the rows
//! beside it: what a single row evaluates is never more than what it evaluates within a batch.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{SchemaRef, UInt32Type};
use datafusion::common::{DataFusionError, Result as DataFusionResult, exec_err, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::unnest::UnnestExec;
use datafusion::physical_plan::{ExecutionPlan, PlanProperties};
use futures::{FutureExt, StreamExt};
use millstream_core::{Error, ErrorKind, Failure, FailureKind, Result, RowFailure, Rows};

use crate::bounded::{self, STEP_BYTES_MAX};
use crate::error::{SqlError, root, row_message, run_time_message};
use crate::exec::{StreamLeaf, with_row_field};

/// One transform in one task.
pub struct SqlStep {
    lowered: Arc<Lowered>,
}

impl std::fmt::Debug for SqlStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlStep").field("schema", &self.lowered.schema).finish()
    }
}

impl SqlStep {
    pub(crate) fn new(lowered: Arc<Lowered>) -> Self {
        Self { lowered }
    }

    /// Runs the transform on rows of the stream `input`.
    ///
    /// The output is in the order of the input; its `origin` is that of the row each output row came from. A row whose
    /// expressions fail (a CAST, an overflow, a division by zero) is a [`RowFailure`] with the index in `rows.batch`,
    /// in order, and yields no output at all; its neighbours go through.
    ///
    /// # Errors
    /// `TooMuch`: the rows together give too much; ask again with half of them. Of kind `Bug`: the transform does
    /// not read `input`, or the batch has other columns than it was planned with.
    pub fn run(&mut self, input: &str, rows: &Rows) -> Result<(Rows, Vec<RowFailure>)> {
        let Some(branch) = self.lowered.branches.get(input) else {
            return Err(Error::bug(format!("a transform is given rows of `{input}`, which it does not read")));
        };
        let Some(op) = &branch.op else { return Ok((self.lowered.nothing(), Vec::new())) };
        if rows.is_empty() {
            return Ok((self.lowered.nothing(), Vec::new()));
        }
        let batch = branch.with_row(input, &rows.batch)?;
        let context = &self.lowered.context;
        let mut attempt = Attempt { op, context, done: Vec::new(), bytes: 0, failures: Vec::new() };
        attempt.run(batch)?;
        if attempt.is_too_much() && rows.len() > 1 {
            return Err(Error::new(ErrorKind::TooMuch, "these rows together give too much at once"));
        }
        let Attempt { done, failures, .. } = attempt;
        Ok((self.lowered.finish(done, rows)?, failures))
    }
}

/// What [`crate::SqlTransform::plan`] makes of a physical plan; shared by all its steps.
pub(crate) struct Lowered {
    branches: BTreeMap<String, Branch>,
    schema: SchemaRef,
    context: Arc<TaskContext>,
}

/// What happens to the rows of one input.
struct Branch {
    /// None where no row of this input can come out.
    op: Option<Op>,
    /// The input's columns and the hidden one.
    schema: SchemaRef,
}

impl Lowered {
    pub(crate) fn new(
        plan: &Arc<dyn ExecutionPlan>,
        names: &[String],
        inputs: &BTreeMap<String, SchemaRef>,
        schema: SchemaRef,
        context: Arc<TaskContext>,
    ) -> Result<Self, SqlError> {
        let mut branches = BTreeMap::new();
        for name in names {
            let Some(input) = inputs.get(name) else { continue };
            let op = Op::lower(plan, name).map_err(|e| SqlError::new(run_time_message(&e)))?;
            branches.insert(name.clone(), Branch { op, schema: with_row_field(input) });
        }
        Ok(Self { branches, schema, context })
    }

    fn nothing(&self) -> Rows {
        Rows { batch: RecordBatch::new_empty(Arc::clone(&self.schema)), origin: Arc::from([]) }
    }

    /// Puts the pieces together, in the order of the input, and turns the hidden column into the origin.
    fn finish(&self, mut pieces: Vec<RecordBatch>, rows: &Rows) -> Result<Rows> {
        let mut batch = match pieces.len() {
            0 => return Ok(self.nothing()),
            1 => pieces.swap_remove(0),
            _ => concat_batches(&pieces[0].schema(), &pieces)?,
        };
        let last = batch.num_columns() - 1;
        let row = |batch: &RecordBatch| batch.column(last).as_primitive::<UInt32Type>().values().clone();
        let mut index = row(&batch);
        // The branches of a union come one after the other; a record's rows belong together.
        if !index.is_sorted() {
            let mut order: Vec<u32> = (0..index.len() as u32).collect();
            order.sort_by_key(|&i| index[i as usize]);
            batch = take_record_batch(&batch, &UInt32Array::from(order))?;
            index = row(&batch);
        }
        let origin = index.iter().map(|&i| rows.origin[i as usize]).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns()[..last].to_vec();
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        Ok(Rows { batch, origin })
    }
}

impl Branch {
    fn with_row(&self, input: &str, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(UInt32Array::from_iter_values(0..batch.num_rows() as u32)));
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(|e| {
            Error::bug(format!("rows of `{input}` are not what the transform was planned with")).caused_by(e)
        })
    }
}

/// One batch on its way through, in as many pieces as its failures ask for.
struct Attempt<'a> {
    op: &'a Op,
    context: &'a Arc<TaskContext>,
    done: Vec<RecordBatch>,
    /// Of what is done.
    bytes: usize,
    failures: Vec<RowFailure>,
}

impl Attempt<'_> {
    fn is_too_much(&self) -> bool {
        self.bytes > STEP_BYTES_MAX
    }

    fn run(&mut self, batch: RecordBatch) -> Result<()> {
        if self.is_too_much() {
            // It will be done again with fewer rows.
            return Ok(());
        }
        // A kernel that panics on a strange value must not take the task with it. Nothing is half changed by then:
        // an `Op` has no state.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.op.run(&batch, self.context)));
        let message = match outcome {
            Ok(Ok(done)) => {
                if done.num_rows() > 0 {
                    self.bytes += done.columns().iter().map(bytes_of).sum::<usize>();
                    self.done.push(done);
                }
                return Ok(());
            }
            Ok(Err(e)) if is_of_the_row(&e) => row_message(&e),
            Ok(Err(e)) => return Err(Error::bug("a transform can't be run").caused_by(e)),
            Err(_) => "the expression can't be computed for this value".to_owned(),
        };
        let rows = batch.num_rows();
        if rows == 1 {
            let row = batch.column(batch.num_columns() - 1).as_primitive::<UInt32Type>().value(0);
            self.failures.push(RowFailure { row, failure: Failure::new(FailureKind::Expression, message) });
            return Ok(());
        }
        let half = rows / 2;
        self.run(batch.slice(0, half))?;
        self.run(batch.slice(half, rows - half))
    }
}

/// The bytes of an array, without what is only in the buffers that it shares.
fn bytes_of(array: &Arc<dyn Array>) -> usize {
    array.to_data().get_slice_memory_size().unwrap_or(0)
}

/// True for an error that a value can cause.
fn is_of_the_row(error: &DataFusionError) -> bool {
    matches!(
        root(error),
        DataFusionError::ArrowError(_, _) | DataFusionError::Execution(_) | DataFusionError::External(_)
    )
}

/// A node of a lowered plan. It has no state: the same batch gives the same answer.
enum Op {
    /// Some columns of the input batch.
    Input { columns: Vec<usize>, schema: SchemaRef },
    /// Computed columns.
    Project { input: Box<Op>, exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
    /// The rows for which the predicate is true, and some of their columns.
    Filter { input: Box<Op>, predicate: Arc<dyn PhysicalExpr>, columns: Option<Vec<usize>> },
    /// One row for each item of a list.
    Unnest {
        input: Box<Op>,
        exec: Arc<dyn ExecutionPlan>,
        /// Where the lists are in the input.
        lists: Vec<usize>,
        leaf: Arc<PlanProperties>,
        schema: SchemaRef,
    },
    /// The rows of several branches over the same input, one branch after the other.
    Union { inputs: Vec<Op>, schema: SchemaRef },
}

impl Op {
    /// The part of `plan` that reads the stream `name`; none where no part does.
    fn lower(plan: &Arc<dyn ExecutionPlan>, name: &str) -> DataFusionResult<Option<Self>> {
        let boxed = |input: &Arc<dyn ExecutionPlan>| Ok::<_, DataFusionError>(Self::lower(input, name)?.map(Box::new));
        if let Some(leaf) = plan.downcast_ref::<StreamLeaf>() {
            let columns = leaf.projection.clone();
            return Ok((leaf.name == name).then(|| Self::Input { columns, schema: plan.schema() }));
        }
        if plan.is::<EmptyExec>() {
            return Ok(None);
        }
        if let Some(project) = plan.downcast_ref::<ProjectionExec>() {
            let Some(input) = boxed(project.input())? else { return Ok(None) };
            let exprs = project.expr().iter().map(|e| Arc::clone(&e.expr)).collect();
            return Ok(Some(Self::Project { input, exprs, schema: plan.schema() }));
        }
        if let Some(filter) = plan.downcast_ref::<FilterExec>() {
            let Some(input) = boxed(filter.input())? else { return Ok(None) };
            let columns = filter.projection().as_ref().map(|columns| columns.to_vec());
            return Ok(Some(Self::Filter { input, predicate: Arc::clone(filter.predicate()), columns }));
        }
        if let Some(unnest) = plan.downcast_ref::<UnnestExec>() {
            let Some(input) = boxed(unnest.input())? else { return Ok(None) };
            let leaf = Arc::clone(unnest.input().properties());
            let lists = unnest.list_column_indices().iter().map(|list| list.index_in_input_schema).collect();
            return Ok(Some(Self::Unnest { input, exec: Arc::clone(plan), lists, leaf, schema: plan.schema() }));
        }
        if let Some(union) = plan.downcast_ref::<UnionExec>() {
            let branches = union.inputs().iter().map(|branch| Self::lower(branch, name));
            let inputs: Vec<Self> =
                branches.filter_map(DataFusionResult::transpose).collect::<DataFusionResult<_>>()?;
            return Ok((!inputs.is_empty()).then(|| Self::Union { inputs, schema: plan.schema() }));
        }
        internal_err!("a step can't run {}", plan.name())
    }

    fn run(&self, batch: &RecordBatch, context: &Arc<TaskContext>) -> DataFusionResult<RecordBatch> {
        match self {
            Self::Input { columns, schema } => {
                with_schema(schema, columns.iter().map(|&i| Arc::clone(batch.column(i))).collect(), batch.num_rows())
            }
            Self::Project { input, exprs, schema } => {
                let batch = input.run(batch, context)?;
                let rows = batch.num_rows();
                if rows == 0 {
                    // Not even constants are computed: one that always fails harms only rows that come here.
                    return Ok(RecordBatch::new_empty(Arc::clone(schema)));
                }
                let columns =
                    exprs.iter().map(|e| e.evaluate(&batch)?.into_array(rows)).collect::<DataFusionResult<_>>()?;
                with_schema(schema, columns, rows)
            }
            Self::Filter { input, predicate, columns } => {
                let batch = input.run(batch, context)?;
                if batch.num_rows() == 0 {
                    return Ok(match columns {
                        Some(columns) => batch.project(columns)?,
                        None => batch,
                    });
                }
                let chosen = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
                let chosen = chosen.as_boolean();
                let batch = match columns {
                    Some(columns) => batch.project(columns)?,
                    None => batch,
                };
                if chosen.null_count() == 0 && chosen.true_count() == batch.num_rows() {
                    return Ok(batch);
                }
                Ok(filter_record_batch(&batch, chosen)?)
            }
            Self::Unnest { input, exec, lists, leaf, schema } => {
                let batch = input.run(batch, context)?;
                match &bounded::pieces(&batch, lists)?[..] {
                    [_] => unnest(exec, StreamLeaf::of(batch, Arc::clone(leaf)), schema, context),
                    // As much as this is made of fewer rows.
                    _ => exec_err!("UNNEST would give too much for its rows together"),
                }
            }
            Self::Union { inputs, schema } => {
                let mut pieces = Vec::with_capacity(inputs.len());
                for input in inputs {
                    let piece = input.run(batch, context)?;
                    pieces.push(with_schema(schema, piece.columns().to_vec(), piece.num_rows())?);
                }
                Ok(concat_batches(schema, &pieces)?)
            }
        }
    }
}

fn with_schema(schema: &SchemaRef, columns: Vec<Arc<dyn Array>>, rows: usize) -> DataFusionResult<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// Runs DataFusion's operator over one batch. A new operator each time, as the old one would collect metrics for ever.
fn unnest(
    exec: &Arc<dyn ExecutionPlan>,
    leaf: StreamLeaf,
    schema: &SchemaRef,
    context: &Arc<TaskContext>,
) -> DataFusionResult<RecordBatch> {
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let exec = Arc::clone(exec).replace_children(vec![Arc::new(leaf)], options)?;
    let mut stream = exec.execute(0, Arc::clone(context))?;
    let mut pieces = Vec::new();
    loop {
        match stream.next().now_or_never() {
            Some(Some(piece)) => pieces.push(piece?),
            Some(None) => break,
            None => return internal_err!("UNNEST waits for something"),
        }
    }
    match pieces.len() {
        1 => Ok(pieces.swap_remove(0)),
        _ => Ok(concat_batches(schema, &pieces)?),
    }
}
