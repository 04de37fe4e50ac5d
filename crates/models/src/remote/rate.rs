//! How often an endpoint may be asked: `50/s`, `600/m`, `10000/h`.

use std::fmt;
use std::time::Duration;

use parking_lot::Mutex;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

/// A number of requests in a second, a minute or an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    unit: char,
}

impl Rate {
    /// Reads a rate; see the type.
    ///
    /// # Errors
    /// Says what is expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no rate: write requests and a unit, such as 50/s, 600/m or 10000/h");
        let (requests, unit) = text.split_once('/').ok_or_else(wrong)?;
        let requests = requests.trim().parse().ok().filter(|&requests| requests > 0).ok_or_else(wrong)?;
        let unit = match unit.trim() {
            "s" => 's',
            "m" => 'm',
            "h" => 'h',
            _ => return Err(wrong()),
        };
        Ok(Self { requests, unit })
    }

    /// The time from one request to the next.
    fn interval(self) -> Duration {
        let seconds = match self.unit {
            's' => 1,
            'm' => 60,
            _ => 3600,
        };
        Duration::from_secs(seconds) / self.requests
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.requests, self.unit)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": r"^\s*[0-9]*[1-9][0-9]*\s*/\s*[smh]\s*$", "description": "requests and a unit: 50/s, 600/m, 10000/h" })
    }
}

/// Spaces requests evenly, so that no second has more than its share; a pause is not made up for by a burst.
pub(crate) struct Pacer {
    interval: Duration,
    /// When the next request may go.
    next: Mutex<Option<Instant>>,
}

impl Pacer {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { interval: rate.interval(), next: Mutex::new(None) }
    }

    /// Takes the next free moment, and says when it is. A caller that gives up does not give it back.
    pub(crate) fn reserve(&self) -> Instant {
        let now = Instant::now();
        let mut next = self.next.lock();
        let mine = next.map_or(now, |next| next.max(now));
        *next = Some(mine + self.interval);
        mine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_and_print() {
        for (text, interval_us) in [("50/s", 20_000), (" 600 / m", 100_000), ("3600/h", 1_000_000)] {
            assert_eq!(Rate::parse(text).unwrap().interval(), Duration::from_micros(interval_us), "{text}");
        }
        assert_eq!(Rate::parse("50/s").unwrap().to_string(), "50/s");
        for wrong in ["", "50", "0/s", "-1/s", "1.5/s", "50/d", "50 per second", "99999999999/s"] {
            assert!(Rate::parse(wrong).unwrap_err().contains("50/s"), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_evenly_and_a_pause_is_not_made_up_for() {
        let pacer = Pacer::new(Rate::parse("10/s").unwrap());
        let start = Instant::now();
        let at = || (pacer.reserve() - start).as_millis();
        assert_eq!([at(), at(), at()], [0, 100, 200]);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!([at(), at()], [60_000, 60_100]);
    }
}
