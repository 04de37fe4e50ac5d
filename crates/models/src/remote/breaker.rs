//! A circuit breaker (M. Nygard, "Release It!"): an endpoint that fails again and again is left alone for a while.
//!
//! ```text
//!            `failures` in a row              `open_for` has passed
//!   closed ──────────────────────▶ open ──────────────────────────────▶ half-open: one request tries
//!     ▲                              ▲                                   │                │
//!     └──────────────────────────────┼────── the endpoint answers ───────┘                │
//!                                    └────────────────── it fails ────────────────────────┘
//! ```
//!
//! A failure is no connection, no answer in time, or a 5xx. A request that is throttled or refused was answered.

use std::time::Duration;

use millstream_core::HumanDuration;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// When an endpoint is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerConfig {
    /// So many requests must fail one after another. `0`: never.
    #[serde(default = "default_failures")]
    pub failures: u32,
    /// How long it is left alone before one request tries again.
    #[serde(default = "default_open_for")]
    pub open_for: HumanDuration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failures: default_failures(), open_for: default_open_for() }
    }
}

fn default_failures() -> u32 {
    5
}

fn default_open_for() -> HumanDuration {
    HumanDuration(Duration::from_secs(10))
}

/// What a breaker does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Lets it through.
    Closed,
    /// Refuses it.
    Open,
    /// Waits for the answer to the one that it let through, and refuses the others.
    HalfOpen,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Answered,
    /// Answered with "not now": the endpoint lives, but this is no proof that it is well.
    Throttled,
    Failed,
}

pub(crate) struct Breaker {
    config: BreakerConfig,
    state: Mutex<State>,
}

struct State {
    now: Now,
    /// Failures since the last answer.
    failures: u32,
    last_failure: String,
    /// How often it has opened.
    opened: u64,
}

enum Now {
    Closed,
    Open { until: Instant },
    HalfOpen,
}

/// Leave to send one request. Dropped without a report, the request counts for nothing.
pub(crate) struct Leave<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_reported: bool,
}

/// Why there is no leave.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) last_failure: String,
}

impl Breaker {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        let state = State { now: Now::Closed, failures: 0, last_failure: String::new(), opened: 0 };
        Self { config, state: Mutex::new(state) }
    }

    /// Leave to send a request, where the breaker gives it.
    pub(crate) fn ask(&self) -> Result<Leave<'_>, Refused> {
        let mut state = self.state.lock();
        let wait = match state.now {
            Now::Closed => return Ok(Leave { breaker: self, is_probe: false, is_reported: false }),
            Now::Open { until } => until.saturating_duration_since(Instant::now()),
            Now::HalfOpen => Duration::ZERO,
        };
        if matches!(state.now, Now::Open { .. }) && wait.is_zero() {
            state.now = Now::HalfOpen;
            return Ok(Leave { breaker: self, is_probe: true, is_reported: false });
        }
        Err(Refused { last_failure: state.last_failure.clone() })
    }

    /// True where a request would be refused now.
    pub(crate) fn refuses(&self) -> bool {
        match self.state.lock().now {
            Now::Closed => false,
            Now::Open { until } => until > Instant::now(),
            Now::HalfOpen => true,
        }
    }

    /// Until a request may try again; zero where one may now, or does.
    pub(crate) fn wait(&self) -> Duration {
        match self.state.lock().now {
            Now::Open { until } => until.saturating_duration_since(Instant::now()),
            Now::Closed | Now::HalfOpen => Duration::ZERO,
        }
    }

    /// Its state, and how often it has opened.
    pub(crate) fn state(&self) -> (BreakerState, u64) {
        let state = self.state.lock();
        let now = match state.now {
            Now::Closed => BreakerState::Closed,
            Now::Open { .. } => BreakerState::Open,
            Now::HalfOpen => BreakerState::HalfOpen,
        };
        (now, state.opened)
    }
}

impl Leave<'_> {
    /// Says what became of the request; `why` is the message of a failure.
    pub(crate) fn report(mut self, fate: Fate, why: &str) {
        self.is_reported = true;
        let mut state = self.breaker.state.lock();
        match fate {
            Fate::Answered => {
                state.failures = 0;
                state.now = Now::Closed;
            }
            Fate::Throttled if self.is_probe => state.now = Now::Closed,
            Fate::Throttled => {}
            Fate::Failed => {
                state.failures = state.failures.saturating_add(1);
                state.last_failure = why.into();
                let is_enough = self.breaker.config.failures > 0 && state.failures >= self.breaker.config.failures;
                // A request that was sent before it opened does not open it a second time.
                if self.is_probe || (is_enough && matches!(state.now, Now::Closed)) {
                    state.now = Now::Open { until: Instant::now() + self.breaker.config.open_for.0 };
                    state.opened += 1;
                }
            }
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_reported {
            // Nobody will ever say how it went: the next request tries.
            self.breaker.state.lock().now = Now::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(BreakerConfig { failures, open_for: HumanDuration(Duration::from_secs(10)) })
    }

    fn fail(breaker: &Breaker) {
        breaker.ask().ok().unwrap().report(Fate::Failed, "no route");
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_lets_one_request_try() {
        let breaker = breaker(3);
        fail(&breaker);
        fail(&breaker);
        breaker.ask().ok().unwrap().report(Fate::Answered, "");
        fail(&breaker);
        fail(&breaker);
        assert_eq!(breaker.state(), (BreakerState::Closed, 0), "an answer in between starts the count anew");
        fail(&breaker);
        assert_eq!(breaker.state(), (BreakerState::Open, 1));
        let refused = breaker.ask().err().unwrap();
        assert_eq!(refused.last_failure, "no route");
        assert_eq!(breaker.wait(), Duration::from_secs(10));

        tokio::time::advance(Duration::from_secs(10)).await;
        let probe = breaker.ask().ok().unwrap();
        assert!(breaker.ask().is_err() && breaker.refuses(), "one at a time");
        probe.report(Fate::Failed, "still no route");
        assert_eq!(breaker.state(), (BreakerState::Open, 2));

        tokio::time::advance(Duration::from_secs(10)).await;
        breaker.ask().ok().unwrap().report(Fate::Answered, "");
        assert_eq!(breaker.state().0, BreakerState::Closed);
        fail(&breaker);
        assert_eq!(breaker.state().0, BreakerState::Closed, "the count starts anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_leaves_its_place_to_the_next() {
        let breaker = breaker(1);
        fail(&breaker);
        tokio::time::advance(Duration::from_secs(10)).await;
        drop(breaker.ask().ok().unwrap());
        assert!(breaker.ask().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_were_under_way_do_not_open_it_again() {
        let breaker = breaker(1);
        let (first, late) = (breaker.ask().ok().unwrap(), breaker.ask().ok().unwrap());
        first.report(Fate::Failed, "x");
        tokio::time::advance(Duration::from_secs(9)).await;
        late.report(Fate::Failed, "x");
        assert_eq!(breaker.state(), (BreakerState::Open, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(breaker.ask().is_ok(), "the time counts from when it opened");
    }

    #[tokio::test(start_paused = true)]
    async fn throttling_neither_opens_nor_heals_but_ends_a_probe_well() {
        let breaker = breaker(2);
        fail(&breaker);
        for _ in 0..5 {
            breaker.ask().ok().unwrap().report(Fate::Throttled, "");
        }
        assert_eq!(breaker.state().0, BreakerState::Closed);
        fail(&breaker);
        assert_eq!(breaker.state().0, BreakerState::Open);
        tokio::time::advance(Duration::from_secs(10)).await;
        breaker.ask().ok().unwrap().report(Fate::Throttled, "");
        assert_eq!(breaker.state().0, BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn zero_failures_switch_it_off() {
        let breaker = breaker(0);
        for _ in 0..100 {
            fail(&breaker);
        }
        assert_eq!(breaker.state(), (BreakerState::Closed, 0));
    }
}
