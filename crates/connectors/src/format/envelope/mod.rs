//! Change events of databases, decoded: the rows of the declared columns, and what became of each in column `_op`.
//!
//! ```text
//! record ──envelope──▶ Event: table, images of rows as places in the record ──row by row──▶ columns
//! ```
//!
//! An insert or update gives the row after it, a delete the row before it, as far as the event has it: then fields
//! may be missing that are not optional, so every column of the stream may be null. An event gives as many rows as it
//! holds: none where it is of another table, or of no row at all (heartbeats, changes of definitions, borders of
//! transactions, tombstones). The JSON around the row is checked as everywhere.

mod canal;
mod config;
mod debezium;
mod decimal;
mod dms;
mod event;
mod maxwell;
mod types;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use millstream_core::{Decoded, Decoder, Failure, Field, FieldType, RawBatch, StreamSchema};

use super::columns::{Built, Columns, Fault, Text, decode_with};
use super::config::{DuplicateKeys, JsonConfig};
use super::json;
use super::json_parser::Parser;
use event::{Change, Event, Record, Span};
use types::Written;

pub use config::{Envelope, EnvelopeConfig, TimeUnit};

/// The column that says what became of the row: `insert`, `update` or `delete`.
pub const OP_COLUMN: &str = "_op";

/// The declared fields with that column behind them.
///
/// # Errors
/// There is a field of that name already, or `units` names what is no field of moments.
pub(super) fn fields(config: &EnvelopeConfig, declared: &StreamSchema) -> Result<StreamSchema, String> {
    if declared.field(OP_COLUMN).is_some() {
        return Err(format!(
            "`{OP_COLUMN}` is what `envelope: {}` adds by itself: leave it out of the schema",
            config.envelope
        ));
    }
    for (name, _) in &config.units {
        let kind = declared.field(name).map(|field| &field.kind);
        if !matches!(kind, Some(FieldType::Timestamp | FieldType::String)) {
            return Err(format!("`units` names `{name}`, which is no field of type timestamp or string"));
        }
    }
    let mut fields = declared.fields.clone();
    fields.push(Field { name: OP_COLUMN.into(), kind: FieldType::String, optional: false });
    Ok(StreamSchema { fields })
}

/// The columns of the stream: a delete may lack any but `_op`.
pub(super) fn columns(schema: &StreamSchema) -> SchemaRef {
    let column = |field: &Field| {
        let is_nullable = field.optional || field.name != OP_COLUMN;
        field.arrow().with_nullable(is_nullable)
    };
    Arc::new(Schema::new(schema.fields.iter().map(column).collect::<Vec<_>>()))
}

/// The decoder of `decode: { format: json, envelope: … }`.
#[derive(Debug)]
pub(super) struct EnvelopeDecoder {
    config: EnvelopeConfig,
    json: JsonConfig,
    fields: StreamSchema,
    schema: SchemaRef,
    /// How each column is written where the event does not say so.
    written: Vec<Written>,
    op: usize,
}

impl EnvelopeDecoder {
    /// Of the fields that [`fields`] gave.
    pub(super) fn new(config: &EnvelopeConfig, json: &JsonConfig, schema: &StreamSchema) -> Self {
        let unsaid = if config.envelope == Envelope::Debezium { Written::Unknown } else { Written::Plain };
        let mut decoder = Self {
            config: config.clone(),
            json: json.clone(),
            fields: schema.clone(),
            schema: columns(schema),
            written: vec![unsaid; schema.fields.len()],
            op: schema.fields.len().saturating_sub(1),
        };
        decoder.written = decoder.with_units(decoder.written.clone());
        decoder
    }

    fn with_units(&self, mut written: Vec<Written>) -> Vec<Written> {
        for (written, field) in written.iter_mut().zip(&self.fields.fields) {
            if let Some((_, unit)) = self.config.units.iter().find(|(name, _)| *name == field.name) {
                *written = Written::Count(*unit);
            }
        }
        written
    }

    fn event(&self, record: &mut Record<'_>) -> Built<Event> {
        let whole = record.whole()?;
        if record.is_nothing(&whole) {
            // A tombstone: a delete has been told before it.
            return Ok(Event::default());
        }
        match self.config.envelope {
            Envelope::Debezium => debezium::read(record, &whole),
            Envelope::Maxwell => maxwell::read(record, &whole),
            Envelope::Canal => canal::read(record, &whole),
            Envelope::Dms => dms::read(record, &whole),
        }
    }
}

impl Decoder for EnvelopeDecoder {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn decode(&self, raw: &RawBatch) -> Decoded {
        let columns = Columns::written(&self.fields.fields, raw.len(), self.json.values);
        let mut rows = RowReader { decoder: self, schema: None, found: Vec::new(), scratch: Vec::new() };
        decode_with(raw, columns, &self.schema, &Text::Utf8, |record, columns| {
            let event = self.event(&mut Record::new(record))?;
            if event.changes.is_empty() && event.refused.is_none() {
                return Ok(());
            }
            if let Some(wanted) = &self.config.table {
                if event.table.is_empty() {
                    return Err(Fault::malformed(format!(
                        "it does not say of which table it is, and `{wanted}` is wanted"
                    )));
                }
                if !event.is_of(wanted) {
                    return Ok(());
                }
            }
            if let Some(fault) = event.refused {
                return Err(fault);
            }
            rows.learn(event.schema.map(|span| &record[span]));
            event.changes.iter().try_for_each(|change| rows.row(record, change, columns))
        })
    }

    fn split(&self, body: Bytes, charset: Option<&str>) -> Result<RawBatch, Failure> {
        json::split_body(body, charset, self.json.encoding)
    }
}

/// Puts images of rows into columns.
struct RowReader<'d> {
    decoder: &'d EnvelopeDecoder,
    /// The last schema that came with an event, and what it says: nearly always that of the next one, too.
    schema: Option<(Vec<u8>, Vec<Written>)>,
    found: Vec<(usize, Span)>,
    scratch: Vec<u8>,
}

impl RowReader<'_> {
    fn learn(&mut self, schema: Option<&[u8]>) {
        let Some(schema) = schema else {
            self.schema = None;
            return;
        };
        if self.schema.as_ref().is_none_or(|(known, _)| known != schema) {
            let written = types::by_schema(schema, &self.decoder.fields.fields);
            self.schema = written.map(|written| (schema.to_vec(), self.decoder.with_units(written)));
        }
    }

    fn row(&mut self, record: &[u8], change: &Change, columns: &mut Columns<'_>) -> Built {
        let is_delete = change.op == event::Op::Delete;
        for (index, field) in self.decoder.fields.fields.iter().enumerate() {
            columns.column(index).optional = field.optional || is_delete;
        }
        columns.begin();
        let last_key_counts = self.decoder.json.duplicate_keys == DuplicateKeys::Last;
        self.image(record, &change.image, last_key_counts, columns)?;
        if let Some(instead) = &change.instead {
            self.image(record, instead, true, columns)?;
        }
        columns.mark(self.decoder.op);
        columns.column(self.decoder.op).push_bytes(change.op.as_str().as_bytes())?;
        columns.end()
    }

    fn image(&mut self, record: &[u8], image: &Span, last_counts: bool, columns: &mut Columns<'_>) -> Built {
        let mut parser = Parser::new(record, last_counts, &mut self.scratch);
        parser.go_to(image.start);
        if parser.peek() != Some(b'{') {
            return Err(Fault::malformed("the image of a row is no object"));
        }
        let (mut expected, op) = (0, self.decoder.op);
        self.found.clear();
        parser.members(1, |name| columns.find(name, &mut expected).filter(|&at| at != op), &mut self.found)?;
        let written = self.schema.as_ref().map_or(&self.decoder.written, |(_, written)| written);
        for (index, span) in self.found.drain(..) {
            if !columns.mark(index) {
                if !last_counts {
                    return Err(Fault::malformed("appears twice in one object").within(columns.name(index)));
                }
                columns.unset(index);
            }
            let column = columns.column(index);
            let built = match written[index].push(column, &record[span.clone()]) {
                Ok(true) => Ok(()),
                Ok(false) => {
                    parser.go_to(span.start);
                    parser.value(column, 2)
                }
                Err(fault) => Err(fault),
            };
            built.map_err(|fault| fault.within(columns.name(index)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
