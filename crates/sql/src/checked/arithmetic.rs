//! One arithmetic operator as a function: Arrow's checked kernels, and a message that names the expression.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum, new_empty_array};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result, ScalarValue, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::type_coercion::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Negate,
}

impl Operation {
    pub(super) fn of(op: Operator) -> Option<Self> {
        Some(match op {
            Operator::Plus => Self::Add,
            Operator::Minus => Self::Subtract,
            Operator::Multiply => Self::Multiply,
            Operator::Divide => Self::Divide,
            Operator::Modulo => Self::Remainder,
            _ => return None,
        })
    }

    fn operator(self) -> Option<Operator> {
        Some(match self {
            Self::Add => Operator::Plus,
            Self::Subtract | Self::Negate => Operator::Minus,
            Self::Multiply => Operator::Multiply,
            Self::Divide => Operator::Divide,
            Self::Remainder => Operator::Modulo,
        })
    }

    /// True where the operation on these types can fail, and Arrow's kernel does what DataFusion's operator does.
    pub(super) fn applies_to(self, l: &DataType, r: &DataType) -> bool {
        use DataType as T;
        let is_span = |t: &T| matches!(t, T::Interval(_) | T::Duration(_));
        let is_moment = |t: &T| matches!(t, T::Timestamp(_, _) | T::Date32 | T::Date64);
        match (l, r) {
            (l, r) if l.is_integer() && l == r => true,
            (l, r) if l.is_decimal() && r.is_decimal() => true,
            (T::Timestamp(a, _), T::Timestamp(b, _)) => self == Self::Subtract && a == b,
            (l, r) if is_moment(l) && is_span(r) => matches!(self, Self::Add | Self::Subtract),
            (l, r) if is_span(l) && is_moment(r) => self == Self::Add,
            (T::Interval(a), T::Interval(b)) => a == b && matches!(self, Self::Add | Self::Subtract),
            (T::Duration(a), T::Duration(b)) => a == b && matches!(self, Self::Add | Self::Subtract),
            _ => false,
        }
    }

    /// This operation over `args`, in the place of `written`.
    pub(super) fn over(self, args: Vec<Expr>, written: &Expr) -> Expr {
        let function = Arithmetic {
            operation: self,
            text: text_of(written),
            signature: Signature::variadic_any(Volatility::Immutable),
        };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::from(function)), args))
    }
}

/// An expression as people write it: `n + 1`.
fn text_of(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => column.name.clone(),
        Expr::BinaryExpr(binary) => format!("{} {} {}", text_of(&binary.left), binary.op, text_of(&binary.right)),
        Expr::Negative(inner) => format!("-{}", text_of(inner)),
        Expr::Cast(cast) => text_of(&cast.expr),
        Expr::ScalarFunction(f) => match f.func.inner().downcast_ref::<Arithmetic>() {
            Some(arithmetic) => format!("({})", arithmetic.text),
            None => expr.human_display().to_string(),
        },
        Expr::Literal(ScalarValue::IntervalMonthDayNano(_) | ScalarValue::IntervalDayTime(_), _) => {
            "INTERVAL '…'".to_owned()
        }
        other => other.human_display().to_string(),
    }
}

/// An operator over two values, or the negation of one. Its name is the operator's.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Arithmetic {
    operation: Operation,
    /// What was written, for messages.
    text: String,
    signature: Signature,
}

impl ScalarUDFImpl for Arithmetic {
    fn name(&self) -> &str {
        match self.operation {
            Operation::Add => "+",
            Operation::Subtract | Operation::Negate => "-",
            Operation::Multiply => "*",
            Operation::Divide => "/",
            Operation::Remainder => "%",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match (types, self.operation.operator()) {
            ([one], _) => Ok(one.clone()),
            ([l, r], Some(op)) => BinaryTypeCoercer::new(l, &op, r).get_result_type(),
            _ => internal_err!("an operator over {} values", types.len()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let nullable = args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(match (args, self.operation.operator()) {
            ([l, r], Some(op)) => format!("{} {op} {}", l.schema_name(), r.schema_name()),
            ([one], _) => format!("(- {})", one.schema_name()),
            _ => self.text.clone(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let kind = args.return_field.data_type();
        // No rows: a constant that always fails harms nobody.
        if args.number_rows == 0 {
            return Ok(ColumnarValue::Array(new_empty_array(kind)));
        }
        let constant = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let values = args.args.into_iter().map(Value::new).collect::<Result<Vec<_>>>()?;
        let computed = match (self.operation, values.as_slice()) {
            (Operation::Add, [l, r]) => numeric::add(l.datum(), r.datum()),
            (Operation::Subtract, [l, r]) => numeric::sub(l.datum(), r.datum()),
            (Operation::Multiply, [l, r]) => numeric::mul(l.datum(), r.datum()),
            (Operation::Divide, [l, r]) => numeric::div(l.datum(), r.datum()),
            (Operation::Remainder, [l, r]) => numeric::rem(l.datum(), r.datum()),
            (Operation::Negate, [one]) => numeric::neg(one.array()),
            _ => return internal_err!("an operator over {} values", values.len()),
        };
        let computed = computed.map_err(|e| self.failure(&e, kind))?;
        let computed = fitting(computed, kind).map_err(|e| self.failure(&e, kind))?;
        Ok(match constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&computed, 0)?),
            false => ColumnarValue::Array(computed),
        })
    }
}

impl Arithmetic {
    fn failure(&self, error: &ArrowError, kind: &DataType) -> DataFusionError {
        let text = &self.text;
        DataFusionError::Execution(match error {
            ArrowError::DivideByZero => format!("division by zero: `{text}`"),
            _ if kind.is_integer() => format!("out of range: `{text}` does not fit into an int"),
            _ if kind.is_decimal() => format!("out of range: `{text}` does not fit into a {kind}"),
            _ => format!("out of range: `{text}` is no moment or span of time that can be held"),
        })
    }
}

/// The result as what was promised; decimals must keep to their digits.
fn fitting(array: ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let array = if array.data_type() == kind { array } else { arrow::compute::cast(&array, kind)? };
    match kind {
        DataType::Decimal128(precision, _) => {
            array.as_primitive::<arrow::datatypes::Decimal128Type>().validate_decimal_precision(*precision)?;
        }
        DataType::Decimal256(precision, _) => {
            array.as_primitive::<arrow::datatypes::Decimal256Type>().validate_decimal_precision(*precision)?;
        }
        _ => {}
    }
    Ok(array)
}

/// A column or a constant, as Arrow's kernels take it.
enum Value {
    Array(ArrayRef),
    Scalar(arrow::array::Scalar<ArrayRef>),
}

impl Value {
    fn new(value: ColumnarValue) -> Result<Self> {
        Ok(match value {
            ColumnarValue::Array(array) => Self::Array(array),
            ColumnarValue::Scalar(scalar) => Self::Scalar(scalar.to_scalar()?),
        })
    }

    fn datum(&self) -> &dyn Datum {
        match self {
            Self::Array(array) => array,
            Self::Scalar(scalar) => scalar,
        }
    }

    fn array(&self) -> &dyn Array {
        self.datum().get().0
    }
}
