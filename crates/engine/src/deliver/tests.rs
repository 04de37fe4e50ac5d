//! A sink over a real log and a real state: what it has committed after a crash, and what it does with that.

mod fakes;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use bytes::Bytes;
use millstream_connectors::SinkSettings;
use millstream_connectors::stdout::StdoutSinkConfig;
use millstream_core::disk::RealDisk;
use millstream_core::{
    AnySink, Clock, Error, ErrorKind, Failure, FailureKind, Result, RowFailure, Rows, Stage, SystemClock,
};
use millstream_storage::codec::SchemaStore;
use millstream_storage::log::{Append, Chunk, Log, LogOptions, Retention};
use millstream_storage::state::{State, StateOptions, Writes, local_store};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::fakes::{Got, direct, schema, staged};
use super::*;
use crate::data_dir::DataDir;
use crate::dead_letters::{Filter, scan};
use crate::failures::{FailedRows, Reject};
use crate::health::{ComponentKind, Health};
use crate::metrics::Metrics;
use crate::outbox::{COMMIT_KEY, Commit, Offset};
use crate::plan::{StreamKind, StreamPlan};
use crate::progress::Progress;
use crate::spec::{CommitSpec, OnError, RetentionSpec, SinkSpec, Start};
use crate::streams::{Stream, StreamBatch, Streams};
use crate::task::Hurry;

const PIECE: u64 = super::input::DELIVER_ROWS as u64;

/// A data folder with one stream.
struct Place {
    dir: TempDir,
    clock: Arc<dyn Clock>,
    schemas: Arc<SchemaStore>,
    metrics: Arc<Metrics>,
    stream: Stream,
}

/// A sink at work.
struct Running {
    wish: watch::Sender<Wish>,
    run: JoinHandle<Result<()>>,
    state: State,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let schemas = SchemaStore::open(&dir.path().join("schemas")).unwrap();
        let plan = StreamPlan {
            name: "wire".into(),
            partitions: 1,
            schema: schema(),
            key: Vec::new(),
            event_time: None,
            retention: RetentionSpec { time: None, size: None },
            keeps_time: false,
            kind: StreamKind::Source,
        };
        let retention = Retention { age_ms: None, bytes: Some(1) };
        let options = LogOptions { segment_bytes_max: 4096, retention, ..LogOptions::new(1) };
        let log = Log::open(Arc::new(RealDisk), &dir.path().join("log"), "wire", options, clock.clone()).unwrap();
        let stream = Stream::new(plan, log, schemas.clone()).unwrap();
        Self { dir, clock, schemas, metrics: Arc::default(), stream }
    }

    /// A folder with the numbers below `rows` in its stream.
    async fn with(rows: u64) -> Self {
        let place = Self::new();
        place.add(rows).await;
        place
    }

    async fn add(&self, rows: u64) {
        let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from_iter_values(0..rows as i64))]);
        let chunks = self.stream.chunks(&batch.unwrap(), 0, None).unwrap();
        self.append(chunks).await;
    }

    async fn append(&self, chunks: Vec<Chunk>) {
        let append = Append { producer: "wire".into(), sequence: None, cursor: Vec::new(), chunks };
        self.stream.log.append(append).await.unwrap();
    }

    async fn state(&self) -> State {
        let store = local_store(&self.dir.path().join("state")).unwrap();
        State::open(store, &DataDir::sink_state_path("out"), &state_options(&StateOptions::default())).await.unwrap()
    }

    async fn store(&self, commit: &Commit) {
        let mut writes = Writes::new();
        writes.put(COMMIT_KEY, commit.encode());
        let state = self.state().await;
        state.commit(writes).await.unwrap();
        state.close().await.unwrap();
    }

    fn context(&self, progress: Progress) -> TaskContext {
        let names = [(ComponentKind::Sink, Arc::from("out"))];
        TaskContext {
            streams: Arc::new(Streams::from([("wire".into(), self.stream.clone())])),
            schemas: self.schemas.clone(),
            clock: self.clock.clone(),
            progress: Arc::new(progress),
            metrics: self.metrics.clone(),
            health: Arc::new(Health::new(names, &self.clock, &self.metrics)),
            watchers: Arc::default(),
            stop: CancellationToken::new(),
            hurry: Hurry::default(),
            pipeline_version: "v".into(),
            backlog_max: u64::MAX,
            commit: CommitSpec { interval: Duration::ZERO, bytes: 512 << 10 },
            folder: "folder".into(),
        }
    }

    async fn open(&self, sink: AnySink, start: Start, wish: &watch::Sender<Wish>) -> Result<(Deliver, State)> {
        let mut progress = Progress::default();
        let positions = vec![progress.add_reader(sink_target("out"), "wire".into(), 1, false)];
        let spec = SinkSpec {
            name: "out".into(),
            from: vec!["wire".into()],
            start,
            schema: schema(),
            connector: StdoutSinkConfig::default().check(std::path::Path::new(""), &schema()).unwrap(),
            on_error: OnError::DeadLetter,
        };
        let state = self.state().await;
        let opening = Opening { state: state.clone(), positions, is_known: start == Start::Latest };
        let deliver = Deliver::open(self.context(progress), Arc::new(spec), sink, opening, wish.subscribe()).await?;
        Ok((deliver, state))
    }

    async fn start(&self, sink: AnySink) -> Running {
        let (wish, _) = watch::channel(Wish::Run);
        let (deliver, state) = self.open(sink, Start::Earliest, &wish).await.unwrap();
        Running { wish, run: tokio::spawn(deliver.run()), state }
    }

    /// Delivers all there is.
    async fn run(&self, sink: AnySink) {
        let running = self.start(sink).await;
        running.wish.send_replace(Wish::Drain);
        running.committed(self.stream.log.end_offset(0)).await;
        running.wish.send_replace(Wish::Stop);
        running.run.await.unwrap().unwrap();
    }

    /// Opens a sink and does nothing else.
    async fn refuses(&self) -> Error {
        let (wish, _) = watch::channel(Wish::Run);
        self.open(direct(&Got::default(), 0), Start::Earliest, &wish).await.unwrap_err()
    }

    /// The offsets of the records that are dead letters.
    fn letters(&self) -> Vec<u64> {
        let mut letters = Vec::new();
        scan(&self.stream.log, &self.schemas, &Filter::default(), &mut |entry| {
            letters.push(entry.letter.offset.unwrap());
            true
        })
        .unwrap();
        letters
    }

    /// A letter of the record at an offset, as a sink that refuses it makes it.
    fn letter(&self, offset: u64) -> Chunk {
        let rows = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![offset as i64]))]).unwrap();
        let piece = StreamBatch { base_offset: offset, ..StreamBatch::alone(rows.clone(), None, 0) };
        let reject = Reject {
            component: &"out".into(),
            component_kind: "sink",
            on_error: OnError::DeadLetter,
            stream: self.stream.name(),
            input: &piece,
            now_us: 0,
            pipeline_version: "v",
        };
        let (rows, failures) =
            (Rows::all(rows), [RowFailure { row: 0, failure: Failure::new(FailureKind::Rejected, "it is odd") }]);
        let letters = reject.letters(&FailedRows::of(Stage::Deliver, &rows, &failures)).unwrap();
        self.stream.dead_letters_chunk(&letters).unwrap().unwrap()
    }

    fn commit(&self, sequence: u64, next: u64, letters: Vec<Chunk>) -> Commit {
        Commit::of_one(sequence, Offset::at(self.stream.name().clone(), 0, next), vec![("wire".into(), letters)])
    }
}

impl Running {
    /// Waits until the state says that the sink is at `offset`.
    async fn committed(&self, offset: u64) {
        let at = async || {
            let stored = self.state.get(COMMIT_KEY).await.unwrap();
            stored.and_then(|bytes| Commit::decode(bytes).unwrap().next_offset("wire", 0))
        };
        let reached = async {
            while at().await != Some(offset) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), reached).await;
        assert!(waited.is_ok(), "it is at {:?}, not {offset}", at().await);
    }

    /// What a crash leaves: nothing is finished.
    async fn kill(self) {
        self.run.abort();
        assert!(self.run.await.unwrap_err().is_cancelled());
    }
}

fn odd(below: u64) -> Vec<u64> {
    (0..below).filter(|n| n % 2 == 1).collect()
}

fn even(below: u64) -> Vec<i64> {
    (0..below as i64).filter(|n| n % 2 == 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_killed_at_every_piece_gets_on_and_puts_nothing_aside_twice() {
    let place = Place::with(3 * PIECE).await;
    let got = Got::default();
    for piece in 1..=3 {
        let running = place.start(direct(&got, 1)).await;
        running.committed(piece * PIECE).await;
        running.kill().await;
        // The commit may have been all that was done: the letters are there at the next start at the latest.
        drop(place.open(direct(&got, 0), Start::Earliest, &watch::channel(Wish::Run).0).await.unwrap());
        assert_eq!(place.letters(), odd(piece * PIECE));
        assert_eq!(*got.lock(), even(piece * PIECE));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_is_committed_while_the_next_piece_is_not_answered() {
    let place = Place::with(4 * PIECE).await;
    let got = Got::default();
    // The first commit is at once, the next pieces come before another one is due.
    let running = place.start(direct(&got, 3)).await;
    running.committed(3 * PIECE).await;
    let sequence = Commit::decode(running.state.get(COMMIT_KEY).await.unwrap().unwrap()).unwrap().sequence;
    assert!((3..=4).contains(&sequence), "where it began, then fewer commits than pieces or as many: {sequence}");
    running.kill().await;
    assert_eq!(*got.lock(), even(3 * PIECE));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_commit_that_did_not_reach_the_log_are_there_after_the_next_start_and_once() {
    let place = Place::with(4).await;
    place.store(&place.commit(1, 4, vec![place.letter(1), place.letter(3)])).await;
    assert_eq!(place.letters(), Vec::<u64>::new());
    let got = Got::default();
    for _ in 0..2 {
        place.run(direct(&got, 1)).await;
        assert_eq!(place.letters(), [1, 3]);
    }
    assert_eq!(*got.lock(), Vec::<i64>::new(), "a record that is put aside is not delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_staged_sink_has_put_aside_before_it_begins_anew_is_put_aside_once() {
    let place = Place::with(3 * PIECE).await;
    let got = Got::default();
    place.run(staged(&got, None)).await;
    assert_eq!(*got.lock(), even(3 * PIECE));
    assert_eq!(place.letters(), odd(3 * PIECE));
    let counted = format!("dlq_records_total{{stage=\"deliver\",component_id=\"out\",error_type=\"{}\"}} ", "rejected");
    let metrics = place.metrics.text(&[]);
    assert!(metrics.contains(&format!("{counted}{}\n", 3 * PIECE / 2)), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sealed_and_not_published_is_recovered_with_its_letters_until_another_commit() {
    let place = Place::with(4).await;
    let sealed = Bytes::from_static(b"sealed");
    place.store(&Commit { token: Some(sealed.clone()), ..place.commit(1, 4, vec![place.letter(1)]) }).await;
    let got = Got::default();
    // A start that ends before it has settled leaves it as it is.
    drop(place.open(staged(&got, None), Start::Earliest, &watch::channel(Wish::Run).0).await.unwrap());
    place.run(staged(&got, Some(sealed))).await;
    assert_eq!((got.lock().len(), place.letters()), (0, vec![1]));
    place.run(staged(&got, None)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_belong_to_its_logs_is_refused() {
    let place = Place::with(4).await;
    place.store(&place.commit(0, 5, Vec::new())).await;
    let refused = place.refuses().await;
    assert_eq!(refused.kind(), ErrorKind::Corruption);
    assert!(refused.to_string().contains("sink out is at offset 5 of wire partition 0"), "{refused}");
    place.store(&place.commit(7, 2, vec![place.letter(1)])).await;
    place.run(direct(&Got::default(), 1)).await;
    place.store(&place.commit(6, 2, Vec::new())).await;
    let refused = place.refuses().await;
    assert_eq!(refused.kind(), ErrorKind::Corruption);
    assert!(refused.to_string().contains("is older than what it has written"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_has_lost_its_state_delivers_all_again_and_its_letters_are_no_repeats_to_the_log() {
    let place = Place::with(4).await;
    place.run(direct(&Got::default(), 1)).await;
    std::fs::remove_dir_all(place.dir.path().join("state")).unwrap();
    // By the log alone, whoever knows it; and by the catalog, though it would begin with what is new.
    let got = Got::default();
    place.run(direct(&got, 1)).await;
    assert_eq!((got.lock().clone(), place.letters()), (vec![0, 2], vec![1, 3, 1, 3]));
    std::fs::remove_dir_all(place.dir.path().join("state")).unwrap();
    let (wish, _) = watch::channel(Wish::Run);
    let (deliver, _) = place.open(direct(&got, 1), Start::Latest, &wish).await.unwrap();
    assert_eq!(deliver.ledger.inputs[0].offsets, [0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_retention_removed_before_they_were_read_are_counted() {
    let place = Place::new();
    for _ in 0..8 {
        place.add(2 * PIECE).await;
    }
    place.store(&place.commit(3, 1, Vec::new())).await;
    place.stream.log.blocking_retain(place.clock.now_ms(), &|_| u64::MAX).unwrap();
    let start = place.stream.log.start_offset(0);
    assert!(start > 1, "something was removed");
    let (wish, _) = watch::channel(Wish::Run);
    let sink = || direct(&Got::default(), 0);
    let (deliver, state) = place.open(sink(), Start::Earliest, &wish).await.unwrap();
    assert_eq!(deliver.ledger.inputs[0].offsets, [start]);
    let counted = "component_discarded_events_total{component_kind=\"sink\",component_id=\"out\"} ";
    let is_counted = || place.metrics.text(&[]).contains(&format!("{counted}{}\n", start - 1));
    assert!(is_counted(), "{}", place.metrics.text(&[]));
    drop((deliver, state));
    drop(place.open(sink(), Start::Earliest, &wish).await.unwrap());
    assert!(is_counted(), "once, whatever comes of that run");
}
