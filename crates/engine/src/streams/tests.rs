//! Tests of chunks and batches: which event time they have.

use std::path::Path;

use arrow::array::{ArrayRef, Int64Array, TimestampMicrosecondArray};
use millstream_core::ManualClock;
use millstream_core::disk::{FaultyDisk, SlowDisk};
use millstream_storage::log::{Append, LogOptions, Retention, Watermark};

use super::*;
use crate::heard::{Heard, Place};
use crate::spec::RetentionSpec;

fn rows(times: &[Option<i64>]) -> RecordBatch {
    let times = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
    let ids = Int64Array::from_iter_values(0..times.len() as i64);
    let columns: [(&str, ArrayRef, bool); 2] = [("id", Arc::new(ids), false), ("at", Arc::new(times), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

struct World {
    _folder: tempfile::TempDir,
    stream: Stream,
}

/// A source of one partition with the columns `id` and `at`.
pub fn source_plan(event_time: Option<usize>) -> StreamPlan {
    StreamPlan {
        name: "wire".into(),
        partitions: 1,
        schema: rows(&[]).schema(),
        key: Vec::new(),
        event_time,
        retention: RetentionSpec { time: None, size: None },
        keeps_time: false,
        kind: StreamKind::Source,
    }
}

fn world(event_time: Option<usize>, log: Log) -> World {
    let folder = tempfile::tempdir().unwrap();
    let schemas = SchemaStore::open(folder.path()).unwrap();
    World { _folder: folder, stream: Stream::new(source_plan(event_time), log, schemas).unwrap() }
}

fn memory(options: LogOptions) -> Log {
    Log::memory("wire", options, Arc::new(ManualClock::new(9_000_000)))
}

async fn store(stream: &Stream, chunks: Vec<Chunk>) {
    stream.log.append(Append { producer: "wire".into(), sequence: None, cursor: Vec::new(), chunks }).await.unwrap();
}

async fn read(stream: &Stream) -> Vec<StreamBatch> {
    stream.reader(0, 0).unwrap().read(1 << 20).await.unwrap()
}

#[tokio::test]
async fn a_row_has_its_own_event_time_or_none_and_never_the_present() {
    for event_time in [Some(1), None] {
        let world = world(event_time, memory(LogOptions::new(1)));
        let stream = &world.stream;
        let chunks = stream.chunks(&rows(&[Some(5), None, Some(3)]), 0, None).unwrap();
        assert_eq!(chunks[0].event_time_max_us, event_time.map(|_| 5));
        store(stream, chunks).await;
        let batch = read(stream).await.remove(0);
        let times: Vec<_> = (0..4).map(|row| batch.event_time_us(row)).collect();
        assert_eq!(times, if event_time.is_some() { [Some(5), None, Some(3), None] } else { [None; 4] });
        assert_eq!(batch.newest_us(), if event_time.is_some() { 5 } else { 9_000_000 });
        let behind = batch.from_offset(2);
        assert_eq!(behind.event_time_us(0), event_time.map(|_| 3), "cut with its rows");
    }
}

#[tokio::test]
async fn rows_are_read_past_control_chunks_which_come_once_to_who_wants_them() {
    let world = world(None, memory(LogOptions::new(1)));
    let stream = &world.stream;
    let rows = |n: usize| stream.chunks(&rows(&vec![None; n]), 0, None).unwrap().remove(0);
    let mut rows_only = stream.reader(0, 0).unwrap();
    let control = |time| Chunk::control(0, Watermark::At(time));
    store(stream, vec![rows(2), control(1), control(2), rows(1), control(3)]).await;
    let mut all = stream.reader(0, 1).unwrap();
    let read = rows_only.read(1).await.unwrap();
    assert_eq!(read.iter().map(|b| (b.base_offset, b.end_offset())).collect::<Vec<_>>(), [(0, 2)]);
    let read = rows_only.read(1).await.unwrap();
    assert_eq!(read.iter().map(|b| (b.base_offset, b.end_offset())).collect::<Vec<_>>(), [(4, 5)]);
    assert!(rows_only.read(1).await.unwrap().is_empty());
    assert_eq!(rows_only.position(), 6, "not woken again by what it has passed");
    let seen = |b: &StreamBatch| (b.base_offset, b.end_offset(), b.words[0].watermark);
    let read = all.read_all(1 << 20).await.unwrap();
    let mark = |time| Some(Watermark::At(time));
    let expected = [(1, 2, None), (2, 3, mark(1)), (3, 4, mark(2)), (4, 5, None), (5, 6, mark(3))];
    assert_eq!(read.iter().map(seen).collect::<Vec<_>>(), expected);
    assert!(all.read_all(1).await.unwrap().is_empty());
}

type Said = (Option<Place>, Option<Watermark>);

/// What a batch is, in short: offsets, values, late rows, what it says.
fn shape(batch: &StreamBatch) -> (u64, u64, usize, Vec<u32>, Vec<Said>) {
    let late = batch.late.iter().map(|late| late.row).collect();
    let words = batch.words.iter().map(|word| (word.place, word.watermark)).collect();
    (batch.base_offset, batch.end_offset(), batch.batch.num_rows(), late, words)
}

#[tokio::test]
async fn neighbours_are_joined_and_cut_with_what_they_say() {
    let world = world(None, memory(LogOptions::new(1)));
    let stream = &world.stream;
    let at = |time| Some(Watermark::At(time));
    let rows = |n: usize, late: &[u32], time| {
        let late: Vec<Late> = late.iter().map(|&row| Late { row, watermark_us: 9 }).collect();
        let chunk = stream.chunks_with(&rows(&vec![None; n]), &late, 0, None).unwrap().remove(0);
        Chunk { watermark: at(time), ..chunk }
    };
    for (sequence, chunk) in [
        (1, rows(2, &[1], 1)),
        (2, rows(3, &[0, 2], 2)),
        (3, Chunk::control(0, Watermark::Idle)),
        (3, Chunk::control(0, Watermark::At(3))),
        (4, rows(1, &[], 4)),
        (5, rows(2, &[1], 5)),
        (6, rows(2, &[0], 6)),
    ] {
        let (producer, cursor, chunks) = ("task/0".into(), Vec::new(), vec![chunk]);
        stream.log.append(Append { producer, sequence: Some(sequence), cursor, chunks }).await.unwrap();
    }
    // The log drops what has sequence 3 a second time.
    let read = stream.reader(0, 0).unwrap().read_all(1 << 20).await.unwrap();
    let joined = StreamBatch::regroup(read.clone(), 100).unwrap();
    let expected = [
        (0, 6, 5, vec![1, 2, 4], vec![(Some((3, 0)), Some(Watermark::Idle))]),
        (6, 11, 5, vec![2, 3], vec![(Some((6, 0)), at(6))]),
    ];
    assert_eq!(joined.iter().map(shape).collect::<Vec<_>>(), expected);
    let cut = StreamBatch::regroup(read.clone(), 3).unwrap();
    let expected = [
        // What a chunk says is known behind its last row only.
        (0, 3, 3, vec![1, 2], vec![(Some((1, 0)), at(1))]),
        (3, 6, 2, vec![1], vec![(Some((3, 0)), Some(Watermark::Idle))]),
        (6, 9, 3, vec![2], vec![(Some((5, 0)), at(5))]),
        (9, 11, 2, vec![0], vec![(Some((6, 0)), at(6))]),
    ];
    assert_eq!(cut.iter().map(shape).collect::<Vec<_>>(), expected);
    assert_eq!(shape(&joined[0].clone().from_offset(4)), (4, 6, 1, vec![0], shape(&joined[0]).4));
    assert_eq!(shape(&joined[0].clone().before_offset(4).unwrap()), (0, 4, 4, vec![1, 2], vec![]));
    assert_eq!(joined[0].clone().from_offset(5).end_offset(), 6, "only what controls take is left");
    assert!(joined[0].clone().before_offset(0).is_none());
    let halves: Vec<_> = joined[0].clone().halves().map(|half| shape(&half)).collect();
    assert_eq!((halves[0].1, halves[1].0, halves[1].1), (2, 2, 6));
    let mut heard = Heard::default();
    heard.take_all(&joined[0].words);
    let mut again = read;
    heard.drop_repeats(&mut again);
    let again = StreamBatch::regroup(again, 100).unwrap();
    assert_eq!(again.iter().map(shape).collect::<Vec<_>>().last(), Some(&shape(&joined[1])));
    assert_eq!(again.iter().map(|batch| batch.batch.num_rows()).sum::<usize>(), 5, "all others are repeats");
    assert_eq!((again[0].base_offset, again[0].end_offset()), (0, 6), "but take their offsets");
}

#[tokio::test]
async fn rows_from_a_slow_disk_hold_up_nobody_on_the_only_thread() {
    let slow = SlowDisk::new(Arc::new(FaultyDisk::new()));
    let open = |log: Result<Log>| world(Some(1), log.unwrap());
    let clock = Arc::new(ManualClock::new(0));
    let dir = Path::new("/wire");
    let first = open(Log::open(Arc::new(slow.clone()), dir, "wire", LogOptions::new(1), clock));
    store(&first.stream, first.stream.chunks(&rows(&[Some(1), Some(2)]), 0, None).unwrap()).await;
    first.stream.log.close().await.unwrap();
    let stream =
        Stream { log: Log::open_read_only(Arc::new(slow.clone()), dir, "wire").unwrap(), ..first.stream.clone() };
    let mut reader = stream.reader(0, 1).unwrap();
    slow.hold();
    let others = async {
        while slow.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(tokio::spawn(async { 7 }).await.unwrap(), 7);
        slow.release();
    };
    let (read, ()) = tokio::join!(reader.read(1 << 20), others);
    let batch = read.unwrap().remove(0);
    assert_eq!((batch.base_offset, batch.batch.num_rows(), batch.event_time_us(0)), (1, 1, Some(2)));
}

#[tokio::test]
async fn a_reader_that_comes_too_late_says_how_much_is_gone() {
    let options = LogOptions { retention: Retention { age_ms: None, bytes: Some(0) }, ..LogOptions::new(1) };
    let world = world(None, memory(options));
    let stream = &world.stream;
    for _ in 0..5 {
        store(stream, stream.chunks(&rows(&[None, None]), 0, None).unwrap()).await;
    }
    let mut reader = stream.reader(0, 1).unwrap();
    stream.log.blocking_retain(0, &|_| u64::MAX).unwrap();
    assert_eq!(reader.read(1 << 20).await.unwrap()[0].base_offset, 8);
    assert_eq!((reader.skipped(), reader.skipped()), (7, 0));
}
