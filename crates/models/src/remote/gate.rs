//! What stands between a batch and its endpoint: the circuit breaker, `Retry-After`, and the rate.
//!
//! Whoever waits here, waits on the record's own time: a caller that gives up leaves the queue, and since a worker
//! takes its turn *before* it takes a batch, no request is made for callers that have gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerConfig, BreakerState, Leave, Refused};
use super::rate::{Pacer, Rate};

/// How an endpoint fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct EndpointStats {
    /// The circuit breaker's state.
    pub breaker: BreakerState,
    /// How often it has opened.
    pub breaker_opened: u64,
    /// Requests that were sent.
    pub requests: u64,
    /// Those of them that were answered with "not now": 429, or with `Retry-After`.
    pub throttled: u64,
}

pub(crate) struct Gate {
    breaker: Breaker,
    pacer: Option<Pacer>,
    /// The endpoint has asked not to be called before.
    not_before: Mutex<Option<Instant>>,
    requests: AtomicU64,
    throttled: AtomicU64,
}

/// A place in the rate, taken and waited for.
pub(crate) struct Turn(());

impl Gate {
    pub(crate) fn new(breaker: BreakerConfig, rate: Option<Rate>) -> Self {
        Self {
            breaker: Breaker::new(breaker),
            pacer: rate.map(Pacer::new),
            not_before: Mutex::new(None),
            requests: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
        }
    }

    /// Waits until a request may be sent; `had` is a turn that was not used. While the breaker is open there is no
    /// waiting: whoever comes now is to be refused at once.
    pub(crate) async fn turn(&self, had: Option<Turn>) -> Option<Turn> {
        if self.breaker.refuses() {
            return had;
        }
        if had.is_none()
            && let Some(pacer) = &self.pacer
        {
            self.quiet().await;
            tokio::time::sleep_until(pacer.reserve()).await;
        }
        self.quiet().await;
        Some(Turn(()))
    }

    /// Leave to send one request now. `turn` is the one that was waited for, if any.
    pub(crate) async fn enter(&self, turn: Option<Turn>) -> Result<Leave<'_>, Refused> {
        // Again even where the turn is there: since then, another request may have been told to wait.
        self.turn(turn).await;
        let leave = self.breaker.ask()?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        Ok(leave)
    }

    /// The endpoint does not want to be called for so long.
    pub(crate) fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut not_before = self.not_before.lock();
        if not_before.is_none_or(|at| at < until) {
            *not_before = Some(until);
        }
    }

    /// How long it is still to be left alone: by its own word, or by the breaker.
    pub(crate) fn wait(&self) -> Duration {
        let not_before = *self.not_before.lock();
        let quiet = not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        quiet.max(self.breaker.wait())
    }

    /// The endpoint said "not now".
    pub(crate) fn count_throttled(&self) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        let (breaker, breaker_opened) = self.breaker.state();
        EndpointStats {
            breaker,
            breaker_opened,
            requests: self.requests.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }

    /// Waits while the endpoint wants to be left alone.
    async fn quiet(&self) {
        loop {
            // Its own statement: the lock must not be held while this waits.
            let until = *self.not_before.lock();
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::HumanDuration;

    use super::super::breaker::Fate;
    use super::*;

    fn gate(rate: Option<&str>) -> Gate {
        let breaker = BreakerConfig { failures: 1, open_for: HumanDuration(Duration::from_secs(10)) };
        Gate::new(breaker, rate.map(|rate| Rate::parse(rate).unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_goes_out_before_the_endpoint_wants_it() {
        let gate = gate(None);
        let start = Instant::now();
        let turn = gate.turn(None).await;
        gate.pause(Duration::from_secs(7));
        gate.pause(Duration::from_secs(3));
        assert!(gate.enter(turn).await.is_ok());
        assert_eq!(start.elapsed().as_secs(), 7, "the longer of two waits counts, even for one whose turn it was");
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_waits_for_its_turn_once() {
        let gate = gate(Some("1/s"));
        let start = Instant::now();
        for second in 0..3 {
            let turn = gate.turn(None).await;
            gate.enter(turn).await.ok().unwrap().report(Fate::Answered, "");
            assert_eq!(start.elapsed().as_secs(), second);
        }
        gate.enter(None).await.ok().unwrap().report(Fate::Answered, "");
        assert_eq!((start.elapsed().as_secs(), gate.stats().requests), (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_refuses_at_once_whatever_else_there_is_to_wait_for() {
        let gate = gate(Some("1/h"));
        gate.enter(None).await.ok().unwrap().report(Fate::Failed, "down");
        gate.pause(Duration::from_secs(3600));
        let start = Instant::now();
        let turn = gate.turn(None).await;
        assert_eq!(gate.enter(turn).await.err().unwrap().last_failure, "down");
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!((gate.stats().breaker, gate.stats().requests), (BreakerState::Open, 1));
    }
}
