//! `millstream validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use millstream_connectors::Depth;

use super::pipeline_file::Given;
use super::{Failed, print_json};
use crate::config::Outside;
use crate::config::PipelineFile;
use crate::secrets::Asker;
use millstream_engine::preflight::{self, Looked};
use millstream_engine::spec::Pipeline;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Pipeline files; `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    given: Given,
    /// How the findings are printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Also look at what the pipelines connect to: paths, hosts, credentials; and ask for secrets
    /// where a command or a service has them. Nothing is changed there.
    #[arg(long)]
    connect: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Pipeline files; `-` is standard input.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    given: Given,
    /// How the findings are printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// `millstream check`.
pub async fn check(args: &CheckArgs) -> Result<(), Failed> {
    let (files, given) = (args.files.clone(), args.given.clone());
    run(&ValidateArgs { files, given, format: args.format, connect: true }).await
}

/// `millstream validate`.
pub async fn run(args: &ValidateArgs) -> Result<(), Failed> {
    let mut failed = false;
    let mut away = false;
    let mut connections = Vec::new();
    let mut all = Vec::new();
    let variables = args.given.variables()?;
    let env = |name: &str| variables.get(name);
    let asker = Asker::new(&env).calling(args.connect);
    let outside = Outside { env: &env, fetch: &|_| Ok(()), secrets: &|secret| asker.ask(secret) };
    for file in &args.files {
        match PipelineFile::load_with(file, args.given.settings(), &outside) {
            Ok(PipelineFile { pipeline, warnings }) => {
                if args.format == Format::Text {
                    warnings.iter().for_each(|w| crate::errln!("{w}"));
                    crate::outln!("{}: ok ({})", file.display(), summary(&pipeline));
                }
                all.extend(warnings);
                if args.connect {
                    let looked = preflight::look_at_all(&pipeline, Depth::Full, true).await;
                    let looked =
                        looked.into_iter().map(|l| Looked { kind: l.kind.as_str(), name: l.name, found: l.found });
                    let looked: Vec<_> = looked.chain(preflight::look_at_models(&pipeline).await).collect();
                    away |= looked.iter().any(|l| l.found.is_err());
                    if args.format == Format::Text {
                        looked.iter().for_each(|l| crate::outln!("  {}", said(l)));
                    }
                    connections.extend(looked.iter().map(connection));
                }
            }
            Err(diagnostics) => {
                // Nothing but secrets of whom is away.
                let only_away = diagnostics.errors() == asker.take_away();
                failed |= !only_away;
                away |= only_away;
                if args.format == Format::Text {
                    crate::errln!("{diagnostics}");
                }
                all.extend(diagnostics.0);
            }
        }
    }
    if args.format == Format::Json {
        let mut found = serde_json::json!({ "ok": !failed && !away, "diagnostics": all });
        if args.connect {
            found["connections"] = connections.into();
        }
        print_json(&found)?;
    }
    match (failed, away) {
        (true, _) => Err(Failed::Said(2)),
        (false, true) => Err(Failed::Said(1)),
        (false, false) => Ok(()),
    }
}

/// A line about one connection.
fn said(looked: &Looked<&str>) -> String {
    let (kind, name) = (looked.kind, &looked.name);
    match &looked.found {
        Ok(found) => format!("{kind} {name}: ok ({found})"),
        Err(e) if e.is_retry() => format!("{kind} {name}: away: {e} (a pipeline that runs waits for it)"),
        Err(e) => format!("{kind} {name}: wrong: {e}"),
    }
}

fn connection(looked: &Looked<&str>) -> serde_json::Value {
    let (ok, said) = match &looked.found {
        Ok(found) => (true, found.clone()),
        Err(e) => (false, e.to_string()),
    };
    serde_json::json!({ "kind": looked.kind, "name": looked.name, "ok": ok, "message": said })
}

fn summary(pipeline: &Pipeline) -> String {
    let counts = [
        (pipeline.sources.len(), "source"),
        (pipeline.models.len(), "model"),
        (pipeline.transforms.len(), "transform"),
        (pipeline.tables.len(), "table"),
        (pipeline.sinks.len(), "sink"),
    ];
    let words =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}{}", if *n == 1 { "" } else { "s" }));
    words.collect::<Vec<_>>().join(", ")
}
