//! The clock and the memory; the same figures as in `peers.py`.

use std::time::Instant;

use serde_json::{Value, json};

use crate::inputs::Padded;
use crate::{Call, Outcome};

/// Sequences that one call carries.
pub const BATCHES: [usize; 3] = [1, 8, 32];

/// Medians of sequences per second over passes through all inputs, and of the time of calls; at least one pass, until
/// `seconds` are over.
pub fn one_size(call: &Call, rows: &[Vec<u32>], batch: usize, seconds: f64) -> Outcome<Value> {
    let groups: Vec<Padded> = rows.chunks(batch).map(Padded::new).collect();
    for group in groups.iter().step_by((groups.len() / 8).max(1)) {
        call(group)?;
    }
    let (mut passes, mut calls) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while passes.is_empty() || began.elapsed().as_secs_f64() < seconds {
        let pass = Instant::now();
        for group in &groups {
            let before = Instant::now();
            call(group)?;
            calls.push(before.elapsed().as_secs_f64() * 1e3);
        }
        passes.push(rows.len() as f64 / pass.elapsed().as_secs_f64());
    }
    passes.sort_by(f64::total_cmp);
    calls.sort_by(f64::total_cmp);
    Ok(json!({
        "batch": batch,
        "sequences_per_s": quantile(&passes, 0.5),
        "p50_ms": quantile(&calls, 0.5),
        "p99_ms": quantile(&calls, 0.99),
    }))
}

/// The value below which `share` of the sorted values lie.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)]
}

/// The largest resident set of this process so far.
pub fn peak_rss_bytes() -> Outcome<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).ok_or("/proc/self/status has no VmHWM in kB")?;
    Ok(kib.trim().parse::<u64>()? << 10)
}
