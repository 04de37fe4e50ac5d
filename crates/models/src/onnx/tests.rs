//! Files made by the usual exporters (`testdata/onnx/make.py`), against the answers of ONNX Runtime.

use std::path::PathBuf;

use millstream_core::{Failure, FailureKind};
use serde_json::{Value, json};

use super::OnnxModel;
use crate::{Cell, ColumnKind, Input, Model, ModelConfig, Prediction, Reads};

mod bad_input;
#[cfg(feature = "onnxruntime")]
mod onnxruntime;

/// As near as ONNX Runtime's answers must be.
const TOLERANCE: f64 = 1e-4;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/onnx").join(format!("{name}.onnx"))
}

fn expected() -> Value {
    serde_json::from_str(include_str!("../../testdata/onnx/expected.json")).unwrap()
}

/// A model's settings: a file, and what is set beside it.
fn config(file: &str, mut settings: Value) -> ModelConfig {
    settings["source"] = json!(path(file));
    serde_json::from_value(settings).unwrap()
}

fn open(file: &str, settings: Value) -> OnnxModel {
    config(file, settings).open_onnx().unwrap()
}

/// What ONNX Runtime was given: one row of cells for each record, the graph's inputs side by side.
fn rows(file: &str) -> Vec<Input> {
    let inputs = expected()[file]["inputs"].as_object().unwrap().clone();
    let rows = inputs.values().next().unwrap().as_array().unwrap().len();
    let row = |i: usize| -> Vec<Cell> {
        inputs
            .values()
            .flat_map(|columns| columns[i].as_array().unwrap().iter().map(cell).collect::<Vec<_>>())
            .collect()
    };
    (0..rows).map(|i| row(i).into()).collect()
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::String(word) => Cell::Text(word.as_str().into()),
        Value::Number(number) if number.is_i64() => Cell::Int(number.as_i64().unwrap()),
        other => Cell::Float(other.as_f64().unwrap()),
    }
}

/// What a model answers: to texts, or to rows.
fn answers(model: &mut OnnxModel, inputs: &[Input]) -> Vec<Result<Prediction, Failure>> {
    if inputs.iter().all(|input| input.as_text().is_some()) {
        return model.predict(&inputs.iter().filter_map(Input::as_text).collect::<Vec<_>>()).unwrap();
    }
    model.predict_rows(&inputs.iter().filter_map(Input::as_row).collect::<Vec<_>>()).unwrap()
}

/// The numbers that a model gives for each input.
fn numbers(model: &mut OnnxModel, inputs: &[Input]) -> Vec<Vec<f64>> {
    let answers = answers(model, inputs);
    let numbers = |prediction: Prediction| match prediction {
        Prediction::Scores(numbers) | Prediction::Embedding(numbers) => numbers.into_iter().map(f64::from).collect(),
        Prediction::Value(value) => vec![f64::from(value)],
    };
    answers.into_iter().map(|answer| numbers(answer.unwrap())).collect()
}

fn assert_near(name: &str, found: &[Vec<f64>], wanted: &Value) {
    let wanted = wanted.as_array().unwrap();
    assert_eq!(found.len(), wanted.len(), "{name}");
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let wanted: Vec<f64> = wanted.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found.len(), wanted.len(), "{name}, row {i}");
        for (a, b) in found.iter().zip(&wanted) {
            assert!((a - b).abs() <= TOLERANCE * b.abs().max(1.0), "{name}, row {i}: {found:?}, not {wanted:?}");
        }
    }
}

#[test]
fn classifiers_of_the_usual_exporters_score_as_onnx_runtime_does() {
    for (file, output, labels) in [
        ("forest", "output_probability", ["0", "1"].as_slice()),
        ("lightgbm_binary", "probabilities", &["0", "1"]),
        ("lightgbm_three", "probabilities", &["fraud", "large", "usual"]),
        ("xgboost_binary", "probabilities", &["0", "1"]),
        ("xgboost_three", "probabilities", &["0", "1", "2"]),
        ("ordinal", "output_probability", &["0", "1"]),
    ] {
        let nulls = if file == "ordinal" { "fail" } else { "nan" };
        let mut model = open(file, json!({ "task": "tabular-classification", "on_null": nulls }));
        assert_eq!(model.info().labels.iter().map(|label| &**label).collect::<Vec<_>>(), labels, "{file}");
        assert_near(file, &numbers(&mut model, &rows(file)), &expected()[file]["outputs"][output]);
    }
}

#[test]
fn regressors_of_the_usual_exporters_give_the_values_of_onnx_runtime() {
    for file in ["forest_regressor", "boosted_regressor", "xgboost_regressor", "linear_regressor"] {
        let mut model = open(file, json!({ "task": "tabular-regression", "on_null": "nan" }));
        assert_near(file, &numbers(&mut model, &rows(file)), &expected()[file]["outputs"]["variable"]);
    }
}

#[test]
fn a_pipeline_of_scikit_learn_takes_columns_of_numbers_and_words() {
    let mut model = open("columns", json!({ "task": "tabular-classification" }));
    let Reads::Row(columns) = &model.info().reads else { panic!("it reads texts") };
    let columns: Vec<String> = columns.iter().map(|column| column.to_string()).collect();
    assert_eq!(columns, ["amount: float", "hour: float", "country: string", "channel: int"]);
    let mut rows = rows("columns");
    // The graph fills in a missing amount itself; without `on_null: nan` a record with a null fails before.
    let missing = answers(&mut model, &rows[2..]);
    assert_eq!(missing[0].as_ref().unwrap_err().kind, FailureKind::MissingField);
    let Input::Row(cells) = &rows[2] else { unreachable!() };
    let with_nan = cells.iter().map(|cell| if *cell == Cell::Null { Cell::Float(f64::NAN) } else { cell.clone() });
    rows[2] = with_nan.collect::<Vec<_>>().into();
    assert_near("columns", &numbers(&mut model, &rows), &expected()["columns"]["outputs"]["output_probability"]);
}

#[test]
fn the_label_that_a_graph_gives_stands_for_scores() {
    let settings = json!({ "task": "tabular-classification", "outputs": { "label": "label" }, "on_null": "nan" });
    let mut model = open("lightgbm_three", settings);
    let labels = expected()["lightgbm_three"]["outputs"]["label"].clone();
    for (scores, label) in numbers(&mut model, &rows("lightgbm_three")).iter().zip(labels.as_array().unwrap()) {
        let best = scores.iter().position(|&score| score == 1.0).unwrap();
        assert_eq!(*model.info().labels[best], *label.as_str().unwrap());
    }
}

#[test]
fn logits_become_scores_by_the_declared_activation() {
    let settings = json!({ "task": "tabular-classification", "labels": ["ok", "fraud"], "activation": "softmax" });
    let logits = expected()["mlp"]["outputs"]["logits"].clone();
    let wanted: Vec<Vec<f64>> = logits
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let (a, b) = (row[0].as_f64().unwrap().exp(), row[1].as_f64().unwrap().exp());
            vec![a / (a + b), b / (a + b)]
        })
        .collect();
    // The second is exported for batches of exactly two.
    for file in ["mlp", "mlp_fixed_batch"] {
        assert_near(file, &numbers(&mut open(file, settings.clone()), &rows("mlp")), &json!(wanted));
    }
}

#[test]
fn columns_go_into_the_input_that_the_mapping_names() {
    let inputs = json!({ "x": ["amount", "hour", "age"] });
    let model = open(
        "mlp",
        json!({ "task": "tabular-classification", "labels": ["a", "b"], "activation": "softmax", "inputs": inputs }),
    );
    let Reads::Row(columns) = &model.info().reads else { panic!("it reads texts") };
    assert_eq!(columns.len(), 3);
    assert_eq!((columns[1].name.as_deref(), columns[1].kind), (Some("hour"), ColumnKind::Float));
}

#[test]
fn whole_numbers_and_truth_values_go_into_inputs_of_floats() {
    let settings = json!({ "task": "tabular-classification", "labels": ["a", "b"], "activation": "softmax" });
    let mut model = open("mlp", settings);
    let mixed: Input = vec![Cell::Int(2), Cell::Bool(true), Cell::Float(0.0)].into();
    let floats: Input = vec![Cell::Float(2.0), Cell::Float(1.0), Cell::Float(0.0)].into();
    assert_eq!(numbers(&mut model, &[mixed]), numbers(&mut model, &[floats]));
}

#[test]
fn texts_of_a_batch_do_not_change_each_others_answers() {
    for (file, settings) in [
        (
            "text/classifier",
            json!({ "task": "text-classification", "labels": ["a", "b", "c"], "activation": "softmax" }),
        ),
        ("text/encoder", json!({ "task": "embedding", "pooling": "cls" })),
    ] {
        let mut model = open(file, settings);
        let entry = &expected()[file];
        let texts: Vec<Input> =
            entry["texts"].as_array().unwrap().iter().map(|text| Input::from(text.as_str().unwrap())).collect();
        let reference: Vec<Vec<f64>> = entry["outputs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|output| match output[0].as_array() {
                Some(first) => first.iter().map(|x| x.as_f64().unwrap()).collect(),
                None => {
                    let exps: Vec<f64> = output.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().exp()).collect();
                    exps.iter().map(|x| x / exps.iter().sum::<f64>()).collect()
                }
            })
            .collect();
        assert_near(file, &numbers(&mut model, &texts), &json!(reference));
    }
}

#[test]
fn a_bert_that_pytorch_exported_with_everything_open_is_run_text_by_text() {
    let entry: Value = serde_json::from_str(include_str!("../../testdata/onnx/text/bert.json")).unwrap();
    let settings = json!({ "task": "text-classification", "labels": ["a", "b", "c"], "activation": "softmax" });
    let mut model = open("text/bert", settings);
    let texts = entry["texts"].as_array().unwrap().iter().map(|text| Input::from(text.as_str().unwrap()));
    let softmax = |logits: &Value| -> Vec<f64> {
        let exps: Vec<f64> = logits.as_array().unwrap().iter().map(|x| x.as_f64().unwrap().exp()).collect();
        exps.iter().map(|x| x / exps.iter().sum::<f64>()).collect()
    };
    let wanted: Vec<Vec<f64>> = entry["outputs"].as_array().unwrap().iter().map(softmax).collect();
    assert_near("text/bert", &numbers(&mut model, &texts.collect::<Vec<_>>()), &json!(wanted));
}

#[test]
fn an_embedding_is_the_mean_over_the_tokens_without_padding() {
    let mut model = open("text/encoder", json!({ "task": "embedding", "pooling": "mean", "normalize": true }));
    assert_eq!(model.info().dimensions, Some(6));
    let entry = &expected()["text/encoder"];
    let texts: Vec<Input> =
        entry["texts"].as_array().unwrap().iter().map(|text| Input::from(text.as_str().unwrap())).collect();
    let mean = |tokens: &Value| -> Vec<f64> {
        let tokens = tokens.as_array().unwrap();
        let sum = |i: usize| tokens.iter().map(|token| token[i].as_f64().unwrap()).sum::<f64>();
        let mean: Vec<f64> = (0..6).map(|i| sum(i) / tokens.len() as f64).collect();
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        mean.iter().map(|x| x / length).collect()
    };
    let wanted: Vec<Vec<f64>> = entry["outputs"].as_array().unwrap().iter().map(mean).collect();
    assert_near("text/encoder", &numbers(&mut model, &texts), &json!(wanted));
}

#[test]
fn a_long_text_is_cut_at_the_most_tokens() {
    let mut model = open("text/encoder", json!({ "task": "embedding", "pooling": "mean", "max_length": 4 }));
    let texts = ["profit rises", "profit rises shares of the bank", &"profit rises ".repeat(800_000)].map(Input::from);
    let answers = numbers(&mut model, &texts);
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
}

#[test]
fn the_digest_changes_with_whatever_changes_answers() {
    let digest = |file, settings| open(file, settings).info().digest.clone();
    let base = json!({ "task": "tabular-classification", "labels": ["a", "b"], "activation": "softmax" });
    let mut other = base.clone();
    other["labels"] = json!(["b", "a"]);
    let first = digest("mlp", base.clone());
    assert_eq!(first, digest("mlp", base.clone()));
    assert_ne!(first, digest("mlp", other));
    assert_ne!(first, digest("mlp_fixed_batch", base));
}
