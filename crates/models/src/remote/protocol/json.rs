//! `json`: as Hugging Face inference endpoints and pipelines. Source: Hugging Face inference API (text classification,
//! feature extraction).

use millstream_core::{Failure, Result};
use serde_json::{Value, json};

use super::failure;

pub(super) fn encode(texts: &[&str]) -> Value {
    json!({ "inputs": texts })
}

pub(super) fn items(body: Value, texts: usize) -> Result<Vec<Value>, Failure> {
    let Value::Array(items) = body else { return Err(failure("the endpoint's answer is no list")) };
    // Some servers leave out the outer list for a single input.
    let is_flat = |item: &Value| item.is_number() || item.get("label").is_some();
    if texts == 1 && items.first().is_some_and(is_flat) {
        return Ok(vec![Value::Array(items)]);
    }
    Ok(items)
}
