//! Millstream's side: the model as a pipeline uses it, behind its queue, tokenisation included.

use std::path::Path;
use std::time::Instant;

use millstream_bench::{Outcome, median, process, round};
use millstream_models::transformer::Precision;
use millstream_models::transformer::kernels::{Path as Instructions, peak};
use millstream_models::{ModelConfig, ModelHandle, Prediction};
use serde::Deserialize;
use serde_json::{Value, json};

/// What is measured.
pub const PRECISIONS: [&str; 3] = ["f32", "bf16", "int8"];
/// Texts that one call carries; each call waits for the one before.
const BATCHES: [usize; 3] = [1, 8, 32];

/// One input of the benchmark.
#[derive(Debug, Deserialize)]
pub struct Input {
    /// The text, whose words are one token each.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
}

/// What this processor can do at most: multiply-and-add operations a second on all cores with nothing but the
/// instruction that the products of each precision are made of; null where that is left to the compiler.
pub fn limits() -> Value {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let peak = |precision| {
        let path = Instructions::choices(precision).first().copied()?;
        let per_s = peak::multiplications_per_second(path, threads)?;
        Some(json!({ "instructions": path.as_str(), "giga_multiply_adds_per_s": round(per_s / 1e9, 0) }))
    };
    json!({ "f32": peak(Precision::F32), "bf16": peak(Precision::Bf16), "int8": peak(Precision::Int8) })
}

/// Measures one precision; a line of JSON as the peers print it.
pub fn measure(folder: &Path, precision: &str, seconds: f64) -> Outcome<String> {
    let rows: Vec<Input> = serde_json::from_slice(&std::fs::read(folder.join("inputs.json"))?)?;
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let config: ModelConfig = serde_json::from_value(json!({
        "task": "text-classification",
        "source": folder,
        "precision": precision,
        "batch": { "max": BATCHES[BATCHES.len() - 1] },
    }))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let model = runtime.block_on(async { config.load("bench") })?;
    let results = BATCHES.iter().map(|&batch| runtime.block_on(one_size(&model, &texts, batch, seconds)));
    let results = results.collect::<Outcome<Vec<Value>>>()?;
    let last = runtime.block_on(model.predict(vec![texts[texts.len() - 1]]))?.pop();
    let Some(Ok(Prediction::Scores(scores))) = last else { return Err(format!("no scores but {last:?}").into()) };
    let peak = process::peak_rss_bytes(std::process::id());
    let report = json!({
        "who": format!("millstream-{precision}"),
        "version": env!("CARGO_PKG_VERSION"),
        "results": results,
        "peak_rss_bytes": peak,
        "scores": scores,
    });
    Ok(report.to_string())
}

/// Calls of `batch` texts one after another, over all texts again and again until the time is over.
async fn one_size(model: &ModelHandle, texts: &[&str], batch: usize, seconds: f64) -> Outcome<Value> {
    for call in texts.chunks(batch).step_by((texts.len() / batch / 8).max(1)) {
        model.predict(call.to_vec()).await?;
    }
    let (mut passes, mut calls) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while passes.is_empty() || began.elapsed().as_secs_f64() < seconds {
        let pass = Instant::now();
        for call in texts.chunks(batch) {
            let before = Instant::now();
            let answers = model.predict(call.to_vec()).await?;
            calls.push(before.elapsed().as_secs_f64() * 1e3);
            if let Some(failure) = answers.into_iter().find_map(Result::err) {
                return Err(format!("a text failed: {}", failure.message).into());
            }
        }
        passes.push(texts.len() as f64 / pass.elapsed().as_secs_f64());
    }
    calls.sort_by(f64::total_cmp);
    let at = |share: f64| calls[((calls.len() as f64 * share) as usize).min(calls.len() - 1)];
    Ok(json!({ "batch": batch, "sequences_per_s": median(passes.into_iter()), "p50_ms": at(0.5), "p99_ms": at(0.99) }))
}
