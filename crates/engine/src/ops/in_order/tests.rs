//! Against a model: a list that is sorted, and nothing is ever durable or not.

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use millstream_storage::keyed::MemoryBudget;
use millstream_storage::state::local_store;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

struct World {
    folder: tempfile::TempDir,
    schemas: Arc<SchemaStore>,
}

fn batch(ids: &[i64]) -> RecordBatch {
    let texts: StringArray = ids.iter().map(|id| (id % 3 != 0).then(|| format!("row {id}"))).collect();
    let columns: [(&str, ArrayRef, bool); 2] =
        [("id", Arc::new(Int64Array::from(ids.to_vec())), false), ("text", Arc::new(texts), true)];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let schemas = SchemaStore::open(&folder.path().join("schemas")).unwrap();
        Self { folder, schemas }
    }

    async fn open(&self) -> (State, InOrder) {
        let options = MemoryBudget::new(1 << 20).share(1);
        let store = local_store(&self.folder.path().join("state")).unwrap();
        let state = State::open(store, "s/0", &options).await.unwrap();
        let schema = batch(&[]).schema();
        (state.clone(), InOrder::open(state, "", "sorted", &schema, &self.schemas).await.unwrap())
    }
}

fn ids(passed: &Passed) -> Vec<i64> {
    assert_eq!(passed.batch, batch(passed.batch.column(0).as_primitive::<Int64Type>().values()), "whole rows");
    assert_eq!(passed.places.len(), passed.batch.num_rows());
    passed.batch.column(0).as_primitive::<Int64Type>().values().to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_pass_in_the_order_of_their_time_when_that_has_passed() {
    let world = World::new();
    let (_state, mut sorted) = world.open().await;
    let mut writes = Writes::new();
    let at = |time| Some(Watermark::At(time));
    let place = |time_us, offset| Place { time_us, is_late: false, event_us: time_us, offset };
    let given = [(0, place(20, 0)), (1, place(10, 1)), (2, place(15, 2)), (3, place(15, 3))];
    let passed = sorted.pass(&batch(&[1, 2, 3, 4]), &given, at(15), &mut writes).await.unwrap();
    assert_eq!((ids(&passed), passed.given), (vec![2, 3, 4], Some(vec![1, 2, 3])));
    for waits_still in [None, Some(Watermark::Idle), at(19)] {
        let passed = sorted.pass(&batch(&[]), &[], waits_still, &mut writes).await.unwrap();
        assert_eq!(ids(&passed), [0; 0]);
    }
    let given =
        [(0, place(17, 4)), (1, Place { time_us: 18, is_late: true, event_us: 3, offset: 5 }), (2, place(18, 6))];
    let passed = sorted.pass(&batch(&[5, 6, 7]), &given, at(30), &mut writes).await.unwrap();
    assert_eq!((ids(&passed), passed.given), (vec![5, 7, 6, 1], None), "a late one is behind all of its time");
    let given = [(0, place(90, 7))];
    sorted.pass(&batch(&[8]), &given, at(30), &mut writes).await.unwrap();
    assert!(!sorted.is_behind(at(89)) && sorted.is_behind(Some(Watermark::End)));
    let passed = sorted.pass(&batch(&[]), &[], Some(Watermark::End), &mut writes).await.unwrap();
    assert_eq!(ids(&passed), [8]);
}

#[derive(Debug, Clone)]
enum Action {
    Give(Vec<i64>),
    Advance(i64),
    Commit,
    Crash,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => vec(-5_i64..25, 1..12).prop_map(Action::Give),
        3 => (1_i64..12).prop_map(Action::Advance),
        3 => Just(Action::Commit),
        1 => Just(Action::Crash),
    ]
}

/// Rows that wait (place and id), the watermark, and the next id.
type Model = (Vec<(Place, i64)>, i64, i64);

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_sorting_does_whatever_is_committed_and_crashes(actions in vec(action(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let (mut state, mut sorted) = world.open().await;
            let mut model: Model = (Vec::new(), 0, 0);
            let mut durable = model.clone();
            let mut writes = Writes::new();
            for action in actions {
                let mut given = Vec::new();
                let (waiting, watermark, next) = &mut model;
                match action {
                    Action::Give(times) => {
                        for time in times {
                            let (time_us, is_late) = (*watermark + time.max(0), time < 0);
                            let event_us = if is_late { *watermark + time } else { time_us };
                            given.push((Place { time_us, is_late, event_us, offset: *next as u64 }, *next));
                            *next += 1;
                        }
                    }
                    Action::Advance(by) => *watermark += by,
                    Action::Commit => {
                        state.commit(std::mem::take(&mut writes)).await.unwrap();
                        durable = model.clone();
                        continue;
                    }
                    Action::Crash => {
                        (writes, model) = (Writes::new(), durable.clone());
                        (state, sorted) = world.open().await;
                        continue;
                    }
                }
                let rows = batch(&given.iter().map(|(_, id)| *id).collect::<Vec<_>>());
                let places: Vec<(u32, Place)> = (0..).zip(&given).map(|(row, (place, _))| (row, *place)).collect();
                let passed = sorted.pass(&rows, &places, Some(Watermark::At(*watermark)), &mut writes).await.unwrap();
                waiting.extend(given);
                waiting.sort();
                let later = waiting.split_off(waiting.partition_point(|(place, _)| place.time_us <= *watermark));
                let now = std::mem::replace(waiting, later);
                assert_eq!(ids(&passed), now.iter().map(|(_, id)| *id).collect::<Vec<_>>());
                assert_eq!(passed.places, now.iter().map(|(place, _)| *place).collect::<Vec<_>>());
            }
        });
    }
}
