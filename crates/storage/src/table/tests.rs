//! Tables: rows, keys, changes, time to live.

use std::collections::BTreeMap;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::{Field, Int64Type, Schema};
use millstream_core::ErrorKind;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::keyed::MemoryBudget;
use crate::state::{StateOptions, StateReader, local_store};

fn spec(ttl_us: Option<i64>) -> TableSpec {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("id", DataType::Utf8, true),
        Field::new("text", DataType::Utf8, true),
    ]);
    TableSpec { name: "news".into(), key: vec![1], schema: Arc::new(schema), ttl_us }
}

type Row<'a> = (Option<&'a str>, i64, Option<&'a str>);

fn rows(rows: &[Row<'_>]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0))),
        Arc::new(StringArray::from_iter(rows.iter().map(|r| r.2))),
    ];
    RecordBatch::try_new(spec(None).schema, columns).unwrap()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn schemas(&self) -> Arc<SchemaStore> {
        SchemaStore::open(&self.0.path().join("schemas")).unwrap()
    }

    async fn state(&self) -> State {
        self.state_with(256 << 10).await
    }

    async fn state_with(&self, memory: usize) -> State {
        let options = StateOptions { memtable_bytes: 64 << 10, ..MemoryBudget::new(memory).share(1) };
        State::open(local_store(self.0.path()).unwrap(), "s/0", &options).await.unwrap()
    }

    async fn open(&self, spec: TableSpec) -> (State, Table) {
        self.open_with(spec, 256 << 10).await
    }

    async fn open_with(&self, spec: TableSpec, memory: usize) -> (State, Table) {
        let state = self.state_with(memory).await;
        let table = Table::open(state.clone(), spec, self.schemas()).await.unwrap();
        (state, table)
    }
}

/// A change, in words: `op id: old → new`.
fn words(changes: &RecordBatch) -> Vec<String> {
    let image = |column: usize, i: usize| {
        let image = changes.column(column).as_struct();
        if image.is_null(i) {
            return "-".to_string();
        }
        let text = image.column(2).as_string::<i32>();
        let text = if text.is_null(i) { "null" } else { text.value(i) };
        format!("{}/{text}", image.column(0).as_primitive::<Int64Type>().value(i))
    };
    let line = |i: usize| {
        let op = changes.column(0).as_string::<i32>().value(i);
        let key = changes.column(2).as_struct().column(0).as_string::<i32>().value(i);
        format!("{op} {key}: {} → {}", image(3, i), image(4, i))
    };
    (0..changes.num_rows()).map(line).collect()
}

async fn apply(state: &State, table: &mut Table, batch: &[Row<'_>], deletes: &[bool], now_us: i64) -> Applied {
    let mut writes = Writes::new();
    let deletes = (!deletes.is_empty()).then(|| BooleanArray::from(deletes.to_vec()));
    let applied = table.apply(&rows(batch), deletes.as_ref(), now_us, &mut writes).await.unwrap();
    state.commit(writes).await.unwrap();
    applied
}

async fn expire(state: &State, table: &mut Table, now_us: i64) -> Vec<String> {
    let mut all = vec![];
    while table.next_expiry().is_some_and(|next| next <= now_us) {
        let mut writes = Writes::new();
        let changes = table.expire(now_us, 3, &mut writes).await.unwrap();
        state.commit(writes).await.unwrap();
        all.extend(changes.iter().flat_map(words));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_carry_the_row_before_and_after() {
    let place = Place::new();
    let (state, mut table) = place.open(spec(None)).await;
    let batch = [
        (Some("a"), 1, Some("x")),
        (Some("b"), 2, None),
        (None, 3, Some("no key")),
        (Some("a"), 1, Some("x")),
        (Some("a"), 4, Some("y")),
        (Some("c"), 5, None),
        (Some("b"), 0, None),
    ];
    let deletes = [false, false, false, false, false, true, true];
    let applied = apply(&state, &mut table, &batch, &deletes, 9).await;
    let expected = ["insert a: - → 1/x", "insert b: - → 2/null", "update a: 1/x → 4/y", "delete b: 2/null → -"];
    assert_eq!(words(&applied.changes), expected);
    assert_eq!(applied.rows, [0, 1, 4, 6]);
    assert_eq!(applied.changes.schema(), change_schema(table.spec()));
    assert_eq!(applied.failures.len(), 1);
    assert_eq!((applied.failures[0].row, applied.failures[0].failure.kind), (2, FailureKind::MissingField));
    assert!(applied.failures[0].failure.message.contains("key column `id`"));

    let again = apply(&state, &mut table, &[(Some("a"), 4, Some("y"))], &[], 10).await;
    assert_eq!(again.changes.num_rows(), 0, "a row that is as it is stored makes no change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_see_those_before_them_before_anything_is_committed() {
    let place = Place::new();
    let (state, mut table) = place.open(spec(Some(100))).await;
    let mut writes = Writes::new();
    let mut changes = vec![];
    for (n, text) in [(1, "x"), (2, "y"), (2, "y")] {
        let applied = table.apply(&rows(&[(Some("a"), n, Some(text))]), None, 10, &mut writes).await.unwrap();
        changes.extend(words(&applied.changes));
    }
    assert_eq!(changes, ["insert a: - → 1/x", "update a: 1/x → 2/y"]);
    let expired = table.expire(110, 10, &mut writes).await.unwrap().unwrap();
    assert_eq!(words(&expired), ["delete a: 2/y → -"]);
    let applied = table.apply(&rows(&[(Some("a"), 3, None)]), None, 110, &mut writes).await.unwrap();
    assert_eq!(words(&applied.changes), ["insert a: - → 3/null"]);

    // The next commit is computed before this one is durable.
    let mut next = Writes::new();
    let applied = table.apply(&rows(&[(Some("a"), 4, None)]), None, 120, &mut next).await.unwrap();
    assert_eq!(words(&applied.changes), ["update a: 3/null → 4/null"]);
    state.commit(writes).await.unwrap();
    let applied = table.apply(&rows(&[(Some("a"), 5, None)]), None, 120, &mut next).await.unwrap();
    assert_eq!(words(&applied.changes), ["update a: 4/null → 5/null"]);
    state.commit(next).await.unwrap();
    let reader = TableReader::new(&state, spec(Some(100)), place.schemas()).unwrap();
    let row = reader.get(&[json!("a")], 120).await.unwrap().unwrap();
    assert_eq!(row.columns(), rows(&[(Some("a"), 5, None)]).columns());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_read_by_key_and_in_key_order_here_and_at_rest() {
    let place = Place::new();
    let (state, mut table) = place.open(spec(Some(100))).await;
    apply(&state, &mut table, &[(Some("b"), 2, None), (Some("c"), 3, None)], &[], 0).await;
    apply(&state, &mut table, &[(Some("a"), 1, Some("x"))], &[], 50).await;
    let reader = TableReader::new(&state, spec(Some(100)), place.schemas()).unwrap();
    assert_eq!(reader.count(50).await.unwrap(), 3);
    assert_eq!(reader.count(100).await.unwrap(), 1, "expired rows are not seen");
    let row = reader.get(&[json!("a")], 50).await.unwrap().unwrap();
    assert_eq!(row.columns(), rows(&[(Some("a"), 1, Some("x"))]).columns());
    assert!(reader.get(&[json!("z")], 50).await.unwrap().is_none());
    assert!(reader.get(&[json!("b")], 100).await.unwrap().is_none());
    assert_eq!(reader.get(&[], 50).await.unwrap_err().kind(), ErrorKind::Input);
    state.close().await.unwrap();

    let options = StateOptions::default();
    let at_rest = StateReader::open(local_store(place.0.path()).unwrap(), "s/0", &options).await.unwrap();
    let view = StateView::from(at_rest);
    let schemas = SchemaStore::open_read_only(&place.0.path().join("schemas")).unwrap();
    let found = TableSpec::stored(&view, "news", &schemas).await.unwrap().unwrap();
    assert_eq!((found.key.as_slice(), found.ttl_us), ([1].as_slice(), Some(100)));
    assert!(TableSpec::stored(&view, "other", &schemas).await.unwrap().is_none());
    let reader = TableReader::new(view, found, schemas).unwrap();
    let mut scan = reader.scan(Some(vec![1, 0]), Some(2), 50).await.unwrap();
    let batch = scan.next().await.unwrap().unwrap();
    assert_eq!(batch.column(0).as_string::<i32>(), &StringArray::from(vec!["a", "b"]));
    assert_eq!(batch.column(1).as_primitive::<Int64Type>().values(), &[1, 2]);
    assert!(scan.next().await.unwrap().is_none());
}

#[test]
fn a_key_in_words_is_in_the_partition_of_its_rows() {
    let schema = Schema::new(vec![
        Field::new("f", DataType::Float64, true),
        Field::new("at", millstream_core::schema::timestamp_type(), true),
        Field::new("n", DataType::Int64, true),
        Field::new("id", DataType::Utf8, true),
    ]);
    let spec = TableSpec { name: "t".into(), key: vec![3, 2, 1, 0], schema: Arc::new(schema), ttl_us: None };
    let times = arrow::array::TimestampMicrosecondArray::from(vec![0, 1_000_000]).with_timezone("UTC");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(arrow::array::Float64Array::from(vec![-0.0, 1.5])),
        Arc::new(times),
        Arc::new(Int64Array::from(vec![7, -1])),
        Arc::new(StringArray::from(vec!["a", "ü"])),
    ];
    let batch = RecordBatch::try_new(spec.schema.clone(), columns).unwrap();
    let expected = millstream_core::partition::partition_rows(&batch, &spec.key, 1_000_000, 0).unwrap();
    let keys = [
        [json!("a"), json!("7"), json!("1970-01-01T00:00:00Z"), json!("0")],
        [json!("ü"), json!(-1), json!("1970-01-01T01:00:01+01:00"), json!(1.5)],
    ];
    let found = keys.map(|key| spec.partition_of(&key, 1_000_000).unwrap());
    assert_eq!(found.as_slice(), expected);
    assert_eq!(spec.partition_of(&[json!("a")], 4).unwrap_err().kind(), ErrorKind::Input);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unfit_specification_is_refused() {
    let place = Place::new();
    drop(place.open(spec(None)).await);
    let other_key = TableSpec { key: vec![0], ..spec(None) };
    let error = Table::open(place.state().await, other_key, place.schemas()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("its key was [id] and is now [n]"), "{error}");
    let no_key = TableSpec { key: vec![], ..spec(None) };
    assert_eq!(Table::open(place.state().await, no_key, place.schemas()).await.unwrap_err().kind(), ErrorKind::Config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_older_than_the_ttl_setting_expire_too() {
    let place = Place::new();
    let (state, mut table) = place.open(spec(None)).await;
    apply(&state, &mut table, &[(Some("a"), 1, None), (Some("b"), 1, None)], &[], 10).await;
    drop((state, table));
    let (state, mut table) = place.open(spec(Some(100))).await;
    assert!(expire(&state, &mut table, 109).await.is_empty());
    apply(&state, &mut table, &[(Some("b"), 1, None)], &[], 60).await;
    assert_eq!(expire(&state, &mut table, 110).await, ["delete a: 1/null → -"]);
    assert_eq!(table.next_expiry(), Some(160));
    assert_eq!(expire(&state, &mut table, 160).await, ["delete b: 1/null → -"]);
    assert_eq!(table.next_expiry(), None);
}

#[derive(Debug, Clone)]
enum Action {
    Apply(Vec<(Option<u8>, i64, bool)>),
    Commit,
    Expire,
    Wait(i64),
    Reopen,
}

fn action() -> impl Strategy<Value = Action> {
    let row = (option::weighted(0.95, 0_u8..12), 0_i64..3, prop::bool::weighted(0.2));
    prop_oneof![
        6 => vec(row, 0..12).prop_map(Action::Apply),
        4 => Just(Action::Commit),
        2 => Just(Action::Expire),
        2 => (1_i64..60).prop_map(Action::Wait),
        1 => Just(Action::Reopen),
    ]
}

/// What a table should be: id → (n, time of the last write).
#[derive(Default, Clone)]
struct Model {
    rows: BTreeMap<String, (i64, i64)>,
}

impl Model {
    fn apply(&mut self, id: &str, n: i64, delete: bool, now_us: i64) -> Option<String> {
        let old = if delete { self.rows.remove(id) } else { self.rows.insert(id.into(), (n, now_us)) };
        match (old, delete) {
            (None, true) => None,
            (Some((old, _)), true) => Some(format!("delete {id}: {old}/t → -")),
            (None, false) => Some(format!("insert {id}: - → {n}/t")),
            (Some((old, _)), false) if old == n => None,
            (Some((old, _)), false) => Some(format!("update {id}: {old}/t → {n}/t")),
        }
    }

    fn expire(&mut self, now_us: i64, ttl_us: i64) -> Vec<String> {
        let over: Vec<_> =
            self.rows.iter().filter(|(_, r)| r.1 + ttl_us <= now_us).map(|(id, r)| (id.clone(), r.0)).collect();
        self.rows.retain(|id, _| !over.iter().any(|(o, _)| o == id));
        over.into_iter().map(|(id, n)| format!("delete {id}: {n}/t → -")).collect()
    }
}

/// Runs the actions. What is applied is committed with what comes next, or while that is computed, as the actions say.
async fn check_against_model(actions: Vec<Action>, ttl_us: Option<i64>, memory: usize) {
    let place = Place::new();
    let (mut state, mut table) = place.open_with(spec(ttl_us), memory).await;
    let (mut model, mut durable, mut now_us) = (Model::default(), Model::default(), 1000);
    let (mut writes, mut in_flight) = (Writes::new(), tokio::spawn(async {}));
    for action in actions {
        match action {
            Action::Wait(us) => now_us += us,
            Action::Reopen => {
                // Without a close, and with writes that were never committed: as after a crash.
                let lost = rows(&[(Some("lost"), 1, None), (Some("k00"), 99, None)]);
                table.apply(&lost, None, now_us, &mut writes).await.unwrap();
                in_flight.await.unwrap();
                drop((state, table));
                (writes, in_flight, model) = (Writes::new(), tokio::spawn(async {}), durable.clone());
                (state, table) = place.open_with(spec(ttl_us), memory).await;
            }
            Action::Commit => {
                in_flight.await.unwrap();
                let (state, writes) = (state.clone(), std::mem::take(&mut writes));
                in_flight = tokio::spawn(async move { state.commit(writes).await.unwrap() });
                durable = model.clone();
            }
            Action::Expire => {
                let mut got = vec![];
                while table.next_expiry().is_some_and(|next| next <= now_us) {
                    got.extend(table.expire(now_us, 3, &mut writes).await.unwrap().iter().flat_map(words));
                }
                got.sort();
                assert_eq!(got, ttl_us.map_or(vec![], |ttl| model.expire(now_us, ttl)));
                let first = model.rows.values().map(|r| r.1 + ttl_us.unwrap_or(0)).min();
                assert!(table.next_expiry() <= first || ttl_us.is_none() || first.is_none(), "would expire too late");
            }
            Action::Apply(batch) => {
                let ids: Vec<Option<String>> = batch.iter().map(|r| r.0.map(|id| format!("k{id:02}"))).collect();
                let given: Vec<Row<'_>> =
                    batch.iter().zip(&ids).map(|(r, id)| (id.as_deref(), r.1, Some("t"))).collect();
                let deletes = BooleanArray::from(batch.iter().map(|r| r.2).collect::<Vec<_>>());
                let applied = table.apply(&rows(&given), Some(&deletes), now_us, &mut writes).await.unwrap();
                let expected: Vec<String> = batch
                    .iter()
                    .zip(&ids)
                    .filter_map(|(r, id)| model.apply(id.as_deref()?, r.1, r.2, now_us))
                    .collect();
                assert_eq!(words(&applied.changes), expected);
                assert_eq!(applied.failures.len(), ids.iter().filter(|id| id.is_none()).count());
            }
        }
    }
    in_flight.await.unwrap();
    state.commit(writes).await.unwrap();
    let reader = TableReader::new(&state, spec(ttl_us), place.schemas()).unwrap();
    let mut scan = reader.scan(None, None, now_us).await.unwrap();
    let mut found = vec![];
    while let Some(batch) = scan.next().await.unwrap() {
        let (ids, ns) = (batch.column(1).as_string::<i32>(), batch.column(0).as_primitive::<Int64Type>());
        found.extend((0..batch.num_rows()).map(|i| (ids.value(i).to_string(), ns.value(i))));
    }
    let visible = model.rows.iter().filter(|(_, r)| ttl_us.is_none_or(|ttl| r.1 + ttl > now_us));
    assert_eq!(found, visible.map(|(id, r)| (id.clone(), r.0)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_does_what_a_map_does(
        actions in vec(action(), 1..25),
        ttl_us in option::of(1_i64..80),
        // Without memory every old row is read from the state; with a little, the filter is dropped on the way.
        memory in prop_oneof![Just(0), Just(9 << 10), Just(40 << 10), Just(1 << 20)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(check_against_model(actions, ttl_us, memory));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_was_written_again_does_not_hold_up_those_listed_behind_it() {
    let place = Place::new();
    let (state, mut table) = place.open(spec(Some(1))).await;
    let four = [(Some("a"), 0, None), (Some("b"), 0, None), (Some("c"), 0, None), (Some("d"), 0, None)];
    apply(&state, &mut table, &four, &[], 10).await;
    apply(&state, &mut table, &[(Some("a"), 0, None)], &[], 20).await;
    // One call looks at three keys of the entry, and only two of them are over.
    let expected = ["delete b: 0/null → -", "delete c: 0/null → -", "delete d: 0/null → -"];
    assert_eq!(expire(&state, &mut table, 20).await, expected);
    assert_eq!(expire(&state, &mut table, 21).await, ["delete a: 0/null → -"]);
}
