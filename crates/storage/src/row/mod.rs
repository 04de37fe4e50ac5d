//! Rows as bytes: compact, the same for the same values, and readable when the table's columns have changed since.
//!
//! ```text
//! row    := version u8 = 1 | last write, µs since the epoch, i64 LE | image
//! image  := schema id u64 LE | fields
//! fields := one bit per field, least significant first, 1 = null, padded to bytes | the values that are not null
//! value  := bool: u8 | number, time, decimal: little-endian, as wide as its type | text, binary: length, bytes
//!         | list: length, one bit per item as above, the items that are not null | struct: fields
//! length := LEB128
//! ```
//!
//! The schema id is that of the [`SchemaStore`]. Images are equal exactly when all values are (floats by their bits).
//! A row that was written with other columns is read by name: a column that it lacks is null, one that is gone is
//! dropped, one of another type is cast. Limit: 64 MiB per row.

mod decode;

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, downcast_primitive_array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use millstream_core::{Error, Result};

use self::decode::{Builder, Cursor, skip_fields};
use crate::codec::SchemaStore;
use crate::leb128::append_length;

const VERSION: u8 = 1;
/// Where the image begins.
const IMAGE_AT: usize = 9;
/// Where the fields begin.
const FIELDS_AT: usize = IMAGE_AT + 8;
/// Largest row, in bytes.
pub(crate) const ROW_BYTES_MAX: usize = 64 << 20;

/// Encoded rows of a batch, one behind the other.
#[derive(Debug)]
pub struct EncodedRows {
    pub(crate) bytes: Bytes,
    ends: Vec<usize>,
}

impl EncodedRows {
    /// Row `i`, as a slice of the common buffer.
    pub fn get(&self, i: usize) -> Bytes {
        self.bytes.slice(self.range(i))
    }

    /// The image of row `i`.
    pub(crate) fn image(&self, i: usize) -> &[u8] {
        image(&self.bytes[self.range(i)])
    }

    pub(crate) fn row_bytes(&self, i: usize) -> usize {
        self.range(i).len()
    }

    fn range(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }
}

/// What of a row is compared: all but the time it was written. The row must have passed [`RowCodec::check`], or come
/// from [`RowCodec::encode`].
pub(crate) fn image(row: &[u8]) -> &[u8] {
    &row[IMAGE_AT..]
}

/// When the row was last written, µs since the epoch.
pub(crate) fn written_at(row: &[u8]) -> i64 {
    i64::from_le_bytes(fixed(&row[1..IMAGE_AT]))
}

fn schema_id(row: &[u8]) -> u64 {
    u64::from_le_bytes(fixed(&row[IMAGE_AT..FIELDS_AT]))
}

fn fixed(bytes: &[u8]) -> [u8; 8] {
    bytes.try_into().expect("callers cut eight bytes")
}

/// Writes and reads rows of one kind.
#[derive(Debug, Clone)]
pub struct RowCodec {
    /// The columns, as they are now; all may be null when read.
    schema: SchemaRef,
    id: u64,
    schemas: Arc<SchemaStore>,
}

impl RowCodec {
    /// A codec for rows with these columns, which get the id `id`.
    ///
    /// # Errors
    /// `Config` for a column of a type that has no such form.
    pub fn new(schema: &SchemaRef, id: u64, schemas: Arc<SchemaStore>) -> Result<Self> {
        if let Some(field) = schema.fields().iter().find(|f| !supports(f.data_type())) {
            return Err(Error::config(format!(
                "column `{}` is of type {}, which a table can't hold: cast it in the transform in front of the table",
                field.name(),
                field.data_type()
            )));
        }
        Ok(Self { schema: relaxed(schema), id, schemas })
    }

    /// The columns that [`Self::read`] gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Encodes all rows; `columns` are those of the schema, in its order.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize, written_at: impl Fn(usize) -> i64) -> EncodedRows {
        let values: Vec<Column<'_>> = columns.iter().map(|c| Column::of(c.as_ref())).collect();
        let estimate: usize = columns.iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or(0)).sum();
        let mut out = Vec::with_capacity(estimate + rows * (FIELDS_AT + 2 * values.len()));
        let mut ends = Vec::with_capacity(rows);
        for row in 0..rows {
            out.push(VERSION);
            out.extend_from_slice(&written_at(row).to_le_bytes());
            out.extend_from_slice(&self.id.to_le_bytes());
            append_fields(&values, row, &mut out);
            ends.push(out.len());
        }
        EncodedRows { bytes: out.into(), ends }
    }

    /// Checks what the rest of this module relies on.
    ///
    /// # Errors
    /// `Corruption`, or `Environment` where a newer version wrote the row.
    pub(crate) fn check(row: &[u8]) -> Result<()> {
        match row.first() {
            Some(&VERSION) if row.len() >= FIELDS_AT => Ok(()),
            Some(&newer) if newer > VERSION => Err(Error::environment(format!(
                "a row is of format {newer}, this Millstream reads up to {VERSION}: use the version that wrote it"
            ))),
            _ => Err(Error::corruption("a stored row does not read back")),
        }
    }

    /// The columns of `rows`, restricted to `projection` where there is one; an absent row is all null.
    ///
    /// # Errors
    /// `Corruption` where a row does not read back, `Config` where a column's type has changed and its values can't be
    /// cast.
    pub fn read(&self, rows: &[Option<Bytes>], projection: Option<&[usize]>) -> Result<Vec<ArrayRef>> {
        let id_of = |row: &Option<Bytes>| row.as_ref().map_or(self.id, |r| schema_id(r));
        let mut runs: Vec<Vec<ArrayRef>> = Vec::new();
        let mut from = 0;
        for row in rows.iter().flatten() {
            Self::check(row)?;
        }
        while from < rows.len() || runs.is_empty() {
            let id = rows.get(from).map_or(self.id, id_of);
            let len = rows[from..].iter().take_while(|r| id_of(r) == id).count();
            runs.push(self.read_run(id, &rows[from..from + len], projection)?);
            from += len;
        }
        if runs.len() == 1 {
            return Ok(runs.swap_remove(0));
        }
        let columns = runs[0].len();
        let column = |c: usize| -> Result<ArrayRef> {
            let parts: Vec<&dyn Array> = runs.iter().map(|run| run[c].as_ref()).collect();
            Ok(concat(&parts)?)
        };
        (0..columns).map(column).collect()
    }

    /// Rows whose schema is not the table's own, written anew with it, so that images can be compared.
    ///
    /// # Errors
    /// As for [`Self::read`].
    pub(crate) fn renew(&self, rows: &mut [Option<Bytes>]) -> Result<()> {
        for row in rows.iter().flatten() {
            Self::check(row)?;
        }
        let foreign = |r: &Option<Bytes>| r.as_ref().is_some_and(|r| schema_id(r) != self.id);
        let old: Vec<usize> = rows.iter().enumerate().filter(|(_, r)| foreign(r)).map(|(i, _)| i).collect();
        if old.is_empty() {
            return Ok(());
        }
        let stored: Vec<Option<Bytes>> = old.iter().map(|&i| rows[i].clone()).collect();
        let columns = self.read(&stored, None)?;
        let at = |i: usize| stored[i].as_deref().map_or(0, written_at);
        let encoded = self.encode(&columns, stored.len(), at);
        for (i, &row) in old.iter().enumerate() {
            rows[row] = Some(encoded.get(i));
        }
        Ok(())
    }

    fn read_run(&self, id: u64, rows: &[Option<Bytes>], projection: Option<&[usize]>) -> Result<Vec<ArrayRef>> {
        let all: Vec<usize>;
        let wanted = match projection {
            Some(columns) => columns,
            None => {
                all = (0..self.schema.fields().len()).collect();
                &all
            }
        };
        if id == self.id {
            return read_columns(&self.schema, rows, wanted);
        }
        let stored = self.schemas.get(id)?;
        let position = |c: &usize| stored.index_of(self.schema.field(*c).name()).ok();
        let present: Vec<usize> = wanted.iter().filter_map(position).collect();
        let mut columns = read_columns(&stored, rows, &present)?.into_iter();
        let adapt = |c: &usize| match position(c) {
            Some(_) => columns
                .next()
                .map_or_else(|| Err(Error::bug("a column is missing")), |v| cast(&v, self.schema.field(*c))),
            None => Ok(new_null_array(self.schema.field(*c).data_type(), rows.len())),
        };
        wanted.iter().map(adapt).collect()
    }
}

/// All columns may be null: rows that were written before a column was added have none.
fn relaxed(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

fn cast(column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(column.clone());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(column, field.data_type(), &options).map_err(|e| {
        Error::config(format!(
            "column `{}` holds rows of type {} that can't be read as {}: give the column another name, or the table",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
        .caused_by(e)
    })
}

fn read_columns(schema: &Schema, rows: &[Option<Bytes>], wanted: &[usize]) -> Result<Vec<ArrayRef>> {
    let fields = schema.fields();
    let mut builders: Vec<Option<Builder>> = (0..fields.len()).map(|_| None).collect();
    for &c in wanted {
        builders[c] = Some(Builder::new(fields[c].data_type(), rows.len()));
    }
    let broken = || Error::corruption("a stored row does not read back");
    for row in rows {
        let Some(row) = row else {
            builders.iter_mut().flatten().for_each(Builder::append_null);
            continue;
        };
        let mut cursor = Cursor(&row[FIELDS_AT..]);
        let nulls = cursor.take(fields.len().div_ceil(8)).ok_or_else(broken)?;
        for (c, builder) in builders.iter_mut().enumerate() {
            let null = nulls[c / 8] >> (c % 8) & 1 == 1;
            match builder {
                Some(builder) if null => builder.append_null(),
                Some(builder) => builder.append(&mut cursor).ok_or_else(broken)?,
                None if null => {}
                None => skip_fields(&mut cursor, fields[c].data_type()).ok_or_else(broken)?,
            }
        }
    }
    // A column may be asked for twice.
    let mut done: Vec<Option<ArrayRef>> = (0..fields.len()).map(|_| None).collect();
    for (c, builder) in builders.into_iter().enumerate() {
        if let Some(builder) = builder {
            done[c] = Some(builder.finish().map_err(|e| broken().caused_by(e))?);
        }
    }
    wanted.iter().map(|&c| done[c].clone().ok_or_else(broken)).collect()
}

/// True where a table can hold a column of this type.
pub(crate) fn supports(data_type: &DataType) -> bool {
    use DataType as T;
    match data_type {
        T::Null | T::Boolean | T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView => {
            true
        }
        T::List(item) | T::LargeList(item) => supports(item.data_type()),
        T::Struct(fields) => fields.iter().all(|f| supports(f.data_type())),
        other => other.is_primitive(),
    }
}

/// A column to encode from.
enum Column<'a> {
    Null,
    Bool(&'a BooleanArray),
    Fixed { values: &'a [u8], width: usize, nulls: Option<&'a NullBuffer> },
    Bytes { offsets: &'a [i32], values: &'a [u8], nulls: Option<&'a NullBuffer> },
    LargeBytes { offsets: &'a [i64], values: &'a [u8], nulls: Option<&'a NullBuffer> },
    TextView(&'a arrow::array::StringViewArray),
    BytesView(&'a arrow::array::BinaryViewArray),
    List { offsets: &'a [i32], item: Box<Column<'a>>, nulls: Option<&'a NullBuffer> },
    LargeList { offsets: &'a [i64], item: Box<Column<'a>>, nulls: Option<&'a NullBuffer> },
    Struct { fields: Vec<Column<'a>>, nulls: Option<&'a NullBuffer> },
}

impl<'a> Column<'a> {
    fn of(array: &'a dyn Array) -> Self {
        use DataType as T;
        let nulls = array.nulls();
        match array.data_type() {
            T::Boolean => Self::Bool(array.as_boolean()),
            T::Utf8 => {
                let a = array.as_string::<i32>();
                Self::Bytes { offsets: a.value_offsets(), values: a.value_data(), nulls }
            }
            T::Binary => {
                let a = array.as_binary::<i32>();
                Self::Bytes { offsets: a.value_offsets(), values: a.value_data(), nulls }
            }
            T::LargeUtf8 => {
                let a = array.as_string::<i64>();
                Self::LargeBytes { offsets: a.value_offsets(), values: a.value_data(), nulls }
            }
            T::LargeBinary => {
                let a = array.as_binary::<i64>();
                Self::LargeBytes { offsets: a.value_offsets(), values: a.value_data(), nulls }
            }
            T::Utf8View => Self::TextView(array.as_string_view()),
            T::BinaryView => Self::BytesView(array.as_binary_view()),
            T::List(_) => {
                let a = array.as_list::<i32>();
                Self::List { offsets: a.value_offsets(), item: Box::new(Self::of(a.values().as_ref())), nulls }
            }
            T::LargeList(_) => {
                let a = array.as_list::<i64>();
                Self::LargeList { offsets: a.value_offsets(), item: Box::new(Self::of(a.values().as_ref())), nulls }
            }
            T::Struct(_) => {
                let a = array.as_struct();
                Self::Struct { fields: a.columns().iter().map(|c| Self::of(c.as_ref())).collect(), nulls }
            }
            other => {
                let width = other.primitive_width().unwrap_or(0);
                downcast_primitive_array! {
                    array => Self::Fixed { values: array.values().inner().as_slice(), width, nulls },
                    // `supports` lets nothing else in.
                    _ => Self::Null,
                }
            }
        }
    }

    fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(a) => a.is_null(row),
            Self::TextView(a) => a.is_null(row),
            Self::BytesView(a) => a.is_null(row),
            Self::Fixed { nulls, .. }
            | Self::Bytes { nulls, .. }
            | Self::LargeBytes { nulls, .. }
            | Self::List { nulls, .. }
            | Self::LargeList { nulls, .. }
            | Self::Struct { nulls, .. } => nulls.is_some_and(|n| n.is_null(row)),
        }
    }

    fn append(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Bool(a) => out.push(u8::from(a.value(row))),
            Self::Fixed { values, width, .. } => out.extend_from_slice(&values[row * width..(row + 1) * width]),
            Self::Bytes { offsets, values, .. } => {
                append_bytes(&values[offsets[row] as usize..offsets[row + 1] as usize], out);
            }
            Self::LargeBytes { offsets, values, .. } => {
                append_bytes(&values[offsets[row] as usize..offsets[row + 1] as usize], out);
            }
            Self::TextView(a) => append_bytes(a.value(row).as_bytes(), out),
            Self::BytesView(a) => append_bytes(a.value(row), out),
            Self::List { offsets, item, .. } => {
                append_list(item, offsets[row] as usize..offsets[row + 1] as usize, out);
            }
            Self::LargeList { offsets, item, .. } => {
                append_list(item, offsets[row] as usize..offsets[row + 1] as usize, out);
            }
            Self::Struct { fields, .. } => append_fields(fields, row, out),
        }
    }
}

fn append_fields(fields: &[Column<'_>], row: usize, out: &mut Vec<u8>) {
    let nulls_at = out.len();
    out.resize(nulls_at + fields.len().div_ceil(8), 0);
    for (i, field) in fields.iter().enumerate() {
        if field.is_null(row) {
            out[nulls_at + i / 8] |= 1 << (i % 8);
        } else {
            field.append(row, out);
        }
    }
}

fn append_list(item: &Column<'_>, items: Range<usize>, out: &mut Vec<u8>) {
    append_length(items.len(), out);
    let nulls_at = out.len();
    out.resize(nulls_at + items.len().div_ceil(8), 0);
    for (i, row) in items.enumerate() {
        if item.is_null(row) {
            out[nulls_at + i / 8] |= 1 << (i % 8);
        } else {
            item.append(row, out);
        }
    }
}

fn append_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    append_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

/// A batch of the columns that [`RowCodec::read`] gave.
pub(crate) fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

#[cfg(test)]
mod tests;
