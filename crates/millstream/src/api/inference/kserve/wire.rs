//! Bodies of the Open Inference Protocol v2. No I/O.
//!
//! In: one `BYTES` tensor of shape `[n]` or `[n, 1]`, a text each, in JSON or binary (each text: its length as 4 bytes,
//! little-endian, then UTF-8). For a model that reads columns: one tensor of shape `[n, columns]`, or one of shape
//! `[n]` for each column, by its name ([`tensors`]). Out, by task, each in JSON or binary as the request says:
//!
//! | output | datatype, shape | of |
//! |---|---|---|
//! | `scores` | `FP32` `[n, labels]`, in the order of the labels | classifiers |
//! | `labels` | `BYTES` `[n]`, the one with the highest score | classifiers |
//! | `embedding` | `FP32` `[n, dimensions]` | embeddings |
//! | `value` | `FP32` `[n]` | regressions |

mod tensors;

use std::sync::Arc;

use millstream_models::{Input, ModelInfo, Prediction, Reads, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::refusal::{Reason, Refusal};
use super::super::sagemaker::ranked;

/// A request, as far as it matters here.
#[derive(Debug)]
pub struct Infer {
    /// Given back in the answer.
    pub id: Option<String>,
    /// The texts or rows; at least one.
    pub inputs: Vec<Input>,
    /// The outputs that are asked for; empty: all.
    wanted: Vec<Wanted>,
    /// Outputs that do not say otherwise are binary.
    binary_by_default: bool,
}

#[derive(Debug, Deserialize)]
struct Body {
    id: Option<String>,
    #[serde(default)]
    parameters: Map<String, Value>,
    inputs: Vec<Tensor>,
    #[serde(default)]
    outputs: Vec<Wanted>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Tensor {
    name: String,
    shape: Vec<u64>,
    datatype: String,
    #[serde(default)]
    parameters: Map<String, Value>,
    data: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    name: String,
    #[serde(default)]
    parameters: Map<String, Value>,
}

/// An output of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    kind: Kind,
    is_binary: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scores,
    Labels,
    Embedding,
    Value,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Scores => "scores",
            Self::Labels => "labels",
            Self::Embedding => "embedding",
            Self::Value => "value",
        }
    }

    fn datatype(self) -> &'static str {
        match self {
            Self::Scores | Self::Embedding | Self::Value => "FP32",
            Self::Labels => "BYTES",
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Answered {
    /// JSON, and behind it the binary tensors.
    pub body: Vec<u8>,
    /// The length of the JSON, where binary tensors follow.
    pub header_length: Option<usize>,
}

/// The outputs of a model; the scores first, since some clients read only the first one.
fn kinds(info: &ModelInfo) -> &'static [Kind] {
    match info.task {
        Task::TextClassification | Task::TabularClassification => &[Kind::Scores, Kind::Labels],
        Task::TabularRegression => &[Kind::Value],
        Task::Embedding => &[Kind::Embedding],
    }
}

/// What a model takes and gives.
pub fn metadata(info: &ModelInfo) -> Value {
    let output = |kind: &Kind| {
        let shape = match kind {
            Kind::Scores => json!([-1, info.labels.len()]),
            Kind::Labels | Kind::Value => json!([-1]),
            Kind::Embedding => json!([-1, info.dimensions.map_or(-1, |d| d as i64)]),
        };
        json!({ "name": kind.name(), "datatype": kind.datatype(), "shape": shape })
    };
    json!({
        "name": info.name,
        "versions": [info.digest],
        "platform": "millstream",
        "inputs": tensors::described(&info.reads),
        "outputs": kinds(info).iter().map(output).collect::<Vec<_>>(),
        "parameters": { "task": info.task.as_str(), "labels": info.labels, "reads": info.reads.to_string() },
    })
}

/// Reads a request; `header_length` says where its JSON ends.
pub fn decode(body: &[u8], header_length: Option<usize>, reads: &Reads) -> Result<Infer, Refusal> {
    let (header, binary) = match header_length {
        None => (body, &[][..]),
        Some(length) => body
            .split_at_checked(length)
            .ok_or_else(|| Refusal::input("Inference-Header-Content-Length is longer than the body"))?,
    };
    let request: Body =
        serde_json::from_slice(header).map_err(|e| Refusal::input(format!("the body is no inference request: {e}")))?;
    if let Reads::Row(columns) = reads {
        let inputs = tensors::rows(columns, &request.inputs, binary)?;
        let binary_by_default = is_true(&request.parameters, "binary_data_output");
        return Ok(Infer { id: request.id, inputs, wanted: request.outputs, binary_by_default });
    }
    let [tensor] = request.inputs.as_slice() else {
        let given = request.inputs.len();
        return Err(Refusal::input(format!(
            "the request has {given} inputs; the model takes one, a text in each element"
        )));
    };
    let name = &tensor.name;
    if tensor.datatype != "BYTES" {
        return Err(Refusal::input(format!("input `{name}` is {}; the model takes BYTES", tensor.datatype)));
    }
    let (&[n] | &[n, 1]) = tensor.shape.as_slice() else {
        return Err(Refusal::input(format!("input `{name}` has shape {:?}; write [n]", tensor.shape)));
    };
    let texts = match (tensor.parameters.get("binary_data_size"), &tensor.data) {
        (Some(size), None) => binary_texts(name, size, binary)?,
        (None, Some(data)) => json_texts(name, data)?,
        _ => return Err(Refusal::input(format!("input `{name}` needs either `data` or `binary_data_size`"))),
    };
    if texts.len() as u64 != n || texts.is_empty() {
        let held = texts.len();
        return Err(Refusal::input(format!("input `{name}` has shape {:?}, and {held} elements", tensor.shape)));
    }
    let binary_by_default = is_true(&request.parameters, "binary_data_output");
    let inputs = texts.into_iter().map(Input::from).collect();
    Ok(Infer { id: request.id, inputs, wanted: request.outputs, binary_by_default })
}

fn is_true(parameters: &Map<String, Value>, key: &str) -> bool {
    parameters.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn json_texts(name: &str, data: &Value) -> Result<Vec<Arc<str>>, Refusal> {
    let mut texts = Vec::new();
    let mut push = |value: &Value| match value.as_str() {
        Some(text) => {
            texts.push(text.into());
            Ok(())
        }
        None => Err(Refusal::input(format!("element {} of input `{name}` is no string", texts.len() + 1))),
    };
    let Value::Array(elements) = data else {
        return Err(Refusal::input(format!("`data` of input `{name}` is no list")));
    };
    for element in elements {
        match element {
            // The rows of [n, 1].
            Value::Array(row) => row.iter().try_for_each(&mut push)?,
            element => push(element)?,
        }
    }
    Ok(texts)
}

fn binary_texts(name: &str, size: &Value, binary: &[u8]) -> Result<Vec<Arc<str>>, Refusal> {
    let broken = |why: &str| Refusal::input(format!("the binary data of input `{name}` {why}"));
    if size.as_u64() != Some(binary.len() as u64) {
        return Err(broken(&format!("has {} bytes, and `binary_data_size` is {size}", binary.len())));
    }
    let mut texts = Vec::new();
    let mut rest = binary;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (text, behind) = behind.split_at_checked(length).ok_or_else(|| broken("ends in the middle of a text"))?;
        let text = std::str::from_utf8(text);
        texts.push(text.map_err(|_| broken(&format!("is not UTF-8 in element {}", texts.len() + 1)))?.into());
        rest = behind;
    }
    if rest.is_empty() { Ok(texts) } else { Err(broken("ends in the middle of a length")) }
}

/// The outputs that the answer has.
///
/// # Errors
/// One is asked for that the model does not have.
pub fn outputs(request: &Infer, info: &ModelInfo) -> Result<Vec<Output>, Refusal> {
    if request.wanted.is_empty() {
        return Ok(kinds(info).iter().map(|&kind| Output { kind, is_binary: request.binary_by_default }).collect());
    }
    let output = |wanted: &Wanted| {
        let kind = kinds(info).iter().find(|kind| kind.name() == wanted.name).copied().ok_or_else(|| {
            let known: Vec<&str> = kinds(info).iter().map(|kind| kind.name()).collect();
            Refusal::input(format!(
                "model `{}` has no output `{}`; it has {}",
                info.name,
                wanted.name,
                known.join(", ")
            ))
        })?;
        let says = wanted.parameters.contains_key("binary_data");
        let is_binary = if says { is_true(&wanted.parameters, "binary_data") } else { request.binary_by_default };
        Ok(Output { kind, is_binary })
    };
    request.wanted.iter().map(output).collect()
}

/// Writes the answer.
pub fn encode(
    request: &Infer,
    outputs: &[Output],
    info: &ModelInfo,
    predictions: &[Prediction],
) -> Result<Answered, Refusal> {
    #[derive(Serialize)]
    struct Head<'a> {
        model_name: &'a str,
        model_version: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        outputs: Vec<OutputTensor<'a>>,
    }
    let mut binary = Vec::new();
    let outputs = outputs.iter().map(|output| tensor(*output, info, predictions, &mut binary)).collect();
    let (model_name, model_version, id) = (&*info.name, &*info.digest, request.id.as_deref());
    let mut body = serde_json::to_vec(&Head { model_name, model_version, id, outputs })
        .map_err(|e| Refusal::new(Reason::Model, format!("can't write the answer: {e}")))?;
    let header_length = (!binary.is_empty()).then_some(body.len());
    body.extend(binary);
    Ok(Answered { body, header_length })
}

#[derive(Serialize)]
struct OutputTensor<'a> {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
}

/// The elements of a tensor, row after row.
#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Numbers(Vec<f32>),
    Texts(Vec<&'a str>),
}

impl Data<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Numbers(numbers) => out.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Texts(texts) => {
                for text in texts {
                    out.extend((text.len() as u32).to_le_bytes());
                    out.extend(text.as_bytes());
                }
            }
        }
    }
}

fn tensor<'a>(
    output: Output,
    info: &'a ModelInfo,
    predictions: &[Prediction],
    binary: &mut Vec<u8>,
) -> OutputTensor<'a> {
    let rows = predictions.len();
    let numbers = |prediction: &Prediction| match prediction {
        Prediction::Scores(numbers) | Prediction::Embedding(numbers) => numbers.clone(),
        Prediction::Value(number) => vec![*number],
    };
    let (data, shape) = match output.kind {
        Kind::Labels => {
            let label = |prediction: &Prediction| match prediction {
                Prediction::Scores(scores) => ranked(&info.labels, scores).first().map_or("", |best| best.label),
                Prediction::Embedding(_) | Prediction::Value(_) => "",
            };
            (Data::Texts(predictions.iter().map(label).collect()), vec![rows])
        }
        Kind::Value => (Data::Numbers(predictions.iter().flat_map(numbers).collect()), vec![rows]),
        Kind::Scores | Kind::Embedding => {
            let numbers: Vec<f32> = predictions.iter().flat_map(numbers).collect();
            let columns = numbers.len() / rows.max(1);
            (Data::Numbers(numbers), vec![rows, columns])
        }
    };
    let (name, datatype) = (output.kind.name(), output.kind.datatype());
    if !output.is_binary {
        return OutputTensor { name, datatype, shape, parameters: None, data: Some(data) };
    }
    let begin = binary.len();
    data.write(binary);
    let parameters = Some(json!({ "binary_data_size": binary.len() - begin }));
    OutputTensor { name, datatype, shape, parameters, data: None }
}

#[cfg(test)]
mod tests;
