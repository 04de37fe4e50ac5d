//! −0.0 and 0.0 are one number, and so are all that are none: wherever values are compared or grouped. Arrow compares
//! floats bit by bit, in the total order of IEEE 754.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field, FieldRef, Float32Type, Float64Type};
use datafusion::common::{Column, DFSchema, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::{Between, InList, ScalarFunction, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, ColumnarValue, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, Projection,
    ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// A comparison whose floats have one zero; none where `expr` is no comparison of floats.
pub(super) fn compared(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            if is_other_number(left) || is_other_number(right) {
                return None;
            }
            let (l, r) = (one_zero(left, schema), one_zero(right, schema));
            (l.is_some() || r.is_some()).then(|| {
                let or = |changed: Option<Expr>, expr: &Expr| Box::new(changed.unwrap_or_else(|| expr.clone()));
                Expr::BinaryExpr(BinaryExpr::new(or(l, left), *op, or(r, right)))
            })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            if is_other_number(low) && is_other_number(high) {
                return None;
            }
            let changed = one_zero(expr, schema)?;
            let same = |e: &Expr| Box::new(one_zero(e, schema).unwrap_or_else(|| e.clone()));
            Some(Expr::Between(Between::new(Box::new(changed), *negated, same(low), same(high))))
        }
        Expr::InList(InList { expr, list, negated }) => {
            if list.iter().all(is_other_number) {
                return None;
            }
            let changed = one_zero(expr, schema)?;
            let list = list.iter().map(|e| one_zero(e, schema).unwrap_or_else(|| e.clone())).collect();
            Some(Expr::InList(InList::new(Box::new(changed), list, *negated)))
        }
        Expr::AggregateFunction(aggregate) if aggregate.params.distinct => {
            let changed = each(&aggregate.params.args, schema)?;
            let mut aggregate = aggregate.clone();
            aggregate.params.args = changed;
            Some(Expr::AggregateFunction(aggregate))
        }
        Expr::WindowFunction(window) => {
            let changed = each(&window.params.partition_by, schema)?;
            let mut window: WindowFunction = window.as_ref().clone();
            window.params.partition_by = changed;
            Some(Expr::WindowFunction(Box::new(window)))
        }
        _ => None,
    }
}

/// A node that groups its rows, by floats with one zero.
pub(super) fn grouped(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Aggregate(aggregate) => {
            let Some(groups) = each(&aggregate.group_expr, aggregate.input.schema()) else {
                return Ok(LogicalPlan::Aggregate(aggregate));
            };
            let names = NamePreserver::new_for_projection();
            let groups =
                aggregate.group_expr.iter().zip(groups).map(|(old, new)| names.save(old).restore(new)).collect();
            Ok(LogicalPlan::Aggregate(Aggregate::try_new(aggregate.input, groups, aggregate.aggr_expr)?))
        }
        LogicalPlan::Distinct(Distinct::All(input)) => {
            // It was done already.
            let is_done = |e: &Expr| e.clone().unalias().is_volatile() || is_one_zero(&e.clone().unalias());
            if matches!(&*input, LogicalPlan::Projection(p) if p.expr.iter().any(is_done)) {
                return Ok(LogicalPlan::Distinct(Distinct::All(input)));
            }
            let columns: Vec<Expr> = input.schema().columns().into_iter().map(Expr::Column).collect();
            let Some(changed) = each(&columns, input.schema()) else {
                return Ok(LogicalPlan::Distinct(Distinct::All(input)));
            };
            let named = |(expr, Column { relation, name, .. }): (Expr, Column)| match expr {
                Expr::Column(_) => expr,
                other => other.alias_qualified(relation, name),
            };
            let exprs = changed.into_iter().zip(input.schema().columns()).map(named).collect();
            let projection = LogicalPlan::Projection(Projection::try_new(exprs, input)?);
            Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(projection))))
        }
        other => Ok(other),
    }
}

fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

/// True for a constant that is not zero: zeros need no care beside it.
fn is_other_number(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Float64(Some(value)), _) => *value != 0.0 && !value.is_nan(),
        Expr::Literal(ScalarValue::Float32(Some(value)), _) => *value != 0.0 && !value.is_nan(),
        Expr::Literal(ScalarValue::Int64(Some(value)), _) => *value != 0,
        Expr::Cast(cast) => is_other_number(&cast.expr),
        _ => false,
    }
}

/// `exprs` with one zero; none where there is no float among them.
fn each(exprs: &[Expr], schema: &DFSchema) -> Option<Vec<Expr>> {
    let changed: Vec<Option<Expr>> = exprs.iter().map(|e| one_zero(e, schema)).collect();
    let any = changed.iter().any(Option::is_some);
    any.then(|| changed.into_iter().zip(exprs).map(|(new, old)| new.unwrap_or_else(|| old.clone())).collect())
}

/// `expr` with one zero; none where it is no float, or has one already.
fn one_zero(expr: &Expr, schema: &DFSchema) -> Option<Expr> {
    let inner = expr.clone().unalias();
    if is_one_zero(&inner) || !expr.get_type(schema).is_ok_and(|kind| is_float(&kind)) {
        return None;
    }
    let function = OneZero { signature: Signature::any(1, Volatility::Immutable) };
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), vec![inner])))
}

fn is_float(kind: &DataType) -> bool {
    matches!(kind, DataType::Float32 | DataType::Float64)
}

fn is_one_zero(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(f) if f.func.inner().downcast_ref::<OneZero>().is_some())
}

/// A float with one zero and one NaN.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OneZero {
    signature: Signature,
}

/// The function's name, for the list of what can't fail.
pub(crate) const ONE_ZERO: &str = "one_zero";

impl ScalarUDFImpl for OneZero {
    fn name(&self) -> &str {
        ONE_ZERO
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[0].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(field) = args.arg_fields.first() else { return internal_err!("one_zero of nothing") };
        Ok(Arc::new(Field::new(ONE_ZERO, field.data_type().clone(), field.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.into_iter().next() {
            Some(ColumnarValue::Array(array)) => Ok(ColumnarValue::Array(one_zero_of(&array)?)),
            Some(ColumnarValue::Scalar(scalar)) => {
                let array = one_zero_of(&scalar.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            None => internal_err!("one_zero of nothing"),
        }
    }
}

fn one_zero_of(array: &ArrayRef) -> Result<ArrayRef> {
    Ok(match array.data_type() {
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|f| if f.is_nan() { f64::NAN } else { f + 0.0 }),
        ),
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|f| if f.is_nan() { f32::NAN } else { f + 0.0 }),
        ),
        other => return internal_err!("one_zero of {other}"),
    })
}
