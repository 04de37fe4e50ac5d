//! The answer to one text, in any of the forms that model servers use.
//!
//! An item of a classifier is one of: `[{"label": …, "score": …}, …]`; `{"scores": {label: score, …}}`;
//! `{label: score, …}`; `[score, …]` in the order of the declared labels. An item of an embedding is `[number, …]` or
//! `{"embedding": [number, …]}`. `{"error": text}` is a failure of that input.

use millstream_core::{Failure, Result};
use serde_json::{Map, Value};

use super::{failure, fewer_or_more, quoted, said, shortened};
use crate::{ModelInfo, Prediction, Task};

/// How far the scores of one text may be from 1 together: rounding at the endpoint, 16-bit floats.
const SUM_TOLERANCE: f64 = 0.01;

/// The prediction in an item.
///
/// # Errors
/// It is none, or not one of this model.
pub(crate) fn prediction(info: &ModelInfo, item: Value) -> Result<Prediction, Failure> {
    if let Some(error) = item.get("error").filter(|error| error.is_string()) {
        return Err(failure(format!("the endpoint refused this input: {}", quoted(&said(&error.to_string())))));
    }
    match info.task {
        Task::TextClassification | Task::TabularClassification => scores(info, item),
        Task::Embedding => embedding(item),
        Task::TabularRegression => Err(failure("there is no value in an answer of an endpoint".to_owned())),
    }
}

fn scores(info: &ModelInfo, item: Value) -> Result<Prediction, Failure> {
    let scores = match item {
        Value::Array(row) if row.iter().all(Value::is_object) => named_scores(info, row.iter().map(pair))?,
        Value::Array(row) if row.len() == info.labels.len() => {
            row.iter().map(number).collect::<Option<Vec<f64>>>().ok_or_else(|| not_a_score(&Value::Array(row)))?
        }
        Value::Array(row) => {
            return Err(failure(format!(
                "the endpoint gave {} scores than there are labels",
                fewer_or_more(row.len(), info.labels.len())
            )));
        }
        Value::Object(mut object) => match object.remove("scores") {
            Some(Value::Object(scores)) => scores_by_label(info, &scores)?,
            Some(other) => return Err(not_a_score(&other)),
            None => scores_by_label(info, &object)?,
        },
        other => return Err(not_a_score(&other)),
    };
    if !scores.iter().all(|score| (-1e-6..=1.0 + 1e-6).contains(score)) {
        return Err(failure("the endpoint gave a score that is none: scores must be in 0..=1 (are these logits?)"));
    }
    let sum: f64 = scores.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(failure("the endpoint's scores do not sum to 1: it must score exactly one label per text"));
    }
    Ok(Prediction::Scores(scores.into_iter().map(|score| (score / sum) as f32).collect()))
}

fn scores_by_label(info: &ModelInfo, object: &Map<String, Value>) -> Result<Vec<f64>, Failure> {
    named_scores(
        info,
        object.iter().map(|(label, score)| Ok((label.as_str(), number(score).ok_or_else(|| not_a_score(score))?))),
    )
}

fn pair(item: &Value) -> Result<(&str, f64), Failure> {
    match (item.get("label").and_then(Value::as_str), item.get("score").and_then(number)) {
        (Some(label), Some(score)) => Ok((label, score)),
        _ => Err(not_a_score(item)),
    }
}

fn named_scores<'a>(
    info: &ModelInfo,
    pairs: impl Iterator<Item = Result<(&'a str, f64), Failure>>,
) -> Result<Vec<f64>, Failure> {
    let mut scores = vec![None; info.labels.len()];
    for pair in pairs {
        let (label, score) = pair?;
        let Some(place) = info.labels.iter().position(|known| known.as_ref() == label) else {
            let known = info.labels.join(", ");
            return Err(failure(format!(
                "the endpoint answered with the label `{}`; `labels` are {known}",
                shortened(label)
            )));
        };
        if scores[place].replace(score).is_some() {
            return Err(failure(format!("the endpoint gave the label `{label}` two scores")));
        }
    }
    let missing = |i: usize| {
        let label = &info.labels[i];
        failure(format!("the endpoint gave the label `{label}` no score: make it answer with all labels (`top_k`)"))
    };
    scores.into_iter().enumerate().map(|(i, score)| score.ok_or_else(|| missing(i))).collect()
}

fn embedding(item: Value) -> Result<Prediction, Failure> {
    let row = match item {
        Value::Object(mut object) => object.remove("embedding").unwrap_or_default(),
        other => other,
    };
    let numbers = row.as_array().map(Vec::as_slice).unwrap_or_default();
    if numbers.first().is_some_and(Value::is_array) {
        return Err(failure("the endpoint gave one embedding per token: make it answer with one per text (pooling)"));
    }
    let embedding: Option<Vec<f32>> =
        numbers.iter().map(|n| number(n).map(|n| n as f32).filter(|n| n.is_finite())).collect();
    match embedding {
        Some(embedding) if !embedding.is_empty() => Ok(Prediction::Embedding(embedding)),
        _ => Err(failure(format!("the endpoint gave no list of finite numbers: {}", quoted(&row.to_string())))),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| n.is_finite())
}

fn not_a_score(value: &Value) -> Failure {
    failure(format!("the endpoint's answer holds no scores: {}", quoted(&value.to_string())))
}
