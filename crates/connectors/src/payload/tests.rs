//! Images, and the rows that the tests of the sinks write.

use arrow::array::StringArray;
use arrow::datatypes::{Field, Fields, Int64Type};
use arrow::json::ReaderBuilder;
use millstream_core::ManualClock;
use serde_json::json;

use super::*;
use crate::context::SinkContext;

/// `{id, headline?, at?, sentiment: {label, score}?}`
pub(crate) fn row_fields() -> Fields {
    let sentiment =
        Fields::from(vec![Field::new("label", DataType::Utf8, false), Field::new("score", DataType::Float64, false)]);
    Fields::from(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("headline", DataType::Utf8, true),
        Field::new("at", millstream_core::schema::timestamp_type(), true),
        Field::new("sentiment", DataType::Struct(sentiment), true),
    ])
}

pub(crate) fn row_schema() -> SchemaRef {
    Arc::new(Schema::new(row_fields()))
}

pub(crate) fn change_schema() -> SchemaRef {
    let key = Fields::from(vec![Field::new("id", DataType::Int64, false)]);
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, false),
        Field::new("ts", millstream_core::schema::timestamp_type(), false),
        Field::new("key", DataType::Struct(key), false),
        Field::new("old", DataType::Struct(row_fields()), true),
        Field::new("new", DataType::Struct(row_fields()), true),
    ]))
}

pub(crate) fn record_batch(schema: &SchemaRef, rows: &[serde_json::Value]) -> RecordBatch {
    let text: String = rows.iter().map(|r| format!("{r}\n")).collect();
    let mut reader = ReaderBuilder::new(schema.clone()).build(text.as_bytes()).unwrap();
    reader.next().map_or_else(|| RecordBatch::new_empty(schema.clone()), |batch| batch.unwrap())
}

/// Rows of partition 0 of `wire`, from offset `first`.
pub(crate) fn rows(first: u64, rows: &[serde_json::Value]) -> SinkBatch {
    let offsets = (first..first + rows.len() as u64).collect();
    SinkBatch {
        folder: "f0".into(),
        stream: "wire".into(),
        partition: 0,
        offsets,
        batch: record_batch(&row_schema(), rows),
    }
}

/// Rows with nothing but an id.
pub(crate) fn ids(first: u64, count: u64) -> SinkBatch {
    let values: Vec<_> = (first..first + count).map(|id| json!({"id": id})).collect();
    rows(first, &values)
}

/// An insert, an update and a delete of partition 2 of `news.changes`, at the offsets 7, 8 and 10.
pub(crate) fn changes() -> SinkBatch {
    let row = |id: i64, label: &str| json!({"id": id, "headline": format!("\"{id}\", ü"), "at": "2024-05-01T12:00:00Z", "sentiment": {"label": label, "score": 0.5}});
    let batch = record_batch(
        &change_schema(),
        &[
            json!({"op": "insert", "ts": "2024-05-01T12:00:01Z", "key": {"id": 1}, "new": row(1, "positive")}),
            json!({"op": "update", "ts": "2024-05-01T12:00:02Z", "key": {"id": 1}, "old": row(1, "positive"), "new": row(1, "negative")}),
            json!({"op": "delete", "ts": "2024-05-01T12:00:03Z", "key": {"id": 2}, "old": row(2, "neutral")}),
        ],
    );
    SinkBatch { folder: "f0".into(), stream: "news.changes".into(), partition: 2, offsets: vec![7, 8, 10], batch }
}

/// 2024-05-01T12:00:10Z
pub(crate) const NOW_US: i64 = 1_714_564_810_000_000;

pub(crate) fn context() -> SinkContext {
    SinkContext { name: "out".into(), clock: Arc::new(ManualClock::new(NOW_US)), pipeline: "p".into() }
}

#[test]
fn the_new_image_is_a_plain_row_and_leaves_deletes_out() {
    let batch = changes();
    let payload = Payload::of(&batch.batch, Image::New).unwrap();
    assert_eq!(payload.rows, [0, 1]);
    assert_eq!(payload.batch.schema(), row_schema());
    assert_eq!(payload.batch.column(0).as_primitive::<Int64Type>().values(), &[1, 1]);
    let whole = Payload::of(&batch.batch, Image::Change).unwrap();
    assert_eq!(whole.rows, [0, 1, 2]);
    assert_eq!(whole.batch.column(0).as_ref(), &StringArray::from(vec!["insert", "update", "delete"]));
    let none = Payload::of(&batch.batch.slice(2, 1), Image::New).unwrap();
    assert_eq!((none.rows.len(), none.batch.num_rows()), (0, 0));
}
