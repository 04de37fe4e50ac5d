//! Reading beside everything else: on a runtime of one thread, whoever waits for the disk holds up nobody.

use millstream_core::disk::SlowDisk;

use super::*;

/// A log of some segments at rest, on a disk that can be held.
async fn at_rest() -> (SlowDisk, Log) {
    let slow = SlowDisk::new(Arc::new(FaultyDisk::new()));
    let open = || {
        let clock = Arc::new(ManualClock::new(1_000_000));
        Log::open(Arc::new(slow.clone()), Path::new(DIR), "wire", small_segments(1), clock)
    };
    let log = open().unwrap();
    for n in 0..20_u8 {
        log.append(append("task", u64::from(n), vec![chunk(0, 1, vec![n; 100])])).await.unwrap();
    }
    log.close().await.unwrap();
    (slow.clone(), Log::open_read_only(Arc::new(slow), Path::new(DIR), "wire").unwrap())
}

/// Returns once a call waits at the disk. Hangs up the runtime's only thread for nobody.
async fn waits(slow: &SlowDisk) {
    while slow.waiting() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_read_that_waits_for_the_disk_holds_up_nobody() {
    let (slow, log) = at_rest().await;
    let mut reader = log.reader(0, 0).unwrap();
    slow.hold();
    let others = async {
        waits(&slow).await;
        assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
        slow.release();
    };
    let (read, ()) = tokio::join!(reader.read(100), others);
    assert_eq!(read.unwrap()[0].payload, vec![0; 100]);
    slow.hold();
    let others = async {
        waits(&slow).await;
        slow.release();
    };
    let (at, ()) = tokio::join!(log.offset_at(0, 0), others);
    assert_eq!(at.unwrap(), 0);
}

#[tokio::test]
async fn a_read_that_is_dropped_has_read_nothing() {
    let (slow, log) = at_rest().await;
    let mut reader = log.reader(0, 0).unwrap();
    let first = reader.read(1).await.unwrap();
    assert_eq!((first.len(), reader.position()), (1, 1));
    slow.hold();
    tokio::select! {
        biased;
        read = async { reader.seek(15); reader.read(1).await } => panic!("the disk is held: {read:?}"),
        () = waits(&slow) => {}
    }
    slow.release();
    assert_eq!(reader.position(), 15);
    assert_eq!(reader.read(1).await.unwrap()[0].base_offset, 15);
}

#[tokio::test]
async fn what_is_in_memory_is_read_without_the_disk() {
    let slow = SlowDisk::new(Arc::new(FaultyDisk::new()));
    let clock = Arc::new(ManualClock::new(1_000_000));
    let log = Log::open(Arc::new(slow.clone()), Path::new(DIR), "wire", LogOptions::new(1), clock).unwrap();
    slow.hold();
    let mut reader = log.reader(0, 0).unwrap();
    assert!(reader.read(100).await.unwrap().is_empty());
    log.append(append("task", 1, vec![chunk(0, 1, "x"), Chunk::control(0, Watermark::Idle)])).await.unwrap();
    assert_eq!(reader.read(1000).await.unwrap().len(), 2);
    assert_eq!(slow.waiting(), 0);
    slow.release();
}
