//! `millstream repair`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use millstream_core::{Clock, Error, Result, SystemClock};

use super::pipeline_file::Given;
use super::progress::shown_after_a_while;
use super::{Failed, asked_to_stop, data_folder, load_given};
use millstream_engine::Outcome;
use millstream_engine::data_dir::DataDir;
use millstream_engine::opening::Opening;
use millstream_engine::plan::Plan;
use millstream_engine::repair::{Damaged, Looked, Remedy, look};
use millstream_engine::replay::{From, Replay};
use millstream_engine::spec::Pipeline;
use millstream_engine::{RunOptions, Running};

#[derive(Debug, Args)]
pub struct RepairArgs {
    /// The pipeline file; `-` is standard input.
    file: PathBuf,
    #[command(flatten)]
    given: Given,
    /// The data folder; its server must be stopped. Default: millstream-data/NAME, with the pipeline's name.
    #[arg(long, env = "MILLSTREAM_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Only say what is damaged and what would be done. Exits with 1 where something is.
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: RepairArgs) -> std::result::Result<(), Failed> {
    let pipeline = load_given(&args.file, &args.given)?;
    let folder = data_folder(args.data_dir, &pipeline)?;
    let dir = DataDir::open_to_repair(&folder, &pipeline.name)?;
    let looked = look(&dir, &Plan::new(&pipeline)?).await?;
    say(&looked);
    let (mendable, left): (Vec<&Damaged>, Vec<&Damaged>) = looked.damaged.iter().partition(|d| d.can_be_mended());
    if looked.damaged.is_empty() {
        return Ok(());
    }
    if args.dry_run {
        crate::outln!("nothing was changed");
        return Err(Failed::Said(1));
    }
    if !mendable.is_empty() {
        confirm(mendable.len(), args.yes)?;
        let moment = chrono::DateTime::from_timestamp_millis(SystemClock.now_ms()).unwrap_or_default();
        let aside = dir.root().join("damaged").join(moment.format("%Y%m%dT%H%M%S%.3fZ").to_string());
        for damaged in &mendable {
            damaged.mend(&dir, &aside).await?;
        }
        crate::outln!("what was damaged is in {} now: remove it when all is well", aside.display());
    }
    // Another process may begin here: whoever does builds the states anew.
    drop(dir);
    if !left.is_empty() {
        crate::errln!("{} stay damaged: until they are put back, the pipeline does not start", left.len());
        return Err(Failed::Said(1));
    }
    if mendable.iter().any(|damaged| matches!(damaged.remedy, Remedy::Rebuild)) {
        return rebuild(pipeline, folder).await;
    }
    crate::outln!("mended; start the pipeline");
    Ok(())
}

fn say(looked: &Looked) {
    for damaged in &looked.damaged {
        crate::outln!("{}", damaged.path.display());
        damaged.found.iter().for_each(|found| crate::outln!("  damage: {found}"));
        let label = if damaged.can_be_mended() { "repair" } else { "no repair" };
        crate::outln!("  {label}: {}", damaged.says);
    }
    let Looked { logs, states, sinks, damaged } = looked;
    let how_many = match damaged.len() {
        0 => "nothing is".to_owned(),
        1 => "1 part is".to_owned(),
        parts => format!("{parts} parts are"),
    };
    crate::outln!("{how_many} damaged ({logs} logs, {states} states and {sinks} sinks were read)");
}

fn confirm(parts: usize, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::config(format!("{parts} damaged parts would be mended as said above: say so with --yes")));
    }
    crate::errln!("Repair {parts} as said above? Type `yes`:");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "yes" => Ok(()),
        _ => Err(Error::config("nothing was changed")),
    }
}

/// Runs all tasks from where they are, without the sources, until everything is done.
async fn rebuild(pipeline: Arc<Pipeline>, data_dir: PathBuf) -> std::result::Result<(), Failed> {
    let options = RunOptions {
        data_dir,
        exit_when_idle: true,
        stop_deadline: Duration::from_secs(10),
        replay: Some(Replay { source: None, from: From::Kept, table: None, into: None }),
        opening: Opening::watched(shown_after_a_while("opening the data folder", "logs and states")),
    };
    let supervisor = Running::start(pipeline, options, Arc::new(SystemClock)).await?;
    match supervisor.run(asked_to_stop()).await? {
        Outcome::Idle => {
            crate::outln!("repaired; states are built anew from their logs");
            Ok(())
        }
        Outcome::Stopped => {
            crate::outln!("stopped before the end; `millstream run` goes on from here");
            Err(Failed::Said(1))
        }
    }
}
