//! The streams that a sink reads.

use std::sync::Arc;

use millstream_core::Result;

use crate::progress::ReaderProgress;
use crate::streams::{Stream, StreamBatch, StreamReader};

const READ_BYTES: usize = 256 << 10;
/// Rows handed to a sink at once.
pub(super) const DELIVER_ROWS: usize = 1024;

/// One of them.
pub(super) struct Input {
    pub(super) stream: Stream,
    /// One a partition.
    pub(super) readers: Vec<StreamReader>,
    /// Next offset to read, by partition; ahead of the committed one while the commit is not due or rows are staged.
    pub(super) offsets: Vec<u64>,
    pub(super) committed: Vec<u64>,
    pub(super) position: Arc<ReaderProgress>,
}

impl Input {
    pub(super) fn partitions(&self) -> u32 {
        self.offsets.len() as u32
    }

    /// What there is in one partition, up to one read; nothing where all of it was read.
    pub(super) async fn read(&mut self, partition: u32) -> Result<Vec<StreamBatch>> {
        let offset = self.offsets[partition as usize];
        if self.stream.log.end_offset(partition) <= offset {
            return Ok(Vec::new());
        }
        let reader = &mut self.readers[partition as usize];
        reader.seek(offset);
        join_small(reader.read(READ_BYTES).await?)
    }
}

/// Small neighbours as one batch, so that a system is asked once for many rows. Redriven rows stay alone, and so do
/// those that were stored with other columns.
fn join_small(batches: Vec<StreamBatch>) -> Result<Vec<StreamBatch>> {
    let mut groups: Vec<Vec<StreamBatch>> = Vec::new();
    let mut rows = 0;
    for batch in batches {
        rows += batch.batch.num_rows();
        let goes_with = |last: &StreamBatch| {
            rows <= DELIVER_ROWS
                && batch.target.is_none()
                && last.target.is_none()
                && last.end_offset() == batch.base_offset
                && last.batch.schema_ref() == batch.batch.schema_ref()
        };
        match groups.last_mut().filter(|group| group.last().is_some_and(goes_with)) {
            Some(group) => group.push(batch),
            None => {
                rows = batch.batch.num_rows();
                groups.push(vec![batch]);
            }
        }
    }
    groups.into_iter().map(StreamBatch::join).collect()
}
