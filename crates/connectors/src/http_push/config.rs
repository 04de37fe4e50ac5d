//! What can be written under a source of `type: http`.

use std::time::Duration;

use millstream_core::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

impl HttpPushConfig {
    /// Finds settings that can't work; see [`crate::source::SourceConfig::check`].
    pub(crate) fn check(&self, problems: &mut crate::source::Problems) {
        if self.max_body.0 == 0 {
            problems.add("max_body", "is zero: nothing could be received");
        }
    }
}
