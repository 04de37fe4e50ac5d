//! `millstream dlq list|summary|show|redrive|discard`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use millstream_core::terminal::Escapes;
use millstream_core::{Error, Result, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use super::progress::Progress;
use super::target::{Server, Target, TargetArgs};
use super::{Failed, load, print_json};
use crate::api::{DeadLetterView, RedriveRequest};
use crate::output;
use crate::render::{Format, JsonArray, print_values, text_table, unless_closed};
use millstream_engine::at_rest::{discard_at_rest, redrive_at_rest};
use millstream_engine::dead_letters::summary::{self, Group, Summary};
use millstream_engine::dead_letters::{Entry, Filter, Ids, Redrive, scan};
use millstream_engine::relations::AtRest;

/// Bytes of a record that a list shows, and characters of it that a table does.
const PREVIEW_BYTES: usize = 200;
const RECORD_CHARS_MAX: usize = 60;
const REDRIVE: &str = "/api/v1/dlq/redrive";
/// How often a server is asked how far its redrive is.
const ASK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// List the records that failed.
    List {
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        which: Which,
        /// How many at most.
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// How they are printed.
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Count them by component, stage, kind and message.
    Summary {
        #[command(flatten)]
        target: TargetArgs,
        /// How the counts are printed.
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// Show one record that failed, whole.
    Show {
        /// Its id, from `list`.
        id: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Print only the record's bytes, as they were received.
        #[arg(long)]
        raw: bool,
    },
    /// Send records back in front of the stage that failed.
    Redrive {
        /// Ids, from `list`.
        ids: Vec<String>,
        /// All of them, or all that the filters take.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Take records out of the queue for good.
    Discard {
        /// Ids, from `list`.
        ids: Vec<String>,
        /// All of them.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        target: TargetArgs,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Which {
    /// Only of this source, transform, table or sink.
    #[arg(long)]
    component: Option<String>,
    /// Only of this stage: decode, transform, predict or deliver.
    #[arg(long)]
    stage: Option<String>,
    /// Only of this kind, such as malformed or missing_field.
    #[arg(long)]
    kind: Option<String>,
}

impl Which {
    /// What was named; nothing named is not everything.
    fn some(&self, ids: Vec<String>, all: bool) -> Result<RedriveRequest> {
        let filtered = self.component.is_some() || self.stage.is_some() || self.kind.is_some();
        if ids.is_empty() && !all && !filtered {
            return Err(Error::config("which? Name ids, a filter such as --component, or --all"));
        }
        self.request(ids)
    }

    fn request(&self, ids: Vec<String>) -> Result<RedriveRequest> {
        let stage = self.stage.as_ref().map(|stage| {
            serde_json::from_value(Value::from(stage.as_str()))
                .map_err(|_| Error::config(format!("--stage {stage}: decode, transform, predict or deliver")))
        });
        Ok(RedriveRequest {
            ids,
            component: self.component.clone(),
            stage: stage.transpose()?,
            kind: self.kind.clone(),
        })
    }
}

pub async fn run(args: DlqArgs) -> std::result::Result<(), Failed> {
    match args.command {
        DlqCommand::List { target, which, limit, format } => {
            let (letters, total) = list(target.resolve().await?, &which.request(Vec::new())?, limit).await?;
            Ok(print_list(&letters, total, format)?)
        }
        DlqCommand::Summary { target, format } => Ok(print_summary(&summary(target.resolve().await?).await?, format)?),
        DlqCommand::Discard { ids, all, which, target, yes } => {
            let request = which.some(ids, all)?;
            let target = target.resolve().await?;
            Ok(discard(target, &request, yes).await?)
        }
        DlqCommand::Show { id, target, raw } => Ok(show(target.resolve().await?, &id, raw).await?),
        DlqCommand::Redrive { ids, all, which, target } => {
            let request = which.some(ids, all)?;
            let pipeline = target.pipeline_file();
            let done = match target.resolve().await? {
                Target::Server(server) => {
                    let body = serde_json::to_value(&request).map_err(|e| Error::bug(e.to_string()))?;
                    let answer = server.json(Method::POST, REDRIVE, Some(&body));
                    serde_json::from_value(watched(&server, answer).await?).map_err(unknown)?
                }
                Target::Folder(folder) => {
                    let file = pipeline.ok_or_else(|| {
                        Error::config("a redrive in a data folder at rest needs the pipeline file: --pipeline FILE")
                    })?;
                    let mut progress = None;
                    let mut watch = |done, all| {
                        progress.get_or_insert_with(|| Progress::new("redriving", all, "records")).set(done);
                    };
                    let (pipeline, filter) = (load(&file)?, request.filter());
                    redrive_at_rest(pipeline, &folder, &filter, Arc::new(SystemClock), &mut watch).await?
                }
            };
            report(&done);
            Ok(())
        }
    }
}

/// Waits for the answer to a redrive, and shows meanwhile how far the server is.
async fn watched(server: &Server, answer: impl Future<Output = Result<Value>>) -> Result<Value> {
    let mut progress = None;
    tokio::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(ASK_EVERY) => {}
        }
        // A server of an earlier version does not say.
        let Ok(far) = server.json(Method::GET, REDRIVE, None).await else { continue };
        let (done, all) = (far["done"].as_u64().unwrap_or(0), far["all"].as_u64().unwrap_or(0));
        if all > 0 {
            progress.get_or_insert_with(|| Progress::new("redriving", all, "records")).set(done);
        }
    }
}

fn report(done: &Redrive) {
    crate::outln!("{} redriven", done.redriven);
    if done.failed_again > 0 {
        crate::outln!("{} failed again and stay in the queue", done.failed_again);
    }
    if done.unknown > 0 {
        crate::outln!("{} left alone: the pipeline no longer has the step they failed in", done.unknown);
    }
}

fn unknown(e: serde_json::Error) -> Error {
    Error::retry("the server's answer is unknown").caused_by(e)
}

/// At most `limit` of them, and how many there are.
async fn list(target: Target, request: &RedriveRequest, limit: usize) -> Result<(Vec<DeadLetterView>, u64)> {
    match target {
        Target::Server(server) => {
            let mut query: BTreeMap<&str, String> =
                BTreeMap::from([("limit", limit.to_string()), ("count", "true".to_owned())]);
            query.extend(request.component.clone().map(|c| ("component", c)));
            query.extend(request.kind.clone().map(|k| ("kind", k)));
            query.extend(request.stage.map(|s| ("stage", s.as_str().to_owned())));
            let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            let mut answer = server.json(Method::GET, &format!("/api/v1/dlq?{query}"), None).await?;
            let letters: Vec<_> = serde_json::from_value(answer["dead_letters"].take()).map_err(unknown)?;
            let total = answer["total"].as_u64().unwrap_or(letters.len() as u64);
            Ok((letters, total))
        }
        Target::Folder(folder) => {
            let filter = request.filter();
            let (mut letters, mut total) = (Vec::new(), 0);
            at_rest(&folder, &filter, &mut |entry| {
                total += 1;
                if letters.len() < limit {
                    letters.push(DeadLetterView::new(&entry, PREVIEW_BYTES));
                }
                true
            })?;
            if total == 0 && !filter.is_open() {
                check_at_rest(&folder, &filter)?;
            }
            Ok((letters, total))
        }
    }
}

/// Shows `visit` the dead letters of a folder, until it answers false.
fn at_rest(folder: &Path, filter: &Filter, visit: &mut dyn FnMut(Entry) -> bool) -> Result<()> {
    let opened = AtRest::open(folder)?;
    let mut goes_on = true;
    for stream in &opened.catalog.streams {
        if !goes_on {
            break;
        }
        scan(&opened.log(&stream.name)?, &opened.schemas, filter, &mut |entry| {
            goes_on = visit(entry);
            goes_on
        })?;
    }
    Ok(())
}

/// An error where the filter names what is not there.
fn check_at_rest(folder: &Path, filter: &Filter) -> Result<()> {
    let opened = AtRest::open(folder)?;
    let streams = opened.catalog.streams.iter().map(|s| s.name.clone());
    let names = streams.chain(opened.catalog.tables.iter().map(|t| t.name.clone()));
    let sinks = opened.catalog.sinks.iter().cloned();
    summary::check(filter, &groups_at_rest(folder)?, names.chain(sinks).collect::<Vec<_>>())
}

fn groups_at_rest(folder: &Path) -> Result<Vec<Group>> {
    let mut counts = Summary::default();
    at_rest(folder, &Filter::default(), &mut |entry| {
        counts.add(&entry);
        true
    })?;
    Ok(counts.groups())
}

async fn summary(target: Target) -> Result<Vec<Group>> {
    match target {
        Target::Server(server) => {
            let mut answer = server.json(Method::GET, "/api/v1/dlq/summary", None).await?;
            serde_json::from_value(answer["groups"].take()).map_err(unknown)
        }
        Target::Folder(folder) => groups_at_rest(&folder),
    }
}

fn print_summary(groups: &[Group], format: Format) -> Result<()> {
    if groups.is_empty() && format == Format::Table {
        crate::outln!("no dead letters");
        return Ok(());
    }
    let moment = |us: i64| {
        let moment = chrono::DateTime::from_timestamp_micros(us);
        moment.map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    };
    let row = |g: &Group| {
        let (first, last) = (json!(moment(g.first_us)), json!(moment(g.last_us)));
        vec![json!(g.records), json!(g.component), json!(g.stage), json!(g.kind), json!(g.message), first, last]
    };
    let columns = ["records", "component", "stage", "kind", "message", "first", "last"];
    print_values(&columns, &groups.iter().map(row).collect::<Vec<_>>(), format)?;
    if format == Format::Table {
        let total: u64 = groups.iter().map(|g| g.records).sum();
        crate::outln!("{total} dead letter{}", if total == 1 { "" } else { "s" });
    }
    Ok(())
}

async fn discard(target: Target, request: &RedriveRequest, yes: bool) -> Result<()> {
    if !yes {
        let total = match request.ids.len() {
            0 => list(target.clone(), request, 0).await?.1,
            ids => ids as u64,
        };
        if total == 0 {
            crate::outln!("no dead letters");
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Error::config(format!("{total} dead letters would be discarded for good: say so with --yes")));
        }
        crate::errln!("Discard {total} dead letters for good? Type `yes`:");
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if answer.trim() != "yes" {
            return Err(Error::config("nothing was discarded"));
        }
    }
    let discarded = match target {
        Target::Server(server) => {
            let body = serde_json::to_value(request).map_err(|e| Error::bug(e.to_string()))?;
            let answer = server.json(Method::POST, "/api/v1/dlq/discard", Some(&body)).await?;
            answer["discarded"].as_u64().unwrap_or_default()
        }
        Target::Folder(folder) => {
            let discarded = discard_at_rest(&folder, &request.filter(), Arc::new(SystemClock)).await?;
            if discarded == 0 && !request.filter().is_open() {
                check_at_rest(&folder, &request.filter())?;
            }
            discarded as u64
        }
    };
    crate::outln!("{discarded} discarded");
    Ok(())
}

async fn show(target: Target, id: &str, raw: bool) -> Result<()> {
    let letter = match target {
        Target::Server(server) => {
            let answer = server.json(Method::GET, &format!("/api/v1/dlq/{id}"), None).await?;
            serde_json::from_value(answer).map_err(|e| Error::retry("the server's answer is unknown").caused_by(e))?
        }
        Target::Folder(folder) => {
            let filter = Filter { ids: Ids::of([id]), ..Filter::default() };
            let mut found = None;
            at_rest(&folder, &filter, &mut |entry| {
                found = Some(DeadLetterView::new(&entry, usize::MAX));
                false
            })?;
            found.ok_or_else(|| {
                Error::config(format!("no dead letter `{id}`; it may have been redriven or discarded"))
            })?
        }
    };
    if raw {
        let mut out = output::rows(Escapes::Text);
        unless_closed(out.write_all(&letter.raw_bytes()).and_then(|()| out.flush()).map_err(Error::from))
    } else {
        print_json(&letter)
    }
}

fn print_list(letters: &[DeadLetterView], total: u64, format: Format) -> Result<()> {
    match format {
        Format::Json | Format::Jsonl => {
            let mut out = output::rows(Escapes::Json);
            let mut array = JsonArray::default();
            let written = letters.iter().try_for_each(|letter| match format {
                Format::Json => array.lines(json!(letter).to_string().as_bytes(), &mut out),
                _ => Ok(writeln!(out, "{}", json!(letter))?),
            });
            let end = |out: &mut dyn Write| if format == Format::Json { array.end(out) } else { Ok(()) };
            unless_closed(written.and_then(|()| end(&mut out)).and_then(|()| Ok(out.flush()?)))
        }
        Format::Csv => {
            let columns = ["id", "stage", "component", "kind", "attempts", "failed_at", "message"];
            let row = |l: &DeadLetterView| {
                let (stage, at) = (json!(l.stage.as_str()), json!(l.failed_at));
                vec![json!(l.id), stage, json!(l.component), json!(l.kind), json!(l.attempts), at, json!(l.message)]
            };
            print_values(&columns, &letters.iter().map(row).collect::<Vec<_>>(), format)
        }
        Format::Table if total == 0 => {
            crate::outln!("no dead letters");
            Ok(())
        }
        Format::Table => {
            let rows = letters.iter().map(|l| {
                let record = l.raw.clone().unwrap_or_else(|| format!("({} bytes, not text)", l.bytes));
                let record: String = record.chars().take(RECORD_CHARS_MAX).collect();
                let stage = l.stage.as_str().to_owned();
                vec![l.id.clone(), stage, l.component.clone(), l.kind.clone(), l.message.clone(), record]
            });
            crate::outln!("{}", text_table(&["id", "stage", "component", "kind", "message", "record"], rows));
            let (shown, plural) = (letters.len() as u64, if total == 1 { "" } else { "s" });
            if shown < total {
                crate::outln!("{shown} of {total} dead letters; --limit shows more, `dlq summary` counts them");
            } else {
                crate::outln!("{total} dead letter{plural}");
            }
            Ok(())
        }
    }
}
