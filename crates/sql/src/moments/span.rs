//! `timestampdiff(unit, from, to)` and `timestampadd(unit, count, moment)`, where the unit is a word: `HOUR`.

use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, AsArray, Int64Array, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use chrono::Datelike;
use datafusion::common::{Result, exec_err, plan_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use super::bin::plus_months;
use super::{in_micros, like, local, moment, out_of_range, zone_of};

/// What is counted.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Micros(i64),
    Months(i64),
}

/// The units that both functions know.
pub(crate) const UNITS: &[&str] =
    &["microsecond", "millisecond", "second", "minute", "hour", "day", "week", "month", "quarter", "year"];

impl Unit {
    fn read(value: &ColumnarValue) -> Result<Self> {
        let name = match value {
            ColumnarValue::Scalar(name) => name.try_as_str().flatten().unwrap_or_default(),
            ColumnarValue::Array(_) => "",
        };
        Ok(match name.to_lowercase().as_str() {
            "microsecond" => Self::Micros(1),
            "millisecond" => Self::Micros(1_000),
            "second" => Self::Micros(1_000_000),
            "minute" => Self::Micros(60_000_000),
            "hour" => Self::Micros(3_600_000_000),
            "day" => Self::Micros(86_400_000_000),
            "week" => Self::Micros(7 * 86_400_000_000),
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Months(12),
            _ => return exec_err!("a unit is one of {}", UNITS.join(", ")),
        })
    }

    /// Whole units from one moment to another.
    fn between(self, from: i64, to: i64, zone: Tz) -> Result<i64> {
        match self {
            Self::Micros(width) => Ok(to.checked_sub(from).ok_or_else(out_of_range)? / width),
            Self::Months(_) if to < from => Ok(-self.between(to, from, zone)?),
            Self::Months(width) => {
                let (from, to) = (local(from, zone)?, local(to, zone)?);
                let months = i64::from(to.year() - from.year()) * 12 + i64::from(to.month()) - i64::from(from.month());
                let is_short = plus_months(from, months)? > to;
                Ok((months - i64::from(is_short)) / width)
            }
        }
    }

    /// The moment so many units later.
    fn later(self, count: i64, from: i64, zone: Tz) -> Result<i64> {
        let count = |width: i64| count.checked_mul(width).ok_or_else(out_of_range);
        match self {
            Self::Micros(width) => from.checked_add(count(width)?).ok_or_else(out_of_range),
            Self::Months(width) => moment(plus_months(local(from, zone)?, count(width)?)?, zone),
        }
    }
}

/// `timestampdiff`, or `timestampadd`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Span {
    adds: bool,
    signature: Signature,
}

impl Span {
    pub(super) fn both() -> [Self; 2] {
        [false, true].map(|adds| Self { adds, signature: Signature::user_defined(Volatility::Immutable) })
    }
}

impl ScalarUDFImpl for Span {
    fn name(&self) -> &str {
        if self.adds { "timestampadd" } else { "timestampdiff" }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let name = self.name();
        let usage = match self.adds {
            true => "takes a unit, a number and a moment: timestampadd(HOUR, 2, at)",
            false => "takes a unit and two moments: timestampdiff(HOUR, earlier, later)",
        };
        let [_, second, third] = types else { return plan_err!("{name} {usage}") };
        let second = match self.adds {
            true => (second.is_integer() || second.is_null()).then_some(DataType::Int64),
            false => in_micros(second),
        };
        match (second, in_micros(third)) {
            (Some(second), Some(third)) => Ok(vec![DataType::Utf8, second, third]),
            _ => plan_err!("{name} {usage}"),
        }
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(if self.adds { types[2].clone() } else { DataType::Int64 })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [unit, second, third] = args.args.as_slice() else { return exec_err!("three arguments are missing") };
        let unit = Unit::read(unit)?;
        let column = [second, third].into_iter().find(|arg| matches!(arg, ColumnarValue::Array(_)));
        let rows = if column.is_some() { args.number_rows } else { 1 };
        let (second_rows, third_rows) = (second.to_array(rows)?, third.to_array(rows)?);
        let zone = zone_of(third_rows.data_type())?;
        let moments = third_rows.as_primitive::<TimestampMicrosecondType>();
        let is_valid = |row: &usize| second_rows.is_valid(*row) && moments.is_valid(*row);
        let shape = column.unwrap_or(third);
        if self.adds {
            let counts = second_rows.as_primitive::<Int64Type>();
            let later = |row: usize| unit.later(counts.value(row), moments.value(row), zone);
            let moved = (0..rows).map(|row| Some(row).filter(is_valid).map(later).transpose());
            let moved: TimestampMicrosecondArray = moved.collect::<Result<_>>()?;
            let kind = args.return_field.data_type();
            return like(shape, Arc::new(moved.with_data_type(kind.clone())));
        }
        let from = second_rows.as_primitive::<TimestampMicrosecondType>();
        let between = |row: usize| unit.between(from.value(row), moments.value(row), zone);
        let counted = (0..rows).map(|row| Some(row).filter(is_valid).map(between).transpose());
        like(shape, Arc::new(counted.collect::<Result<Int64Array>>()?))
    }
}
