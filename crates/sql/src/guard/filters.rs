//! Filters that stay where they were written, while DataFusion moves the others down.
//!
//! Around DataFusion's rule, what can fail is hidden: a condition in a node that nothing passes, a computed column or a
//! join's condition in a function that the rule takes for one with effects. Afterwards all is as it was written.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::expr::{Alias, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Extension, Filter, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, UserDefinedLogicalNodeCore, Volatility,
};
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

use super::is_fallible;
use crate::checked::columns_of;
use crate::types::column;

/// DataFusion's rule that moves filters, kept from those that can fail.
#[derive(Debug)]
pub(super) struct PushDownSafeFilters {
    inner: Arc<dyn OptimizerRule + Send + Sync>,
}

impl PushDownSafeFilters {
    pub(super) fn new(inner: Arc<dyn OptimizerRule + Send + Sync>) -> Self {
        Self { inner }
    }
}

impl OptimizerRule for PushDownSafeFilters {
    fn name(&self) -> &str {
        "push_down_safe_filters"
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let before = plan.clone();
        let hidden = plan.transform_up_with_subqueries(hide)?.data;
        let moved = hidden.transform_down_with_subqueries(|node| self.inner.rewrite(node, config))?.data;
        let shown = moved.transform_up_with_subqueries(show)?.data;
        Ok(if shown == before { Transformed::no(before) } else { Transformed::yes(shown) })
    }
}

fn hide(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = columns_of(&node)?;
    match node {
        LogicalPlan::Filter(filter) => hide_filter(filter, &schema),
        LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                if matches!(expr, Expr::AggregateFunction(_)) || !is_fallible(&expr, &schema) {
                    return Ok(Transformed::no(expr));
                }
                let name = names.save(&expr);
                Ok(Transformed::yes(name.restore(hidden(expr, Vec::new()))))
            })
        }
        LogicalPlan::Join(mut join) => {
            let sides = [join.left.schema(), join.right.schema()];
            let both: Vec<Expr> =
                sides.iter().filter(|s| !s.fields().is_empty()).map(|s| Expr::Column(column(s, 0))).collect();
            let Some(condition) = join.filter.take() else { return Ok(Transformed::no(LogicalPlan::Join(join))) };
            let parts = split_conjunction_owned(condition).into_iter();
            join.filter = conjunction(parts.map(|part| match is_fallible(&part, &schema) {
                // It names a column of either side, so that it belongs to none.
                true => hidden(part, both.clone()),
                false => part,
            }));
            Ok(Transformed::yes(LogicalPlan::Join(join)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// The parts of a condition that can't fail go first, as a filter that may move.
fn hide_filter(filter: Filter, schema: &DFSchema) -> Result<Transformed<LogicalPlan>> {
    let (fallible, safe): (Vec<Expr>, Vec<Expr>) =
        split_conjunction_owned(filter.predicate.clone()).into_iter().partition(|part| is_fallible(part, schema));
    let Some(predicate) = conjunction(fallible) else { return Ok(Transformed::no(LogicalPlan::Filter(filter))) };
    let input = match conjunction(safe) {
        Some(safe) => Arc::new(LogicalPlan::Filter(Filter::try_new(safe, filter.input)?)),
        None => filter.input,
    };
    let node = Arc::new(HiddenFilter { predicate, input: Arc::unwrap_or_clone(input) });
    Ok(Transformed::yes(LogicalPlan::Extension(Extension { node })))
}

fn show(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let node = match &node {
        LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<HiddenFilter>() {
            Some(HiddenFilter { predicate, input }) => {
                Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate.clone(), Arc::new(input.clone()))?))
            }
            None => Transformed::no(node),
        },
        _ => Transformed::no(node),
    };
    node.transform_data(|node| node.map_expressions(|expr| expr.transform_up(shown)))
}

fn shown(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::ScalarFunction(mut function) if function.func.inner().downcast_ref::<Hidden>().is_some() => {
            Ok(Transformed::yes(function.args.swap_remove(0)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// `expr`, in a function that nobody looks into; its name stays.
fn hidden(expr: Expr, beside: Vec<Expr>) -> Expr {
    if let Expr::Alias(Alias { expr, relation, name, .. }) = expr {
        return hidden(*expr, beside).alias_qualified(relation, name);
    }
    let function = Hidden { signature: Signature::variadic_any(Volatility::Volatile) };
    let args = std::iter::once(expr).chain(beside).collect();
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), args))
}

/// A function that gives its first argument. It never runs.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hidden {
    signature: Signature,
}

impl ScalarUDFImpl for Hidden {
    fn name(&self) -> &str {
        "hidden"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().map_or_else(|| internal_err!("nothing is hidden"), Ok)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        args.arg_fields.first().cloned().map_or_else(|| internal_err!("nothing is hidden"), Ok)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(|expr| expr.schema_name().to_string()).unwrap_or_default())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.into_iter().next().map_or_else(|| internal_err!("nothing is hidden"), Ok)
    }
}

/// A filter that nothing passes.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd)]
struct HiddenFilter {
    predicate: Expr,
    input: LogicalPlan,
}

impl UserDefinedLogicalNodeCore for HiddenFilter {
    fn name(&self) -> &str {
        "HiddenFilter"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![self.predicate.clone()]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HiddenFilter: {}", self.predicate)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (exprs.pop(), inputs.pop()) {
            (Some(predicate), Some(input)) => Ok(Self { predicate, input }),
            _ => internal_err!("a filter without a condition"),
        }
    }
}
