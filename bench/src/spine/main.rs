//! `spine`: the whole way of a record, beside two peers, on generated news.
//!
//! ```text
//! Millstream   file → log → SQL filter and projection → table and change stream → file, durable at each commit
//! the peer     file → the same filter and projection in Bloblang → file, nothing durable (Redpanda's)
//! Flink        file → the same in Flink SQL, without state and with a row kept by key → file, exactly once
//! ```
//!
//! `cargo run --release -p millstream-bench --bin spine -- [--only throughput,big-table] [--quick]`. Prints
//! JSON on standard output, what it is doing on standard error. All sides read the same file in the same run, in turns
//! (A B C A B C), and their output is checked record by record. `docs/benchmarks.md` says what the figures mean and
//! leave out.

mod args;
mod arrivals;
mod big_table;
mod flink;
mod latency;
mod limits;
mod peer;
mod pipeline;
mod server;
mod throughput;
mod trickle;
mod verify;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
pub use millstream_bench::{Outcome, generate, machine, median, process, round};
use serde_json::{Map, Value, json};

use crate::args::{Args, Part};
use crate::trickle::Load;

/// Records per second of the latency part, where throughput was not measured.
const LATENCY_RATE: u64 = 50_000;
/// A lone record now and then: nothing else is under way when it comes.
const LONE_PER_S: u64 = 50;
/// Connections of the trickle: more than are busy at a time.
const CONNECTIONS: u64 = 8;

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
    let mut report = Map::new();
    report.insert("benchmark".into(), "spine".into());
    report.insert("machine".into(), machine::facts());
    report.insert("versions".into(), json!({ "millstream": machine::version(&millstream) }));
    report.insert("partitions".into(), args.partitions.into());
    if args.quick {
        report.insert("quick".into(), "sizes are small: these figures say that it works, not how fast it is".into());
    }

    let records_per_s = files(args, &millstream, dir, &mut report)?;
    if args.wants(Part::Latency) {
        let rate = args.latency_rate.or(records_per_s.map(|r| (r / 2.0) as u64)).unwrap_or(LATENCY_RATE);
        let seconds = args.latency_seconds();
        eprintln!("latency at {rate} records/s for {seconds} s");
        let measured = latency::measure(&millstream, &dir.join("latency"), args.partitions, rate, seconds)?;
        report.insert("latency".into(), measured);
    }
    if args.wants(Part::Trickle) {
        let seconds = args.trickle_seconds();
        let mut loads = Map::new();
        for (name, records_per_s, connections) in
            [("lone", LONE_PER_S, 1), ("trickle", args.trickle_rate.max(1), CONNECTIONS)]
        {
            eprintln!("{name}: {records_per_s} records/s over HTTP for {seconds} s");
            let load = Load { records_per_s, connections, seconds };
            loads.insert(name.into(), trickle::measure(&millstream, &dir.join("trickle"), args.partitions, load)?);
        }
        report.insert("trickle".into(), loads.into());
    }
    if args.wants(Part::BigTable) {
        let (keys, updates) = (args.big_table_keys(), args.big_table_updates());
        let measured = big_table::measure(&millstream, &dir.join("big"), args.partitions, keys, updates)?;
        report.insert("big_table".into(), measured);
    }
    Ok(report.into())
}

/// The parts that read the generated file, with the machine's limits. Gives Millstream's throughput where it was
/// measured.
fn files(args: &Args, millstream: &Path, dir: &Path, report: &mut Map<String, Value>) -> Outcome<Option<f64>> {
    if !args.wants(Part::Throughput) && !args.wants(Part::Exchange) {
        return Ok(None);
    }
    eprintln!("generating {} records", args.records());
    let input = generate::input(&dir.join("in"), args.records())?;
    report.insert(
        "input".into(),
        json!({
            "records": input.records,
            "bytes": input.bytes,
            "bytes_per_record": round(input.bytes as f64 / input.records as f64, 1),
            "records_that_pass": input.passing,
        }),
    );
    let mut records_per_s = None;
    if args.wants(Part::Throughput) {
        let measured = throughput::measure(args, millstream, &input, dir)?;
        report.extend(measured.report);
        records_per_s = Some(measured.records_per_s);
        if let Some(model) = &args.model {
            report.insert("with_model".into(), throughput::with_model(args, model, millstream, dir)?);
        }
        eprintln!("the machine's limits");
        report.insert("limits".into(), limits::measure(&input, dir)?);
    }
    if args.wants(Part::Exchange) {
        report.insert("exchange".into(), throughput::with_exchange(args, &input, millstream, dir)?);
    }
    Ok(records_per_s)
}
