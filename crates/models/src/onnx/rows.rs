//! From rows of cells to the tensors that a graph takes.

use millstream_core::{Failure, FailureKind};

use super::config::OnnxNull;
use super::mapping::{Content, Feed};
use super::tensor::{Kind, Tensor, Values};
use crate::{Cell, Column};

/// Whether a row can be fed.
///
/// # Errors
/// `MissingField`: a cell is null. `TypeMismatch`, `OutOfRange`: a cell is not what the graph takes.
pub(super) fn check(cells: &[Cell], columns: &[Column], feeds: &[Feed], null: OnnxNull) -> Result<(), Failure> {
    if cells.len() != columns.len() {
        let message = "the row has another number of cells than the model has columns";
        return Err(Failure::new(FailureKind::TypeMismatch, message));
    }
    for feed in feeds {
        let Content::Columns(indices) = &feed.content else { continue };
        for &i in indices {
            check_cell(&cells[i], feed, &name(&columns[i], i), null)?;
        }
    }
    Ok(())
}

fn check_cell(cell: &Cell, feed: &Feed, name: &str, null: OnnxNull) -> Result<(), Failure> {
    let takes = feed.kind.as_str();
    let mismatch = |is: &str| {
        let message = format!("{name} is {is}; the model's input `{}` takes {takes}", feed.name);
        Err(Failure::new(FailureKind::TypeMismatch, message))
    };
    match (cell, feed.kind) {
        (Cell::Null, kind) if kind.is_float() && null == OnnxNull::Nan => Ok(()),
        (Cell::Null, _) => {
            Err(Failure::new(FailureKind::MissingField, format!("{name}, an input of the model, is null")))
        }
        (Cell::Text(_), Kind::Text) => Ok(()),
        (Cell::Text(_), _) => mismatch("a string"),
        (_, Kind::Text) => mismatch("no string"),
        (Cell::Bool(_), _) | (Cell::Int(_), Kind::F32 | Kind::F64 | Kind::I64) | (Cell::Float(_), Kind::F64) => Ok(()),
        (Cell::Int(value), Kind::I32) if i32::try_from(*value).is_ok() => Ok(()),
        (Cell::Float(value), Kind::F32) if !value.is_finite() || (*value as f32).is_finite() => Ok(()),
        (Cell::Int(_), Kind::I32) => Err(Failure::new(FailureKind::OutOfRange, format!("{name} is beyond {takes}"))),
        (Cell::Float(_), Kind::F32) => Err(Failure::new(FailureKind::OutOfRange, format!("{name} is beyond {takes}"))),
        (Cell::Int(_), _) => mismatch("a whole number"),
        (Cell::Float(_), _) => mismatch("a number"),
    }
}

fn name(column: &Column, index: usize) -> String {
    column.name.as_ref().map_or_else(|| format!("column {}", index + 1), |name| format!("`{name}`"))
}

/// The tensor for one input, from rows that [`check`] found right; the last row again, up to `rows`.
pub(super) fn tensor(feed: &Feed, indices: &[usize], batch: &[&[Cell]], rows: usize) -> Tensor {
    let padded = batch.iter().chain(batch.last().into_iter().cycle()).take(rows);
    let cells = padded.flat_map(|row| indices.iter().map(|&i| &row[i]));
    let values = match feed.kind {
        Kind::F32 => Values::F32(cells.map(|cell| number(cell) as f32).collect()),
        Kind::F64 => Values::F64(cells.map(number).collect()),
        Kind::I64 => Values::I64(cells.map(whole).collect()),
        Kind::I32 => Values::I32(cells.map(|cell| whole(cell) as i32).collect()),
        Kind::Bool => Values::Bool(cells.map(|cell| *cell == Cell::Bool(true)).collect()),
        Kind::Text => Values::Text(cells.map(word).collect()),
    };
    let shape = if feed.rank == 1 { vec![rows] } else { vec![rows, indices.len()] };
    Tensor { shape, values }
}

fn number(cell: &Cell) -> f64 {
    match cell {
        Cell::Float(value) => *value,
        Cell::Int(value) => *value as f64,
        Cell::Bool(value) => f64::from(u8::from(*value)),
        Cell::Null | Cell::Text(_) => f64::NAN,
    }
}

fn whole(cell: &Cell) -> i64 {
    match cell {
        Cell::Int(value) => *value,
        Cell::Bool(value) => i64::from(*value),
        _ => 0,
    }
}

fn word(cell: &Cell) -> String {
    match cell {
        Cell::Text(word) => word.to_string(),
        _ => String::new(),
    }
}
