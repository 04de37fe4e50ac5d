//! `millstream try`: one record through decoder, transforms, tables and sinks, step by step; nothing is written or
//! sent.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream_core::{DeadLetter, Error, RawBatch, Result, Stage, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use super::pipeline_file::Given;
use super::target::{Target, TargetArgs};
use super::{Failed, data_folder, load_given};
use crate::api::DeadLetterView;
use crate::config::diagnostics::suggestion;
use crate::config::is_stdin;
use millstream_engine::dead_letters::{Filter, Ids, scan};
use millstream_engine::relations::AtRest;
use millstream_engine::spec::Pipeline;
use millstream_engine::trial::{Entering, Step, StepKind, Trial};

/// A larger input is no record.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// Characters of a record that are shown.
const SHOWN_MAX: usize = 400;

#[derive(Debug, Args)]
pub struct TryArgs {
    /// The pipeline file; `-` is standard input.
    file: PathBuf,
    /// A file with the record; `-` (or nothing) is standard input.
    #[arg(value_name = "RECORD")]
    record_file: Option<PathBuf>,
    /// The record itself.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["record_file", "from"])]
    record: Option<String>,
    /// Take a dead letter: `--from dlq wire/17` that of an id, `--from dlq` the first one. Where it is: as for `dlq`.
    #[arg(long, num_args = 1..=2, value_names = ["dlq", "ID"], conflicts_with = "record_file")]
    from: Option<Vec<String>>,
    /// The source that the record is for. Needed where there are several.
    #[arg(long)]
    source: Option<String>,
    /// Also ask models behind endpoints.
    #[arg(long)]
    with_endpoints: bool,
    /// How it is printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON array of the steps.
    Json,
    /// One JSON object a line, a line a step.
    Jsonl,
}

/// `millstream try`.
pub async fn run(args: TryArgs) -> std::result::Result<(), Failed> {
    let pipeline = load_given(&args.file, &args.given)?;
    let (bytes, entering) = entering(&args, &pipeline).await?;
    let trial = Trial::open(&pipeline, args.with_endpoints, Arc::new(SystemClock)).await?;
    let steps = trial.run(entering).await?;
    let failed = steps.iter().any(|step| !step.failures.is_empty());
    let text = match args.format {
        Format::Text => text(&bytes, &steps),
        Format::Json => json!(steps).to_string(),
        Format::Jsonl => steps.iter().map(|step| json!(step).to_string()).collect::<Vec<_>>().join("\n"),
    };
    crate::outln!("{}", text.trim_end());
    if failed { Err(Failed::Said(1)) } else { Ok(()) }
}

/// The record's bytes, and where they go in.
async fn entering(args: &TryArgs, pipeline: &Pipeline) -> Result<(Bytes, Entering)> {
    if let Some(from) = &args.from {
        if from[0] != "dlq" {
            return Err(Error::config(format!("--from {}: a record comes from `dlq`, or from a file", from[0])));
        }
        let target = args.target.clone().or_folder(data_folder(None, pipeline)?);
        let letter = dead_letter(target, from.get(1).map(String::as_str)).await?;
        return Ok((letter.raw.clone(), of_letter(letter)));
    }
    let source = source(args.source.as_deref(), pipeline)?;
    let bytes = match (&args.record, &args.record_file) {
        (Some(text), _) => Bytes::copy_from_slice(text.as_bytes()),
        (None, Some(file)) if !is_stdin(file) => read(std::fs::File::open(file), file)?,
        (None, _) if is_stdin(&args.file) => {
            let help = "name a file with the record, or give it with --record";
            return Err(Error::config(format!("standard input is the pipeline file already: {help}")));
        }
        (None, _) => read(Ok(std::io::stdin().lock()), Path::new("standard input"))?,
    };
    if bytes.trim_ascii().is_empty() {
        return Err(Error::config("there is no record: the input is empty"));
    }
    Ok((bytes.clone(), Entering::Body(source, bytes)))
}

fn read<R: std::io::Read>(opened: std::io::Result<R>, from: &Path) -> Result<Bytes> {
    let wrong = |e: std::io::Error| Error::config(format!("{} can't be read: {e}", from.display()));
    let mut bytes = Vec::new();
    opened.map_err(wrong)?.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(Error::config(format!("{} is larger than a record can be", from.display())));
    }
    Ok(bytes.into())
}

fn source(named: Option<&str>, pipeline: &Pipeline) -> Result<Arc<str>> {
    let known: Vec<&str> = pipeline.sources.iter().map(|s| &*s.name).collect();
    match (named, known.as_slice()) {
        (None, [only]) => Ok((*only).into()),
        (None, _) => Err(Error::config(format!("which source is it for? --source {}", known.join(" or --source ")))),
        (Some(name), _) if known.contains(&name) => Ok(name.into()),
        (Some(name), _) => {
            let help = suggestion(name, "sources", &known).unwrap_or_default();
            Err(Error::config(format!("the pipeline has no source `{name}`: {help}")))
        }
    }
}

fn of_letter(letter: DeadLetter) -> Entering {
    if letter.stage != Stage::Decode {
        return Entering::Component(letter);
    }
    let mut raw = RawBatch::single(letter.raw, letter.origin.as_deref().unwrap_or_default().into());
    raw.positions = letter.position.into_iter().collect();
    raw.header = letter.header;
    Entering::Source(letter.component.as_str().into(), raw)
}

async fn dead_letter(target: TargetArgs, id: Option<&str>) -> Result<DeadLetter> {
    let missing = || {
        Error::config(match id {
            Some(id) => format!("no dead letter `{id}`; `millstream dlq list` shows what there is"),
            None => "there are no dead letters".to_owned(),
        })
    };
    match target.resolve().await? {
        Target::Server(server) => {
            let id = match id {
                Some(id) => id.to_owned(),
                None => {
                    let list = server.json(Method::GET, "/api/v1/dlq?limit=1", None).await?;
                    list["dead_letters"][0]["id"].as_str().ok_or_else(missing)?.to_owned()
                }
            };
            let answer = server.json(Method::GET, &format!("/api/v1/dlq/{id}"), None).await?;
            let view: DeadLetterView = serde_json::from_value(answer)
                .map_err(|e| Error::retry("the server's answer is unknown").caused_by(e))?;
            Ok(letter_of(&view))
        }
        Target::Folder(folder) => {
            let opened = AtRest::open(&folder)?;
            let ids = Ids::of(id);
            let filter = Filter { ids, ..Filter::default() };
            let mut found = None;
            for stream in &opened.catalog.streams {
                scan(&opened.log(&stream.name)?, &opened.schemas, &filter, &mut |entry| {
                    found = Some(entry.letter);
                    false
                })?;
                if found.is_some() {
                    break;
                }
            }
            found.ok_or_else(missing)
        }
    }
}

fn letter_of(view: &DeadLetterView) -> DeadLetter {
    DeadLetter {
        stage: view.stage,
        component: view.component.clone(),
        input: view.input.clone(),
        kind: view.kind.clone(),
        message: view.message.clone(),
        raw: view.raw_bytes().into(),
        origin: view.origin.clone(),
        position: view.position,
        header: None,
        partition: view.partition,
        offset: view.offset,
        event_time_us: None,
        failed_at_us: 0,
        attempts: view.attempts,
        pipeline_version: view.pipeline_version.clone(),
        model_version: view.model_version.clone(),
    }
}

fn text(bytes: &[u8], steps: &[Step]) -> String {
    let mut text = format!("record: {}\n  {}\n", counted(bytes.len(), "byte"), shown(&String::from_utf8_lossy(bytes)));
    for step in steps {
        let (kind, unit) = match step.step {
            StepKind::Decode => ("source", "row"),
            StepKind::Transform => ("transform", "row"),
            StepKind::Table => ("table", "change"),
            StepKind::Sink => ("sink", "message"),
        };
        let failures = match step.failures.len() {
            0 => String::new(),
            n => format!(", {}", counted(n, "dead letter")),
        };
        let _ = writeln!(text, "\n{kind} {}: {}{failures}", step.name, counted(step.out.len(), unit));
        for row in &step.out {
            let _ = writeln!(text, "  {}", out(step.step, row));
        }
        for failure in &step.failures {
            let _ = writeln!(text, "  failed: {}: {}", failure.kind, shown(&failure.message));
        }
        step.note.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    }
    text
}

fn out(kind: StepKind, row: &Value) -> String {
    match (kind, row["to"].as_str(), row["body"].as_str()) {
        (StepKind::Sink, Some(to), Some(body)) => format!("to {}: {}", shown(to), escaped(body)),
        _ => row.to_string(),
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn shown(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{}…", escaped(&text[..cut])),
        None => escaped(text),
    }
}

/// Control characters of a record do nothing to the terminal.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => shown.push_str("\n  "),
            '\t' => shown.push(c),
            c if c.is_control() => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}
