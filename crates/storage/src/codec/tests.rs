//! Batches as bytes and back.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray, StringViewArray,
    StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Fields, Int64Type};
use millstream_core::ErrorKind;
use millstream_core::schema::timestamp_type;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

/// A batch of every kind of column that a pipeline has; also used by the tests of tables.
pub(crate) fn any_batch(rows: std::ops::Range<usize>) -> impl Strategy<Value = RecordBatch> {
    let row = (
        option::of(".{0,12}"),
        option::of(any::<i64>()),
        option::of(any::<f64>()),
        option::of(any::<bool>()),
        option::of(any::<i64>()),
        option::of(vec(any::<u8>(), 0..9)),
        option::of(vec(option::of(any::<i64>()), 0..4)),
        option::of((option::of(".{0,6}"), any::<i32>(), option::of(any::<i64>()))),
    );
    vec(row, rows).prop_map(|rows| {
        let column = |array: ArrayRef| array;
        let inner_fields: Fields = vec![
            Field::new("label", DataType::Utf8, true),
            Field::new("n", DataType::Int32, false),
            Field::new("when", timestamp_type(), true),
        ]
        .into();
        let time = |values: Vec<Option<i64>>| TimestampMicrosecondArray::from(values).with_timezone("UTC");
        let valid: Vec<bool> = rows.iter().map(|r| r.7.is_some()).collect();
        let inner: Vec<_> = rows.iter().map(|r| r.7.clone().unwrap_or((None, 0, None))).collect();
        let nested = StructArray::new(
            inner_fields,
            vec![
                column(Arc::new(StringArray::from_iter(inner.iter().map(|i| i.0.as_deref())))),
                column(Arc::new(Int32Array::from_iter_values(inner.iter().map(|i| i.1)))),
                column(Arc::new(time(inner.iter().map(|i| i.2).collect()))),
            ],
            Some(valid.into()),
        );
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>(rows.iter().map(|r| r.6.clone()));
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("text", column(Arc::new(StringArray::from_iter(rows.iter().map(|r| r.0.as_deref())))), true),
            ("int", column(Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.1)))), true),
            ("float", column(Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.2)))), true),
            ("bool", column(Arc::new(BooleanArray::from_iter(rows.iter().map(|r| r.3)))), true),
            ("time", column(Arc::new(time(rows.iter().map(|r| r.4).collect()))), true),
            ("bytes", column(Arc::new(BinaryArray::from_iter(rows.iter().map(|r| r.5.as_deref())))), true),
            ("list", column(Arc::new(list)), true),
            ("nested", column(Arc::new(nested)), true),
            ("view", column(Arc::new(StringViewArray::from_iter(rows.iter().map(|r| r.0.as_deref())))), true),
        ]);
        batch.unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_reads_back_as_it_was(batch in any_batch(0..60), from in 0_usize..60, len in 0_usize..60) {
        prop_assert_eq!(decode_batch(&encode_batch(&batch).unwrap(), &batch.schema()).unwrap(), batch.clone());
        let from = from.min(batch.num_rows());
        let slice = batch.slice(from, len.min(batch.num_rows() - from));
        prop_assert_eq!(decode_batch(&encode_batch(&slice).unwrap(), &batch.schema()).unwrap(), slice);
    }

    #[test]
    fn any_damage_to_a_batch_is_noticed(
        batch in any_batch(0..40), at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>()
    ) {
        let whole = encode_batch(&batch).unwrap();
        let mut bytes = whole.to_vec();
        bytes[at.index(whole.len())] ^= flip;
        prop_assert!(decode_batch(&bytes.into(), &batch.schema()).is_err());
        prop_assert!(decode_batch(&whole.slice(..cut.index(whole.len())), &batch.schema()).is_err());
    }
}

#[test]
fn every_single_flip_is_an_error_and_no_panic() {
    let batch = long_texts().slice(0, 2);
    let bytes = encode_batch(&batch).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.to_vec();
            changed[at] ^= 1 << bit;
            assert!(decode_batch(&changed.into(), &batch.schema()).is_err(), "byte {at} bit {bit}");
        }
    }
}

fn long_texts() -> RecordBatch {
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..2000).map(|i| format!("{i:0100}"))));
    let views = arrow::compute::cast(&texts, &DataType::Utf8View).unwrap();
    RecordBatch::try_from_iter([("text", texts), ("view", views)]).unwrap()
}

#[test]
fn a_slice_is_stored_without_the_rest_of_its_buffers() {
    let batch = long_texts();
    let one = encode_batch(&batch.slice(1000, 1)).unwrap();
    assert!(one.len() < 1500, "{} bytes", one.len());
}

#[test]
fn large_bodies_are_compressed() {
    let batch = long_texts();
    let bytes = encode_batch(&batch).unwrap();
    assert!(bytes.len() < 200_000, "{} bytes for 400,000", bytes.len());
    assert_eq!(decode_batch(&bytes, &batch.schema()).unwrap(), batch);
}

#[test]
fn a_batch_of_a_newer_version_is_refused() {
    let mut bytes = encode_batch(&long_texts()).unwrap().to_vec();
    bytes[0] = VERSION + 1;
    assert_eq!(decode_batch(&bytes.into(), &long_texts().schema()).unwrap_err().kind(), ErrorKind::Environment);
}

#[test]
fn rows_without_columns_keep_their_number() {
    let options = RecordBatchOptions::new().with_row_count(Some(7));
    let batch = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    assert_eq!(decode_batch(&encode_batch(&batch).unwrap(), &batch.schema()).unwrap().num_rows(), 7);
}

#[test]
fn schemas_are_found_by_id_after_a_restart_and_ids_never_change() {
    let dir = tempfile::tempdir().unwrap();
    let metadata = HashMap::from([("millstream.type".into(), "json".into())]);
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("raw", DataType::Utf8, true).with_metadata(metadata),
        Field::new("at", timestamp_type(), true),
        Field::new("tags", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), true),
    ]));
    let id = SchemaStore::open(dir.path()).unwrap().register(&schema).unwrap();
    assert_eq!(id, GOLDEN, "a change here would make stored records unreadable");
    let reader = SchemaStore::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.get(id).unwrap(), schema);
    assert_eq!(reader.register(&schema).unwrap(), id);

    let nullable = Arc::new(Schema::new(vec![Field::new("id", DataType::Utf8, true)]));
    assert_eq!(reader.register(&nullable).unwrap_err().kind(), ErrorKind::Bug);
    let missing = reader.get(7).unwrap_err();
    assert!(missing.to_string().contains("0000000000000007.arrow is missing"), "{missing}");
    assert_eq!(missing.kind(), ErrorKind::Corruption);
}

const GOLDEN: u64 = 16_568_830_714_398_281_559;

#[test]
fn a_broken_schema_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let schema = long_texts().schema();
    let id = SchemaStore::open(dir.path()).unwrap().register(&schema).unwrap();
    let path = dir.path().join(format!("{id:016x}.arrow"));
    let other = Schema::new(vec![Field::new("x", DataType::Int64, true)]);
    let mut bytes = Vec::new();
    StreamWriter::try_new(&mut bytes, &other).unwrap().finish().unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = SchemaStore::open(dir.path()).unwrap().get(id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
}
