//! Models whose files are missing, damaged, or do not belong together.

use std::io::Write;

use serde_json::json;

use super::*;
use crate::Task::{Embedding, TextClassification};
use crate::text_model::{Settings, TextModel, find};

fn open(folder: &Path, task: Task) -> Result<ModelFiles> {
    ModelFiles::open(folder, task)
}

fn refused(folder: &Path, task: Task) -> String {
    open(folder, task).err().expect("it is refused").to_string()
}

fn refused_with_config(name: &str, key: &str, value: Value) -> String {
    let folder = copy_of(name);
    edit_json(&folder.path().join("config.json"), |config| config[key] = value.clone());
    refused(folder.path(), TextClassification)
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn a_missing_file_is_named() {
    says(&refused(&testdata("nowhere"), Embedding), &["nowhere", "does not exist"]);
    says(&refused(&testdata("bert-classifier/config.json"), Embedding), &["is a file"]);
    let without = |file: &str| {
        let folder = copy_of("bert-classifier");
        fs::remove_file(folder.path().join(file)).unwrap();
        refused(folder.path(), TextClassification)
    };
    says(&without("config.json"), &["config.json", "is missing"]);
    says(&without("model.safetensors"), &["has no weights", "pytorch_model.bin"]);
    says(&without("tokenizer.json"), &["tokenizer.json is missing", "vocab.txt"]);
    let sharded = copy_of("xlm-roberta-classifier");
    fs::remove_file(sharded.path().join("model-00002-of-00003.safetensors")).unwrap();
    says(&refused(sharded.path(), TextClassification), &["model-00002-of-00003.safetensors"]);
}

#[test]
fn a_file_that_is_cut_off_is_refused_wherever_the_cut_is() {
    for (name, file) in [
        ("bert-classifier", "model.safetensors"),
        ("bert-multi-label-torch", "pytorch_model.bin"),
        ("bert-of-2019", "pytorch_model.bin"),
    ] {
        let folder = copy_of(name);
        let path = folder.path().join(file);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, 7, 100, 5_000, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            says(&refused(folder.path(), TextClassification), &[file]);
        }
    }
}

#[test]
fn a_tensor_of_another_shape_is_named_with_both_shapes() {
    let message = refused_with_config("bert-classifier", "hidden_size", json!(64));
    says(&message, &["bert.embeddings.token_type_embeddings.weight", "model.safetensors", "[2, 32]", "[2, 64]"]);
    let message = refused_with_config("bert-classifier", "num_hidden_layers", json!(3));
    says(&message, &["`bert.encoder.layer.2.attention.self.query.weight` is missing", "[32, 32]"]);
    let message = refused_with_config("bert-multi-label-torch", "vocab_size", json!(9000));
    says(&message, &["word_embeddings", "pytorch_model.bin", "[9000, 32]"]);
}

#[test]
fn an_unknown_architecture_is_named_with_those_that_are_known() {
    let message = refused_with_config("bert-classifier", "model_type", json!("gpt2"));
    says(&message, &["`gpt2`", "bert, distilbert, roberta, xlm-roberta", "ONNX"]);
    says(&refused_with_config("bert-classifier", "hidden_act", json!("silu")), &["`hidden_act: silu`", "gelu"]);
    let message = refused_with_config("bert-classifier", "position_embedding_type", json!("relative_key"));
    says(&message, &["relative_key", "absolute"]);
    says(&refused_with_config("bert-classifier", "num_attention_heads", json!(5)), &["5 attention heads"]);
    says(&refused_with_config("bert-classifier", "hidden_size", json!("wide")), &["`hidden_size`"]);
    says(&refused_with_config("bert-classifier", "problem_type", json!("regression")), &["regression"]);
}

#[test]
fn a_file_that_is_no_json_is_named() {
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        let folder = copy_of("bert-classifier");
        fs::write(folder.path().join(file), "{ not").unwrap();
        says(&refused(folder.path(), TextClassification), &[file, "no JSON"]);
    }
    let folder = copy_of("bert-classifier");
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = find(folder.path(), TextClassification, &Settings::default()).err().unwrap().to_string();
    says(&error, &["tokenizer.json", "broken"]);
}

#[test]
fn labels_that_do_not_fit_the_classifier_are_counted() {
    let message = refused_with_config("bert-classifier", "id2label", json!({ "0": "bad", "1": "good" }));
    says(&message, &["config.json names 2 labels", "3 scores", "classifier.weight", "[3, 32]"]);
    says(&refused_with_config("bert-classifier", "id2label", json!({ "0": "a", "2": "b", "3": "c" })), &["`1`"]);
    says(
        &refused_with_config("bert-classifier", "id2label", json!({ "0": "a", "1": "b", "2": "a" })),
        &["`a`", "twice"],
    );
}

#[test]
fn a_model_without_a_classifier_is_no_classifier() {
    says(&refused(&testdata("minilm-embedding"), TextClassification), &["no classifier", "BertModel", "embedding"]);
}

/// A copy of the BERT classifier with `value` in a bias of its second and last layer.
fn with_a_broken_last_layer(value: f32) -> TempDir {
    let folder = copy_of("bert-classifier");
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    let (_, _, _, bytes) =
        tensors.iter_mut().find(|(name, ..)| name == "bert.encoder.layer.1.output.dense.bias").unwrap();
    bytes[12..16].copy_from_slice(&value.to_le_bytes());
    fs::write(&path, write_tensors(&tensors, None)).unwrap();
    folder
}

#[test]
fn weights_that_are_no_numbers_are_found_before_the_pipeline_starts() {
    for value in [f32::NAN, f32::INFINITY] {
        let folder = with_a_broken_last_layer(value);
        let found = find(folder.path(), TextClassification, &Settings::default()).unwrap();
        let message = TextModel::new(found.info.clone(), &found).err().unwrap().to_string();
        says(&message, &["bert.encoder.layer.1.output.dense.bias", "model.safetensors", "number 3 of 32", "broken"]);
    }
}

#[test]
fn a_layer_is_read_when_it_is_asked_for_and_no_sooner() {
    let folder = with_a_broken_last_layer(f32::NAN);
    let path = folder.path().join("model.safetensors");
    let files = open(folder.path(), TextClassification).unwrap();
    let layers = || encoder::layers(&files.config, files.tensors(Values::Read));
    assert!(layers().nth(1).unwrap().is_err());
    // The mapped file is repaired behind the first layer; who had read the second before still has the broken one.
    let mut layers = layers();
    assert!(layers.next().unwrap().is_ok());
    let repaired = write_tensors(&read_tensors(&testdata("bert-classifier").join("model.safetensors")), None);
    fs::OpenOptions::new().write(true).open(&path).unwrap().write_all(&repaired).unwrap();
    assert!(layers.next().unwrap().is_ok());
    assert!(layers.next().is_none());
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let folder = copy_of("bert-classifier");
    fs::copy(testdata("roberta-embedding/tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let error = find(folder.path(), TextClassification, &Settings::default()).err().unwrap().to_string();
    says(&error, &["tokenizer.json", "220 tokens", "don't belong together"]);
}

#[test]
fn modules_that_are_not_known_are_named() {
    let edited = |edit: &dyn Fn(&Path)| {
        let folder = copy_of("minilm-embedding");
        edit(folder.path());
        refused(folder.path(), Embedding)
    };
    let unknown = |path: &Path| {
        edit_json(&path.join("modules.json"), |list| list[2]["type"] = json!("sentence_transformers.models.LSTM"));
    };
    says(&edited(&unknown), &["modules.json", "models.LSTM", "Dense"]);
    let outside = |path: &Path| edit_json(&path.join("modules.json"), |list| list[1]["path"] = json!("../elsewhere"));
    says(&edited(&outside), &["../elsewhere", "out of the model's folder"]);
    let last_token = |path: &Path| {
        edit_json(&path.join("1_Pooling/config.json"), |pooling| pooling["pooling_mode_lasttoken"] = json!(true));
    };
    says(&edited(&last_token), &["pooling_mode_lasttoken", "pooling_mode_mean_tokens"]);
    let dense = copy_of("roberta-embedding");
    edit_json(&dense.path().join("2_Dense/config.json"), |config| config["in_features"] = json!(7));
    says(&refused(dense.path(), Embedding), &["2_Dense", "`in_features` is 7", "96 numbers"]);
}

#[test]
fn a_shard_outside_of_the_folder_is_not_opened() {
    let folder = copy_of("xlm-roberta-classifier");
    edit_json(&folder.path().join("model.safetensors.index.json"), |index| {
        index["weight_map"]["roberta.embeddings.LayerNorm.bias"] = json!("../../secret.safetensors");
    });
    says(&refused(folder.path(), TextClassification), &["weight_map"]);
}

#[test]
fn scores_that_are_no_numbers_fail_the_text_and_at_start_the_model() {
    let folder = copy_of("bert-classifier");
    let Head::Classifier(classifier) =
        open(folder.path(), TextClassification).unwrap().load(64, Precision::F32).unwrap().head
    else {
        panic!("no classifier")
    };
    let failure = classifier.predict(&[f32::NAN; 32]).unwrap_err();
    says(&failure.message, &["output for this text is NaN"]);
    let Head::Embedding(embedding) = open(folder.path(), Embedding).unwrap().load(64, Precision::F32).unwrap().head
    else {
        panic!("no embedding")
    };
    says(&embedding.predict(&[f32::INFINITY; 32], 32).unwrap_err().message, &["embedding of this text holds inf"]);

    // Each weight is a number, but their sum is none.
    let path = folder.path().join("model.safetensors");
    let mut tensors = read_tensors(&path);
    let (_, _, _, bytes) = tensors.iter_mut().find(|(name, ..)| name == "classifier.bias").unwrap();
    bytes.copy_from_slice(&[3e38f32; 3].map(f32::to_le_bytes).concat());
    let (_, _, shape, bytes) = tensors.iter_mut().find(|(name, ..)| name == "classifier.weight").unwrap();
    let alternating = (0..shape[0] * shape[1]).flat_map(|i| if i % 2 == 0 { 3e38f32 } else { -3e38 }.to_le_bytes());
    *bytes = alternating.collect();
    fs::write(&path, write_tensors(&tensors, None)).unwrap();
    let found = find(folder.path(), TextClassification, &Settings::default()).unwrap();
    let message = TextModel::new(found.info.clone(), &found).err().unwrap().to_string();
    says(&message, &["can't be used", "output for this text"]);
}
