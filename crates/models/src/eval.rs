//! How good a classifier is on labelled texts or rows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millstream_core::{Error, Result};
use serde::Serialize;

use crate::labelled::{Picked, read_inputs};
use crate::output::highest;
use crate::{Input, ModelHandle, Prediction, Reads};

/// Texts that one call carries.
const CALL_TEXTS: usize = 256;

/// A text or a row, and the label that a person gave it.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalRow {
    /// The text, or the row.
    pub input: Input,
    /// One of the model's labels.
    pub label: Arc<str>,
}

impl EvalRow {
    /// The rows of a CSV file with a header, from its columns `text` and `label`; others are ignored.
    ///
    /// # Errors
    /// `Environment`: the file can't be read. `Config`: there is no such column. `Input`: a row is broken.
    pub fn read_csv(path: &Path, text: &str, label: &str) -> Result<Vec<Self>> {
        Self::read(path, &Reads::Text, Picked { text, columns: &[], label: Some(label) })
    }

    /// The same for any model.
    ///
    /// # Errors
    /// As [`read_inputs`].
    pub fn read(path: &Path, reads: &Reads, picked: Picked<'_>) -> Result<Vec<Self>> {
        let rows = read_inputs(path, reads, picked)?;
        Ok(rows.into_iter().map(|(input, label)| Self { input, label }).collect())
    }

    /// Gives the rows the labels of the model instead of their own, by `map`; a label that is not in it stays.
    pub fn map_labels(rows: &mut [Self], map: &BTreeMap<String, Arc<str>>) {
        for row in rows {
            if let Some(label) = map.get(&*row.label) {
                row.label = label.clone();
            }
        }
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
    /// Why it failed on the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// The share of rows with the right label.
    pub accuracy: f64,
    /// The mean of the labels' F1, each label weighing the same; without those that no row has and none was given, as
    /// scikit-learn's `f1_score(average="macro")` leaves them out.
    pub macro_f1: f64,
    /// Numbers for each label, in the model's order.
    pub per_class: Vec<ClassReport>,
    /// `confusion[truth][predicted]`: rows, in the order of the labels; rows that failed are in none.
    pub confusion: Vec<Vec<usize>>,
    /// Wall-clock seconds for all rows.
    pub seconds: f64,
}

/// How good a classifier is at one label. A share of nothing is 0, as scikit-learn has it (`zero_division=0`).
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
    evaluate_with_progress(handle, rows, |_| {}).await
}

/// As [`evaluate`]; `progress` is told how many rows are done.
///
/// # Errors
/// As [`evaluate`].
pub async fn evaluate_with_progress(
    handle: &ModelHandle,
    rows: &[EvalRow],
    mut progress: impl FnMut(usize),
) -> Result<EvalReport> {
    let info = handle.info();
    if !info.task.is_classification() {
        return Err(Error::config(format!("model `{}` is no classifier: nothing to compare labels with", info.name)));
    }
    let truths = rows.iter().enumerate().map(|(i, row)| {
        info.labels.iter().position(|label| *label == row.label).ok_or_else(|| {
            let (row, label, known) = (i + 1, &row.label, info.labels.join(", "));
            Error::input(format!("row {row} has the label `{label}`, which the model does not know; it knows {known}"))
        })
    });
    let truths = truths.collect::<Result<Vec<usize>>>()?;
    if truths.is_empty() {
        return Err(Error::input("no rows to evaluate on"));
    }
    let started = Instant::now();
    let mut guesses = Vec::with_capacity(rows.len());
    let mut first_failure = None;
    for chunk in rows.chunks(CALL_TEXTS) {
        let answers = handle.predict(chunk.iter().map(|row| row.input.clone()).collect()).await?;
        guesses.extend(answers.into_iter().map(|answer| match answer {
            Ok(Prediction::Scores(scores)) => Some(highest(&scores)),
            Ok(_) => None,
            Err(failure) => {
                first_failure.get_or_insert(failure.message);
                None
            }
        }));
        progress(guesses.len());
    }
    let seconds = started.elapsed().as_secs_f64();
    let mut report = compare(&info.labels, &truths, &guesses);
    report.model = info.name.clone();
    report.digest = info.digest.clone();
    report.first_failure = first_failure;
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
    let occurs = |i: usize| support[i] > 0 || confusion.iter().any(|row| row[i] > 0);
    let occurring: Vec<f64> = per_class.iter().enumerate().filter(|(i, _)| occurs(*i)).map(|(_, c)| c.f1).collect();
    let macro_f1 = occurring.iter().sum::<f64>() / occurring.len().max(1) as f64;
    let hits = (0..labels.len()).map(|i| confusion[i][i]).sum();
    EvalReport {
        model: "".into(),
        digest: "".into(),
        n: truths.len(),
        failed,
        first_failure: None,
        accuracy: share(hits, truths.len()),
        macro_f1,
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
    fn a_label_that_does_not_occur_counts_in_no_mean_as_in_scikit_learn() {
        let labels: Vec<Arc<str>> = ["a", "b", "c"].map(Into::into).to_vec();
        // f1_score(truth, guess, average="macro") of scikit-learn 1.5 gives the same.
        for (truths, guesses, expected) in [
            (vec![0, 0, 1], vec![Some(0), Some(0), Some(1)], 1.0),
            (vec![0, 0], vec![Some(0), Some(0)], 1.0),
            // Given, though no row has it: F1 0, and it counts.
            (vec![0, 0, 1], vec![Some(0), Some(2), Some(1)], (2.0 / 3.0 + 1.0 + 0.0) / 3.0),
            // Never given, though rows have it.
            (vec![0, 0, 1], vec![Some(0), Some(0), Some(0)], (0.8 + 0.0) / 2.0),
            (vec![2, 2], vec![None, None], 0.0),
        ] {
            let report = compare(&labels, &truths, &guesses);
            assert!((report.macro_f1 - expected).abs() < 1e-12, "{truths:?} {guesses:?}: {}", report.macro_f1);
        }
        let report = compare(&labels, &[0], &[Some(0)]);
        let absent = &report.per_class[1];
        assert_eq!((absent.support, absent.precision, absent.recall, absent.f1), (0, 0.0, 0.0, 0.0));
    }

    #[test]
    fn labels_are_replaced_by_the_map_and_others_stay() {
        let row = |label: &str| EvalRow { input: "x".into(), label: label.into() };
        let mut rows = [row("Bullish"), row("neutral")];
        EvalRow::map_labels(&mut rows, &BTreeMap::from([("Bullish".to_owned(), "positive".into())]));
        assert_eq!(rows, [row("positive"), row("neutral")]);
    }
}
