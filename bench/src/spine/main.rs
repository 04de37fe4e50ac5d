//! `spine`: the whole way of a record, beside a peer, on generated news.
//!
//! ```text
//! Millstream   file → log → SQL filter and projection → table and change stream → file, durable at each commit
//! the peer     file → the same filter and projection in Bloblang → file, nothing durable (Redpanda Connect's MIT core)
//! ```
//!
//! `cargo run --release -p millstream-bench --bin spine -- [--records 1000000] [--runs 3] [--millstream PATH]`. Prints
//! JSON on standard output, what it is doing on standard error. Both sides read the same file in the same run, in turns
//! (A B A B), and their output is checked record by record. `docs/benchmarks.md` says what the figures mean and leave
//! out.

mod latency;
mod limits;
mod peer;
mod pipeline;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
pub use millstream_bench::{Outcome, generate, machine, median, process, round};
use serde_json::{Value, json};

use crate::process::Usage;

/// Measures Millstream from file to file beside Redpanda Connect.
#[derive(Debug, Parser)]
struct Args {
    /// Records to generate.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Runs of each side; the median is reported.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The release binary.
    #[arg(long, default_value = "target/release/millstream")]
    millstream: PathBuf,
    /// The peer's binary; built from bench/peer with Go where it is not given.
    #[arg(long)]
    peer: Option<PathBuf>,
    /// Leave the peer out.
    #[arg(long)]
    no_peer: bool,
    /// Partitions of the source, and so tasks of the pipeline.
    #[arg(long, default_value_t = 2)]
    partitions: u32,
    /// How long the load of the latency part lasts, after a warm-up of 3 s; 0 leaves that part out.
    #[arg(long, default_value_t = 20)]
    latency_seconds: u64,
    /// Records per second of the latency part; half of the measured throughput where it is not given.
    #[arg(long)]
    latency_rate: Option<u64>,
    /// Also measure the pipeline with a model in it: its source, such as `builtin:headline-sentiment`.
    #[arg(long)]
    model: Option<String>,
    /// Records of the runs with a model.
    #[arg(long, default_value_t = 100_000)]
    model_records: u64,
    /// Folder for input, data and output: its disk is measured. About 3 GB for a million records.
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(report) => match writeln!(std::io::stdout(), "{report:#}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(e) => {
            eprintln!("spine: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Outcome<Value> {
    let folder = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let dir = folder.path();
    let millstream = std::fs::canonicalize(&args.millstream)
        .map_err(|e| format!("{}: {e}; build it with `cargo build --release`", args.millstream.display()))?;
    let peer = if args.no_peer { None } else { peer::find(args.peer.as_deref(), dir)? };

    eprintln!("generating {} records", args.records);
    let input = generate::input(&dir.join("in"), args.records)?;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for run in 1..=args.runs.max(1) {
        eprintln!("run {run}: Millstream");
        ours.push(pipeline::run(&millstream, &input, &dir.join("ours"), args.partitions, None)?);
        eprintln!("  {:.2} s, {} MiB at most", ours[run - 1].wall_s, ours[run - 1].peak_rss_bytes >> 20);
        let Some(peer) = &peer else { continue };
        eprintln!("run {run}: the peer");
        theirs.push(peer::run(peer, &input, &dir.join("theirs"))?);
        eprintln!("  {:.2} s, {} MiB at most", theirs[run - 1].wall_s, theirs[run - 1].peak_rss_bytes >> 20);
    }

    eprintln!("the machine's limits");
    let limits = limits::measure(&input, dir)?;
    let records_per_s = args.records as f64 / median(ours.iter().map(|u| u.wall_s));
    let latency = match args.latency_seconds {
        0 => Value::Null,
        seconds => {
            let rate = args.latency_rate.unwrap_or((records_per_s / 2.0) as u64);
            eprintln!("latency at {rate} records/s for {seconds} s");
            latency::measure(&millstream, &dir.join("latency"), args.partitions, rate, seconds)?
        }
    };
    let with_model = match &args.model {
        Some(model) => with_model(args, model, &millstream, dir)?,
        None => Value::Null,
    };
    let ratio = (!theirs.is_empty())
        .then(|| round(median(theirs.iter().map(|u| u.wall_s)) / median(ours.iter().map(|u| u.wall_s)), 3));
    Ok(json!({
        "benchmark": "spine",
        "machine": machine::facts(),
        "versions": {
            "millstream": machine::version(&millstream),
            "peer": peer.as_ref().map(|p| format!("redpanda-data/benthos {}", machine::version(p))),
        },
        "input": {
            "records": input.records,
            "bytes": input.bytes,
            "bytes_per_record": round(input.bytes as f64 / input.records as f64, 1),
            "records_that_pass": input.passing,
        },
        "partitions": args.partitions,
        "millstream": summary(&ours, &input),
        "peer": (!theirs.is_empty()).then(|| summary(&theirs, &input)),
        "times_as_fast_as_peer": ratio,
        "latency": latency,
        "with_model": with_model,
        "limits": limits,
    }))
}

/// The same pipeline with a prediction for every record that passes the filter.
fn with_model(args: &Args, model: &str, millstream: &std::path::Path, dir: &std::path::Path) -> Outcome<Value> {
    let input = generate::input(&dir.join("in-model"), args.model_records)?;
    let mut runs = Vec::new();
    for run in 1..=args.runs.max(1) {
        eprintln!("run {run}: Millstream with {model}");
        runs.push(pipeline::run(millstream, &input, &dir.join("model"), args.partitions, Some(model))?);
    }
    let mut summary = summary(&runs, &input);
    let wall_s = median(runs.iter().map(|u| u.wall_s));
    summary["model"] = model.into();
    summary["records"] = input.records.into();
    summary["predictions_per_s"] = (input.passing as f64 / wall_s).round().into();
    Ok(summary)
}

/// Medians over the runs, and each run.
fn summary(runs: &[Usage], input: &generate::Input) -> Value {
    let wall_s = median(runs.iter().map(|u| u.wall_s));
    json!({
        "records_per_s": (input.records as f64 / wall_s).round(),
        "mb_per_s": round(input.bytes as f64 / wall_s / 1e6, 1),
        "wall_s": round(wall_s, 3),
        "cpu_s": round(median(runs.iter().map(|u| u.cpu_s)), 2),
        "peak_rss_mib": round(runs.iter().map(|u| u.peak_rss_bytes).max().unwrap_or(0) as f64 / 1_048_576.0, 1),
        "wall_s_of_runs": runs.iter().map(|u| round(u.wall_s, 3)).collect::<Vec<_>>(),
    })
}
