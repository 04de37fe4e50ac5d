//! What flows between steps: Arrow rows that know which input row they came from, and failures of single rows.

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use serde::{Deserialize, Serialize};

use crate::Result;

/// A record batch and, for each of its rows, the index of the input row that it came from.
///
/// A filter drops rows, `UNNEST` repeats them; `origin` stays the way back to partition, offset and event time.
#[derive(Debug, Clone)]
pub struct Rows {
    /// The columns.
    pub batch: RecordBatch,
    /// `origin[i]` is the input row of row `i`; never decreasing; as long as the batch.
    pub origin: Arc<[u32]>,
}

impl Rows {
    /// A batch that is its own origin.
    pub fn all(batch: RecordBatch) -> Self {
        let origin = (0..batch.num_rows() as u32).collect();
        Self { batch, origin }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.batch.num_rows()
    }

    /// True where there is no row.
    pub fn is_empty(&self) -> bool {
        self.batch.num_rows() == 0
    }

    /// The rows at `indices` of this batch.
    pub fn take(&self, indices: &[u32]) -> Result<Self> {
        let origin = indices.iter().map(|&i| self.origin[i as usize]).collect();
        let batch = take_record_batch(&self.batch, &UInt32Array::from(indices.to_vec()))?;
        Ok(Self { batch, origin })
    }
}

/// Why a record could not be used: a stable kind for machines and a message for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind; a label in metrics and in the dead letter queue.
    pub kind: FailureKind,
    /// What is wrong, where, and with which value (shortened).
    pub message: String,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// The kinds of failure that a single record can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The bytes are not of the declared format.
    Malformed,
    /// The text is not of the declared or any known encoding.
    Encoding,
    /// A declared, not optional field is absent or null.
    MissingField,
    /// A value is not, and can't be coerced to, the declared type.
    TypeMismatch,
    /// A number or timestamp is beyond what its type holds.
    OutOfRange,
    /// Larger than the limit of the source.
    TooLarge,
    /// A SQL expression failed on this row.
    Expression,
    /// A model or an endpoint did not answer in time.
    Timeout,
    /// A model or an endpoint refused or failed on this record.
    Model,
    /// A model or an endpoint was away for longer than was to be waited for.
    Unavailable,
    /// A sink's system refused this record.
    Rejected,
    /// It came after the watermark had gone past what it belongs to.
    Late,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Encoding,
        Self::MissingField,
        Self::TypeMismatch,
        Self::OutOfRange,
        Self::TooLarge,
        Self::Expression,
        Self::Timeout,
        Self::Model,
        Self::Unavailable,
        Self::Rejected,
        Self::Late,
    ];

    /// The name used in metrics, in the dead letter queue and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Encoding => "encoding",
            Self::MissingField => "missing_field",
            Self::TypeMismatch => "type_mismatch",
            Self::OutOfRange => "out_of_range",
            Self::TooLarge => "too_large",
            Self::Expression => "expression",
            Self::Timeout => "timeout",
            Self::Model => "model",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Late => "late",
        }
    }
}

/// A failure of one row of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFailure {
    /// Index of the row in the batch that the step was given.
    pub row: u32,
    /// Why.
    pub failure: Failure,
}
