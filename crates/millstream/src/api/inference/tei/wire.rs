//! Bodies of Text Embeddings Inference. No I/O.
//!
//! | route | `inputs` | answer |
//! |---|---|---|
//! | `/embed` | `text` or `[text, …]` | `[[number, …], …]` |
//! | `/predict` | `text` or `[text]` | `[{"score", "label"}, …]` |
//! | `/predict` | `[[text], …]` | `[[{"score", "label"}, …], …]` |
//!
//! For `/predict` a list of two strings is one pair of texts, which no model here reads. Texts that are longer than a
//! model reads are cut whatever `truncate` says.

use std::sync::Arc;

use millstream_models::{ModelInfo, Prediction, Task};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::admission::TEXTS_MAX;
use super::super::refusal::{Reason, Refusal};
use super::super::sagemaker::ranked;

/// Said where there is nothing to do.
pub const EMPTY: &str = "`inputs` is empty: send at least one text";

/// A request to `/embed`.
#[derive(Debug, PartialEq)]
pub struct Embed {
    pub texts: Vec<Arc<str>>,
    normalize: bool,
    dimensions: Option<usize>,
}

/// A request to `/predict`.
#[derive(Debug, PartialEq)]
pub struct Predict {
    pub texts: Vec<Arc<str>>,
    /// The answer is no list of lists.
    is_single: bool,
}

#[derive(Deserialize)]
struct EmbedBody {
    inputs: Value,
    normalize: Option<bool>,
    dimensions: Option<usize>,
    prompt_name: Option<String>,
}

#[derive(Deserialize)]
struct PredictBody {
    inputs: Value,
    raw_scores: Option<bool>,
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal::input(format!("the body can't be read: {e}")))
}

/// Reads a request to `/embed`.
pub fn decode_embed(body: &[u8]) -> Result<Embed, Refusal> {
    let body: EmbedBody = parse(body)?;
    if body.prompt_name.is_some() {
        return Err(Refusal::input("`prompt_name`: this server has no prompts; write the prompt into the text"));
    }
    if body.dimensions == Some(0) {
        return Err(Refusal::input("`dimensions` is 0"));
    }
    let texts = match body.inputs {
        Value::String(text) => vec![text.into()],
        Value::Array(list) if list.is_empty() => return Err(Refusal::input(EMPTY)),
        Value::Array(list) => list.iter().map(text).collect::<Result<_, _>>()?,
        _ => return Err(Refusal::input("`inputs` is neither a text nor a list of texts")),
    };
    Ok(Embed { texts, normalize: body.normalize.unwrap_or(true), dimensions: body.dimensions })
}

/// Reads a request to `/predict`.
pub fn decode_predict(body: &[u8]) -> Result<Predict, Refusal> {
    let body: PredictBody = parse(body)?;
    if body.raw_scores == Some(true) {
        return Err(Refusal::input("`raw_scores`: models here give probabilities only"));
    }
    let list = match body.inputs {
        Value::String(text) => return Ok(Predict { texts: vec![text.into()], is_single: true }),
        Value::Array(list) => list,
        _ => return Err(Refusal::input("`inputs` is no text, and no list of lists of one text each")),
    };
    match list.first() {
        None => Err(Refusal::input(EMPTY)),
        Some(Value::Array(_)) => {
            let one = |value: &Value| match value.as_array().map(Vec::as_slice) {
                Some([value]) => text(value),
                _ => Err(not_one(value)),
            };
            Ok(Predict { texts: list.iter().map(one).collect::<Result<_, _>>()?, is_single: false })
        }
        Some(value) if list.len() == 1 => Ok(Predict { texts: vec![text(value)?], is_single: true }),
        Some(_) => Err(not_one(&Value::Array(list))),
    }
}

fn text(value: &Value) -> Result<Arc<str>, Refusal> {
    value.as_str().map(Arc::from).ok_or_else(|| Refusal::input("an element of `inputs` is no text"))
}

fn not_one(value: &Value) -> Refusal {
    let given = match value.as_array() {
        Some(list) => format!("{} texts", list.len()),
        None => "something else".into(),
    };
    Refusal::input(format!(
        "`inputs` holds {given} where one is expected: pairs are not supported; for several texts write [[\"a\"], [\"b\"]]"
    ))
}

/// Writes the answer to `/embed`: cut to `dimensions`, then scaled to length 1 unless told otherwise.
pub fn encode_embed(request: &Embed, predictions: Vec<Prediction>) -> Result<Vec<u8>, Refusal> {
    let row = |prediction: Prediction| {
        let mut numbers = match prediction {
            Prediction::Embedding(numbers) | Prediction::Scores(numbers) => numbers,
            Prediction::Value(number) => vec![number],
        };
        if let Some(dimensions) = request.dimensions {
            if dimensions > numbers.len() {
                let has = numbers.len();
                return Err(Refusal::input(format!("`dimensions` is {dimensions}; the model's embeddings have {has}")));
            }
            numbers.truncate(dimensions);
        }
        if request.normalize {
            normalize(&mut numbers);
        }
        Ok(numbers)
    };
    json_bytes(&predictions.into_iter().map(row).collect::<Result<Vec<_>, _>>()?)
}

fn normalize(numbers: &mut [f32]) {
    let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
    if length > 0.0 {
        numbers.iter_mut().for_each(|n| *n /= length);
    }
}

/// Writes the answer to `/predict`.
pub fn encode_predict(request: &Predict, labels: &[Arc<str>], predictions: &[Prediction]) -> Result<Vec<u8>, Refusal> {
    let rows: Vec<_> = predictions
        .iter()
        .map(|prediction| match prediction {
            Prediction::Scores(scores) => ranked(labels, scores),
            Prediction::Embedding(_) | Prediction::Value(_) => Vec::new(),
        })
        .collect();
    match rows.first() {
        Some(row) if request.is_single => json_bytes(row),
        _ => json_bytes(&rows),
    }
}

fn json_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|e| Refusal::new(Reason::Model, format!("can't write the answer: {e}")))
}

/// The answer to `/info`, as far as it means something here.
pub fn info(info: &ModelInfo) -> Value {
    let model_type = match info.task {
        Task::Embedding => json!({ "embedding": {} }),
        Task::TabularRegression => json!({}),
        Task::TextClassification | Task::TabularClassification => {
            let numbered = || info.labels.iter().enumerate();
            let id2label: Map<String, Value> = numbered().map(|(i, l)| (i.to_string(), l.as_ref().into())).collect();
            let label2id: Map<String, Value> = numbered().map(|(i, l)| (l.to_string(), i.into())).collect();
            json!({ "classifier": { "id2label": id2label, "label2id": label2id } })
        }
    };
    json!({
        "model_id": info.name,
        "model_sha": info.digest,
        "model_type": model_type,
        "max_client_batch_size": TEXTS_MAX,
        "auto_truncate": true,
        "version": env!("CARGO_PKG_VERSION"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predict(inputs: Value) -> Result<Predict, Refusal> {
        decode_predict(json!({ "inputs": inputs, "truncate": true }).to_string().as_bytes())
    }

    fn embed(body: Value) -> Result<Embed, Refusal> {
        decode_embed(body.to_string().as_bytes())
    }

    #[test]
    fn predict_tells_one_text_from_a_batch_as_tei_does() {
        let single = Predict { texts: vec!["a".into()], is_single: true };
        assert_eq!(predict(json!("a")), Ok(Predict { texts: vec!["a".into()], is_single: true }));
        assert_eq!(predict(json!(["a"])), Ok(single));
        assert_eq!(
            predict(json!([["a"], ["b"]])),
            Ok(Predict { texts: vec!["a".into(), "b".into()], is_single: false })
        );
        assert_eq!(predict(json!([["a"]])), Ok(Predict { texts: vec!["a".into()], is_single: false }));
        for pair in [json!(["a", "b"]), json!([["a", "b"]]), json!([["a"], "b"]), json!([[]])] {
            let refusal = predict(pair.clone()).unwrap_err();
            assert!(refusal.message.contains("pairs are not supported"), "{pair}: {refusal:?}");
        }
        assert_eq!(predict(json!([])).unwrap_err().message, EMPTY);
        for wrong in [json!(1), json!(null), json!([1]), json!([[1]]), json!({ "text": "a" })] {
            assert!(predict(wrong.clone()).is_err(), "{wrong}");
        }
        assert!(decode_predict(br#"{"inputs": "a", "raw_scores": true}"#).is_err());
    }

    #[test]
    fn labels_come_sorted_by_score_in_the_shape_of_the_request() {
        let labels: Vec<Arc<str>> = vec!["down".into(), "up".into()];
        let scores = [Prediction::Scores(vec![0.25, 0.75])];
        let row = r#"[{"label":"up","score":0.75},{"label":"down","score":0.25}]"#;
        let body = |request: &Predict| String::from_utf8(encode_predict(request, &labels, &scores).unwrap()).unwrap();
        assert_eq!(body(&predict(json!("a")).unwrap()), row);
        assert_eq!(body(&predict(json!([["a"]])).unwrap()), format!("[{row}]"));
    }

    #[test]
    fn embeddings_are_cut_and_scaled_as_asked() {
        let numbers = || vec![Prediction::Embedding(vec![3.0, 4.0, 12.0])];
        let body =
            |request: Value| String::from_utf8(encode_embed(&embed(request).unwrap(), numbers()).unwrap()).unwrap();
        assert_eq!(body(json!({ "inputs": "a", "normalize": false })), "[[3.0,4.0,12.0]]");
        assert_eq!(body(json!({ "inputs": ["a"], "dimensions": 2 })), "[[0.6,0.8]]");
        let too_many = embed(json!({ "inputs": "a", "dimensions": 4 })).unwrap();
        assert!(encode_embed(&too_many, numbers()).is_err());
        let zero = encode_embed(&embed(json!({ "inputs": "a" })).unwrap(), vec![Prediction::Embedding(vec![0.0])]);
        assert_eq!(zero.unwrap(), b"[[0.0]]");
        assert_eq!(embed(json!({ "inputs": [] })).unwrap_err().message, EMPTY);
        for wrong in [
            json!({ "inputs": [1, 2] }),
            json!({ "inputs": 1 }),
            json!({}),
            json!({ "inputs": "a", "dimensions": 0 }),
            json!({ "inputs": "a", "prompt_name": "query" }),
        ] {
            assert!(embed(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
