//! `to_timestamp` and its kin, `to_date` and `to_unixtime`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use chrono::format::{Parsed, StrftimeItems};
use chrono::{DateTime, Utc};
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::functions::datetime::to_date::ToDateFunc;
use datafusion::functions::datetime::to_unixtime::ToUnixtimeFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::pattern::{as_format, check_formats};
use super::{like, out_of_range};

/// One of the functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToTimestamp {
    name: &'static str,
    /// Microseconds of one unit that numbers count; none for nanoseconds.
    unit: Option<i64>,
    /// What lies below so many microseconds is cut off.
    precision: i64,
    signature: Signature,
}

impl ToTimestamp {
    pub(super) fn all() -> Vec<Self> {
        let function = |name, unit, precision| Self {
            name,
            unit,
            precision,
            signature: Signature::user_defined(Volatility::Immutable),
        };
        vec![
            function("to_timestamp", Some(1_000_000), 1),
            function("to_timestamp_seconds", Some(1_000_000), 1_000_000),
            function("to_timestamp_millis", Some(1_000), 1_000),
            function("to_timestamp_micros", Some(1), 1),
            function("to_timestamp_nanos", None, 1),
        ]
    }

    /// The moment that a whole number stands for.
    fn of_integer(&self, number: i64) -> Result<i64> {
        match self.unit {
            Some(unit) => number.checked_mul(unit).and_then(held).ok_or_else(out_of_range),
            None => Ok(number.div_euclid(1_000)),
        }
    }

    fn of_float(&self, number: f64) -> Result<i64> {
        let micros = match self.unit {
            Some(unit) => (number * unit as f64).round(),
            None => (number / 1_000.0).floor(),
        };
        // Not a number is not in the range either.
        let fits = (-9.2e18..9.2e18).contains(&micros);
        fits.then_some(micros as i64).and_then(held).ok_or_else(out_of_range)
    }
}

/// A moment that can be written as a date, which not all of 64 bits can.
fn held(micros: i64) -> Option<i64> {
    DateTime::<Utc>::from_timestamp_micros(micros).map(|_| micros)
}

fn moment_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The types that the first argument is read as, and the formats behind it as text.
fn readable(name: &str, types: &[DataType]) -> Result<Vec<DataType>> {
    let Some((first, formats)) = types.split_first() else {
        return plan_err!("{name} takes a text, a number or a moment");
    };
    let first = match first {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        t if t.is_integer() => DataType::Int64,
        t if t.is_floating() || t.is_decimal() => DataType::Float64,
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => moment_type(),
        other => return plan_err!("{name} takes a text, a number or a moment, not {other}"),
    };
    Ok(std::iter::once(first).chain(formats.iter().map(|_| DataType::Utf8)).collect())
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        readable(self.name, types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(moment_type())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        check_formats(self.name, &args)?;
        Ok(Arc::new(Field::new(self.name, moment_type(), true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let args = with_formats(args)?;
        let moments = moments(self, &args)?;
        let cut = |micros: i64| micros - micros.rem_euclid(self.precision);
        let moments: TimestampMicrosecondArray = moments.unary(cut);
        like(&shape(&args), Arc::new(moments.with_timezone("UTC")))
    }
}

/// The arguments with formats in the place of patterns.
fn with_formats(mut args: ScalarFunctionArgs) -> Result<ScalarFunctionArgs> {
    let mut arguments = args.args.into_iter();
    let first = arguments.next();
    args.args = first.into_iter().map(Ok).chain(arguments.map(as_format)).collect::<Result<_>>()?;
    Ok(args)
}

/// A constant where all arguments are constants, else a column.
fn shape(args: &ScalarFunctionArgs) -> ColumnarValue {
    let column = args.args.iter().find(|arg| matches!(arg, ColumnarValue::Array(_)));
    column
        .or(args.args.first())
        .cloned()
        .unwrap_or_else(|| ColumnarValue::Array(Arc::new(Int64Array::from(vec![0; 0]))))
}

/// The moments that the first argument stands for.
fn moments(function: &ToTimestamp, args: &ScalarFunctionArgs) -> Result<TimestampMicrosecondArray> {
    let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    let rows = if constant { 1 } else { args.number_rows };
    let arrays = args.args.iter().map(|arg| arg.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
    let Some((values, formats)) = arrays.split_first() else { return exec_err!("{} takes a value", function.name) };
    Ok(match values.data_type() {
        DataType::Int64 => values.as_primitive::<Int64Type>().try_unary(|n| function.of_integer(n))?,
        DataType::Float64 => values.as_primitive::<Float64Type>().try_unary(|n| function.of_float(n))?,
        DataType::Utf8 => {
            let formats: Vec<&StringArray> = formats.iter().map(|array| array.as_string::<i32>()).collect();
            let texts = values.as_string::<i32>();
            let read = |row| {
                let formats: Vec<&str> = formats.iter().filter(|f| f.is_valid(row)).map(|f| f.value(row)).collect();
                texts.is_valid(row).then(|| read_moment(texts.value(row), &formats)).transpose()
            };
            (0..rows).map(read).collect::<Result<_>>()?
        }
        _ => cast(values, &moment_type())?.as_primitive::<TimestampMicrosecondType>().clone(),
    })
}

/// A text as microseconds: ISO 8601, or the first of `formats` that fits.
fn read_moment(text: &str, formats: &[&str]) -> Result<i64> {
    let text = text.trim();
    if formats.is_empty() {
        return match string_to_datetime(&Utc, text) {
            Ok(moment) => Ok(moment.timestamp_micros()),
            Err(_) => exec_err!("a text is no moment: it is read as ISO 8601 (2024-05-01T12:30:00Z), or name a format"),
        };
    }
    for format in formats {
        if let Some(micros) = read_as(text, format) {
            return Ok(micros);
        }
    }
    exec_err!("a text does not fit any of its formats ({})", formats.join(", "))
}

/// A text in one format; a part that the format leaves out is the first one: the first of January, midnight.
fn read_as(text: &str, format: &str) -> Option<i64> {
    let mut parts = Parsed::new();
    chrono::format::parse(&mut parts, text, StrftimeItems::new(format)).ok()?;
    // A count of seconds says all by itself.
    if parts.timestamp().is_none() {
        if parts.to_naive_date().is_err() {
            parts.set_month(parts.month().unwrap_or(1).into()).ok()?;
            parts.set_day(parts.day().unwrap_or(1).into()).ok()?;
        }
        if parts.hour_div_12().is_none() && parts.hour_mod_12().is_none() {
            parts.set_hour(0).ok()?;
        }
        parts.set_minute(parts.minute().unwrap_or(0).into()).ok()?;
    }
    let offset = parts.offset().unwrap_or(0);
    let moment = parts.to_naive_datetime_with_offset(offset).ok()?;
    Some(moment.and_utc().timestamp_micros() - i64::from(offset) * 1_000_000)
}

/// `to_date`, which knows patterns too.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToDate {
    inner: ToDateFunc,
}

impl ToDate {
    pub(super) fn new() -> Self {
        Self { inner: ToDateFunc::new() }
    }
}

impl ScalarUDFImpl for ToDate {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        check_formats(self.name(), &args)?;
        let kinds: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&kinds)?, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.inner.invoke_with_args(with_formats(args)?)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// `to_unixtime`; numbers, dates and moments are DataFusion's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToUnixtime {
    inner: ToUnixtimeFunc,
}

impl ToUnixtime {
    pub(super) fn new() -> Self {
        Self { inner: ToUnixtimeFunc::new() }
    }
}

impl ScalarUDFImpl for ToUnixtime {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_text = |t: DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        if !args.args.first().is_some_and(|arg| is_text(arg.data_type())) {
            return self.inner.invoke_with_args(args);
        }
        for arg in &mut args.args {
            *arg = arg.cast_to(&DataType::Utf8, None)?;
        }
        let args = with_formats(args)?;
        let Some(reader) = ToTimestamp::all().into_iter().next() else { return exec_err!("no reader") };
        let seconds: Int64Array = moments(&reader, &args)?.unary(|micros| micros / 1_000_000);
        like(&shape(&args), Arc::new(seconds))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
