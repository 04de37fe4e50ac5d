//! `millstream models eval`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use millstream_core::{Error, Result};
use millstream_models::{EvalReport, EvalRow, Picked, Task, evaluate_regression, evaluate_with_progress, read_inputs};
use serde_json::{Value, json};

use super::{Chosen, ModelArgs};
use crate::commands::progress::Progress;
use crate::commands::{Failed, print_object};
use crate::render::{Format, print_values, text_table};

#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// A CSV file with a header.
    #[arg(long, value_name = "FILE.csv")]
    input: PathBuf,
    /// The column of the texts.
    #[arg(long, value_name = "COLUMN", default_value = "text")]
    text: String,
    /// Of a model that reads columns: their names in the file, in the model's order. Default: the model's own names,
    /// else all but the labels.
    #[arg(long, value_name = "COLUMN,…", value_delimiter = ',')]
    columns: Vec<String>,
    /// The column of the right labels; of a regression, of the right values.
    #[arg(long, value_name = "COLUMN", default_value = "label")]
    label: String,
    /// What a label of the file is called in the model: `Bullish=positive`; once for each.
    #[arg(long, value_name = "FILE=MODEL", value_parser = pair)]
    map: Vec<(String, String)>,
    /// How the findings are printed.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    let (file, model) = text.split_once('=').ok_or("write LABEL_OF_THE_FILE=LABEL_OF_THE_MODEL")?;
    Ok((file.to_owned(), model.to_owned()))
}

pub async fn run(args: EvalArgs) -> std::result::Result<(), Failed> {
    let chosen = args.model.resolve()?;
    // Before anything is read: a mistake in the command is told at once.
    if chosen.info.task == Task::Embedding {
        let message = format!("`{}` makes embeddings: there are no labels or values to compare with", chosen.name);
        return Err(Error::config(message).into());
    }
    let picked = Picked { text: &args.text, columns: &args.columns, label: Some(&args.label) };
    if chosen.info.task == Task::TabularRegression {
        return regression(&chosen, &args, picked).await;
    }
    let map = label_map(&args.map, &chosen.info.labels)?;
    let mut rows = EvalRow::read(&args.input, &chosen.info.reads, picked)?;
    EvalRow::map_labels(&mut rows, &map);
    let handle = tokio::task::block_in_place(|| chosen.config.load(&chosen.name))?;
    let mut progress = Progress::new("evaluating", rows.len() as u64, "rows");
    let report = evaluate_with_progress(&handle, &rows, |done| progress.set(done as u64)).await;
    drop(progress);
    let report = report.map_err(|e| e.context(format!("evaluate on {}", args.input.display())))?;
    match args.format {
        Format::Json | Format::Jsonl => print_object(&report, args.format)?,
        Format::Csv => print_values(&["metric", "label", "predicted", "value"], &facts(&report), Format::Csv)?,
        Format::Table => print_tables(&report),
    }
    Ok(())
}

async fn regression(chosen: &Chosen, args: &EvalArgs, picked: Picked<'_>) -> std::result::Result<(), Failed> {
    if !args.map.is_empty() {
        return Err(Error::config("--map is for labels; a regression gives values").into());
    }
    let rows = read_inputs(&args.input, &chosen.info.reads, picked)?;
    let rows = rows.into_iter().enumerate().map(|(i, (input, value))| {
        let value: f64 = value.trim().parse().map_err(|_| {
            let (row, column) = (i + 1, &args.label);
            Error::input(format!("row {row}: `{column}` is {value:?}, which is no number (--label names the column)"))
        })?;
        Ok((input, value))
    });
    let rows = rows.collect::<Result<Vec<_>>>()?;
    let handle = tokio::task::block_in_place(|| chosen.config.load(&chosen.name))?;
    let mut progress = Progress::new("evaluating", rows.len() as u64, "rows");
    let report = evaluate_regression(&handle, &rows, |done| progress.set(done as u64)).await;
    drop(progress);
    let report = report.map_err(|e| e.context(format!("evaluate on {}", args.input.display())))?;
    let facts: [(&str, Value); 6] = [
        ("n", report.n.into()),
        ("failed", report.failed.into()),
        ("mean_absolute_error", report.mean_absolute_error.into()),
        ("root_mean_squared_error", report.root_mean_squared_error.into()),
        ("r2", json!(report.r2)),
        ("seconds", report.seconds.into()),
    ];
    match args.format {
        Format::Table => {
            crate::outln!("{} {}", report.model, report.digest);
            if let Some(failure) = &report.first_failure {
                crate::outln!("{} rows failed and are left out; the first: {failure}", report.failed);
            }
            let rows = facts.iter().map(|(name, value)| vec![(*name).to_owned(), shown(value)]);
            crate::outln!("{}", text_table(&["metric", "value"], rows));
        }
        Format::Csv => {
            let rows: Vec<Vec<Value>> = facts.iter().map(|(name, value)| vec![json!(name), value.clone()]).collect();
            print_values(&["metric", "value"], &rows, Format::Csv)?;
        }
        Format::Json | Format::Jsonl => print_object(&report, args.format)?,
    }
    Ok(())
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

fn label_map(pairs: &[(String, String)], known: &[Arc<str>]) -> Result<BTreeMap<String, Arc<str>>> {
    let mut map = BTreeMap::new();
    for (file, model) in pairs {
        let label = known.iter().find(|label| ***label == **model).ok_or_else(|| {
            Error::config(format!(
                "--map {file}={model}: the model has no label `{model}`; it has {}",
                known.join(", ")
            ))
        })?;
        map.insert(file.clone(), label.clone());
    }
    Ok(map)
}

/// Everything as rows of one shape, so that a spreadsheet or SQL can take it.
fn facts(report: &EvalReport) -> Vec<Vec<Value>> {
    let whole = |metric: &str, value: Value| vec![metric.into(), Value::Null, Value::Null, value];
    let mut rows = vec![
        whole("n", report.n.into()),
        whole("failed", report.failed.into()),
        whole("accuracy", report.accuracy.into()),
        whole("macro_f1", report.macro_f1.into()),
        whole("seconds", report.seconds.into()),
    ];
    for class in &report.per_class {
        let fact = |metric: &str, value: Value| vec![metric.into(), json!(class.label), Value::Null, value];
        rows.push(fact("support", class.support.into()));
        rows.push(fact("precision", class.precision.into()));
        rows.push(fact("recall", class.recall.into()));
        rows.push(fact("f1", class.f1.into()));
    }
    for (truth, counts) in report.per_class.iter().zip(&report.confusion) {
        for (predicted, &count) in report.per_class.iter().zip(counts) {
            rows.push(vec!["confusion".into(), json!(truth.label), json!(predicted.label), count.into()]);
        }
    }
    rows
}

fn print_tables(report: &EvalReport) {
    crate::outln!("{} {}", report.model, report.digest);
    crate::outln!(
        "{} rows in {:.3} s: accuracy {:.4}, macro-F1 {:.4}",
        report.n,
        report.seconds,
        report.accuracy,
        report.macro_f1
    );
    if let Some(failure) = &report.first_failure {
        crate::outln!("{} rows failed and count as wrong; the first: {failure}", report.failed);
    }
    let share = |value: f64| format!("{value:.4}");
    let classes = report
        .per_class
        .iter()
        .map(|c| vec![c.label.to_string(), c.support.to_string(), share(c.precision), share(c.recall), share(c.f1)]);
    crate::outln!("{}", text_table(&["label", "rows", "precision", "recall", "F1"], classes));
    let mut header = vec!["is, is called"];
    header.extend(report.per_class.iter().map(|c| &*c.label));
    let rows = report.per_class.iter().zip(&report.confusion);
    let rows =
        rows.map(|(c, counts)| [c.label.to_string()].into_iter().chain(counts.iter().map(usize::to_string)).collect());
    crate::outln!("{}", text_table(&header, rows));
}
