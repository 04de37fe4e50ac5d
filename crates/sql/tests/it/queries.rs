//! One-off queries, and their agreement with steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use futures::TryStreamExt;
use millstream_core::{ErrorKind, Rows};
use millstream_sql::{QueryEngine, QueryError, SqlTransform};
use proptest::prelude::*;
use serde_json::{Value, json as j};

use crate::support::*;

fn engine() -> QueryEngine {
    let engine = QueryEngine::new(64 << 20).unwrap();
    engine.register("wire", Arc::new(Memory(vec![wire_rows(), wire_rows()])));
    engine.register("news", Arc::new(Memory(vec![wire_rows()])));
    engine.register("news.changes", Arc::new(Memory(vec![wire_rows()])));
    engine
}

async fn rows(sql: &str) -> Vec<Value> {
    json(&answer(&engine(), sql).await)
}

#[tokio::test]
async fn all_of_select_works() {
    let counted = rows("SELECT language, count(*) AS n FROM wire GROUP BY language ORDER BY n DESC, language").await;
    assert_eq!(counted, [j!({"language": "en", "n": 4}), j!({"language": "de", "n": 2}), j!({"n": 2})]);
    let joined =
        rows("SELECT w.id, c.headline FROM wire w JOIN news.changes c ON w.id = c.id WHERE w.urgent LIMIT 3").await;
    assert_eq!(joined.len(), 3);
    let ranked = rows("SELECT id, row_number() OVER (ORDER BY words DESC) AS rank FROM news ORDER BY rank").await;
    assert_eq!(ranked[0], j!({"id": "a1", "rank": 1}));
    assert_eq!(rows("SELECT count(*) AS n FROM news").await, [j!({"n": 4})]);
    assert_eq!(rows("SELECT UNNEST(tags) AS tag FROM news").await.len(), 5);
    let unnested =
        "SELECT t.tag, count(*) AS n FROM news CROSS JOIN UNNEST(tags) AS t(tag) GROUP BY t.tag ORDER BY t.tag DESC";
    assert_eq!(rows(unnested).await[0], j!({"tag": "misc", "n": 2}));
    let sources = "SELECT JSON_VALUE(payload, '$.source' DEFAULT '?' ON EMPTY) AS s, count(*) AS n FROM wire \
                   GROUP BY JSON_VALUE(payload, '$.source' DEFAULT '?' ON EMPTY) ORDER BY s";
    assert_eq!(rows(sources).await[0], j!({"s": "?", "n": 2}));
    assert_eq!(rows("SELECT id FROM `news.changes` WHERE `words` = 6").await, [j!({"id": "a1"})]);
    assert_eq!(
        rows("SELECT payload->'geo' AS geo FROM news WHERE id = 'a1'").await,
        [j!({"geo": "{\"city\":\"Paris\"}"})]
    );
    assert_eq!(rows("SELECT max(publishedAt) - min(publishedAt) AS d FROM news").await.len(), 1);
    assert_eq!(rows("SELECT now() > to_timestamp('2020-01-01T00:00:00Z') AS later").await, [j!({"later": true})]);
}

#[tokio::test]
async fn a_name_with_a_dot_reads_with_and_without_quotes_beside_its_table() {
    for name in ["news", "news.changes", "\"news.changes\"", "\"news\".\"changes\""] {
        assert_eq!(rows(&format!("SELECT id FROM {name}")).await.len(), 4, "{name}");
    }
    assert_eq!(rows("SELECT news.changes.id FROM news.changes WHERE changes.urgent").await.len(), 2);
}

#[tokio::test]
async fn show_tables_describe_and_explain() {
    let tables = rows("SHOW TABLES").await;
    let names: Vec<&Value> = tables.iter().map(|t| &t["name"]).collect();
    assert_eq!(names, ["news", "news.changes", "wire"]);
    assert!(tables[0]["columns"].as_str().unwrap().starts_with("id, headline"));
    assert_eq!(rows("DESCRIBE news.changes").await.len(), 11);
    assert!(rows("EXPLAIN SELECT id FROM wire").await.iter().any(|r| r["plan"].to_string().contains("columns=[id]")));
}

#[tokio::test]
async fn a_query_only_reads() {
    for sql in [
        "CREATE TABLE x AS SELECT 1",
        "DROP TABLE wire",
        "INSERT INTO wire SELECT * FROM wire",
        "DELETE FROM wire",
        "COPY wire TO '/tmp/x.csv'",
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
        "SET datafusion.execution.batch_size = 1",
        "SELECT * INTO x FROM wire",
        "EXPLAIN ANALYZE INSERT INTO wire SELECT * FROM wire",
        "EXPLAIN COPY wire TO '/tmp/x.csv'",
    ] {
        let error = of_sql(engine().run(sql).await.unwrap_err());
        assert!(error.message.contains("only reads") || error.message.contains("nothing called"), "{sql}: {error}");
    }
    let error = of_sql(engine().run("SELECT * FROM '/etc/passwd'").await.unwrap_err());
    assert!(!error.message.is_empty());
}

#[tokio::test]
async fn errors_name_what_was_meant() {
    let error = of_sql(engine().run("SELECT id FROM newz").await.unwrap_err());
    assert!(error.to_string().contains("did you mean `news`?"), "{error}");
    let error = of_sql(engine().run("SELECT idd FROM news").await.unwrap_err());
    assert_eq!((error.line, error.column), (Some(1), Some(8)));
    let result = engine().run("SELECT 1 / words AS x FROM news").await.unwrap();
    let error = result.stream.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    let error =
        of_sql(engine().run(&format!("SELECT {} AS x FROM news", vec!["words"; 3000].join(" + "))).await.unwrap_err());
    assert!(error.message.contains("nested too deeply"), "{error}");
}

#[tokio::test]
async fn a_query_beyond_its_memory_ends_with_a_clear_error() {
    let schema = Arc::new(Schema::new(vec![field("n", DataType::Int64)]));
    let lines: String = (0..200_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let engine = QueryEngine::new(1 << 20).unwrap();
    engine.register("t", Arc::new(Memory(vec![batch(&schema, &lines)])));
    let sql = "SELECT n, count(*) AS c FROM t GROUP BY n ORDER BY c, n DESC";
    let error = match engine.run(sql).await {
        Ok(result) => result.stream.try_collect::<Vec<_>>().await.unwrap_err(),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.message().contains("1 MiB of memory"), "{error}");
    // The memory is given back.
    assert_eq!(json(&answer(&engine, "SELECT count(*) AS c FROM t").await), [j!({"c": 200_000})]);
}

/// A condition and a column, of the kinds that people write.
fn expressions() -> impl Strategy<Value = (String, String)> {
    let condition = prop_oneof![
        (-3_i64..4).prop_map(|n| format!("n > {n}")),
        "[a-c]".prop_map(|s| format!("s = '{s}' OR n IS NULL")),
        (0_i64..3).prop_map(|n| format!("n % 3 = {n} AND s LIKE '%a%'")),
        Just("b AND NOT s IN ('a', 'ab')".to_owned()),
        Just("json_get_int(doc, 'k') >= 1".to_owned()),
        Just("array_has(list, 2)".to_owned()),
    ];
    let column = prop_oneof![
        Just("n * 2 + 1".to_owned()),
        Just("upper(s) || '!'".to_owned()),
        Just("CASE WHEN b THEN n ELSE -n END".to_owned()),
        Just("coalesce(n, 0) / 2.0".to_owned()),
        Just("doc->>'k'".to_owned()),
        Just("array_length(list)".to_owned()),
        Just("CAST(n AS string)".to_owned()),
    ];
    (condition, column)
}

fn any_rows() -> impl Strategy<Value = String> {
    let row = (prop::option::of(-5_i64..6), prop::option::of("[a-c]{0,3}"), prop::option::of(any::<bool>()), 0_i64..4);
    prop::collection::vec(row, 1..30).prop_map(|rows| {
        let line = |(n, s, b, k)| {
            j!({"n": n, "s": s, "b": b, "doc": format!("{{\"k\":{k}}}"), "list": [k, 2 * k]}).to_string()
        };
        rows.into_iter().map(line).collect::<Vec<_>>().join("\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A SELECT gives the same rows in the stream and as a query.
    #[test]
    fn a_step_and_a_query_agree(((condition, column), lines) in (expressions(), any_rows())) {
        let schema = Arc::new(Schema::new(vec![
            field("n", DataType::Int64), field("s", DataType::Utf8), field("b", DataType::Boolean),
            field("doc", DataType::Utf8), field("list", DataType::List(Arc::new(field("item", DataType::Int64)))),
        ]));
        let rows: RecordBatch = batch(&schema, &lines);
        let sql = format!("SELECT n, {column} AS x, s FROM t WHERE {condition}");
        let transform = SqlTransform::plan(&sql, &BTreeMap::from([("t".to_owned(), schema)])).unwrap();
        let (streamed, failures) = transform.step().unwrap().run("t", &Rows::all(rows.clone())).unwrap();
        prop_assert!(failures.is_empty());
        let engine = QueryEngine::new(64 << 20).unwrap();
        engine.register("t", Arc::new(Memory(vec![rows])));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let queried = runtime.block_on(answer(&engine, &sql));
        prop_assert_eq!(queried.schema(), transform.schema());
        prop_assert_eq!(json(&queried), json(&streamed.batch));
    }
}

fn of_sql(error: QueryError) -> millstream_sql::SqlError {
    let QueryError::Sql(error) = error else { panic!("{error}") };
    error
}
