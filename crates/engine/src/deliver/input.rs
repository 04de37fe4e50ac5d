//! The streams that a sink reads.

use std::sync::Arc;

use millstream_core::Result;

use crate::heard::Heard;
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
    /// What was heard of the stream's producers up to there, by partition: that of `offsets`, and that of `committed`.
    pub(super) heard: Vec<Heard>,
    pub(super) committed_heard: Vec<Heard>,
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
        let mut batches = reader.read_all(READ_BYTES).await?;
        self.heard[partition as usize].drop_repeats(&mut batches);
        StreamBatch::regroup(batches, DELIVER_ROWS)
    }
}
