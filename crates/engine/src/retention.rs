//! Removing what is old from the logs, as far as everybody has read it. A task of its own: it waits for disks, and nothing
//! waits for it.

use millstream_core::{Clock, Result};
use millstream_storage::log::DEAD_LETTERS;
use tokio_util::sync::CancellationToken;

use crate::dead_letters;
use crate::progress::Progress;
use crate::streams::Streams;

/// Goes through all streams once, or until `stop` is cancelled. Blocks.
///
/// # Errors
/// The disk refuses.
pub fn retain(streams: &Streams, progress: &Progress, clock: &dyn Clock, stop: &CancellationToken) -> Result<()> {
    for stream in streams.values().take_while(|_| !stop.is_cancelled()) {
        let oldest_letter = dead_letters::oldest(&stream.log);
        let keep_from = |partition| match partition {
            DEAD_LETTERS => oldest_letter,
            partition => progress.lowest_offset(stream.name(), partition),
        };
        let report = stream.log.blocking_retain(clock.now_ms(), &keep_from)?;
        if report.segments > 0 {
            tracing::info!(stream = %stream.name(), segments = report.segments, "old segments removed");
        }
    }
    Ok(())
}
