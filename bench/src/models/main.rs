//! `models`: one BERT classifier through Millstream and through other runtimes, on the same weights and inputs.
//!
//! `cargo run --release -p millstream-bench --bin models -- --install-peers DIR [--rust-peers]
//! [--shape bert-base|minilm] [--rounds 3]`. Every measurement is a process of its own (so that its peak memory is its
//! own), all of them in turn, `--rounds` times; the medians over the rounds are printed as JSON. `peers.rs` says where
//! the peers come from, `docs/benchmarks.md` what the figures mean.

mod peers;
mod worker;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};
use millstream_bench::{Outcome, machine, median, round};
use peers::Peers;
use serde_json::{Value, json};

/// Measures a BERT classifier beside other runtimes.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    peers: peers::Args,
    /// `bert-base` (110 M parameters) or `minilm` (6 layers of 384).
    #[arg(long, default_value = "bert-base")]
    shape: String,
    /// Where weights and inputs are kept between runs. Default: a folder of the system's for temporary files.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How often every runtime has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How long each batch size is measured in a turn, at least.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    #[command(subcommand)]
    worker: Option<Worker>,
}

/// What the benchmark runs as a process of its own.
#[derive(Debug, Subcommand)]
enum Worker {
    /// Measures Millstream in one precision.
    Worker {
        /// The model's folder.
        folder: PathBuf,
        /// `f32`, `bf16` or `int8`.
        precision: String,
        /// How long each batch size is measured, at least.
        #[arg(long)]
        seconds: f64,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = match &args.worker {
        Some(Worker::Worker { folder, precision, seconds }) => worker::measure(folder, precision, *seconds),
        None => measure(&args).map(|report| format!("{report:#}")),
    };
    match report {
        Ok(report) => match writeln!(std::io::stdout(), "{report}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(e) => {
            eprintln!("models: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Outcome<Value> {
    let default = || std::env::temp_dir().join(format!("millstream-bench-{}", args.shape));
    let folder = args.folder.clone().unwrap_or_else(default);
    let peers = Peers::prepare(&args.peers)?;
    if !folder.join("inputs.json").exists() {
        peers.make(&folder, &args.shape)?;
    }
    let runners = runners(args, &peers)?;
    let mut reports: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for turn in 1..=args.rounds.max(1) {
        for name in &runners {
            eprintln!("round {turn}: {name}");
            match run(args, &peers, name, &folder) {
                Ok(report) => reports.entry(name).or_default().push(report),
                Err(e) => eprintln!("  left out: {e}"),
            }
        }
    }
    Ok(json!({
        "benchmark": "models",
        "shape": args.shape,
        "machine": machine::facts(),
        "limits": worker::limits(),
        "inputs": inputs(&folder)?,
        "rounds": args.rounds,
        "runtimes": runners.iter().filter_map(|name| Some(summary(name, reports.get(name.as_str())?))).collect::<Vec<_>>(),
    }))
}

/// Everything that is measured, in the order of its turns.
fn runners(args: &Args, peers: &Peers) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = worker::PRECISIONS.iter().map(|p| format!("millstream-{p}")).collect();
    names.extend(peers.names()?);
    names.retain(|name| args.only.as_ref().is_none_or(|only| name.contains(only.as_str())));
    Ok(names)
}

/// One runtime in a process of its own.
fn run(args: &Args, peers: &Peers, name: &str, folder: &Path) -> Outcome<Value> {
    let mut command = match name.strip_prefix("millstream-") {
        Some(precision) => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("worker").arg(folder).arg(precision);
            command
        }
        None => peers.command(name, folder)?,
    };
    command.args(["--seconds", &args.seconds.to_string()]);
    let output = command.stderr(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let line = said.lines().rfind(|line| line.starts_with('{'));
    match line {
        Some(line) if output.status.success() => Ok(serde_json::from_str(line)?),
        _ => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("{}: {}", output.status, why.lines().next_back().unwrap_or("no message")).into())
        }
    }
}

fn inputs(folder: &Path) -> Outcome<Value> {
    let rows: Vec<worker::Input> = serde_json::from_slice(&std::fs::read(folder.join("inputs.json"))?)?;
    let tokens: usize = rows.iter().map(|row| row.ids.len()).sum();
    Ok(
        json!({ "sequences": rows.len(), "tokens": tokens, "tokens_per_sequence": round(tokens as f64 / rows.len() as f64, 2) }),
    )
}

/// Medians over the rounds.
fn summary(name: &str, reports: &[Value]) -> Value {
    let first = &reports[0];
    let batches = first["results"].as_array().map(Vec::as_slice).unwrap_or_default();
    let results = batches.iter().enumerate().map(|(i, batch)| {
        let over = |key: &str| median(reports.iter().filter_map(|r| r["results"][i][key].as_f64()));
        json!({
            "batch": batch["batch"],
            "sequences_per_s": round(over("sequences_per_s"), 1),
            "p50_ms": round(over("p50_ms"), 2),
            "p99_ms": round(over("p99_ms"), 2),
        })
    });
    let peak = median(reports.iter().filter_map(|r| r["peak_rss_bytes"].as_f64()));
    json!({
        "who": name,
        "version": first["version"],
        "results": results.collect::<Vec<_>>(),
        "peak_rss_mib": round(peak / 1_048_576.0, 0),
        "last_scores": first["scores"].as_array().map_or_else(|| softmax(&first["logits"]), |scores| json!(scores)),
    })
}

/// The peers print logits; as scores they can be held against Millstream's.
fn softmax(logits: &Value) -> Value {
    let logits: Vec<f64> = logits.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    let sum: f64 = logits.iter().map(|l| l.exp()).sum();
    json!(logits.iter().map(|l| round(l.exp() / sum, 6)).collect::<Vec<_>>())
}
