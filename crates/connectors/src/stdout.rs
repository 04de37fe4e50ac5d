//! Prints records to standard output.

use std::io::{BufWriter, ErrorKind as Io, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::terminal::{Escapes, SafeWriter};
use millstream_core::{AnySink, Error, ErrorKind, Result, RowFailure, Sink, SinkBatch};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Problem, Problems};
use crate::connector::{SinkConnector, SinkSettings};
use crate::context::SinkContext;
use crate::format::EncodeConfig;
use crate::payload::{Body, Image};
use crate::preview::{self, Preview};
use crate::template::Place;

/// Prints each row to standard output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct StdoutSinkConfig {
    /// How a row is printed: `json` (one object per line; indented with `pretty: true`), `csv`, `text` (a line made
    /// from a template) or `raw` (the bytes of one column). Default: `json`.
    #[serde(default)]
    pub encode: EncodeConfig,
    /// What to print of a change stream.
    #[serde(default)]
    pub image: Image,
}

impl SinkSettings for StdoutSinkConfig {
    fn kind(&self) -> &'static str {
        "stdout"
    }

    fn check(&self, _: &Path, schema: &SchemaRef) -> Result<Arc<dyn SinkConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked(schema)?))
    }
}

impl StdoutSinkConfig {
    pub(crate) fn checked(&self, schema: &SchemaRef) -> Result<StdoutSinkSpec, Vec<Problem>> {
        let mut problems = Problems::default();
        problems.check_encode(&self.encode, "stdout");
        let body = problems.check_body(&self.encode, self.image, schema, Place::Text);
        // It would fail for the same reasons.
        let on_terminal = Problems::default().check_body(&self.encode, self.image, schema, Place::TerminalLine);
        problems.check_image(self.image, schema);
        let escapes = if matches!(self.encode, EncodeConfig::Json { .. }) { Escapes::Json } else { Escapes::Text };
        problems.finish(|| Some(StdoutSinkSpec { body: body?, on_terminal: on_terminal?, escapes }))
    }
}

/// A sink to standard output whose settings were checked.
#[derive(Debug)]
pub struct StdoutSinkSpec {
    pub(crate) body: Body,
    /// The same, where a terminal shows it.
    on_terminal: Body,
    escapes: Escapes,
}

#[async_trait]
impl SinkConnector for StdoutSinkSpec {
    async fn probe(&self) -> Result<String> {
        Ok("standard output".into())
    }

    fn preview(&self, batch: &RecordBatch) -> Result<Vec<Preview>> {
        preview::each(batch, &self.body, |_| Ok("standard output".into()))
    }

    fn open(&self, _: SinkContext) -> Result<AnySink> {
        Ok(AnySink::Direct(Box::new(StdoutSink::new(self))))
    }
}

/// Prints each row. Rows of a batch come out together.
pub struct StdoutSink {
    body: Body,
    /// The line that names the columns is to come.
    at_start: bool,
    /// None while a batch is being printed, and for ever after one whose printing was abandoned.
    out: Option<Box<dyn Write + Send>>,
}

impl std::fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdoutSink").field("body", &self.body).finish_non_exhaustive()
    }
}

impl StdoutSink {
    /// A sink with settings that were checked.
    pub fn new(spec: &StdoutSinkSpec) -> Self {
        let out = std::io::stdout();
        // What a record says is shown on a terminal, never obeyed.
        let is_terminal = out.is_terminal();
        let body = if is_terminal { &spec.on_terminal } else { &spec.body };
        Self::onto(Box::new(SafeWriter::new(out, is_terminal.then_some(spec.escapes))), body.clone())
    }

    pub(crate) fn onto(out: Box<dyn Write + Send>, body: Body) -> Self {
        Self { body, at_start: true, out: Some(out) }
    }
}

#[async_trait]
impl Sink for StdoutSink {
    async fn deliver(&mut self, batch: &SinkBatch) -> Result<Vec<RowFailure>> {
        let encoded = self.body.encode(&batch.batch)?;
        let header = if self.at_start { self.body.header().to_vec() } else { Vec::new() };
        let Some(out) = self.out.take() else {
            return Err(Error::bug("stdout sink: a batch was abandoned while it was being printed"));
        };
        // A reader that does not read holds the writer up: not on a thread that others need.
        let (data, failures) = (encoded.data, encoded.failures);
        let (out, result) = tokio::task::spawn_blocking(move || {
            let mut out = BufWriter::new(out);
            let result = out.write_all(&header).and_then(|()| out.write_all(&data)).and_then(|()| out.flush());
            (out.into_parts().0, result)
        })
        .await
        .map_err(|e| Error::bug("print").caused_by(e))?;
        self.out = Some(out);
        match result {
            Ok(()) => {
                self.at_start = false;
                Ok(failures)
            }
            Err(e) if e.kind() == Io::BrokenPipe => {
                let gone = Error::new(ErrorKind::Gone, "standard output was closed by its reader");
                Err(gone.advise("start again with an open one"))
            }
            Err(e) => Err(Error::environment("standard output can't be written").caused_by(e)),
        }
    }
}

#[cfg(test)]
mod tests;
