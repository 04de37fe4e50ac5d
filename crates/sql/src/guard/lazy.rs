//! AND, OR and IN whose later parts can fail, as CASE: the one operator that computes a part only for the rows that ask
//! for it.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, ExprSchemable, Filter, LogicalPlan, Operator, lit, not};

use super::is_fallible;
use crate::checked::columns_of;

/// `plan` with lazy expressions in all its nodes, those of subqueries too.
pub(super) fn lazy_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(|node| {
        let schema = columns_of(&node)?;
        if let LogicalPlan::Filter(filter) = node {
            let predicate = lazy_condition(filter.predicate, &schema)?;
            return Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(predicate, filter.input)?)));
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(lazy(expr, &schema)?.update_data(|expr| name.restore(expr)))
        })
    })?;
    Ok(plan.data)
}

/// A condition, of which null counts as false. The parts that can't fail go first.
pub(crate) fn lazy_condition(condition: Expr, schema: &DFSchema) -> Result<Expr> {
    let safe_first = |part: &Expr| is_fallible(part, schema);
    let mut parts = split_conjunction_owned(condition);
    if !parts.is_sorted_by_key(safe_first) {
        parts.sort_by_key(safe_first);
    }
    let parts = parts.into_iter().map(|part| Ok(lazy(part, schema)?.data)).collect::<Result<Vec<_>>>()?;
    all_of(parts, schema)
}

/// `parts` as one condition: a balanced tree, so that a long list of rules is not deep.
fn all_of(mut parts: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
    let right = parts.split_off(parts.len().div_ceil(2));
    if right.is_empty() {
        return Ok(parts.pop().unwrap_or_else(|| lit(true)));
    }
    let (left, right) = (all_of(parts, schema)?, all_of(right, schema)?);
    Ok(match is_fallible(&right, schema) {
        true => Expr::Case(Case::new(None, vec![(Box::new(left), Box::new(right))], Some(Box::new(lit(false))))),
        false => left.and(right),
    })
}

/// An expression whose value is asked for: null is null.
fn lazy(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    expr.transform_up(|e| match e {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right })
            if is_fallible(&right, schema) =>
        {
            Ok(Transformed::yes(three_valued(*left, op, *right, schema)?))
        }
        Expr::InList(list) if list.list.iter().skip(1).any(|item| is_fallible(item, schema)) => {
            one_by_one(list, schema)
        }
        other => Ok(Transformed::no(other)),
    })
}

/// `left AND right`, or OR, which does not look at `right` where `left` decides.
fn three_valued(left: Expr, op: Operator, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let decides = op == Operator::Or;
    if !left.nullable(schema)? {
        let (then, otherwise) = if decides { (lit(true), right) } else { (right, lit(false)) };
        return Ok(Expr::Case(Case::new(None, vec![(Box::new(left), Box::new(then))], Some(Box::new(otherwise)))));
    }
    // Where `left` is null, the answer is null, unless `right` decides.
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    let unknown = Expr::BinaryExpr(BinaryExpr::new(Box::new(right.clone()), op, Box::new(null)));
    let branches = vec![(Box::new(lit(decides)), Box::new(lit(decides))), (Box::new(lit(!decides)), Box::new(right))];
    Ok(Expr::Case(Case::new(Some(Box::new(left)), branches, Some(Box::new(unknown)))))
}

/// `x IN (a, b)` as `x = a OR x = b`.
fn one_by_one(list: InList, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let InList { expr, list, negated } = list;
    let equal = |item: Expr| expr.as_ref().clone().eq(item);
    let mut items = list.into_iter().rev();
    let Some(last) = items.next() else { return Ok(Transformed::no(lit(negated))) };
    let mut chain = equal(last);
    for item in items {
        chain = match is_fallible(&chain, schema) {
            true => three_valued(equal(item), Operator::Or, chain, schema)?,
            false => equal(item).or(chain),
        };
    }
    Ok(Transformed::yes(if negated { not(chain) } else { chain }))
}
