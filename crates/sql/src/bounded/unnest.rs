//! `UNNEST` with a bound: a list of a million items beside a text of a megabyte are a million such texts.

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::logical_expr::ColumnarValue;

use super::{CALL_BYTES_MAX, estimate, too_large};

/// `batch` in pieces, each of which gives at most [`CALL_BYTES_MAX`] once the lists at `lists` are unnested.
///
/// # Errors
/// One row alone gives more.
pub(crate) fn pieces(batch: &RecordBatch, lists: &[usize]) -> Result<Vec<RecordBatch>> {
    let columns: Vec<ColumnarValue> = batch.columns().iter().map(|c| ColumnarValue::Array(c.clone())).collect();
    let (mut pieces, mut first, mut bytes) = (Vec::new(), 0, 0_u64);
    for (row, size) in estimate::unnested(&columns, lists, batch.num_rows()).enumerate() {
        if size > CALL_BYTES_MAX {
            return Err(too_large("UNNEST", 0));
        }
        if bytes + size > CALL_BYTES_MAX {
            pieces.push(batch.slice(first, row - first));
            (first, bytes) = (row, 0);
        }
        bytes += size;
    }
    pieces.push(batch.slice(first, batch.num_rows() - first));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int32Builder, ListBuilder, StringArray};

    use super::*;

    #[test]
    fn a_batch_is_cut_where_it_would_be_too_much_and_a_row_that_is_so_alone_is_refused() {
        let batch = |lengths: &[usize]| {
            let mut lists = ListBuilder::new(Int32Builder::new());
            for &length in lengths {
                (0..length).for_each(|n| lists.values().append_value(n as i32));
                lists.append(true);
            }
            let texts: ArrayRef = Arc::new(StringArray::from(vec!["x".repeat(1 << 20); lengths.len()]));
            RecordBatch::try_from_iter([("list", Arc::new(lists.finish()) as ArrayRef), ("text", texts)]).unwrap()
        };
        let rows = |lengths: &[usize]| -> Vec<usize> {
            pieces(&batch(lengths), &[0]).unwrap().iter().map(RecordBatch::num_rows).collect()
        };
        assert_eq!(rows(&[1, 2, 3]), [3]);
        assert_eq!(rows(&[100, 100, 20, 1]), [1, 3]);
        assert_eq!(rows(&[]), [0]);
        assert!(pieces(&batch(&[1, 200]), &[0]).unwrap_err().to_string().contains("MiB"));
    }
}
