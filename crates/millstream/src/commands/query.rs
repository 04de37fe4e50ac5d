//! `millstream query`.

use clap::Args;
use futures::stream;
use millstream_core::terminal::Escapes;
use millstream_core::{Error, Result};
use reqwest::Method;
use serde_json::json;

use super::target::{Target, TargetArgs};
use crate::output;
use crate::render::{self, Format, ipc, unless_closed};
use millstream_engine::relations;

/// The media type of an Arrow stream.
const ARROW_STREAM: &str = "application/vnd.apache.arrow.stream";

#[derive(Debug, Args)]
pub struct QueryArgs {
    /// A SELECT over tables and streams; SHOW TABLES lists them.
    sql: String,
    #[command(flatten)]
    target: TargetArgs,
    /// How rows are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub async fn run(args: QueryArgs) -> Result<()> {
    let escapes = if matches!(args.format, Format::Json | Format::Jsonl) { Escapes::Json } else { Escapes::Text };
    let mut out = output::rows(escapes);
    match args.target.resolve().await? {
        Target::Server(server) => {
            let body = json!({ "sql": args.sql });
            let bytes = server.bytes(Method::POST, "/api/v1/query", Some(ARROW_STREAM), Some(&body)).await?;
            let (schema, batches) = ipc::decode(bytes)?;
            let batches = stream::iter(batches.into_iter().map(Ok));
            unless_closed(render::print(&schema, batches, args.format, &mut out).await)
        }
        Target::Folder(folder) => {
            let engine = relations::engine_at_rest(&folder).await?;
            // Whoever sits in front of it can end it.
            let result = engine.run_within(&args.sql, None).await.map_err(|e| Error::config(e.to_string()))?;
            unless_closed(render::print(&result.schema, result.stream, args.format, &mut out).await)
        }
    }
}
