//! What every source promises.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Cursor, Result, Source, SourceBatch, SourceRead};
use serde_json::{Value, json};

use super::files::{BoundedFile, FollowedFile};
use super::services::{Events, Feed, Lines, Socket};
use super::{PATIENCE, group, suite};
use crate::format::Framing;
use crate::test_server::install_tls;
use crate::{Intake, SourceConfig, SourceContext};

/// Records of most tests: each about 20 KB, so that they are several batches.
const RECORDS: u64 = 120;
const BYTES: usize = 20_000;
/// Small records, more than go into a batch.
const MANY: u64 = 9_000;
/// What a batch holds at most, unless a single record is larger.
const BATCH_RECORDS: usize = 8_192;
const BATCH_BYTES: usize = 1 << 20;
/// A limit for single records, and what is below it.
const LIMIT: &str = "8KiB";
const BELOW: usize = 100;
/// How long nothing must come where nothing may.
const QUIET: Duration = Duration::from_millis(100);

/// A record as a system is given it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record {
    pub n: u64,
    /// About its size.
    pub bytes: usize,
    /// The source will refuse it.
    pub is_over: bool,
}

impl Record {
    pub(super) fn text(&self) -> String {
        json!({ "n": self.n, "pad": "x".repeat(self.bytes) }).to_string()
    }
}

/// A system that a source reads, with records that go up by their numbers.
#[async_trait]
pub(super) trait System: Send + Sync {
    /// One that is empty.
    async fn start() -> Self
    where
        Self: Sized;

    /// The settings of a source that reads it.
    fn settings(&self) -> Value;

    /// Puts records behind all others.
    fn add(&self, records: &[Record]);

    /// The number of a record, as the source hands it out.
    fn number(&self, record: &[u8]) -> u64 {
        let record: Value = serde_json::from_slice(record).unwrap();
        record["n"].as_u64().unwrap()
    }
}

/// A system that can be away, and break off.
pub(super) trait Unsteady: System {
    /// Takes it away, or brings it back.
    fn set_away(&self, is_away: bool);

    /// What is transferred next breaks off in the middle of a record.
    fn tear(&self);
}

group!(every_source:
    each_record_comes_once_and_in_order
    no_batch_is_larger_than_agreed
    a_read_that_is_dropped_loses_nothing
    nobody_upstream_is_told_of_what_was_not_asked_for
);
group!(replays:
    the_cursor_of_each_batch_goes_on_exactly_behind_it
    what_was_not_stored_is_read_again
);
group!(ends: it_ends_and_stays_at_its_end_and_a_second_run_reads_what_is_new);
group!(goes_on: what_comes_later_is_read_and_it_never_ends);
group!(limits: a_record_over_the_limit_fails_alone);
group!(can_be_away:
    a_system_that_is_away_is_waited_for
    a_transfer_that_breaks_off_in_a_record_loses_and_doubles_nothing
);
group!(replays_when_back: a_restart_while_the_system_is_away_goes_on_behind_the_cursor);

suite!(file: BoundedFile => every_source replays ends limits);
suite!(followed_file: FollowedFile => every_source replays goes_on limits can_be_away replays_when_back);
suite!(feed: Feed => every_source replays goes_on can_be_away replays_when_back);
suite!(http_stream_events: Events => every_source replays goes_on limits can_be_away replays_when_back);
suite!(http_stream_lines: Lines => every_source goes_on limits can_be_away);
suite!(websocket: Socket => every_source goes_on limits can_be_away);

fn records(numbers: std::ops::Range<u64>, bytes: usize) -> Vec<Record> {
    numbers.map(|n| Record { n, bytes, is_over: false }).collect()
}

fn open(system: &dyn System, cursor: &Cursor, more: Value) -> Box<dyn Source> {
    install_tls();
    let mut settings = system.settings();
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config: SourceConfig = serde_json::from_value(settings).unwrap();
    let context = SourceContext { cursor: cursor.clone(), ..SourceContext::new("in", Framing::Lines) };
    let connector = config.settings().check(Path::new("")).unwrap();
    let Intake::Pull(pull) = connector.intake() else { panic!("it is pushed to") };
    pull.open(context).unwrap()
}

/// What a pipeline has stored.
#[derive(Debug, Default, Clone)]
struct Stored {
    cursor: Cursor,
    numbers: Vec<u64>,
    refused: usize,
}

impl Stored {
    fn store(&mut self, system: &dyn System, batch: SourceBatch) {
        for (key, value) in batch.cursor {
            match value {
                Some(value) => self.cursor.insert(key, value),
                None => self.cursor.remove(&key),
            };
        }
        let (records, bytes) = (batch.raw.len(), batch.raw.spans.iter().map(ExactSizeIterator::len));
        assert!(records <= BATCH_RECORDS, "{records} records in a batch");
        // It is full with the record that goes over the limit.
        let before_last: usize = bytes.take(records.saturating_sub(1)).sum();
        assert!(before_last <= BATCH_BYTES, "{before_last} bytes in a batch, without its last record");
        for row in 0..records {
            match batch.raw.refused.iter().any(|refused| refused.row as usize == row) {
                true => self.refused += 1,
                false => self.numbers.push(system.number(batch.raw.record(row))),
            }
        }
    }

    /// Takes what a read gave; false at the end of the source.
    fn take(&mut self, system: &dyn System, read: Result<SourceRead>) -> bool {
        match read {
            Ok(SourceRead::Batch(batch)) => self.store(system, batch),
            Ok(SourceRead::Idle) => {}
            Ok(SourceRead::Finished) => return false,
            Err(e) => assert!(e.is_retry(), "only what may pass is an error: {e:?}"),
        }
        true
    }

    /// Reads until so many records have come, or the source is at its end.
    async fn read(&mut self, system: &dyn System, source: &mut dyn Source, records: usize) {
        while self.numbers.len() < records && self.take(system, source.next().await) {}
    }

    /// Reads on for a while, in which nothing comes.
    async fn nothing_more(&mut self, system: &dyn System, source: &mut dyn Source) {
        let known = self.numbers.len();
        // What does not end is quiet until the time is over.
        let _ = tokio::time::timeout(QUIET, self.read(system, source, known + 1)).await;
        assert_eq!(self.numbers[known..], [] as [u64; 0], "it came a second time");
    }
}

fn all(records: u64) -> Vec<u64> {
    (0..records).collect()
}

async fn each_record_comes_once_and_in_order(system: &dyn System) {
    system.add(&records(0..RECORDS, BYTES));
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    stored.read(system, &mut *source, RECORDS as usize).await;
    assert_eq!(stored.numbers, all(RECORDS));
    stored.nothing_more(system, &mut *source).await;
}

async fn no_batch_is_larger_than_agreed(system: &dyn System) {
    system.add(&records(0..MANY, 0));
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    stored.read(system, &mut *source, MANY as usize).await;
    assert_eq!(stored.numbers, all(MANY));
}

async fn a_read_that_is_dropped_loses_nothing(system: &dyn System) {
    system.add(&records(0..RECORDS, BYTES));
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    let mut dropped = 0;
    while stored.numbers.len() < RECORDS as usize {
        match source.next().now_or_never() {
            Some(read) => assert!(stored.take(system, read), "it ended with {:?}", stored.numbers),
            None => {
                dropped += 1;
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
    }
    assert_eq!(stored.numbers, all(RECORDS));
    assert!(dropped > 0, "no read was dropped");
    stored.nothing_more(system, &mut *source).await;
}

/// A source without acknowledgements has only its cursor; one with them must not lose what was dropped.
async fn nobody_upstream_is_told_of_what_was_not_asked_for(system: &dyn System) {
    system.add(&records(0..RECORDS, BYTES));
    let mut source = open(system, &Cursor::new(), json!({}));
    let mut stored = Stored::default();
    while stored.numbers.is_empty() {
        match source.next().await.unwrap() {
            SourceRead::Batch(batch) => {
                assert!(batch.ack.is_none(), "say in a promise of this suite what its acknowledgement means");
                stored.store(system, batch);
            }
            SourceRead::Idle => {}
            SourceRead::Finished => panic!("it ended with nothing"),
        }
    }
    // The next batch does not wait for this one to be stored.
    stored.read(system, &mut *source, RECORDS as usize).await;
    assert_eq!(stored.numbers, all(RECORDS));
}

async fn the_cursor_of_each_batch_goes_on_exactly_behind_it(system: &dyn System) {
    system.add(&records(0..RECORDS, BYTES));
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    let mut marks = vec![stored.clone()];
    while stored.numbers.len() < RECORDS as usize && stored.take(system, source.next().await) {
        marks.push(stored.clone());
    }
    assert_eq!(stored.numbers, all(RECORDS));
    assert!(marks.len() > 2, "one batch proves little");
    for mut stored in marks {
        let known = stored.numbers.len();
        let mut source = open(system, &stored.cursor, json!({}));
        stored.read(system, &mut *source, RECORDS as usize).await;
        assert_eq!(stored.numbers, all(RECORDS), "behind {known} records");
        stored.nothing_more(system, &mut *source).await;
    }
}

async fn what_was_not_stored_is_read_again(system: &dyn System) {
    system.add(&records(0..RECORDS, BYTES));
    for round in 0..3 {
        let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
        // Nothing of this is stored, so the next one begins at the beginning.
        stored.read(system, &mut *source, if round < 2 { 1 } else { RECORDS as usize }).await;
        assert_eq!(stored.numbers, all(stored.numbers.len() as u64));
        assert!(round < 2 || stored.numbers.len() as u64 == RECORDS);
    }
}

async fn it_ends_and_stays_at_its_end_and_a_second_run_reads_what_is_new(system: &dyn System) {
    let mut stored = Stored::default();
    for run in 0..3 {
        system.add(&records(run * RECORDS..(run + 1) * RECORDS, BYTES));
        let mut source = open(system, &stored.cursor, json!({}));
        stored.read(system, &mut *source, usize::MAX).await;
        assert_eq!(stored.numbers, all((run + 1) * RECORDS));
        assert!(matches!(source.next().await, Ok(SourceRead::Finished)), "it is read again after its end");
    }
    let mut source = open(system, &stored.cursor, json!({}));
    stored.read(system, &mut *source, usize::MAX).await;
    assert_eq!(stored.numbers, all(3 * RECORDS), "there was nothing new");
}

async fn what_comes_later_is_read_and_it_never_ends(system: &dyn System) {
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    for step in 1..=10 {
        system.add(&records(4 * (step - 1)..4 * step, BELOW));
        stored.read(system, &mut *source, 4 * step as usize).await;
        assert_eq!(stored.numbers, all(4 * step));
    }
    let end = async { while stored.take(system, source.next().await) {} };
    assert!(tokio::time::timeout(QUIET, end).await.is_err(), "it says that it is at its end");
}

async fn a_record_over_the_limit_fails_alone(system: &dyn System) {
    let mut given = records(0..8, BELOW);
    given[3] = Record { n: 3, bytes: 10 * BYTES, is_over: true };
    system.add(&given);
    let mut source = open(system, &Cursor::new(), json!({ "max_record": LIMIT }));
    let mut stored = Stored::default();
    stored.read(system, &mut *source, 7).await;
    assert_eq!((stored.numbers.as_slice(), stored.refused), (&[0, 1, 2, 4, 5, 6, 7][..], 1));
}

async fn a_system_that_is_away_is_waited_for<S: Unsteady>(system: &S) {
    system.set_away(true);
    system.add(&records(0..RECORDS, BELOW));
    let (mut stored, mut source) = (Stored::default(), open(system, &Cursor::new(), json!({})));
    for part in [40, RECORDS] {
        // Whatever it says meanwhile, it is neither an end nor an error that stops it.
        let waited = tokio::time::timeout(QUIET, stored.read(system, &mut *source, usize::MAX)).await;
        assert!(waited.is_err(), "it did not wait");
        system.set_away(false);
        stored.read(system, &mut *source, part as usize).await;
        system.set_away(true);
    }
    assert_eq!(stored.numbers, all(RECORDS));
}

async fn a_transfer_that_breaks_off_in_a_record_loses_and_doubles_nothing<S: Unsteady>(system: &S) {
    let mut stored = Stored::default();
    let mut source = open(system, &Cursor::new(), json!({}));
    for step in 1..=5 {
        system.tear();
        system.add(&records(10 * (step - 1)..10 * step, BELOW));
        stored.read(system, &mut *source, 10 * step as usize).await;
        assert_eq!(stored.numbers, all(10 * step));
    }
    stored.nothing_more(system, &mut *source).await;
}

async fn a_restart_while_the_system_is_away_goes_on_behind_the_cursor<S: Unsteady>(system: &S) {
    system.add(&records(0..10, BELOW));
    let mut stored = Stored::default();
    let mut source = open(system, &Cursor::new(), json!({}));
    stored.read(system, &mut *source, 10).await;
    // The batch that only moves the cursor may come behind the last record.
    stored.nothing_more(system, &mut *source).await;
    drop(source);
    system.set_away(true);
    system.add(&records(10..20, BELOW));
    let mut source = open(system, &stored.cursor, json!({}));
    let waited = tokio::time::timeout(QUIET, stored.read(system, &mut *source, 11)).await;
    assert!(waited.is_err(), "{:?}", stored.numbers);
    system.set_away(false);
    stored.read(system, &mut *source, 20).await;
    assert_eq!(stored.numbers, all(20));
    stored.nothing_more(system, &mut *source).await;
}
