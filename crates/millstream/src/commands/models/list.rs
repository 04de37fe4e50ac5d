//! `millstream models list`.

use std::path::PathBuf;

use clap::Args;
use millstream_core::Result;
use millstream_models::{ModelConfig, Task, builtins};
use reqwest::Method;
use serde_json::{Value, json};

use crate::commands::server_args::ClientTlsArgs;
use crate::commands::target::Server;
use crate::commands::{Failed, load};
use crate::render::{Format, print_values};

const COLUMNS: [&str; 8] = ["name", "source", "task", "labels", "dimensions", "digest", "bytes", "reads"];

#[derive(Debug, Args)]
pub struct ListArgs {
    /// List the models of this pipeline file instead.
    file: Option<PathBuf>,
    /// List the loaded models of this running server instead.
    #[arg(long, env = "MILLSTREAM_URL", conflicts_with = "file")]
    url: Option<String>,
    /// The server's bearer token.
    #[arg(long, env = "MILLSTREAM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    tls: ClientTlsArgs,
    /// How they are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub async fn run(args: ListArgs) -> std::result::Result<(), Failed> {
    let rows = match (args.file, args.url) {
        (Some(file), _) => of_pipeline(&*load(&file)?),
        (None, Some(url)) => of_server(&Server::at(&url, args.token, &args.tls)?).await?,
        (None, None) => of_binary()?,
    };
    print_values(&COLUMNS, &rows, args.format)?;
    Ok(())
}

fn of_binary() -> Result<Vec<Vec<Value>>> {
    let row = |builtin: &millstream_models::Builtin| {
        let classifier = ModelConfig::new(Task::TextClassification, builtin.source);
        let info = classifier.check().or_else(|_| ModelConfig::new(Task::Embedding, builtin.source).check())?;
        let task = info.task.as_str();
        Ok([info.name.to_string().into(), builtin.source.into(), task.into(), json!(info.labels)]
            .into_iter()
            .chain([json!(info.dimensions), info.digest.to_string().into(), builtin.bytes.into()])
            .chain([info.reads.to_string().into()])
            .collect())
    };
    builtins().iter().map(row).collect()
}

fn of_pipeline(pipeline: &crate::config::Pipeline) -> Vec<Vec<Value>> {
    let models = pipeline.models.iter().map(|model| {
        let (info, config) = (&model.info, serde_json::to_value(&model.config).unwrap_or_default());
        // As the configuration writes it: without credentials.
        let source = config["source"].clone();
        vec![
            json!(model.name),
            source,
            info.task.as_str().into(),
            json!(info.labels),
            json!(info.dimensions),
            json!(info.digest),
            Value::Null,
            info.reads.to_string().into(),
        ]
    });
    models.collect()
}

async fn of_server(server: &Server) -> Result<Vec<Vec<Value>>> {
    let index = server.json(Method::POST, "/v2/repository/index", None).await?;
    let mut rows = Vec::new();
    for model in index.as_array().into_iter().flatten() {
        let name = model["name"].as_str().unwrap_or_default();
        let metadata = server.json(Method::GET, &format!("/v2/models/{name}"), None).await?;
        let (parameters, dimensions) = (&metadata["parameters"], &metadata["outputs"][0]["shape"][1]);
        let is_embedding = parameters["task"] == Task::Embedding.as_str();
        rows.push(vec![
            name.into(),
            Value::Null,
            parameters["task"].clone(),
            parameters["labels"].clone(),
            if is_embedding && dimensions.as_i64() > Some(0) { dimensions.clone() } else { Value::Null },
            model["version"].clone(),
            Value::Null,
            parameters["reads"].clone(),
        ]);
    }
    Ok(rows)
}
