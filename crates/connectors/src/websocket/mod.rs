//! Reads the messages of a WebSocket.

pub mod config;
mod connect;
mod frames;
pub mod source;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Metadata, Result, Source, StreamSchema};

use crate::check::Problem;
use crate::connector::{Carries, Intake, Pull, SourceConnector, SourceSettings, Unfit};
use crate::context::SourceContext;
use crate::format::{self, DecodeConfig};
use crate::probe::{Depth, reach};

pub use config::{WebsocketSourceConfig, WebsocketSpec};
pub use source::WebsocketSource;

impl SourceSettings for WebsocketSourceConfig {
    fn kind(&self) -> &'static str {
        "websocket"
    }

    fn unfit(&self, decode: &DecodeConfig) -> Option<Unfit> {
        Unfit::without_header(self.kind(), decode)
    }

    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
        format::effective_schema(decode, declared)
    }

    fn carries(&self, _: Metadata) -> Carries {
        Carries::No
    }

    fn check(&self, _: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked()?))
    }
}

#[async_trait]
impl SourceConnector for WebsocketSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Pull(self)
    }

    async fn probe(&self, _: Depth) -> Result<String> {
        // A handshake would be a subscriber more, or take the place of the one that is there.
        reach(self.config.url.expose(), self.config.deny_private).await
    }
}

impl Pull for WebsocketSpec {
    fn is_bounded(&self) -> bool {
        false
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(WebsocketSource::new(self, context)))
    }
}
