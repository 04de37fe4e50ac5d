//! What a connector is told when it is opened, and what a source says while it runs.

use std::fmt;
use std::sync::Arc;

use millstream_core::{Clock, Cursor};

use crate::format::{Framing, TextEncoding};

/// What a source is told when it is opened.
#[derive(Clone)]
pub struct SourceContext {
    /// The source's name in the pipeline file, for messages.
    pub name: Arc<str>,
    /// The place to go on behind, as the log kept it; empty for the first start.
    pub cursor: Cursor,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How the decoder wants bytes cut into records.
    pub framing: Framing,
    /// The encoding of what is read, where the bytes do not say it themselves; none is UTF-8.
    pub encoding: Option<TextEncoding>,
    /// Told when the source begins to wait for its system, at each attempt that fails, and when it gets on.
    pub status: Status,
}

/// Takes a source's state.
pub type Status = Arc<dyn Fn(SourceStatus<'_>) + Send + Sync>;

/// How it goes between a source and its system. `part` tells several systems of one source apart (the feeds of a list);
/// it is empty where there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceStatus<'a> {
    /// An attempt failed; there will be another.
    Waiting {
        /// Which system.
        part: &'a str,
        /// What went wrong: holds no number that changes from attempt to attempt, and no secret.
        why: &'a str,
    },
    /// It is connected, or has answered.
    Works {
        /// Which system.
        part: &'a str,
    },
    /// Something was not as it should be, and does not hold the source up.
    Trouble {
        /// What.
        why: &'a str,
    },
}

impl SourceContext {
    /// A first start, with the machine's clock and nobody listening to the status.
    pub fn new(name: impl Into<Arc<str>>, framing: Framing) -> Self {
        Self {
            name: name.into(),
            cursor: Cursor::new(),
            clock: Arc::new(millstream_core::SystemClock),
            framing,
            encoding: None,
            status: Arc::new(|_| {}),
        }
    }

    /// A seed for jitter: different for each source and each start.
    pub(crate) fn seed(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64_with_seed(self.name.as_bytes(), self.clock.now_us() as u64)
    }
}

impl fmt::Debug for SourceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceContext")
            .field("name", &self.name)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

/// What a sink is told when it is opened.
#[derive(Clone)]
pub struct SinkContext {
    /// The sink's name in the pipeline file.
    pub name: Arc<str>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The pipeline's name.
    pub pipeline: Arc<str>,
}

impl fmt::Debug for SinkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkContext")
            .field("name", &self.name)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}
