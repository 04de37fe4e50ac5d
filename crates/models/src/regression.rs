//! How good a regression is on rows whose value is known.

use std::sync::Arc;
use std::time::Instant;

use millstream_core::{Error, Result};
use serde::Serialize;

use crate::{Input, ModelHandle, Prediction, Task};

/// Rows that one call carries.
const CALL_ROWS: usize = 256;

/// What [`evaluate_regression`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegressionReport {
    /// The model's name.
    pub model: Arc<str>,
    /// The model's digest.
    pub digest: Arc<str>,
    /// Rows.
    pub n: usize,
    /// Rows that the model failed on; they are in none of the numbers below.
    pub failed: usize,
    /// Why it failed on the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// The mean of the errors, without their sign.
    pub mean_absolute_error: f64,
    /// The square root of the mean of the squared errors.
    pub root_mean_squared_error: f64,
    /// The share of the variance that is explained; none where all values are the same (scikit-learn's `r2_score`).
    pub r2: Option<f64>,
    /// Wall-clock seconds for all rows.
    pub seconds: f64,
}

/// Asks the model for every row and compares; `progress` is told how many rows are done.
///
/// # Errors
/// `Input`: there are no rows, or the model fails on all. `Config`: the model is no regression. Else whatever kept the
/// model from answering.
pub async fn evaluate_regression(
    handle: &ModelHandle,
    rows: &[(Input, f64)],
    mut progress: impl FnMut(usize),
) -> Result<RegressionReport> {
    let info = handle.info();
    if info.task != Task::TabularRegression {
        return Err(Error::config(format!("model `{}` is no regression: nothing to compare values with", info.name)));
    }
    if rows.is_empty() {
        return Err(Error::input("no rows to evaluate on"));
    }
    let started = Instant::now();
    let (mut pairs, mut first_failure, mut done) = (Vec::with_capacity(rows.len()), None, 0);
    for chunk in rows.chunks(CALL_ROWS) {
        let answers = handle.predict(chunk.iter().map(|(input, _)| input.clone()).collect()).await?;
        for ((_, truth), answer) in chunk.iter().zip(answers) {
            match answer {
                Ok(Prediction::Value(value)) => pairs.push((*truth, f64::from(value))),
                Ok(_) => {}
                Err(failure) => drop(first_failure.get_or_insert(failure.message)),
            }
        }
        done += chunk.len();
        progress(done);
    }
    if pairs.is_empty() {
        let why = first_failure.unwrap_or_default();
        return Err(Error::input(format!("the model failed on every row; the first: {why}")));
    }
    let (mean_absolute_error, root_mean_squared_error, r2) = numbers(&pairs);
    Ok(RegressionReport {
        model: info.name.clone(),
        digest: info.digest.clone(),
        n: rows.len(),
        failed: rows.len() - pairs.len(),
        first_failure,
        mean_absolute_error,
        root_mean_squared_error,
        r2,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Of pairs of truth and guess.
fn numbers(pairs: &[(f64, f64)]) -> (f64, f64, Option<f64>) {
    let n = pairs.len() as f64;
    let mean = pairs.iter().map(|(truth, _)| truth).sum::<f64>() / n;
    let absolute = pairs.iter().map(|(truth, guess)| (truth - guess).abs()).sum::<f64>();
    let squared = pairs.iter().map(|(truth, guess)| (truth - guess).powi(2)).sum::<f64>();
    let variance = pairs.iter().map(|(truth, _)| (truth - mean).powi(2)).sum::<f64>();
    (absolute / n, (squared / n).sqrt(), (variance > 0.0).then(|| 1.0 - squared / variance))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_scikit_learn() {
        // mean_absolute_error, root_mean_squared_error and r2_score of [3, -0.5, 2, 7], [2.5, 0, 2, 8]: its own
        // example.
        let (mae, rmse, r2) = numbers(&[(3.0, 2.5), (-0.5, 0.0), (2.0, 2.0), (7.0, 8.0)]);
        assert!((mae - 0.5).abs() < 1e-12 && (rmse - 0.375_f64.sqrt()).abs() < 1e-12);
        assert!((r2.unwrap() - 0.948_608_137_044_967_9).abs() < 1e-12);
        assert_eq!(numbers(&[(1.0, 1.0), (1.0, 2.0)]).2, None);
    }
}
