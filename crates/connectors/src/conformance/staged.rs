//! What every sink promises that publishes in one step.

use std::fs::{self, File};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use millstream_core::{AnySink, StagedSink};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::open_sink;
use super::{PATIENCE, group, suite};
use crate::payload::tests::{NOW_US, ids, row_schema};

/// Where a sink publishes.
#[async_trait]
trait Place: Send + Sync {
    /// One that is empty.
    async fn start() -> Self
    where
        Self: Sized;

    /// A sink that publishes there, as after a start.
    fn open(&self) -> Box<dyn StagedSink>;

    /// The column `id` of all rows that can be seen, in order of publication.
    fn published(&self) -> Vec<i64>;

    /// True where something lies there that is not published.
    fn has_leftovers(&self) -> bool;
}

group!(every_staged_sink:
    nothing_is_seen_before_it_is_published_and_all_of_it_then
    what_is_staged_is_due_in_time_and_nothing_never
    what_was_staged_and_not_sealed_is_discarded_by_recovery
    what_was_sealed_and_not_stored_is_discarded_by_recovery
    what_was_sealed_and_stored_is_published_by_recovery_and_once
    a_crash_between_any_two_steps_loses_and_doubles_nothing
    whatever_the_order_of_steps_and_crashes_each_row_is_published_once
    a_call_that_was_dropped_is_made_good_by_recovery
);

suite!(json_lines_files: Files<0> => every_staged_sink);
suite!(csv_files: Files<1> => every_staged_sink);
suite!(parquet_files: Files<2> => every_staged_sink);

/// When anything is due.
const MUCH_LATER_US: i64 = NOW_US + 1_000_000_000_000;

/// Formats of files, and their extensions.
const FORMATS: [(&str, &str); 3] = [("json", "jsonl"), ("csv", "csv"), ("parquet", "parquet")];

/// A folder with files of a format.
struct Files<const FORMAT: usize>(TempDir);

#[async_trait]
impl<const FORMAT: usize> Place for Files<FORMAT> {
    async fn start() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> Box<dyn StagedSink> {
        // Names that sort as they are published.
        let settings = json!({ "type": "file", "folder": self.0.path(), "encode": FORMATS[FORMAT].0, "name": "out" });
        match open_sink(settings, &columns()) {
            AnySink::Staged(sink) => sink,
            AnySink::Direct(_) => panic!("a file sink publishes in one step"),
        }
    }

    fn published(&self) -> Vec<i64> {
        let mut paths: Vec<_> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == FORMATS[FORMAT].1));
        paths.sort();
        paths.iter().flat_map(|path| rows(FORMATS[FORMAT].0, File::open(path).unwrap())).collect()
    }

    fn has_leftovers(&self) -> bool {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.into_iter().any(|name| name.to_string_lossy().starts_with('.'))
    }
}

fn columns() -> arrow::datatypes::SchemaRef {
    row_schema()
}

fn rows(format: &str, file: File) -> Vec<i64> {
    match format {
        "json" => {
            let lines = serde_json::Deserializer::from_reader(file).into_iter::<Value>();
            lines.map(|line| line.unwrap()["id"].as_i64().unwrap()).collect()
        }
        "csv" => {
            let lines = csv::Reader::from_reader(file).into_records();
            lines.map(|line| line.unwrap()[0].parse().unwrap()).collect()
        }
        _ => {
            let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
            batches.flat_map(|batch| batch.unwrap().column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
        }
    }
}

/// What a pipeline does with a sink, and what it has stored of that.
struct Run<'a> {
    place: &'a dyn Place,
    sink: Box<dyn StagedSink>,
    /// The token that is stored, and the first row that it does not cover.
    stored: (Option<Bytes>, u64),
    /// The first row that is not staged.
    staged: u64,
    /// What is sealed and not stored.
    sealed: Option<Bytes>,
    /// What is stored and not published.
    to_publish: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Stage,
    Seal,
    Store,
    Publish,
}

impl<'a> Run<'a> {
    async fn start(place: &'a dyn Place) -> Self {
        let stored = (None, 0);
        let mut run = Self { place, sink: place.open(), stored, staged: 0, sealed: None, to_publish: false };
        run.recover().await;
        run
    }

    /// The process ends and comes again.
    async fn crash(&mut self) {
        self.sink = self.place.open();
        self.recover().await;
    }

    /// As after a failure too.
    async fn recover(&mut self) {
        self.sink.recover(self.stored.0.clone()).await.unwrap();
        (self.staged, self.sealed, self.to_publish) = (self.stored.1, None, false);
        assert_eq!(self.place.published(), (0..self.stored.1 as i64).collect::<Vec<_>>(), "all that is stored");
        assert!(!self.place.has_leftovers());
    }

    /// The steps that may follow.
    fn may(&self) -> Vec<Step> {
        match (&self.sealed, self.to_publish) {
            (Some(_), _) => vec![Step::Store],
            (None, true) => vec![Step::Publish],
            (None, false) => vec![Step::Stage, Step::Seal],
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Stage => {
                let count = 1 + self.staged % 3;
                assert_eq!(self.sink.stage(&ids(self.staged, count)).await.unwrap(), []);
                self.staged += count;
            }
            Step::Seal => {
                self.sealed = self.sink.seal(NOW_US).await.unwrap();
                assert_eq!(self.sealed.is_some(), self.staged > self.stored.1, "a seal of nothing");
            }
            Step::Store => {
                self.stored = (self.sealed.take(), self.staged);
                self.to_publish = true;
            }
            Step::Publish => {
                self.sink.publish(self.stored.0.clone().unwrap()).await.unwrap();
                self.to_publish = false;
            }
        }
    }

    async fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            self.step(*step).await;
        }
    }

    /// What is seen now, and that nothing of it is missing or doubled.
    fn published(&self) -> u64 {
        let published = self.place.published();
        assert_eq!(published, (0..published.len() as i64).collect::<Vec<_>>());
        published.len() as u64
    }
}

/// A round, and the beginning of the next.
const STEPS: [Step; 8] =
    [Step::Stage, Step::Stage, Step::Seal, Step::Store, Step::Publish, Step::Stage, Step::Seal, Step::Store];

async fn nothing_is_seen_before_it_is_published_and_all_of_it_then(place: &dyn Place) {
    let mut run = Run::start(place).await;
    run.step(Step::Seal).await;
    for _ in 0..3 {
        let before = run.published();
        for step in [Step::Stage, Step::Stage, Step::Seal, Step::Store] {
            run.step(step).await;
            assert_eq!(run.published(), before, "{step:?}");
        }
        run.step(Step::Publish).await;
        assert_eq!(run.published(), run.stored.1);
        assert!(!place.has_leftovers());
    }
}

async fn what_is_staged_is_due_in_time_and_nothing_never(place: &dyn Place) {
    let mut run = Run::start(place).await;
    for _ in 0..2 {
        assert!(!run.sink.due(MUCH_LATER_US), "nothing is staged");
        run.step(Step::Stage).await;
        assert!(run.sink.due(MUCH_LATER_US) && !run.sink.due(NOW_US));
        run.steps(&[Step::Seal, Step::Store]).await;
        assert!(!run.sink.due(MUCH_LATER_US), "what is sealed is not sealed again");
        run.step(Step::Publish).await;
    }
    run.step(Step::Stage).await;
    run.recover().await;
    assert!(!run.sink.due(MUCH_LATER_US), "what was discarded is not due");
}

async fn what_was_staged_and_not_sealed_is_discarded_by_recovery(place: &dyn Place) {
    let mut run = Run::start(place).await;
    run.steps(&[Step::Stage, Step::Stage]).await;
    run.recover().await;
    run.step(Step::Seal).await;
    assert_eq!((&run.sealed, run.published()), (&None, 0));
    run.step(Step::Stage).await;
    run.crash().await;
    assert_eq!(run.published(), 0);
}

async fn what_was_sealed_and_not_stored_is_discarded_by_recovery(place: &dyn Place) {
    let mut run = Run::start(place).await;
    for is_crash in [false, true] {
        run.steps(&[Step::Stage, Step::Seal]).await;
        if is_crash {
            run.crash().await
        } else {
            run.recover().await
        }
        assert_eq!(run.published(), 0);
    }
    run.steps(&[Step::Stage, Step::Seal, Step::Store, Step::Publish]).await;
    assert_eq!(run.published(), run.stored.1);
}

async fn what_was_sealed_and_stored_is_published_by_recovery_and_once(place: &dyn Place) {
    let mut run = Run::start(place).await;
    for round in 0..3 {
        run.steps(&[Step::Stage, Step::Seal, Step::Store]).await;
        if round > 0 {
            run.step(Step::Publish).await;
        }
        run.to_publish = true;
        for _ in 0..2 {
            run.crash().await;
            run.recover().await;
            run.sink.publish(run.stored.0.clone().unwrap()).await.unwrap();
            assert_eq!(run.published(), run.stored.1);
        }
    }
}

async fn a_crash_between_any_two_steps_loses_and_doubles_nothing(place: &dyn Place) {
    let mut run = Run::start(place).await;
    for first in 0..=STEPS.len() {
        for second in 0..=STEPS.len() {
            run.steps(&STEPS[..first]).await;
            run.crash().await;
            run.steps(&STEPS[..second]).await;
            run.crash().await;
            // Killed again before anything new was done.
            run.crash().await;
        }
    }
    assert!(run.published() > 100);
}

async fn whatever_the_order_of_steps_and_crashes_each_row_is_published_once(place: &dyn Place) {
    let seed = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut run = Run::start(place).await;
    for _ in 0..300 {
        match rng.random_range(0..10) {
            0 => run.crash().await,
            1 => run.recover().await,
            _ => {
                let may = run.may();
                run.step(may[rng.random_range(0..may.len())]).await;
            }
        }
        let published = run.published();
        assert!(published == run.stored.1 || run.to_publish && published <= run.stored.1);
    }
    run.crash().await;
    assert!(run.published() > 0);
}

async fn a_call_that_was_dropped_is_made_good_by_recovery(place: &dyn Place) {
    let mut run = Run::start(place).await;
    for _ in 0..30 {
        // Dropped after its first step, wherever that is.
        let _ = run.sink.stage(&ids(run.staged, 3)).now_or_never();
        run.recover().await;
        run.step(Step::Stage).await;
        let _ = run.sink.seal(NOW_US).now_or_never();
        run.recover().await;
        run.steps(&[Step::Stage, Step::Seal, Step::Store]).await;
        let _ = run.sink.publish(run.stored.0.clone().unwrap()).now_or_never();
        run.recover().await;
        assert_eq!(run.published(), run.stored.1);
    }
}
