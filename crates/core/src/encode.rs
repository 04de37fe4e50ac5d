//! From rows to bytes: what an encoder makes of a batch on its way to a sink.

use std::ops::Range;

use arrow::array::RecordBatch;

use crate::{Result, RowFailure};

/// Rows as bytes, in one shared buffer, and the rows that did not make it.
#[derive(Debug, Clone, Default)]
pub struct Encoded {
    /// All records in order, each with its line end where the format has one: what a file holds.
    pub data: Vec<u8>,
    /// Where each record lies in `data`, without its line end.
    pub spans: Vec<Range<usize>>,
    /// `rows[i]` is the row that record `i` was made of; ascending.
    pub rows: Vec<u32>,
    /// The rows that failed, ascending; none of them has a record.
    pub failures: Vec<RowFailure>,
}

impl Encoded {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// True where there is no record.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The bytes of record `i`, without its line end.
    pub fn record(&self, i: usize) -> &[u8] {
        &self.data[self.spans[i].clone()]
    }
}

/// Turns rows into bytes. Pure: no I/O, no clock; the same rows give the same bytes.
///
/// Each row ends up as one record or in `failures`.
pub trait Encoder: std::fmt::Debug + Send + Sync {
    /// The media type of what it writes (RFC 6838), as HTTP and message brokers name it.
    fn media_type(&self) -> &'static str;

    /// What comes before the first record of a file or a body, with its line end; empty for most formats.
    fn header(&self) -> &[u8];

    /// Encodes every row of `batch`, which has the columns that the encoder was built for.
    ///
    /// # Errors
    /// A column's type has no form in this format at all.
    fn encode(&self, batch: &RecordBatch) -> Result<Encoded>;
}
