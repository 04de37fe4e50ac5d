//! Arithmetic that fails where its result can't be held, in every place where SQL is computed: a wrong number is worse
//! than an error.
//!
//! DataFusion's operators wrap around, also where the planner folds constants. So, once types are known, every
//! operator on integers, decimals and spans of time becomes a function of ours ([`arithmetic`]), which the planner
//! folds and runs like any other; `sum` of integers has a wide accumulator ([`sum`]). Beside it, what else is to be
//! settled once types are known: one zero among floats ([`zero`]), moments without nanoseconds ([`crate::moments`]).

mod arithmetic;
mod sum;
mod zero;

use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, ExprSchemable, LogicalPlan, Operator, TableScan};
use datafusion::optimizer::AnalyzerRule;

use crate::bounded::joined;
use crate::guard::{guard_keys, is_fallible};
use crate::moments::{settle, settle_union};

pub(crate) use sum::checked_sum;
pub(crate) use zero::ONE_ZERO;

/// Puts checked arithmetic in the place of DataFusion's, after types were settled.
#[derive(Debug)]
pub(crate) struct CheckedArithmetic;

impl AnalyzerRule for CheckedArithmetic {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        checked_plan(plan)
    }

    fn name(&self) -> &str {
        "checked_arithmetic"
    }
}

/// `plan` with checked arithmetic in all of its expressions, those of subqueries too.
pub(crate) fn checked_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = columns_of(&node)?;
        let names = NamePreserver::new(&node);
        let checked = node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(checked_expr(expr, &schema)?.update_data(|expr| name.restore(expr)))
        })?;
        let guarded = checked.transform_data(|node| match node {
            LogicalPlan::Join(join) => {
                let (join, changed) = guard_keys(join, &schema);
                Ok(Transformed::new_transformed(LogicalPlan::Join(join), changed))
            }
            other => Ok(Transformed::no(other)),
        })?;
        // The types of constant rows are settled already.
        let is_values = |node: &LogicalPlan| matches!(node, LogicalPlan::Values(_));
        guarded.map_data(|node| match is_values(&node) {
            true => Ok(node),
            false => zero::grouped(settle_union(node.recompute_schema()?)?),
        })
    })?;
    Ok(plan.data)
}

/// The columns that the expressions of `plan` may name.
pub(crate) fn columns_of(plan: &LogicalPlan) -> Result<DFSchema> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(TableScan { table_name, source, .. }) = plan {
        schema.merge(&DFSchema::try_from_qualified_schema(table_name.clone(), &source.schema())?);
    }
    Ok(schema)
}

/// `expr` with checked arithmetic.
pub(crate) fn checked_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let settled = expr.transform_up(|e| settle(e, schema))?;
    settled.transform_data(|e| with_checks(e, schema))
}

fn with_checks(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|e| {
        let replaced = match &e {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                let (l, r) = (left.get_type(schema)?, right.get_type(schema)?);
                (l == r).then(|| joined(*left.clone(), *right.clone(), &l)).flatten()
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match arithmetic::Operation::of(*op) {
                Some(operation) => {
                    let (l, r) = (left.get_type(schema)?, right.get_type(schema)?);
                    operation.applies_to(&l, &r).then(|| operation.over(vec![*left.clone(), *right.clone()], &e))
                }
                None => None,
            },
            Expr::Negative(inner) => {
                let kind = inner.get_type(schema)?;
                can_be_negated_wrongly(&kind).then(|| arithmetic::Operation::Negate.over(vec![*inner.clone()], &e))
            }
            Expr::AggregateFunction(aggregate) => filtered_argument(aggregate, schema).map(Expr::AggregateFunction),
            _ => None,
        };
        let e = replaced.map_or(Transformed::no(e), Transformed::yes);
        e.transform_data(|e| Ok(zero::compared(&e, schema).map_or(Transformed::no(e), Transformed::yes)))
    })
}

fn can_be_negated_wrongly(kind: &DataType) -> bool {
    kind.is_signed_integer() || matches!(kind, DataType::Interval(_) | DataType::Duration(_))
}

/// `sum(x) FILTER (WHERE c)` computes `x` also where `c` is false; with `CASE WHEN c THEN x END` it does not.
fn filtered_argument(aggregate: &AggregateFunction, schema: &DFSchema) -> Option<AggregateFunction> {
    let filter = aggregate.params.filter.as_ref()?;
    let is_guarded = |arg: &Expr| matches!(arg, Expr::Case(case) if case.when_then_expr.iter().any(|w| w.0 == *filter));
    let open = |arg: &Expr| is_fallible(arg, schema) && !is_guarded(arg);
    if !aggregate.params.args.iter().any(open) {
        return None;
    }
    let mut guarded = aggregate.clone();
    for arg in guarded.params.args.iter_mut().filter(|arg| open(arg)) {
        let then = Box::new(std::mem::replace(arg, Expr::Literal(datafusion::common::ScalarValue::Null, None)));
        *arg = Expr::Case(Case::new(None, vec![(filter.clone(), then)], None));
    }
    Some(guarded)
}
