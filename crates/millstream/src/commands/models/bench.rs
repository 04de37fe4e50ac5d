//! `millstream models bench`.

use std::path::PathBuf;

use clap::Args;
use millstream_core::{Error, HumanDuration};
use millstream_models::bench::{BenchOptions, BenchReport, bench, sample_texts};
use millstream_models::{Input, Picked, Reads, read_inputs, sample_rows};
use serde_json::{Value, json};

use super::ModelArgs;
use crate::commands::progress::Progress;
use crate::commands::{Failed, print_object};
use crate::render::{Format, print_values, text_table};

/// Texts where no file is given.
const SAMPLE_TEXTS: usize = 512;

#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A CSV file with texts, or with the columns that the model reads. Default: 512 made-up texts of the length of
    /// headlines, or rows of numbers.
    #[arg(long, value_name = "FILE.csv")]
    input: Option<PathBuf>,
    /// The column of the texts.
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    text: String,
    /// Of a model that reads columns: their names in the file, in the model's order. Default: the model's own names.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    columns: Vec<String>,
    /// Sizes of batches to measure.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32")]
    batch: Vec<usize>,
    /// Seconds that each measurement takes; there are two for each size of batches, and two of the latency.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How the figures are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub async fn run(args: BenchArgs) -> std::result::Result<(), Failed> {
    let chosen = args.model.resolve()?;
    if args.batch.iter().any(|batch| !(1..=4096).contains(batch)) {
        return Err(Error::config("--batch takes sizes from 1 to 4096, such as 1,8,32").into());
    }
    let time = std::time::Duration::try_from_secs_f64(args.seconds)
        .map_err(|_| Error::config(format!("--seconds {}: write a number such as 5 or 0.5", args.seconds)))?;
    let texts: Vec<Input> = match &args.input {
        Some(path) => {
            let picked = Picked { text: &args.text, columns: &args.columns, label: None };
            read_inputs(path, &chosen.info.reads, picked)?.into_iter().map(|(input, _)| input).collect()
        }
        None => match &chosen.info.reads {
            Reads::Text => sample_texts(SAMPLE_TEXTS).into_iter().map(Input::from).collect(),
            Reads::Row(columns) => sample_rows(columns, SAMPLE_TEXTS),
        },
    };
    let measurements = 2 * (args.batch.len() as u64 + 1);
    let mut progress = Progress::new(format!("measuring, {} each", HumanDuration(time)), measurements, "done");
    let options = BenchOptions { batches: args.batch, time };
    let mut begun = 0;
    let report = bench(&chosen.config, &chosen.name, &texts, &options, |_| {
        progress.set(begun);
        begun += 1;
    });
    let report = report.await;
    drop(progress);
    let what = if chosen.info.reads == Reads::Text { "text" } else { "row" };
    print(&report?, what, args.format)?;
    Ok(())
}

fn print(report: &BenchReport, what: &str, format: Format) -> millstream_core::Result<()> {
    match format {
        Format::Json | Format::Jsonl => return print_object(report, format),
        Format::Csv => print_values(&["metric", "batch", "value"], &facts(report), Format::Csv)?,
        Format::Table => {
            crate::outln!("{} {}, {} {what}s", report.model, report.digest, report.texts);
            let figure = |n: Option<f64>| n.map_or("-".into(), |n| format!("{n:.1}"));
            let rows = report.batches.iter().map(|b| {
                vec![b.batch.to_string(), figure(b.sequences_per_second), figure(Some(b.queue_sequences_per_second))]
            });
            let header = ["batch", &format!("{what}s/s, by itself"), &format!("{what}s/s, through the queue")];
            crate::outln!("{}", text_table(&header, rows));
            let queue = report.queue_latency_ms;
            if let Some(latency) = report.latency_ms {
                crate::outln!("one {what}, by itself:         p50 {:.3} ms, p99 {:.3} ms", latency.p50, latency.p99);
            }
            crate::outln!("one {what}, through the queue: p50 {:.3} ms, p99 {:.3} ms", queue.p50, queue.p99);
            if let Some(bytes) = report.peak_memory_bytes {
                crate::outln!("peak memory of the process:  {} MiB", bytes >> 20);
            }
        }
    }
    Ok(())
}

/// Everything as rows of one shape.
fn facts(report: &BenchReport) -> Vec<Vec<Value>> {
    let mut rows = Vec::new();
    for b in &report.batches {
        let own = b.sequences_per_second.map(|n| vec!["sequences_per_second".into(), b.batch.into(), json!(n)]);
        rows.extend(own);
        rows.push(vec!["queue_sequences_per_second".into(), b.batch.into(), json!(b.queue_sequences_per_second)]);
    }
    let mut one = |metric: &str, value: Value| rows.push(vec![metric.into(), Value::Null, value]);
    if let Some(latency) = report.latency_ms {
        one("latency_ms_p50", latency.p50.into());
        one("latency_ms_p99", latency.p99.into());
    }
    one("queue_latency_ms_p50", report.queue_latency_ms.p50.into());
    one("queue_latency_ms_p99", report.queue_latency_ms.p99.into());
    one("peak_memory_bytes", json!(report.peak_memory_bytes));
    rows
}
