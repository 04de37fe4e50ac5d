//! What a model reads: a text, or a row of cells.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

/// One input of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// For a model that reads texts.
    Text(Arc<str>),
    /// For a model that reads columns: one cell for each, in the order of [`Reads::Row`].
    Row(Arc<[Cell]>),
}

/// One value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// There is no value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A word.
    Text(Arc<str>),
}

/// What a model's inputs have to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reads {
    /// Texts.
    Text,
    /// Rows with these columns.
    Row(Arc<[Column]>),
}

/// A column that a model reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Column {
    /// Its name at the model, if it has one; columns without a name go by their place.
    pub name: Option<Arc<str>>,
    /// What its cells may be.
    pub kind: ColumnKind,
}

/// What the cells of a column may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Numbers; whole numbers, true (1) and false (0) are such too.
    Float,
    /// Whole numbers; true (1) and false (0) too.
    Int,
    /// True or false.
    Bool,
    /// Texts.
    Text,
}

impl ColumnKind {
    /// The name of the narrowest type of the pipeline file that fits.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Int => "int",
            Self::Bool => "bool",
            Self::Text => "string",
        }
    }

    /// The cell that a JSON value stands for, if it fits; numbers may be written as texts.
    pub fn read(self, value: &Value) -> Option<Cell> {
        match (self, value) {
            (_, Value::Null) => Some(Cell::Null),
            (Self::Text, Value::String(text)) => Some(Cell::Text(text.as_str().into())),
            (Self::Text, _) => None,
            (_, Value::String(text)) => self.parse(text),
            (Self::Bool, Value::Bool(value)) => Some(Cell::Bool(*value)),
            (Self::Float, Value::Bool(value)) => Some(Cell::Float(f64::from(u8::from(*value)))),
            (Self::Int, Value::Bool(value)) => Some(Cell::Int(i64::from(*value))),
            (Self::Float, Value::Number(number)) => number.as_f64().map(Cell::Float),
            (Self::Int, Value::Number(number)) => number.as_i64().or_else(|| whole(number.as_f64()?)).map(Cell::Int),
            (Self::Bool, Value::Number(number)) => match number.as_f64()? {
                0.0 => Some(Cell::Bool(false)),
                1.0 => Some(Cell::Bool(true)),
                _ => None,
            },
            (_, Value::Array(_) | Value::Object(_)) => None,
        }
    }

    /// The cell that a text stands for, as in a CSV file; an empty one is null, but for texts.
    pub fn parse(self, text: &str) -> Option<Cell> {
        let trimmed = text.trim();
        let truth = match trimmed {
            "true" | "True" | "TRUE" => Some(true),
            "false" | "False" | "FALSE" => Some(false),
            _ => None,
        };
        match self {
            Self::Text => Some(Cell::Text(text.into())),
            _ if trimmed.is_empty() => Some(Cell::Null),
            Self::Float => truth.map(|t| f64::from(u8::from(t))).or_else(|| trimmed.parse().ok()).map(Cell::Float),
            Self::Int => {
                let number = trimmed.parse().ok().or_else(|| whole(trimmed.parse().ok()?));
                truth.map(i64::from).or(number).map(Cell::Int)
            }
            Self::Bool => truth
                .or(match trimmed {
                    "1" => Some(true),
                    "0" => Some(false),
                    _ => None,
                })
                .map(Cell::Bool),
        }
    }

    /// A cell that fits: zero, false, or no text.
    pub fn example(self) -> Cell {
        match self {
            Self::Float => Cell::Float(0.0),
            Self::Int => Cell::Int(0),
            Self::Bool => Cell::Bool(false),
            Self::Text => Cell::Text("".into()),
        }
    }
}

/// The whole number that a float is, where it is one and no digit is lost.
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
}

impl Reads {
    /// `texts` or `columns`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Text => "texts",
            Self::Row(_) => "columns",
        }
    }
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a text"),
            Self::Row(columns) => {
                let columns: Vec<String> = columns.iter().map(Column::to_string).collect();
                write!(f, "[{}]", columns.join(", "))
            }
        }
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}: {}", self.kind.as_str()),
            None => f.write_str(self.kind.as_str()),
        }
    }
}

impl Input {
    /// Its length in bytes, about; what is held in a queue is bounded by this, and inputs of like length go together.
    #[allow(clippy::len_without_is_empty)] // It is a size to add up; nobody asks whether there is nothing.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Row(cells) => cells.iter().map(Cell::size).sum(),
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Row(_) => None,
        }
    }

    /// What tells it apart from every other input of a model: the text, or the cells one after the other.
    pub fn key(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Row(cells) => cells.iter().map(Cell::key).collect::<String>().into(),
        }
    }

    /// The text, or the cells in brackets, for a person to read.
    pub fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Row(cells) => {
                let cells: Vec<String> = cells.iter().map(Cell::to_string).collect();
                format!("[{}]", cells.join(", ")).into()
            }
        }
    }

    /// The cells, if it is a row.
    pub fn as_row(&self) -> Option<&[Cell]> {
        match self {
            Self::Text(_) => None,
            Self::Row(cells) => Some(cells),
        }
    }

    /// Whether it is of the sort that a model reads.
    pub fn is_for(&self, reads: &Reads) -> bool {
        matches!((self, reads), (Self::Text(_), Reads::Text) | (Self::Row(_), Reads::Row(_)))
    }
}

impl Cell {
    /// No two rows give the same when their cells are put together: each says its type, and where it ends.
    fn key(&self) -> String {
        match self {
            Self::Null => "n;".to_owned(),
            Self::Bool(value) => format!("b{};", u8::from(*value)),
            Self::Int(value) => format!("i{value};"),
            Self::Float(value) => format!("f{:x};", value.to_bits()),
            Self::Text(text) => format!("t{}:{text};", text.len()),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            _ => 8,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Text(text) => write!(f, "{text:?}"),
        }
    }
}

impl From<&str> for Input {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Input {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Arc<str>> for Input {
    fn from(text: Arc<str>) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Cell>> for Input {
    fn from(cells: Vec<Cell>) -> Self {
        Self::Row(cells.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_differ_have_different_keys() {
        let text = |text: &str| Cell::Text(text.into());
        let rows: Vec<Input> = vec![
            vec![text("a"), text("b")].into(),
            vec![text("a;t1:b")].into(),
            vec![text("ab"), text("")].into(),
            vec![Cell::Int(1)].into(),
            vec![Cell::Float(1.0)].into(),
            vec![Cell::Bool(true)].into(),
            vec![text("1")].into(),
            vec![Cell::Null].into(),
            vec![Cell::Int(1), Cell::Int(1)].into(),
            vec![Cell::Int(11)].into(),
        ];
        let keys: std::collections::BTreeSet<_> = rows.iter().map(Input::key).collect();
        assert_eq!(keys.len(), rows.len(), "{keys:?}");
    }
}
