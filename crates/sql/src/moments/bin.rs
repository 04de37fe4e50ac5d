//! `date_bin(interval, moment[, origin])`.

use arrow::datatypes::{DataType, IntervalMonthDayNanoType, IntervalUnit};
use chrono::{Datelike, Months, NaiveDateTime};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::functions::datetime::date_bin::DateBinFunc;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::{in_micros, local, map_moments, out_of_range, zone_of};

/// The function; times of day are DataFusion's.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateBin {
    inner: DateBinFunc,
    signature: Signature,
}

impl DateBin {
    pub(super) fn new() -> Self {
        Self { inner: DateBinFunc::new(), signature: Signature::user_defined(Volatility::Immutable) }
    }
}

const INTERVAL: DataType = DataType::Interval(IntervalUnit::MonthDayNano);

/// The width of a bin.
#[derive(Debug, Clone, Copy)]
enum Stride {
    Micros(i64),
    Months(i64),
}

impl Stride {
    fn read(value: &ColumnarValue) -> Result<Self> {
        let ColumnarValue::Scalar(ScalarValue::IntervalMonthDayNano(Some(interval))) = value else {
            return exec_err!("the width of date_bin is a constant: INTERVAL '15 minutes'");
        };
        let (months, days, nanos) = IntervalMonthDayNanoType::to_parts(*interval);
        let stride = match (months, days, nanos) {
            (months, 0, 0) if months != 0 => Self::Months(months.into()),
            (0, days, nanos) if nanos % 1_000 == 0 => {
                let micros = i64::from(days).checked_mul(86_400_000_000).and_then(|d| d.checked_add(nanos / 1_000));
                Self::Micros(micros.ok_or_else(out_of_range)?)
            }
            (0, _, _) => return exec_err!("the width of date_bin is whole microseconds"),
            _ => return exec_err!("the width of date_bin is either months and years, or days and less"),
        };
        match stride {
            Self::Micros(n) | Self::Months(n) if n <= 0 => exec_err!("the width of date_bin is more than zero"),
            stride => Ok(stride),
        }
    }

    /// The beginning of the bin that `micros` lies in.
    fn floor(self, micros: i64, origin: i64) -> Result<i64> {
        match self {
            Self::Micros(width) => {
                let (at, origin, width) = (i128::from(micros), i128::from(origin), i128::from(width));
                let start = origin + (at - origin).div_euclid(width) * width;
                i64::try_from(start).map_err(|_| out_of_range())
            }
            Self::Months(width) => {
                let utc = "UTC".parse()?;
                let (at, origin) = (local(micros, utc)?, local(origin, utc)?);
                let months = |t: NaiveDateTime| i64::from(t.year()) * 12 + i64::from(t.month0());
                let bins = (months(at) - months(origin)).div_euclid(width);
                let mut start = plus_months(origin, bins * width)?;
                if start > at {
                    start = plus_months(origin, (bins - 1) * width)?;
                }
                Ok(start.and_utc().timestamp_micros())
            }
        }
    }
}

pub(super) fn plus_months(time: NaiveDateTime, months: i64) -> Result<NaiveDateTime> {
    let size = Months::new(u32::try_from(months.unsigned_abs()).map_err(|_| out_of_range())?);
    let moved = if months < 0 { time.checked_sub_months(size) } else { time.checked_add_months(size) };
    moved.ok_or_else(out_of_range)
}

impl ScalarUDFImpl for DateBin {
    fn name(&self) -> &str {
        "date_bin"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let usage = "date_bin takes an interval, a moment and, if wanted, the beginning of a bin: \
                     date_bin(INTERVAL '15 minutes', at)";
        let (time, origin) = match types {
            [_, time] => (time, None),
            [_, time, origin] => (time, Some(origin)),
            _ => return plan_err!("{usage}"),
        };
        let time = match (in_micros(time), time) {
            (Some(moment), _) => moment,
            (None, DataType::Time32(_) | DataType::Time64(_)) => time.clone(),
            _ => return plan_err!("date_bin takes a moment, not {time}"),
        };
        let origin = origin.map(|origin| in_micros(origin).unwrap_or_else(|| origin.clone()));
        Ok([INTERVAL, time].into_iter().chain(origin).collect())
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        Ok(types[1].clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (Some(width), Some(time)) = (args.args.first(), args.args.get(1)) else {
            return exec_err!("date_bin takes two or three arguments");
        };
        if matches!(time.data_type(), DataType::Time32(_) | DataType::Time64(_)) {
            return self.inner.invoke_with_args(args);
        }
        zone_of(&time.data_type())?;
        let stride = Stride::read(width)?;
        let origin = match args.args.get(2) {
            None => 0,
            Some(ColumnarValue::Scalar(ScalarValue::TimestampMicrosecond(Some(origin), _))) => *origin,
            Some(ColumnarValue::Scalar(null)) if null.is_null() => {
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from(args.return_field.data_type())?));
            }
            Some(_) => return exec_err!("the origin of date_bin is a constant: TIMESTAMP '2024-01-01'"),
        };
        map_moments(time, |micros| stride.floor(micros, origin))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
