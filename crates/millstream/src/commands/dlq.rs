//! `millstream dlq list|show|redrive`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, Subcommand};
use millstream_core::{Error, Result, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};

use super::target::{Target, TargetArgs};
use super::{Failed, load, print_json};
use crate::api::{DeadLetterView, RedriveRequest};
use crate::pipeline::dead_letters::{Filter, Redrive, scan};
use crate::pipeline::relations::AtRest;
use crate::pipeline::run::redrive_at_rest;
use crate::render::{Format, text_table};

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
            let letters = list(target.resolve().await?, &which.request(Vec::new())?, limit).await?;
            Ok(print_list(&letters, format)?)
        }
        DlqCommand::Show { id, target, raw } => Ok(show(target.resolve().await?, &id, raw).await?),
        DlqCommand::Redrive { ids, all, which, target } => {
            let filtered = which.component.is_some() || which.stage.is_some() || which.kind.is_some();
            if ids.is_empty() && !all && !filtered {
                return Err(Error::config("which? Name ids, a filter such as --component, or --all").into());
            }
            let request = which.request(ids)?;
            let pipeline = target.pipeline_file();
            let done = match target.resolve().await? {
                Target::Server(server) => {
                    let body = serde_json::to_value(&request).map_err(|e| Error::bug(e.to_string()))?;
                    let answer = server.json(Method::POST, "/api/v1/dlq/redrive", Some(&body)).await?;
                    serde_json::from_value(answer)
                        .map_err(|e| Error::retry("the server's answer is unknown").caused_by(e))?
                }
                Target::Folder(folder) => {
                    let file = pipeline.ok_or_else(|| {
                        Error::config("a redrive in a data folder at rest needs the pipeline file: --pipeline FILE")
                    })?;
                    redrive_at_rest(load(&file)?, &folder, &request.filter(), Arc::new(SystemClock)).await?
                }
            };
            report(&done);
            Ok(())
        }
    }
}

fn report(done: &Redrive) {
    println!("{} redriven", done.redriven);
    if done.failed_again > 0 {
        println!("{} failed again and stay in the queue", done.failed_again);
    }
    if done.unknown > 0 {
        println!("{} left alone: the pipeline no longer has the step they failed in", done.unknown);
    }
}

async fn list(target: Target, request: &RedriveRequest, limit: usize) -> Result<Vec<DeadLetterView>> {
    match target {
        Target::Server(server) => {
            let mut query: BTreeMap<&str, String> = BTreeMap::from([("limit", limit.to_string())]);
            query.extend(request.component.clone().map(|c| ("component", c)));
            query.extend(request.kind.clone().map(|k| ("kind", k)));
            query.extend(request.stage.map(|s| ("stage", s.as_str().to_owned())));
            let query: String = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
            let mut answer = server.json(Method::GET, &format!("/api/v1/dlq?{query}"), None).await?;
            let letters = answer["dead_letters"].take();
            serde_json::from_value(letters).map_err(|e| Error::retry("the server's answer is unknown").caused_by(e))
        }
        Target::Folder(folder) => at_rest(&folder, &request.filter(), limit, 200),
    }
}

fn at_rest(folder: &Path, filter: &Filter, limit: usize, bytes_max: usize) -> Result<Vec<DeadLetterView>> {
    let opened = AtRest::open(folder)?;
    let mut letters = Vec::new();
    for stream in &opened.catalog.streams {
        if letters.len() >= limit {
            break;
        }
        scan(&opened.log(&stream.name)?, &opened.schemas, filter, &mut |entry| {
            letters.push(DeadLetterView::new(&entry, bytes_max));
            letters.len() < limit
        })?;
    }
    Ok(letters)
}

async fn show(target: Target, id: &str, raw: bool) -> Result<()> {
    let letter = match target {
        Target::Server(server) => {
            let answer = server.json(Method::GET, &format!("/api/v1/dlq/{id}"), None).await?;
            serde_json::from_value(answer).map_err(|e| Error::retry("the server's answer is unknown").caused_by(e))?
        }
        Target::Folder(folder) => {
            let filter = Filter { ids: vec![id.to_owned()], ..Filter::default() };
            let found = at_rest(&folder, &filter, 1, usize::MAX)?.into_iter().next();
            found.ok_or_else(|| Error::config(format!("no dead letter `{id}`; it may have been redriven")))?
        }
    };
    if raw {
        use std::io::Write;
        Ok(std::io::stdout().write_all(&letter.raw_bytes())?)
    } else {
        print_json(&letter)
    }
}

fn print_list(letters: &[DeadLetterView], format: Format) -> Result<()> {
    match format {
        Format::Json => letters.iter().for_each(|letter| println!("{}", json!(letter))),
        Format::Csv => {
            println!("id,stage,component,kind,attempts,failed_at,message");
            for l in letters {
                let quoted = l.message.replace('"', "\"\"");
                let at = l.failed_at.clone().unwrap_or_default();
                println!("{},{},{},{},{},{at},\"{quoted}\"", l.id, l.stage.as_str(), l.component, l.kind, l.attempts);
            }
        }
        Format::Table if letters.is_empty() => println!("no dead letters"),
        Format::Table => {
            let rows = letters.iter().map(|l| {
                let record = l.raw.clone().unwrap_or_else(|| format!("({} bytes, not text)", l.bytes));
                let record: String = record.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
                vec![
                    l.id.clone(),
                    l.stage.as_str().into(),
                    l.component.clone(),
                    l.kind.clone(),
                    l.message.clone(),
                    record,
                ]
            });
            println!("{}", text_table(&["id", "stage", "component", "kind", "message", "record"], rows));
            println!("{} dead letter{}", letters.len(), if letters.len() == 1 { "" } else { "s" });
        }
    }
    Ok(())
}
