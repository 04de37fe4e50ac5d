//! `millstream run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use millstream_core::{HumanDuration, SystemClock};
use tokio_util::sync::CancellationToken;

use super::pipeline_file::Given;
use super::progress::shown_after_a_while;
use super::server_args::ServerArgs;
use super::{Failed, LogFormat, asked_to_stop, data_folder, load_given};
use crate::api::{self, ApiState};
use millstream_engine::Outcome;
use millstream_engine::opening::Opening;
use millstream_engine::summary::{DeadLetterLimit, Summary};
use millstream_engine::{RunOptions, Running};

/// Time of a stop that the server has at least, to answer what is under way.
const SERVER_ENDS: Duration = Duration::from_secs(1);
/// What comes after that: threads that block are waited for no longer.
const RUNTIME_ENDS: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The pipeline file; `-` is standard input.
    file: PathBuf,
    #[command(flatten)]
    given: Given,
    /// Where logs, tables and offsets are kept. Default: millstream-data/NAME, with the pipeline's name.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArgs,
    /// End once every source is read and everything is delivered and committed.
    #[arg(long)]
    exit_when_idle: bool,
    /// How long a stop may take.
    #[arg(long, default_value = "10s", value_parser = HumanDuration::parse)]
    stop_deadline: HumanDuration,
    #[command(flatten)]
    fail_on: FailOn,
}

/// When a run that got to its end counts as failed all the same.
#[derive(Debug, Args)]
pub struct FailOn {
    /// End with exit code 3 where more records than this became dead letters: a number (`=10`), or a share of what was
    /// read (`=1%`); without a value any.
    #[arg(long, value_name = "N|N%", num_args = 0..=1, require_equals = true, default_missing_value = "0")]
    fail_on_dead_letters: Option<DeadLetterLimit>,
}

impl FailOn {
    /// Prints the counts of a run that has ended, and says how it went.
    ///
    /// # Errors
    /// More dead letters than allowed: exit code 3.
    pub fn report(&self, summary: &Summary, outcome: Outcome, log: LogFormat) -> std::result::Result<(), Failed> {
        match log {
            LogFormat::Json => summary.log(),
            LogFormat::Text => crate::errln!("{summary}"),
        }
        let Summary { read, dead_letters, .. } = summary;
        let lost = match dead_letters {
            0 => String::new(),
            letters => format!(
                "; {letters} of {read} records are in the dead letter queue: `millstream dlq summary` says why, \
                 `millstream dlq redrive` sends them through again"
            ),
        };
        let done = match outcome {
            Outcome::Idle if summary.skipped > 0 => format!("done, {} records skipped{lost}", summary.skipped),
            Outcome::Idle if *dead_letters > 0 => format!("done{lost}"),
            Outcome::Idle => "done: everything is read, delivered and committed".into(),
            Outcome::Stopped => format!("stopped; the next start goes on from here{lost}"),
        };
        if summary.dead_letters + summary.skipped > 0 {
            tracing::warn!("{done}")
        } else {
            tracing::info!("{done}")
        }
        match self.fail_on_dead_letters {
            Some(limit) if summary.exceeds(limit) => {
                tracing::error!("failed: {dead_letters} dead letters, --fail-on-dead-letters={limit}");
                Err(Failed::Said(3))
            }
            _ => Ok(()),
        }
    }
}

pub async fn run(args: RunArgs, log: LogFormat) -> std::result::Result<(), Failed> {
    let pipeline = load_given(&args.file, &args.given)?;
    let data_dir = data_folder(args.data_dir, &pipeline)?;
    let options = RunOptions {
        data_dir: data_dir.clone(),
        exit_when_idle: args.exit_when_idle,
        // The server gets what is left.
        stop_deadline: args.stop_deadline.0.saturating_sub(SERVER_ENDS.min(args.stop_deadline.0 / 5)),
        replay: None,
        opening: Opening::watched(shown_after_a_while("opening the data folder", "logs and states")),
    };
    // Before anything is opened: a taken port is the commonest mistake.
    let listener = api::bind(&args.server.listen).await?;
    let address = listener.local_addr()?;
    let (auth, guard, entrance) = (args.server.auth(address)?, args.server.guard(address)?, args.server.entrance()?);
    let scheme = entrance.scheme();
    let supervisor = Running::start(pipeline.clone(), options, Arc::new(SystemClock)).await?;
    let stop_server = CancellationToken::new();
    let state = ApiState { running: supervisor.running().clone(), auth, stop: stop_server.clone() };
    let server = tokio::spawn(api::serve(listener, entrance, state, guard));
    let running = supervisor.running().clone();
    let data_dir = data_dir.display();
    // Before it is said that it runs: whoever waits for that may ask it to stop at once.
    let asked_to_stop = asked_to_stop();
    tracing::info!(pipeline = %pipeline.name, %data_dir, "running; {scheme}://{address}{}", but(&running.health.waiting()));
    let mut asked_at = None;
    let ended = supervisor
        .run(async {
            asked_to_stop.await;
            asked_at = Some(Instant::now());
        })
        .await;
    stop_server.cancel();
    let spent = asked_at.map_or(Duration::ZERO, |at| at.elapsed() + RUNTIME_ENDS);
    let left = args.stop_deadline.0.saturating_sub(spent);
    let _ = tokio::time::timeout(left.min(2 * SERVER_ENDS), server).await;
    args.fail_on.report(&Summary::of(&running), ended?, log)
}

/// What waits, behind the word that it runs.
fn but(waiting: &[String]) -> String {
    if waiting.is_empty() { String::new() } else { format!(" (but {})", waiting.join("; ")) }
}
