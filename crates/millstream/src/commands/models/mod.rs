//! `millstream models list|info|pull|reload|eval|bench`: what models there are, what they are, how good and how fast.

mod bench;
mod eval;
mod info;
mod list;
mod pull;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use millstream_core::{Error, Result};
use millstream_models::source::Source;
use millstream_models::{ModelConfig, ModelInfo, PrecisionSetting, Task};

use super::{Failed, fetch, load, models_reload};

#[derive(Debug, Args)]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// List the models that come with Millstream, and those of a pipeline file or a running server.
    List(list::ListArgs),
    /// Say what a model is.
    Info(info::InfoArgs),
    /// Download a model of the Hugging Face hub into its cache, or bring it up to date.
    Pull(pull::PullArgs),
    /// Have a running server load a model's files anew, while records go on.
    Reload(models_reload::ReloadArgs),
    /// Compare a classifier with the labels of a CSV file.
    Eval(eval::EvalArgs),
    /// Measure how fast a model is, by itself and through its queue.
    Bench(bench::BenchArgs),
}

pub async fn run(args: ModelsArgs) -> std::result::Result<(), Failed> {
    match args.command {
        ModelsCommand::List(args) => list::run(args).await,
        ModelsCommand::Info(args) => info::run(&args),
        ModelsCommand::Pull(args) => Ok(pull::run(args).await?),
        ModelsCommand::Reload(args) => Ok(models_reload::run(args).await?),
        ModelsCommand::Eval(args) => eval::run(args).await,
        ModelsCommand::Bench(args) => bench::run(args).await,
    }
}

/// Which model.
#[derive(Debug, Args)]
pub struct ModelArgs {
    /// A source, as in a pipeline file (`builtin:headline-sentiment`, `./folder`, `hf://org/name`); with --pipeline
    /// also a model's name there, with its settings.
    #[arg(value_name = "SOURCE|NAME", env = "MILLSTREAM_MODEL")]
    model: String,
    /// The pipeline file that names the model.
    #[arg(long, value_name = "FILE")]
    pipeline: Option<PathBuf>,
    /// What the model does. Needed only where its source does not say.
    #[arg(long, value_enum)]
    task: Option<TaskArg>,
    /// The labels, for an endpoint, or other names for those of a folder: `negative,neutral,positive`.
    #[arg(long, value_delimiter = ',', conflicts_with = "pipeline")]
    labels: Vec<String>,
    /// Folders and models of the hub: the numbers to compute in. Default: the fastest on this processor.
    #[arg(long, value_enum)]
    precision: Option<PrecisionArg>,
    /// Folders and models of the hub: the most tokens of a text.
    #[arg(long)]
    max_length: Option<usize>,
    /// Folders and models of the hub: threads that compute. Default: one for each core.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PrecisionArg {
    Auto,
    F32,
    Bf16,
    Int8,
}

impl From<PrecisionArg> for PrecisionSetting {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Auto => Self::Auto,
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
            PrecisionArg::Int8 => Self::Int8,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TaskArg {
    TextClassification,
    Embedding,
    TabularClassification,
    TabularRegression,
}

impl From<TaskArg> for Task {
    fn from(task: TaskArg) -> Self {
        match task {
            TaskArg::TextClassification => Self::TextClassification,
            TaskArg::Embedding => Self::Embedding,
            TaskArg::TabularClassification => Self::TabularClassification,
            TaskArg::TabularRegression => Self::TabularRegression,
        }
    }
}

/// A model that can be loaded.
#[derive(Debug)]
pub struct Chosen {
    /// Its name: the one in the pipeline file, else the source's own.
    pub name: String,
    /// How it is loaded.
    pub config: ModelConfig,
    /// What it is.
    pub info: ModelInfo,
}

impl ModelArgs {
    /// Finds the model, and downloads it where it is one of the hub that is not here yet.
    pub fn resolve(&self) -> std::result::Result<Chosen, Failed> {
        if self.pipeline.is_none() {
            fetch(&ModelConfig::new(Task::TextClassification, self.model.as_str()))?;
        }
        self.resolve_local()
    }

    /// Finds the model on this machine; a pipeline file is checked on the way. Nothing is loaded yet.
    pub fn resolve_local(&self) -> std::result::Result<Chosen, Failed> {
        let pipeline = self.pipeline.as_deref().map(load).transpose()?;
        if let Some(spec) = pipeline.as_ref().and_then(|pipeline| pipeline.model(&self.model)) {
            let config = self.with_settings(spec.config.clone());
            let info = ModelInfo { name: spec.name.clone(), ..config.check()? };
            return Ok(Chosen { name: spec.name.to_string(), config, info });
        }
        match pipeline {
            // A source has a colon, a slash or a dot in it; a name has none.
            Some(pipeline) if !self.model.contains([':', '/', '.']) => {
                let known: Vec<&str> = pipeline.models.iter().map(|m| &*m.name).collect();
                let message = format!("the pipeline has no model `{}`; it has {}", self.model, known.join(", "));
                Err(Error::config(message).into())
            }
            _ => Ok(self.of_source()?),
        }
    }

    /// What the command says goes before what the pipeline file says.
    fn with_settings(&self, config: ModelConfig) -> ModelConfig {
        ModelConfig {
            precision: self.precision.map_or(config.precision, PrecisionSetting::from),
            max_length: self.max_length.or(config.max_length),
            threads: self.threads.or(config.threads),
            ..config
        }
    }

    fn of_source(&self) -> Result<Chosen> {
        let checked = |task: Task| {
            let config = ModelConfig { labels: self.labels.clone(), ..ModelConfig::new(task, self.model.as_str()) };
            let config = self.with_settings(config);
            let info = config.check()?;
            // The folder of a model in the hub's cache is called by its commit.
            let name = match Source::parse(&config.source)? {
                Source::Hub(repository) => repository.id.rsplit('/').next().unwrap_or_default().to_owned(),
                _ => info.name.to_string(),
            };
            Ok(Chosen { name, config, info })
        };
        if let Some(task) = self.task {
            return checked(task.into());
        }
        // Most sources know what they do. Where all fail, the message is about what people mostly want.
        let (first, others): (Task, &[Task]) = match Source::parse(&self.model) {
            Ok(Source::Onnx(_)) => {
                let others = &[Task::TabularRegression, Task::TextClassification, Task::Embedding];
                (Task::TabularClassification, others)
            }
            _ => (Task::TextClassification, &[Task::Embedding]),
        };
        checked(first).or_else(|e| others.iter().find_map(|task| checked(*task).ok()).ok_or(e))
    }
}
