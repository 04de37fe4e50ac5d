//! Prints records to standard output.

use std::io::{BufWriter, ErrorKind as Io, IsTerminal, Write};

use arrow::datatypes::Schema;
use async_trait::async_trait;
use millstream_core::json::RowWriter;
use millstream_core::terminal::{Escapes, SafeWriter};
use millstream_core::{Error, ErrorKind, Result, RowFailure, Sink, SinkBatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sink::{Image, Payload, Problems, SinkContext};
use crate::template::{Place, Template};

/// Prints each row to standard output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct StdoutSinkConfig {
    /// How a row is printed.
    #[serde(default)]
    pub format: StdoutFormat,
    /// With `format: text`: the line, with columns in braces: `"{id} {sentiment.label}"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// What to print of a change stream.
    #[serde(default)]
    pub image: Image,
}

/// How a row is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StdoutFormat {
    /// One JSON object per line.
    #[default]
    Json,
    /// An indented JSON object.
    JsonPretty,
    /// A line made from `template`.
    Text,
}

impl StdoutSinkConfig {
    /// Finds settings that can't work; see [`crate::sink::SinkConfig::check`].
    pub(crate) fn check(&self, schema: &Schema, problems: &mut Problems) {
        match (&self.template, self.format) {
            (Some(text), StdoutFormat::Text) => problems.check_template("template", text, schema, Place::Text),
            (Some(_), _) => problems.add("template", "needs `format: text`"),
            (None, StdoutFormat::Text) => {
                problems.add("template", "is missing: `format: text` needs a line such as \"{id}\"")
            }
            (None, _) => {}
        }
    }
}

/// Prints each row. Rows of a batch come out together.
pub struct StdoutSink {
    format: StdoutFormat,
    template: Option<Template>,
    image: Image,
    /// None while a batch is being printed, and for ever after one whose printing was abandoned.
    out: Option<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdoutSink").field("format", &self.format).finish_non_exhaustive()
    }
}

impl StdoutSink {
    /// A sink with settings that were checked.
    ///
    /// # Errors
    /// `Config`: the template does not fit the columns.
    pub fn new(config: StdoutSinkConfig, context: SinkContext) -> Result<Self> {
        let json = config.format != StdoutFormat::Text;
        let escapes = if json { Escapes::Json } else { Escapes::Text };
        let out = std::io::stdout();
        // What a record says is shown on a terminal, never obeyed.
        let is_terminal = out.is_terminal();
        let out = SafeWriter::new(out, is_terminal.then_some(escapes));
        let place = if is_terminal { Place::TerminalLine } else { Place::Text };
        Self::onto(Box::new(out), place, config, &context)
    }

    pub(crate) fn onto(
        out: Box<dyn Write + Send>,
        place: Place,
        config: StdoutSinkConfig,
        context: &SinkContext,
    ) -> Result<Self> {
        let template = match &config.template {
            Some(text) => {
                let template = Template::parse(text, &context.schema, place);
                Some(template.map_err(|m| Error::config(format!("`template` {m}")))?)
            }
            None => None,
        };
        Ok(Self { format: config.format, template, image: config.image, out: Some(out) })
    }

    fn render(&self, batch: &SinkBatch) -> Result<Vec<u8>> {
        let payload = Payload::of(&batch.batch, self.image)?;
        let mut text = Vec::new();
        if let Some(template) = &self.template {
            let bound = template.bind(&batch.batch)?;
            for &row in &payload.rows {
                // On a line, a value can do nothing that it must not.
                let line = bound.render(row as usize).map_err(Error::bug)?;
                text.extend_from_slice(line.as_bytes());
                text.push(b'\n');
            }
            return Ok(text);
        }
        let writer = RowWriter::bind(&payload.batch)?;
        let mut compact = Vec::new();
        for row in 0..payload.rows.len() {
            if self.format == StdoutFormat::JsonPretty {
                compact.clear();
                writer.write(row, &mut compact);
                indent(&compact, &mut text);
            } else {
                writer.write(row, &mut text);
            }
            text.push(b'\n');
        }
        Ok(text)
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        let text = self.render(batch)?;
        let Some(out) = self.out.take() else {
            return Err(Error::bug("stdout sink: a batch was abandoned while it was being printed"));
        };
        // A reader that does not read holds the writer up: not on a thread that others need.
        let (out, result) = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::new(out);
            let result = out.write_all(&text).and_then(|()| out.flush());
            (out.into_parts().0, result)
        })
        .await
        .map_err(|e| Error::bug("print").caused_by(e))?;
        self.out = Some(out);
        match result {
            Ok(()) => Ok(Vec::new()),
            Err(e) if e.kind() == Io::BrokenPipe => {
                let gone = Error::new(ErrorKind::Gone, "standard output was closed by its reader");
                Err(gone.advise("start again with an open one"))
            }
            Err(e) => Err(Error::environment("standard output can't be written").caused_by(e)),
        }
    }
}

/// Compact JSON with line breaks and two blanks per level. Numbers keep all of their digits, which they would not as
/// values of `serde_json`.
fn indent(compact: &[u8], out: &mut Vec<u8>) {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |depth: usize, out: &mut Vec<u8>| {
        out.push(b'\n');
        out.resize(out.len() + 2 * depth, b' ');
    };
    for (i, &byte) in compact.iter().enumerate() {
        if in_string {
            out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = byte == b'\\' && !escaped;
            continue;
        }
        match byte {
            b'{' | b'[' => {
                out.push(byte);
                depth += 1;
                if !matches!(compact.get(i + 1), Some(b'}' | b']')) {
                    line(depth, out);
                }
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if !matches!(compact.get(i.wrapping_sub(1)), Some(b'{' | b'[')) {
                    line(depth, out);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                line(depth, out);
            }
            b':' => out.extend_from_slice(b": "),
            // A `json` column may hold blanks of its own.
            b' ' | b'\n' | b'\r' | b'\t' => {}
            _ => {
                in_string = byte == b'"';
                out.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests;
