//! Building columns from encoded values; the format is that of [`super`].

use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, LargeBinaryArray, LargeListArray,
    LargeStringArray, ListArray, NullArray, NullBufferBuilder, StringArray, StructArray, make_array,
};
use arrow::buffer::{Buffer, MutableBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Fields};
use arrow::error::ArrowError;

use crate::leb128::read_length;

/// Bytes yet to be read. All reads give `None` where there are too few.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    /// A length as LEB128.
    pub(crate) fn length(&mut self) -> Option<usize> {
        read_length(&mut self.0)
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.length()?;
        self.take(len)
    }
}

/// Passes over a value of this type.
pub(crate) fn skip_fields(cursor: &mut Cursor<'_>, data_type: &DataType) -> Option<()> {
    use DataType as T;
    match data_type {
        T::Null => Some(()),
        T::Boolean => cursor.take(1).map(|_| ()),
        T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView => cursor.bytes().map(|_| ()),
        T::List(item) | T::LargeList(item) => {
            let len = cursor.length()?;
            let nulls = cursor.take(len.div_ceil(8))?;
            (0..len).filter(|i| !is_null(nulls, *i)).try_for_each(|_| skip_fields(cursor, item.data_type()))
        }
        T::Struct(fields) => {
            let nulls = cursor.take(fields.len().div_ceil(8))?;
            let present = fields.iter().enumerate().filter(|(i, _)| !is_null(nulls, *i));
            present.map(|(_, f)| f).try_for_each(|f| skip_fields(cursor, f.data_type()))
        }
        number => cursor.take(number.primitive_width()?).map(|_| ()),
    }
}

fn is_null(nulls: &[u8], i: usize) -> bool {
    nulls[i / 8] >> (i % 8) & 1 == 1
}

/// A column that is being read.
pub(crate) struct Builder {
    data_type: DataType,
    nulls: NullBufferBuilder,
    values: Values,
}

enum Values {
    Null,
    Bool(BooleanBufferBuilder),
    Fixed { bytes: MutableBuffer, width: usize },
    Bytes { bytes: Vec<u8>, ends: Vec<usize> },
    List { item: Box<Builder>, ends: Vec<usize> },
    Struct(Vec<Builder>),
}

impl Builder {
    pub(crate) fn new(data_type: &DataType, rows: usize) -> Self {
        use DataType as T;
        let values = match data_type {
            T::Null => Values::Null,
            T::Boolean => Values::Bool(BooleanBufferBuilder::new(rows)),
            T::Utf8 | T::LargeUtf8 | T::Utf8View | T::Binary | T::LargeBinary | T::BinaryView => {
                Values::Bytes { bytes: Vec::new(), ends: Vec::with_capacity(rows) }
            }
            T::List(item) | T::LargeList(item) => {
                Values::List { item: Box::new(Self::new(item.data_type(), rows)), ends: Vec::with_capacity(rows) }
            }
            T::Struct(fields) => Values::Struct(fields.iter().map(|f| Self::new(f.data_type(), rows)).collect()),
            number => {
                let width = number.primitive_width().unwrap_or(0);
                Values::Fixed { bytes: MutableBuffer::with_capacity(rows * width), width }
            }
        };
        Self { data_type: data_type.clone(), nulls: NullBufferBuilder::new(rows), values }
    }

    pub(crate) fn append_null(&mut self) {
        self.nulls.append_null();
        match &mut self.values {
            Values::Null => {}
            Values::Bool(values) => values.append(false),
            Values::Fixed { bytes, width } => bytes.extend_zeros(*width),
            Values::Bytes { bytes, ends } => ends.push(bytes.len()),
            Values::List { item, ends } => ends.push(item.len()),
            Values::Struct(fields) => fields.iter_mut().for_each(Self::append_null),
        }
    }

    /// Reads one value; `None` where the bytes are not one.
    pub(crate) fn append(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        self.nulls.append_non_null();
        match &mut self.values {
            Values::Null => {}
            Values::Bool(values) => values.append(*cursor.take(1)?.first()? != 0),
            Values::Fixed { bytes, width } => bytes.extend_from_slice(cursor.take(*width)?),
            Values::Bytes { bytes, ends } => {
                bytes.extend_from_slice(cursor.bytes()?);
                ends.push(bytes.len());
            }
            Values::List { item, ends } => {
                let len = cursor.length()?;
                let nulls = cursor.take(len.div_ceil(8))?;
                for i in 0..len {
                    if is_null(nulls, i) { item.append_null() } else { item.append(cursor)? }
                }
                ends.push(item.len());
            }
            Values::Struct(fields) => {
                let nulls = cursor.take(fields.len().div_ceil(8))?;
                for (i, field) in fields.iter_mut().enumerate() {
                    if is_null(nulls, i) { field.append_null() } else { field.append(cursor)? }
                }
            }
        }
        Some(())
    }

    fn len(&self) -> usize {
        self.nulls.len()
    }

    /// The column.
    ///
    /// # Errors
    /// Text that is not UTF-8, or more than 32-bit offsets can address.
    pub(crate) fn finish(mut self) -> Result<ArrayRef, ArrowError> {
        let (len, nulls) = (self.len(), self.nulls.finish());
        Ok(match self.values {
            Values::Null => Arc::new(NullArray::new(len)),
            Values::Bool(mut values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Fixed { bytes, .. } => {
                let data = ArrayData::builder(self.data_type).len(len).add_buffer(bytes.into()).nulls(nulls);
                make_array(data.build()?)
            }
            Values::Bytes { bytes, ends } => {
                let bytes = Buffer::from_vec(bytes);
                match &self.data_type {
                    DataType::Utf8 => Arc::new(StringArray::try_new(offsets32(&ends)?, bytes, nulls)?),
                    DataType::Binary => Arc::new(BinaryArray::try_new(offsets32(&ends)?, bytes, nulls)?),
                    DataType::LargeUtf8 => Arc::new(LargeStringArray::try_new(offsets64(&ends), bytes, nulls)?),
                    DataType::LargeBinary => Arc::new(LargeBinaryArray::try_new(offsets64(&ends), bytes, nulls)?),
                    DataType::Utf8View => {
                        cast(&StringArray::try_new(offsets32(&ends)?, bytes, nulls)?, &DataType::Utf8View)?
                    }
                    view => cast(&BinaryArray::try_new(offsets32(&ends)?, bytes, nulls)?, view)?,
                }
            }
            Values::List { item, ends } => {
                let items = item.finish()?;
                match self.data_type {
                    DataType::LargeList(field) => {
                        Arc::new(LargeListArray::try_new(field, offsets64(&ends), items, nulls)?)
                    }
                    DataType::List(field) => Arc::new(ListArray::try_new(field, offsets32(&ends)?, items, nulls)?),
                    other => return Err(ArrowError::SchemaError(format!("{other} is no list"))),
                }
            }
            Values::Struct(builders) => {
                let columns = builders.into_iter().map(Self::finish).collect::<Result<Vec<_>, _>>()?;
                let fields = match self.data_type {
                    DataType::Struct(fields) => fields,
                    _ => Fields::empty(),
                };
                Arc::new(StructArray::try_new_with_length(fields, columns, nulls, len)?)
            }
        })
    }
}

fn offsets32(ends: &[usize]) -> Result<OffsetBuffer<i32>, ArrowError> {
    let mut offsets = Vec::with_capacity(ends.len() + 1);
    offsets.push(0);
    for &end in ends {
        offsets.push(i32::try_from(end).map_err(|_| ArrowError::OffsetOverflowError(end))?);
    }
    Ok(OffsetBuffer::new(offsets.into()))
}

fn offsets64(ends: &[usize]) -> OffsetBuffer<i64> {
    OffsetBuffer::new(std::iter::once(0).chain(ends.iter().map(|&end| end as i64)).collect())
}
