//! Millstream's side.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::Outcome;
use crate::generate::Input;
use crate::process::{self, Usage};
use crate::verify::Seen;

/// What both sides compute.
pub const SQL: &str = "SELECT id, upper(source) AS source, headline, body, urgency, published_at FROM wire \
                       WHERE language = 'en' AND urgency <= 8";

const SCHEMA: &str = "{ id: string, headline: string, body: string?, language: string?, source: string, section: string?, \
                      urgency: int, words: int?, published_at: timestamp";

/// The pipeline file: `source` and `sink` are the connectors' own lines, `extra` is one more declared field, `model`
/// the source of a model that scores every headline.
pub fn file(source: &str, sink: &str, extra: Option<&str>, partitions: u32, model: Option<&str>) -> String {
    let schema = extra.map_or_else(|| format!("{SCHEMA} }}"), |field| format!("{SCHEMA}, {field}: int }}"));
    let sql = extra.map_or_else(|| SQL.to_owned(), |field| SQL.replace(" FROM", &format!(", {field} FROM")));
    let (models, scored, rows) = match model {
        None => (String::new(), "", "english"),
        Some(source) => (
            format!("models:\n  tone: {{ task: text-classification, source: \"{source}\" }}\n"),
            "  scored: { from: english, predict: { model: tone, input: headline, output: tone, timeout: 60s } }\n",
            "scored",
        ),
    };
    format!(
        "pipeline: spine\n{models}\
         sources:\n  wire:\n    type: file\n{source}    decode: json\n    schema: {schema}\n    event_time: published_at\n    \
         key: [id]\n    partitions: {partitions}\n\
         transforms:\n  english:\n    sql: \"{sql}\"\n{scored}\
         tables:\n  news: {{ from: {rows}, key: [id] }}\n\
         sinks:\n  out:\n    from: news.changes\n    image: new\n{sink}"
    )
}

/// One run into a new data folder, with its output checked. The time is that of the whole process.
pub fn run(millstream: &Path, input: &Input, dir: &Path, partitions: u32, model: Option<&str>) -> Outcome<Usage> {
    clear(dir)?;
    let (pipeline, out) = (dir.join("pipeline.yaml"), dir.join("out"));
    let source = format!("    path: {}\n", input.path.display());
    let sink = format!("    type: file\n    folder: {}\n", out.display());
    std::fs::write(&pipeline, file(&source, &sink, None, partitions, model))?;
    let usage = process::run(command(millstream, &pipeline, dir).arg("--exit-when-idle"))?;

    let mut seen = Seen::new(input.records);
    for entry in std::fs::read_dir(&out)? {
        seen.read_file(&entry?.path())?;
    }
    seen.check("Millstream's files", input.passing)?;
    let rows = rows_in_table(millstream, dir)?;
    if rows != input.passing {
        return Err(format!("the table holds {rows} rows, not {}", input.passing).into());
    }
    std::fs::remove_dir_all(dir)?;
    Ok(usage)
}

/// `millstream run`, with its data under `dir` and a server on any free port.
pub fn command(millstream: &Path, pipeline: &Path, dir: &Path) -> Command {
    let mut command = Command::new(millstream);
    command.arg("run").arg(pipeline).arg("--data-dir").arg(dir.join("data")).args(["--listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "warn");
    command
}

/// An empty folder.
pub fn clear(dir: &Path) -> Outcome<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(std::fs::create_dir_all(dir)?)
}

fn rows_in_table(millstream: &Path, dir: &Path) -> Outcome<u64> {
    let query = ["query", "SELECT count(*) AS n FROM news", "--format", "json", "--data-dir"];
    let output = Command::new(millstream).args(query).arg(dir.join("data")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text)
        .map_err(|e| format!("`millstream query` said {text:?} ({e}): {}", String::from_utf8_lossy(&output.stderr)))?;
    let row = answer.get(0).unwrap_or(&answer);
    row["n"].as_u64().ok_or_else(|| format!("`millstream query` said {text:?}").into())
}
