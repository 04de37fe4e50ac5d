//! How good a classifier is on labelled texts.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millstream_core::{Error, Result, ResultExt};
use serde::Serialize;

use crate::output::highest;
use crate::{ModelHandle, Prediction, Task};

/// Texts that one call carries.
const CALL_TEXTS: usize = 256;

/// A text and the label that a person gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvalRow {
    /// The text.
    pub text: Arc<str>,
    /// One of the model's labels.
    pub label: Arc<str>,
}

impl EvalRow {
    /// The rows of a CSV file with the columns `text` and `label` (others are ignored).
    ///
    /// # Errors
    /// `Environment`: the file can't be read. `Input`: a column is missing, or a row is broken.
    pub fn read_csv(path: &Path) -> Result<Vec<Self>> {
        let doing = || format!("read {}", path.display());
        let file = std::fs::File::open(path).doing(doing)?;
        Self::parse_csv(file).map_err(|e| e.context(doing()))
    }

    fn parse_csv(source: impl std::io::Read) -> Result<Vec<Self>> {
        let mut reader = csv::Reader::from_reader(source);
        let wrong = |e: csv::Error| Error::input("broken CSV").caused_by(e);
        let header = reader.headers().map_err(wrong)?;
        let column = |name: &str| {
            let place = header.iter().position(|column| column == name);
            place.ok_or_else(|| Error::input(format!("no column `{name}`: the columns `text` and `label` are needed")))
        };
        let (text, label) = (column("text")?, column("label")?);
        let row = |record: csv::Result<csv::StringRecord>| {
            let record = record.map_err(wrong)?;
            Ok(Self { text: record[text].into(), label: record[label].into() })
        };
        reader.records().map(row).collect()
    }
}

/// What [`evaluate`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// The model's name.
    pub model: Arc<str>,
    /// The model's digest.
    pub digest: Arc<str>,
    /// Rows.
    pub n: usize,
    /// Rows that the model failed on; they count as wrong.
    pub failed: usize,
    /// The share of rows with the right label.
    pub accuracy: f64,
    /// The mean of the labels' F1, each label weighing the same.
    pub macro_f1: f64,
    /// Numbers for each label, in the model's order.
    pub per_class: Vec<ClassReport>,
    /// `confusion[truth][predicted]`: rows, in the order of the labels; rows that failed are in none.
    pub confusion: Vec<Vec<usize>>,
    /// Wall-clock seconds for all rows.
    pub seconds: f64,
}

/// How good a classifier is at one label. A share of nothing is 0.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// The label.
    pub label: Arc<str>,
    /// Rows that have the label.
    pub support: usize,
    /// Of the rows that were given the label, the share that have it.
    pub precision: f64,
    /// Of the rows that have the label, the share that were given it.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
}

/// Asks the model for every row and compares. A label that the model does not have is an error, not a wrong answer.
///
/// # Errors
/// `Input`: there are no rows, or a row's label is none of the model's. `Config`: the model is no classifier. Else
/// whatever kept the model from answering.
pub async fn evaluate(handle: &ModelHandle, rows: &[EvalRow]) -> Result<EvalReport> {
    let info = handle.info();
    if info.task != Task::TextClassification {
        return Err(Error::config(format!("model `{}` is no classifier: nothing to compare labels with", info.name)));
    }
    let truths = rows.iter().enumerate().map(|(i, row)| {
        info.labels.iter().position(|label| *label == row.label).ok_or_else(|| {
            let (row, label, known) = (i + 1, &row.label, info.labels.join(", "));
            Error::input(format!("row {row} has the label `{label}`; the model knows {known}"))
        })
    });
    let truths = truths.collect::<Result<Vec<usize>>>()?;
    if truths.is_empty() {
        return Err(Error::input("no rows to evaluate on"));
    }
    let started = Instant::now();
    let mut guesses = Vec::with_capacity(rows.len());
    for chunk in rows.chunks(CALL_TEXTS) {
        let answers = handle.predict(chunk.iter().map(|row| row.text.clone()).collect()).await?;
        guesses.extend(answers.into_iter().map(|answer| match answer {
            Ok(Prediction::Scores(scores)) => Some(highest(&scores)),
            _ => None,
        }));
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut report = compare(&info.labels, &truths, &guesses);
    report.model = info.name.clone();
    report.digest = info.digest.clone();
    report.seconds = seconds;
    Ok(report)
}

/// The numbers, without name and time.
fn compare(labels: &[Arc<str>], truths: &[usize], guesses: &[Option<usize>]) -> EvalReport {
    let mut confusion = vec![vec![0; labels.len()]; labels.len()];
    let mut support = vec![0; labels.len()];
    let mut failed = 0;
    for (&truth, guess) in truths.iter().zip(guesses) {
        support[truth] += 1;
        match guess {
            Some(guess) => confusion[truth][*guess] += 1,
            None => failed += 1,
        }
    }
    let share = |part: usize, whole: usize| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let per_class: Vec<ClassReport> = labels
        .iter()
        .enumerate()
        .map(|(i, label)| {
            let given: usize = confusion.iter().map(|row| row[i]).sum();
            let hits = confusion[i][i];
            ClassReport {
                label: label.clone(),
                support: support[i],
                precision: share(hits, given),
                recall: share(hits, support[i]),
                f1: share(2 * hits, given + support[i]),
            }
        })
        .collect();
    let hits = (0..labels.len()).map(|i| confusion[i][i]).sum();
    EvalReport {
        model: "".into(),
        digest: "".into(),
        n: truths.len(),
        failed,
        accuracy: share(hits, truths.len()),
        macro_f1: per_class.iter().map(|class| class.f1).sum::<f64>() / labels.len() as f64,
        per_class,
        confusion,
        seconds: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_textbook() {
        let labels: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        // Truth a a a b b; guesses a a b b (failed): a: P 2/2, R 2/3, F1 0.8. b: P 1/2, R 1/2, F1 0.5.
        let report = compare(&labels, &[0, 0, 0, 1, 1], &[Some(0), Some(0), Some(1), Some(1), None]);
        assert_eq!(report.confusion, [[2, 1], [0, 1]]);
        assert_eq!((report.n, report.failed, report.accuracy), (5, 1, 0.6));
        assert_eq!((report.per_class[0].precision, report.per_class[0].f1), (1.0, 0.8));
        assert_eq!((report.per_class[1].recall, report.per_class[1].f1), (0.5, 0.5));
        assert!((report.macro_f1 - 0.65).abs() < 1e-12);
    }

    #[test]
    fn rows_come_from_columns_by_name() {
        let rows = EvalRow::parse_csv("no,label,text\n1,neutral,\"a, b\"\n".as_bytes()).unwrap();
        assert_eq!(rows, [EvalRow { text: "a, b".into(), label: "neutral".into() }]);
        assert!(EvalRow::parse_csv("text\nx\n".as_bytes()).unwrap_err().to_string().contains("`label`"));
        assert!(EvalRow::parse_csv("text,label\nx\n".as_bytes()).is_err());
    }
}
