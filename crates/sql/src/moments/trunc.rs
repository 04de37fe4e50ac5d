//! `date_trunc(unit, moment)`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::{in_micros, local, map_moments, moment, out_of_range, zone_of};

/// The function; times of day are DataFusion's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateTrunc {
    inner: DateTruncFunc,
    signature: Signature,
}

impl DateTrunc {
    pub(super) fn new() -> Self {
        Self { inner: DateTruncFunc::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

/// What is cut off.
#[derive(Debug, Clone, Copy)]
enum Unit {
    /// Everything below so many microseconds.
    Micros(i64),
    Day,
    Week,
    /// So many months, counted from January.
    Months(u32),
    /// So many years.
    Years(i32),
}

impl Unit {
    fn read(name: &str) -> Result<Self> {
        Ok(match name.to_lowercase().trim_end_matches('s') {
            "microsecond" => Self::Micros(1),
            "millisecond" => Self::Micros(1_000),
            "second" => Self::Micros(1_000_000),
            "minute" => Self::Micros(60_000_000),
            "hour" => Self::Micros(3_600_000_000),
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Months(1),
            "quarter" => Self::Months(3),
            "year" => Self::Years(1),
            "decade" => Self::Years(10),
            _ => {
                return exec_err!(
                    "date_trunc takes no `{name}`: write microsecond, millisecond, second, minute, hour, day, week, \
                     month, quarter, year or decade"
                );
            }
        })
    }

    fn cut(self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        let date = time.date();
        let midnight = |date: NaiveDate| Some(date.and_time(NaiveTime::MIN));
        match self {
            Self::Micros(unit) => {
                let micros =
                    i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1_000);
                midnight(date)?.checked_add_signed(TimeDelta::microseconds(micros - micros % unit))
            }
            Self::Day => midnight(date),
            Self::Week => {
                midnight(date.checked_sub_signed(TimeDelta::days(date.weekday().num_days_from_monday().into()))?)
            }
            Self::Months(n) => midnight(NaiveDate::from_ymd_opt(date.year(), date.month0() / n * n + 1, 1)?),
            Self::Years(n) => midnight(NaiveDate::from_ymd_opt(date.year().div_euclid(n) * n, 1, 1)?),
        }
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        "date_trunc"
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [_, time] = types else { return plan_err!("date_trunc takes a unit and a moment: date_trunc('hour', at)") };
        let time = match (in_micros(time), time) {
            (Some(moment), _) => moment,
            (None, DataType::Time32(_) | DataType::Time64(_)) => time.clone(),
            _ => return plan_err!("date_trunc takes a moment, not {time}"),
        };
        Ok(vec![DataType::Utf8, time])
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[1].clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [unit, time] = args.arg_fields else { return plan_err!("date_trunc takes two arguments") };
        if let Some(Some(ScalarValue::Utf8(Some(unit)))) = args.scalar_arguments.first()
            && let Err(unknown) = Unit::read(unit)
        {
            return plan_err!("{}", unknown.message());
        }
        Ok(Arc::new(Field::new(self.name(), time.data_type().clone(), unit.is_nullable() || time.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [unit, time] = args.args.as_slice() else { return exec_err!("date_trunc takes two arguments") };
        if matches!(time.data_type(), DataType::Time32(_) | DataType::Time64(_)) {
            return self.inner.invoke_with_args(args);
        }
        let ColumnarValue::Scalar(ScalarValue::Utf8(Some(unit))) = unit else {
            return exec_err!("the unit of date_trunc is a constant: 'hour', 'day', …");
        };
        let (unit, zone) = (Unit::read(unit)?, zone_of(&time.data_type())?);
        if let Unit::Micros(1) = unit {
            return Ok(time.clone());
        }
        map_moments(time, |micros| moment(unit.cut(local(micros, zone)?).ok_or_else(out_of_range)?, zone))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
