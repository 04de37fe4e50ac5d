//! What `decode:` says of an envelope.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who wrote the change events, and so what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Envelope {
    /// Debezium's connectors, with or without the `schema` that Kafka Connect puts beside the `payload`.
    Debezium,
    /// Maxwell's daemon.
    Maxwell,
    /// Canal, with its flat messages.
    Canal,
    /// AWS DMS into Kinesis or Kafka.
    Dms,
}

impl Envelope {
    /// The name in the pipeline file.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Debezium => "debezium",
            Self::Maxwell => "maxwell",
            Self::Canal => "canal",
            Self::Dms => "dms",
        }
    }
}

/// What a number in a column of moments counts, from 1970-01-01T00:00:00Z on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Days: a date.
    Days,
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds; what is less than a microsecond is cut off.
    Nanos,
}

impl TimeUnit {
    /// So many of them, in microseconds; none where that is too many.
    pub(super) fn us(self, count: i64) -> Option<i64> {
        match self {
            Self::Days => count.checked_mul(86_400_000_000),
            Self::Seconds => count.checked_mul(1_000_000),
            Self::Millis => count.checked_mul(1_000),
            Self::Micros => Some(count),
            Self::Nanos => Some(count.div_euclid(1_000)),
        }
    }
}

impl fmt::Display for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeConfig {
    /// Who wrote it.
    pub envelope: Envelope,
    /// Whose events count: `orders`, `public.orders`, …; none is every table's.
    pub table: Option<String>,
    /// What numbers in these columns count, in the order in which they were written.
    pub units: Vec<(String, TimeUnit)>,
}
