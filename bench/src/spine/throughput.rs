//! From file to file: Millstream and its peers over the same input, in turns.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::args::Args;
use crate::flink::{Flink, Job};
use crate::generate::{self, Input};
use crate::process::Usage;
use crate::{Outcome, flink, machine, median, peer, pipeline, round};

/// Records of the run whose time is that of start and stop; some of them pass the filter.
const START_RECORDS: u64 = 10;

/// What `measure` found.
pub struct Throughput {
    /// The figures, to stand in the report.
    pub report: Map<String, Value>,
    /// Millstream's, for the load of the latency part.
    pub records_per_s: f64,
}

/// One run over an input, with its output checked.
type Run<'a> = dyn Fn(&Input) -> Outcome<Usage> + 'a;

/// One side: how it is run, and what its runs took.
struct Side<'a> {
    name: &'static str,
    run: Box<Run<'a>>,
    /// Over a few records: start and stop.
    starts: Vec<Usage>,
    runs: Vec<Usage>,
}

impl<'a> Side<'a> {
    fn new(name: &'static str, run: impl Fn(&Input) -> Outcome<Usage> + 'a) -> Self {
        Self { name, run: Box::new(run), starts: Vec::new(), runs: Vec::new() }
    }
}

/// Runs all sides `args.runs()` times.
pub fn measure(args: &Args, millstream: &Path, input: &Input, dir: &Path) -> Outcome<Throughput> {
    let (peer, flink) = match args.no_peer {
        true => (Err("--no-peer".to_owned()), Err("--no-peer".to_owned())),
        false => (peer::find(args.peer.as_deref(), dir)?, flink::find(args.flink.as_deref())?),
    };
    let few = generate::input(&dir.join("in-few"), START_RECORDS)?;

    let mut sides = vec![Side::new("millstream", |input: &Input| {
        pipeline::run(
            millstream,
            input,
            &dir.join("ours"),
            &pipeline::Shape { partitions: args.partitions, ..Default::default() },
        )
    })];
    if let Ok(peer) = &peer {
        sides.push(Side::new("peer", |input: &Input| peer::run(peer, input, &dir.join("theirs"))));
    }
    if let Ok(flink) = &flink {
        let run = |job: Job| move |input: &Input| flink.run(job, input, &dir.join("flink"));
        sides.push(Side::new("flink", run(Job::Stateless)));
        sides.push(Side::new("flink_with_state", run(Job::Keyed)));
    }
    for run in 1..=args.runs() {
        for side in &mut sides {
            eprintln!("run {run}: {}", side.name);
            side.starts.push((side.run)(&few)?);
            let usage = (side.run)(input)?;
            eprintln!("  {:.2} s, {} MiB at most", usage.wall_s, usage.peak_rss_bytes >> 20);
            side.runs.push(usage);
        }
    }

    let wall_s = |side: &Side<'_>| median(side.runs.iter().map(|u| u.wall_s));
    let start_s = |side: &Side<'_>| median(side.starts.iter().map(|u| u.wall_s));
    let without_start_s = |side: &Side<'_>| wall_s(side) - start_s(side);
    let (ours_s, ours_without_start_s) = (wall_s(&sides[0]), without_start_s(&sides[0]));
    let mut report = Map::new();
    report.insert(
        "versions".into(),
        json!({
            "millstream": machine::version(millstream),
            "peer": peer.as_ref().ok().map(|p| format!("redpanda-data/benthos {}", machine::version(p))),
            "flink": flink.as_ref().ok().map(Flink::version),
        }),
    );
    for side in &sides {
        let mut figures = summary(&side.runs, input);
        figures["start_s"] = round(start_s(side), 3).into();
        figures["start_cpu_s"] = round(median(side.starts.iter().map(|u| u.cpu_s)), 2).into();
        figures["records_per_s_without_start"] =
            ratio(input.records as f64, without_start_s(side)).map(f64::round).into();
        if side.name != "millstream" {
            let times = |theirs, ours| ratio(theirs, ours).map(|times| round(times, 3));
            figures["millstream_is_times_as_fast"] = times(wall_s(side), ours_s).into();
            figures["millstream_is_times_as_fast_without_start"] =
                times(without_start_s(side), ours_without_start_s).into();
        }
        report.insert(side.name.into(), figures);
    }
    for (name, absent) in [("peer", peer.as_ref().err()), ("flink", flink.as_ref().err())] {
        if let Some(why) = absent {
            report.insert(name.into(), json!({ "absent": why }));
        }
    }
    Ok(Throughput { report, records_per_s: input.records as f64 / ours_s })
}

/// None where there is nothing to compare with: a run that was as short as start and stop.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (a > 0.0 && b > 0.0).then(|| a / b)
}

/// The same pipeline with a prediction for every record that passes the filter.
pub fn with_model(args: &Args, model: &str, millstream: &Path, dir: &Path) -> Outcome<Value> {
    let input = generate::input(&dir.join("in-model"), args.model_records)?;
    let shape = pipeline::Shape { partitions: args.partitions, model: Some(model), ..Default::default() };
    let mut runs = Vec::new();
    for run in 1..=args.runs() {
        eprintln!("run {run}: Millstream with {model}");
        runs.push(pipeline::run(millstream, &input, &dir.join("model"), &shape)?);
    }
    let mut summary = summary(&runs, &input);
    let wall_s = median(runs.iter().map(|u| u.wall_s));
    summary["model"] = model.into();
    summary["records"] = input.records.into();
    summary["predictions_per_s"] = (input.passing as f64 / wall_s).round().into();
    Ok(summary)
}

/// A table with another key than its source: each row goes through an exchange, a log partitioned by the table's key.
pub fn with_exchange(args: &Args, input: &Input, millstream: &Path, dir: &Path) -> Outcome<Value> {
    let shape = pipeline::Shape { partitions: args.partitions, source_key: "headline", ..Default::default() };
    let mut runs = Vec::new();
    for run in 1..=args.runs() {
        eprintln!("run {run}: Millstream with an exchange");
        runs.push(pipeline::run(millstream, input, &dir.join("exchange"), &shape)?);
    }
    let mut summary = summary(&runs, input);
    summary["source_key"] = shape.source_key.into();
    summary["table_key"] = "id".into();
    Ok(summary)
}

/// Medians over the runs, and each run.
fn summary(runs: &[Usage], input: &Input) -> Value {
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
