//! `health`: how soon `/healthz` answers while records are read and a log is being retained.
//!
//! `cargo run --release -p millstream-bench --bin health -- [--records 1000000] [--millstream PATH]`. Prints JSON on
//! standard output, what it is doing on standard error.
//!
//! A first run fills the log. The second keeps less, so that it removes segments at once, while it reads as many
//! records again; from its start to its end `/healthz` is asked every 20 ms. A time is counted from the moment at which
//! it was to be asked, so that an answer that comes late makes those behind it late too. This program runs on the same
//! machine and takes its share of the processor.

mod ask;
mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use millstream_bench::generate::{self, Generator};
use millstream_bench::{Outcome, machine, round};
use serde_json::{Value, json};
use server::Server;

/// Measures how soon `/healthz` answers under load.
#[derive(Debug, Parser)]
struct Args {
    /// Records of each of the two runs.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// The binary.
    #[arg(long, default_value = "target/release/millstream")]
    millstream: PathBuf,
    /// Partitions of the source, and so tasks of the pipeline.
    #[arg(long, default_value_t = 2)]
    partitions: u32,
    /// What an answer may take, in milliseconds; how many took longer is reported.
    #[arg(long, default_value_t = 50)]
    limit_ms: u64,
    /// Folder for input and data.
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
            eprintln!("health: {e}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Outcome<Value> {
    let folder = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let (dir, machine) = (folder.path(), machine::facts());
    let millstream = std::fs::canonicalize(&args.millstream)
        .map_err(|e| format!("{}: {e}; build it with `cargo build --release`", args.millstream.display()))?;

    eprintln!("filling the log with {} records", args.records);
    std::fs::create_dir_all(dir.join("in"))?;
    generate::file(dir.join("in/0.jsonl"), Generator::default(), args.records)?;
    let mut first = start(&millstream, dir, args.partitions, "10GiB")?;
    first.url()?;
    first.wait()?;

    eprintln!("asking while {} more are read", args.records);
    generate::file(dir.join("in/1.jsonl"), Generator::after(args.records), args.records)?;
    let mut second = start(&millstream, dir, args.partitions, "1MiB")?;
    let answers = ask::until_gone(&second.url()?)?;
    second.wait()?;
    let removed = second.segments_removed();
    if removed == 0 {
        return Err("no segment was removed meanwhile: take more --records".into());
    }
    let over = answers.iter().filter(|took| **took > Duration::from_millis(args.limit_ms)).count();
    let ms = |took: &Duration| round(took.as_secs_f64() * 1e3, 2);
    let at = |share: f64| answers.get((answers.len() as f64 * share) as usize).map(ms);
    Ok(json!({
        "benchmark": "health",
        "machine": machine,
        "millstream": machine::version(&millstream),
        "records": args.records,
        "partitions": args.partitions,
        "segments_removed": removed,
        "asked": answers.len(),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "max_ms": answers.last().map(ms),
        "limit_ms": args.limit_ms,
        "over_the_limit": over,
    }))
}

/// A run over all that is in the folder `in`, until everything of it is read.
fn start(millstream: &Path, dir: &Path, partitions: u32, keep: &str) -> Outcome<Server> {
    let file = format!(
        "pipeline: health\nsettings: {{ retention: {{ size: {keep} }} }}\n\
         sources:\n  wire:\n    type: file\n    path: {}/in/*.jsonl\n    \
         schema: {{ id: string, headline: string, body: string?, language: string?, urgency: int }}\n    \
         key: [id]\n    partitions: {partitions}\n\
         transforms:\n  english: {{ sql: \"SELECT id, headline, urgency FROM wire WHERE language = 'en'\" }}\n\
         tables:\n  news: {{ from: english, key: [id] }}\n",
        dir.display()
    );
    let pipeline = dir.join("pipeline.yaml");
    std::fs::write(&pipeline, file)?;
    Server::start(millstream, &pipeline, &dir.join("data"))
}
