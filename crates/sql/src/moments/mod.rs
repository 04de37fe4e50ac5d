//! Moments are microseconds, from the year 1 to 9999 and beyond.
//!
//! DataFusion computes most of what has to do with time in nanoseconds, which reach from 1677 to 2262: what lies
//! outside fails, or silently becomes something else. Here are the functions of ours in their place, and [`settle`],
//! which takes nanoseconds out of typed expressions.

mod bin;
mod format;
mod parse;
mod pattern;
mod settle;
mod span;
mod trunc;

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit, TimestampMicrosecondType};
use chrono::{DateTime, NaiveDateTime, TimeZone, Utc};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_err};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF};

pub(crate) use settle::{settle, settle_union};
pub(crate) use span::UNITS;

/// The functions that take the place of DataFusion's, and those that it has not.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    let mut all: Vec<ScalarUDF> = vec![trunc::DateTrunc::new().into(), bin::DateBin::new().into()];
    all.push(format::ToChar::new().into());
    all.extend(parse::ToTimestamp::all().into_iter().map(ScalarUDF::from));
    all.push(parse::ToUnixtime::new().into());
    all.push(parse::ToDate::new().into());
    all.extend(span::Span::both().map(ScalarUDF::from));
    all.into_iter().map(Arc::new).collect()
}

/// A moment in microseconds, in UTC where there is no zone.
fn in_micros(kind: &DataType) -> Option<DataType> {
    match kind {
        DataType::Timestamp(_, zone) => {
            Some(DataType::Timestamp(TimeUnit::Microsecond, zone.clone().or_else(|| Some("UTC".into()))))
        }
        DataType::Utf8
        | DataType::LargeUtf8
        | DataType::Utf8View
        | DataType::Date32
        | DataType::Date64
        | DataType::Null => Some(DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
        _ => None,
    }
}

/// The zone of a timestamp type.
fn zone_of(kind: &DataType) -> Result<Tz> {
    match kind {
        DataType::Timestamp(_, Some(zone)) => Ok(zone.parse()?),
        DataType::Timestamp(_, None) => Ok("UTC".parse()?),
        other => exec_err!("{other} is no timestamp"),
    }
}

/// The local time of a moment.
fn local(micros: i64, zone: Tz) -> Result<NaiveDateTime> {
    let utc = DateTime::<Utc>::from_timestamp_micros(micros).ok_or_else(out_of_range)?;
    let local = utc.with_timezone(&zone);
    let offset = chrono::Offset::fix(local.offset());
    utc.naive_utc().checked_add_offset(offset).ok_or_else(out_of_range)
}

/// The first moment that has this local time; where there is none (clocks go forward), the moment an hour later.
fn moment(local: NaiveDateTime, zone: Tz) -> Result<i64> {
    let found = zone.from_local_datetime(&local).earliest();
    let found = match found {
        Some(found) => Some(found),
        None => local
            .checked_add_signed(chrono::TimeDelta::hours(1))
            .and_then(|later| zone.from_local_datetime(&later).earliest()),
    };
    Ok(found.ok_or_else(out_of_range)?.timestamp_micros())
}

fn out_of_range() -> DataFusionError {
    DataFusionError::Execution("out of range: this is no moment that can be held".into())
}

/// Applies `f` to each moment of a column or a constant. The result has the type of `value`.
fn map_moments(value: &ColumnarValue, f: impl Fn(i64) -> Result<i64>) -> Result<ColumnarValue> {
    let array = value.to_array(1)?;
    let DataType::Timestamp(TimeUnit::Microsecond, zone) = array.data_type() else {
        return exec_err!("{} is no timestamp in microseconds", array.data_type());
    };
    let mapped: PrimitiveArray<TimestampMicrosecondType> =
        array.as_primitive::<TimestampMicrosecondType>().try_unary(f)?;
    let mapped: TimestampMicrosecondArray = mapped.with_timezone_opt(zone.clone());
    like(value, Arc::new(mapped))
}

/// `array` as a constant where `value` was one.
fn like(value: &ColumnarValue, array: ArrayRef) -> Result<ColumnarValue> {
    Ok(match value {
        ColumnarValue::Scalar(_) => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
        ColumnarValue::Array(_) => ColumnarValue::Array(array),
    })
}
