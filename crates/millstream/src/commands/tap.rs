//! `millstream tap`.

mod printer;

use std::path::{Path, PathBuf};

use clap::Args;
use millstream_core::{Error, Result};
use millstream_sql::Predicate;
use reqwest::Method;

use self::printer::{Printer, TapFormat, say_removed};
use super::target::{Server, Target, TargetArgs};
use super::{Failed, asked_to_stop, load};
use crate::api::tap::{kept, lines, unknown};
use millstream_engine::plan::changes_name;
use millstream_engine::recompute::recompute;
use millstream_engine::relations::AtRest;
use millstream_engine::spec::Pipeline;
use millstream_engine::streams::StreamReader;

#[derive(Debug, Args)]
pub struct TapArgs {
    /// What to watch: sources, transforms, tables (`news` stands for `news.changes`). Several, if you like.
    #[arg(required = true, num_args = 1..)]
    names: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Where to begin: `earliest`, `latest` or an offset. Default: latest on a server, earliest in a folder.
    /// A transform that no sink reads is not stored: on a server it is watched from now on, in a folder computed again
    /// (with --pipeline FILE).
    #[arg(long)]
    from: Option<String>,
    /// The same as `--from earliest`.
    #[arg(long, conflicts_with = "from")]
    from_start: bool,
    /// Only the records for which this SQL condition is true: `"sentiment.score > 0.9"`.
    #[arg(long = "where", value_name = "CONDITION")]
    condition: Option<String>,
    /// End after so many records.
    #[arg(long)]
    limit: Option<u64>,
    /// End with what is there instead of waiting for more.
    #[arg(long)]
    no_follow: bool,
    /// How records are printed.
    #[arg(long, value_enum, default_value = "jsonl")]
    format: TapFormat,
}

/// `millstream tap`.
pub async fn run(args: TapArgs) -> std::result::Result<(), Failed> {
    let args = TapArgs { from: args.from.clone().or(args.from_start.then(|| "earliest".into())), ..args };
    let mut printer = Printer::new(args.format, args.names.len() > 1);
    match args.target.clone().resolve().await? {
        Target::Server(server) => of_server(&args, &server, &mut printer).await?,
        Target::Folder(folder) => {
            let file = args.target.pipeline_file();
            let pipeline = file.map(|file: PathBuf| load(&file)).transpose()?;
            at_rest(&args, &folder, pipeline.as_deref(), &mut printer).await?;
        }
    }
    Ok(printer.finish()?)
}

async fn of_server(args: &TapArgs, server: &Server, printer: &mut Printer) -> Result<()> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("follow", if args.no_follow { "false" } else { "true" });
    if let Some(from) = &args.from {
        query.append_pair("from", from);
    }
    if let Some(limit) = args.limit {
        query.append_pair("limit", &limit.to_string());
    }
    if let Some(condition) = &args.condition {
        query.append_pair("where", condition);
    }
    let names: String = url::form_urlencoded::byte_serialize(args.names.join(",").as_bytes()).collect();
    let path = format!("/api/v1/streams/{names}/tap?{}", query.finish());
    let mut answer = server.send(Method::GET, &path, None, None).await?;
    let mut text = Vec::new();
    loop {
        let piece = tokio::select! {
            piece = answer.chunk() => piece.map_err(|e| Error::retry("the server went away").caused_by(e))?,
            () = asked_to_stop() => return Ok(()),
        };
        let Some(piece) = piece else { return Ok(()) };
        text.extend_from_slice(&piece);
        // A piece may end in the middle of a line.
        let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let rest = text.split_off(whole);
        if !printer.lines(&text)? {
            return Ok(());
        }
        text = rest;
    }
}

/// Prints what is in a data folder, one name after the other.
async fn at_rest(args: &TapArgs, folder: &Path, pipeline: Option<&Pipeline>, printer: &mut Printer) -> Result<()> {
    let opened = AtRest::open(folder)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    for name in &args.names {
        let changes = changes_name(name);
        let is_table = opened.catalog.tables.iter().any(|table| table.name == *name);
        let stream = if is_table { &*changes } else { name };
        if opened.catalog.streams.iter().any(|s| s.visible && s.name == stream) {
            stored(args, &opened, stream, &mut left, printer).await?;
            continue;
        }
        match pipeline.filter(|pipeline| pipeline.transforms.iter().any(|t| *t.name == **name)) {
            Some(pipeline) => computed(args, &opened, pipeline, name, &mut left, printer).await?,
            None => return Err(Error::config(not_stored(&opened, pipeline, name))),
        }
    }
    Ok(())
}

fn not_stored(opened: &AtRest, pipeline: Option<&Pipeline>, name: &str) -> String {
    let streams = opened.catalog.streams.iter().filter(|s| s.visible).map(|s| s.name.clone());
    let transforms = pipeline.into_iter().flat_map(|p| &p.transforms).map(|t| t.name.to_string());
    let mut known: Vec<String> = streams.chain(transforms).collect();
    known.sort_unstable();
    known.dedup();
    let hint = match pipeline {
        None => {
            ". A transform is stored only where a sink reads it: any other is computed again from its source's \
                 records with --pipeline FILE"
        }
        Some(_) => "",
    };
    format!("{}{hint}", unknown(name, &known))
}

async fn stored(args: &TapArgs, opened: &AtRest, stream: &str, left: &mut u64, printer: &mut Printer) -> Result<()> {
    let log = opened.log(stream)?;
    let mut predicate = None;
    for partition in 0..log.partitions() {
        let from = args.begin(log.start_offset(partition), log.end_offset(partition))?;
        let mut reader = StreamReader::new(&log, &opened.schemas, partition, from)?;
        loop {
            let batches = reader.read(256 << 10).await?;
            say_removed(stream, reader.skipped());
            if batches.is_empty() {
                break;
            }
            for batch in batches {
                if batch.target.is_some() {
                    continue;
                }
                // Each batch has the schema it was written with.
                if predicate.as_ref().is_none_or(|(schema, _)| schema != batch.batch.schema_ref()) {
                    predicate = args.predicate(stream, batch.batch.schema_ref())?.map(|p| (batch.batch.schema(), p));
                }
                let offsets = (batch.base_offset..batch.end_offset()).collect();
                let rows = (batch.partition, offsets, batch.batch);
                if !show(stream, predicate.as_ref().map(|(_, p)| p), rows, left, printer)? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

async fn computed(
    args: &TapArgs,
    opened: &AtRest,
    pipeline: &Pipeline,
    name: &str,
    left: &mut u64,
    printer: &mut Printer,
) -> Result<()> {
    if args.from.as_deref().is_some_and(|from| from != "earliest") {
        let message = format!("the rows of `{name}` are not stored: they are computed from the earliest on");
        return Err(Error::config(message));
    }
    let schema = pipeline.relation_schema(name).ok_or_else(|| Error::bug("a transform without a schema"))?;
    let predicate = args.predicate(name, &schema)?;
    recompute(pipeline, name, opened, &mut |partition, offsets, rows| {
        show(name, predicate.as_ref(), (partition, offsets, rows), left, printer)
    })
    .await
}

/// Prints rows that meet the condition; false where no more are wanted.
fn show(
    name: &str,
    predicate: Option<&Predicate>,
    (partition, offsets, rows): (u32, Vec<u64>, arrow::array::RecordBatch),
    left: &mut u64,
    printer: &mut Printer,
) -> Result<bool> {
    let (offsets, rows) = kept(predicate, offsets, rows)?;
    let room = rows.num_rows().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= room as u64;
    let is_read = printer.lines(&lines(name, partition, &offsets[..room], &rows.slice(0, room))?)?;
    Ok(is_read && *left > 0)
}

impl TapArgs {
    fn begin(&self, start: u64, end: u64) -> Result<u64> {
        let wrong = |_| Error::config("--from takes `earliest`, `latest` or an offset");
        Ok(match self.from.as_deref() {
            None | Some("earliest") => start,
            Some("latest") => end,
            // One below the start is said to be by the reader.
            Some(offset) => offset.parse::<u64>().map_err(wrong)?.min(end),
        })
    }

    fn predicate(&self, name: &str, schema: &arrow::datatypes::SchemaRef) -> Result<Option<Predicate>> {
        let compiled = self.condition.as_ref().map(|condition| Predicate::compile(condition, schema)).transpose();
        compiled.map_err(|e| Error::config(format!("the condition does not fit `{name}`: {e}")))
    }
}
