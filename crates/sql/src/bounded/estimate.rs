//! How much a call would make, from its arguments: an upper bound for each row.

use arrow::array::{Array, ArrayRef, AsArray, OffsetSizeTrait};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::logical_expr::ColumnarValue;

/// Bytes that a list keeps beside each item.
const ITEM_BYTES: u64 = 8;
/// Bytes of a character at most.
const CHARACTER_BYTES: u64 = 4;
/// For what can't be told.
const UNKNOWN: u64 = 0;

/// Functions whose result depends on the value of an argument, or on the product of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Growth {
    Repeat,
    Pad,
    Replace,
    RegexpReplace,
    Range,
    ArrayRepeat,
    ArrayResize,
    ArrayReplace,
    ArrayToString,
}

/// The bytes of each row's result.
pub(super) fn bytes(growth: Growth, args: &[ColumnarValue], rows: usize) -> impl Iterator<Item = u64> {
    let args: Vec<Argument> = args.iter().map(Argument::new).collect();
    (0..rows_of(&args, rows)).map(move |row| {
        let length = |n: usize| args.get(n).map_or(0, |arg| arg.bytes(row));
        let items = |n: usize| args.get(n).map_or(0, |arg| arg.items(row));
        let number = |n: usize| args.get(n).map_or(0, |arg| arg.number(row)).max(0) as u64;
        match growth {
            Growth::Repeat => length(0).saturating_mul(number(1)),
            Growth::Pad => length(0).max(number(1).saturating_mul(CHARACTER_BYTES)),
            Growth::Replace => replaced(&args, row, length(0), length(1), length(2)),
            Growth::RegexpReplace => {
                let references = args.get(2).map_or(0, |arg| arg.text(row, |text| count(text, b"\\$")).unwrap_or(0));
                let copied = length(0).saturating_mul(1 + references);
                copied.saturating_add((length(0) + 1).saturating_mul(length(2)).min(at_most(&args, row, length(2))))
            }
            Growth::Range => span(&args, row).saturating_mul(ITEM_BYTES),
            Growth::ArrayRepeat => (length(0) + ITEM_BYTES).saturating_mul(number(1)),
            Growth::ArrayResize => length(0).saturating_add((length(2) + ITEM_BYTES).saturating_mul(number(1))),
            Growth::ArrayReplace => length(0).saturating_add(items(0).saturating_mul(length(2))),
            Growth::ArrayToString => {
                let nulls = items(0).saturating_mul(length(2));
                length(0).saturating_mul(4).saturating_add(items(0).saturating_mul(length(1))).saturating_add(nulls)
            }
        }
    })
}

/// The bytes of each row's texts together.
pub(super) fn joined(args: &[ColumnarValue], rows: usize) -> impl Iterator<Item = u64> {
    let args: Vec<Argument> = args.iter().map(Argument::new).collect();
    (0..rows_of(&args, rows)).map(move |row| args.iter().map(|arg| arg.bytes(row)).sum())
}

/// The bytes of what each row becomes where the lists at `lists` are unnested: every item stands beside all the rest.
pub(super) fn unnested(columns: &[ColumnarValue], lists: &[usize], rows: usize) -> impl Iterator<Item = u64> {
    let columns: Vec<Argument> = columns.iter().map(Argument::new).collect();
    let lists = lists.to_vec();
    (0..rows).map(move |row| {
        let items = lists.iter().map(|&list| columns[list].items(row)).max().unwrap_or(1);
        let beside = columns.iter().enumerate().filter(|(at, _)| !lists.contains(at));
        let beside: u64 = beside.map(|(_, column)| column.bytes(row) + ITEM_BYTES).sum();
        let listed: u64 = lists.iter().map(|&list| columns[list].bytes(row)).sum();
        listed.saturating_add(items.saturating_mul(beside))
    })
}

/// The pairs that are compared for each row: of characters, or of items.
pub(super) fn pairs(args: &[ColumnarValue], rows: usize) -> impl Iterator<Item = u64> {
    let args: Vec<Argument> = args.iter().map(Argument::new).collect();
    (0..rows_of(&args, rows)).map(move |row| {
        let size = |n: usize| args.get(n).map_or(0, |arg: &Argument| arg.items(row).max(1));
        size(0).saturating_mul(size(1))
    })
}

/// All constants are computed once.
fn rows_of(args: &[Argument], rows: usize) -> usize {
    if args.iter().all(|arg| arg.is_constant) { 1 } else { rows }
}

fn count(text: &str, of: &[u8]) -> u64 {
    text.bytes().filter(|byte| of.contains(byte)).count() as u64
}

fn replaced(args: &[Argument], row: usize, text: u64, from: u64, to: u64) -> u64 {
    if to <= from {
        return text;
    }
    let most = match from {
        0 => (text + 1).saturating_mul(to).saturating_add(text),
        _ => (text / from).saturating_mul(to - from).saturating_add(text),
    };
    if most <= super::VALUE_BYTES_MAX / 16 || from == 0 {
        return most;
    }
    // Worth counting.
    let found = args[0].text(row, |text| args[1].text(row, |from| text.matches(from).count() as u64));
    found.flatten().map_or(most, |found| found.saturating_mul(to - from).saturating_add(text))
}

/// What replacing can add where the pattern is as short as one letter that it names: a bound that large texts can pass.
fn at_most(args: &[Argument], row: usize, to: u64) -> u64 {
    let everywhere = args.get(3).is_none_or(|flags| flags.text(row, |f| f.contains('g')).unwrap_or(false));
    if everywhere && args.len() > 3 { u64::MAX } else { to }
}

/// The items of a range.
fn span(args: &[Argument], row: usize) -> u64 {
    let (first, last) = match args {
        [end] => (0, end.number(row)),
        [start, end, ..] => (start.number(row), end.number(row)),
        [] => return UNKNOWN,
    };
    let length = (i128::from(last) - i128::from(first)).unsigned_abs();
    let step = args.get(2).map_or(1, |step| step.step(row, args[0].is_date())).max(1);
    u64::try_from(length / u128::from(step)).unwrap_or(u64::MAX).saturating_add(1)
}

/// One argument, one value for all rows or one for each.
struct Argument {
    array: ArrayRef,
    is_constant: bool,
    /// Its values as whole numbers, where they are such: moments in microseconds, days.
    numbers: Option<ArrayRef>,
}

impl Argument {
    fn new(value: &ColumnarValue) -> Self {
        let (array, is_constant) = match value {
            ColumnarValue::Array(array) => (array.clone(), false),
            ColumnarValue::Scalar(scalar) => match scalar.to_array() {
                Ok(array) => (array, true),
                Err(_) => (arrow::array::new_null_array(&DataType::Null, 1), true),
            },
        };
        let numbers = match array.data_type() {
            t if t.is_integer() => cast(&array, &DataType::Int64).ok(),
            DataType::Timestamp(_, _) => cast(&array, &DataType::Timestamp(TimeUnit::Microsecond, None))
                .and_then(|moments| cast(&moments, &DataType::Int64))
                .ok(),
            DataType::Date32 => cast(&array, &DataType::Int32).and_then(|days| cast(&days, &DataType::Int64)).ok(),
            _ => None,
        };
        Self { array, is_constant, numbers }
    }

    fn row(&self, row: usize) -> usize {
        if self.is_constant { 0 } else { row }
    }

    fn is_date(&self) -> bool {
        matches!(self.array.data_type(), DataType::Date32 | DataType::Date64)
    }

    fn number(&self, row: usize) -> i64 {
        let row = self.row(row);
        match &self.numbers {
            Some(numbers) if !numbers.is_null(row) => numbers.as_primitive::<Int64Type>().value(row),
            _ => 0,
        }
    }

    /// The step of a range: a number, or a span of time in days or microseconds.
    fn step(&self, row: usize, of_days: bool) -> u64 {
        if *self.array.data_type() != DataType::Interval(IntervalUnit::MonthDayNano) {
            return self.number(row).unsigned_abs();
        }
        let span = self.array.as_primitive::<IntervalMonthDayNanoType>().value(self.row(row));
        let days = u64::from(span.months.unsigned_abs()) * 28 + u64::from(span.days.unsigned_abs());
        match of_days {
            true => days,
            false => days.saturating_mul(86_400_000_000).saturating_add(span.nanoseconds.unsigned_abs() / 1000),
        }
    }

    fn text<T>(&self, row: usize, see: impl FnOnce(&str) -> T) -> Option<T> {
        let row = self.row(row);
        if self.array.is_null(row) {
            return None;
        }
        Some(match self.array.data_type() {
            DataType::Utf8 => see(self.array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => see(self.array.as_string::<i64>().value(row)),
            DataType::Utf8View => see(self.array.as_string_view().value(row)),
            _ => return None,
        })
    }

    /// The bytes of a text, or about those of a list or of anything else.
    fn bytes(&self, row: usize) -> u64 {
        let at = self.row(row);
        if self.array.is_null(at) {
            return 0;
        }
        if let Some(bytes) = self.text(row, |text| text.len() as u64) {
            return bytes;
        }
        match self.array.data_type() {
            DataType::Binary => self.array.as_binary::<i32>().value(at).len() as u64,
            DataType::LargeBinary => self.array.as_binary::<i64>().value(at).len() as u64,
            DataType::Null => 0,
            _ => {
                let one = self.array.slice(at, 1).to_data();
                one.get_slice_memory_size().unwrap_or(0) as u64
            }
        }
    }

    /// The items of a list, or the bytes of a text.
    fn items(&self, row: usize) -> u64 {
        fn of_list<O: OffsetSizeTrait>(array: &ArrayRef, at: usize) -> u64 {
            array.as_list::<O>().value_length(at).as_usize() as u64
        }
        let at = self.row(row);
        if self.array.is_null(at) {
            return 0;
        }
        match self.array.data_type() {
            DataType::List(_) => of_list::<i32>(&self.array, at),
            DataType::LargeList(_) => of_list::<i64>(&self.array, at),
            DataType::FixedSizeList(_, length) => u64::from(length.unsigned_abs()),
            _ => self.bytes(row),
        }
    }
}
