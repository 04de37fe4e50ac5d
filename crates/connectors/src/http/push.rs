//! Records pushed over HTTP: `POST /streams/{name}/records`. The server itself belongs to the main binary, which owns
//! the listener; here are the settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millstream_core::{ByteSize, HumanDuration, Result, StreamSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{Problem, Problems};
use crate::connector::{Intake, PushLimits, SourceConnector, SourceSettings, Unfit};
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
}

fn default_max_body() -> ByteSize {
    ByteSize(8 << 20)
}

fn default_idempotency_window() -> HumanDuration {
    HumanDuration(Duration::from_secs(24 * 3600))
}

impl Default for HttpPushConfig {
    fn default() -> Self {
        Self { max_body: default_max_body(), idempotency_window: default_idempotency_window() }
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

    fn check(&self, _: &Path) -> Result<Arc<dyn SourceConnector>, Vec<Problem>> {
        let mut problems = Problems::default();
        if self.max_body.0 == 0 {
            problems.add("max_body", "is zero: nothing could be received");
        }
        problems.finish(|| {
            let limits = PushLimits {
                body_bytes_max: usize::try_from(self.max_body.0).unwrap_or(usize::MAX),
                key_window_us: i64::try_from(self.idempotency_window.0.as_micros()).unwrap_or(i64::MAX),
            };
            Some(Arc::new(HttpPushSpec(limits)) as Arc<dyn SourceConnector>)
        })
    }
}

/// A source of pushed records whose settings were checked.
#[derive(Debug)]
pub struct HttpPushSpec(PushLimits);

#[async_trait]
impl SourceConnector for HttpPushSpec {
    fn intake(&self) -> Intake<'_> {
        Intake::Push(&self.0)
    }

    async fn probe(&self, _: Depth) -> Result<String> {
        Ok("records are posted to this server".into())
    }
}
