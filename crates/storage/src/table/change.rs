//! The change stream of a table: what each write did, with the row before and after it.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt32Array};
use arrow::buffer::NullBuffer;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use bytes::Bytes;
use millstream_core::Result;
use millstream_core::schema::timestamp_type;

use super::TableSpec;
use crate::row::RowCodec;

/// The columns of the change stream of a table.
///
/// | column | type | |
/// |---|---|---|
/// | `op` | `Utf8` | `insert`, `update` or `delete` |
/// | `ts` | timestamp | when the change was made |
/// | `key` | struct of the key columns | |
/// | `old` | struct of all columns | the row before; null for an insert |
/// | `new` | struct of all columns | the row after; null for a delete |
pub fn change_schema(spec: &TableSpec) -> SchemaRef {
    let image = DataType::Struct(image_fields(&spec.schema));
    Arc::new(Schema::new(vec![
        Field::new("op", DataType::Utf8, false),
        Field::new("ts", timestamp_type(), false),
        Field::new("key", DataType::Struct(key_fields(spec)), false),
        Field::new("old", image.clone(), true),
        Field::new("new", image, true),
    ]))
}

/// Any column of an image may be null: the row may be older than the column.
fn image_fields(schema: &Schema) -> Fields {
    schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect()
}

fn key_fields(spec: &TableSpec) -> Fields {
    spec.key.iter().map(|&k| spec.schema.field(k).clone().with_nullable(false)).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Changes that are being collected, in order.
#[derive(Debug, Default)]
pub(super) struct Changes {
    ops: Vec<Op>,
    /// The row of the input batch of each.
    pub(super) rows: Vec<u32>,
    old: Vec<Option<Bytes>>,
}

impl Changes {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Self { ops: Vec::with_capacity(rows), rows: Vec::with_capacity(rows), old: Vec::with_capacity(rows) }
    }

    pub(super) fn push(&mut self, op: Op, row: usize, old: Option<Bytes>) {
        self.ops.push(op);
        self.rows.push(row as u32);
        self.old.push(old);
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    /// The changes as columns; `input` are the columns that the rows came from.
    pub(super) fn batch(
        &self,
        spec: &TableSpec,
        codec: &RowCodec,
        input: &[ArrayRef],
        now_us: i64,
    ) -> Result<RecordBatch> {
        let rows = input.first().map_or(0, |c| c.len());
        // Most batches change every row: then the columns are the new images as they are.
        let all = self.len() == rows && self.rows.iter().enumerate().all(|(i, &row)| row as usize == i);
        let indices = UInt32Array::from_iter_values(self.rows.iter().copied());
        let pick = |column: &ArrayRef| -> Result<ArrayRef> {
            Ok(if all { column.clone() } else { take(column, &indices, None)? })
        };
        let key = spec.key.iter().map(|&k| pick(&input[k])).collect::<Result<Vec<_>>>()?;
        let new = input.iter().map(pick).collect::<Result<Vec<_>>>()?;
        self.assemble(spec, codec, key, Some(new), now_us)
    }

    /// Deletes of rows that are not in any input: the key is taken from the old image.
    pub(super) fn expired(
        old: Vec<Option<Bytes>>,
        spec: &TableSpec,
        codec: &RowCodec,
        now_us: i64,
    ) -> Result<RecordBatch> {
        let changes = Self { ops: vec![Op::Delete; old.len()], rows: Vec::new(), old };
        let key = codec.read(&changes.old, Some(&spec.key))?;
        changes.assemble(spec, codec, key, None, now_us)
    }

    fn assemble(
        &self,
        spec: &TableSpec,
        codec: &RowCodec,
        key: Vec<ArrayRef>,
        new: Option<Vec<ArrayRef>>,
        now_us: i64,
    ) -> Result<RecordBatch> {
        let (rows, fields) = (self.len(), image_fields(&spec.schema));
        let op = StringArray::from_iter_values(self.ops.iter().map(|op| op.as_str()));
        let ts = TimestampMicrosecondArray::from(vec![now_us; rows]).with_timezone("UTC");
        let key = StructArray::try_new_with_length(key_fields(spec), key, None, rows)?;
        let old = if self.old.iter().all(Option::is_none) {
            StructArray::new_null(fields.clone(), rows)
        } else {
            let present = self.old.iter().map(Option::is_some).collect::<NullBuffer>();
            StructArray::try_new_with_length(fields.clone(), codec.read(&self.old, None)?, Some(present), rows)?
        };
        let new = match new {
            None => StructArray::new_null(fields, rows),
            Some(columns) => {
                let deletes = self.ops.contains(&Op::Delete);
                let present = deletes.then(|| self.ops.iter().map(|op| *op != Op::Delete).collect::<NullBuffer>());
                StructArray::try_new_with_length(fields, columns, present, rows)?
            }
        };
        let columns: Vec<ArrayRef> = vec![Arc::new(op), Arc::new(ts), Arc::new(key), Arc::new(old), Arc::new(new)];
        Ok(RecordBatch::try_new(change_schema(spec), columns)?)
    }
}
