//! `millstream tap`.

use std::io::Write;

use clap::Args;
use millstream_core::terminal::Escapes;
use millstream_core::{Error, Result};
use reqwest::Method;

use super::target::{Target, TargetArgs};
use crate::output;
use crate::pipeline::relations;
use crate::render::{tap_lines, unless_closed};

#[derive(Debug, Args)]
pub struct TapArgs {
    /// A stream: a source, a table's changes (`news.changes`), or a transform that a sink reads.
    name: String,
    #[command(flatten)]
    target: TargetArgs,
    /// Where to begin: `earliest`, `latest` or an offset. Default: latest on a server, earliest in a folder.
    #[arg(long)]
    from: Option<String>,
    /// End after so many records.
    #[arg(long)]
    limit: Option<u64>,
    /// End with what is there instead of waiting for more.
    #[arg(long)]
    no_follow: bool,
}

pub async fn run(args: TapArgs) -> Result<()> {
    match args.target.clone().resolve().await? {
        Target::Server(server) => {
            let mut path = format!("/api/v1/streams/{}/tap?follow={}", args.name, !args.no_follow);
            if let Some(from) = &args.from {
                path.push_str(&format!("&from={from}"));
            }
            if let Some(limit) = args.limit {
                path.push_str(&format!("&limit={limit}"));
            }
            let mut answer = server.send(Method::GET, &path, None, None).await?;
            while let Some(piece) =
                answer.chunk().await.map_err(|e| Error::retry("the server went away").caused_by(e))?
            {
                if print(&piece)? {
                    return Ok(());
                }
            }
            Ok(())
        }
        Target::Folder(folder) => at_rest(&args, &folder),
    }
}

fn at_rest(args: &TapArgs, folder: &std::path::Path) -> Result<()> {
    let opened = relations::AtRest::open(folder)?;
    let log = opened.log(&args.name)?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    for partition in 0..log.partitions() {
        let (start, end) = (log.start_offset(partition), log.end_offset(partition));
        let from = match args.from.as_deref() {
            None | Some("earliest") => start,
            Some("latest") => end,
            Some(offset) => {
                let offset: u64 =
                    offset.parse().map_err(|_| Error::config("--from takes `earliest`, `latest` or an offset"))?;
                offset.clamp(start, end)
            }
        };
        let mut reader = log.reader(partition, from)?;
        loop {
            let chunks = reader.read(256 << 10)?;
            if chunks.is_empty() {
                break;
            }
            for chunk in chunks {
                let mut batch = opened.decode(chunk)?.from_offset(from);
                if batch.target.is_some() {
                    continue;
                }
                let rows = batch.batch.num_rows().min(usize::try_from(left).unwrap_or(usize::MAX));
                batch.batch = batch.batch.slice(0, rows);
                left -= rows as u64;
                if print(&tap_lines(&batch)?)? || left == 0 {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// True where nobody reads any more.
fn print(lines: &[u8]) -> Result<bool> {
    let mut out = output::rows(Escapes::Json);
    match out.write_all(lines).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(true),
        written => unless_closed(written.map_err(Error::from)).map(|()| false),
    }
}
