//! What a model's queue counts, for `/metrics`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::remote::gate::{EndpointStats, Gate};

/// Upper bounds of the buckets for texts in a batch.
const BATCH_SIZE_BOUNDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0];
/// Upper bounds of the buckets for seconds per batch.
const SECONDS_BOUNDS: &[f64] =
    &[0.000_01, 0.000_1, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What a model has done since it was loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelStats {
    /// Texts per batch (`model_batch_size`).
    pub batch_size: Histogram,
    /// Seconds per batch, in the model or at the endpoint (`model_inference_seconds`).
    pub inference_seconds: Histogram,
    /// Texts that were answered with a failure, and those of batches that failed as a whole.
    pub failed: u64,
    /// Texts that wait now.
    pub queue_depth: usize,
    /// Of an endpoint: its circuit breaker, and the requests to it.
    pub endpoint: Option<EndpointStats>,
    /// How often the model hung and a thread was given up (`model_stalls_total`).
    pub stalls: u64,
    /// Threads that were given up and have not come back.
    pub threads_given_up: usize,
    /// Why the model answers nothing any more; none where it does.
    pub out_of_order: Option<String>,
}

/// Counts by size, as Prometheus wants them.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The upper bound of each bucket, ascending, inclusive; beyond the last there is one more bucket.
    pub bounds: &'static [f64],
    /// Observations in each bucket (not cumulative); one longer than `bounds`.
    pub counts: Vec<u64>,
    /// The sum of all observations.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Collects; the lock is held for a few additions per batch.
#[derive(Default)]
pub(super) struct Recorder {
    /// Shared with the models that this one replaces: counts go on.
    recorded: Mutex<Arc<Mutex<Recorded>>>,
    /// What stands before an endpoint, and counts for itself.
    gate: OnceLock<Arc<Gate>>,
}

struct Recorded {
    batch_size: Histogram,
    inference_seconds: Histogram,
    failed: u64,
}

impl Default for Recorded {
    fn default() -> Self {
        Self {
            batch_size: Histogram::new(BATCH_SIZE_BOUNDS),
            inference_seconds: Histogram::new(SECONDS_BOUNDS),
            failed: 0,
        }
    }
}

impl Recorder {
    /// The figures of an endpoint are these from now on.
    pub(super) fn watch(&self, gate: Arc<Gate>) {
        // Set once, by the only one who starts the endpoint's worker.
        let _ = self.gate.set(gate);
    }

    /// How long the endpoint is still to be left alone.
    pub(super) fn wait(&self) -> Duration {
        self.gate.get().map_or(Duration::ZERO, |gate| gate.wait())
    }

    pub(super) fn batch(&self, texts: usize, failed: usize, took: Duration) {
        let shared = self.recorded.lock().clone();
        let mut recorded = shared.lock();
        recorded.batch_size.observe(texts as f64);
        recorded.inference_seconds.observe(took.as_secs_f64());
        recorded.failed += failed as u64;
    }

    /// Forgets what was counted: that of a warm-up.
    pub(super) fn reset(&self) {
        *self.recorded.lock() = Arc::default();
    }

    /// Goes on where the recorder of the model that is replaced is.
    pub(super) fn go_on_from(&self, replaced: &Self) {
        let shared = replaced.recorded.lock().clone();
        *self.recorded.lock() = shared;
    }

    pub(super) fn snapshot(&self, queue_depth: usize) -> ModelStats {
        let shared = self.recorded.lock().clone();
        let recorded = shared.lock();
        ModelStats {
            batch_size: recorded.batch_size.clone(),
            inference_seconds: recorded.inference_seconds.clone(),
            failed: recorded.failed,
            queue_depth,
            endpoint: self.gate.get().map(|gate| gate.stats()),
            stalls: 0,
            threads_given_up: 0,
            out_of_order: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_inclusive_and_the_last_bucket_is_open() {
        let mut histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 9.0] {
            histogram.observe(value);
        }
        assert_eq!((histogram.counts.as_slice(), histogram.count(), histogram.sum), (&[2, 2, 1][..], 5, 14.0));
    }
}
