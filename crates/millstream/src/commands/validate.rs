//! `millstream validate`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Failed, print_json};
use crate::config::checked::Pipeline;

#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Pipeline files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// How the findings are printed.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

pub fn run(args: &ValidateArgs) -> Result<(), Failed> {
    let mut failed = false;
    let mut all = Vec::new();
    for file in &args.files {
        match Pipeline::load(file, &|name| std::env::var(name).ok()) {
            Ok(pipeline) => {
                if args.format == Format::Text {
                    pipeline.warnings.iter().for_each(|w| eprintln!("{w}"));
                    println!("{}: ok ({})", file.display(), summary(&pipeline));
                }
                all.extend(pipeline.warnings.iter().cloned());
            }
            Err(diagnostics) => {
                failed = true;
                if args.format == Format::Text {
                    eprintln!("{diagnostics}");
                }
                all.extend(diagnostics.0);
            }
        }
    }
    if args.format == Format::Json {
        print_json(&serde_json::json!({ "ok": !failed, "diagnostics": all }))?;
    }
    if failed { Err(Failed::Said(2)) } else { Ok(()) }
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
