//! Operators that keep state by key. What one keeps lies below its name in the state of its task, in the *lane* that it
//! works for: that of the stage, or that of a filling, which begins with nothing and is gone with the filling.

pub mod dedup;
pub mod in_order;

use bytes::Bytes;
use millstream_core::Result;
use millstream_storage::state::{State, Writes};

/// The lane of the stage itself.
pub const STAGE_LANE: &str = "";
/// The lane of a filling.
pub const FILL_LANE: &str = "fill/";
/// What the keys of each kind of operator begin with, behind their lane.
const KINDS: [&str; 2] = ["d/", "o/"];
/// Keys that are removed in one commit.
const REMOVE_KEYS: usize = 16 << 10;

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
