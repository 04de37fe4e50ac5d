//! What a file, a setting or a record that can't work gets.

use millstream_core::{ErrorKind, FailureKind};
use serde_json::{Value, json};

use super::{answers, config, open, path};
use crate::{Cell, Input, Model, ModelConfig};

fn refused(file: &str, settings: Value) -> String {
    let error = config(file, settings).check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    error.to_string()
}

fn assert_has(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn every_operator_that_cannot_be_run_is_named_with_its_node_before_the_start() {
    let message = refused("unsupported", json!({ "task": "tabular-regression" }));
    assert_has(
        &message,
        &[
            "unsupported.onnx",
            "FancyAttention (com.example)",
            "block_0",
            "SVMRegressor (ai.onnx.ml)",
            "head",
            "onnxruntime",
        ],
    );
    assert!(!message.contains("NotNeeded"), "what the output does not need does not count: {message}");
}

#[test]
fn a_file_that_is_cut_off_or_missing_or_something_else_is_named() {
    let task = json!({ "task": "tabular-regression" });
    let error = config("truncated", task.clone()).check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corruption);
    assert_has(&error.to_string(), &["truncated.onnx", "no complete ONNX file"]);
    let error = config("no_such", task.clone()).check().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert_has(&error.to_string(), &["no_such.onnx"]);
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("empty.onnx", b"".as_slice()), ("text.onnx", b"not a model at all, only words")] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let config = ModelConfig::new(crate::Task::TabularRegression, file.to_str().unwrap());
        assert_has(&config.check().unwrap_err().to_string(), &[name, "no complete ONNX file"]);
    }
}

#[test]
fn a_truncation_anywhere_is_an_error_and_no_panic() {
    let bytes = std::fs::read(path("columns")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cut.onnx");
    for end in (0..bytes.len()).step_by(7) {
        std::fs::write(&file, &bytes[..end]).unwrap();
        let config = ModelConfig::new(crate::Task::TabularClassification, file.to_str().unwrap());
        assert!(config.open_onnx().is_err(), "the first {end} of {} bytes were taken for a model", bytes.len());
    }
}

#[test]
fn a_number_that_is_none_fails_its_row_only() {
    let mut model = open("nan", json!({ "task": "tabular-regression" }));
    let row = |a, b| Input::from(vec![Cell::Float(a), Cell::Float(b)]);
    let rows = [row(4.0, 9.0), row(-1.0, 4.0), row(1.0, 0.0)];
    let answers = answers(&mut model, &rows);
    assert_eq!(answers[0], Ok(crate::Prediction::Value(5.0)));
    assert_eq!(answers[2], Ok(crate::Prediction::Value(1.0)));
    let failure = answers[1].as_ref().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Model);
    assert_has(&failure.message, &["`y`", "NaN"]);
}

#[test]
fn what_the_mapping_lacks_is_asked_for_with_what_is_there() {
    let classify = |more: Value| {
        let mut settings = json!({ "task": "tabular-classification" });
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        refused("mlp", settings)
    };
    assert_has(&classify(json!({})), &["mlp.onnx", "`logits`", "activation: softmax"]);
    assert_has(&classify(json!({ "activation": "softmax" })), &["labels: […]", "which has 2"]);
    let three = json!({ "activation": "softmax", "labels": ["a", "b", "c"] });
    assert_has(&classify(three), &["`labels` has 3 labels", "`logits` has 2"]);
    assert_has(&classify(json!({ "activation": "sigmoid", "labels": ["a", "b"] })), &["sigmoid", "one score"]);
    assert_has(&classify(json!({ "inputs": { "z": "a" } })), &["`z`", "`x: float[?, 3]`"]);
    assert_has(&classify(json!({ "inputs": { "x": ["a", "b"] } })), &["`x` takes 3 columns", "names 2"]);
    assert_has(&classify(json!({ "outputs": { "scores": "p" } })), &["`p`", "`logits: float[?, 2]`"]);
    assert_has(&classify(json!({ "outputs": { "value": "logits" } })), &["outputs.value", "tabular-classification"]);
    #[cfg(not(feature = "onnxruntime"))]
    {
        let other_runtime = json!({ "runtime": "onnxruntime", "activation": "softmax", "labels": ["a", "b"] });
        assert_has(&classify(other_runtime), &["--features onnxruntime"]);
    }
    let words = json!({ "task": "tabular-classification", "on_null": "nan" });
    assert_has(&refused("columns", words), &["on_null: nan", "`country` takes string"]);
    assert_has(&refused("text/encoder", json!({ "task": "embedding" })), &["pooling: mean"]);
    assert_has(&refused("mlp", json!({ "task": "embedding" })), &["`x`", "input_ids"]);
    let labelled = json!({ "task": "tabular-regression", "labels": ["a", "b"] });
    assert_has(&refused("forest_regressor", labelled), &["no labels"]);
}

#[test]
fn a_text_graph_without_its_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alone.onnx");
    std::fs::copy(path("text/encoder"), &file).unwrap();
    let config: ModelConfig =
        serde_json::from_value(json!({ "task": "embedding", "source": file, "pooling": "mean" })).unwrap();
    assert_has(&config.check().unwrap_err().to_string(), &["tokenizer.json is missing"]);
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert_has(&config.check().unwrap_err().to_string(), &["tokenizer.json is no tokenizer"]);
}

#[test]
fn settings_for_onnx_files_are_refused_elsewhere() {
    let config: ModelConfig = serde_json::from_value(json!({
        "task": "text-classification", "source": "builtin:headline-sentiment-linear", "activation": "softmax"
    }))
    .unwrap();
    assert_has(&config.check().unwrap_err().to_string(), &["`activation` is for ONNX files"]);
    let config: ModelConfig = serde_json::from_value(json!({
        "task": "tabular-regression", "source": "https://h/x"
    }))
    .unwrap();
    assert_has(&config.check().unwrap_err().to_string(), &["`task: tabular-regression` is for ONNX files"]);
}

#[test]
fn a_row_that_does_not_fit_fails_alone() {
    let mut model = open("columns", json!({ "task": "tabular-classification" }));
    let row = |amount, country, channel| Input::from(vec![amount, Cell::Float(3.0), country, channel]);
    let word = || Cell::Text("DE".into());
    let rows = [
        row(Cell::Float(20.0), word(), Cell::Int(1)),
        row(Cell::Text("20".into()), word(), Cell::Int(1)),
        row(Cell::Float(20.0), Cell::Null, Cell::Int(1)),
        row(Cell::Float(20.0), word(), Cell::Float(1.5)),
        row(Cell::Float(1e300), word(), Cell::Int(1)),
        Input::from(vec![Cell::Float(1.0)]),
    ];
    let answers = answers(&mut model, &rows);
    assert!(answers[0].is_ok());
    let kinds: Vec<FailureKind> = answers[1..].iter().map(|answer| answer.as_ref().unwrap_err().kind).collect();
    let mismatch = FailureKind::TypeMismatch;
    let wanted = [mismatch, FailureKind::MissingField, mismatch, FailureKind::OutOfRange, mismatch];
    assert_eq!(kinds, wanted);
    let text = model.predict(&["a text"]).unwrap();
    assert_eq!(text[0].as_ref().unwrap_err().kind, mismatch);
    assert_has(&answers[2].as_ref().unwrap_err().message, &["`country`", "null"]);
}

#[test]
fn logits_taken_for_probabilities_are_noticed() {
    let mut model =
        open("mlp", json!({ "task": "tabular-classification", "labels": ["a", "b"], "activation": "none" }));
    let row: Input = vec![Cell::Float(5.0), Cell::Float(-5.0), Cell::Float(5.0)].into();
    assert_has(&answers(&mut model, &[row])[0].as_ref().unwrap_err().message, &["no probabilities", "activation"]);
}
