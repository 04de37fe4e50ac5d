//! What every log promises, as tests that all of them pass: whoever writes another one adds it to [`suite`].

use std::collections::BTreeMap;

use super::*;

/// A way to have a log.
trait Kind {
    /// The log, with what was appended to it since the first call.
    fn open(&self, options: LogOptions) -> Log;

    fn clock(&self) -> &ManualClock;
}

struct OnDisk(FaultyDisk, Arc<ManualClock>);

impl Kind for OnDisk {
    fn open(&self, options: LogOptions) -> Log {
        // Many segments, so that most of what is read comes from files.
        let options = LogOptions { segment_bytes_max: 300, ..options };
        Log::open(Arc::new(self.0.clone()), Path::new(DIR), "wire", options, self.1.clone()).unwrap()
    }

    fn clock(&self) -> &ManualClock {
        &self.1
    }
}

struct InMemory(std::sync::OnceLock<Log>, Arc<ManualClock>);

impl Kind for InMemory {
    fn open(&self, options: LogOptions) -> Log {
        self.0.get_or_init(|| Log::memory("wire", options, self.1.clone())).clone()
    }

    fn clock(&self) -> &ManualClock {
        &self.1
    }
}

macro_rules! suite {
    ($kind:ident: $make:expr; $($promise:ident)*) => {
        mod $kind {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                super::$promise(&$make).await;
            })*
        }
    };
}

macro_rules! suites {
    ($($promise:ident)*) => {
        suite!(disk: OnDisk(FaultyDisk::new(), Arc::new(ManualClock::new(1_000_000))); $($promise)*);
        suite!(memory: InMemory(std::sync::OnceLock::new(), Arc::new(ManualClock::new(1_000_000))); $($promise)*);
    };
}

suites! {
    what_was_answered_is_there_whole_and_in_order
    offsets_are_dense_and_a_control_chunk_takes_one
    an_append_is_seen_in_all_of_its_partitions_with_its_cursor
    a_sequence_that_was_seen_is_dropped_and_a_reader_can_tell_repeats_itself
    reading_begins_anywhere_and_goes_on_where_it_ended
    a_read_gives_at_least_one_chunk_and_about_as_much_as_was_asked_for
    whoever_waits_is_woken_by_records_control_chunks_and_the_end
    retention_takes_what_is_due_and_read_and_a_reader_knows_what_it_missed
    many_append_at_once_and_each_is_in_its_own_order
    a_time_finds_the_first_chunk_that_was_appended_then_or_later
    what_is_wrong_is_refused_and_changes_nothing
    how_much_is_behind_an_offset_is_known_roughly
}

async fn all(log: &Log, partition: u32, from: u64) -> Vec<LogChunk> {
    let mut reader = log.reader(partition, from).unwrap();
    let mut found = Vec::new();
    loop {
        let chunks = reader.read(100).await.unwrap();
        if chunks.is_empty() {
            return found;
        }
        found.extend(chunks);
    }
}

/// One record in partition 0 that says `n`.
fn record(n: u64) -> Append {
    append("task", None, vec![chunk(0, 1, n.to_string())])
}

async fn what_was_answered_is_there_whole_and_in_order(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    let mut stored = chunk(1, 3, "abc");
    stored.event_time_max_us = Some(-5);
    stored.watermark = Some(Watermark::At(-9));
    stored.late = [Late { row: 0, watermark_us: -8 }, Late { row: 2, watermark_us: i64::MAX }].into();
    stored.target = Some("scored@2".into());
    for n in 0..30 {
        log.append(append("task", n, vec![chunk(0, 1, n.to_string()), stored.clone()])).await.unwrap();
    }
    log.close().await.unwrap();
    for log in [log, kind.open(LogOptions::new(2))] {
        let told = all(&log, 0, 0).await.into_iter().map(|c| (c.payload, c.producer, c.sequence, c.index));
        let expected = (0..30_u64).map(|n| (Bytes::from(n.to_string()), Arc::from("task"), Some(n), 0));
        assert_eq!(told.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
        let second = all(&log, 1, 0).await.remove(0);
        assert_eq!((second.event_time_max_us, second.watermark), (stored.event_time_max_us, stored.watermark));
        assert_eq!(second.late, stored.late);
        assert_eq!((second.target, second.schema, second.index), (stored.target.clone(), stored.schema, 1));
        assert_eq!(second.append_time_ms, 1_000);
    }
}

async fn offsets_are_dense_and_a_control_chunk_takes_one(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(1));
    let chunks = vec![chunk(0, 3, "a"), Chunk::control(0, Watermark::At(1)), chunk(0, 2, "b")];
    assert_eq!(log.append(append("task", 1, chunks)).await.unwrap().first_offsets, [0, 3, 4]);
    let idle = vec![Chunk::control(0, Watermark::Idle), Chunk::control(0, Watermark::End)];
    assert_eq!(log.append(append("task", 2, idle)).await.unwrap().first_offsets, [6, 7]);
    assert_eq!(log.append(append("task", 3, vec![chunk(0, 1, "c")])).await.unwrap().first_offsets, [8]);
    let found = all(&log, 0, 0).await;
    assert!(found.windows(2).all(|pair| pair[0].end_offset() == pair[1].base_offset));
    assert_eq!(found.iter().map(|c| c.count).collect::<Vec<_>>(), [3, 0, 2, 0, 0, 1]);
    assert_eq!((log.start_offset(0), log.end_offset(0)), (0, 9));
}

async fn an_append_is_seen_in_all_of_its_partitions_with_its_cursor(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    let watching = tokio::spawn({
        let log = log.clone();
        async move {
            // Whoever sees one part sees all of it.
            for n in 0..50 {
                log.changed(1, n).await.unwrap();
                assert!(log.end_offset(0) > n && log.end_offset(DEAD_LETTERS) > n);
                assert!(log.producer("wire").unwrap().sequence >= Some(n));
            }
        }
    });
    for n in 0..50 {
        let mut append = append("wire", n, [0, DEAD_LETTERS, 1].map(|p| chunk(p, 1, "x")).to_vec());
        append.cursor = vec![("file".into(), Some(n.to_string().into())), ("old".into(), None)];
        log.append(append).await.unwrap();
    }
    watching.await.unwrap();
    log.close().await.unwrap();
    let log = kind.open(LogOptions::new(2));
    let state = log.producer("wire").unwrap();
    assert_eq!((state.sequence, &state.cursor["file"]), (Some(49), &Bytes::from("49")));
    assert_eq!([0, 1, DEAD_LETTERS].map(|p| log.end_offset(p)), [50; 3]);
}

async fn a_sequence_that_was_seen_is_dropped_and_a_reader_can_tell_repeats_itself(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(1));
    let two = |sequence: u64| append("task", sequence, vec![chunk(0, 1, "x"), chunk(0, 1, "y")]);
    for (sequence, duplicate) in [(5, false), (5, true), (4, true), (9, false)] {
        assert_eq!(log.append(two(sequence)).await.unwrap().duplicate, duplicate);
    }
    log.append(append("other", 1, vec![chunk(0, 1, "z")])).await.unwrap();
    log.append(record(0)).await.unwrap();
    let found = all(&log, 0, 0).await;
    assert_eq!(found.len(), 6);
    // As if the log had delivered everything twice, and the reader had committed in the middle.
    let taken: BTreeMap<_, _> = found[..3].iter().map(|c| (c.producer.clone(), (c.sequence, c.index))).collect();
    let is_fresh =
        |c: &&LogChunk| c.sequence.is_none() || taken.get(&c.producer).is_none_or(|last| *last < (c.sequence, c.index));
    let fresh: Vec<u64> = found.iter().filter(is_fresh).map(|chunk| chunk.base_offset).collect();
    assert_eq!(fresh, [3, 4, 5], "one without a sequence can't be told from a repeat");
}

async fn reading_begins_anywhere_and_goes_on_where_it_ended(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    for n in 0..40_u64 {
        log.append(append("task", None, vec![chunk((n % 2) as u32, 3, n.to_string())])).await.unwrap();
    }
    for from in 0..=60 {
        let found = all(&log, 1, from).await;
        assert_eq!(found.first().map(|c| c.base_offset), (from < 60).then_some(from / 3 * 3), "the one that holds it");
        assert_eq!(found.len() as u64, 20 - from / 3);
    }
    let mut reader = log.reader(1, 7).unwrap();
    reader.read(1).await.unwrap();
    assert_eq!(reader.position(), 9);
    reader.seek(60);
    assert!(reader.read(1).await.unwrap().is_empty());
    reader.seek(31);
    assert_eq!(reader.read(1).await.unwrap()[0].base_offset, 30);
    assert_eq!(reader.read_kept(1).map(|c| c[0].base_offset).unwrap_or(33), 33);
    assert_eq!(log.reader(1, 61).unwrap_err().kind(), ErrorKind::Input);
    assert_eq!(log.reader(2, 0).unwrap_err().kind(), ErrorKind::Bug);
}

async fn a_read_gives_at_least_one_chunk_and_about_as_much_as_was_asked_for(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(1));
    for _ in 0..20 {
        log.append(append("task", None, vec![chunk(0, 1, vec![0; 1000])])).await.unwrap();
    }
    let mut reader = log.reader(0, 0).unwrap();
    assert_eq!(reader.read(10).await.unwrap().len(), 1);
    for _ in 0..3 {
        assert!((1..=5).contains(&reader.read(5_000).await.unwrap().len()));
    }
}

async fn whoever_waits_is_woken_by_records_control_chunks_and_the_end(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    let mut reader = log.reader(1, 0).unwrap();
    let chunks = [chunk(1, 2, "a"), Chunk::control(1, Watermark::At(3)), Chunk::control(1, Watermark::Idle)];
    for sent in chunks {
        let waiting = tokio::spawn({
            let (log, at) = (log.clone(), reader.position());
            async move { log.changed(1, at).await }
        });
        log.append(append("task", None, vec![chunk(0, 1, "not for it")])).await.unwrap();
        log.append(append("task", None, vec![sent.clone()])).await.unwrap();
        waiting.await.unwrap().unwrap();
        let found = reader.read(1000).await.unwrap();
        assert_eq!(found.iter().map(|c| (c.count, c.watermark)).collect::<Vec<_>>(), [(sent.count, sent.watermark)]);
        assert!(reader.read(1000).await.unwrap().is_empty());
    }
    let waiting = tokio::spawn({
        let log = log.clone();
        async move { log.changed(1, 4).await }
    });
    log.close().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Environment);
    assert_eq!(log.append(record(0)).await.unwrap_err().kind(), ErrorKind::Environment);
    log.changed(1, 3).await.unwrap();
    assert_eq!(all(&log, 1, 0).await.len(), 3, "what is there can still be read");
}

async fn retention_takes_what_is_due_and_read_and_a_reader_knows_what_it_missed(kind: &dyn Kind) {
    let retention = Retention { age_ms: Some(10_000), bytes: None };
    let log = kind.open(LogOptions { retention, ..LogOptions::new(1) });
    let mut reader = log.reader(0, 0).unwrap();
    for n in 0..30 {
        kind.clock().advance_us(1_000_000);
        log.append(append("task", n, vec![chunk(0, 1, vec![n as u8; 200])])).await.unwrap();
    }
    assert_eq!(reader.read(1).await.unwrap().len(), 1);
    assert_eq!((reader.position(), reader.skipped()), (1, 0));
    let bytes = log.bytes();
    assert!(log.blocking_retain(41_000, &|_| 4).unwrap().held_back);
    assert!(log.start_offset(0) <= 4, "not what is still to be read");
    let report = log.blocking_retain(41_000, &|p| if p == 0 { u64::MAX } else { 0 }).unwrap();
    assert!(!report.held_back && log.bytes() < bytes);
    let start = log.start_offset(0);
    assert!((5..30).contains(&start), "{start}");
    assert_eq!(reader.read(1).await.unwrap()[0].base_offset, start);
    assert_eq!((reader.skipped(), reader.skipped()), (start - 1, 0), "said once");
    let mut reader = log.reader(0, 2).unwrap();
    reader.read(1).await.unwrap();
    assert_eq!(reader.skipped(), start - 2);
    log.blocking_retain(i64::MAX, &|_| u64::MAX).unwrap();
    assert!(log.start_offset(0) < log.end_offset(0), "the newest stays");
    assert_eq!(log.producer("task").unwrap().sequence, Some(29), "and so does what is known of producers");
    assert_eq!(log.append(append("task", 30, vec![chunk(0, 1, "x")])).await.unwrap().first_offsets, [30]);
}

async fn many_append_at_once_and_each_is_in_its_own_order(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(1));
    let appenders = (0..8_u64).map(|task| {
        let log = log.clone();
        tokio::spawn(async move {
            for n in 1..=40 {
                let append = append(&task.to_string(), n, vec![chunk(0, 1, "x")]);
                let answer = log.append(append).await.unwrap();
                assert!(!answer.duplicate && log.end_offset(0) > answer.first_offsets[0]);
            }
        })
    });
    for appender in appenders.collect::<Vec<_>>() {
        appender.await.unwrap();
    }
    let found = all(&log, 0, 0).await;
    assert_eq!(found.len(), 320);
    for task in 0..8 {
        let of_task = found.iter().filter(|c| *c.producer == *task.to_string());
        assert!(of_task.map(|c| c.sequence.unwrap()).eq(1..=40));
    }
}

async fn a_time_finds_the_first_chunk_that_was_appended_then_or_later(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    for n in 0..20 {
        log.append(append("task", None, vec![chunk(u32::from(n % 4 == 0), 2, vec![0; 60])])).await.unwrap();
        kind.clock().advance_us(5_000);
    }
    for partition in [0, 1] {
        let found = all(&log, partition, 0).await;
        for time in 990..1_110 {
            let first = found.iter().find(|c| c.append_time_ms >= time).map(|c| c.base_offset);
            let at = log.offset_at(partition, time).await.unwrap();
            assert_eq!(at, first.unwrap_or(log.end_offset(partition)));
        }
    }
}

async fn what_is_wrong_is_refused_and_changes_nothing(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(1));
    let good = chunk(0, 1, "x");
    for wrong in [chunk(1, 1, "no such partition"), chunk(0, 0, "no records"), Chunk { count: 0, ..good.clone() }] {
        let error = log.append(append("task", 1, vec![good.clone(), wrong])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Bug);
    }
    assert_eq!((log.end_offset(0), log.producer("task")), (0, None));
    assert!(log.append(append("task", None, vec![])).await.unwrap().first_offsets.is_empty());
    assert_eq!(log.append(append("task", 1, vec![good])).await.unwrap().first_offsets, [0]);
}

async fn how_much_is_behind_an_offset_is_known_roughly(kind: &dyn Kind) {
    let log = kind.open(LogOptions::new(2));
    for _ in 0..100 {
        log.append(append("task", None, vec![chunk(0, 10, vec![1; 100])])).await.unwrap();
    }
    assert_eq!((log.bytes_behind(0, 0), log.bytes_behind(0, 1_000), log.bytes_behind(1, 0)), (10_000, 0, 0));
    assert!(log.bytes_behind(0, 500).abs_diff(5_000) <= 1_000);
    assert!(log.bytes() >= 10_000);
}
