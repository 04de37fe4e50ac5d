//! `millstream replay`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millstream_core::json::parse_timestamp;
use millstream_core::{Error, Result, SystemClock};

use super::pipeline_file::Given;
use super::progress::{Progress, shown_after_a_while};
use super::run::FailOn;
use super::{Failed, LogFormat, asked_to_stop, data_folder, load_given};
use millstream_engine::Outcome;
use millstream_engine::opening::Opening;
use millstream_engine::progress::ReaderProgress;
use millstream_engine::replay::{From, Replay};
use millstream_engine::streams::Stream;
use millstream_engine::summary::Summary;
use millstream_engine::{RunOptions, Running};

#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The pipeline file; `-` is standard input.
    file: PathBuf,
    #[command(flatten)]
    given: Given,
    /// The data folder; its server must be stopped. Default: millstream-data/NAME, with the pipeline's name.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where to begin: `earliest`, an offset, or a moment such as 2026-01-31T08:00:00Z (when records were stored).
    #[arg(long, default_value = "earliest")]
    from: String,
    /// Only this source. Default: all.
    #[arg(long)]
    source: Option<String>,
    /// Only this table: nothing else is touched.
    #[arg(long)]
    table: Option<String>,
    /// Put that table's rows into a new table of this name, and leave everything else as it is.
    #[arg(long, requires = "table")]
    into: Option<String>,
    #[command(flatten)]
    fail_on: FailOn,
}

pub async fn run(args: ReplayArgs, log: LogFormat) -> std::result::Result<(), Failed> {
    let pipeline = load_given(&args.file, &args.given)?;
    let data_dir = data_folder(args.data_dir, &pipeline)?;
    let named = |name: &Option<String>| name.as_deref().map(Into::into);
    let replay = Replay {
        source: named(&args.source),
        from: point(&args.from)?,
        table: named(&args.table),
        into: named(&args.into),
    };
    let options = RunOptions {
        data_dir: data_dir.clone(),
        exit_when_idle: true,
        stop_deadline: Duration::from_secs(10),
        replay: Some(replay.clone()),
        opening: Opening::watched(shown_after_a_while("opening the data folder", "logs and states")),
    };
    let supervisor = Running::start(pipeline, options, Arc::new(SystemClock)).await?;
    let running = supervisor.running().clone();
    let outcome = watched(&running, &replay, supervisor.run(asked_to_stop())).await??;
    let allowed = args.fail_on.report(&Summary::of(&running), outcome, log);
    match outcome {
        Outcome::Idle => {
            let read: u64 = running
                .progress
                .readers()
                .iter()
                .filter(|r| r.holds_back && running.pipeline.source(&r.stream).is_some())
                .flat_map(|r| (0..r.partitions()).map(|p| r.offset(p)))
                .sum();
            crate::outln!("replayed; sources' logs are done up to {read} records in all");
            if let Some(table) = args.into.as_ref().or(args.table.as_ref()) {
                crate::outln!(
                    "query it: millstream query 'SELECT * FROM {table} LIMIT 10' --data-dir {}",
                    data_dir.display()
                );
            }
            allowed
        }
        Outcome::Stopped => {
            crate::outln!("stopped before the end; `millstream run` or another replay goes on from here");
            Err(Failed::Said(1))
        }
    }
}

/// Runs a replay to its end and shows how far it is.
async fn watched<T>(running: &Arc<Running>, replay: &Replay, run: impl Future<Output = T>) -> Result<T> {
    /// How often is looked.
    const EVERY: Duration = Duration::from_millis(200);
    let mut all = 0;
    for stage in &running.plan.stages {
        for partition in 0..stage.partitions {
            let Some(from) = replay.offset(stage, partition, &running.streams).await? else { continue };
            let end = running.streams.get(&stage.input).map_or(0, |stream| stream.log.end_offset(partition));
            all += end.saturating_sub(from);
        }
    }
    let left = || {
        let readers = running.progress.readers().iter().filter(|reader| reader.holds_back);
        let left = readers.filter_map(|reader| Some((reader, running.streams.get(&reader.stream)?)));
        let of = |(reader, stream): (&Arc<ReaderProgress>, &Stream)| {
            (0..reader.partitions()).map(|p| stream.log.end_offset(p).saturating_sub(reader.offset(p))).sum::<u64>()
        };
        left.map(of).sum::<u64>()
    };
    let mut progress = Progress::new("replaying", all, "records");
    let mut look = tokio::time::interval(EVERY);
    tokio::pin!(run);
    loop {
        tokio::select! {
            ended = &mut run => {
                progress.set(all.saturating_sub(left()));
                return Ok(ended);
            }
            _ = look.tick() => progress.set(all.saturating_sub(left())),
        }
    }
}

fn point(text: &str) -> Result<From> {
    if text == "earliest" {
        return Ok(From::Earliest);
    }
    if let Ok(offset) = text.parse() {
        return Ok(From::Offset(offset));
    }
    parse_timestamp(text).map(|us| From::Time(us / 1000)).ok_or_else(|| {
        Error::config(format!("--from {text}: `earliest`, an offset, or a moment such as 2026-01-31T08:00:00Z"))
    })
}
