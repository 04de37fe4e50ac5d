//! From the columns of a batch to what a model reads.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use millstream_core::Result;
use millstream_models::{Cell, ColumnKind, Input};

use crate::spec::PredictInput;

/// What the model gets for each row of a batch; `None` where there is nothing to ask. (What a null in one of several
/// columns means, the model says.)
///
/// # Errors
/// A column is of another type than was checked.
pub(super) fn read(input: &PredictInput, batch: &RecordBatch) -> Result<Vec<Option<Input>>> {
    match input {
        PredictInput::Text(column) => {
            let texts = batch.column(*column).as_string::<i32>();
            Ok(texts.iter().map(|text| text.map(Input::from)).collect())
        }
        PredictInput::Row(columns) => {
            let columns = columns.iter().map(|&(column, kind)| Cells::new(batch.column(column), kind));
            let columns = columns.collect::<Result<Vec<_>>>()?;
            let row = |row| columns.iter().map(|cells| cells.cell(row)).collect::<Vec<Cell>>().into();
            Ok((0..batch.num_rows()).map(|i| Some(row(i))).collect())
        }
    }
}

/// One column.
enum Cells {
    Floats(Float64Array),
    Ints(Int64Array),
    Bools(BooleanArray),
    Texts(StringArray),
}

impl Cells {
    fn new(column: &ArrayRef, kind: ColumnKind) -> Result<Self> {
        Ok(match kind {
            ColumnKind::Float => Self::Floats(cast(column, &DataType::Float64)?.as_primitive::<Float64Type>().clone()),
            ColumnKind::Int => Self::Ints(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()),
            ColumnKind::Bool => Self::Bools(cast(column, &DataType::Boolean)?.as_boolean().clone()),
            ColumnKind::Text => Self::Texts(cast(column, &DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    fn cell(&self, row: usize) -> Cell {
        let is_null = match self {
            Self::Floats(values) => values.is_null(row),
            Self::Ints(values) => values.is_null(row),
            Self::Bools(values) => values.is_null(row),
            Self::Texts(values) => values.is_null(row),
        };
        if is_null {
            return Cell::Null;
        }
        match self {
            Self::Floats(values) => Cell::Float(values.value(row)),
            Self::Ints(values) => Cell::Int(values.value(row)),
            Self::Bools(values) => Cell::Bool(values.value(row)),
            Self::Texts(values) => Cell::Text(values.value(row).into()),
        }
    }
}
