//! The streams that a sink reads.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_core::Result;

use crate::progress::ReaderProgress;
use crate::streams::{Stream, StreamBatch};

const READ_BYTES: usize = 256 << 10;
/// Rows handed to a sink at once.
pub(super) const DELIVER_ROWS: usize = 1024;

/// One of them.
pub(super) struct Input {
    pub(super) stream: Stream,
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
    pub(super) fn read(&self, partition: u32, schema: &SchemaRef) -> Result<Vec<StreamBatch>> {
        let offset = self.offsets[partition as usize];
        if self.stream.log.end_offset(partition) <= offset {
            return Ok(Vec::new());
        }
        join_small(self.stream.read(partition, offset, READ_BYTES)?, schema)
    }
}

/// Small neighbours as one batch, so that a system is asked once for many rows. Redriven rows stay alone: their schema
/// is that of the step they are for.
fn join_small(batches: Vec<StreamBatch>, schema: &SchemaRef) -> Result<Vec<StreamBatch>> {
    let mut groups: Vec<Vec<StreamBatch>> = Vec::new();
    let mut rows = 0;
    for batch in batches {
        let batch = if batch.target.is_none() { batch.conform(schema)? } else { batch };
        rows += batch.batch.num_rows();
        match groups.last_mut() {
            Some(group) if rows <= DELIVER_ROWS && batch.target.is_none() && group[0].target.is_none() => {
                group.push(batch)
            }
            _ => {
                rows = batch.batch.num_rows();
                groups.push(vec![batch]);
            }
        }
    }
    groups.into_iter().map(StreamBatch::join).collect()
}
