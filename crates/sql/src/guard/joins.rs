//! Keys of joins that can fail.
//!
//! `ON a.s ~ '^[0-9]+$' AND CAST(a.s AS int) = b.n`: a hash join computes its keys for every row of a side. So a key
//! that can fail becomes `CASE WHEN a.s ~ … THEN CAST(…) END`, with the conditions on the same side; null is equal to
//! nothing.

use std::collections::HashSet;

use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Join, Operator};

use super::is_fallible;

/// `join` with guarded keys; `schema` are the columns of both sides.
pub(crate) fn guard_keys(mut join: Join, schema: &DFSchema) -> (Join, bool) {
    let Some(condition) = join.filter.clone() else { return (join, false) };
    let mut parts = split_conjunction_owned(condition);
    let safe: Vec<Expr> = parts.iter().filter(|part| !is_fallible(part, schema)).cloned().collect();
    let sides = [join.left.schema(), join.right.schema()];
    let mut changed = false;
    for part in &mut parts {
        let Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right }) = part else { continue };
        for key in [left, right] {
            if matches!(**key, Expr::Case(_)) || !is_fallible(key, schema) {
                continue;
            }
            let Some(side) = sides.iter().find(|side| is_of(key, side)) else { continue };
            let Some(guard) = conjunction(safe.iter().filter(|part| is_of(part, side)).cloned()) else { continue };
            **key = Expr::Case(Case::new(None, vec![(Box::new(guard), key.clone())], None));
            changed = true;
        }
    }
    join.filter = conjunction(parts);
    (join, changed)
}

/// True where `expr` names columns of `side` and no others.
fn is_of(expr: &Expr, side: &DFSchema) -> bool {
    let columns: HashSet<&Column> = expr.column_refs();
    !columns.is_empty() && columns.iter().all(|column| side.has_column(column))
}
