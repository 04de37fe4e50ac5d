//! `kserve`: the Open Inference Protocol v2, which KServe, Triton and others speak. Source: its REST specification.
//!
//! A tensor of an answer is either of numbers with shape `[n, k]`, each row an item, or `BYTES` with shape `[n]`, each
//! element the JSON text of an item.

use millstream_core::{Failure, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{failure, quoted};

/// The tensors of a model at a KServe or Triton server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TensorConfig {
    /// The name of the input tensor.
    #[serde(default = "default_input")]
    pub input: String,
    /// The name of the output tensor. Default: the first one of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The number of dimensions of the input: `1` is `[n]`, `2` is `[n, 1]`, as Triton's batching wants it.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 2))]
    pub rank: u8,
}

impl Default for TensorConfig {
    fn default() -> Self {
        Self { input: default_input(), output: None, rank: default_rank() }
    }
}

fn default_input() -> String {
    "input-0".into()
}

fn default_rank() -> u8 {
    1
}

pub(super) fn encode(tensors: &TensorConfig, texts: &[&str]) -> Value {
    let shape = if tensors.rank == 2 { vec![texts.len(), 1] } else { vec![texts.len()] };
    let mut body = json!({ "inputs": [{ "name": tensors.input, "shape": shape, "datatype": "BYTES", "data": texts }] });
    if let Some(output) = &tensors.output {
        body["outputs"] = json!([{ "name": output }]);
    }
    body
}

/// The rows of the output tensor.
pub(super) fn items(tensors: &TensorConfig, mut body: Value) -> Result<Vec<Value>, Failure> {
    let outputs = body.get_mut("outputs").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default();
    let mut outputs = outputs.into_iter();
    let tensor = match &tensors.output {
        None => outputs.next().ok_or_else(|| failure("the endpoint's answer has no `outputs`"))?,
        Some(name) => outputs
            .find(|tensor| tensor.get("name").and_then(Value::as_str) == Some(name))
            .ok_or_else(|| failure(format!("the endpoint's answer has no output tensor `{name}`")))?,
    };
    rows(tensor)
}

fn rows(mut tensor: Value) -> Result<Vec<Value>, Failure> {
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
        return Err(failure("the endpoint's output tensor has another number of elements than its shape says"));
    }
    match (datatype.as_str(), shape.as_slice()) {
        ("BYTES", [_] | [_, 1]) => data.into_iter().map(parsed).collect(),
        ("FP16" | "FP32" | "FP64", &[rows, columns]) if columns > 0 => {
            let mut rest = data.into_iter();
            Ok((0..rows).map(|_| Value::Array(rest.by_ref().take(columns).collect())).collect())
        }
        _ => Err(failure(format!(
            "the endpoint's output tensor is {datatype} with {} dimensions: expected numbers [n, k] or BYTES [n]",
            shape.len()
        ))),
    }
}

/// Row-major data may be nested.
fn flattened(data: Vec<Value>) -> Vec<Value> {
    if !data.iter().any(Value::is_array) {
        return data;
    }
    data.into_iter().flat_map(|row| if let Value::Array(row) = row { row } else { vec![row] }).collect()
}

fn parsed(text: Value) -> Result<Value, Failure> {
    text.as_str().and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
        failure(format!("an element of the endpoint's BYTES tensor is no JSON text: {}", quoted(&text.to_string())))
    })
}
