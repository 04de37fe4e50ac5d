//! Collects records that arrive one by one into a batch.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Failure, RawBatch, RowFailure};

/// A batch is full at this many bytes, or at [`BATCH_RECORDS_MAX`].
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The most records in one batch.
const BATCH_RECORDS_MAX: usize = 8_192;

/// Records of one origin, back to back in one buffer.
#[derive(Debug, Default)]
pub(crate) struct RecordBuffer {
    origin: Arc<str>,
    /// The encoding that came with what the records were cut out of.
    pub(crate) charset: Option<Arc<str>>,
    data: Vec<u8>,
    spans: Vec<Range<usize>>,
    refused: Vec<RowFailure>,
    events: Vec<Arc<str>>,
}

impl RecordBuffer {
    /// No record yet.
    pub(crate) fn new(origin: Arc<str>) -> Self {
        Self { origin, ..Self::default() }
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let start = self.data.len();
        self.data.extend_from_slice(record);
        self.spans.push(start..self.data.len());
    }

    /// Adds what was kept of a record that can't be used, and why.
    pub(crate) fn push_refused(&mut self, kept: &[u8], failure: Failure) {
        self.refused.push(RowFailure { row: self.spans.len() as u32, failure });
        self.push(kept);
    }

    /// Adds a record with the type of its event, and why it can't be used. A buffer has only records with a type, or
    /// only records without.
    pub(crate) fn push_event(&mut self, kind: &str, record: &[u8], refused: Option<Failure>) {
        match self.events.last() {
            // Most streams have one type.
            Some(last) if **last == *kind => self.events.push(last.clone()),
            _ => self.events.push(kind.into()),
        }
        match refused {
            None => self.push(record),
            Some(failure) => self.push_refused(record, failure),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// True where the batch should be handed out before more is added.
    pub(crate) fn is_full(&self) -> bool {
        self.data.len() >= BATCH_BYTES_MAX || self.spans.len() >= BATCH_RECORDS_MAX
    }

    /// The batch; the buffer is empty again.
    pub(crate) fn take(&mut self) -> RawBatch {
        RawBatch {
            data: Bytes::from(std::mem::take(&mut self.data)),
            spans: std::mem::take(&mut self.spans),
            refused: std::mem::take(&mut self.refused),
            events: std::mem::take(&mut self.events),
            origin: self.origin.clone(),
            charset: self.charset.clone(),
            ..RawBatch::default()
        }
    }
}
