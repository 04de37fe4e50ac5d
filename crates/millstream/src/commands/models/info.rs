//! `millstream models info`.

use std::path::Path;

use clap::Args;
use millstream_core::{Result, ResultExt};
use millstream_models::builtins;
use serde_json::{Value, json};

use super::{Chosen, ModelArgs, print_rows};
use crate::commands::{Failed, print_json};
use crate::render::Format;

#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &InfoArgs) -> std::result::Result<(), Failed> {
    let chosen = args.model.resolve()?;
    let facts = facts(&chosen)?;
    if args.format == Format::Json {
        let object: serde_json::Map<String, Value> = facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        return Ok(print_json(&object)?);
    }
    let row = |(key, value): (&str, Value)| match value {
        Value::Null => None,
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            let file =
                |file: &Value| json!(format!("{} ({} bytes)", file["file"].as_str().unwrap_or("?"), file["bytes"]));
            Some(vec![key.into(), list.iter().map(file).collect()])
        }
        value => Some(vec![key.into(), value]),
    };
    print_rows(&["key", "value"], &facts.into_iter().filter_map(row).collect::<Vec<_>>(), args.format);
    Ok(())
}

fn facts(chosen: &Chosen) -> Result<Vec<(&'static str, Value)>> {
    let info = &chosen.info;
    // As the configuration writes it: without credentials.
    let config = serde_json::to_value(&chosen.config).unwrap_or_default();
    Ok(vec![
        ("name", json!(chosen.name)),
        ("source", config["source"].clone()),
        ("task", info.task.as_str().into()),
        ("labels", json!(info.labels)),
        ("dimensions", json!(info.dimensions)),
        ("digest", json!(info.digest)),
        ("files", files(&chosen.config.source)?.into()),
    ])
}

/// The files that the model is made of, with their sizes; none for an endpoint.
fn files(source: &str) -> Result<Vec<Value>> {
    if let Some(builtin) = builtins().into_iter().find(|builtin| builtin.source == source) {
        return Ok(vec![json!({ "file": "(in the program)", "bytes": builtin.bytes })]);
    }
    let path = Path::new(source);
    let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).doing(|| format!("read {}", path.display()));
    if path.is_file() {
        return Ok(vec![json!({ "file": source, "bytes": size(path)? })]);
    }
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).doing(|| format!("read {source}"))? {
        let path = entry.doing(|| format!("read {source}"))?.path();
        if path.is_file() {
            files.push((path.display().to_string(), size(&path)?));
        }
    }
    files.sort();
    Ok(files.into_iter().map(|(file, bytes)| json!({ "file": file, "bytes": bytes })).collect())
}
