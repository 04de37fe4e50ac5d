//! The same files through the ONNX Runtime library. Run by hand, with the library:
//! `ORT_DYLIB_PATH=…/libonnxruntime.so cargo test -p millstream-models --features onnxruntime -- --ignored onnxruntime`

use serde_json::json;

use super::{assert_near, config, expected, numbers, open, rows};
use crate::{Cell, Input, Model};

#[test]
#[ignore = "needs the ONNX Runtime library (ORT_DYLIB_PATH)"]
fn the_library_gives_the_answers_that_tract_gives() {
    for (file, output) in [
        ("forest", "output_probability"),
        ("lightgbm_three", "probabilities"),
        ("xgboost_binary", "probabilities"),
        ("ordinal", "output_probability"),
    ] {
        let nulls = if file == "ordinal" { "fail" } else { "nan" };
        let settings = json!({ "task": "tabular-classification", "on_null": nulls, "runtime": "onnxruntime" });
        assert_near(file, &numbers(&mut open(file, settings), &rows(file)), &expected()[file]["outputs"][output]);
    }
    let settings = json!({ "task": "tabular-regression", "on_null": "nan", "runtime": "onnxruntime" });
    let mut model = open("xgboost_regressor", settings);
    let wanted = &expected()["xgboost_regressor"]["outputs"]["variable"];
    assert_near("xgboost_regressor", &numbers(&mut model, &rows("xgboost_regressor")), wanted);
}

#[test]
#[ignore = "needs the ONNX Runtime library (ORT_DYLIB_PATH)"]
fn texts_and_words_go_through_the_library_too() {
    let settings = |runtime: &str| json!({ "task": "embedding", "pooling": "mean", "runtime": runtime });
    let texts = ["profit of the bank rises", "", "loss"].map(Input::from);
    let by_tract = numbers(&mut open("text/encoder", settings("tract")), &texts);
    assert_near("text/encoder", &numbers(&mut open("text/encoder", settings("onnxruntime")), &texts), &json!(by_tract));

    let settings = |runtime: &str| json!({ "task": "tabular-classification", "runtime": runtime });
    let row: Input = vec![Cell::Float(50.0), Cell::Int(3), Cell::Text("FR".into()), Cell::Int(1)].into();
    let by_tract = numbers(&mut open("columns", settings("tract")), std::slice::from_ref(&row));
    assert_near("columns", &numbers(&mut open("columns", settings("onnxruntime")), &[row]), &json!(by_tract));
}

#[test]
#[ignore = "needs the ONNX Runtime library (ORT_DYLIB_PATH)"]
fn a_file_that_the_library_refuses_is_named() {
    let settings = json!({ "task": "tabular-regression", "runtime": "onnxruntime" });
    let Err(error) = config("unsupported", settings).open_onnx() else { panic!("it was taken") };
    assert!(error.to_string().contains("unsupported.onnx") && error.to_string().contains("com.example"), "{error}");
    let mut model = open("nan", json!({ "task": "tabular-regression", "runtime": "onnxruntime" }));
    let answers = model.predict_rows(&[&[Cell::Float(-1.0), Cell::Float(1.0)]]).unwrap();
    assert!(answers[0].is_err());
}
