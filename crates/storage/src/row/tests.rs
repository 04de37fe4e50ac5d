//! Rows as bytes and back.

use arrow::array::{Float32Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::TimeUnit;
use millstream_core::ErrorKind;
use proptest::prelude::*;

use super::*;
use crate::codec::tests::any_batch;

fn codec(dir: &tempfile::TempDir, schema: &SchemaRef) -> RowCodec {
    let schemas = SchemaStore::open(dir.path()).unwrap();
    let id = schemas.register(schema).unwrap();
    RowCodec::new(schema, id, schemas).unwrap()
}

fn rows_of(encoded: &EncodedRows, count: usize) -> Vec<Option<Bytes>> {
    (0..count).map(|i| Some(encoded.get(i))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_read_back_as_they_were(batch in any_batch(1..30), only in proptest::collection::vec(0_usize..9, 0..4)) {
        let dir = tempfile::tempdir().unwrap();
        let codec = codec(&dir, &batch.schema());
        let encoded = codec.encode(batch.columns(), batch.num_rows(), |row| row as i64 - 3);
        let mut rows = rows_of(&encoded, batch.num_rows());
        prop_assert_eq!(codec.read(&rows, None).unwrap(), batch.columns());
        let some: Vec<ArrayRef> = only.iter().map(|&c| batch.column(c).clone()).collect();
        prop_assert_eq!(codec.read(&rows, Some(&only)).unwrap(), some);
        for (i, row) in rows.iter().flatten().enumerate() {
            prop_assert_eq!(written_at(row), i as i64 - 3);
        }
        // A row that is not there is null in all columns.
        rows[0] = None;
        let read = codec.read(&rows, None).unwrap();
        prop_assert!(read.iter().all(|c| c.is_null(0)));
        prop_assert_eq!(&read[1].slice(1, rows.len() - 1), &batch.column(1).slice(1, rows.len() - 1));
    }

    #[test]
    fn images_are_equal_exactly_when_values_are(batch in any_batch(2..12)) {
        let dir = tempfile::tempdir().unwrap();
        let codec = codec(&dir, &batch.schema());
        let encoded = codec.encode(batch.columns(), batch.num_rows(), |row| row as i64);
        let again = codec.encode(batch.slice(1, 1).columns(), 1, |_| 77);
        prop_assert_eq!(again.image(0), encoded.image(1));
        prop_assert_eq!(batch.slice(0, 1) == batch.slice(1, 1), encoded.image(0) == encoded.image(1));
    }

    #[test]
    fn a_damaged_row_is_an_error_or_a_row_and_never_a_panic(
        batch in any_batch(1..3), at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>()
    ) {
        let dir = tempfile::tempdir().unwrap();
        let codec = codec(&dir, &batch.schema());
        let row = codec.encode(batch.columns(), batch.num_rows(), |_| 0).get(0).to_vec();
        let mut flipped = row.clone();
        flipped[at.index(row.len())] ^= flip;
        let _ = codec.read(&[Some(flipped.into())], None);
        let cut = Bytes::from(row).slice(..cut.index(16));
        prop_assert!(codec.read(&[Some(cut)], None).is_err());
    }
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, c)| (name, c, true))).unwrap()
}

#[test]
fn rows_of_an_older_schema_are_read_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let old = batch(vec![
        ("gone", Arc::new(StringArray::from(vec!["x"]))),
        ("id", Arc::new(StringArray::from(vec!["a"]))),
        ("n", Arc::new(Int32Array::from(vec![7]))),
    ]);
    let new = batch(vec![
        ("id", Arc::new(StringArray::from(vec!["b", "a"]))),
        ("added", Arc::new(Float32Array::from(vec![Some(0.5), None]))),
        ("n", Arc::new(Int64Array::from(vec![8, 7]))),
    ]);
    let first = codec(&dir, &old.schema()).encode(old.columns(), 1, |_| 5).get(0);
    let codec = codec(&dir, &new.schema());
    let second = codec.encode(new.columns(), 2, |_| 6);
    let mut rows = vec![Some(second.get(0)), Some(first)];
    assert_eq!(codec.read(&rows, None).unwrap(), new.columns());
    assert_eq!(codec.read(&rows, Some(&[1, 0])).unwrap(), [new.column(1).clone(), new.column(0).clone()]);
    codec.renew(&mut rows).unwrap();
    assert_eq!(image(rows[1].as_ref().unwrap()), second.image(1), "renewed rows compare with new ones");
    assert_eq!(written_at(rows[1].as_ref().unwrap()), 5);
}

#[test]
fn a_column_whose_values_can_not_be_cast_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let old = batch(vec![("n", Arc::new(StringArray::from(vec!["seven"])))]);
    let new = batch(vec![("n", Arc::new(Int64Array::from(vec![7])))]);
    let row = codec(&dir, &old.schema()).encode(old.columns(), 1, |_| 5).get(0);
    let error = codec(&dir, &new.schema()).read(&[Some(row)], None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("column `n` holds rows of type Utf8"), "{error}");
}

#[test]
fn the_bytes_of_a_row_never_change() {
    let dir = tempfile::tempdir().unwrap();
    let rows = batch(vec![
        ("a", Arc::new(StringArray::from(vec![Some("hi")]))),
        ("b", Arc::new(Int32Array::from(vec![None::<i32>]))),
        ("c", Arc::new(arrow::array::BooleanArray::from(vec![true]))),
    ]);
    let codec = codec(&dir, &rows.schema());
    let row = codec.encode(rows.columns(), 1, |_| 1).get(0);
    assert_eq!(&row[..9], &[1, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(row[9..17], codec.id.to_le_bytes());
    assert_eq!(&row[17..], b"\x02\x02hi\x01");
}

#[test]
fn a_row_of_a_newer_version_is_refused() {
    let newer = [[9_u8; 1].as_slice(), &[0; 30]].concat();
    assert_eq!(RowCodec::check(&newer).unwrap_err().kind(), ErrorKind::Environment);
    assert_eq!(RowCodec::check(&[1]).unwrap_err().kind(), ErrorKind::Corruption);
}

#[test]
fn every_type_that_sql_may_yield_for_a_number_or_a_moment_is_supported() {
    use DataType as T;
    for data_type in [T::UInt8, T::Float16, T::Decimal128(20, 4), T::Date32, T::Time64(TimeUnit::Nanosecond), T::Int16]
    {
        assert!(supports(&data_type), "{data_type}");
    }
    let dictionary = T::Dictionary(Box::new(T::Int32), Box::new(T::Utf8));
    assert!(!supports(&dictionary));
    assert!(!supports(&T::List(Arc::new(Field::new("item", dictionary, true)))));
}
