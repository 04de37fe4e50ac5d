//! Reads files, once or as they grow.

mod block;
pub mod config;
mod content;
mod copies;
mod handles;
mod identity;
mod reader;
pub mod sink;
pub mod sink_config;
pub mod source;
mod tracked;
mod tracker;
mod troubles;
mod view;

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::{AnySink, Metadata, Result, Source, StreamSchema};

use crate::check::Problem;
use crate::connector::{Carries, Intake, Pull, SinkConnector, SinkSettings, SourceConnector, SourceSettings, Unfit};
use crate::context::{SinkContext, SourceContext};
use crate::format::{self, DecodeConfig};
use crate::payload::Body;
use crate::preview::{self, Preview};
use crate::probe::{Depth, writable};

pub use config::{Compression, FileSourceConfig, FileSourceSpec, Identity, StartAt};
pub use sink::FileSink;
pub use sink_config::{FileSinkConfig, FileSinkSpec, RollConfig};
pub use source::FileSource;

impl SourceSettings for FileSourceConfig {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn unfit(&self, _: &DecodeConfig) -> Option<Unfit> {
        None
    }

    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
        format::effective_schema(decode, declared)
    }

    fn carries(&self, metadata: Metadata) -> Carries {
        match metadata {
            Metadata::Position => Carries::Yes,
            _ => Carries::No,
        }
    }

    fn check(&self, base: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked(base)?))
    }
}

#[async_trait]
impl SourceConnector for FileSourceSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Pull(self)
    }

    async fn probe(&self, _: Depth) -> Result<String> {
        view::probe(self)
    }
}

impl Pull for FileSourceSpec {
    fn is_bounded(&self) -> bool {
        !self.config.follow
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(FileSource::new(self, context)?))
    }
}

impl SinkSettings for FileSinkConfig {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn check(&self, base: &Path, schema: &SchemaRef) -> Result<Arc<dyn SinkConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked(base, schema)?))
    }
}

#[async_trait]
impl SinkConnector for FileSinkSpec {
    async fn probe(&self) -> Result<String> {
        writable(Path::new(&self.config.folder))
    }

    fn preview(&self, batch: &RecordBatch) -> Result<Vec<Preview>> {
        let to = format!("a file in {}", self.config.folder);
        // Of Parquet, people read what its rows hold.
        let json = Body::json(self.config.image);
        preview::each(batch, self.body.as_ref().unwrap_or(&json), |_| Ok(to.clone()))
    }

    fn open(&self, context: SinkContext) -> Result<AnySink> {
        Ok(AnySink::Staged(Box::new(FileSink::new(self, context)?)))
    }
}
