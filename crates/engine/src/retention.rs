//! Removing what is old from the logs, as far as everybody has read it. A task of its own: it waits for disks, and
//! nothing waits for it.

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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use millstream_core::ManualClock;
    use millstream_core::blocking::apart;
    use millstream_core::disk::{FaultyDisk, SlowDisk};
    use millstream_storage::codec::SchemaStore;
    use millstream_storage::log::{Append, Chunk, Log, LogOptions, Retention};

    use super::*;
    use crate::streams::Stream;
    use crate::streams::tests::source_plan;

    struct World {
        _folder: tempfile::TempDir,
        slow: SlowDisk,
        streams: Arc<Streams>,
        clock: Arc<ManualClock>,
    }

    /// A stream of many segments that are all due.
    async fn world() -> World {
        let folder = tempfile::tempdir().unwrap();
        let schemas = SchemaStore::open(folder.path()).unwrap();
        let slow = SlowDisk::new(Arc::new(FaultyDisk::new()));
        let clock = Arc::new(ManualClock::new(0));
        let retention = Retention { age_ms: Some(1_000), bytes: None };
        let options = LogOptions { segment_bytes_max: 300, retention, ..LogOptions::new(1) };
        let log = Log::open(Arc::new(slow.clone()), Path::new("/wire"), "wire", options, clock.clone()).unwrap();
        for n in 0..10_u64 {
            let chunks = vec![Chunk::rows(0, 1, 0, vec![0; 200].into()), Chunk::rows(DEAD_LETTERS, 1, 0, "x".into())];
            let cursor = vec![("0".into(), Some(n.to_string().into()))];
            log.append(Append { producer: "redrive".into(), sequence: None, cursor, chunks }).await.unwrap();
        }
        clock.advance_us(60_000_000);
        let stream = Stream::new(source_plan(None), log, schemas).unwrap();
        World { _folder: folder, slow, streams: Arc::new([("wire".into(), stream)].into()), clock }
    }

    impl World {
        fn retain(&self, stop: &CancellationToken) -> impl Future<Output = Result<()>> + use<> {
            let (streams, clock, stop) = (self.streams.clone(), self.clock.clone(), stop.clone());
            apart(move || retain(&streams, &Progress::default(), clock.as_ref(), &stop))
        }

        fn start(&self) -> u64 {
            self.streams["wire"].log.start_offset(0)
        }
    }

    #[tokio::test]
    async fn a_slow_disk_holds_up_nobody_on_the_only_thread() {
        let world = world().await;
        world.slow.hold();
        let others = async {
            while world.slow.waiting() == 0 {
                tokio::task::yield_now().await;
            }
            assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
            world.slow.release();
        };
        let (retained, ()) = tokio::join!(world.retain(&CancellationToken::new()), others);
        retained.unwrap();
        // Letters 0 to 8 were redriven; the one that was not is kept, and all that is in its segment.
        assert!((1..=9).contains(&world.start()), "{}", world.start());
    }

    #[tokio::test]
    async fn nothing_more_is_removed_when_the_pipeline_stops() {
        let world = world().await;
        let stop = CancellationToken::new();
        stop.cancel();
        world.retain(&stop).await.unwrap();
        assert_eq!(world.start(), 0);
    }
}
