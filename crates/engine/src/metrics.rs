//! Counters and gauges, named as in Vector where it has the same thing, served as Prometheus text.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use millstream_core::{RowFailure, Stage};
use millstream_models::{BreakerState, EndpointStats, ModelStats};
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::health::{ComponentKind, State};
use crate::tally::{Fate, Tally};

/// Which component a figure is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Component {
    /// source, transform, table, stage or sink.
    component_kind: &'static str,
    /// Its name in the pipeline file.
    component_id: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failing {
    component_kind: &'static str,
    component_id: Arc<str>,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Letters {
    stage: &'static str,
    component_id: Arc<str>,
    error_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    component_kind: &'static str,
    component_id: Arc<str>,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    component_id: Arc<str>,
    partition: u32,
}

type Float = Gauge<f64, AtomicU64>;

/// What went through a component in this run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Records that it was given.
    pub received: u64,
    /// Records that it handed on; of a table: changes.
    pub sent: u64,
    /// Bytes that a source read.
    pub bytes: u64,
}

/// All figures of a process.
pub struct Metrics {
    registry: Registry,
    received: Family<Component, Counter>,
    sent: Family<Component, Counter>,
    received_bytes: Family<Component, Counter>,
    errors: Family<Failing, Counter>,
    discarded: Family<Component, Counter>,
    dead_letters: Family<Letters, Counter>,
    states: Family<InState, Gauge>,
    retries: Family<Component, Counter>,
    tally: Tally,
    committed: Family<Place, Gauge>,
    reader_lag: Family<Place, Gauge>,
    source_lag: Family<Component, Float>,
    watermark_lag: Family<Component, Float>,
    /// How far event time is, by stage and partition.
    passed: Mutex<BTreeMap<Arc<str>, BTreeMap<u32, i64>>>,
    latency: Family<Component, Histogram>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let latency: Family<Component, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 18)));
        let metrics = Self {
            received: Family::default(),
            sent: Family::default(),
            received_bytes: Family::default(),
            errors: Family::default(),
            discarded: Family::default(),
            dead_letters: Family::default(),
            states: Family::default(),
            retries: Family::default(),
            tally: Tally::default(),
            committed: Family::default(),
            reader_lag: Family::default(),
            source_lag: Family::default(),
            watermark_lag: Family::default(),
            passed: Mutex::default(),
            latency,
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("component_received_events", "Records a component was given", m.received.clone());
        registry.register("component_sent_events", "Records a component handed on", m.sent.clone());
        registry.register("component_received_bytes", "Bytes a source has read", m.received_bytes.clone());
        registry.register("component_errors", "Records that failed in a component", m.errors.clone());
        registry.register(
            "component_discarded_events",
            "Records dropped by on_error: skip, or removed by retention before they were read",
            m.discarded.clone(),
        );
        registry.register("dlq_records", "Records put into the dead letter queue", m.dead_letters.clone());
        registry.register("component_state", "1 for the state that a component is in", m.states.clone());
        registry.register(
            "component_retries",
            "Attempts of a component that failed and are made again",
            m.retries.clone(),
        );
        registry.register("committed_offset", "Next input offset of a stage or sink", m.committed.clone());
        registry.register("reader_lag_records", "Records a stage or sink has yet to read", m.reader_lag.clone());
        let seconds = || Unit::Seconds;
        registry.register_with_unit(
            "source_lag",
            "Age of the newest record read, by its event time",
            seconds(),
            m.source_lag.clone(),
        );
        registry.register_with_unit("watermark_lag", "Age of the watermark", seconds(), m.watermark_lag.clone());
        registry.register_with_unit(
            "end_to_end_latency",
            "From event time (else ingestion) of a batch's newest record to its delivery",
            seconds(),
            m.latency.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A component was given `records`.
    pub fn received(&self, kind: &'static str, id: &Arc<str>, records: usize) {
        self.received.get_or_create(&component(kind, id)).inc_by(records as u64);
    }

    /// A source has read `bytes`.
    pub fn received_bytes(&self, id: &Arc<str>, bytes: usize) {
        self.received_bytes.get_or_create(&component("source", id)).inc_by(bytes as u64);
    }

    /// A component handed `records` on.
    pub fn sent(&self, kind: &'static str, id: &Arc<str>, records: usize) {
        self.sent.get_or_create(&component(kind, id)).inc_by(records as u64);
    }

    /// Records failed in a component of `kind`, at `stage`.
    pub fn failed(&self, kind: &'static str, stage: Stage, id: &Arc<str>, failures: &[RowFailure], fate: Fate) {
        for failure in failures {
            let error_type = failure.failure.kind.as_str();
            let labels = Failing { component_kind: kind, component_id: id.clone(), error_type };
            self.errors.get_or_create(&labels).inc();
            if fate == Fate::DeadLetter {
                let labels = Letters { stage: stage.as_str(), component_id: id.clone(), error_type };
                self.dead_letters.get_or_create(&labels).inc();
            }
        }
        if fate == Fate::Skipped {
            self.discarded.get_or_create(&component(kind, id)).inc_by(failures.len() as u64);
        }
        self.tally.add(kind, id, failures, fate);
    }

    /// A component will never see `records`, which were removed before it read them.
    pub fn discarded(&self, kind: &'static str, id: &Arc<str>, records: u64) {
        self.discarded.get_or_create(&component(kind, id)).inc_by(records);
    }

    /// What failed in this run.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Records that a component was given and handed on, and the bytes that it read.
    pub fn throughput(&self, kind: &'static str, id: &Arc<str>) -> Throughput {
        let component = component(kind, id);
        Throughput {
            received: self.received.get_or_create(&component).get(),
            sent: self.sent.get_or_create(&component).get(),
            bytes: if kind == "source" { self.received_bytes.get_or_create(&component).get() } else { 0 },
        }
    }

    /// A component is in this state.
    pub fn state(&self, kind: ComponentKind, id: &Arc<str>, state: State) {
        for (known, text) in State::ALL {
            let labels = InState { component_kind: kind.as_str(), component_id: id.clone(), state: text };
            self.states.get_or_create(&labels).set(i64::from(known == state));
        }
    }

    /// An attempt failed, and another will be made.
    pub fn retried(&self, kind: ComponentKind, id: &Arc<str>) {
        self.retries.get_or_create(&component(kind.as_str(), id)).inc();
    }

    /// A stage or sink has committed up to `offset`.
    pub fn committed(&self, id: &Arc<str>, partition: u32, offset: u64) {
        self.committed.get_or_create(&Place { component_id: id.clone(), partition }).set(offset as i64);
    }

    /// A stage or sink has `records` before it.
    pub fn reader_lag(&self, id: &Arc<str>, partition: u32, records: u64) {
        self.reader_lag.get_or_create(&Place { component_id: id.clone(), partition }).set(records as i64);
    }

    /// Age of a source's newest record by its event time, in seconds.
    pub fn source_lag(&self, id: &Arc<str>, seconds: f64) {
        self.source_lag.get_or_create(&component("source", id)).set(seconds);
    }

    /// Event time has passed in a partition of a stage, microseconds since the epoch.
    pub fn time_passed(&self, stage: &Arc<str>, partition: u32, watermark_us: i64) {
        self.passed.lock().entry(stage.clone()).or_default().insert(partition, watermark_us);
    }

    /// Takes the figures that grow by themselves.
    pub fn take_figures(&self, now_us: i64) {
        let lowest = |partitions: &BTreeMap<u32, i64>| partitions.values().copied().min();
        let passed: Vec<_> =
            self.passed.lock().iter().filter_map(|(stage, of)| Some((stage.clone(), lowest(of)?))).collect();
        for (stage, watermark_us) in passed {
            self.watermark_lag("stage", &stage, now_us.saturating_sub(watermark_us) as f64 / 1e6);
        }
    }

    /// Age of the watermark of a source or stage, in seconds.
    pub fn watermark_lag(&self, kind: &'static str, id: &Arc<str>, seconds: f64) {
        self.watermark_lag.get_or_create(&component(kind, id)).set(seconds);
    }

    /// A sink delivered a batch this many seconds after its newest record happened.
    pub fn latency(&self, id: &Arc<str>, seconds: f64) {
        self.latency.get_or_create(&component("sink", id)).observe(seconds);
    }

    /// Everything, with the models' own figures, as OpenMetrics text.
    pub fn text(&self, models: &[(Arc<str>, ModelStats)]) -> String {
        self.text_with(models, |_| {})
    }

    /// The same with what `more` adds.
    pub fn text_with(&self, models: &[(Arc<str>, ModelStats)], more: impl FnOnce(&mut String)) -> String {
        let mut text = String::new();
        // Writing into a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text.truncate(text.trim_end().trim_end_matches("# EOF").len());
        histograms(&mut text, "model_batch_size", "Records per inference", models, |s| &s.batch_size);
        histograms(&mut text, "model_inference_seconds", "Time of an inference", models, |s| &s.inference_seconds);
        text.push_str("# HELP model_queue_depth Records that wait for a model.\n# TYPE model_queue_depth gauge\n");
        for (name, stats) in models {
            let _ = writeln!(text, "model_queue_depth{{component_id=\"{name}\"}} {}", stats.queue_depth);
        }
        health(&mut text, models);
        endpoints(&mut text, models);
        more(&mut text);
        text.push_str("# EOF\n");
        text
    }
}

/// One figure of several components: `# HELP`, `# TYPE`, and a line for each.
pub fn figure<'a>(
    text: &mut String,
    (name, kind, help): (&str, &str, &str),
    values: impl Iterator<Item = (&'a Arc<str>, u64)>,
) {
    let suffix = if kind == "counter" { "_total" } else { "" };
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    for (component, value) in values {
        let _ = writeln!(text, "{name}{suffix}{{component_id=\"{component}\"}} {value}");
    }
}

/// Whether models answer.
fn health(text: &mut String, models: &[(Arc<str>, ModelStats)]) {
    let mut write = |about, value: &dyn Fn(&ModelStats) -> u64| {
        figure(text, about, models.iter().map(|(name, stats)| (name, value(stats))));
    };
    write(("model_failures", "counter", "Records that a model failed on"), &|s| s.failed);
    write(("model_stalls", "counter", "Times that a model hung and a thread was given up"), &|s| s.stalls);
    write(("model_threads_given_up", "gauge", "Threads that hang in a model"), &|s| s.threads_given_up as u64);
    write(("model_out_of_order", "gauge", "1 where a model answers nothing any more"), &|s| {
        u64::from(s.out_of_order.is_some())
    });
}

/// Circuit breakers and requests of the models behind endpoints.
fn endpoints(text: &mut String, models: &[(Arc<str>, ModelStats)]) {
    let endpoints: Vec<_> = models.iter().filter_map(|(name, stats)| Some((name, stats.endpoint?))).collect();
    let mut write = |name: &str, suffix: &str, kind: &str, help: &str, value: &dyn Fn(&EndpointStats) -> u64| {
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for (model, stats) in &endpoints {
            let _ = writeln!(text, "{name}{suffix}{{component_id=\"{model}\"}} {}", value(stats));
        }
    };
    let state = |stats: &EndpointStats| match stats.breaker {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    };
    write("model_circuit_breaker_state", "", "gauge", "0 closed, 1 half-open, 2 open", &state);
    write("model_circuit_breaker_opened", "_total", "counter", "Times that a circuit breaker opened", &|s| {
        s.breaker_opened
    });
    write("model_requests", "_total", "counter", "Requests to a model's endpoint", &|s| s.requests);
    write("model_requests_throttled", "_total", "counter", "Requests answered with a wait", &|s| s.throttled);
}

/// The models keep their histograms themselves; this writes them in the registry's format.
fn histograms(
    text: &mut String,
    name: &str,
    help: &str,
    models: &[(Arc<str>, ModelStats)],
    histogram: impl Fn(&ModelStats) -> &millstream_models::Histogram,
) {
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} histogram");
    for (model, stats) in models {
        let h = histogram(stats);
        let mut below = 0;
        for (count, bound) in h.counts.iter().zip(h.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()])) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{component_id=\"{model}\",le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(text, "{name}_sum{{component_id=\"{model}\"}} {}", h.sum);
        let _ = writeln!(text, "{name}_count{{component_id=\"{model}\"}} {below}");
    }
}

fn component(kind: &'static str, id: &Arc<str>) -> Component {
    Component { component_kind: kind, component_id: id.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_shows_its_breaker_and_a_local_model_shows_none() {
        let model = |endpoint| {
            let empty = || millstream_models::Histogram { bounds: &[], counts: vec![0], sum: 0.0 };
            ModelStats {
                batch_size: empty(),
                inference_seconds: empty(),
                failed: 0,
                queue_depth: 0,
                stalls: 0,
                threads_given_up: 0,
                out_of_order: None,
                endpoint,
            }
        };
        let open = EndpointStats { breaker: BreakerState::Open, breaker_opened: 3, requests: 7, throttled: 1 };
        let text = Metrics::default().text(&[("tone".into(), model(Some(open))), ("linear".into(), model(None))]);
        for line in [
            "model_circuit_breaker_state{component_id=\"tone\"} 2",
            "model_circuit_breaker_opened_total{component_id=\"tone\"} 3",
            "model_requests_total{component_id=\"tone\"} 7",
            "model_requests_throttled_total{component_id=\"tone\"} 1",
        ] {
            assert!(text.lines().any(|written| written == line), "{line}: {text}");
        }
        assert!(!text.contains("model_requests_total{component_id=\"linear\"}") && text.ends_with("# EOF\n"), "{text}");
    }
}
