//! Polls RSS, Atom and JSON feeds.

pub mod config;
mod fetch;
mod seen;
pub mod source;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{Metadata, Result, Source, StreamSchema};

use crate::check::Problem;
use crate::connector::{Carries, Intake, Pull, SourceConnector, SourceSettings, Unfit};
use crate::context::SourceContext;
use crate::format::{self, DecodeConfig};
use crate::http_client::Access;
use crate::probe::{Depth, ask, reach};

pub use config::{FeedSourceConfig, FeedSpec};
pub use source::FeedSource;

impl SourceSettings for FeedSourceConfig {
    fn kind(&self) -> &'static str {
        "feed"
    }

    fn unfit(&self, decode: &DecodeConfig) -> Option<Unfit> {
        if format::envelope(decode).is_some() {
            let message = "the entries of a feed are no change events of a database".to_owned();
            return Some(Unfit { message, help: "leave `envelope` out".to_owned() });
        }
        matches!(decode, DecodeConfig::Csv(_) | DecodeConfig::Xml(_)).then(|| Unfit {
            message:
                "a source of `type: feed` reads the documents itself and hands over their entries, so there is no \
                      document left to decode"
                    .into(),
            help: "leave `decode` out: the fields are in docs/decoding.md, and `schema` may choose among them".into(),
        })
    }

    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
        match decode {
            DecodeConfig::Json(_) => format::feed::record_schema(declared),
            _ => format::effective_schema(decode, declared),
        }
    }

    fn carries(&self, _: Metadata) -> Carries {
        Carries::No
    }

    fn check(&self, _: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        Ok(Arc::new(self.checked()?))
    }
}

#[async_trait]
impl SourceConnector for FeedSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Pull(self)
    }

    async fn probe(&self, depth: Depth) -> Result<String> {
        for feed in &self.feeds {
            let found = match depth {
                Depth::Quick => reach(feed.url.as_str(), self.config.deny_private).await,
                Depth::Full => ask(&feed.url, self.headers.clone(), self.access()).await,
            };
            found.map_err(|e| if self.feeds.len() > 1 { e.context(feed.shown.clone()) } else { e })?;
        }
        Ok(match self.feeds.len() {
            1 => "the feed answers".into(),
            feeds => format!("{feeds} feeds answer"),
        })
    }
}

impl FeedSpec {
    fn access(&self) -> Access {
        Access { allow_hosts: self.config.allow_hosts.clone(), deny_private: self.config.deny_private }
    }
}

impl Pull for FeedSpec {
    fn is_bounded(&self) -> bool {
        false
    }

    fn open(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        Ok(Box::new(FeedSource::new(self, context)?))
    }
}
