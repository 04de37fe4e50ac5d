//! `millstream models info`.

use std::path::Path;

use clap::Args;
use millstream_core::{Result, ResultExt};
use millstream_models::huggingface::hub::{Hub, locate};
use millstream_models::source::Source;
use millstream_models::text_model::Computing;
use millstream_models::{Reads, builtins};
use serde_json::{Value, json};

use super::{Chosen, ModelArgs};
use crate::commands::{Failed, print_object};
use crate::render::{Format, print_values};

#[derive(Debug, Args)]
pub struct InfoArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &InfoArgs) -> std::result::Result<(), Failed> {
    let chosen = args.model.resolve_local()?;
    let facts = facts(&chosen)?;
    if matches!(args.format, Format::Json | Format::Jsonl) {
        let object: serde_json::Map<String, Value> = facts.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        return Ok(print_object(&object, args.format)?);
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
    print_values(&["key", "value"], &facts.into_iter().filter_map(row).collect::<Vec<_>>(), args.format)?;
    Ok(())
}

fn facts(chosen: &Chosen) -> Result<Vec<(&'static str, Value)>> {
    let info = &chosen.info;
    // As the configuration writes it: without credentials.
    let config = serde_json::to_value(&chosen.config).unwrap_or_default();
    let computing = chosen.config.computing()?;
    let of = |value: fn(Computing) -> Value| computing.map_or(Value::Null, value);
    Ok(vec![
        ("name", json!(chosen.name)),
        ("source", config["source"].clone()),
        ("task", info.task.as_str().into()),
        ("labels", json!(info.labels)),
        ("multi_label", info.multi_label.into()),
        ("reads", reads(&info.reads)),
        ("dimensions", json!(info.dimensions)),
        ("max_length", of(|computing| computing.tokens_max.into())),
        ("precision", of(|computing| json!(computing.precision))),
        ("threads", of(|computing| computing.threads.into())),
        ("digest", json!(info.digest)),
        ("files", files(&chosen.config.source)?.into()),
    ])
}

/// A text, or the columns with their types.
fn reads(reads: &Reads) -> Value {
    match reads {
        Reads::Text => "text".into(),
        Reads::Row(columns) => columns.iter().map(|column| Value::from(column.to_string())).collect(),
    }
}

/// The files that the model is made of, with their sizes; none for an endpoint.
fn files(source: &str) -> Result<Vec<Value>> {
    let folder = match Source::parse(source)? {
        Source::Folder(folder) => folder,
        Source::Hub(repository) => locate(&Hub::from_env()?, &repository)?,
        Source::Onnx(file) => return onnx_files(&file),
        _ => {
            let builtin = builtins().into_iter().filter(|builtin| builtin.source == source);
            return Ok(builtin.map(|b| json!({ "file": "(in the program)", "bytes": b.bytes })).collect());
        }
    };
    let mut files = Vec::new();
    add_files(&folder, 1, &mut files)?;
    files.iter_mut().for_each(|(file, _)| {
        if let Ok(inside) = Path::new(file).strip_prefix(&folder) {
            *file = inside.display().to_string();
        }
    });
    files.sort();
    Ok(files.into_iter().map(|(file, bytes)| json!({ "file": file, "bytes": bytes })).collect())
}

/// The file, and the tokenizer beside it.
fn onnx_files(file: &Path) -> Result<Vec<Value>> {
    let tokenizer = file.with_file_name("tokenizer.json");
    let files = [file.to_owned()].into_iter().chain(tokenizer.exists().then_some(tokenizer));
    let entry = |file: std::path::PathBuf| {
        let bytes = std::fs::metadata(&file).doing(|| format!("read {}", file.display()))?.len();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(json!({ "file": name, "bytes": bytes }))
    };
    files.map(entry).collect()
}

/// Files of a folder and, where sentence-transformers keep their modules, of the folders in it.
fn add_files(folder: &Path, depth: usize, files: &mut Vec<(String, u64)>) -> Result<()> {
    let doing = || format!("read {}", folder.display());
    for entry in std::fs::read_dir(folder).doing(doing)? {
        let path = entry.doing(doing)?.path();
        // Through links: the hub's cache is made of them.
        let metadata = std::fs::metadata(&path).doing(|| format!("read {}", path.display()))?;
        if metadata.is_file() {
            files.push((path.display().to_string(), metadata.len()));
        } else if metadata.is_dir() && depth > 0 {
            add_files(&path, depth - 1, files)?;
        }
    }
    Ok(())
}
