//! The only way to ask for the time.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, Ordering};

/// Wall-clock time, in microseconds since 1970-01-01T00:00:00Z.
pub trait Clock: Debug + Send + Sync {
    /// Now, in microseconds since the epoch.
    fn now_us(&self) -> i64;

    /// Now, in milliseconds since the epoch.
    fn now_ms(&self) -> i64 {
        self.now_us() / 1_000
    }
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // The one place that may.
    fn now_us(&self) -> i64 {
        chrono::Utc::now().timestamp_micros()
    }
}

/// A clock that stands still until it is set.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that shows `now_us`.
    pub fn new(now_us: i64) -> Self {
        Self(AtomicI64::new(now_us))
    }

    /// Moves the clock forward by `us` microseconds.
    pub fn advance_us(&self, us: i64) {
        self.0.fetch_add(us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}
