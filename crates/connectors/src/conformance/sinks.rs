//! What every sink that delivers at once promises.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{ErrorKind, Sink};

use super::queue::Queue;
use super::targets::{JsonArrays, JsonLines, Printed, SingleRows};
use super::{PATIENCE, group, suite};
use crate::payload::tests::ids;

/// A row that has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Its column `id`.
    pub id: i64,
    /// The stable id that came with it; none of a target that has no place for one.
    pub name: Option<String>,
}

/// What a sink delivers to.
#[async_trait]
pub(super) trait Target: Send + Sync {
    /// One that has nothing.
    async fn start() -> Self
    where
        Self: Sized;

    /// A sink that delivers to it.
    fn open(&self) -> Box<dyn Sink>;

    /// It does not take what comes next, for the moment.
    fn fail_next(&self);

    /// The rows that it has taken, as they came.
    async fn arrived(&self) -> Vec<Arrived>;
}

/// A target that looks at single rows.
pub(super) trait Choosy: Target {
    /// It will never take the row with this id.
    fn refuse(&self, id: i64);
}

group!(every_sink:
    rows_arrive_once_and_in_order
    a_batch_without_rows_is_nothing
    what_failed_for_the_moment_arrives_when_it_is_tried_again
    what_was_dropped_half_way_arrives_with_the_next_run
);
group!(tells_rows: each_row_has_one_name_whatever_the_batches_failures_and_runs);
group!(is_refused: a_row_that_is_refused_is_named_and_its_neighbours_arrive);

suite!(http_json_array: JsonArrays => every_sink tells_rows is_refused);
suite!(http_ndjson: JsonLines => every_sink tells_rows is_refused);
suite!(http_single_rows: SingleRows => every_sink tells_rows is_refused);
suite!(stdout: Printed => every_sink);
suite!(amqp: Queue, "needs RabbitMQ: run scripts/test" => every_sink tells_rows);

async fn arrived(target: &dyn Target) -> Vec<i64> {
    target.arrived().await.into_iter().map(|row| row.id).collect()
}

/// The same rows, each once, where the first time of each counts.
fn first_times(rows: Vec<i64>) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    rows.into_iter().filter(|id| seen.insert(*id)).collect()
}

async fn rows_arrive_once_and_in_order(target: &dyn Target) {
    let mut sink = target.open();
    for (first, count) in [(0, 1), (1, 20), (21, 5)] {
        assert_eq!(sink.deliver(&ids(first, count)).await.unwrap(), []);
        // It keeps nothing back: what it has answered for is there.
        assert_eq!(arrived(target).await, (0..(first + count) as i64).collect::<Vec<_>>());
    }
}

async fn a_batch_without_rows_is_nothing(target: &dyn Target) {
    let mut sink = target.open();
    assert_eq!(sink.deliver(&ids(0, 0)).await.unwrap(), []);
    assert_eq!(sink.deliver(&ids(0, 2)).await.unwrap(), []);
    assert_eq!(sink.deliver(&ids(2, 0)).await.unwrap(), []);
    assert_eq!(arrived(target).await, [0, 1]);
}

async fn what_failed_for_the_moment_arrives_when_it_is_tried_again(target: &dyn Target) {
    let mut sink = target.open();
    for first in [0, 10, 20] {
        target.fail_next();
        let mut failed = 0;
        while let Err(error) = sink.deliver(&ids(first, 10)).await {
            let may_pass = [ErrorKind::Retry, ErrorKind::Unavailable, ErrorKind::Environment];
            assert!(may_pass.contains(&error.kind()), "{error:?} is not tried again");
            failed += 1;
            assert!(failed < 5, "it never gets on");
        }
        assert!(failed > 0, "it said that it had delivered what it had not");
    }
    assert_eq!(first_times(arrived(target).await), (0..30).collect::<Vec<_>>());
}

async fn what_was_dropped_half_way_arrives_with_the_next_run(target: &dyn Target) {
    for polls in 1..20 {
        let batch = ids(polls * 10, 10);
        {
            let mut sink = target.open();
            let mut delivery = sink.deliver(&batch);
            for _ in 0..polls {
                if (&mut delivery).now_or_never().is_some() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // Nobody knows how far that got: at least once is what is promised.
        assert_eq!(target.open().deliver(&batch).await.unwrap(), []);
    }
    // What was on its way is not held up by what came later.
    let there: BTreeSet<i64> = arrived(target).await.into_iter().collect();
    assert_eq!(there, (10..200).collect());
}

async fn each_row_has_one_name_whatever_the_batches_failures_and_runs(target: &dyn Target) {
    for cut in [1, 3, 10, 7] {
        let mut sink = target.open();
        target.fail_next();
        while sink.deliver(&ids(0, cut)).await.is_err() {}
        for first in (0..30).step_by(cut as usize) {
            assert_eq!(sink.deliver(&ids(first, cut.min(30 - first))).await.unwrap(), []);
        }
    }
    let mut names: BTreeMap<i64, String> = BTreeMap::new();
    for row in target.arrived().await {
        let name = row.name.expect("it came without a name");
        assert_eq!(name, format!("f0/wire/0/{}", row.id));
        assert_eq!(names.entry(row.id).or_insert_with(|| name.clone()), &name);
    }
    assert_eq!(names.len(), 30);
}

async fn a_row_that_is_refused_is_named_and_its_neighbours_arrive<T: Choosy>(target: &T) {
    [0, 7, 8, 19].into_iter().for_each(|id| target.refuse(id));
    let mut sink = target.open();
    let failures = sink.deliver(&ids(0, 20)).await.unwrap();
    assert_eq!(failures.iter().map(|failure| failure.row).collect::<Vec<_>>(), [0, 7, 8, 19]);
    assert!(failures.iter().all(|failure| !failure.failure.message.is_empty()));
    let taken: Vec<i64> = (0..20).filter(|id| ![0, 7, 8, 19].contains(id)).collect();
    assert_eq!(arrived(target).await, taken);
    // A batch of nothing else.
    assert_eq!(sink.deliver(&ids(7, 2)).await.unwrap().len(), 2);
    assert_eq!(arrived(target).await, taken);
}
