//! A line of text per row, made from a template.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use millstream_core::{Encoded, Encoder, Failure, FailureKind, Result};

use super::{Push, is_text, only, with_room};
use crate::template::{Place, Template};

/// Writes lines.
#[derive(Debug)]
pub(super) struct TextEncoder {
    template: Template,
}

impl TextEncoder {
    /// Without a template, the line is the only string.
    pub(super) fn new(template: Option<&str>, schema: &Schema, place: Place) -> Result<Self, String> {
        let template = match (template, only(schema, is_text)) {
            (Some(text), _) => Template::parse(text, schema, place)?,
            (None, Some(column)) => Template::column(column, place),
            (None, None) => {
                return Err("needs a line such as `{ format: text, template: \"{id} {title}\" }`: the rows have no \
                            column of type string, or several"
                    .into());
            }
        };
        Ok(Self { template })
    }
}

impl Encoder for TextEncoder {
    fn media_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }

    fn header(&self) -> &[u8] {
        b""
    }

    fn encode(&self, batch: &RecordBatch) -> Result<Encoded> {
        let bound = self.template.bind(batch)?;
        let mut out = with_room(batch.num_rows());
        for row in 0..batch.num_rows() {
            let start = out.data.len();
            match bound.render(row) {
                Ok(line) => {
                    out.data.extend_from_slice(line.as_bytes());
                    out.push(row, start);
                    out.data.push(b'\n');
                }
                Err(why) => out.refuse(row, start, Failure::new(FailureKind::Rejected, format!("the line {why}"))),
            }
        }
        Ok(out)
    }
}
