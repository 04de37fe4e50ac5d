//! Functions over texts that DataFusion has not: `split_index` and `regexp_extract`, as Flink has them.

use std::sync::Arc;

use arrow::array::{Array, AsArray, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use regex::Regex;

/// The functions.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    [false, true].map(|is_regex| Arc::new(ScalarUDF::from(Part::new(is_regex)))).to_vec()
}

/// A part of a text, by its number.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Part {
    /// `regexp_extract`, else `split_index`.
    is_regex: bool,
    signature: Signature,
}

impl Part {
    fn new(is_regex: bool) -> Self {
        Self { is_regex, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Part {
    fn name(&self) -> &str {
        if self.is_regex { "regexp_extract" } else { "split_index" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_text = |kind: &DataType| kind.is_string() || kind.is_null();
        let is_number = |kind: &DataType| kind.is_integer() || kind.is_null();
        match (types, self.is_regex) {
            ([text, with, number], _) if is_text(text) && is_text(with) && is_number(number) => {
                Ok(vec![DataType::Utf8, DataType::Utf8, DataType::Int64])
            }
            ([text, with], true) if is_text(text) && is_text(with) => Ok(vec![DataType::Utf8; 2]),
            (_, true) => {
                plan_err!(
                    "regexp_extract takes a text, a regular expression and the number of a group: \
                     regexp_extract(url, 'id=([0-9]+)', 1)"
                )
            }
            (_, false) => {
                plan_err!("split_index takes a text, a separator and a number from 0: split_index(path, '/', 0)")
            }
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let with = args.scalar_arguments.get(1).copied().flatten().and_then(|value| value.try_as_str().flatten());
        if let Some(expression) = with.filter(|_| self.is_regex)
            && Regex::new(expression).is_err()
        {
            return plan_err!("'{expression}' is no regular expression");
        }
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let number = ColumnarValue::Scalar(ScalarValue::Int64(Some(0)));
        let (text, with, number) = match args.args.as_slice() {
            [text, with] => (text, with, &number),
            [text, with, number] => (text, with, number),
            _ => return exec_err!("{} takes three arguments", self.name()),
        };
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if is_constant { 1 } else { args.number_rows };
        let arrays = [text, with, number].map(|arg| arg.to_array(rows));
        let [texts, withs, numbers] = arrays;
        let (texts, withs, numbers) = (texts?, withs?, numbers?);
        let (texts, withs) = (texts.as_string::<i32>(), withs.as_string::<i32>());
        let numbers = numbers.as_primitive::<Int64Type>();
        let mut regex: Option<(&str, Regex)> = None;
        let mut out = StringBuilder::with_capacity(rows, texts.value_data().len());
        for row in 0..rows {
            let is_null = texts.is_null(row) || withs.is_null(row) || numbers.is_null(row);
            let number = usize::try_from(numbers.value(row)).ok().filter(|_| !is_null);
            let (text, with) = (texts.value(row), withs.value(row));
            out.append_option(match number {
                None => None,
                Some(number) if self.is_regex => {
                    let regex = match &mut regex {
                        Some((written, regex)) if *written == with => regex,
                        other => &mut other.insert((with, read(with)?)).1,
                    };
                    group(regex, text, number)
                }
                Some(number) if with.is_empty() => (number == 0).then_some(text),
                Some(number) => text.split(with).nth(number),
            });
        }
        let array = out.finish();
        Ok(match is_constant {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
            false => ColumnarValue::Array(Arc::new(array)),
        })
    }
}

/// Without the text itself, so that messages about different rows are of one kind.
fn read(expression: &str) -> Result<Regex> {
    Regex::new(expression).or_else(|_| exec_err!("a text is no regular expression"))
}

/// A group of the first match; 0 is all of it.
fn group<'t>(regex: &Regex, text: &'t str, number: usize) -> Option<&'t str> {
    match number {
        0 => regex.find(text).map(|found| found.as_str()),
        _ => regex.captures(text)?.get(number).map(|found| found.as_str()),
    }
}
