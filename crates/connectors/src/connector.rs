//! What a connector says of itself: the seam between a system's folder and the rest of the program, which knows no
//! system by name.
//!
//! ```text
//!  pipeline file ──▶ SourceSettings ──check──▶ SourceConnector ──intake──▶ Pull ──open──▶ core::Source
//!                    (as typed)                (as checked)            └─▶ Push (the server takes records in)
//!                    SinkSettings   ──check──▶ SinkConnector   ──open───▶ core::AnySink
//! ```
//!
//! Settings are checked once. What the check finds out (an address, a template bound to columns, a pattern) is kept in
//! the connector, so that opening it can fail only for what is outside of the pipeline file.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::{AnySink, Metadata, Result, Source, StreamSchema};

use crate::check::Problem;
use crate::context::{SinkContext, SourceContext};
use crate::format::DecodeConfig;
use crate::preview::Preview;
use crate::probe::{Depth, within};

/// The settings of a source as they were typed.
pub trait SourceSettings: fmt::Debug {
    /// The value of `type`.
    fn kind(&self) -> &'static str;

    /// Why no record of this source could be decoded like that; none where they can.
    fn unfit(&self, decode: &DecodeConfig) -> Option<Unfit>;

    /// The fields of its rows: as declared, or as the source or the format says by itself.
    ///
    /// # Errors
    /// What is declared does not fit, or nothing is and something must be; the message says what to write.
    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String>;

    /// Whether its system knows this of a record. Not asked of what is known of every record.
    fn carries(&self, metadata: Metadata) -> Carries;

    /// Checks the settings. Paths start from the folder `base`. Looks at neither disk nor network.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(&self, base: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>>;
}

/// Whether a source knows something of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// It does.
    Yes,
    /// It would with another setting: what to write.
    With(&'static str),
    /// It never does.
    No,
}

/// Why a format does not go with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// What is the matter.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl Unfit {
    /// Of a source that reads one row at a time.
    pub(crate) fn without_header(kind: &str, decode: &DecodeConfig) -> Option<Self> {
        let DecodeConfig::Csv(csv) = decode else { return None };
        csv.dialect.header.then(|| Self {
            message: format!(
                "a source of `type: {kind}` reads one row at a time, and none of them is a header that names the columns"
            ),
            help: "write `decode: { format: csv, header: false, columns: [first, second, …] }`".into(),
        })
    }
}

/// A source whose settings were checked.
#[async_trait]
pub trait SourceConnector: fmt::Debug + Send + Sync {
    /// How its records come in.
    fn intake(&self) -> Intake<'_>;

    /// Looks at its system before anything is read; what was found, in a few words. Changes nothing there.
    ///
    /// # Errors
    /// `Retry`: it can't be reached now. `Config`, `Environment`: it never will be with these settings.
    async fn probe(&self, depth: Depth) -> Result<String>;
}

/// How the records of a source come in.
#[derive(Debug)]
pub enum Intake<'a> {
    /// The pipeline reads them.
    Pull(&'a dyn Pull),
    /// Others send them to this server.
    Push(&'a PushSpec),
}

impl dyn SourceConnector {
    /// [`SourceConnector::probe`], for as long as a look may take.
    ///
    /// # Errors
    /// As of it; `Retry` where it takes longer.
    pub async fn look(&self, depth: Depth) -> Result<String> {
        within(self.probe(depth)).await
    }

    /// True where records are sent to this server.
    pub fn is_pushed(&self) -> bool {
        matches!(self.intake(), Intake::Push(_))
    }
}

/// A source that the pipeline reads.
pub trait Pull: fmt::Debug {
    /// True where it comes to an end by itself.
    fn is_bounded(&self) -> bool;

    /// Opens it behind `context.cursor`. Nothing is read or connected to before the first `next`.
    ///
    /// # Errors
    /// `Corruption`: the cursor can't be read. `Environment`: TLS can't be set up.
    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>>;
}

/// What this server takes in for a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushSpec {
    /// The largest body of a request, unpacked; bytes.
    pub body_bytes_max: usize,
    /// How long a request's key is remembered, in microseconds.
    pub key_window_us: i64,
    /// The headers of a request that are kept with its records, as they were written.
    pub headers: Vec<Arc<str>>,
}

/// The settings of a sink as they were typed.
pub trait SinkSettings: fmt::Debug {
    /// The value of `type`.
    fn kind(&self) -> &'static str;

    /// Checks the settings for a stream with the columns `schema`. Paths start from the folder `base`. Looks at neither
    /// disk nor network.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(&self, base: &Path, schema: &SchemaRef) -> Result<Arc<dyn SinkConnector>, Vec<Problem>>;
}

/// A sink whose settings were checked, for one stream.
#[async_trait]
pub trait SinkConnector: fmt::Debug + Send + Sync {
    /// Looks at its system before anything is written; what was found, in a few words. Changes nothing there.
    ///
    /// # Errors
    /// `Retry`: it can't be reached now. `Config`, `Environment`: it never will be with these settings.
    async fn probe(&self) -> Result<String>;

    /// What it would send for the rows of `batch`, rows that it leaves out left out.
    ///
    /// # Errors
    /// A column's type has no form in its format.
    fn preview(&self, batch: &RecordBatch) -> Result<Vec<Preview>>;

    /// Opens it. Nothing is connected to or written before the first batch.
    ///
    /// # Errors
    /// `Environment`: the machine is in the way.
    fn open(&self, context: SinkContext) -> Result<AnySink>;
}

impl dyn SinkConnector {
    /// [`SinkConnector::probe`], for as long as a look may take.
    ///
    /// # Errors
    /// As of it; `Retry` where it takes longer.
    pub async fn look(&self) -> Result<String> {
        within(self.probe()).await
    }
}
