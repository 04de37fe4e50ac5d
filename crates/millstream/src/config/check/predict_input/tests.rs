//! Columns for models that read them: what is right, and what is said of what is not, with its place.

use std::path::Path;

use super::*;
use crate::config::PipelineFile;
use millstream_engine::spec::{Pipeline, TransformKind};

/// `columns.onnx` names its four columns; `spend` names those of a graph with one input of three; `forest` has no
/// names.
fn parse(predict: &str) -> Result<Pipeline, String> {
    let yaml = format!(
        "pipeline: p
sources:
  cards:
    type: file
    path: ./cards.jsonl
    schema: {{ amt: float, amount: float, hour: int, country: string, channel: int?, is_new: bool, at: timestamp, note: string? }}
models:
  columns: {{ task: tabular-classification, source: ./columns.onnx }}
  forest: {{ task: tabular-classification, source: ./forest.onnx }}
  spend: {{ task: tabular-regression, source: ./xgboost_regressor.onnx, inputs: {{ input: [amount, hour, is_new] }} }}
  tone: {{ task: text-classification, source: builtin:headline-sentiment-linear }}
transforms:
  scored: {{ from: cards, predict: {predict} }}
sinks:
  out: {{ type: file, from: scored, folder: ./out }}
"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/testdata/onnx");
    let file = PipelineFile::parse("pipeline.yaml", &yaml, &folder, &|_| None, &|_| Ok(()));
    file.map(|file| file.pipeline).map_err(|wrong| wrong.to_string())
}

fn input(predict: &str) -> PredictInput {
    let pipeline = parse(predict).unwrap_or_else(|wrong| panic!("{wrong}"));
    let TransformKind::Predict(spec) = &pipeline.transforms[0].kind else { panic!("no predict") };
    spec.input.clone()
}

/// `at`: what stands, behind `input:`, at the place that the message names.
fn assert_wrong(predict: &str, at: &str, parts: &[&str]) {
    let wrong = parse(predict).expect_err(predict);
    for part in parts {
        assert!(wrong.contains(part), "`{part}` is not in: {wrong}");
    }
    let line = format!("  scored: {{ from: cards, predict: {predict} }}");
    let input = line.find("input: ").unwrap() + "input: ".len();
    let column = input + line[input..].find(at).unwrap() + 1;
    assert!(wrong.contains(&format!("pipeline.yaml:13:{column}: ")), "not at column {column}: {wrong}");
}

#[test]
fn a_list_goes_by_name_where_the_model_has_names_else_by_place() {
    let (float, int, text) = (ColumnKind::Float, ColumnKind::Int, ColumnKind::Text);
    // In the model's order: amount, hour, country, channel.
    let by_name = input("{ model: columns, input: [channel, country, amount, hour], output: fraud }");
    assert_eq!(by_name, PredictInput::Row(vec![(1, float), (2, float), (3, text), (4, int)]));
    let by_place = input("{ model: forest, input: [hour, amt, is_new], output: fraud }");
    assert_eq!(by_place, PredictInput::Row(vec![(2, float), (0, float), (5, float)]));
}

#[test]
fn a_map_gives_columns_the_models_names() {
    let mapped = input("{ model: spend, input: { is_new: is_new, hour: hour, amount: amt }, output: spend }");
    let float = ColumnKind::Float;
    assert_eq!(mapped, PredictInput::Row(vec![(0, float), (2, float), (5, float)]));
}

#[test]
fn columns_that_do_not_fit_are_named_with_their_place() {
    assert_wrong(
        "{ model: forest,  input: [amt, hour], output: f }",
        "",
        &["`input` names 2 columns", "[float, float, float]"],
    );
    assert_wrong(
        "{ model: forest,  input: [amt, hour, country], output: f }",
        "country]",
        &["column 3 as float", "`country` is a string", "CAST(country AS float)"],
    );
    assert_wrong(
        "{ model: forest,  input: [amt, hour, at], output: f }",
        "at]",
        &["column 3 as float", "`at` is a timestamp"],
    );
    assert_wrong("{ model: forest,  input: [amt, huor, hour], output: f }", "huor,", &["there is no column `huor`"]);
    assert_wrong(
        "{ model: forest,  input: { a: amt }, output: f }",
        "",
        &["the columns of the model `forest` have no names"],
    );
    assert_wrong(
        "{ model: columns, input: [amt, hour, country, channel], output: f }",
        "",
        &["`amount: float`", "write a map"],
    );
    assert_wrong("{ model: columns, input: [amount, hour, country, amt], output: f }", "", &["`channel: int`"]);
    assert_wrong(
        "{ model: columns, input: { amount: amt, hour: hour, country: country, channel: amount }, output: f }",
        "amount }",
        &["`channel` as int", "`amount` is a float"],
    );
    assert_wrong(
        "{ model: columns, input: { amount: amt, huor: hour, country: country, channel: channel }, output: f }",
        "huor:",
        &["reads no column `huor`", "hour"],
    );
    assert_wrong("{ model: tone,     input: [note, country], output: f }", "", &["reads one text"]);
    assert_wrong("{ model: columns, input: amount, output: f }", "", &["`input` names one column"]);
}
