//! Waits between attempts: exponential, with full jitter, so that many clients of one failed server do not come back
//! at the same instant. Formula: <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::HumanDuration;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::context::{SourceContext, SourceStatus, Status};

/// Waits between attempts: a random time up to `initial`, then up to twice as long after each failure, up to `max`.
/// They start over after a connection that was of use for at least `max`; one that a server accepts, uses once and
/// closes does not count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct BackoffConfig {
    /// The longest first wait.
    #[serde(default = "default_initial")]
    pub initial: HumanDuration,
    /// The longest wait of all.
    #[serde(default = "default_max")]
    pub max: HumanDuration,
}

/// How long a connection may be silent where the settings do not say.
pub(crate) fn default_stall_timeout() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

fn default_initial() -> HumanDuration {
    HumanDuration(Duration::from_millis(500))
}

fn default_max() -> HumanDuration {
    HumanDuration(Duration::from_secs(30))
}

impl Default for BackoffConfig {
    fn default() -> Self {
        Self { initial: default_initial(), max: default_max() }
    }
}

impl BackoffConfig {
    /// Finds settings that can't work.
    pub(crate) fn check(&self, problems: &mut crate::check::Problems) {
        problems.check_not_zero("backoff.initial", self.initial);
        if self.max < self.initial {
            problems.add("backoff.max", format!("is below `backoff.initial` ({})", self.initial));
        }
    }
}

/// Counts failures in a row and says how long to wait. The randomness is seeded by the caller, so that a test can
/// repeat it.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
    random: StdRng,
}

impl Backoff {
    /// No failure yet.
    pub fn new(config: &BackoffConfig, seed: u64) -> Self {
        Self { initial: config.initial.0, max: config.max.0, failures: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// Counts a failure and says how long to wait before the next attempt: uniformly between zero and
    /// min(`max`, `initial` · 2^(failures − 1)).
    pub fn next_wait(&mut self) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(self.random.random::<f64>())
    }

    /// Something worked: the next failure waits for `initial` again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The longest that the next wait can be.
    fn ceiling(&self) -> Duration {
        self.initial.saturating_mul(1_u32.checked_shl(self.failures.min(31)).unwrap_or(u32::MAX)).min(self.max)
    }
}

/// Keeps a connection's failures: says so, and knows when to try again.
pub(crate) struct Reconnect {
    name: Arc<str>,
    status: Status,
    backoff: Backoff,
    not_before: Option<Instant>,
    /// A connection that lasted this long, and was of use, makes up for the failures before it.
    healthy_after: Duration,
    connected_at: Option<Instant>,
    used: bool,
}

impl Reconnect {
    /// A connection that may be made at once.
    pub(crate) fn new(config: &BackoffConfig, context: &SourceContext) -> Self {
        Self {
            name: context.name.clone(),
            status: context.status.clone(),
            backoff: Backoff::new(config, context.seed()),
            not_before: None,
            healthy_after: config.max.0,
            connected_at: None,
            used: false,
        }
    }

    /// The connection failed or ended because of `why`; the next attempt waits, for `at_least` or longer.
    pub(crate) fn failed(&mut self, why: &str, at_least: Duration) {
        let lasted = self.connected_at.take().map_or(Duration::ZERO, |at| at.elapsed());
        if std::mem::take(&mut self.used) && lasted >= self.healthy_after {
            self.backoff.reset();
        }
        let wait = self.backoff.next_wait().max(at_least);
        tracing::debug!(source = %self.name, attempt = self.backoff.failures(), ?wait, "not connected: {why}");
        (self.status)(SourceStatus::Waiting { part: "", why });
        self.not_before = Some(Instant::now() + wait);
    }

    /// Waits until an attempt may be made. Cancel-safe.
    pub(crate) async fn wait(&mut self) {
        if let Some(not_before) = self.not_before {
            tokio::time::sleep_until(not_before).await;
            self.not_before = None;
        }
    }

    /// The connection is made.
    pub(crate) fn connected(&mut self) {
        self.connected_at = Some(Instant::now());
        (self.status)(SourceStatus::Works { part: "" });
    }

    /// The connection is of use: a record has come, or a sign of life. A connection alone does not count, since a
    /// server may accept and close again and again, nor does one record.
    pub(crate) fn worked(&mut self) {
        self.used = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_maximum_and_start_over_after_a_success() {
        let config = BackoffConfig::default();
        let mut backoff = Backoff::new(&config, 7);
        for failure in 0..100_u32 {
            let ceiling = Duration::from_millis(500).saturating_mul(1 << failure.min(20)).min(Duration::from_secs(30));
            assert_eq!(backoff.ceiling(), ceiling, "after {failure} failures");
            assert!(backoff.next_wait() <= ceiling);
        }
        assert_eq!(backoff.failures(), 100);
        backoff.reset();
        assert_eq!(backoff.ceiling(), Duration::from_millis(500));
    }

    /// With tokio's clock standing still: it moves only while everything waits.
    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_was_of_use_for_a_while_lets_the_waits_start_over() {
        let context = SourceContext::new("ticks", crate::format::Framing::Lines);
        let mut reconnect = Reconnect::new(&BackoffConfig::default(), &context);
        for failures in 1..=5 {
            reconnect.connected();
            reconnect.worked();
            tokio::time::advance(Duration::from_secs(29)).await;
            reconnect.failed("closed with 1013", Duration::ZERO);
            assert_eq!(reconnect.backoff.failures(), failures);
        }
        // Long, but silent.
        reconnect.connected();
        tokio::time::advance(Duration::from_secs(100)).await;
        reconnect.failed("stalled", Duration::ZERO);
        assert_eq!(reconnect.backoff.failures(), 6);
        reconnect.connected();
        reconnect.worked();
        tokio::time::advance(Duration::from_secs(30)).await;
        reconnect.failed("closed", Duration::ZERO);
        assert_eq!(reconnect.backoff.failures(), 1);
    }

    #[test]
    fn two_clients_do_not_wait_alike_and_one_seed_repeats() {
        let waits = |seed| {
            let mut backoff = Backoff::new(&BackoffConfig::default(), seed);
            (0..8).map(|_| backoff.next_wait()).collect::<Vec<_>>()
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }
}
