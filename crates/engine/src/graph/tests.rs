//! Rows that meet.

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;

fn rows(origin: &[u32], names: &[&str]) -> Rows {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false), Field::new("s", DataType::Utf8, true)]);
    let n = Int64Array::from_iter_values(origin.iter().map(|&n| i64::from(n)));
    let s = StringArray::from_iter_values(names);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(n), Arc::new(s)]).unwrap();
    Rows { batch, origin: origin.into() }
}

fn input(rows: &Rows) -> StreamBatch {
    StreamBatch::alone(rows.batch.clone(), None, 0)
}

fn merged(inbox: Inbox) -> (Vec<u32>, Vec<String>, Vec<usize>) {
    let first = inbox[0].1.clone();
    let (rows, slots) = merge(inbox, &first.batch.schema(), &input(&first)).unwrap();
    let names = arrow::array::AsArray::as_string::<i32>(rows.batch.column(1));
    let names = names.iter().map(|name| name.unwrap().to_owned()).collect();
    let slots = (0..rows.len() as u32).map(|row| slots.of(row)).collect();
    (rows.origin.to_vec(), names, slots)
}

#[test]
fn rows_that_meet_are_in_the_order_of_their_origin_and_then_of_the_inputs() {
    // The second input has been computed first.
    let (origin, names, slots) =
        merged(vec![(1, rows(&[0, 2, 2, 5], &["b0", "b2", "b2'", "b5"])), (0, rows(&[2, 3, 5], &["a2", "a3", "a5"]))]);
    assert_eq!(origin, [0, 2, 2, 2, 3, 5, 5]);
    assert_eq!(names, ["b0", "a2", "b2", "b2'", "a3", "a5", "b5"]);
    assert_eq!(slots, [1, 0, 1, 1, 0, 0, 1]);
}

#[test]
fn one_input_is_passed_on_as_it_is_and_none_is_no_rows() {
    let (origin, names, slots) = merged(vec![(0, rows(&[], &[])), (3, rows(&[1, 4], &["x", "y"]))]);
    assert_eq!((origin, names, slots), (vec![1, 4], vec!["x".to_owned(), "y".to_owned()], vec![3, 3]));
    assert_eq!(merged(vec![(0, rows(&[], &[]))]).0, Vec::<u32>::new());
}

#[test]
fn columns_that_are_nullable_in_one_branch_only_meet_as_nullable() {
    let nullable = rows(&[1], &["n"]);
    let (a, fields) = (rows(&[0], &["a"]), nullable.batch.schema().fields().iter().cloned().collect::<Vec<_>>());
    let strict: Vec<_> = fields.iter().map(|f| f.as_ref().clone().with_nullable(false)).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(strict)), a.batch.columns().to_vec()).unwrap();
    let inbox = vec![(0, Rows { batch, origin: a.origin }), (1, nullable.clone())];
    let (rows, _) = merge(inbox, &nullable.batch.schema(), &input(&nullable)).unwrap();
    assert_eq!((rows.len(), rows.batch.schema()), (2, nullable.batch.schema()));
}
