//! Rows of columns out of what clients send, for models that read columns. No I/O.
//!
//! A row is a list of cells in the model's order, an object with the columns by name, or an object with such a list
//! under `features`, `data` or `values`. Columns may also come one by one, as Hugging Face sends tables: `{"amount":
//! [1, 2], …}`.

use millstream_models::{Cell, Column, Input};
use serde_json::{Map, Value};

use super::refusal::Refusal;

/// Where an object has its cells.
const LIST_KEYS: [&str; 3] = ["features", "data", "values"];

/// One row; `place` says which, for messages.
pub fn row(columns: &[Column], value: &Value, place: &str) -> Result<Input, Refusal> {
    let list = match value {
        Value::Array(list) => Some(list),
        Value::Object(map) if !is_named(columns, map) => LIST_KEYS.iter().find_map(|key| map.get(*key)?.as_array()),
        _ => None,
    };
    if let Some(list) = list {
        check_count(columns, list.len(), place)?;
        let cells = columns.iter().zip(list).enumerate();
        return collect(cells.map(|(i, (column, value))| read(column, i, value, place)));
    }
    match value {
        Value::Object(map) if is_named(columns, map) => {
            let cells = columns.iter().enumerate().map(|(i, column)| {
                let value = column.name.as_ref().and_then(|name| map.get(&**name));
                read(column, i, value.unwrap_or(&Value::Null), place)
            });
            collect(cells)
        }
        // A model of one column.
        single if columns.len() == 1 && !single.is_object() => {
            collect(std::iter::once(read(&columns[0], 0, single, place)))
        }
        _ => Err(Refusal::input(format!("{place} is no row: write {}", expected(columns)))),
    }
}

/// One row from the cells of a CSV file, in the model's order.
pub fn row_of_texts<'a>(
    columns: &[Column],
    cells: impl ExactSizeIterator<Item = &'a str>,
    place: &str,
) -> Result<Input, Refusal> {
    check_count(columns, cells.len(), place)?;
    collect(
        columns
            .iter()
            .zip(cells)
            .enumerate()
            .map(|(i, (column, text))| column.kind.parse(text).ok_or_else(|| wrong(column, i, text, place))),
    )
}

/// Rows from columns by name, each a list of as many values as there are rows; none where these are no columns of the
/// model.
pub fn rows_by_column(columns: &[Column], map: &Map<String, Value>) -> Option<Result<Vec<Input>, Refusal>> {
    if !is_named(columns, map) {
        return None;
    }
    let lists: Option<Vec<&Vec<Value>>> =
        columns.iter().map(|column| map.get(&**column.name.as_ref()?)?.as_array()).collect();
    let lists = lists?;
    let rows = lists.first().map_or(0, |list| list.len());
    if lists.iter().any(|list| list.len() != rows) {
        return Some(Err(Refusal::input("the columns have different numbers of values")));
    }
    let row = |i: usize| {
        let place = format!("row {}", i + 1);
        collect(columns.iter().zip(&lists).enumerate().map(|(c, (column, list))| read(column, c, &list[i], &place)))
    };
    Some((0..rows).map(row).collect())
}

/// What a row of this model looks like.
pub fn expected(columns: &[Column]) -> String {
    let names: Option<Vec<&str>> = columns.iter().map(|column| column.name.as_deref()).collect();
    match names {
        Some(names) => format!("[{0}] or {{\"{1}\": …}}", names.join(", "), names.join("\": …, \"")),
        None => format!("a list of {} values", columns.len()),
    }
}

/// True where an object has at least one column of the model by its name.
fn is_named(columns: &[Column], map: &Map<String, Value>) -> bool {
    columns.iter().any(|column| column.name.as_ref().is_some_and(|name| map.contains_key(&**name)))
}

fn check_count(columns: &[Column], cells: usize, place: &str) -> Result<(), Refusal> {
    if columns.len() == cells {
        return Ok(());
    }
    let (wanted, expected) = (columns.len(), expected(columns));
    Err(Refusal::input(format!("{place} has {cells} values, and the model reads {wanted}: {expected}")))
}

fn read(column: &Column, index: usize, value: &Value, place: &str) -> Result<Cell, Refusal> {
    column.kind.read(value).ok_or_else(|| wrong(column, index, &value.to_string(), place))
}

fn wrong(column: &Column, index: usize, value: &str, place: &str) -> Refusal {
    let shown: String = value.chars().take(40).collect();
    let name = column.name.as_ref().map_or_else(|| format!("column {}", index + 1), |name| format!("`{name}`"));
    Refusal::input(format!("{place}: {name} is {shown}, which is no {}", column.kind.as_str()))
}

fn collect(cells: impl Iterator<Item = Result<Cell, Refusal>>) -> Result<Input, Refusal> {
    Ok(cells.collect::<Result<Vec<Cell>, Refusal>>()?.into())
}

#[cfg(test)]
mod tests {
    use millstream_models::ColumnKind;
    use serde_json::json;

    use super::*;

    fn columns(named: bool) -> Vec<Column> {
        let column = |name: &str, kind| Column { name: named.then(|| name.into()), kind };
        vec![column("amount", ColumnKind::Float), column("hour", ColumnKind::Int), column("country", ColumnKind::Text)]
    }

    #[test]
    fn a_row_comes_as_a_list_or_by_name_and_what_does_not_fit_is_named() {
        let expected: Input = vec![Cell::Float(1.5), Cell::Int(7), Cell::Text("DE".into())].into();
        for value in [
            json!([1.5, 7, "DE"]),
            json!(["1.5", 7.0, "DE"]),
            json!({ "country": "DE", "amount": 1.5, "hour": 7, "more": true }),
            json!({ "features": [1.5, 7, "DE"] }),
        ] {
            assert_eq!(row(&columns(true), &value, "row 1"), Ok(expected.clone()), "{value}");
        }
        let null = row(&columns(true), &json!({ "amount": 1 }), "row 1").unwrap();
        assert_eq!(null, vec![Cell::Float(1.0), Cell::Null, Cell::Null].into());
        for (value, why) in [
            (json!([1.5, 7]), "row 2 has 2 values, and the model reads 3"),
            (json!([1.5, 7.5, "DE"]), "`hour` is 7.5, which is no int"),
            (json!(["much", 7, "DE"]), "`amount` is \"much\", which is no float"),
            (json!({ "a": 1 }), "write [amount, hour, country]"),
            (json!("x"), "is no row"),
        ] {
            let message = row(&columns(true), &value, "row 2").unwrap_err().message;
            assert!(message.contains(why), "{value}: {message}");
        }
        assert!(
            row(&columns(false), &json!({ "amount": 1 }), "row 1").unwrap_err().message.contains("a list of 3 values")
        );
        assert_eq!(row_of_texts(&columns(false), ["1.5", "7", "DE"].into_iter(), "row 1"), Ok(expected.clone()));
        let by_column = json!({ "amount": [1.5, 1.5], "hour": ["7", 7], "country": ["DE", "DE"] });
        let by_column = rows_by_column(&columns(true), by_column.as_object().unwrap());
        assert_eq!(by_column, Some(Ok(vec![expected.clone(), expected])));
    }
}
