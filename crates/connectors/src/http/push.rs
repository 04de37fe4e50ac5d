//! Records pushed over HTTP: `POST /streams/{name}/records`. The server itself belongs to the main binary, which owns
//! the listener; here are the settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::{ByteSize, HumanDuration, Metadata, Result, StreamSchema};
use reqwest::header::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Problem, Problems};
use crate::connector::{Carries, Intake, PushSpec, SourceConnector, SourceSettings, Unfit};
use crate::format::{self, DecodeConfig};
use crate::probe::Depth;

/// Takes records from `POST /streams/{name}/records`: one record, a JSON array, or several records one after another.
/// The body may be gzip (`Content-Encoding: gzip`). The answer is sent only when the records are durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct HttpPushConfig {
    /// The largest request body, unpacked where it is compressed; a larger one is refused with status 413.
    #[serde(default = "default_max_body")]
    pub max_body: ByteSize,
    /// How long an `Idempotency-Key` is remembered: a request repeated within this time is answered, but not stored
    /// again. At most 32 MiB of keys and answers are remembered, about 130,000; the oldest go first.
    #[serde(default = "default_idempotency_window")]
    pub idempotency_window: HumanDuration,
    /// Headers of a request that are kept with each of its records, for the column `_headers` (`metadata: [headers]`):
    /// `[X-Request-Id]`. Several of one name are joined by commas. Those of passwords (`Authorization`, `Cookie`) can't
    /// be kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
}

/// Headers that hold what lets others in. They are never kept.
const SECRET_HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

fn default_max_body() -> ByteSize {
    ByteSize(8 << 20)
}

fn default_idempotency_window() -> HumanDuration {
    HumanDuration(Duration::from_secs(24 * 3600))
}

impl Default for HttpPushConfig {
    fn default() -> Self {
        Self { max_body: default_max_body(), idempotency_window: default_idempotency_window(), headers: Vec::new() }
    }
}

impl SourceSettings for HttpPushConfig {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn unfit(&self, _: &DecodeConfig) -> Option<Unfit> {
        None
    }

    fn fields(&self, decode: &DecodeConfig, declared: Option<&StreamSchema>) -> Result<StreamSchema, String> {
        format::effective_schema(decode, declared)
    }

    fn carries(&self, metadata: Metadata) -> Carries {
        match metadata {
            Metadata::Headers if self.headers.is_empty() => {
                Carries::With("name those of a request that are to be kept: `headers: [X-Request-Id]`")
            }
            Metadata::Headers => Carries::Yes,
            _ => Carries::No,
        }
    }

    fn check(&self, _: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.max_body.0 == 0 {
            problems.add("max_body", "is zero: nothing could be received");
        }
        for (i, name) in self.headers.iter().enumerate() {
            let field = format!("headers[{i}]");
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                problems.add(field, format!("`{name}` is no valid header name"));
            } else if SECRET_HEADERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
                problems.add(field, format!("names `{name}`, which lets others in: it is never kept"));
            } else if self.headers[..i].iter().any(|other| name.eq_ignore_ascii_case(other)) {
                problems.add(field, format!("names `{name}` again"));
            }
        }
        problems.finish(|| {
            let spec = PushSpec {
                body_bytes_max: usize::try_from(self.max_body.0).unwrap_or(usize::MAX),
                key_window_us: i64::try_from(self.idempotency_window.0.as_micros()).unwrap_or(i64::MAX),
                headers: self.headers.iter().map(|name| name.as_str().into()).collect(),
            };
            Some(Arc::new(HttpPushSpec(spec)) as Arc<dyn SourceConnector>)
        })
    }
}

/// A source of pushed records whose settings were checked.
#[derive(Debug)]
pub struct HttpPushSpec(PushSpec);

#[async_trait]
impl SourceConnector for HttpPushSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Push(&self.0)
    }

    async fn probe(&self, _: Depth) -> Result<String> {
        Ok("records are posted to this server".into())
    }
}
