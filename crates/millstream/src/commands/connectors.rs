//! `millstream connectors`: the types of sources and sinks with their options, from the JSON Schema of the pipeline
//! file.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::{Args, ValueEnum};
use millstream_core::{Error, Result};

use crate::config::diagnostics::suggestion;
use crate::config::reference::{Connector, connectors};
use crate::render::unless_closed;

/// Columns of the text on a terminal.
const WIDTH: usize = 100;

#[derive(Debug, Args)]
pub struct ConnectorsArgs {
    /// A type of sources or sinks, such as `http`. Default: the list of them.
    name: Option<String>,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
}

/// `millstream connectors`.
pub fn run(args: &ConnectorsArgs) -> Result<()> {
    let chosen = chosen(args.name.as_deref())?;
    let text = match (args.format, &args.name) {
        (Format::Text, None) => list(&chosen),
        (Format::Text, Some(_)) => chosen.iter().map(options).collect::<Vec<_>>().join("\n"),
        (Format::Json, _) => format!("{}\n", json(&chosen)?),
        (Format::Jsonl, _) => chosen.iter().map(|c| Ok(format!("{}\n", json(c)?))).collect::<Result<String>>()?,
    };
    unless_closed(std::io::stdout().write_all(text.as_bytes()).map_err(Error::from))
}

/// Those of a name: there may be a source and a sink of it.
fn chosen(name: Option<&str>) -> Result<Vec<Connector>> {
    let all = connectors();
    let Some(name) = name else { return Ok(all) };
    let wanted = name.to_lowercase().replace('-', "_");
    let chosen: Vec<Connector> = all.iter().filter(|c| c.name == wanted).cloned().collect();
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let mut known: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
    known.sort_unstable();
    known.dedup();
    let help = suggestion(&wanted, "there is", &known).unwrap_or_default();
    Err(Error::config(format!("no source or sink has the type `{name}`: {help}")))
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::bug(e.to_string()))
}

fn list(all: &[Connector]) -> String {
    let mut text = String::new();
    for direction in ["source", "sink"] {
        let _ = writeln!(text, "{direction}s:");
        for connector in all.iter().filter(|c| c.direction == direction) {
            let about = wrapped(&connector.text, 16);
            let _ = writeln!(text, "  {:<13} {about}", connector.name);
        }
        text.push('\n');
    }
    text.push_str("`millstream connectors NAME` shows the options of one.\n");
    text
}

fn options(connector: &Connector) -> String {
    let Connector { direction, name, text: about, options } = connector;
    let mut text = format!("{direction} `type: {name}`\n  {}\n", wrapped(about, 2));
    for option in options {
        let needed = match (&option.default, option.required) {
            (_, true) => ", required".to_owned(),
            (Some(default), _) => format!(", default {default}"),
            _ => String::new(),
        };
        let _ = writeln!(text, "\n  {}  ({}{needed})", option.key, option.value.replace('`', ""));
        let _ = writeln!(text, "      {}", wrapped(&option.text, 6));
    }
    text
}

/// `text` in lines that begin, but for the first, behind `indent` spaces.
fn wrapped(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let length = lines[last].chars().count();
        if length > 0 && indent + length + 1 + word.chars().count() > WIDTH {
            lines.push(word.to_owned());
        } else {
            if length > 0 {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}
