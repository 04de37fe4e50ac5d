//! The command line: one module a command.

mod completions;
mod connectors;
mod demo;
mod dlq;
mod functions;
mod init;
mod log;
mod models;
mod models_reload;
mod pipeline_file;
mod progress;
mod query;
mod repair;
mod replay;
mod run;
mod schema;
mod serve;
mod server_args;
mod shell;
mod sse;
mod tap;
mod target;
mod try_record;
mod validate;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Parser, Subcommand, ValueEnum};
use millstream_core::{Error, Result};
use millstream_models::ModelConfig;

use crate::config::Outside;
use crate::config::PipelineFile;
use crate::render::Format;
use crate::secrets::Asker;
use millstream_engine::data_dir::{DEFAULT_ROOT, default_folder};
use millstream_engine::spec::Pipeline;
use pipeline_file::Given;

/// Puts a model in the stream: live feeds in; validated, transformed by SQL and enriched by models in process; kept in
/// tables that can be queried; every change published onward.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, propagate_version = true)]
pub struct Cli {
    /// How log lines look.
    #[arg(long, global = true, value_enum, default_value = "text")]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a pipeline.
    Run(run::RunArgs),
    /// Check a pipeline file, without touching the network.
    Validate(validate::ValidateArgs),
    /// Open every connection of a pipeline, and say what answers. The same as `validate --connect`.
    Check(validate::CheckArgs),
    /// Show, step by step, what a pipeline makes of one record. Nothing is written or sent.
    Try(try_record::TryArgs),
    /// Query tables and streams with SQL.
    Query(query::QueryArgs),
    /// Watch the records of a stream.
    Tap(tap::TapArgs),
    /// Run a pipeline again from a point in its logs.
    Replay(replay::ReplayArgs),
    /// Find what is damaged in a data folder, and make it anew where that can be done.
    Repair(repair::RepairArgs),
    /// List, show and redrive records that failed.
    Dlq(dlq::DlqArgs),
    /// List, check, measure and fetch models.
    Models(models::ModelsArgs),
    /// Serve a model to other systems, as SageMaker, KServe and TEI do.
    Serve(serve::ServeArgs),
    /// List the functions of SQL, each with an example and its result.
    Functions(functions::FunctionsArgs),
    /// Print the JSON Schema of pipeline files.
    Schema,
    /// List the types of sources and sinks, or show the options of one.
    Connectors(connectors::ConnectorsArgs),
    /// Print a script by which a shell completes commands and options.
    Completions(completions::CompletionsArgs),
    /// Print the manual page, of the program or of one command.
    Man(completions::ManArgs),
    /// Serve the lines of a file as server-sent events, to try a source with.
    Sse(sse::SseArgs),
    /// Write an example pipeline to start from.
    Init(init::InitArgs),
    /// Watch headlines being read, scored and stored; needs nothing.
    Demo(demo::DemoArgs),
}

/// How a command can fail.
#[derive(Debug)]
pub enum Failed {
    /// It has already said why; exit with this code.
    Said(u8),
    /// The caller says why.
    Error(Error),
}

impl<E: Into<Error>> From<E> for Failed {
    fn from(e: E) -> Self {
        Self::Error(e.into())
    }
}

/// Runs a command.
///
/// # Errors
/// See [`Failed`].
pub fn run(cli: Cli) -> std::result::Result<(), Failed> {
    log::start(cli.log)?;
    // As many file descriptors as there may be, before the first one is needed.
    millstream_core::descriptors::shares();
    // Fails only where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Run(args) => run::run(args, cli.log).await,
            Command::Validate(args) => validate::run(&args).await,
            Command::Check(args) => validate::check(&args).await,
            Command::Query(args) => Ok(query::run(args).await?),
            Command::Tap(args) => tap::run(args).await,
            Command::Replay(args) => replay::run(args, cli.log).await,
            Command::Repair(args) => repair::run(args).await,
            Command::Dlq(args) => dlq::run(args).await,
            Command::Models(args) => models::run(args).await,
            Command::Serve(args) => serve::run(args).await,
            Command::Functions(args) => functions::run(args).await,
            Command::Schema => Ok(schema::run()?),
            Command::Try(args) => try_record::run(args).await,
            Command::Connectors(args) => Ok(connectors::run(&args)?),
            Command::Completions(args) => Ok(completions::run(&args)?),
            Command::Man(args) => Ok(completions::man(&args)?),
            Command::Sse(args) => Ok(sse::run(args).await?),
            Command::Init(args) => Ok(init::run(&args)?),
            Command::Demo(args) => demo::run(args).await,
        }
    });
    // A blocking read that never returns (a pipe) must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    ended
}

/// Reads and checks a pipeline file; prints what is wrong with it.
fn load(path: &Path) -> std::result::Result<Arc<Pipeline>, Failed> {
    load_given(path, &Given::default())
}

/// As [`load`], with values and variables of the command line.
fn load_given(path: &Path, given: &Given) -> std::result::Result<Arc<Pipeline>, Failed> {
    let variables = given.variables()?;
    let env = |name: &str| variables.get(name);
    let asker = Asker::new(&env);
    let outside = Outside { env: &env, fetch: &fetch, secrets: &|secret| asker.ask(secret) };
    match PipelineFile::load_with(path, given.settings(), &outside) {
        Ok(PipelineFile { pipeline, warnings }) => {
            warnings.iter().for_each(|w| crate::errln!("{w}"));
            Ok(Arc::new(pipeline))
        }
        Err(diagnostics) => {
            crate::errln!("{diagnostics}");
            // What is away may come back: whoever starts processes may try again.
            Err(Failed::Said(if diagnostics.errors() == asker.take_away() { 1 } else { 2 }))
        }
    }
}

/// Downloads a model of the hub that is not on this machine yet, with a line for each file.
fn fetch(model: &ModelConfig) -> Result<()> {
    model.fetch(&mut |at| {
        if at.bytes == 0 {
            let size = at.bytes_total.map_or(String::new(), |bytes| format!(", {:.1} MB", bytes as f64 / 1e6));
            tracing::info!("downloading {}: {}{size}", model.source, at.file);
        }
    })
}

/// Resolves when the process is asked to stop: Ctrl-C, SIGTERM, or its terminal is gone (SIGHUP). Signals are listened
/// for from this call on, not from the first poll.
fn asked_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    async {
        let mut signals: Vec<_> = signals.into_iter().filter_map(std::result::Result::ok).collect();
        if signals.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv()))).await;
    }
}

/// Where a pipeline keeps its data: in the folder that is named, or in one called like it.
fn data_folder(named: Option<PathBuf>, pipeline: &Pipeline) -> Result<PathBuf> {
    named.map_or_else(|| default_folder(Path::new(DEFAULT_ROOT), &pipeline.name), Ok)
}

fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::bug(e.to_string()))?;
    crate::outln!("{text}");
    Ok(())
}

/// One object, over several lines or (`jsonl`) on one.
fn print_object(value: &impl serde::Serialize, format: Format) -> Result<()> {
    if format != Format::Jsonl {
        return print_json(value);
    }
    let text = serde_json::to_string(value).map_err(|e| Error::bug(e.to_string()))?;
    crate::outln!("{text}");
    Ok(())
}
