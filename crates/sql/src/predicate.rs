//! One boolean expression over a batch.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DFSchema, DataFusionError, Result as DataFusionResult};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use millstream_core::{Error, Failure, FailureKind, Result, RowFailure};

use crate::checked::checked_expr;
use crate::culprit;
use crate::error::{SqlError, row_message, run_time_message};
use crate::exec::StreamTable;
use crate::guard::lazy_condition;
use crate::plan::register;
use crate::shape::with_room;
use crate::words::with_article;
use crate::{functions, syntax};

/// A compiled boolean expression, `score > 0.8 AND language = 'en'` say. Cheap to clone; never changes.
#[derive(Clone)]
pub struct Predicate {
    text: Arc<str>,
    expr: Arc<dyn PhysicalExpr>,
    warnings: Arc<[SqlError]>,
}

impl fmt::Debug for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Predicate").field(&self.text).finish()
    }
}

/// What an expression is over, for messages.
const THIS: &str = "this";

/// Types settled, arithmetic checked, constants folded, and what can fail computed only where it is reached.
pub(crate) fn physical(
    state: &SessionState,
    expr: Expr,
    columns: &DFSchema,
) -> DataFusionResult<Arc<dyn PhysicalExpr>> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(columns.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let typed = simplifier.coerce(expr, columns)?;
    let simple = simplifier.simplify(checked_expr(typed, columns)?.data)?;
    let lazy = lazy_condition(checked_expr(simple, columns)?.data, columns)?;
    state.create_physical_expr(lazy, columns)
}

impl Predicate {
    /// Compiles `expr` over the columns of `schema`.
    ///
    /// # Errors
    /// It does not parse, names what is not there, is not boolean, or gives another answer each time (`now()`).
    pub fn compile(expr: &str, schema: &SchemaRef) -> Result<Self, SqlError> {
        with_room(|| Self::compile_here(expr, schema))
    }

    fn compile_here(expr: &str, schema: &SchemaRef) -> Result<Self, SqlError> {
        let state = functions::stream_state()?;
        let columns =
            DFSchema::try_from(Arc::clone(schema)).map_err(|e| SqlError::new(format!("these columns: {e}")))?;
        let parsed = syntax::parse_expr(expr)?;
        let asked = syntax::where_clause(THIS, parsed.expr.clone())?;
        let explain = |e: DataFusionError| {
            let table = StreamTable { name: THIS.into(), schema: Arc::clone(schema) };
            match register(&state, THIS, Arc::new(table)) {
                Ok(()) => culprit::explain(expr, &asked, &state, &e),
                Err(_) => SqlError::from_datafusion(expr, &e),
            }
        };
        let logical = state.create_logical_expr_from_sql_expr(parsed, &columns).map_err(explain)?;
        functions::refuse_unrepeatable_expr(expr, &logical)?;
        let physical = physical(&state, logical, &columns).map_err(explain)?;
        match physical.data_type(schema).map_err(explain)? {
            DataType::Boolean => {
                let warnings = culprit::always_failing(&asked, &state).into();
                Ok(Self { text: expr.into(), expr: physical, warnings })
            }
            other => {
                let kind = with_article(&other);
                Err(SqlError::new(format!("`{expr}` is {kind}: a condition must be true or false")))
            }
        }
    }

    /// Parts of it that fail whatever the row is: `1/0` say.
    pub fn warnings(&self) -> &[SqlError] {
        &self.warnings
    }

    /// True for the rows that meet the condition; where it is null, false. As long as the batch, without nulls. Rows on
    /// which it fails (a CAST, a division by zero) are false, and named with the failure, in their order.
    pub fn evaluate_rows(&self, batch: &RecordBatch) -> (BooleanArray, Vec<RowFailure>) {
        let (mut values, mut failures) = (BooleanBufferBuilder::new(batch.num_rows()), Vec::new());
        self.evaluate_slice(batch, 0, batch.num_rows(), &mut values, &mut failures);
        (BooleanArray::new(values.finish(), None), failures)
    }

    /// Rows from `start` on; where they fail, in halves.
    fn evaluate_slice(
        &self,
        batch: &RecordBatch,
        start: usize,
        rows: usize,
        values: &mut BooleanBufferBuilder,
        failures: &mut Vec<RowFailure>,
    ) {
        // A kernel that panics on a strange value must not take the task with it.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.values(&batch.slice(start, rows))));
        let message = match outcome {
            Ok(Ok(found)) => return values.append_buffer(found.values()),
            Ok(Err(e)) => row_message(&e),
            Err(_) => "the condition can't be computed for this value".to_owned(),
        };
        if rows == 1 {
            let failure = Failure::new(FailureKind::Expression, format!("`{}`: {message}", self.text));
            failures.push(RowFailure { row: start as u32, failure });
            return values.append(false);
        }
        let half = rows / 2;
        self.evaluate_slice(batch, start, half, values, failures);
        self.evaluate_slice(batch, start + half, rows - half, values, failures);
    }

    /// True for the rows that meet the condition; where it is null, false. As long as the batch, without nulls.
    ///
    /// # Errors
    /// Of kind `Input`: the expression fails on a value of the batch.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<BooleanArray> {
        let failed =
            |e: DataFusionError| Error::input(format!("the condition `{}`: {}", self.text, run_time_message(&e)));
        self.values(batch).map_err(failed)
    }

    fn values(&self, batch: &RecordBatch) -> DataFusionResult<BooleanArray> {
        let values = self.expr.evaluate(batch).and_then(|v| v.into_array(batch.num_rows()))?;
        let values = values.as_boolean();
        Ok(if values.nulls().is_some() { prep_null_mask_filter(values) } else { values.clone() })
    }
}
