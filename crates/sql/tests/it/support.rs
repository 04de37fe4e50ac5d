//! Streams to run SQL on, and short ways to do so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::{ArrayWriter, ReaderBuilder};
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use millstream_core::schema::{TYPE_KEY, timestamp_type};
use millstream_core::{Result, RowFailure, Rows};
use millstream_sql::{QueryEngine, Relation, SqlTransform};
use serde_json::Value;

/// A field that may be null.
pub fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

/// A news wire, as a pipeline would declare it.
pub fn wire_schema() -> SchemaRef {
    let json = HashMap::from([(TYPE_KEY.to_owned(), "json".to_owned())]);
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("headline", DataType::Utf8, false),
        field("language", DataType::Utf8),
        field("publishedAt", timestamp_type()),
        field("score", DataType::Float64),
        field("words", DataType::Int64),
        field("urgent", DataType::Boolean),
        field("tags", DataType::List(Arc::new(field("item", DataType::Utf8)))),
        field("payload", DataType::Utf8).with_metadata(json),
        field(
            "sentiment",
            DataType::Struct(vec![field("label", DataType::Utf8), field("score", DataType::Float64)].into()),
        ),
        field("embedding", DataType::List(Arc::new(field("item", DataType::Float32)))),
    ]))
}

/// Four records of it.
pub fn wire_rows() -> RecordBatch {
    batch(
        &wire_schema(),
        r#"
{"id":"a1","headline":"Shares rally as banks beat forecasts","language":"en","publishedAt":"2024-05-01T08:30:00Z","score":0.9,"words":6,"urgent":true,"tags":["markets","banks"],"payload":"{\"source\":\"rtr\",\"n\":7,\"geo\":{\"city\":\"Paris\"},\"list\":[1,2]}","sentiment":{"label":"positive","score":0.97},"embedding":[0.5,1.5]}
{"id":"a2","headline":"Die Börse fällt","language":"de","publishedAt":"2024-05-01T09:00:00Z","score":0.2,"words":3,"urgent":false,"tags":[],"payload":"{\"source\":\"dpa\",\"n\":null}","sentiment":{"label":"negative","score":0.6},"embedding":[0.25]}
{"id":"a3","headline":"No language given","publishedAt":"2024-05-02T10:15:30.5Z","words":0,"tags":["misc","misc","late"],"payload":"{\"n\":\"seven\"}"}
{"id":"a4","headline":"Profit warning","language":"en","score":-1.5,"words":-2,"urgent":true,"payload":"not json","sentiment":{"label":"negative"}}
"#,
    )
}

/// JSON lines as a batch.
pub fn batch(schema: &SchemaRef, lines: &str) -> RecordBatch {
    let reader = ReaderBuilder::new(schema.clone()).build(lines.trim().as_bytes()).unwrap();
    let batches: Vec<_> = reader.collect::<Result<_, _>>().unwrap();
    arrow::compute::concat_batches(schema, &batches).unwrap()
}

/// Rows as JSON objects; null fields are left out.
pub fn json(batch: &RecordBatch) -> Vec<Value> {
    let mut out = Vec::new();
    let mut writer = ArrayWriter::new(&mut out);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    match serde_json::from_slice(&out) {
        Ok(Value::Array(rows)) => rows,
        _ => Vec::new(),
    }
}

/// What transforms may read.
pub fn inputs() -> BTreeMap<String, SchemaRef> {
    BTreeMap::from([
        ("wire".to_owned(), wire_schema()),
        ("archive".to_owned(), wire_schema()),
        ("news.changes".to_owned(), wire_schema()),
    ])
}

/// Plans `sql`, which must be accepted.
pub fn plan(sql: &str) -> SqlTransform {
    SqlTransform::plan(sql, &inputs()).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Why `sql` is refused.
pub fn refusal(sql: &str) -> String {
    SqlTransform::plan(sql, &inputs()).err().unwrap_or_else(|| panic!("accepted: {sql}")).to_string()
}

/// Runs `sql` on the wire's rows.
pub fn run(sql: &str) -> (Rows, Vec<RowFailure>) {
    run_on(sql, "wire", wire_rows())
}

/// Runs `sql` on a batch of `input`, and checks what every answer keeps to.
pub fn run_on(sql: &str, input: &str, batch: RecordBatch) -> (Rows, Vec<RowFailure>) {
    let transform = plan(sql);
    let (rows, failures) = transform.step().unwrap().run(input, &Rows::all(batch)).unwrap();
    assert_eq!(rows.batch.schema(), transform.schema(), "{sql}");
    assert_eq!(rows.origin.len(), rows.len(), "{sql}");
    assert!(rows.origin.is_sorted(), "{sql}: {:?}", rows.origin);
    (rows, failures)
}

/// The only column of the answer, null as `Null`; nothing may fail.
pub fn values(expr: &str) -> Vec<Value> {
    let (rows, failures) = run(&format!("SELECT {expr} AS x FROM wire"));
    assert_eq!(failures, [], "{expr}");
    json(&rows.batch).into_iter().map(|row| row.get("x").cloned().unwrap_or(Value::Null)).collect()
}

/// A relation in memory.
#[derive(Debug)]
pub struct Memory(pub Vec<RecordBatch>);

#[async_trait]
impl Relation for Memory {
    fn schema(&self) -> SchemaRef {
        self.0[0].schema()
    }

    async fn scan(
        &self,
        projection: Option<&[usize]>,
        _: Option<usize>,
    ) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let project = |batch: &RecordBatch| match projection {
            Some([]) => {
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap()
            }
            Some(columns) => batch.project(columns).unwrap(),
            None => batch.clone(),
        };
        let batches: Vec<_> = self.0.iter().map(|b| Ok(project(b))).collect();
        Ok(futures::stream::iter(batches).boxed())
    }
}

/// The whole answer of a query, as one batch.
pub async fn answer(engine: &QueryEngine, sql: &str) -> RecordBatch {
    let result = engine.run(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let batches: Vec<RecordBatch> = result.stream.try_collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    arrow::compute::concat_batches(&result.schema, &batches).unwrap()
}
