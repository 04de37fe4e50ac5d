//! Tests of the log: promises one by one here, against a model and byte by byte in the modules below.

mod apart;
mod conformance;
mod control;
mod damage;
mod model;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use millstream_core::disk::{Disk, Fault, FaultyDisk, RealDisk};
use millstream_core::{Clock, Error, ErrorKind, ManualClock, Result};

use super::*;

const DIR: &str = "/data/wire";

fn open(disk: &FaultyDisk, options: LogOptions) -> Result<DiskLog> {
    open_at(disk, options, Arc::new(ManualClock::new(1_000_000)))
}

fn open_at(disk: &FaultyDisk, options: LogOptions, clock: Arc<dyn Clock>) -> Result<DiskLog> {
    DiskLog::open(Arc::new(disk.clone()), Path::new(DIR), "wire", options, clock)
}

fn small_segments(partitions: u32) -> LogOptions {
    LogOptions { segment_bytes_max: 400, ..LogOptions::new(partitions) }
}

fn chunk(partition: u32, count: u32, payload: impl Into<Bytes>) -> Chunk {
    Chunk::rows(partition, count, 7, payload.into())
}

fn append(producer: &str, sequence: impl Into<Option<u64>>, chunks: Vec<Chunk>) -> Append {
    Append { producer: producer.into(), sequence: sequence.into(), cursor: Vec::new(), chunks }
}

/// Everything of a partition from `from` on, a little at a time.
fn read_from(log: &DiskLog, partition: u32, from: u64) -> Result<Vec<LogChunk>> {
    let mut reader = log.reader(partition, from)?;
    let mut all = Vec::new();
    loop {
        let chunks = reader.read(100)?;
        if chunks.is_empty() {
            return Ok(all);
        }
        all.extend(chunks);
    }
}

fn read_all(log: &DiskLog, partition: u32) -> Result<Vec<LogChunk>> {
    read_from(log, partition, 0)
}

#[tokio::test]
async fn what_was_appended_is_read_back_before_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("wire");
    let open = || {
        let clock = Arc::new(ManualClock::new(5_000_000));
        DiskLog::open(Arc::new(RealDisk), &dir, "wire", LogOptions::new(2), clock).unwrap()
    };
    let large = vec![9; 3 << 20];
    let log = open();
    let mut stored = append("file", 1, vec![chunk(0, 3, "abc"), chunk(1, 1, large.clone()), chunk(0, 2, "")]);
    stored.chunks[0].event_time_max_us = Some(-5);
    stored.chunks[0].target = Some("scored".into());
    stored.cursor = vec![("inode 7".into(), Some("99".into())), ("gone".into(), None)];
    let answer = log.append(stored).await.unwrap();
    assert_eq!(answer, Appended { first_offsets: vec![0, 0, 3], duplicate: false });
    log.append(append("predict", None, vec![chunk(DEAD_LETTERS, 1, "bad")])).await.unwrap();
    let before: Vec<_> = [0, 1, DEAD_LETTERS].map(|p| read_all(&log, p).unwrap()).into();
    assert_eq!(before[0].len(), 2);
    assert_eq!(before[0][0].target.as_deref(), Some("scored"));
    assert_eq!(before[0][0].append_time_ms, 5_000);
    assert_eq!(before[1][0].payload, large);
    assert_eq!(before[2][0].payload, "bad");
    log.close().await.unwrap();
    assert!(log.append(append("file", 2, vec![])).await.is_err(), "closed");
    assert!(log.changed(0, 5).await.is_err());

    let log = open();
    assert_eq!([0, 1, DEAD_LETTERS].map(|p| read_all(&log, p).unwrap()).to_vec(), before);
    assert_eq!([0, 1, DEAD_LETTERS].map(|p| log.end_offset(p)), [5, 1, 1]);
    let state = log.producer("file").unwrap();
    assert_eq!(state.sequence, Some(1));
    assert_eq!(state.cursor.into_iter().collect::<Vec<_>>(), [("inode 7".to_owned(), Bytes::from("99"))]);
    assert_eq!(log.producer("predict"), None);
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_sequence_that_was_seen_is_dropped_in_the_group_and_after_a_restart() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions::new(1)).unwrap();
    let twice = join_all([7, 7, 6, 8].map(|s| log.append(append("task", s, vec![chunk(0, 1, "x")])))).await;
    let duplicates: Vec<bool> = twice.into_iter().map(|a| a.unwrap().duplicate).collect();
    assert_eq!(duplicates, [false, true, true, false]);
    log.close().await.unwrap();
    let log = open(&disk, LogOptions::new(1)).unwrap();
    assert!(log.append(append("task", 8, vec![chunk(0, 1, "x")])).await.unwrap().duplicate);
    assert!(!log.append(append("other", 8, vec![chunk(0, 1, "x")])).await.unwrap().duplicate);
    assert_eq!(log.end_offset(0), 3);
}

#[tokio::test]
async fn an_append_is_whole_or_absent_wherever_the_power_is_cut() {
    let (mut whole, mut absent) = (0, 0);
    for step in 0..12 {
        for seed in 0..24 {
            let disk = FaultyDisk::new();
            let log = open(&disk, small_segments(3)).unwrap();
            log.append(append("task", 1, vec![chunk(0, 1, vec![1; 300])])).await.unwrap();
            disk.fail_at(disk.steps() + step, Fault::PowerCut);
            let parts = [0, 1, 2, DEAD_LETTERS];
            let mut second = append("task", 2, parts.map(|p| chunk(p, 2, vec![2; 900])).to_vec());
            second.cursor = vec![("at".into(), Some("2".into()))];
            let acknowledged = log.append(second).await.is_ok();
            drop(log);
            disk.crash(seed);
            let log = open(&disk, small_segments(3)).unwrap();
            let ends = parts.map(|p| log.end_offset(p));
            let state = log.producer("task").unwrap();
            if ends == [3, 2, 2, 2] {
                whole += 1;
                assert_eq!((state.sequence, state.cursor.len()), (Some(2), 1));
                assert!(parts.iter().all(|&p| read_all(&log, p).unwrap().last().unwrap().payload == vec![2; 900]));
            } else {
                absent += 1;
                assert!(!acknowledged, "step {step}, seed {seed}: {ends:?}");
                assert_eq!(ends, [1, 0, 0, 0]);
                assert_eq!((state.sequence, state.cursor.len()), (Some(1), 0));
            }
        }
    }
    assert!(whole > 0 && absent > 0, "both happen: {whole} {absent}");
}

#[tokio::test]
async fn after_a_failed_write_or_sync_nothing_more_is_taken_until_the_log_is_opened_again() {
    for (step, fault) in [(0, Fault::NoSpace), (1, Fault::Error), (0, Fault::Torn(70))] {
        let disk = FaultyDisk::new();
        let log = open(&disk, LogOptions::new(1)).unwrap();
        log.append(append("task", 1, vec![chunk(0, 1, "kept")])).await.unwrap();
        disk.fail_at(disk.steps() + step, fault);
        let failed = log.append(append("task", 2, vec![chunk(0, 1, vec![1; 2000])])).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Environment);
        if fault == Fault::NoSpace {
            assert!(failed.to_string().contains("free some space"), "{failed}");
        }
        assert!(log.append(append("task", 3, vec![])).await.is_err());
        assert!(log.changed(0, 1).await.is_err());
        assert!(log.close().await.is_err());
        assert_eq!(read_all(&log, 0).unwrap().len(), 1, "what was acknowledged is still readable");
        drop(log);
        // The process starts again, the machine does not; then the power goes after another append.
        let log = open(&disk, LogOptions::new(1)).unwrap();
        log.append(append("task", 3, vec![chunk(0, 1, "after")])).await.unwrap();
        drop(log);
        disk.crash(1);
        let log = open(&disk, LogOptions::new(1)).unwrap();
        let found = read_all(&log, 0).unwrap();
        assert_eq!((&found[0].payload[..], &found[found.len() - 1].payload[..]), (&b"kept"[..], &b"after"[..]));
    }
}

#[tokio::test]
async fn an_open_that_failed_half_way_leaves_nothing_that_a_later_power_cut_could_take() {
    for step in 0..10 {
        for seed in 0..8 {
            let disk = FaultyDisk::new();
            disk.fail_at(step, Fault::Error);
            drop(open(&disk, LogOptions::new(1)));
            disk.heal();
            let log = open(&disk, LogOptions::new(1)).unwrap();
            log.append(append("task", 1, vec![chunk(0, 1, "kept")])).await.unwrap();
            drop(log);
            disk.crash(seed);
            let log = open(&disk, LogOptions::new(1)).unwrap();
            assert_eq!(read_all(&log, 0).unwrap().len(), 1, "step {step}, seed {seed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everyone_who_waits_gets_an_answer_when_the_log_fails() {
    // From other threads, against the writer's last moments: an answer must come whatever the race.
    for round in 0..2_000 {
        let disk = FaultyDisk::new();
        let log = open(&disk, LogOptions::new(1)).unwrap();
        disk.fail_at(disk.steps() + round % 4, Fault::Error);
        let appends = (0..4).map(|_| {
            let log = log.clone();
            tokio::spawn(async move {
                let some = || join_all((0..20).map(|_| log.append(append("task", None, vec![chunk(0, 1, "x")]))));
                while some().await.iter().all(Result::is_ok) {}
            })
        });
        for append in appends.collect::<Vec<_>>() {
            append.await.unwrap();
        }
        assert!(log.close().await.is_err());
    }
}

#[tokio::test]
async fn old_segments_go_by_age_and_size_but_not_before_they_are_read() {
    let disk = FaultyDisk::new();
    let clock = Arc::new(ManualClock::new(0));
    let options = LogOptions { retention: Retention { age_ms: Some(10_000), bytes: Some(3_000) }, ..small_segments(2) };
    let log = open_at(&disk, options.clone(), clock.clone()).unwrap();
    for i in 0..20_u64 {
        clock.advance_us(1_000_000);
        log.append(append("task", i, vec![chunk((i % 2) as u32, 1, vec![i as u8; 300])])).await.unwrap();
    }
    let before = log.bytes();
    let all = [0, 1].map(|p| read_all(&log, p).unwrap());
    let held = log.retain(20_000, &|p| if p == 1 { 0 } else { u64::MAX }).unwrap();
    assert!(held.held_back && held.segments <= 1, "{held:?}");
    let done = log.retain(20_000, &|p| if p == DEAD_LETTERS { 0 } else { 8 }).unwrap();
    assert!(done.segments > 0 && done.bytes == before - log.bytes() - held.bytes);
    assert!(log.bytes() <= 3_000 || done.held_back);
    for (p, all) in [0, 1].into_iter().zip(&all) {
        let start = log.start_offset(p);
        assert!((1..=8).contains(&start), "{start}");
        assert_eq!(read_all(&log, p).unwrap(), all[start as usize..], "reading from 0 begins at the start");
    }
    // Nothing of the newest segment goes, and no state is lost with the old ones.
    log.retain(i64::MAX, &|_| u64::MAX).unwrap();
    assert_eq!(log.end_offset(0), 10);
    let start = log.start_offset(0);
    log.close().await.unwrap();
    let log = open_at(&disk, options, clock).unwrap();
    assert_eq!((log.start_offset(0), log.end_offset(0)), (start, 10));
    assert_eq!(log.producer("task").unwrap().sequence, Some(19));
    assert_eq!(disk.list(Path::new(DIR)).unwrap().iter().filter(|n| n.ends_with(".seg")).count(), 1);
}

#[tokio::test]
async fn a_segment_that_could_not_be_deleted_is_deleted_before_any_later_one() {
    let disk = FaultyDisk::new();
    let options = LogOptions { retention: Retention { age_ms: None, bytes: Some(0) }, ..small_segments(1) };
    let log = open(&disk, options.clone()).unwrap();
    for i in 0..8 {
        log.append(append("task", i, vec![chunk(0, 1, vec![1; 300])])).await.unwrap();
    }
    disk.fail_at(disk.steps() + 1, Fault::Error);
    assert!(log.retain(0, &|_| u64::MAX).is_err());
    log.retain(0, &|_| u64::MAX).unwrap();
    let left = read_all(&log, 0).unwrap();
    drop(log);
    disk.crash(3);
    assert_eq!(read_all(&open(&disk, options).unwrap(), 0).unwrap(), left);
}

#[tokio::test]
async fn a_time_finds_the_first_chunk_appended_at_or_after_it() {
    let disk = FaultyDisk::new();
    let clock = Arc::new(ManualClock::new(0));
    let log = open_at(&disk, small_segments(2), clock.clone()).unwrap();
    for i in 0..30_u32 {
        clock.advance_us(10_000);
        log.append(append("task", None, vec![chunk(u32::from(i % 5 == 0), 3, vec![1; 50])])).await.unwrap();
    }
    for partition in [0, 1] {
        let chunks = read_all(&log, partition).unwrap();
        for time in -5..320 {
            let first = chunks.iter().find(|c| c.append_time_ms >= time).map(|c| c.base_offset);
            let expected = first.unwrap_or(log.end_offset(partition));
            assert_eq!(log.offset_at(partition, time).unwrap(), expected, "time {time}");
        }
    }
}

#[tokio::test]
async fn back_pressure_sees_about_how_much_is_unread() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions { segment_bytes_max: 64 << 10, ..LogOptions::new(2) }).unwrap();
    for _ in 0..300 {
        log.append(append("task", None, vec![chunk(0, 10, vec![1; 1000]), chunk(1, 1, "x")])).await.unwrap();
    }
    for log in [log.clone(), open_read_only(&disk)] {
        assert_eq!(log.bytes_behind(0, 3000), 0);
        assert_eq!(log.bytes_behind(0, 0), 300_000);
        for offset in (0..3000).step_by(37) {
            let exact = (3000 - offset) * 100;
            assert!(log.bytes_behind(0, offset).abs_diff(exact) <= 64 << 10, "{offset}");
        }
        assert_eq!(log.bytes_behind(1, 0), 300);
        assert_eq!(log.bytes_behind(DEAD_LETTERS, 0), 0);
    }
}

fn open_read_only(disk: &FaultyDisk) -> DiskLog {
    DiskLog::open_read_only(Arc::new(disk.clone()), Path::new(DIR), "wire").unwrap()
}

#[tokio::test]
async fn partitions_can_be_added_but_not_taken_away() {
    let disk = FaultyDisk::new();
    let log = open(&disk, LogOptions::new(2)).unwrap();
    log.append(append("task", 1, vec![chunk(1, 1, "old"), chunk(DEAD_LETTERS, 1, "bad")])).await.unwrap();
    log.close().await.unwrap();
    let log = open(&disk, LogOptions::new(5)).unwrap();
    assert_eq!(log.append(append("task", 2, vec![chunk(4, 1, "new")])).await.unwrap().first_offsets, [0]);
    assert_eq!(read_all(&log, 1).unwrap()[0].payload, "old");
    assert_eq!(read_all(&log, DEAD_LETTERS).unwrap()[0].payload, "bad");
    log.close().await.unwrap();
    let error = open(&disk, LogOptions::new(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("`partitions: 5`"), "{error}");
    assert_eq!(open_read_only(&disk).partitions(), 5);
    let log = open(&disk, LogOptions::new(5)).unwrap();
    assert_eq!(read_all(&log, 4).unwrap()[0].payload, "new");
    assert!(log.append(append("task", 3, vec![chunk(5, 1, "x")])).await.is_err());
    assert!(log.reader(5, 0).is_err());
}

#[tokio::test]
async fn a_reader_waits_for_more_and_follows_across_segments() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(1)).unwrap();
    let writer = log.clone();
    let writing = tokio::spawn(async move {
        for i in 0..50_u8 {
            writer.append(append("task", None, vec![chunk(0, 2, vec![i; 90])])).await.unwrap();
        }
    });
    let mut reader = log.reader(0, 0).unwrap();
    let mut next = 0;
    while next < 50 {
        log.changed(0, reader.position()).await.unwrap();
        for chunk in reader.read(150).unwrap() {
            assert_eq!((chunk.base_offset, chunk.payload[0]), (u64::from(next) * 2, next));
            next += 1;
        }
    }
    writing.await.unwrap();
    assert!(reader.read(1).unwrap().is_empty());
    reader.seek(31);
    assert_eq!(reader.read(1).unwrap()[0].base_offset, 30, "the chunk that holds the offset");
    assert_eq!(log.reader(0, 101).unwrap_err().kind(), ErrorKind::Input);
}

#[tokio::test]
async fn reading_at_rest_changes_nothing_and_does_not_see_a_torn_tail() {
    let disk = FaultyDisk::new();
    let log = open(&disk, small_segments(1)).unwrap();
    for i in 0..5 {
        log.append(append("task", i, vec![chunk(0, 1, vec![1; 200])])).await.unwrap();
    }
    disk.fail_at(disk.steps(), Fault::Torn(100));
    assert!(log.append(append("task", 9, vec![chunk(0, 1, vec![1; 200])])).await.is_err());
    drop(log);
    let steps = disk.steps();
    let at_rest = open_read_only(&disk);
    assert_eq!(read_all(&at_rest, 0).unwrap().len(), 5);
    assert_eq!(at_rest.producer("task").unwrap().sequence, Some(4));
    assert!(at_rest.append(append("task", 9, vec![])).await.is_err());
    assert!(at_rest.changed(0, 5).await.is_err());
    assert!(at_rest.retain(0, &|_| u64::MAX).is_err());
    assert_eq!(disk.steps(), steps);
    let nowhere = DiskLog::open_read_only(Arc::new(disk), Path::new("/data/none"), "none").unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Input);
}

#[tokio::test]
async fn nothing_is_acknowledged_into_a_file_that_was_removed_moved_or_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (data, moved) = (folder.path().join("data"), folder.path().join("moved"));
    let dir = data.join("wire");
    let open = || {
        let clock = Arc::new(ManualClock::new(5_000_000));
        DiskLog::open(Arc::new(RealDisk), &dir, "wire", small_segments(1), clock)
    };
    let log = open().unwrap();
    let store = |record: &'static str| log.append(append("p", None, vec![chunk(0, 1, record)]));
    store("first").await.unwrap();
    // A folder above it is moved, and put back: the log goes on, and nothing of the refused is there.
    std::fs::rename(&data, &moved).unwrap();
    for _ in 0..3 {
        let refused = store("lost").await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Environment);
        assert!(refused.to_string().contains("removed, moved or replaced"), "{refused}");
    }
    assert_eq!(log.end_offset(0), 1);
    std::fs::rename(&moved, &data).unwrap();
    store("second").await.unwrap();
    log.close().await.unwrap();
    let log = open().unwrap();
    let payloads = |log: &DiskLog| read_all(log, 0).unwrap().into_iter().map(|c| c.payload).collect::<Vec<_>>();
    assert_eq!(payloads(&log), ["first", "second"]);
    let store = |record: &'static str| log.append(append("p", None, vec![chunk(0, 1, record)]));
    // A copy in its place is another file.
    std::fs::create_dir_all(&moved).unwrap();
    for file in std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap()) {
        std::fs::copy(file.path(), moved.join(file.file_name())).unwrap();
    }
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::rename(&moved, &dir).unwrap();
    store("lost").await.unwrap_err();
    // Gone altogether, and with a frame that would need a new segment.
    std::fs::remove_dir_all(&dir).unwrap();
    store("lost").await.unwrap_err();
    let large = chunk(0, 1, vec![b'x'; 1000]);
    log.append(append("p", None, vec![large])).await.unwrap_err();
    assert!(!dir.exists());
    assert_eq!(log.end_offset(0), 2);
}
