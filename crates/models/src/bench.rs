//! How fast a model is: by itself, and through its queue.
//!
//! By itself means [`Model::predict`] called on this thread, one batch after the other. Through the queue means
//! [`ModelHandle::predict`], with [`CALLS`] calls of a batch each under way, as a pipeline with some partitions makes
//! them; for the latency, one call of one text at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millstream_core::{Error, Failure, Result};
use serde::Serialize;

use crate::{Cell, Input, Model, ModelConfig, ModelHandle, Prediction};

/// Calls under way at once where throughput is measured.
const CALLS: usize = 4;

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchOptions {
    /// Texts per batch, each measured on its own.
    pub batches: Vec<usize>,
    /// How long each measurement takes.
    pub time: Duration,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchReport {
    /// The model's name.
    pub model: Arc<str>,
    /// Its digest.
    pub digest: Arc<str>,
    /// Different texts that were used.
    pub texts: usize,
    /// Throughput, in the order in which the sizes were given.
    pub batches: Vec<BatchReport>,
    /// Latency of one text at a time, by itself; none at an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// Latency of one text at a time, through the queue.
    pub queue_latency_ms: Latency,
    /// The most memory that the process has had, model included; none where the system does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// Throughput at one size of batches.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BatchReport {
    /// Texts per batch.
    pub batch: usize,
    /// Texts per second, by itself; none at an endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences_per_second: Option<f64>,
    /// Texts per second, through the queue.
    pub queue_sequences_per_second: f64,
}

/// Milliseconds for one text.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Half of the calls took at most this.
    pub p50: f64,
    /// 99 of 100 took at most this.
    pub p99: f64,
}

/// Measures a model; `progress` is told what is measured next. Must run on a multi-threaded Tokio runtime.
///
/// # Errors
/// The model can't be loaded, or fails on one of the texts: failures are no throughput. `Config`: no texts, or a size
/// of 0.
pub async fn bench(
    config: &ModelConfig,
    name: &str,
    texts: &[Input],
    options: &BenchOptions,
    mut progress: impl FnMut(&str),
) -> Result<BenchReport> {
    if texts.is_empty() || options.batches.is_empty() || options.batches.contains(&0) {
        return Err(Error::config("a benchmark needs texts, and batches of at least one text"));
    }
    let time = options.time;
    let mut model = tokio::task::block_in_place(|| config.open(name))?;
    let latency_ms = match &mut model {
        None => None,
        Some(model) => {
            progress("latency");
            Some(tokio::task::block_in_place(|| direct(model.as_mut(), texts, 1, time))?.latency())
        }
    };
    let mut by_itself = Vec::with_capacity(options.batches.len());
    for &batch in &options.batches {
        by_itself.push(match &mut model {
            None => None,
            Some(model) => {
                progress(&format!("batch {batch}"));
                Some(tokio::task::block_in_place(|| direct(model.as_mut(), texts, batch, time))?.throughput())
            }
        });
    }
    // Gone before the queue is measured, so that both do not share the machine.
    drop(model);
    progress("latency through the queue");
    let handle = load(config, name, config.batch.max)?;
    let queue_latency_ms = queued(&handle, texts, 1, 1, time).await?.latency();
    let (model, digest) = (handle.info().name.clone(), handle.info().digest.clone());
    drop(handle);
    let mut batches = Vec::with_capacity(by_itself.len());
    for (&batch, sequences_per_second) in options.batches.iter().zip(by_itself) {
        progress(&format!("batch {batch} through the queue"));
        let handle = load(config, name, batch)?;
        let queue_sequences_per_second = queued(&handle, texts, batch, CALLS, time).await?.throughput();
        batches.push(BatchReport { batch, sequences_per_second, queue_sequences_per_second });
    }
    let peak_memory_bytes = peak_memory_bytes();
    Ok(BenchReport { model, digest, texts: texts.len(), batches, latency_ms, queue_latency_ms, peak_memory_bytes })
}

fn load(config: &ModelConfig, name: &str, batch_max: usize) -> Result<ModelHandle> {
    let mut config = config.clone();
    config.batch.max = batch_max;
    tokio::task::block_in_place(|| config.load(name))
}

/// What one measurement came to.
struct Measured {
    sequences: usize,
    took: Duration,
    calls: Vec<Duration>,
}

impl Measured {
    fn throughput(&self) -> f64 {
        self.sequences as f64 / self.took.as_secs_f64()
    }

    fn latency(mut self) -> Latency {
        self.calls.sort_unstable();
        let at = |share: f64| self.calls[((self.calls.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1e3;
        Latency { p50: at(0.5), p99: at(0.99) }
    }
}

/// The texts in batches, over and over; a batch never wraps around, so that none has a text twice.
fn batches(texts: &[Input], batch: usize) -> impl Iterator<Item = &[Input]> {
    let whole = texts.len() / batch * batch;
    let texts = if whole == 0 { texts } else { &texts[..whole] };
    std::iter::repeat_with(move || texts.chunks(batch)).flatten()
}

fn direct(model: &mut dyn Model, texts: &[Input], batch: usize, time: Duration) -> Result<Measured> {
    let mut batches = batches(texts, batch);
    let mut one = |measured: &mut Measured| -> Result<()> {
        let Some(texts) = batches.next() else { return Ok(()) };
        let (rows, texts): (Vec<&[Cell]>, Vec<&str>) =
            (texts.iter().filter_map(Input::as_row).collect(), texts.iter().filter_map(Input::as_text).collect());
        let called = Instant::now();
        let answers = if rows.is_empty() { model.predict(&texts)? } else { model.predict_rows(&rows)? };
        measured.calls.push(called.elapsed());
        measured.sequences += all_good(answers)?;
        Ok(())
    };
    // Not measured: pages that are touched for the first time, buffers that grow.
    one(&mut Measured { sequences: 0, took: time, calls: Vec::new() })?;
    let mut measured = Measured { sequences: 0, took: time, calls: Vec::new() };
    let started = Instant::now();
    while measured.calls.is_empty() || started.elapsed() < time {
        one(&mut measured)?;
    }
    measured.took = started.elapsed();
    Ok(measured)
}

async fn queued(handle: &ModelHandle, texts: &[Input], batch: usize, calls: usize, time: Duration) -> Result<Measured> {
    let mut batches = batches(texts, batch);
    let mut call = || {
        let texts = batches.next().unwrap_or(texts).to_vec();
        async move {
            let called = Instant::now();
            let answers = handle.predict(texts).await?;
            Ok::<_, Error>((all_good(answers)?, called.elapsed()))
        }
    };
    call().await?;
    let mut measured = Measured { sequences: 0, took: time, calls: Vec::new() };
    let started = Instant::now();
    let mut under_way: FuturesUnordered<_> = (0..calls).map(|_| call()).collect();
    while let Some(answered) = under_way.next().await {
        let (sequences, took) = answered?;
        measured.sequences += sequences;
        measured.calls.push(took);
        if started.elapsed() < time {
            under_way.push(call());
        }
    }
    measured.took = started.elapsed();
    Ok(measured)
}

fn all_good(answers: Vec<Result<Prediction, Failure>>) -> Result<usize> {
    let answered = answers.len();
    match answers.into_iter().find_map(Result::err) {
        None => Ok(answered),
        Some(failure) => Err(Error::input(format!(
            "the model failed on an input: {}; name better ones with --input FILE.csv",
            failure.message
        ))),
    }
}

/// Linux: the high-water mark of the resident set.
fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Texts that are built like financial headlines: mostly 5 to 15 words, a few up to 35; the same ones at every call.
pub fn sample_texts(count: usize) -> Vec<Arc<str>> {
    const WORDS: [&str; 48] = [
        "shares",
        "of",
        "the",
        "bank",
        "rise",
        "after",
        "strong",
        "quarterly",
        "profit",
        "while",
        "copper",
        "falls",
        "on",
        "weak",
        "demand",
        "from",
        "China",
        "regulator",
        "opens",
        "inquiry",
        "into",
        "carmaker",
        "and",
        "raises",
        "dividend",
        "to",
        "2.5%",
        "analysts",
        "cut",
        "target",
        "as",
        "oil",
        "slips",
        "below",
        "$80",
        "a",
        "barrel",
        "airline",
        "orders",
        "40",
        "jets",
        "rupee",
        "steady",
        "ahead",
        "inflation",
        "data",
        "unexpectedly",
        "outlook",
    ];
    // A linear congruential generator (Knuth's MMIX constants); the high bits are the good ones.
    let mut state = 1_u64;
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % n
    };
    let mut text = || {
        let words = 5 + below(31).min(below(31)).min(below(31));
        (0..words).map(|_| WORDS[below(WORDS.len())]).collect::<Vec<_>>().join(" ").into()
    };
    (0..count).map(|_| text()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Task;

    fn inputs(count: usize) -> Vec<Input> {
        sample_texts(count).into_iter().map(Input::from).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_size_is_measured_by_itself_and_through_the_queue() {
        let config = ModelConfig::new(Task::TextClassification, "builtin:headline-sentiment-linear");
        let options = BenchOptions { batches: vec![1, 8], time: Duration::from_millis(5) };
        let mut said = Vec::new();
        let report = bench(&config, "m", &inputs(64), &options, |what| said.push(what.to_owned())).await.unwrap();
        assert_eq!(report.batches.iter().map(|b| b.batch).collect::<Vec<_>>(), [1, 8]);
        assert!(
            report.batches.iter().all(|b| b.sequences_per_second > Some(0.0) && b.queue_sequences_per_second > 0.0)
        );
        assert!(report.latency_ms.is_some_and(|l| l.p50 > 0.0 && l.p50 <= l.p99), "{report:?}");
        assert_eq!(said.len(), 6);
    }

    #[test]
    fn a_batch_is_full_where_there_are_texts_for_it() {
        let texts = inputs(10);
        assert!(batches(&texts, 4).take(5).all(|batch| batch.len() == 4));
        assert_eq!(batches(&texts, 64).next().map(<[_]>::len), Some(10));
    }

    #[test]
    fn sample_texts_are_always_the_same_and_differ_from_each_other() {
        let texts = sample_texts(512);
        assert_eq!(texts, sample_texts(512));
        let different: std::collections::HashSet<_> = texts.iter().collect();
        assert!(different.len() > 500);
        let words: usize = texts.iter().map(|text| text.split(' ').count()).sum();
        assert!((10..20).contains(&(words / 512)), "mean words {}", words as f64 / 512.0);
    }
}
