//! What requests to a model server and its answers look like. No I/O.
//!
//! | protocol | request | answer |
//! |---|---|---|
//! | `json` | `{"inputs": [text, …]}` | `[item, …]` |
//! | `sagemaker` | `{"instances": [text, …]}` | `{"predictions": [item, …]}` |
//! | `kserve` | `{"inputs": [{"name": "input-0", "shape": [n], "datatype": "BYTES", "data": [text, …]}]}` | `{"outputs": [tensor]}` |
//!
//! An item of a classifier is one of: `[{"label": …, "score": …}, …]`; `{"scores": {label: score, …}}`;
//! `{label: score, …}`; `[score, …]` in the order of the declared labels. An item of an embedding is `[number, …]` or
//! `{"embedding": [number, …]}`. `{"error": text}` is a failure of that input. A tensor is either of numbers with shape
//! `[n, k]`, each row an item, or `BYTES` with shape `[n]`, each element the JSON text of an item.
//!
//! Sources: Hugging Face inference API (text classification, feature extraction), SageMaker batch transform and TensorFlow
//! Serving JSON, Open Inference Protocol v2.

use millstream_core::{Error, Failure, FailureKind, Result};
use serde_json::{Map, Value, json};
use url::Url;

use crate::{ModelInfo, Prediction, Protocol, Task};

/// How far the scores of one text may be from 1 together: rounding at the endpoint, 16-bit floats.
const SUM_TOLERANCE: f64 = 0.01;

/// The address that requests go to, from the one in the pipeline file.
///
/// # Errors
/// `Config`: `kserve` without a model's name.
pub fn request_url(endpoint: &Url, protocol: Protocol, model_name: Option<&str>) -> Result<Url> {
    let mut url = endpoint.clone();
    match protocol {
        Protocol::Json => {}
        Protocol::Sagemaker if matches!(url.path(), "" | "/") => url.set_path("/invocations"),
        Protocol::Sagemaker => {}
        Protocol::Kserve if url.path().ends_with("/infer") => {}
        Protocol::Kserve => {
            let name = model_name.ok_or_else(|| {
                Error::config("`model_name` is missing: `protocol: kserve` needs the model's name at the server")
            })?;
            let mut path = url.path_segments_mut().map_err(|()| Error::config("the endpoint's URL has no path"))?;
            path.pop_if_empty().extend(["v2", "models", name, "infer"]);
        }
    }
    Ok(url)
}

/// The body of a request.
pub fn encode(protocol: Protocol, texts: &[&str]) -> Vec<u8> {
    let body = match protocol {
        Protocol::Json => json!({ "inputs": texts }),
        Protocol::Sagemaker => json!({ "instances": texts }),
        Protocol::Kserve => json!({
            "inputs": [{ "name": "input-0", "shape": [texts.len()], "datatype": "BYTES", "data": texts }]
        }),
    };
    body.to_string().into_bytes()
}

/// One answer per text from the body of an endpoint's answer.
///
/// # Errors
/// The body as a whole can't be used: it is not JSON, of another shape, or answers another number of texts.
pub fn decode(
    protocol: Protocol,
    info: &ModelInfo,
    texts: usize,
    body: &[u8],
) -> Result<Vec<Result<Prediction, Failure>>, Failure> {
    let body: Value = serde_json::from_slice(body).map_err(|e| {
        failure(format!("the endpoint's answer is no JSON ({e}): {}", shortened(&String::from_utf8_lossy(body))))
    })?;
    if let Some(error) = body.get("error") {
        return Err(failure(format!("the endpoint answered with an error: {}", shortened(&error.to_string()))));
    }
    let items = match protocol {
        Protocol::Json => json_items(body, texts)?,
        Protocol::Sagemaker => match body {
            Value::Object(mut object) => match object.remove("predictions") {
                Some(Value::Array(items)) => items,
                _ => return Err(failure("the endpoint's answer has no list `predictions`")),
            },
            _ => return Err(failure("the endpoint's answer is no object with `predictions`")),
        },
        Protocol::Kserve => tensor_items(body)?,
    };
    if items.len() != texts {
        return Err(failure(format!("the endpoint gave {} answers to {texts} inputs", items.len())));
    }
    Ok(items.into_iter().map(|item| prediction(info, item)).collect())
}

fn json_items(body: Value, texts: usize) -> Result<Vec<Value>, Failure> {
    let Value::Array(items) = body else { return Err(failure("the endpoint's answer is no list")) };
    // Some servers leave out the outer list for a single input.
    let is_flat = |item: &Value| item.is_number() || item.get("label").is_some();
    if texts == 1 && items.first().is_some_and(is_flat) {
        return Ok(vec![Value::Array(items)]);
    }
    Ok(items)
}

/// The rows of the first output tensor.
fn tensor_items(mut body: Value) -> Result<Vec<Value>, Failure> {
    let Some(tensor) = body.get_mut("outputs").and_then(|outputs| outputs.get_mut(0)) else {
        return Err(failure("the endpoint's answer has no `outputs`"));
    };
    let datatype = tensor.get("datatype").and_then(Value::as_str).unwrap_or_default().to_owned();
    let shape: Option<Vec<usize>> = tensor
        .get("shape")
        .and_then(Value::as_array)
        .and_then(|shape| shape.iter().map(|n| n.as_u64().and_then(|n| usize::try_from(n).ok())).collect());
    let (Some(shape), Some(Value::Array(data))) = (shape, tensor.get_mut("data").map(Value::take)) else {
        return Err(failure(
            "the endpoint's output tensor has no `shape` or no list `data` (binary data is not supported)",
        ));
    };
    let data = flattened(data);
    if shape.iter().try_fold(1_usize, |all, &n| all.checked_mul(n)) != Some(data.len()) {
        return Err(failure(format!("the endpoint's output tensor has shape {shape:?} but {} elements", data.len())));
    }
    match (datatype.as_str(), shape.as_slice()) {
        ("BYTES", [_] | [_, 1]) => data.into_iter().map(parsed).collect(),
        ("FP16" | "FP32" | "FP64", &[rows, columns]) if columns > 0 => {
            let mut rest = data.into_iter();
            Ok((0..rows).map(|_| Value::Array(rest.by_ref().take(columns).collect())).collect())
        }
        _ => Err(failure(format!(
            "the endpoint's output tensor is {datatype} of shape {shape:?}: expected numbers [n, k] or BYTES [n]"
        ))),
    }
}

/// The protocol allows nested lists for `data`.
fn flattened(data: Vec<Value>) -> Vec<Value> {
    if !data.iter().any(Value::is_array) {
        return data;
    }
    data.into_iter().flat_map(|row| if let Value::Array(row) = row { row } else { vec![row] }).collect()
}

fn parsed(text: Value) -> Result<Value, Failure> {
    text.as_str().and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
        failure(format!("an element of the endpoint's BYTES tensor is no JSON text: {}", shortened(&text.to_string())))
    })
}

fn prediction(info: &ModelInfo, item: Value) -> Result<Prediction, Failure> {
    if let Some(error) = item.get("error").filter(|error| error.is_string()) {
        return Err(failure(format!("the endpoint refused this input: {}", shortened(&error.to_string()))));
    }
    match info.task {
        Task::TextClassification => scores(info, item),
        Task::Embedding => embedding(item),
    }
}

fn scores(info: &ModelInfo, item: Value) -> Result<Prediction, Failure> {
    let scores = match item {
        Value::Array(row) if row.iter().all(Value::is_object) => named_scores(info, row.iter().map(pair))?,
        Value::Array(row) if row.len() == info.labels.len() => {
            row.iter().map(number).collect::<Option<Vec<f64>>>().ok_or_else(|| not_a_score(&Value::Array(row)))?
        }
        Value::Array(row) => {
            return Err(failure(format!("the endpoint gave {} scores for {} labels", row.len(), info.labels.len())));
        }
        Value::Object(mut object) => match object.remove("scores") {
            Some(Value::Object(scores)) => scores_by_label(info, &scores)?,
            Some(other) => return Err(not_a_score(&other)),
            None => scores_by_label(info, &object)?,
        },
        other => return Err(not_a_score(&other)),
    };
    if let Some(wrong) = scores.iter().find(|score| !(-1e-6..=1.0 + 1e-6).contains(*score)) {
        return Err(failure(format!(
            "the endpoint gave the score {wrong}: scores must be in 0..=1 (are these logits?)"
        )));
    }
    let sum: f64 = scores.iter().sum();
    if (sum - 1.0).abs() > SUM_TOLERANCE {
        return Err(failure(format!(
            "the endpoint's scores sum to {sum:.3}, not 1: it must score exactly one label per text"
        )));
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
        _ => Err(failure(format!("the endpoint gave no list of finite numbers: {}", shortened(&row.to_string())))),
    }
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| n.is_finite())
}

fn not_a_score(value: &Value) -> Failure {
    failure(format!("the endpoint's answer holds no scores: {}", shortened(&value.to_string())))
}

fn failure(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Model, message)
}

/// The beginning of a text from outside, for a message.
pub(super) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut short: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}
