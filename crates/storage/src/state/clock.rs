//! The state engine's clock.
//!
//! The engine orders commits by time and refuses to go back; it judges by time what may be deleted. The clock on the
//! wall goes back when a person, NTP or another machine says so. So this one begins with the wall's time, goes on at
//! the speed of the machine's own clock whatever is done to the wall's, and is moved ahead of every time that is found
//! in a stored object. A folder that was once written a year ahead keeps a clock a year ahead: it is nobody's calendar.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use millstream_core::Clock;
use slatedb_common::clock::{SystemClock, SystemClockTicker};

/// A clock that never goes back, in this process or over restarts; see the module.
pub(super) struct StateClock {
    wall_at_start_ms: i64,
    start: Instant,
    /// What is added to the wall's time at the start and the time that has passed, in milliseconds.
    ahead_ms: AtomicI64,
}

impl StateClock {
    pub(super) fn new() -> Arc<Self> {
        Self::starting_at(millstream_core::SystemClock.now_us() / 1000)
    }

    pub(super) fn starting_at(wall_at_start_ms: i64) -> Arc<Self> {
        Arc::new(Self { wall_at_start_ms, start: Instant::now(), ahead_ms: AtomicI64::new(0) })
    }

    /// Milliseconds since 1970, more or less.
    pub(super) fn now_ms(&self) -> i64 {
        self.unmoved_ms().saturating_add(self.ahead_ms.load(Ordering::SeqCst))
    }

    /// From now on it is at least `tick_ms`.
    pub(super) fn observe(&self, tick_ms: i64) {
        self.ahead_ms.fetch_max(tick_ms.saturating_sub(self.unmoved_ms()), Ordering::SeqCst);
    }

    fn unmoved_ms(&self) -> i64 {
        let passed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.wall_at_start_ms.saturating_add(passed)
    }
}

impl fmt::Debug for StateClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateClock").field("now_ms", &self.now_ms()).finish()
    }
}

impl SystemClock for StateClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.now_ms()).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_behind_what_it_has_seen_and_goes_on_from_there() {
        let clock = StateClock::starting_at(1_000_000);
        assert!((1_000_000..1_060_000).contains(&clock.now_ms()));
        clock.observe(5_000_000);
        assert!((5_000_000..5_060_000).contains(&clock.now_ms()));
        clock.observe(2_000_000);
        assert!((5_000_000..5_060_000).contains(&clock.now_ms()));
        let before = clock.now_ms();
        clock.observe(i64::MAX);
        assert!(clock.now_ms() > before && clock.now() <= DateTime::<Utc>::MAX_UTC);
    }
}
