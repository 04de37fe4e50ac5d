//! What is measured from outside while an attack goes on: how soon `/healthz` answers, and how much memory is taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Server, http};

/// Asks `/healthz` every 20 ms until it is stopped.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Latencies>,
}

/// How long the answers took; all of them were 200.
pub struct Latencies(Vec<Duration>);

impl Probe {
    /// Begins to ask the server at `url`.
    pub fn start(url: &str) -> Self {
        let (stop, url) = (Arc::new(AtomicBool::new(false)), format!("{url}/healthz"));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut latencies = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let answer = http::try_send(reqwest::Method::GET, &url, &[], Vec::new());
                assert_eq!(answer.expect("the server is gone").status, 200);
                latencies.push(begun.elapsed());
                std::thread::sleep(Duration::from_millis(20));
            }
            Latencies(latencies)
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn stop(self) -> Latencies {
        self.stop.store(true, Ordering::Relaxed);
        let mut latencies = self.thread.join().expect("/healthz was not answered");
        latencies.0.sort_unstable();
        latencies
    }
}

impl Latencies {
    /// Median, 99th percentile and maximum in milliseconds.
    pub fn figures(&self) -> Value {
        let at = |share: f64| {
            let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
            self.0.get(index).map(|time| (time.as_secs_f64() * 10_000.0).round() / 10.0)
        };
        json!({ "asked": self.0.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0) })
    }
}

/// The most memory that the process has held so far, in MiB; none where the system does not say.
pub fn peak_mib(server: &Server) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1024)
}
