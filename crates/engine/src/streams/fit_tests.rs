//! Records of an earlier schema in the columns of a new one.

use arrow::array::{Int64Array, ListArray, StringArray, StructArray};
use arrow::datatypes::{Field, Fields, Int64Type, Schema};

use super::*;

fn list(items: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(items, true)))
}

/// `id`, and `part`: a struct of a text and a list of texts.
fn stored(texts: &[Option<&str>], items: &[&[&str]]) -> StreamBatch {
    let fields = Fields::from(vec![Field::new("a", DataType::Utf8, true), Field::new("b", list(DataType::Utf8), true)]);
    let mut lists = arrow::array::GenericListBuilder::<i32, _>::new(arrow::array::StringBuilder::new());
    for items in items {
        items.iter().for_each(|item| lists.values().append_value(item));
        lists.append(true);
    }
    let lists: ListArray = lists.finish();
    let part = StructArray::new(fields, vec![Arc::new(StringArray::from(texts.to_vec())), Arc::new(lists)], None);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..texts.len() as i64));
    StreamBatch::alone(
        RecordBatch::try_from_iter([("id", ids), ("part", Arc::new(part) as ArrayRef)]).unwrap(),
        None,
        0,
    )
}

fn wanted() -> SchemaRef {
    let part = vec![Field::new("a", DataType::Int64, true), Field::new("b", list(DataType::Int64), true)];
    let part = DataType::Struct(part.into());
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("part", part, true)]))
}

#[test]
fn a_value_that_does_not_convert_deep_inside_of_a_column_is_not_lost_in_silence() {
    let batch = stored(&[Some("7"), Some("x"), None, Some("9")], &[&["1"], &["2"], &["3", "4"], &["5", "six"]]);
    let (rows, misfits) = batch.fit(&wanted()).unwrap();
    assert_eq!(rows.origin.to_vec(), [0, 2]);
    let kinds: Vec<_> = misfits.iter().map(|misfit| (misfit.row, misfit.failure.kind)).collect();
    assert_eq!(kinds, [(1, FailureKind::TypeMismatch), (3, FailureKind::TypeMismatch)]);
    let part = rows.batch.column(1).as_struct();
    let a = part.column(0).as_primitive::<Int64Type>();
    assert_eq!((a.value(0), a.is_null(1)), (7, true));
    let said = batch.conform(&wanted()).unwrap_err().to_string();
    assert!(said.contains("offset 1") && said.contains("`part`"), "{said}");
}

#[test]
fn a_column_that_is_new_is_null_or_where_it_is_required_missing() {
    let batch = stored(&[Some("1")], &[&[]]);
    let with = |nullable| {
        let fields: Vec<Field> =
            vec![Field::new("id", DataType::Int64, false), Field::new("n", DataType::Int64, nullable)];
        Arc::new(Schema::new(fields))
    };
    let (rows, misfits) = batch.fit(&with(true)).unwrap();
    assert!(misfits.is_empty() && rows.batch.column(1).is_null(0));
    let (rows, misfits) = batch.fit(&with(false)).unwrap();
    assert_eq!((rows.len(), misfits[0].failure.kind), (0, FailureKind::MissingField));
}
