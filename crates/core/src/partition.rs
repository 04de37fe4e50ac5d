//! Which partition a row belongs to: a hash of its key columns, the same on every machine and in every version.

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimestampMicrosecondType};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// The partition (of `partitions`) of each row of `batch`, by the columns at `keys`. Without keys, all rows go to
/// partition `fallback % partitions`, so that a caller can spread whole batches in turn.
///
/// The hash is XXH3-64 over the key columns' values, each led by a tag byte (0 null, 1 text or bytes with its length
/// as u64, 2 int or timestamp, 3 float bits, 4 bool), little-endian. −0 counts as 0, and
/// every NaN as one.
///
/// # Errors
/// A key column of a type that can't be a key (list, struct).
pub fn partition_rows(batch: &RecordBatch, keys: &[usize], partitions: u32, fallback: u32) -> Result<Vec<u32>> {
    let rows = batch.num_rows();
    if keys.is_empty() || partitions == 1 {
        return Ok(vec![fallback % partitions.max(1); rows]);
    }
    let columns = keys.iter().map(|&key| KeyColumn::bind(batch.column(key))).collect::<Result<Vec<_>>>()?;
    let mut bytes = Vec::new();
    let partition = |row| {
        bytes.clear();
        columns.iter().for_each(|column| column.append(row, &mut bytes));
        (xxh3_64(&bytes) % u64::from(partitions)) as u32
    };
    Ok((0..rows).map(partition).collect())
}

/// True where a column of this type can be (part of) a key.
pub fn can_be_key(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::Binary
            | DataType::Int64
            | DataType::Float64
            | DataType::Boolean
            | DataType::Timestamp(_, _)
    )
}

/// A key column and its nulls.
struct KeyColumn<'a> {
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    Text(&'a StringArray),
    Binary(&'a BinaryArray),
    Int(&'a [i64]),
    Float(&'a [f64]),
    Bool(&'a BooleanArray),
}

impl<'a> KeyColumn<'a> {
    fn bind(column: &'a ArrayRef) -> Result<Self> {
        let values = match column.data_type() {
            DataType::Utf8 => Values::Text(column.as_string()),
            DataType::Binary => Values::Binary(column.as_binary()),
            DataType::Int64 => Values::Int(column.as_primitive::<Int64Type>().values()),
            DataType::Timestamp(_, _) => Values::Int(column.as_primitive::<TimestampMicrosecondType>().values()),
            DataType::Float64 => Values::Float(column.as_primitive::<Float64Type>().values()),
            DataType::Boolean => Values::Bool(column.as_boolean()),
            other => return Err(Error::config(format!("a column of type {other} can't be part of a key"))),
        };
        Ok(Self { nulls: column.nulls(), values })
    }

    /// Appends what is hashed of the value of `row`.
    fn append(&self, row: usize, out: &mut Vec<u8>) {
        if self.nulls.is_some_and(|nulls| nulls.is_null(row)) {
            out.push(0);
            return;
        }
        match &self.values {
            Values::Text(values) => append_bytes(values.value(row).as_bytes(), out),
            Values::Binary(values) => append_bytes(values.value(row), out),
            Values::Int(values) => append_fixed(2, &values[row].to_le_bytes(), out),
            Values::Float(values) => append_fixed(3, &canonical(values[row]).to_bits().to_le_bytes(), out),
            Values::Bool(values) => append_fixed(4, &[u8::from(values.value(row))], out),
        }
    }
}

/// Equal floats have equal bits.
fn canonical(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

fn append_fixed(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(bytes);
}

fn append_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    append_fixed(1, &(bytes.len() as u64).to_le_bytes(), out);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[test]
    fn a_key_goes_to_the_same_partition_in_every_version() {
        let id: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some("b"), None, Some("a")]));
        let n: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 1]));
        let batch = RecordBatch::try_from_iter([("id", id), ("n", n)]).unwrap();
        let parts = partition_rows(&batch, &[0, 1], 1000, 0).unwrap();
        assert_eq!(parts[0], parts[3]);
        // Written down once: a change here would send old keys to other partitions.
        assert_eq!(partition_rows(&batch, &[0], 1000, 0).unwrap(), [GOLDEN_A, GOLDEN_B, GOLDEN_NULL, GOLDEN_A]);
    }

    #[test]
    fn equal_floats_go_to_the_same_partition() {
        let f: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN]));
        let batch = RecordBatch::try_from_iter([("f", f)]).unwrap();
        let parts = partition_rows(&batch, &[0], 1_000_000, 0).unwrap();
        assert_eq!((parts[0], parts[2]), (parts[1], parts[3]));
    }

    const GOLDEN_A: u32 = 809;
    const GOLDEN_B: u32 = 0;
    const GOLDEN_NULL: u32 = 883;
}
