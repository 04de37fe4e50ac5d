//! Where records come from.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{RawBatch, Result};

/// A source's place, as a small map; the log keeps it. Keys and values belong to the source (a file's identity and its
/// byte offset, a feed's ETag, …).
pub type Cursor = BTreeMap<String, Bytes>;

/// Changes to a [`Cursor`], in order; `None` removes a key.
pub type CursorDelta = Vec<(String, Option<Bytes>)>;

/// A batch that a source has read.
#[derive(Debug, Default)]
pub struct SourceBatch {
    /// The records. May be empty where only the cursor moved.
    pub raw: RawBatch,
    /// What the source must know after a restart so as to go on behind this batch. It is stored in the same atomic
    /// write as the records.
    pub cursor: CursorDelta,
    /// Told when the batch is durable, for systems that wait for it. Dropped, not sent, where the batch was not stored:
    /// the upstream must then deliver it again.
    pub ack: Option<oneshot::Sender<()>>,
}

/// What a source answers to a read.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // A read nearly always gives a batch.
pub enum SourceRead {
    /// Records.
    Batch(SourceBatch),
    /// The source is at its end for now: it follows something that may grow, and everything there is has been read.
    /// Reading again waits for more.
    Idle,
    /// The source is bounded and at its end. It is not read again.
    Finished,
}

/// A connector that reads.
///
/// It is opened with the cursor that the log kept, and must go on exactly behind it: what it read before, but did not
/// see stored, it reads again. `next` is cancel-safe: a dropped call loses no record. Errors of kind `Retry` are
/// retried by the caller with back-off on the same object; any other error stops the source.
#[async_trait]
pub trait Source: Send {
    /// Waits for the next batch, at most about 1 MiB or 8,192 records, unless a single record is larger.
    async fn next(&mut self) -> Result<SourceRead>;
}
