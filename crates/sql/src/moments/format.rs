//! `to_char(moment, format)`, which is also called `date_format`.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, AsArray, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, FieldRef, TimestampMicrosecondType};
use chrono::format::{Item, StrftimeItems};
use chrono::{DateTime, Utc};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::functions::datetime::to_char::ToCharFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::pattern::{as_format, check_formats};
use super::{in_micros, like, out_of_range, zone_of};

/// The function; dates, times and spans are DataFusion's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToChar {
    inner: ToCharFunc,
    signature: Signature,
}

impl ToChar {
    pub(super) fn new() -> Self {
        Self { inner: ToCharFunc::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        "to_char"
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [time, _] = types else {
            return plan_err!("to_char takes a moment and a format: to_char(at, '%Y-%m-%d')");
        };
        let time = match time {
            // A format with hours wants them of dates too.
            DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 | DataType::Null => in_micros(time),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => in_micros(time),
            DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) | DataType::Interval(_) => {
                Some(time.clone())
            }
            _ => None,
        };
        match time {
            Some(time) => Ok(vec![time, DataType::Utf8]),
            None => plan_err!("to_char takes a moment, not {}", types[0]),
        }
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        check_formats(self.name(), &args)?;
        Ok(Arc::new(Field::new(self.name(), DataType::Utf8, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let mut args = args;
        if let Some(format) = args.args.pop() {
            args.args.push(as_format(format)?);
        }
        let [time, format] = args.args.as_slice() else { return exec_err!("to_char takes two arguments") };
        if !matches!(time.data_type(), DataType::Timestamp(_, _)) {
            return self.inner.invoke_with_args(args);
        }
        let zone = zone_of(&time.data_type())?;
        let constant = matches!((time, format), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if constant { 1 } else { args.number_rows };
        let one_format = matches!(format, ColumnarValue::Scalar(_));
        let (times, formats) = (time.to_array(rows)?, format.to_array(if one_format { 1 } else { rows })?);
        let (times, formats) = (times.as_primitive::<TimestampMicrosecondType>(), formats.as_string::<i32>());
        let once = if one_format { items_at(formats, 0)? } else { None };
        let mut out = StringBuilder::new();
        for row in 0..rows {
            let items = if one_format { once.clone() } else { items_at(formats, row)? };
            match items.filter(|_| times.is_valid(row)) {
                Some(items) => {
                    write_moment(times.value(row), zone, &items, &mut out)?;
                    out.append_value("");
                }
                None => out.append_null(),
            }
        }
        let value = if constant { time } else { &ColumnarValue::Array(Arc::new(StringArray::new_null(0))) };
        like(value, Arc::new(out.finish()))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The parts of a format; none for null.
fn items_at(formats: &StringArray, row: usize) -> Result<Option<Vec<Item<'_>>>> {
    if formats.is_null(row) {
        return Ok(None);
    }
    match StrftimeItems::new(formats.value(row)).parse() {
        Ok(items) => Ok(Some(items)),
        Err(_) => exec_err!("to_char does not know this format: it is made of %Y, %m, %d, %H, %M, %S, …"),
    }
}

fn write_moment(micros: i64, zone: Tz, items: &[Item<'_>], out: &mut StringBuilder) -> Result<()> {
    let utc = DateTime::<Utc>::from_timestamp_micros(micros).ok_or_else(out_of_range)?;
    match write!(out, "{}", utc.with_timezone(&zone).format_with_items(items.iter())) {
        Ok(()) => Ok(()),
        Err(_) => exec_err!("to_char can't write a moment in this format"),
    }
}
