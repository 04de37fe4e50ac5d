//! Wrong numbers and unwanted failures: arithmetic never wraps around, and a condition guards what stands behind it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use futures::TryStreamExt;
use millstream_core::Rows;
use millstream_core::schema::timestamp_type;
use millstream_sql::{Predicate, QueryEngine, SqlTransform};
use serde_json::{Value, json as j};

use crate::support::{Memory, batch, field, json};

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("id", DataType::Utf8),
        field("s", DataType::Utf8),
        field("n", DataType::Int64),
        field("f", DataType::Float64),
        field("at", timestamp_type()),
    ]))
}

/// The largest and the smallest integer, a word that is no number, and nothing.
fn rows() -> RecordBatch {
    batch(
        &schema(),
        r#"
{"id":"max","s":"9","n":9223372036854775807,"f":1e300,"at":"9999-12-31T23:59:59Z"}
{"id":"min","s":"7","n":-9223372036854775808,"f":-1e300,"at":"0001-01-01T00:00:00Z"}
{"id":"word","s":"abc","n":0,"f":0,"at":"2024-05-01T00:00:00Z"}
{"id":"null"}
{"id":"small","s":"3","n":2,"f":1.5,"at":"2024-05-01T08:30:00Z"}
"#,
    )
}

/// The `id`s that a transform yields, and those that it fails.
fn step(sql: &str) -> (Vec<String>, Vec<String>) {
    let inputs = BTreeMap::from([("t".to_owned(), schema())]);
    let transform = SqlTransform::plan(sql, &inputs).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let input = rows();
    let (out, failures) = transform.step().unwrap().run("t", &Rows::all(input.clone())).unwrap();
    let all: Vec<String> = json(&input).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    (
        out.origin.iter().map(|&i| all[i as usize].clone()).collect(),
        failures.iter().map(|f| all[f.row as usize].clone()).collect(),
    )
}

fn engine() -> QueryEngine {
    let engine = QueryEngine::new(64 << 20).unwrap();
    engine.register("t", Arc::new(Memory(vec![rows()])));
    engine.register("u", Arc::new(Memory(vec![rows()])));
    engine
}

/// The rows of a query, or why it failed.
async fn query(sql: &str) -> Result<Vec<Value>, String> {
    let result = engine().run(sql).await.map_err(|e| e.to_string())?;
    let schema = result.schema.clone();
    let batches: Vec<RecordBatch> = result.stream.try_collect().await.map_err(|e| e.to_string())?;
    Ok(json(&arrow::compute::concat_batches(&schema, &batches).unwrap()))
}

#[tokio::test]
async fn arithmetic_beyond_what_an_integer_holds_fails_and_never_wraps() {
    for (expr, failing) in [
        ("n + 1", &["max"][..]),
        ("1 + n", &["max"]),
        ("n - 1", &["min"]),
        ("n * 2", &["max", "min"]),
        ("-n", &["min"]),
        ("0 - n", &["min"]),
        ("abs(n)", &["min"]),
        ("n / -1", &["min"]),
        ("10 / n", &["word"]),
        ("10 % n", &["word"]),
        ("n + n", &["max", "min"]),
        ("(n + 1) - 1", &["max"]),
        ("CASE WHEN n > 5 THEN n + 1 ELSE n END", &["max"]),
        ("coalesce(n + 1, 0)", &["max"]),
        ("CAST(n AS smallint)", &["max", "min"]),
        ("n::smallint", &["max", "min"]),
        ("CAST(f AS int)", &["max", "min"]),
        ("CAST(n AS decimal(10, 2))", &["max", "min"]),
        ("CAST(n AS decimal(38, 0)) * CAST(n AS decimal(38, 0)) * CAST(n AS decimal(38, 0))", &["max", "min"]),
        ("at + INTERVAL '300000' YEAR", &["max", "min", "word", "small"]),
        ("factorial(n)", &["max", "min"]),
        ("lcm(n, 3)", &["max", "min"]),
        ("array_length(make_array(n + 1))", &["max"]),
    ] {
        let (_, failed) = step(&format!("SELECT id, {expr} AS x FROM t"));
        assert_eq!(failed, failing, "{expr}");
        for id in failing {
            let sql = format!("SELECT {expr} AS x FROM t WHERE id = '{id}'");
            assert!(query(&sql).await.is_err(), "{sql}: {:?}", query(&sql).await);
        }
        if expr.starts_with("coalesce") {
            // It is never null, so nothing is computed.
            continue;
        }
        let (out, failed) = step(&format!("SELECT id FROM t WHERE ({expr}) IS NOT NULL"));
        assert_eq!(failed, failing, "WHERE {expr}");
        assert!(!out.iter().any(|id| failing.contains(&id.as_str())), "WHERE {expr}");
        let predicate = Predicate::compile(&format!("({expr}) IS NOT NULL"), &schema()).unwrap();
        for (i, row) in json(&rows()).iter().enumerate() {
            let fails = failing.contains(&row["id"].as_str().unwrap());
            assert_eq!(predicate.evaluate(&rows().slice(i, 1)).is_err(), fails, "{expr} on {row}");
        }
    }
}

#[tokio::test]
async fn constants_beyond_what_an_integer_holds_fail() {
    for expr in [
        "10000000000*10000000000",
        "9223372036854775807 + 1",
        "-9223372036854775807 - 2",
        "1/0",
        "1%0",
        "abs(-9223372036854775807 - 1)",
        "-(-9223372036854775807 - 1)",
    ] {
        let (out, failed) = step(&format!("SELECT id, {expr} AS x FROM t WHERE id = 'small'"));
        assert_eq!((out.len(), failed), (0, vec!["small".to_owned()]), "{expr}");
        let error = query(&format!("SELECT {expr} AS x")).await.unwrap_err();
        assert!(error.contains("out of range") || error.contains("division by zero"), "{expr}: {error}");
        assert!(query(&format!("SELECT * FROM (VALUES ({expr})) AS v(x)")).await.is_err(), "{expr}");
        let inputs = BTreeMap::from([("t".to_owned(), schema())]);
        let transform = SqlTransform::plan(&format!("SELECT id, n + 1 AS m, {expr} AS x FROM t"), &inputs).unwrap();
        let warnings: Vec<String> = transform.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 1, "{expr}: {warnings:?}");
        assert!(warnings[0].contains("fails for every record"), "{expr}: {warnings:?}");
        // Nobody asks for it.
        assert_eq!(step(&format!("SELECT id, {expr} AS x FROM t WHERE id = 'none'")), (vec![], vec![]), "{expr}");
        assert_eq!(query(&format!("SELECT {expr} AS x FROM t WHERE id = 'none'")).await, Ok(vec![]), "{expr}");
    }
    assert!(query("SELECT 4611686018427387904 * 2 - 1 AS x").await.is_err());
    assert_eq!(query("SELECT 4611686018427387903 * 2 + 1 AS x").await, Ok(vec![j!({"x": i64::MAX})]));
}

#[tokio::test]
async fn a_sum_beyond_what_an_integer_holds_fails() {
    for sql in [
        "SELECT sum(n) AS x FROM t WHERE n > 0",
        "SELECT s, sum(n) OVER (ORDER BY n DESC) AS x FROM t WHERE n > 0",
        "SELECT n > 0 AS g, sum(n) AS x FROM t GROUP BY n > 0",
        "SELECT sum(n + 1) AS x FROM t",
        "SELECT sum(m) AS x FROM (VALUES (9223372036854775807), (1)) AS v(m)",
    ] {
        let error = query(sql).await.unwrap_err();
        assert!(error.contains("out of range"), "{sql}: {error}");
    }
    // What comes back into the range on the way is right.
    assert_eq!(query("SELECT sum(n) AS x FROM t").await, Ok(vec![j!({"x": 1})]));
    assert_eq!(query("SELECT sum(DISTINCT n) AS x FROM t").await, Ok(vec![j!({"x": 1})]));
    let windows = "SELECT sum(n) OVER (ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS x FROM t WHERE id IN ('max', 'min') ORDER BY id";
    assert_eq!(query(windows).await, Ok(vec![j!({"x": i64::MAX}), j!({"x": -1})]));
    assert_eq!(query("SELECT sum(f) AS x FROM t WHERE f < 10 AND f > -10").await, Ok(vec![j!({"x": 1.5})]));
    assert_eq!(query("SELECT sum(CAST(n AS decimal(38, 0))) AS x FROM t").await, Ok(vec![j!({"x": 1.0})]));
}

/// Conditions over `s`, of which the later parts fail on `abc`.
const GUARDED: &[&str] = &[
    "s ~ '^[0-9]+$' AND CAST(s AS int) > 5",
    "s <> 'abc' AND CAST(s AS int) > 5",
    "n IS NOT NULL AND (s ~ '^[0-9]+$' AND (id <> 'x' AND CAST(s AS int) > 5))",
    "s ~ '^[0-9]+$' AND CAST(s AS int) > 5 AND CAST(s AS int) < 100 AND CAST(s AS int) * 2 > 10",
    "CASE WHEN s ~ '^[0-9]+$' THEN CAST(s AS int) > 5 ELSE false END",
    "CASE WHEN s ~ '^[0-9]+$' THEN CAST(s AS int) ELSE 0 END > 5",
    "CASE s WHEN 'abc' THEN false ELSE CAST(s AS int) > 5 END",
    "NOT (s !~ '^[0-9]+$' OR CAST(s AS int) <= 5)",
    "(s = 'abc' AND false) OR (s <> 'abc' AND CAST(s AS int) > 5)",
    "(s ~ '^[0-9]+$' AND CAST(s AS int) > 5) IS TRUE",
    "coalesce(CASE WHEN s = 'abc' THEN 0 END, CAST(s AS int)) > 5",
    "nvl(CASE WHEN s = 'abc' THEN 0 END, CAST(s AS int)) > 5",
    "CAST(NULLIF(s, 'abc') AS int) > 5",
    "s <> 'abc' AND 7 IN (0, CAST(s AS int), CAST(s AS int) - 2)",
    "(s = 'abc' OR 7 NOT IN (0, CAST(s AS int), CAST(s AS int) - 2)) = false",
    "s <> 'abc' AND CAST(s AS int) BETWEEN 6 AND 100",
    "n <> 0 AND 10 / n < 5 AND s IN ('9', '7')",
    "length(s) = 1 AND CAST(s AS int) > 5",
];

#[tokio::test]
async fn a_condition_guards_what_stands_behind_it() {
    for condition in GUARDED {
        let expected = vec!["max".to_owned(), "min".to_owned()];
        assert_eq!(step(&format!("SELECT id FROM t WHERE {condition}")), (expected.clone(), vec![]), "{condition}");
        let predicate = Predicate::compile(condition, &schema()).unwrap();
        let chosen = predicate.evaluate(&rows()).unwrap_or_else(|e| panic!("{condition}: {e}"));
        assert_eq!(chosen.iter().flatten().collect::<Vec<_>>(), [true, true, false, false, false], "{condition}");
        for sql in [
            format!("SELECT id FROM t WHERE {condition} ORDER BY id"),
            format!("SELECT id FROM t WHERE CASE WHEN {condition} THEN true ELSE false END ORDER BY id"),
            format!("SELECT id FROM (SELECT id, ({condition}) AS c FROM t) WHERE c ORDER BY id"),
            format!("SELECT t.id FROM t JOIN u ON t.id = u.id WHERE {} ORDER BY t.id", with_table(condition)),
            format!("SELECT t.id FROM t JOIN u ON t.id = u.id AND {} ORDER BY t.id", with_table(condition)),
            format!("SELECT t.id FROM t, u WHERE t.id = u.id AND {} ORDER BY t.id", with_table(condition)),
            format!("SELECT id FROM t GROUP BY id, s, n HAVING {condition} ORDER BY id"),
            format!(
                "SELECT id FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.id = u.id AND {}) ORDER BY id",
                with_table(condition)
            ),
        ] {
            let found = query(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
            assert_eq!(found, [j!({"id": "max"}), j!({"id": "min"})], "{sql}");
        }
        let count = query(&format!("SELECT count(*) FILTER (WHERE {condition}) AS c FROM t")).await;
        assert_eq!(count, Ok(vec![j!({"c": 2})]), "{condition}");
    }
}

/// `condition` with `t.` before the columns `s`, `n` and `id`.
fn with_table(condition: &str) -> String {
    let mut out = String::from("(");
    let mut quoted = false;
    let chars: Vec<char> = condition.chars().collect();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '\'' {
            quoted = !quoted;
        }
        if !quoted && c.is_alphabetic() {
            let word: String = chars[i..].iter().take_while(|c| c.is_alphanumeric() || **c == '_').collect();
            if ["s", "n", "id"].contains(&word.as_str()) {
                out.push_str("t.");
            }
            out.push_str(&word);
            i += word.chars().count();
            continue;
        }
        out.push(c);
        i += 1;
    }
    out + ")"
}

#[tokio::test]
async fn what_is_computed_above_a_filter_is_computed_for_its_rows_only() {
    for sql in [
        "SELECT id, CAST(s AS int) AS k FROM t WHERE s ~ '^[0-9]+$' ORDER BY id",
        "SELECT id, k FROM (SELECT id, CAST(s AS int) AS k FROM t WHERE s ~ '^[0-9]+$') WHERE k > 0 ORDER BY id",
        "SELECT id, k FROM (SELECT id, CAST(s AS int) AS k FROM (SELECT * FROM t WHERE s ~ '^[0-9]+$')) AS v WHERE k + 1 > 0 ORDER BY id",
        "WITH v AS (SELECT id, s FROM t WHERE s <> 'abc'), w AS (SELECT id, CAST(s AS int) AS k FROM v) SELECT w.id, w.k FROM w JOIN u ON u.id = w.id WHERE w.k > 0 ORDER BY w.id",
        "SELECT id, max(CAST(s AS int)) AS k FROM t WHERE s ~ '^[0-9]+$' GROUP BY id HAVING max(CAST(s AS int)) > 0 ORDER BY id",
        "SELECT id, k FROM (SELECT id, CAST(s AS int) AS k, count(*) AS c FROM t WHERE s <> 'abc' GROUP BY id, CAST(s AS int)) WHERE k > 0 ORDER BY id",
        "SELECT t.id, CAST(t.s AS int) AS k FROM t JOIN u ON t.s ~ '^[0-9]+$' AND CAST(t.s AS int) = CAST(u.s AS int) AND u.s <> 'abc' ORDER BY t.id",
        "SELECT t.id, CAST(t.s AS int) AS k FROM t, u WHERE t.s <> 'abc' AND u.s <> 'abc' AND CAST(t.s AS int) = CAST(u.s AS int) ORDER BY t.id",
    ] {
        let found = query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        let expected = [j!({"id": "max", "k": 9}), j!({"id": "min", "k": 7}), j!({"id": "small", "k": 3})];
        assert_eq!(found, expected, "{sql}");
    }
    assert_eq!(
        query("SELECT sum(CAST(s AS int)) FILTER (WHERE s <> 'abc') AS a, max(CAST(s AS int)) FILTER (WHERE s <> 'abc') AS b FROM t").await,
        Ok(vec![j!({"a": 19, "b": 9})])
    );
    let left = query(
        "SELECT t.id, u.n FROM t LEFT JOIN u ON t.s ~ '^[0-9]+$' AND CAST(t.s AS int) = u.n + 1 AND u.id <> 'max' ORDER BY t.id",
    );
    let found = left.await.unwrap();
    assert_eq!(
        found.iter().map(|r| r["n"].clone()).collect::<Vec<_>>(),
        [Value::Null, Value::Null, Value::Null, j!(2), Value::Null]
    );
    for sql in [
        "SELECT id, k FROM (SELECT id, CAST(s AS int) AS k FROM t WHERE s ~ '^[0-9]+$') AS v WHERE k > 5",
        // The parts of a WHERE that can't fail go first.
        "SELECT id FROM t WHERE CAST(s AS int) > 5 AND s <> 'abc'",
        "SELECT id, CAST(s AS int) AS k, CAST(s AS int) + 1 AS l FROM t WHERE s <> 'abc' AND CAST(s AS int) > 5",
        "WITH v AS (SELECT * FROM t WHERE s <> 'abc') SELECT id FROM (SELECT id, CAST(s AS int) AS k FROM v) AS w WHERE k > 5",
    ] {
        assert_eq!(step(sql), (vec!["max".to_owned(), "min".to_owned()], vec![]), "{sql}");
    }
}

#[tokio::test]
async fn null_stays_null_in_lazy_conditions() {
    let sql = "SELECT id, (n > 0 AND 10 / n > 4) AS a, (n < 1 OR 10 / n > 4) AS o FROM t ORDER BY id";
    let expected = [
        j!({"id": "max", "a": false, "o": false}),
        j!({"id": "min", "a": false, "o": true}),
        j!({"id": "null"}),
        j!({"id": "small", "a": true, "o": true}),
        j!({"id": "word", "a": false, "o": true}),
    ];
    assert_eq!(query(sql).await.unwrap(), expected);
}

/// A moment and what an expression makes of it, the year 1, both ends of nanoseconds, and the last of 9999.
const MOMENTS: [&str; 4] =
    ["0001-01-01T05:06:07.123456Z", "1677-09-20T00:00:00Z", "2262-04-12T00:00:00Z", "9999-12-31T23:59:59.999999Z"];

#[tokio::test]
async fn moments_from_the_year_1_to_9999_have_the_right_value_in_every_function() {
    let days = ["0001-01-01", "1677-09-20", "2262-04-12", "9999-12-31"].map(|day| j!(format!("{day}T00:00:00Z")));
    let months = ["0001-01", "1677-09", "2262-04", "9999-12"].map(|month| j!(format!("{month}-01T00:00:00Z")));
    let same = MOMENTS.map(|moment| j!(moment));
    let bools = |values: [bool; 4]| values.map(|value| j!(value));
    for (expr, expected) in [
        ("date_trunc('day', at)", days.clone()),
        ("date_trunc('month', at)", months.clone()),
        ("date_trunc('day', CAST(at AS date))", days.clone()),
        ("date_bin(INTERVAL '1 day', at)", days.clone()),
        ("date_bin(INTERVAL '1 month', at)", months),
        ("to_char(at, '%Y')", ["0001", "1677", "2262", "9999"].map(|year| j!(year))),
        ("date_format(at, '%d')", ["01", "20", "12", "31"].map(|day| j!(day))),
        ("at AT TIME ZONE 'UTC'", same.clone()),
        ("at AT TIME ZONE '+02:00'", same.clone()),
        ("EXTRACT(HOUR FROM at AT TIME ZONE '+02:00')", [7, 2, 2, 1].map(|hour| j!(hour))),
        ("EXTRACT(YEAR FROM at)", [1, 1677, 2262, 9999].map(|year| j!(year))),
        ("CAST(s AS timestamp)", same.clone()),
        ("to_timestamp(s)", same.clone()),
        ("to_timestamp_micros(s)", same.clone()),
        ("to_timestamp(s, '%+')", same.clone()),
        ("to_timestamp(CAST(at AS date))", days.clone()),
        ("CAST(CAST(at AS date) AS timestamp)", days),
        ("at + INTERVAL '1 day' - INTERVAL '1 day'", same.clone()),
        ("coalesce(at, DATE '9999-12-31')", same),
        ("at > DATE '2000-01-01'", bools([false, false, true, true])),
        ("at > '2000-01-01'", bools([false, false, true, true])),
        ("at BETWEEN DATE '0001-01-01' AND DATE '9999-12-31'", bools([true, true, true, false])),
        ("at IN ('1677-09-20')", bools([false, true, false, false])),
        ("at < now()", bools([true, true, false, false])),
        (
            "to_unixtime(date_trunc('day', at))",
            [-62_135_596_800_i64, -9_223_459_200, 9_223_372_800, 253_402_214_400].map(|s| j!(s)),
        ),
    ] {
        let schema = Arc::new(Schema::new(vec![field("at", timestamp_type()), field("s", DataType::Utf8)]));
        let lines: String = MOMENTS.iter().map(|m| format!("{{\"at\":\"{m}\",\"s\":\"{m}\"}}\n")).collect();
        let engine = QueryEngine::new(64 << 20).unwrap();
        engine.register("m", Arc::new(Memory(vec![batch(&schema, &lines)])));
        let rows = json(&crate::support::answer(&engine, &format!("SELECT {expr} AS x FROM m")).await);
        let found: Vec<Value> = rows.iter().map(|row| row["x"].clone()).collect();
        assert_eq!(found, expected, "{expr}");
        if expr.contains("now()") {
            continue;
        }
        let inputs = BTreeMap::from([("m".to_owned(), schema.clone())]);
        let transform = SqlTransform::plan(&format!("SELECT {expr} AS x FROM m"), &inputs).unwrap();
        let (rows, failures) = transform.step().unwrap().run("m", &Rows::all(batch(&schema, &lines))).unwrap();
        assert_eq!(failures, [], "{expr}");
        let found: Vec<Value> = json(&rows.batch).iter().map(|row| row["x"].clone()).collect();
        assert_eq!(found, expected, "{expr}");
    }
}

#[tokio::test]
async fn zeros_of_both_signs_are_one_value_wherever_values_are_compared() {
    let schema = Arc::new(Schema::new(vec![field("id", DataType::Utf8), field("f", DataType::Float64)]));
    let engine = QueryEngine::new(64 << 20).unwrap();
    engine.register("z", Arc::new(Memory(vec![batch(&schema, "{\"id\":\"a\",\"f\":0.0}\n{\"id\":\"b\",\"f\":-0.0}")])));
    for (sql, rows) in [
        ("SELECT f, count(*) AS n FROM z GROUP BY f", 1),
        ("SELECT DISTINCT f FROM z", 1),
        ("SELECT id FROM z WHERE f = 0.0", 2),
        ("SELECT id FROM z WHERE f = 0", 2),
        ("SELECT id FROM z WHERE f < 0.0", 0),
        ("SELECT id FROM z WHERE f >= 0", 2),
        ("SELECT id FROM z WHERE f IN (0.0, 1.0)", 2),
        ("SELECT id FROM z WHERE f BETWEEN 0.0 AND 1.0", 2),
        ("SELECT a.id, b.id AS other FROM z a JOIN z b ON a.f = b.f", 4),
        ("SELECT id FROM z WHERE f IN (SELECT f FROM z WHERE id = 'a')", 2),
    ] {
        assert_eq!(json(&crate::support::answer(&engine, sql).await).len(), rows, "{sql}");
    }
    let counted = crate::support::answer(&engine, "SELECT count(DISTINCT f) AS n FROM z").await;
    assert_eq!(json(&counted), [j!({"n": 1})]);
}
