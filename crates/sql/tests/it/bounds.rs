//! Functions that make much out of little: refused before they allocate, and in a transform only the row that asks.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::TryStreamExt;
use millstream_core::Rows;
use millstream_sql::{QueryEngine, QueryError, QueryHost, QueryLimits, QueryResult, SqlTransform};

use crate::support::field;

/// Runs a transform over `(s, n)`; the rows that failed, and the messages.
fn failed(expr: &str, rows: &[(&str, i64)]) -> (usize, Vec<(u32, String)>) {
    let sql = format!("SELECT {expr} AS x FROM s");
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0)));
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.1)));
    let batch = RecordBatch::try_from_iter([("s", texts), ("n", numbers)]).unwrap();
    let inputs = [("s".to_owned(), batch.schema())].into();
    let mut step = SqlTransform::plan(&sql, &inputs).unwrap_or_else(|e| panic!("{expr}: {e}")).step().unwrap();
    let rows = Rows::all(batch);
    let (rows, failures) = step.run("s", &rows).unwrap();
    (rows.batch.num_rows(), failures.into_iter().map(|f| (f.row, f.failure.message.to_string())).collect())
}

fn one_number() -> SchemaRef {
    Arc::new(Schema::new(vec![field("n", DataType::Int64)]))
}

#[test]
fn a_row_that_asks_for_too_much_fails_alone() {
    let long = "x".repeat(200_000);
    let explosive = [
        ("repeat(s, n)", "abc", 2_000_000_000),
        ("lpad(s, n, '0')", "abc", 2_147_483_647),
        ("rpad(s, n, 'é')", "abc", 900_000_000),
        ("replace(s, 'x', repeat('y', n))", long.as_str(), 1_000),
        ("regexp_replace(s, 'x', repeat('y', n), 'g')", long.as_str(), 10_000),
        ("array_length(range(0, n))", "", 4_000_000_000),
        ("array_length(generate_series(0, n, 2))", "", i64::MAX),
        ("array_length(array_repeat(s, n))", long.as_str(), 1_000),
        ("array_length(array_resize([1], n, 0))", "", 1_000_000_000),
        ("array_to_string(array_repeat('', n), s)", long.as_str(), 10_000),
        ("levenshtein(s, repeat('y', n))", long.as_str(), 200_000),
        ("repeat(s, n) || repeat(s, n) || repeat(s, n)", long.as_str(), 70),
        ("concat(repeat(s, n), repeat(s, n))", long.as_str(), 70),
    ];
    for (expr, text, number) in explosive {
        let (passed, failures) = failed(expr, &[("a", 1), (text, number), ("b", 2)]);
        assert_eq!(passed, 2, "{expr}: {failures:?}");
        assert_eq!(failures.iter().map(|f| f.0).collect::<Vec<_>>(), [1], "{expr}");
        let said = &failures[0].1;
        assert!(said.contains("MiB") || said.contains("too long"), "{expr}: {said}");
    }
}

#[test]
fn rows_that_are_much_together_go_through_one_by_one() {
    let text = "x".repeat(1_000);
    let rows: Vec<(&str, i64)> = (0..100).map(|_| (text.as_str(), 4_000)).collect();
    let (passed, failures) = failed("length(repeat(s, n))", &rows);
    assert_eq!((passed, failures.len()), (100, 0), "{failures:?}");
}

#[test]
fn rows_that_are_too_much_together_are_asked_for_in_halves_and_never_one_alone() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec!["x"; 100]));
    let batch = RecordBatch::try_from_iter([("s", texts)]).unwrap();
    let inputs = [("s".to_owned(), batch.schema())].into();
    let mut step = SqlTransform::plan("SELECT repeat(s, 10000000) AS x FROM s", &inputs).unwrap().step().unwrap();
    let error = step.run("s", &Rows::all(batch.clone())).unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::TooMuch);
    let (rows, failures) = step.run("s", &Rows::all(batch.slice(0, 10))).unwrap();
    assert_eq!((rows.len(), failures.len()), (10, 0));
    // One row of many columns is as much, and goes through.
    let many: Vec<String> = (0..30).map(|n| format!("repeat(s, 10000000) AS x{n}")).collect();
    let mut step = SqlTransform::plan(&format!("SELECT {} FROM s", many.join(", ")), &inputs).unwrap().step().unwrap();
    assert_eq!(step.run("s", &Rows::all(batch.slice(0, 1))).unwrap().0.len(), 1);
}

#[test]
fn an_unnest_that_explodes_fails_for_its_row_alone() {
    let texts = vec!["x".repeat(1000), "y".repeat(1 << 20), "z".to_owned()];
    let texts: ArrayRef = Arc::new(StringArray::from(texts));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![3, 1_000_000, 2]));
    let batch = RecordBatch::try_from_iter([("s", texts), ("n", numbers)]).unwrap();
    let inputs = [("s".to_owned(), batch.schema())].into();
    let sql = "SELECT s, unnest(range(0, n)) AS i FROM s";
    let mut step = SqlTransform::plan(sql, &inputs).unwrap().step().unwrap();
    let (rows, failures) = step.run("s", &Rows::all(batch)).unwrap();
    assert_eq!(&*rows.origin, [0, 0, 0, 2, 2]);
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1]);
    assert!(failures[0].failure.message.contains("MiB"), "{:?}", failures[0]);
}

#[test]
fn constants_are_bounded_when_a_transform_is_planned() {
    let inputs = [("s".to_owned(), one_number())].into();
    for sql in [
        "SELECT repeat('x', 2000000000) AS x FROM s",
        "SELECT lpad('x', 2000000000, '0') AS x FROM s",
        "SELECT repeat(repeat('x', 16000), 1000) AS x FROM s",
        "SELECT array_length(range(0, 100000000000)) AS x, n FROM s",
    ] {
        // Refused, or left to the rows, each of which fails.
        if let Ok(transform) = SqlTransform::plan(sql, &inputs) {
            assert!(!transform.warnings().is_empty(), "{sql}");
        }
    }
    let error = SqlTransform::plan("SELECT repeat('x', 100000) AS x FROM s", &inputs).unwrap_err();
    assert!(error.to_string().contains("constant"), "{error}");
    let long = format!("SELECT '{}' AS x FROM s", "y".repeat(2 << 20));
    assert!(SqlTransform::plan(&long, &inputs).unwrap_err().to_string().contains("KiB"));
}

#[test]
fn a_type_that_doubles_with_each_level_is_refused() {
    let mut sql = "SELECT struct(n, n) AS a FROM s".to_owned();
    for _ in 0..30 {
        sql = format!("SELECT struct(a, a) AS a FROM ({sql})");
    }
    let inputs = [("s".to_owned(), one_number())].into();
    let error = SqlTransform::plan(&sql, &inputs).unwrap_err();
    assert!(error.to_string().contains("parts") || error.to_string().contains("deep"), "{error}");
}

/// What a query says that can't end well.
async fn ends(engine: &QueryEngine, sql: &str, deadline: Duration) -> String {
    let result = match engine.run_within(sql, Some(deadline)).await {
        Ok(result) => result,
        Err(e) => return e.to_string(),
    };
    match result.stream.try_collect::<Vec<_>>().await {
        Ok(batches) => panic!("{sql}: {} rows", batches.iter().map(RecordBatch::num_rows).sum::<usize>()),
        Err(e) => e.to_string(),
    }
}

#[tokio::test]
async fn queries_that_explode_end_with_a_sentence() {
    let engine = QueryEngine::new(64 << 20).unwrap();
    for sql in [
        "SELECT sum(length(repeat(lpad(cast(value AS varchar), 30, '0'), 300000))) FROM generate_series(1, 100000)",
        "SELECT sum(cardinality(range(0, value * 1000000))) FROM generate_series(1, 1000)",
        "SELECT replace(repeat('a', 10000), 'a', repeat('b', 15000))",
        "SELECT array_agg(repeat(cast(value AS varchar), 1000)) FROM generate_series(1, 10000000)",
        "SELECT levenshtein(repeat(cast(value AS varchar), 20000), repeat('b', 16000)) FROM generate_series(1, 9999)",
        "SELECT string_agg(lpad(cast(value AS varchar), 10000, 'y'), ',') FROM generate_series(1, 1000000)",
        "SELECT s, unnest(range(0, n)) FROM (SELECT repeat(cast(value AS varchar), 1000000) AS s, value * 1000000 AS n \
         FROM generate_series(1, 10))",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
    ] {
        let said = ends(&engine, sql, Duration::from_secs(20)).await;
        assert!(
            ["MiB", "too long", "longer than", "KiB", "recursive"].iter().any(|w| said.contains(w)),
            "{sql}: {said}"
        );
    }
    // The memory is given back, and there is a turn for the next one.
    let one = engine.run("SELECT 1").await.unwrap().stream.try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(one.len(), 1);
}

#[tokio::test]
async fn a_query_ends_at_its_deadline_and_with_its_reader() {
    let limits = QueryLimits { at_once: 1, wait: Duration::from_millis(50), ..QueryLimits::default() };
    let engine = QueryEngine::on(QueryHost::new(limits).unwrap());
    let cross = "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b \
                 WHERE a.value * b.value = 7";
    let said = ends(&engine, cross, Duration::from_millis(200)).await;
    assert!(said.contains("longer than 0.2 s"), "{said}");

    let running = wait_for_turn(&engine, cross).await;
    let busy = engine.run("SELECT 1").await.unwrap_err();
    assert!(matches!(busy, QueryError::Busy(1)) && busy.to_string().contains("ask again"), "{busy}");
    // He goes away, and the next one has a turn soon.
    drop(running);
    drop(wait_for_turn(&engine, "SELECT 1").await);
}

async fn wait_for_turn(engine: &QueryEngine, sql: &str) -> QueryResult {
    for _ in 0..600 {
        match engine.run(sql).await {
            Ok(result) => return result,
            Err(QueryError::Busy(_)) => {}
            Err(e) => panic!("{e}"),
        }
    }
    panic!("the place of the query before stays taken");
}
