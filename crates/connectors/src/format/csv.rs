//! CSV as RFC 4180 has it, with a delimiter and a quote character of choice: one row per record.
//!
//! Stricter than most readers: a quote that is not closed, and text behind a closing quote, make the record malformed
//! instead of shifting its columns.

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, FailureKind, FieldType, RawBatch, StreamSchema};

use super::coerce;
use super::columns::{Built, Column, Columns, Fault, Text, decode_with, shorten};
use super::config::{CsvConfig, ShortRows};
use super::encoding::to_utf8;
use super::framing::{self, Framing};

/// The decoder of `decode: csv`.
#[derive(Debug)]
pub(super) struct CsvDecoder {
    config: CsvConfig,
    fields: StreamSchema,
    schema: SchemaRef,
}

/// Which cell each declared field is in.
struct Layout {
    /// Cells that a row must have.
    width: usize,
    /// By declared field; `None` where the column is not there.
    cells: Vec<Option<usize>>,
}

impl CsvDecoder {
    /// A decoder; `columns`, where they are given, must name every field that is not optional.
    pub(super) fn new(config: &CsvConfig, schema: &StreamSchema) -> Result<Self, String> {
        if !config.columns.is_empty() {
            for field in schema.fields.iter().filter(|f| !f.optional) {
                if !config.columns.contains(&field.name) {
                    return Err(format!(
                        "`{}` is declared, but not among `columns`: add it, or make it optional",
                        field.name
                    ));
                }
            }
        }
        Ok(Self { config: config.clone(), fields: schema.clone(), schema: schema.arrow() })
    }

    /// The layout, or the fault that each record of the batch then has.
    fn layout(&self, header: Option<&[u8]>) -> Result<Layout, (FailureKind, String)> {
        let names: Vec<String> = if self.config.dialect.header {
            let Some(header) = header else {
                return Err((
                    FailureKind::Malformed,
                    "no header line came with this record: where there is none, set `header: false`".into(),
                ));
            };
            let header = header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header);
            let mut cells = Cells::default();
            cells.read(header, &self.config).map_err(|fault| {
                let failure = Failure::from(fault);
                (failure.kind, format!("the header: {}", failure.message))
            })?;
            (0..cells.len()).map(|i| String::from_utf8_lossy(cells.get(i).trim_ascii()).into_owned()).collect()
        } else if self.config.columns.is_empty() {
            self.fields.fields.iter().map(|f| f.name.clone()).collect()
        } else {
            self.config.columns.clone()
        };
        let mut cells = Vec::with_capacity(self.fields.fields.len());
        for field in &self.fields.fields {
            let mut found = names.iter().enumerate().filter(|(_, name)| **name == field.name).map(|(i, _)| i);
            let cell = found.next();
            if found.next().is_some() {
                return Err((FailureKind::Malformed, format!("the header names `{}` twice", field.name)));
            }
            if cell.is_none() && !field.optional {
                let names = shorten(names.join(", ").as_bytes());
                return Err((
                    FailureKind::MissingField,
                    format!("field `{}`: no such column; there are: {names}", field.name),
                ));
            }
            cells.push(cell);
        }
        Ok(Layout { width: names.len(), cells })
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let layout = self.layout(raw.header.as_deref());
        let mut cells = Cells::default();
        let columns = Columns::written(&self.fields.fields, raw.len(), self.config.values);
        decode_with(raw, columns, &self.schema, &Text::Utf8, |record, columns| match &layout {
            Ok(layout) => {
                cells.read(record, &self.config)?;
                push_row(&cells, layout, self.config.short_rows, columns)
            }
            Err((kind, message)) => Err(Fault::new(*kind, message.clone())),
        })
    }

    fn split(&self, body: Bytes, charset: Option<&str>) -> Result<RawBatch, Failure> {
        let text = to_utf8(body, charset, self.config.encoding)?;
        Ok(framing::split(Framing::Csv(self.config.dialect), text))
    }
}

fn push_row(cells: &Cells, layout: &Layout, short_rows: ShortRows, columns: &mut Columns<'_>) -> Built {
    let is_short = cells.len() < layout.width;
    if cells.len() > layout.width || (is_short && short_rows == ShortRows::Error) {
        return Err(Fault::malformed(format!("{} columns where {} should be", cells.len(), layout.width)));
    }
    columns.begin();
    for (index, cell) in layout.cells.iter().enumerate() {
        let Some(cell) = *cell else { continue };
        columns.mark(index);
        // A cell that the row is too short for is empty.
        let (text, is_null) =
            if cell < cells.len() { (cells.get(cell), cells.is_null(cell)) } else { (&b""[..], false) };
        let built = if is_null { columns.column(index).null() } else { push_cell(columns.column(index), text) };
        built.map_err(|fault| fault.within(columns.name(index)))?;
    }
    columns.end()
}

fn push_cell(column: &mut Column<'_>, cell: &[u8]) -> Built {
    if cell.is_empty() && column.optional {
        column.push_null();
        return Ok(());
    }
    if matches!(column.kind, FieldType::String) {
        return column.push_bytes(cell);
    }
    let cell = cell.trim_ascii();
    if cell.is_empty() {
        if column.optional {
            column.push_null();
            return Ok(());
        }
        return Err(Fault::new(FailureKind::MissingField, "is empty, but not optional"));
    }
    match std::str::from_utf8(cell) {
        Ok(text) => coerce::push_text(column, text),
        Err(_) => Err(Fault::new(FailureKind::Encoding, "invalid UTF-8")),
    }
}

/// The cells of one record, without quotes and escapes.
#[derive(Default)]
struct Cells {
    data: Vec<u8>,
    ends: Vec<usize>,
    /// Those that are among `nulls`; empty where there are no such texts.
    nulls: Vec<bool>,
}

impl Cells {
    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.data[start..self.ends[index]]
    }

    fn is_null(&self, index: usize) -> bool {
        self.nulls.get(index) == Some(&true)
    }

    fn read(&mut self, record: &[u8], config: &CsvConfig) -> Built {
        self.data.clear();
        self.ends.clear();
        self.nulls.clear();
        let record = record.strip_suffix(b"\n").unwrap_or(record);
        let record = record.strip_suffix(b"\r").unwrap_or(record);
        if record.is_empty() {
            return Err(Fault::malformed("the record is empty"));
        }
        let delimiter = config.dialect.delimiter;
        let mut rest = record;
        loop {
            let cell = rest;
            rest = match rest.first() {
                Some(&byte) if Some(byte) == config.dialect.quote => self.quoted(&rest[1..], byte, config)?,
                _ if config.dialect.escape.is_some() => self.unquoted(rest, config)?,
                _ => {
                    let end = memchr::memchr3(delimiter, b'\n', b'\r', rest).unwrap_or(rest.len());
                    self.data.extend_from_slice(&rest[..end]);
                    &rest[end..]
                }
            };
            self.ends.push(self.data.len());
            if !config.nulls.is_empty() {
                // Quotes make a text of it: they are part of what is looked at here.
                let written = &cell[..cell.len() - rest.len()];
                self.nulls.push(config.nulls.iter().any(|null| null.as_bytes() == written));
            }
            match rest.first() {
                None => return Ok(()),
                Some(&byte) if byte == delimiter => rest = &rest[1..],
                Some(_) => {
                    return Err(Fault::malformed(format!("a line break outside quotes, in column {}", self.len())));
                }
            }
        }
    }

    /// A cell without quotes, in which an escape takes the meaning from what stands behind it; answers what is behind.
    fn unquoted<'a>(&mut self, mut rest: &'a [u8], config: &CsvConfig) -> Built<&'a [u8]> {
        let escape = config.dialect.escape.unwrap_or_default();
        loop {
            let ends = |byte: &u8| *byte == config.dialect.delimiter || matches!(byte, b'\n' | b'\r');
            let end = rest.iter().position(|byte| *byte == escape || ends(byte)).unwrap_or(rest.len());
            self.data.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
            match rest {
                [byte, behind @ ..] if *byte == escape => rest = self.escaped(behind)?,
                _ => return Ok(rest),
            }
        }
    }

    /// Takes what stands behind an escape as it is; answers what is behind it.
    fn escaped<'a>(&mut self, rest: &'a [u8]) -> Built<&'a [u8]> {
        let Some((byte, behind)) = rest.split_first() else {
            return Err(Fault::malformed(format!("nothing stands behind the escape, in column {}", self.len() + 1)));
        };
        self.data.push(*byte);
        Ok(behind)
    }

    /// A quoted cell from behind its opening quote; answers what is behind the closing one.
    fn quoted<'a>(&mut self, mut rest: &'a [u8], quote: u8, config: &CsvConfig) -> Built<&'a [u8]> {
        let column = self.len() + 1;
        loop {
            let escape = config.dialect.escape.unwrap_or(quote);
            let Some(end) = memchr::memchr2(quote, escape, rest) else {
                return Err(Fault::malformed(format!("a quote is not closed, in column {column}")));
            };
            self.data.extend_from_slice(&rest[..end]);
            let found = rest[end];
            rest = &rest[end + 1..];
            if found != quote {
                rest = self.escaped(rest)?;
                continue;
            }
            match rest.first() {
                Some(&byte) if byte == quote => {
                    self.data.push(byte);
                    rest = &rest[1..];
                }
                None => return Ok(rest),
                Some(&byte) if byte == config.dialect.delimiter => return Ok(rest),
                Some(_) => return Err(Fault::malformed(format!("text behind a closing quote, in column {column}"))),
            }
        }
    }
}

#[cfg(test)]
#[path = "csv_tests.rs"]
mod tests;
