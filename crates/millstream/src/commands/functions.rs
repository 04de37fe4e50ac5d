//! `millstream functions`.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use clap::Args;
use futures::stream;
use millstream_core::Error;
use millstream_sql::{Function, functions};

use super::Failed;
use crate::config::diagnostics::suggestion;
use crate::render::{self, Format, unless_closed};

#[derive(Debug, Args)]
pub struct FunctionsArgs {
    /// Show this function only, with all that is known about it.
    name: Option<String>,
    /// How they are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub async fn run(args: FunctionsArgs) -> Result<(), Failed> {
    let all = functions();
    let Some(name) = &args.name else { return print(&all, args.format).await };
    let wanted = name.trim_end_matches("()").to_lowercase();
    let chosen: Vec<Function> =
        all.iter().filter(|f| f.name == wanted || f.aliases.contains(&wanted)).cloned().collect();
    if chosen.is_empty() {
        let names: Vec<&str> =
            all.iter().flat_map(|f| std::iter::once(&f.name).chain(&f.aliases)).map(String::as_str).collect();
        let nearest = millstream_core::names::nearest(&wanted, names.iter().copied());
        let help = match nearest {
            Some(_) => suggestion(&wanted, "", &names).unwrap_or_default(),
            None => "`millstream functions` lists them".to_owned(),
        };
        return Err(Error::config(format!("there is no function `{name}`: {help}")).into());
    }
    if args.format != Format::Table {
        return print(&chosen, args.format).await;
    }
    let text: Vec<String> = chosen.iter().map(page).collect();
    let mut out = std::io::stdout().lock();
    Ok(unless_closed(out.write_all(text.join("\n").as_bytes()).map_err(Error::from))?)
}

/// One function, for people.
fn page(function: &Function) -> String {
    let also = match function.aliases.as_slice() {
        [] => String::new(),
        names => format!("also called: {}\n", names.join(", ")),
    };
    let (signature, kind, description) = (&function.signature, function.kind.as_str(), &function.description);
    format!("{signature}  ({kind})\n{description}\n{also}\n  {}\n  -- {}\n", function.example, function.result)
}

async fn print(functions: &[Function], format: Format) -> Result<(), Failed> {
    let column = |of: &dyn Fn(&Function) -> String| -> ArrayRef {
        Arc::new(functions.iter().map(|f| Some(of(f))).collect::<StringArray>())
    };
    let mut columns = vec![
        ("name", column(&|f| f.name.clone())),
        ("kind", column(&|f| f.kind.as_str().to_owned())),
        ("signature", column(&|f| f.signature.clone())),
        ("description", column(&|f| f.description.clone())),
    ];
    // A terminal has no room for them.
    if format != Format::Table {
        columns.push(("aliases", column(&|f| f.aliases.join(", "))));
        columns.push(("example", column(&|f| f.example.clone())));
        columns.push(("result", column(&|f| f.result.clone())));
    }
    let batch = RecordBatch::try_from_iter(columns).map_err(Error::from)?;
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let batches = stream::iter([Ok(batch.clone())]);
    Ok(unless_closed(render::print(&batch.schema(), batches, format, &mut out).await)?)
}
