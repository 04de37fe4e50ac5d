//! What a table takes of the rows that arrive.

use arrow::array::BooleanArray;
use millstream_core::{Result, RowFailure, Rows};

use crate::spec::TableSpec;

/// Which rows `delete_when` deletes, of those for which it can be said; and the others.
pub fn deletes(spec: &TableSpec, rows: &Rows) -> Result<(Rows, Option<BooleanArray>, Vec<RowFailure>)> {
    let Some(predicate) = &spec.delete_when else { return Ok((rows.clone(), None, Vec::new())) };
    let (values, failures) = predicate.evaluate_rows(&rows.batch);
    if failures.is_empty() {
        return Ok((rows.clone(), Some(values), failures));
    }
    let kept = rows_without(rows.len(), &failures);
    let values = kept.iter().map(|&row| Some(values.value(row as usize))).collect();
    Ok((rows.take(&kept)?, Some(values), failures))
}

/// The rows that did not fail; failures are in the order of the rows.
pub fn rows_without(count: usize, failures: &[RowFailure]) -> Vec<u32> {
    let mut failed = failures.iter().map(|failure| failure.row).peekable();
    (0..count as u32).filter(|row| failed.next_if_eq(row).is_none()).collect()
}
