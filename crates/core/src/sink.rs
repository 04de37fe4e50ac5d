//! Where records go.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;

use crate::{Result, RowFailure};

/// Rows of one partition of one stream, on their way out.
#[derive(Debug, Clone)]
pub struct SinkBatch {
    /// The identity of the data folder that the rows come from: another folder counts its offsets from zero too.
    pub folder: Arc<str>,
    /// The stream's name, `news.changes` say.
    pub stream: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// The offset of each row; as long as the batch; ascending.
    pub offsets: Vec<u64>,
    /// The rows.
    pub batch: RecordBatch,
}

impl SinkBatch {
    /// The stable id of row `i`: the same after every restart, so that a consumer can drop a repeat.
    pub fn id(&self, i: usize) -> String {
        self.id_of(&self.offsets[i..=i])
    }

    /// The stable id of the rows at `offsets`, as every system outside is told it:
    /// `folder/stream/partition/offset`, or `…/first-last` of several rows. Empty of none.
    pub fn id_of(&self, offsets: &[u64]) -> String {
        let place = format_args!("{}/{}/{}", self.folder, self.stream, self.partition);
        match offsets {
            [first, .., last] => format!("{place}/{first}-{last}"),
            [one] => format!("{place}/{one}"),
            [] => String::new(),
        }
    }
}

/// A connector that hands records to a system which keeps them once it has said so (a broker, a web service).
///
/// `Ok` means: every row is stored by the other side, but for those in the answer, which it refused for good (they go
/// to the dead letter queue). After `Err` that may pass (`Retry`, `Unavailable`, `Environment`) the caller tries the
/// same batch again with back-off, for ever; after any other error the sink stops. A crash between acceptance and the
/// caller's commit repeats a batch with the same ids: delivery is at least once.
#[async_trait]
pub trait Sink: Send {
    /// Delivers the rows in order.
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>>;
}

/// A connector that holds records back and publishes them in one step (a file that appears when whole).
///
/// The caller stages batches, seals when due, stores the token **together with the offsets it covers**, then publishes.
/// After a crash it calls `recover` with the stored token: a sealed output is published (again, harmlessly), an
/// unsealed one is discarded, and the caller reads on from the stored offsets. Every row is published exactly once.
#[async_trait]
pub trait StagedSink: Send {
    /// Finishes what a crash may have interrupted: called before anything else, and again after any other call has
    /// failed, whose rows then come again. What was staged and not sealed is discarded.
    async fn recover(&mut self, token: Option<Bytes>) -> Result<()>;

    /// Takes rows in; nothing of them is visible yet.
    async fn stage(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>>;

    /// True where what is staged should be published now (size or time reached). `now_us` as in [`crate::Clock`].
    fn due(&self, now_us: i64) -> bool;

    /// Makes what is staged durable, and says how to publish it; `None` where nothing is staged.
    async fn seal(&mut self, now_us: i64) -> Result<Option<Bytes>>;

    /// Makes the sealed output visible. Doing it twice does no harm.
    async fn publish(&mut self, token: Bytes) -> Result<()>;
}

/// A sink of either kind.
pub enum AnySink {
    /// Delivers at once.
    Direct(Box<dyn Sink>),
    /// Publishes in one step.
    Staged(Box<dyn StagedSink>),
}

impl std::fmt::Debug for AnySink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Direct(_) => "Direct",
            Self::Staged(_) => "Staged",
        })
    }
}
