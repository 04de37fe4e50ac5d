//! Growing Arrow columns that can take the last row back, which Arrow's own builders can't: a record that fails half
//! way leaves no trace.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array, ListArray, NullBufferBuilder,
    RecordBatch, RecordBatchOptions, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field as ArrowField, SchemaRef};
use millstream_core::schema::timestamp_type;
use millstream_core::{Decoded, Failure, FailureKind, Field, FieldType, RawBatch, RowFailure};

use super::config::Values as Written;

/// Why a record can't be used, while the path to the field is still being collected.
#[derive(Debug)]
pub(super) struct Fault(Box<(FailureKind, String, String)>);

/// What building a row answers.
pub(super) type Built<T = ()> = Result<T, Fault>;

impl Fault {
    /// A fault of `kind`; the message completes "field `x` …" where it happens in a field.
    #[cold]
    pub(super) fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self(Box::new((kind, String::new(), message.into())))
    }

    #[cold]
    pub(super) fn malformed(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Malformed, message)
    }

    #[cold]
    pub(super) fn mismatch(message: impl Into<String>) -> Self {
        Self::new(FailureKind::TypeMismatch, message)
    }

    /// Says in which field it happened; called from the inside out.
    #[cold]
    pub(super) fn within(mut self, name: &str) -> Self {
        let path = &mut self.0.1;
        *path = match path.as_str() {
            "" => name.to_owned(),
            rest if rest.starts_with('[') => format!("{name}{rest}"),
            rest => format!("{name}.{rest}"),
        };
        self
    }

    /// Says in which item of a list it happened.
    #[cold]
    pub(super) fn within_item(self, index: usize) -> Self {
        self.within(&format!("[{index}]"))
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        let (kind, path, message) = *fault.0;
        Self { kind, message: if path.is_empty() { message } else { format!("field `{path}`: {message}") } }
    }
}

/// At most 60 bytes of a value, for a message.
pub(super) fn shorten(value: &[u8]) -> String {
    const SHOWN_BYTES: usize = 60;
    let text = String::from_utf8_lossy(&value[..value.len().min(SHOWN_BYTES)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if value.len() > SHOWN_BYTES { format!("{text}…") } else { text }
}

/// The columns of an object with declared fields: the row itself, or a struct inside it.
#[derive(Debug)]
pub(super) struct Columns<'p> {
    fields: &'p [Field],
    columns: Vec<Column<'p>>,
    /// The number of the object that last set each column; an object has its own number, so nothing is cleared.
    set_by: Vec<u64>,
    object: u64,
    rows: usize,
}

/// One growing column.
#[derive(Debug)]
pub(super) struct Column<'p> {
    pub(super) kind: &'p FieldType,
    pub(super) optional: bool,
    /// How its values are written.
    pub(super) written: Written,
    nulls: NullBufferBuilder,
    values: Values<'p>,
}

#[derive(Debug)]
enum Values<'p> {
    /// Bytes of all values, and where each ends: `string`, `json`, `bytes`.
    Bytes(Vec<u8>, Vec<i32>),
    /// `int`, `timestamp`.
    Int(Vec<i64>),
    Float(Vec<f64>),
    Bool(BooleanBufferBuilder),
    /// Where each list ends in its items.
    List(Vec<i32>, Box<Column<'p>>),
    Struct(Columns<'p>),
}

impl<'p> Columns<'p> {
    /// Empty columns for `fields`, with room for about `rows`.
    pub(super) fn new(fields: &'p [Field], rows: usize) -> Self {
        Self::written(fields, rows, Written::default())
    }

    /// The same, for values that are written as `written` says.
    pub(super) fn written(fields: &'p [Field], rows: usize, written: Written) -> Self {
        let columns = fields.iter().map(|f| Column::new(&f.kind, f.optional, rows, written)).collect();
        Self { fields, columns, set_by: vec![0; fields.len()], object: 0, rows: 0 }
    }

    /// Complete rows so far.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Starts a row: no field is set.
    pub(super) fn begin(&mut self) {
        self.object += 1;
    }

    /// The declared field called `name`. `expected` is where to look first, and moves on: objects of one stream nearly
    /// always name their fields in one order.
    #[inline]
    pub(super) fn find(&self, name: &[u8], expected: &mut usize) -> Option<usize> {
        let start = *expected;
        for index in (start..self.fields.len()).chain(0..start) {
            if self.fields[index].name.as_bytes() == name {
                *expected = index + 1;
                return Some(index);
            }
        }
        None
    }

    /// The name of field `index`.
    pub(super) fn name(&self, index: usize) -> &'p str {
        &self.fields[index].name
    }

    /// Marks field `index` as set in this row; false where it was already.
    #[inline]
    pub(super) fn mark(&mut self, index: usize) -> bool {
        std::mem::replace(&mut self.set_by[index], self.object) != self.object
    }

    /// Takes back what this row has put into column `index`.
    pub(super) fn unset(&mut self, index: usize) {
        self.columns[index].truncate(self.rows);
    }

    /// Column `index`.
    #[inline]
    pub(super) fn column(&mut self, index: usize) -> &mut Column<'p> {
        &mut self.columns[index]
    }

    /// Ends the row: fields that were not set become null, or are missing.
    #[inline]
    pub(super) fn end(&mut self) -> Built {
        for (index, &set_by) in self.set_by.iter().enumerate() {
            if set_by != self.object {
                let column = &mut self.columns[index];
                if !column.optional {
                    return Err(Fault::new(FailureKind::MissingField, "is not there").within(&self.fields[index].name));
                }
                column.push_null();
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// A row of nulls, below a struct that is null itself.
    fn push_nulls(&mut self) {
        for column in &mut self.columns {
            column.push_null();
        }
        self.rows += 1;
    }

    /// Drops everything behind the first `rows` rows, and what a failed row has left.
    pub(super) fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
        self.rows = rows;
    }

    fn finish(self, fields: &arrow::datatypes::Fields) -> Vec<ArrayRef> {
        self.columns.into_iter().zip(fields).map(|(column, field)| column.finish(field)).collect()
    }

    /// The rows as a batch of `schema`, which is that of the fields.
    pub(super) fn into_batch(self, schema: &SchemaRef) -> RecordBatch {
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let arrays = self.finish(schema.fields());
        RecordBatch::try_new_with_options(schema.clone(), arrays, &options)
            .expect("columns are built by the schema that they are put under")
    }
}

impl<'p> Column<'p> {
    fn new(kind: &'p FieldType, optional: bool, rows: usize, written: Written) -> Self {
        let ends = || {
            let mut ends = Vec::with_capacity(rows + 1);
            ends.push(0);
            ends
        };
        let values = match kind {
            FieldType::String | FieldType::Json | FieldType::Bytes => Values::Bytes(Vec::new(), ends()),
            FieldType::Int | FieldType::Timestamp => Values::Int(Vec::with_capacity(rows)),
            FieldType::Float => Values::Float(Vec::with_capacity(rows)),
            FieldType::Bool => Values::Bool(BooleanBufferBuilder::new(rows)),
            FieldType::List(item) => Values::List(ends(), Box::new(Column::new(item, false, rows, written))),
            FieldType::Struct(fields) => Values::Struct(Columns::written(fields, rows, written)),
        };
        Self { kind, optional, written, nulls: NullBufferBuilder::new(rows), values }
    }

    /// Appends a null, whether or not the field is optional; see [`Column::null`].
    pub(super) fn push_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Bytes(data, ends) => ends.push(data.len() as i32),
            Values::Int(values) => values.push(0),
            Values::Float(values) => values.push(0.0),
            Values::Bool(values) => values.append(false),
            Values::List(ends, item) => ends.push(item.nulls.len() as i32),
            Values::Struct(columns) => columns.push_nulls(),
        }
    }

    /// Appends a null where the field is optional.
    pub(super) fn null(&mut self) -> Built {
        if !self.optional {
            return Err(Fault::new(FailureKind::MissingField, "is null, but not optional"));
        }
        self.push_null();
        Ok(())
    }

    /// Appends to an `int` or `timestamp` column.
    #[inline]
    pub(super) fn push_int(&mut self, value: i64) {
        if let Values::Int(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    /// Appends to a `float` column.
    #[inline]
    pub(super) fn push_float(&mut self, value: f64) {
        if let Values::Float(values) = &mut self.values {
            values.push(value);
            self.nulls.append_non_null();
        }
    }

    /// Appends to a `bool` column.
    #[inline]
    pub(super) fn push_bool(&mut self, value: bool) {
        if let Values::Bool(values) = &mut self.values {
            values.append(value);
            self.nulls.append_non_null();
        }
    }

    /// Appends to a `string`, `json` or `bytes` column. The first two must be given UTF-8.
    #[inline]
    pub(super) fn push_bytes(&mut self, value: &[u8]) -> Built {
        self.build_bytes(|data| {
            data.extend_from_slice(value);
            Ok(())
        })
    }

    /// Appends to a `string`, `json` or `bytes` column what `build` puts behind the data.
    #[inline]
    pub(super) fn build_bytes(&mut self, build: impl FnOnce(&mut Vec<u8>) -> Built) -> Built {
        let Values::Bytes(data, ends) = &mut self.values else { return Ok(()) };
        build(data)?;
        let Ok(end) = i32::try_from(data.len()) else {
            return Err(Fault::new(FailureKind::TooLarge, "a batch can't hold more than 2 GiB of one field"));
        };
        ends.push(end);
        self.nulls.append_non_null();
        Ok(())
    }

    /// The items' column of a list; behind them call [`Column::end_list`].
    pub(super) fn items(&mut self) -> Option<&mut Column<'p>> {
        match &mut self.values {
            Values::List(_, item) => Some(item),
            _ => None,
        }
    }

    /// Ends a list.
    pub(super) fn end_list(&mut self) {
        if let Values::List(ends, item) = &mut self.values {
            ends.push(item.nulls.len() as i32);
            self.nulls.append_non_null();
        }
    }

    /// The fields' columns of a struct; behind its row call [`Column::end_struct`].
    pub(super) fn fields(&mut self) -> Option<&mut Columns<'p>> {
        match &mut self.values {
            Values::Struct(columns) => Some(columns),
            _ => None,
        }
    }

    /// Ends a struct.
    pub(super) fn end_struct(&mut self) {
        self.nulls.append_non_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.nulls.truncate(rows);
        match &mut self.values {
            Values::Bytes(data, ends) => {
                ends.truncate(rows + 1);
                data.truncate(ends[rows] as usize);
            }
            Values::Int(values) => values.truncate(rows),
            Values::Float(values) => values.truncate(rows),
            Values::Bool(values) => values.truncate(rows),
            Values::List(ends, item) => {
                ends.truncate(rows + 1);
                item.truncate(ends[rows] as usize);
            }
            Values::Struct(columns) => columns.truncate(rows),
        }
    }

    fn finish(mut self, field: &ArrowField) -> ArrayRef {
        let nulls = self.nulls.finish();
        let offsets = |ends: Vec<i32>| OffsetBuffer::new(ScalarBuffer::from(ends));
        match self.values {
            Values::Bytes(data, ends) if matches!(self.kind, FieldType::Bytes) => {
                Arc::new(BinaryArray::new(offsets(ends), Buffer::from_vec(data), nulls))
            }
            Values::Bytes(data, ends) => Arc::new(StringArray::new(offsets(ends), Buffer::from_vec(data), nulls)),
            Values::Int(values) if matches!(self.kind, FieldType::Timestamp) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls).with_data_type(timestamp_type()))
            }
            Values::Int(values) => Arc::new(Int64Array::new(values.into(), nulls)),
            Values::Float(values) => Arc::new(Float64Array::new(values.into(), nulls)),
            Values::Bool(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::List(ends, item) => match field.data_type() {
                DataType::List(item_field) => {
                    let items = item.finish(item_field);
                    Arc::new(ListArray::new(item_field.clone(), offsets(ends), items, nulls))
                }
                other => unreachable!("a list under {other}"),
            },
            Values::Struct(columns) => match field.data_type() {
                DataType::Struct(fields) if fields.is_empty() => {
                    Arc::new(StructArray::new_empty_fields(columns.rows, nulls))
                }
                DataType::Struct(fields) => Arc::new(StructArray::new(fields.clone(), columns.finish(fields), nulls)),
                other => unreachable!("a struct under {other}"),
            },
        }
    }
}

/// What a record that is text is given as.
pub(super) enum Text {
    /// Valid UTF-8 (a byte order mark is gone), or the record has already failed.
    Utf8,
    /// As it came.
    Bytes,
}

/// Decodes record by record: `row` puts the rows of one record into the columns, or says why it can't.
pub(super) fn decode_each<'p>(
    raw: &RawBatch,
    fields: &'p [Field],
    schema: &SchemaRef,
    text: &Text,
    row: impl FnMut(&[u8], &mut Columns<'p>) -> Built,
) -> Decoded {
    decode_with(raw, Columns::new(fields, raw.len()), schema, text, row)
}

/// The same, into empty columns that are there already.
pub(super) fn decode_with<'p>(
    raw: &RawBatch,
    mut columns: Columns<'p>,
    schema: &SchemaRef,
    text: &Text,
    mut row: impl FnMut(&[u8], &mut Columns<'p>) -> Built,
) -> Decoded {
    let mut record_of_row = Vec::with_capacity(raw.len());
    let mut failures = Vec::new();
    let mut refused = raw.refused.clone();
    refused.sort_by_key(|failure| failure.row);
    let mut refused = refused.into_iter().peekable();
    let whole_is_utf8 = matches!(text, Text::Utf8) && simdutf8::basic::from_utf8(&raw.data).is_ok();
    for index in 0..raw.len() {
        if let Some(failure) = refused.next_if(|failure| failure.row as usize == index) {
            failures.push(failure);
            while refused.next_if(|failure| failure.row as usize == index).is_some() {}
            continue;
        }
        let mut record = raw.record(index);
        let before = columns.rows();
        let built = match text {
            Text::Bytes => row(record, &mut columns),
            Text::Utf8 => check_utf8(raw, index, whole_is_utf8).and_then(|()| {
                record = record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record);
                row(record, &mut columns)
            }),
        };
        match built {
            Ok(()) => record_of_row.resize(columns.rows(), index as u32),
            Err(fault) => {
                columns.truncate(before);
                failures.push(RowFailure { row: index as u32, failure: fault.into() });
            }
        }
    }
    Decoded { batch: columns.into_batch(schema), record: record_of_row, failures }
}

/// Where the whole buffer is UTF-8, a record is so too unless it was cut out of the middle of a character.
fn check_utf8(raw: &RawBatch, index: usize, whole_is_utf8: bool) -> Built {
    let span = &raw.spans[index];
    let starts_char = |at: usize| raw.data.get(at).is_none_or(|byte| byte & 0xc0 != 0x80);
    if whole_is_utf8 && starts_char(span.start) && starts_char(span.end) {
        return Ok(());
    }
    match simdutf8::compat::from_utf8(raw.record(index)) {
        Ok(_) => Ok(()),
        Err(e) => Err(Fault::new(FailureKind::Encoding, format!("invalid UTF-8 at byte {}", e.valid_up_to()))),
    }
}
