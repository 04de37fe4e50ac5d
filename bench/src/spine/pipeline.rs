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

/// What may differ between pipelines.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// One more declared field, an int, which comes out too.
    pub extra: Option<&'a str>,
    /// The column that the source is partitioned by; the table's key is `id`.
    pub source_key: &'a str,
    /// Partitions of the source.
    pub partitions: u32,
    /// The source of a model that scores every headline.
    pub model: Option<&'a str>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self { extra: None, source_key: "id", partitions: 1, model: None }
    }
}

/// The pipeline file: `source` and `sink` are the connectors' own lines.
pub fn file(source: &str, sink: &str, shape: &Shape<'_>) -> String {
    let Shape { extra, source_key, partitions, model } = shape;
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
         sources:\n  wire:\n{source}    decode: json\n    schema: {schema}\n    event_time: published_at\n    \
         key: [{source_key}]\n    partitions: {partitions}\n\
         transforms:\n  english:\n    sql: \"{sql}\"\n{scored}\
         tables:\n  news: {{ from: {rows}, key: [id] }}\n\
         sinks:\n  out:\n    from: news.changes\n    image: new\n{sink}"
    )
}

/// A pipeline that keeps every record of a folder in a table, by its id, and nothing else.
pub fn plain_table(folder: &Path, partitions: u32) -> String {
    format!(
        "pipeline: big_table\n\
         sources:\n  wire:\n    type: file\n    path: {}/*.jsonl\n    decode: json\n    schema: {SCHEMA} }}\n    \
         key: [id]\n    partitions: {partitions}\n\
         tables:\n  news: {{ from: wire, key: [id] }}\n",
        folder.display()
    )
}

/// One run into a new data folder, with its output checked. The time is that of the whole process.
pub fn run(millstream: &Path, input: &Input, dir: &Path, shape: &Shape<'_>) -> Outcome<Usage> {
    clear(dir)?;
    let (pipeline, out) = (dir.join("pipeline.yaml"), dir.join("out"));
    let source = format!("    type: file\n    path: {}\n", input.path.display());
    let sink = format!("    type: file\n    folder: {}\n", out.display());
    std::fs::write(&pipeline, file(&source, &sink, shape))?;
    let usage = process::run(command(millstream, &pipeline, dir).arg("--exit-when-idle"))?;

    let mut seen = Seen::new(input.records);
    for entry in std::fs::read_dir(&out)? {
        seen.read_file(&entry?.path())?;
    }
    seen.check("Millstream's files", input.passing)?;
    let rows = rows_in_table(millstream, dir, "news")?;
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
    command.env("MILLSTREAM_LOG", "warn");
    command
}

/// An empty folder.
pub fn clear(dir: &Path) -> Outcome<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(std::fs::create_dir_all(dir)?)
}

/// How many rows a table holds, of data at rest below `dir`.
pub fn rows_in_table(millstream: &Path, dir: &Path, table: &str) -> Outcome<u64> {
    let query = format!("SELECT count(*) AS n FROM {table}");
    let mut command = Command::new(millstream);
    let output = command.args(["query", &query, "--format", "json", "--data-dir"]).arg(dir.join("data")).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(&text)
        .map_err(|e| format!("`millstream query` said {text:?} ({e}): {}", String::from_utf8_lossy(&output.stderr)))?;
    let row = answer.get(0).unwrap_or(&answer);
    row["n"].as_u64().ok_or_else(|| format!("`millstream query` said {text:?}").into())
}
