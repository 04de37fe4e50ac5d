//! What `metadata:` makes of records.

use arrow::array::{Array, AsArray, BooleanArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use bytes::Bytes;

use super::*;

/// Three records, of which the second did not decode, and the third gave two rows.
fn decoded() -> (RawBatch, Decoded) {
    let shared: Headers =
        Arc::from([("X-Trace".into(), Bytes::from("a\"b")), ("X-Odd".into(), Bytes::from_static(b"\xff"))]);
    let raw = RawBatch {
        data: "abc".into(),
        spans: vec![0..1, 1..2, 2..3],
        positions: vec![7, 8, 9],
        keys: vec![Some("k".into()), Some("lost".into()), None],
        headers: vec![shared.clone(), shared, Arc::from([])],
        timestamps_us: vec![Some(5), Some(6), None],
        tombstones: vec![false, false, true],
        ..RawBatch::default()
    };
    let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(vec![1, 3, 4])) as ArrayRef)]).unwrap();
    (raw, Decoded { batch, record: vec![0, 2, 2], failures: Vec::new() })
}

#[test]
fn each_row_has_what_is_known_of_its_record() {
    let (raw, decoded) = decoded();
    let column = |metadata| metadata_column(metadata, &decoded, &raw, 99);
    let key = column(Metadata::Key);
    assert_eq!(key.as_binary::<i32>().iter().collect::<Vec<_>>(), [Some(&b"k"[..]), None, None]);
    let headers = column(Metadata::Headers);
    let object = "{\"X-Trace\":\"a\\\"b\",\"X-Odd\":\"\u{fffd}\"}";
    assert_eq!(headers.as_string::<i32>().iter().collect::<Vec<_>>(), [Some(object), Some("{}"), Some("{}")]);
    let timestamp = column(Metadata::Timestamp);
    let values = timestamp.as_primitive::<TimestampMicrosecondType>();
    assert_eq!((values.value(0), values.is_null(1), values.is_null(2)), (5, true, true));
    assert_eq!(column(Metadata::Tombstone).as_ref(), &BooleanArray::from(vec![false, true, true]));
    assert_eq!(column(Metadata::Position).as_primitive::<Int64Type>().values(), &[7, 9, 9]);
    for metadata in Metadata::ALL {
        assert_eq!(column(metadata).data_type(), metadata.field().data_type(), "{metadata:?}");
    }
}

#[test]
fn what_a_source_does_not_know_is_null() {
    let (raw, decoded) = decoded();
    let bare = RawBatch { data: raw.data, spans: raw.spans, ..RawBatch::default() };
    for metadata in [Metadata::Key, Metadata::Headers, Metadata::Timestamp, Metadata::Tombstone, Metadata::Event] {
        assert_eq!(metadata_column(metadata, &decoded, &bare, 99).null_count(), 3, "{metadata:?}");
    }
}
