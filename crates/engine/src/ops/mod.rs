//! Operators that keep state by key. What one keeps lies below its name in the state of its task, in the *lane* that it
//! works for: that of the stage, or that of a filling, which begins with nothing and is gone with the filling.

pub mod dedup;
pub mod in_order;

use bytes::Bytes;
use millstream_core::Result;
use millstream_storage::log::Late;
use millstream_storage::state::{State, Writes};

use crate::streams::StreamBatch;

/// The lane of the stage itself.
pub const STAGE_LANE: &str = "";
/// The lane of a filling.
pub const FILL_LANE: &str = "fill/";
/// What the keys of each kind of operator begin with, behind their lane.
const KINDS: [&str; 2] = ["d/", "o/"];
/// Keys that are removed in one commit.
const REMOVE_KEYS: usize = 16 << 10;

/// Where the rows of one batch come from: records of it, or rows that waited, whose origins are beyond its last.
#[derive(Debug)]
pub struct Origins<'a> {
    input: &'a StreamBatch,
    /// Of the rows that waited: the watermark that was in front of those that came late.
    waited: Vec<Option<i64>>,
}

impl<'a> Origins<'a> {
    /// Those of a batch of which nothing was computed yet.
    pub fn new(input: &'a StreamBatch) -> Self {
        Self { input, waited: Vec::new() }
    }

    /// Gives a row that waited an origin.
    pub fn of_waited(&mut self, late_behind: Option<i64>) -> u32 {
        self.waited.push(late_behind);
        (self.input.batch.num_rows() + self.waited.len() - 1) as u32
    }

    /// The watermark that was in front of a row that came late; none of one that did not.
    pub fn late_behind(&self, origin: u32) -> Option<i64> {
        match (origin as usize).checked_sub(self.input.batch.num_rows()) {
            Some(waited) => self.waited.get(waited).copied().flatten(),
            None => self.input.late_behind(origin),
        }
    }

    /// A place for the row in the input of the stage: that of its record, or one behind them.
    pub fn offset(&self, origin: u32) -> u64 {
        self.input.base_offset + u64::from(origin)
    }

    /// Those of some rows that came late.
    pub fn late_among(&self, origins: &[u32]) -> Vec<Late> {
        if self.input.late.is_empty() && self.waited.is_empty() {
            return Vec::new();
        }
        let late = (0_u32..).zip(origins);
        late.filter_map(|(row, &origin)| Some(Late { row, watermark_us: self.late_behind(origin)? })).collect()
    }
}

/// Removes all that operators keep in a lane: they begin with nothing.
///
/// # Errors
/// The state can't be read or written.
pub async fn forget_all(state: &State, lane: &str) -> Result<()> {
    for kind in KINDS {
        let from = Bytes::from(format!("{lane}{kind}"));
        // The byte behind `/`.
        let until = Bytes::from(format!("{lane}{}0", kind.trim_end_matches('/')));
        let mut entries = state.scan(from..until).await?;
        let mut writes = Writes::new();
        while let Some((key, _)) = entries.next().await? {
            writes.delete(key);
            if writes.len() >= REMOVE_KEYS {
                state.commit(std::mem::take(&mut writes)).await?;
            }
        }
        state.commit(writes).await?;
    }
    Ok(())
}
