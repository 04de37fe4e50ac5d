//! A function with a bound around it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::{CALL_BYTES_MAX, Class, VALUE_BYTES_MAX, check_bytes, check_steps, check_type, estimate, too_large};

/// `function`, which is of `class`.
pub(super) fn bounded(function: Arc<ScalarUDF>, class: Class) -> Arc<ScalarUDF> {
    Arc::new(ScalarUDF::from(Bounded { inner: function, class }))
}

/// It is what it holds, but for two things: it looks at sizes, and it is not rewritten into the function that it holds.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    class: Class,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        check_type(self.name(), field.data_type())?;
        Ok(field)
    }

    #[expect(deprecated, reason = "what is asked of this one is asked of the one in it")]
    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        self.inner.is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner.is_strict()
    }

    fn short_circuits(&self) -> bool {
        self.inner.short_circuits()
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        self.inner.evaluate_bounds(input)
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.inner.propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner.output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner.strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (name, rows) = (self.inner.name(), args.number_rows);
        match self.class {
            Class::Plain | Class::Linear => {}
            Class::Grows(growth) => check_bytes(name, estimate::bytes(growth, &args.args, rows))?,
            Class::Costs => check_steps(name, estimate::pairs(&args.args, rows))?,
        }
        let value = self.inner.invoke_with_args(args)?;
        check_result(name, &value, rows)?;
        Ok(value)
    }
}

/// Checks what a call has made.
pub(super) fn check_result(name: &str, value: &ColumnarValue, rows: usize) -> Result<()> {
    match value {
        ColumnarValue::Array(array) => check_array(name, array),
        ColumnarValue::Scalar(scalar) => {
            let bytes = scalar_bytes(scalar);
            // It is written out for each row sooner or later.
            let all = bytes.saturating_mul(rows.max(1) as u64);
            if bytes > VALUE_BYTES_MAX || all > CALL_BYTES_MAX { Err(too_large(name, bytes)) } else { Ok(()) }
        }
    }
}

fn scalar_bytes(scalar: &ScalarValue) -> u64 {
    scalar.size() as u64
}

fn check_array(name: &str, array: &ArrayRef) -> Result<()> {
    let all = array.to_data().get_slice_memory_size().unwrap_or(0) as u64;
    if all > CALL_BYTES_MAX {
        return Err(too_large(name, 0));
    }
    // Only where all of them are more than one may be, one of them can be.
    if all > VALUE_BYTES_MAX {
        let largest = largest(array.as_ref(), all);
        if largest > VALUE_BYTES_MAX {
            return Err(too_large(name, largest));
        }
    }
    Ok(())
}

/// About the bytes of the largest value of an array that has `all` bytes.
fn largest(array: &dyn Array, all: u64) -> u64 {
    fn widest<O: OffsetSizeTrait>(offsets: &[O]) -> u64 {
        offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_usize() as u64).max().unwrap_or(0)
    }
    // Of a list, the items of the longest one, each as large as they all are on average.
    let of_items = |widest: u64, items: usize| all / items.max(1) as u64 * widest;
    match array.data_type() {
        DataType::Utf8 => widest(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => widest(array.as_string::<i64>().value_offsets()),
        DataType::Binary => widest(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => widest(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => array.as_string_view().lengths().max().unwrap_or(0).into(),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            of_items(widest(list.value_offsets()), list.values().len())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            of_items(widest(list.value_offsets()), list.values().len())
        }
        _ => all / array.len().max(1) as u64,
    }
}
