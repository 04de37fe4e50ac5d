//! How long a model takes to load, and how much memory that needs at most; prints one line of JSON.
//!
//! ```text
//! cargo run --release -p millstream-models --example load_model -- ./model int8
//! ```
//!
//! The source is all that `source:` takes but an endpoint or an ONNX file, of a text classifier; the precision is
//! `f32`, `bf16`, `int8`, or left out for the fastest. Loading is what a pipeline does before it starts: check, hash,
//! read, pack, and predict once. Memory is counted by the system (Linux). `peak_mib` is the most that was resident
//! while the model was loaded, pages of mapped files included; `used_peak_mib` the same after 512 texts in batches of
//! 32; `anonymous_mib` what the process holds then, and `mapped_mib` what is pages of mapped files.

use std::time::Instant;

use millstream_core::{Error, Result};
use millstream_models::bench::sample_texts;
use millstream_models::{ModelConfig, Task};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let source = words.next().ok_or_else(|| Error::config("write a model's folder, then f32, bf16 or int8"))?;
    let mut config = ModelConfig::new(Task::TextClassification, source);
    if let Some(precision) = words.next() {
        config.precision = serde_json::from_value(precision.clone().into())
            .map_err(|e| Error::config(format!("the precision `{precision}` is not f32, bf16 or int8")).caused_by(e))?;
    }
    let before = Instant::now();
    let mut model = config.open("model")?.ok_or_else(|| Error::config("this model is not loaded into this process"))?;
    let seconds = before.elapsed().as_secs_f64();
    let peak = mebibytes("VmHWM");
    for texts in sample_texts(512).chunks(32) {
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        model.predict(&texts)?;
    }
    let line = serde_json::json!({
        "digest": model.info().digest,
        "load_s": (seconds * 1e3).round() / 1e3,
        "peak_mib": peak,
        "used_peak_mib": mebibytes("VmHWM"),
        "anonymous_mib": mebibytes("RssAnon"),
        "mapped_mib": mebibytes("RssFile"),
    });
    println!("{line}");
    Ok(())
}

/// A line of `/proc/self/status`; none where the system has no such file.
fn mebibytes(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024)
}
