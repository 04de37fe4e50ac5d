//! Takes nanoseconds out of typed expressions: DataFusion brings dates, texts and moments together as nanoseconds.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, Result, plan_err};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Union};

/// A cast to nanoseconds becomes one to microseconds; a function that yields nanoseconds is cast.
pub(crate) fn settle(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    if let Expr::Cast(cast) = &expr {
        check_zone(cast.field.data_type())?;
    }
    match expr {
        Expr::Cast(cast) => match micros_for_nanos(cast.field.data_type()) {
            Some(kind) => {
                let field = Field::new(cast.field.name(), kind.clone(), cast.field.is_nullable());
                if cast.expr.get_type(schema).is_ok_and(|from| from == kind) {
                    return Ok(Transformed::yes(*cast.expr));
                }
                Ok(Transformed::yes(Expr::Cast(Cast::new_from_field(cast.expr, Arc::new(field)))))
            }
            // Twice the same cast: this ran before.
            None if matches!(&*cast.expr, Expr::Cast(inner) if inner.field.data_type() == cast.field.data_type()) => {
                Ok(Transformed::yes(*cast.expr))
            }
            None => Ok(Transformed::no(Expr::Cast(cast))),
        },
        Expr::ScalarFunction(_) | Expr::Literal(_, _) => {
            match expr.get_type(schema).ok().as_ref().and_then(micros_for_nanos) {
                Some(kind) => Ok(Transformed::yes(Expr::Cast(Cast::new(Box::new(expr), kind)))),
                None => Ok(Transformed::no(expr)),
            }
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Refuses a time zone that nobody knows: Arrow would find that out when it prints.
fn check_zone(kind: &DataType) -> Result<()> {
    match kind {
        DataType::Timestamp(_, Some(zone)) if zone.parse::<Tz>().is_err() => {
            plan_err!(
                "there is no time zone `{zone}`: write a name such as 'Europe/Berlin', or an offset such as '+02:00'"
            )
        }
        _ => Ok(()),
    }
}

fn micros_for_nanos(kind: &DataType) -> Option<DataType> {
    match kind {
        DataType::Timestamp(TimeUnit::Nanosecond, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))
        }
        _ => None,
    }
}

/// A union whose inputs have got other types than it had.
pub(crate) fn settle_union(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Union(union) => {
            let first = union.inputs.first().map(|input| Arc::clone(input.schema()));
            let types = |schema: &DFSchema| schema.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
            match first {
                Some(first) if types(&first) != types(&union.schema) => {
                    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?))
                }
                _ => Ok(LogicalPlan::Union(union)),
            }
        }
        other => Ok(other),
    }
}
