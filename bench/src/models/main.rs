//! `models`: one BERT classifier through Millstream and through other runtimes, on the same weights and inputs.
//!
//! `cargo run --release -p millstream-bench --bin models -- --install-peers DIR [--shape bert-base|minilm] [--rounds 3]`. A Python
//! with `bench/models/requirements.txt` makes the random weights, the inputs and the ONNX files, and runs the peers:
//! `--install-peers` sets one up (some gigabytes), `--python` names one that is there. Every measurement is a process of its own (so that its peak memory is its own), all of them in turn, `--rounds`
//! times; the medians over the rounds are printed as JSON. `docs/benchmarks.md` says what the figures mean.

mod worker;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};
use millstream_bench::{Outcome, machine, median, round};
use serde_json::{Value, json};

/// Measures a BERT classifier beside other runtimes.
#[derive(Debug, Parser)]
struct Args {
    /// A Python with `bench/models/requirements.txt`; without it only Millstream is measured, on a folder that is there.
    #[arg(long)]
    python: Option<PathBuf>,
    /// Sets such a Python up in this folder, with `python3` and packages from PyPI, where it is not there yet.
    #[arg(long, conflicts_with = "python")]
    install_peers: Option<PathBuf>,
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
    let mut args = Args::parse();
    let report = match &args.worker {
        Some(Worker::Worker { folder, precision, seconds }) => worker::measure(folder, precision, *seconds),
        None => install(&mut args).and_then(|()| measure(&args)).map(|report| format!("{report:#}")),
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

/// Makes the Python that `--install-peers` asks for.
fn install(args: &mut Args) -> Outcome<()> {
    let Some(folder) = args.install_peers.take() else { return Ok(()) };
    let python = folder.join("bin/python");
    let run = |command: &mut Command| -> Outcome<()> {
        let status = command.status()?;
        if !status.success() {
            return Err(format!("{command:?} ended with {status}").into());
        }
        Ok(())
    };
    if !folder.join("installed").exists() {
        eprintln!("installing the peers in {}", folder.display());
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/models/requirements.txt");
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--requirement", requirements]))?;
        std::fs::write(folder.join("installed"), "")?;
    }
    args.python = Some(python);
    Ok(())
}

fn measure(args: &Args) -> Outcome<Value> {
    let default = || std::env::temp_dir().join(format!("millstream-bench-{}", args.shape));
    let folder = args.folder.clone().unwrap_or_else(default);
    if !folder.join("inputs.json").exists() {
        let python = args.python.as_ref().ok_or("no inputs yet: they are made with --install-peers or --python")?;
        eprintln!("making weights and inputs in {}", folder.display());
        let status = peers(python).arg("make").arg(&folder).args(["--shape", &args.shape]).status()?;
        if !status.success() {
            return Err(format!("peers.py make ended with {status}").into());
        }
    }
    let runners = runners(args)?;
    let mut reports: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for turn in 1..=args.rounds.max(1) {
        for name in &runners {
            eprintln!("round {turn}: {name}");
            match run(args, name, &folder) {
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
fn runners(args: &Args) -> Outcome<Vec<String>> {
    let mut names: Vec<String> = worker::PRECISIONS.iter().map(|p| format!("millstream-{p}")).collect();
    if let Some(python) = &args.python {
        let listed = peers(python).arg("list").output()?;
        names.extend(String::from_utf8_lossy(&listed.stdout).lines().map(str::to_owned));
    }
    names.retain(|name| args.only.as_ref().is_none_or(|only| name.contains(only.as_str())));
    Ok(names)
}

fn peers(python: &Path) -> Command {
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/models/peers.py"));
    // The kernels of the peers' own choice: a pinned processor type would slow them down.
    command.env_remove("OPENBLAS_CORETYPE").env_remove("OPENBLAS_L2_SIZE");
    command
}

/// One runtime in a process of its own.
fn run(args: &Args, name: &str, folder: &Path) -> Outcome<Value> {
    let seconds = args.seconds.to_string();
    let mut command = match (name.strip_prefix("millstream-"), &args.python) {
        (Some(precision), _) => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("worker").arg(folder).args([precision, "--seconds", &seconds]);
            command
        }
        (None, Some(python)) => {
            let mut command = peers(python);
            command.arg("run").arg(folder).args([name, "--seconds", &seconds]);
            command
        }
        (None, None) => return Err("needs --python".into()),
    };
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
