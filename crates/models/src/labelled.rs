//! Inputs of a model out of a CSV file with a header: texts from one column, or rows of columns.

use std::path::Path;
use std::sync::Arc;

use millstream_core::{Error, Result, ResultExt};

use crate::{Cell, Column, Input, Reads};

/// Which columns of a file a model reads.
#[derive(Debug, Clone, Copy)]
pub struct Picked<'a> {
    /// The column of the texts, for a model that reads texts.
    pub text: &'a str,
    /// For a model that reads columns: their names in the file, in the model's order. Empty: those that the model
    /// names, else all but the label, in the order of the file.
    pub columns: &'a [String],
    /// The column of what is right, where there is one.
    pub label: Option<&'a str>,
}

/// An input, and what a person says of it; empty where no column was asked for.
pub type Labelled = (Input, Arc<str>);

/// The inputs of a file.
///
/// # Errors
/// `Environment`: the file can't be read. `Config`: there is no such column. `Input`: a row is broken, or a cell is not
/// of the type that the model reads.
pub fn read_inputs(path: &Path, reads: &Reads, picked: Picked<'_>) -> Result<Vec<Labelled>> {
    let doing = || format!("read {}", path.display());
    let file = std::fs::File::open(path).doing(doing)?;
    parse(file, reads, picked).map_err(|e| e.context(doing()))
}

fn parse(source: impl std::io::Read, reads: &Reads, picked: Picked<'_>) -> Result<Vec<Labelled>> {
    let mut reader = csv::Reader::from_reader(source);
    let wrong = |e: csv::Error| Error::input("broken CSV").caused_by(e);
    let header = reader.headers().map_err(wrong)?.clone();
    let place = |name: &str| {
        header.iter().position(|column| column == name).ok_or_else(|| {
            let known: Vec<&str> = header.iter().collect();
            Error::config(format!("no column `{name}`; the file has {}", known.join(", ")))
        })
    };
    if *reads == Reads::Text {
        place(picked.text)?;
    }
    let label = picked.label.map(place).transpose()?;
    let places = match reads {
        Reads::Text => vec![place(picked.text)?],
        Reads::Row(columns) => places(columns, &header, picked, label, &place)?,
    };
    let rows = reader.records().enumerate().map(|(i, record)| {
        let record = record.map_err(wrong)?;
        let label = label.map_or("", |at| &record[at]).into();
        let input = match reads {
            Reads::Text => Input::from(&record[places[0]]),
            Reads::Row(columns) => {
                let cell = |(column, &at): (&Column, &usize)| {
                    column.kind.parse(&record[at]).ok_or_else(|| {
                        let (row, name, kind) = (i + 1, &header[at], column.kind.as_str());
                        Error::input(format!("row {row}: `{name}` is {:?}, which is no {kind}", &record[at]))
                    })
                };
                columns.iter().zip(&places).map(cell).collect::<Result<Vec<Cell>>>()?.into()
            }
        };
        Ok((input, label))
    });
    rows.collect()
}

fn places(
    columns: &[Column],
    header: &csv::StringRecord,
    picked: Picked<'_>,
    label: Option<usize>,
    place: &impl Fn(&str) -> Result<usize>,
) -> Result<Vec<usize>> {
    let count = |places: Vec<usize>, how: &str| {
        if places.len() == columns.len() {
            return Ok(places);
        }
        let (there, wanted) = (places.len(), columns.len());
        Err(Error::config(format!(
            "the model reads {wanted} columns, and {how} {there}: name them with --columns a,b,…"
        )))
    };
    if !picked.columns.is_empty() {
        let places = picked.columns.iter().map(|name| place(name)).collect::<Result<_>>()?;
        return count(places, "--columns has");
    }
    match columns.iter().map(|column| column.name.as_deref()).collect::<Option<Vec<&str>>>() {
        Some(names) => names.into_iter().map(place).collect(),
        None => count((0..header.len()).filter(|at| Some(*at) != label).collect(), "the file has"),
    }
}

/// Rows that a model of such columns may get: numbers from 0 to 100, both truths, and no text.
pub fn sample_rows(columns: &[Column], count: usize) -> Vec<Input> {
    let cell = |column: &Column, i: usize| match column.kind {
        crate::ColumnKind::Float => Cell::Float((i * 37 % 1009) as f64 / 10.0),
        crate::ColumnKind::Int => Cell::Int((i * 37 % 101) as i64),
        crate::ColumnKind::Bool => Cell::Bool(i.is_multiple_of(2)),
        crate::ColumnKind::Text => column.kind.example(),
    };
    let row = |i| columns.iter().enumerate().map(|(c, column)| cell(column, i * 7 + c)).collect::<Vec<_>>().into();
    (0..count).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ColumnKind;

    fn reads(names: [Option<&str>; 2]) -> Reads {
        let kinds = [ColumnKind::Float, ColumnKind::Text];
        let column = |(name, kind): (Option<&str>, ColumnKind)| Column { name: name.map(Into::into), kind };
        Reads::Row(names.into_iter().zip(kinds).map(column).collect())
    }

    fn rows(csv: &str, reads: &Reads, columns: &[&str]) -> Result<Vec<Labelled>> {
        let columns: Vec<String> = columns.iter().map(|&name| name.to_owned()).collect();
        parse(csv.as_bytes(), reads, Picked { text: "text", columns: &columns, label: Some("label") })
    }

    #[test]
    fn texts_come_from_columns_by_name() {
        let texts = |csv: &str, text, label| {
            parse(csv.as_bytes(), &Reads::Text, Picked { text, columns: &[], label: Some(label) })
        };
        let row: Labelled = ("a, b".into(), "neutral".into());
        assert_eq!(texts("no,label,text\n1,neutral,\"a, b\"\n", "text", "label").unwrap(), std::slice::from_ref(&row));
        assert_eq!(texts("mood,headline\nneutral,\"a, b\"\n", "headline", "mood").unwrap(), [row]);
        let missing = texts("text,mood\nx,y\n", "text", "label").unwrap_err().to_string();
        assert!(missing.contains("`label`") && missing.contains("text, mood"), "{missing}");
        assert!(texts("text,label\nx\n", "text", "label").is_err());
    }

    #[test]
    fn rows_come_from_columns_by_name_by_choice_or_by_place() {
        let expected: Vec<Labelled> = vec![(vec![Cell::Float(1.5), Cell::Text("DE".into())].into(), "yes".into())];
        let csv = "country,label,amount\nDE,yes,1.5\n";
        assert_eq!(rows(csv, &reads([Some("amount"), Some("country")]), &[]).unwrap(), expected);
        assert_eq!(rows(csv, &reads([Some("x"), Some("y")]), &["amount", "country"]).unwrap(), expected);
        assert_eq!(rows("amount,label,country\n1.5,yes,DE\n", &reads([None, None]), &[]).unwrap(), expected);
        for (csv, columns, why) in [
            (csv, vec!["amount"], "reads 2 columns, and --columns has 1"),
            (csv, vec!["amount", "city"], "no column `city`; the file has country, label, amount"),
            ("label,amount\nyes,1\n", vec![], "the model reads 2 columns, and the file has 1"),
            ("amount,country,label\nmuch,DE,yes\n", vec![], "row 1: `amount` is \"much\", which is no float"),
        ] {
            let message = rows(csv, &reads([None, None]), &columns).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }
}
