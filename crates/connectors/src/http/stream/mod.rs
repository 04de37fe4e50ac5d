//! Reads an HTTP answer that does not end.

pub mod config;
mod documents;
mod events;
mod lines;
pub mod source;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Metadata, Result, Source, StreamSchema};
use reqwest::Method;

use crate::check::Problem;
use crate::connector::{Carries, Intake, Pull, SourceConnector, SourceSettings, Unfit};
use crate::context::SourceContext;
use crate::format::{self, DecodeConfig, TextEncoding};
use crate::http_client::Access;
use crate::probe::{Depth, ask, reach};

pub use config::{HttpStreamSourceConfig, HttpStreamSpec, StreamFormat};
pub use source::HttpStreamSource;

impl SourceSettings for HttpStreamSourceConfig {
    fn kind(&self) -> &'static str {
        "http_stream"
    }

    fn unfit(&self, decode: &DecodeConfig) -> Option<Unfit> {
        let is_utf16 = || format::encoding(decode).is_some_and(TextEncoding::is_utf16);
        Unfit::without_header(self.kind(), decode).or_else(|| {
            is_utf16().then(|| Unfit {
                message: "a source of `type: http_stream` cuts lines before it looks at characters, and in UTF-16 a \
                          line end is two bytes"
                    .into(),
                help: "leave `encoding` out, or name one in which a line end is one byte".into(),
            })
        })
    }

    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
        format::effective_schema(decode, declared)
    }

    fn carries(&self, metadata: Metadata) -> Carries {
        match metadata {
            Metadata::Key | Metadata::Event if self.format != StreamFormat::Sse => {
                Carries::With("server-sent events have it: set `format: sse`")
            }
            Metadata::Key | Metadata::Event => Carries::Yes,
            _ => Carries::No,
        }
    }

    fn check(&self, _: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked()?))
    }
}

#[async_trait]
impl SourceConnector for HttpStreamSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Pull(self)
    }

    async fn probe(&self, depth: Depth) -> Result<String> {
        match depth {
            Depth::Full if self.method == Method::GET => ask(&self.url, self.headers.clone(), self.access()).await,
            _ => reach(self.url.as_str(), self.config.deny_private).await,
        }
    }
}

impl HttpStreamSpec {
    fn access(&self) -> Access {
        Access { allow_hosts: self.config.allow_hosts.clone(), deny_private: self.config.deny_private }
    }
}

impl Pull for HttpStreamSpec {
    fn is_bounded(&self) -> bool {
        false
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(HttpStreamSource::new(self, context)?))
    }
}
