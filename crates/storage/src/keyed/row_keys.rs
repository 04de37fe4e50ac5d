//! Keys of rows, as bytes that sort like the values they stand for.
//!
//! A key is the concatenation of its columns; no column is null.
//!
//! | type | bytes |
//! |---|---|
//! | text, binary | the bytes, each `00` as `00 FF`, then `00 01` |
//! | signed integer, timestamp, date, time, duration, decimal | big-endian, sign bit flipped |
//! | unsigned integer | big-endian |
//! | float | IEEE 754 big-endian; sign bit flipped, or all bits where it was set (total order: −∞ … 0 … ∞ NaN); −0 is 0, and there is one NaN |
//! | bool | `00` or `01` |
//!
//! No key is a prefix of another, so that byte order is the order of the column values, first column first.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, downcast_primitive_array};
use arrow::datatypes::DataType;
use bytes::Bytes;
use millstream_core::{Error, Result};

/// The keys of the rows of a batch, one behind the other, each led by the prefix of its state.
#[derive(Debug)]
pub struct RowKeys {
    pub(crate) bytes: Bytes,
    ends: Vec<usize>,
    /// Of each row: the key column that is null, where there is one. Such a row has no key.
    nulls: Vec<(usize, usize)>,
}

impl RowKeys {
    /// The key of row `i`, as a slice of the common buffer.
    pub fn get(&self, i: usize) -> Bytes {
        self.bytes.slice(self.range(i))
    }

    pub(crate) fn bytes_of(&self, i: usize) -> &[u8] {
        &self.bytes[self.range(i)]
    }

    /// Rows without a key, ascending, and the column (position in the key) that is null.
    pub fn nulls(&self) -> &[(usize, usize)] {
        &self.nulls
    }

    fn range(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }
}

/// The keys of all rows; `columns` are those of the key.
///
/// # Errors
/// `Config` for a column of a type that can't be part of a key.
pub fn encode_row_keys(prefix: &[u8], columns: &[ArrayRef]) -> Result<RowKeys> {
    let rows = columns.first().map_or(0, |c| c.len());
    let parts = columns.iter().map(|c| Part::of(c.as_ref())).collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::with_capacity(rows * (prefix.len() + 24 * parts.len()));
    let mut ends = Vec::with_capacity(rows);
    let mut nulls = Vec::new();
    let nullable = columns.iter().any(|c| c.null_count() > 0);
    for row in 0..rows {
        if nullable && let Some(null) = columns.iter().position(|c| c.is_null(row)) {
            nulls.push((row, null));
        } else {
            bytes.extend_from_slice(prefix);
            parts.iter().for_each(|part| part.append(row, &mut bytes));
        }
        ends.push(bytes.len());
    }
    Ok(RowKeys { bytes: bytes.into(), ends, nulls })
}

/// True where a column of this type can be part of a key.
pub fn can_be_key(data_type: &DataType) -> bool {
    use DataType as T;
    matches!(data_type, T::Boolean | T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView)
        || number_kind(data_type).is_some()
}

#[derive(Clone, Copy)]
enum Number {
    Signed,
    Unsigned,
    Float,
}

fn number_kind(data_type: &DataType) -> Option<Number> {
    use DataType as T;
    match data_type {
        T::UInt8 | T::UInt16 | T::UInt32 | T::UInt64 => Some(Number::Unsigned),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::Timestamp(_, _) | T::Date32 | T::Date64 | T::Time32(_) => {
            Some(Number::Signed)
        }
        T::Time64(_) | T::Duration(_) | T::Decimal128(_, _) => Some(Number::Signed),
        T::Float16 | T::Float32 | T::Float64 => Some(Number::Float),
        _ => None,
    }
}

/// One column of a key.
enum Part<'a> {
    Bool(&'a arrow::array::BooleanArray),
    Number { kind: Number, width: usize, values: &'a [u8] },
    Bytes(Box<dyn Fn(usize) -> &'a [u8] + 'a>),
}

impl<'a> Part<'a> {
    fn of(column: &'a dyn Array) -> Result<Self> {
        use DataType as T;
        let unsupported = || Error::config(format!("a column of type {} can't be part of a key", column.data_type()));
        if let Some(kind) = number_kind(column.data_type()) {
            let width = column.data_type().primitive_width().ok_or_else(unsupported)?;
            let values = downcast_primitive_array! {
                column => column.values().inner().as_slice(),
                _ => return Err(unsupported()),
            };
            return Ok(Self::Number { kind, width, values });
        }
        Ok(match column.data_type() {
            T::Boolean => Self::Bool(column.as_boolean()),
            T::Utf8 => {
                let texts = column.as_string::<i32>();
                Self::Bytes(Box::new(|row| texts.value(row).as_bytes()))
            }
            T::LargeUtf8 => {
                let texts = column.as_string::<i64>();
                Self::Bytes(Box::new(|row| texts.value(row).as_bytes()))
            }
            T::Utf8View => {
                let texts = column.as_string_view();
                Self::Bytes(Box::new(|row| texts.value(row).as_bytes()))
            }
            T::Binary => {
                let values = column.as_binary::<i32>();
                Self::Bytes(Box::new(|row| values.value(row)))
            }
            T::LargeBinary => {
                let values = column.as_binary::<i64>();
                Self::Bytes(Box::new(|row| values.value(row)))
            }
            T::BinaryView => {
                let values = column.as_binary_view();
                Self::Bytes(Box::new(|row| values.value(row)))
            }
            _ => return Err(unsupported()),
        })
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Bool(values) => out.push(u8::from(values.value(row))),
            Self::Number { kind, width, values } => {
                let at = out.len();
                out.extend(values[row * width..(row + 1) * width].iter().rev());
                let number = &mut out[at..];
                if matches!(kind, Number::Float) {
                    one_zero_one_nan(number);
                }
                match kind {
                    Number::Unsigned => {}
                    Number::Float if number[0] & 0x80 != 0 => number.iter_mut().for_each(|b| *b = !*b),
                    Number::Signed | Number::Float => number[0] ^= 0x80,
                }
            }
            Self::Bytes(value) => append_escaped(value(row), out),
        }
    }
}

/// Equal floats have equal bytes: −0 becomes 0, and every NaN the same one. `float` is big-endian.
fn one_zero_one_nan(float: &mut [u8]) {
    let exponent_bits = match float.len() {
        2 => 5,
        4 => 8,
        _ => 11,
    };
    let wide = float.iter().fold(0_u64, |bits, &byte| bits << 8 | u64::from(byte)) << (64 - 8 * float.len());
    let magnitude = wide << 1;
    let infinity = !(u64::MAX >> exponent_bits);
    if magnitude == 0 {
        float.fill(0);
    } else if magnitude > infinity {
        let nan = (infinity | infinity >> 1) >> 1;
        float.copy_from_slice(&nan.to_be_bytes()[..float.len()]);
    }
}

fn append_escaped(mut value: &[u8], out: &mut Vec<u8>) {
    while let Some(zero) = value.iter().position(|&b| b == 0) {
        out.extend_from_slice(&value[..zero]);
        out.extend_from_slice(&[0, 0xFF]);
        value = &value[zero + 1..];
    }
    out.extend_from_slice(value);
    out.extend_from_slice(&[0, 1]);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray,
        UInt16Array,
    };
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn keys_sort_like_their_values(
            a in ("[\0-\u{2}a]{0,4}", any::<i64>(), any::<f64>(), any::<bool>(), vec(0_u8..3, 0..4), any::<i32>(), any::<u16>()),
            b in ("[\0-\u{2}a]{0,4}", any::<i64>(), any::<f64>(), any::<bool>(), vec(0_u8..3, 0..4), any::<i32>(), any::<u16>()),
            same in 0_usize..7,
        ) {
            // The first columns are equal, so that later ones decide.
            let mut b = b;
            if same > 0 { b.0 = a.0.clone(); }
            if same > 1 { b.1 = a.1; }
            if same > 2 { b.2 = a.2; }
            if same > 3 { b.3 = a.3; }
            if same > 4 { b.4 = a.4.clone(); }
            if same > 5 { b.5 = a.5; }
            let columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values([&a.0, &b.0])),
                Arc::new(TimestampMicrosecondArray::from_iter_values([a.1, b.1])),
                Arc::new(Float64Array::from_iter_values([a.2, b.2])),
                Arc::new(BooleanArray::from(vec![a.3, b.3])),
                Arc::new(BinaryArray::from_iter_values([&a.4, &b.4])),
                Arc::new(Int32Array::from_iter_values([a.5, b.5])),
                Arc::new(UInt16Array::from_iter_values([a.6, b.6])),
            ];
            let keys = encode_row_keys(b"t", &columns).unwrap();
            let canonical = |f: f64| if f.is_nan() { f64::NAN } else { f + 0.0 };
            let expected = a.0.as_bytes().cmp(b.0.as_bytes())
                .then(a.1.cmp(&b.1)).then(canonical(a.2).total_cmp(&canonical(b.2))).then(a.3.cmp(&b.3))
                .then(a.4.cmp(&b.4)).then(a.5.cmp(&b.5)).then(a.6.cmp(&b.6));
            prop_assert_eq!(keys.bytes_of(0).cmp(keys.bytes_of(1)), expected);
        }
    }

    #[test]
    fn equal_floats_are_one_key() {
        let key = |column: ArrayRef| {
            let keys = encode_row_keys(b"", &[column]).unwrap();
            (0..keys.ends.len()).map(|i| keys.bytes_of(i).to_vec()).collect::<Vec<_>>()
        };
        let wide = key(Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, f64::INFINITY])));
        assert_eq!(wide[0], wide[1]);
        assert_eq!(wide[2], wide[3]);
        assert!(wide[0] < wide[4] && wide[4] < wide[2]);
        let strange = key(Arc::new(Float64Array::from(vec![f64::from_bits(0xFFF0_0000_0000_0001), 1.0, -1.0])));
        assert_eq!(strange[0], wide[2]);
        assert!(strange[2] < wide[0] && wide[0] < strange[1]);
        let narrow = key(Arc::new(arrow::array::Float32Array::from(vec![0.0, -0.0, f32::NAN, -f32::NAN, 1.0])));
        assert_eq!((&narrow[0], &narrow[2]), (&narrow[1], &narrow[3]));
        assert!(narrow[0] < narrow[4] && narrow[4] < narrow[2]);
    }

    #[test]
    fn the_bytes_of_a_key_never_change() {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![Some("a\0b"), Some("a"), None])),
            Arc::new(Int64Array::from(vec![Some(-1), None, Some(1)])),
        ];
        let keys = encode_row_keys(b"p", &columns).unwrap();
        assert_eq!(keys.bytes_of(0), b"pa\0\xFFb\0\x01\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF");
        assert_eq!(keys.nulls(), [(1, 1), (2, 0)]);
        assert!(keys.bytes_of(1).is_empty() && keys.get(2).is_empty());
    }
}
