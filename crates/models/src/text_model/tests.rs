//! Models with random weights answer as `transformers` and sentence-transformers do (`training/parity.py` made both).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::*;
use crate::ModelConfig;

/// What the issue asks of single precision.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    texts: Vec<String>,
    models: BTreeMap<String, Answers>,
}

#[derive(Deserialize)]
struct Answers {
    task: Task,
    labels: Vec<String>,
    ids: Vec<Vec<u32>>,
    outputs: Vec<Vec<f32>>,
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/transformers")
}

fn expected(folder: &Path) -> Expected {
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn exact() -> Settings {
    Settings { precision: Some(Precision::F32), ..Settings::default() }
}

fn open(folder: &Path, task: Task, settings: &Settings) -> TextModel {
    let found = find(folder, task, settings).unwrap();
    TextModel::new(found.info.clone(), &found).unwrap()
}

fn numbers(prediction: &Prediction) -> &[f32] {
    match prediction {
        Prediction::Scores(numbers) | Prediction::Embedding(numbers) => numbers,
        Prediction::Value(_) => panic!("{prediction:?} of a text"),
    }
}

/// The largest difference of an answer, over all texts, alone and in one batch; ids have to be the same.
fn largest_difference(name: &str, folder: &Path, texts: &[String], answers: &Answers) -> f32 {
    let mut model = open(folder, answers.task, &exact());
    assert_eq!(model.info().labels.iter().map(|label| label.to_string()).collect::<Vec<_>>(), answers.labels, "{name}");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    for (text, ids) in texts.iter().zip(&answers.ids) {
        assert_eq!(model.token_ids(text).unwrap(), *ids, "{name}: tokens of {text:?}");
    }
    let batch = model.predict(&texts).unwrap();
    let alone = texts.iter().flat_map(|text| model.predict(&[text]).unwrap());
    let mut largest = 0.0f32;
    for (index, answer) in batch.iter().cloned().chain(alone).enumerate() {
        let answer = answer.unwrap();
        let expected = &answers.outputs[index % texts.len()];
        assert_eq!(numbers(&answer).len(), expected.len(), "{name}");
        for (number, expected) in numbers(&answer).iter().zip(expected) {
            largest = largest.max((number - expected).abs());
        }
    }
    largest
}

#[test]
fn every_architecture_answers_as_transformers_do_in_single_precision() {
    let Expected { texts, models } = expected(&testdata());
    assert_eq!(models.len(), 8);
    for (name, answers) in models {
        let difference = largest_difference(&name, &testdata().join(&name), &texts, &answers);
        println!("{name}: {} texts, largest difference {difference:e}", texts.len());
        assert!(difference <= TOLERANCE, "{name}: {difference}");
    }
}

/// Run by hand with what `training/parity.py real` wrote.
#[test]
#[ignore = "set MILLSTREAM_PARITY_DIR to what `training/parity.py real --out DIR` wrote"]
fn models_of_real_size_answer_as_transformers_do_in_single_precision() {
    let folder = PathBuf::from(std::env::var("MILLSTREAM_PARITY_DIR").expect("MILLSTREAM_PARITY_DIR is not set"));
    let Expected { texts, models } = expected(&folder);
    assert!(!models.is_empty());
    let mut too_far = Vec::new();
    for (name, answers) in models {
        let difference = largest_difference(&name, &folder.join(&name), &texts, &answers);
        println!("{name}: {} texts, largest difference {difference:e}", texts.len());
        if difference > TOLERANCE {
            too_far.push(name);
        }
    }
    assert!(too_far.is_empty(), "{too_far:?}");
}

#[test]
fn what_a_model_is_stands_in_its_files() {
    let info = |name: &str, task| find(&testdata().join(name), task, &exact()).unwrap().info;
    let classifier = info("bert-classifier", Task::TextClassification);
    assert_eq!((&*classifier.name, classifier.multi_label, classifier.dimensions), ("bert-classifier", false, None));
    assert_eq!(classifier.labels, ["negative", "neutral", "positive"].map(Arc::from));
    assert!(info("bert-multi-label-torch", Task::TextClassification).multi_label);
    assert!(info("xlm-roberta-classifier", Task::TextClassification).multi_label, "one label has a score of its own");
    assert_eq!(info("bert-of-2019", Task::TextClassification).labels, ["LABEL_0", "LABEL_1"].map(Arc::from));
    assert_eq!(info("minilm-embedding", Task::Embedding).dimensions, Some(32));
    assert_eq!(info("roberta-embedding", Task::Embedding).dimensions, Some(24));
    // A classifier's encoder gives embeddings, too; its labels are not those of an embedding.
    let encoder = info("bert-classifier", Task::Embedding);
    assert_eq!((encoder.labels.len(), encoder.dimensions), (0, Some(32)));
}

#[test]
fn different_answers_have_different_digests() {
    let digest = |name: &str, settings: &Settings| {
        find(&testdata().join(name), Task::TextClassification, settings).unwrap().info.digest
    };
    let own = digest("bert-classifier", &exact());
    assert_eq!(own, digest("bert-classifier", &Settings { threads: Some(1), ..exact() }));
    let others = [
        digest("distilbert-classifier", &exact()),
        digest("bert-classifier", &Settings { precision: Some(Precision::Bf16), ..exact() }),
        digest("bert-classifier", &Settings { max_length: Some(8), ..exact() }),
        digest("bert-classifier", &Settings { labels: ["a", "b", "c"].map(String::from).to_vec(), ..exact() }),
    ];
    assert!(!others.contains(&own));
}

#[test]
fn a_long_text_is_cut_where_max_length_says() {
    let folder = testdata().join("bert-classifier");
    let mut short = open(&folder, Task::TextClassification, &Settings { max_length: Some(8), ..exact() });
    let ids = short.token_ids("Profit rises as exports recover, says central bank").unwrap();
    assert_eq!(ids.len(), 8);
    assert_eq!(ids.last(), short.token_ids("").unwrap().last(), "the last special token is kept");
    assert_eq!(short.predict(&["x"]).unwrap().len(), 1);
    let too_long = find(&folder, Task::TextClassification, &Settings { max_length: Some(65), ..exact() });
    assert!(too_long.err().unwrap().to_string().contains("64 tokens at most"));
    let too_short = find(&folder, Task::TextClassification, &Settings { max_length: Some(2), ..exact() });
    assert!(too_short.err().unwrap().to_string().contains("special tokens"));
}

#[test]
fn a_huge_text_has_the_answer_of_its_beginning() {
    let mut model = open(&testdata().join("bert-classifier"), Task::TextClassification, &exact());
    let beginning = "Profit rises as exports recover. ".repeat(50);
    let huge = beginning.repeat(10_000_000 / beginning.len());
    let without_spaces = "x".repeat(10_000_000);
    let answers = model.predict(&[&beginning, &huge, &without_spaces]).unwrap();
    assert_eq!(answers[0].as_ref().unwrap(), answers[1].as_ref().unwrap());
    // More than a hundred characters without a space are one unknown word to BERT.
    assert_eq!(answers[2].as_ref().unwrap(), &model.predict(&[&"x".repeat(200)]).unwrap().pop().unwrap().unwrap());
}

#[test]
fn texts_whose_words_are_rare_still_fill_the_model() {
    let model = open(&testdata().join("bert-classifier"), Task::TextClassification, &exact());
    // 40 words of one token each, 300 bytes apart: more than the first look covers.
    let sparse = format!("{}bank", format!("bank{}", " ".repeat(300)).repeat(40));
    let dense = format!("{}bank", "bank ".repeat(40));
    assert_eq!(model.token_ids(&sparse).unwrap(), model.token_ids(&dense).unwrap());
}

#[test]
fn a_copy_shares_weights_and_answers_the_same() {
    let mut model = open(&testdata().join("bert-classifier"), Task::TextClassification, &exact());
    let mut copy = model.factory().unwrap()().unwrap();
    assert_eq!(Arc::strong_count(&model.shared), 2);
    assert_eq!(model.predict(&["Profit rises"]).unwrap(), copy.predict(&["Profit rises"]).unwrap());
}

#[test]
fn more_texts_than_go_through_at_once_keep_their_order() {
    let mut model = open(&testdata().join("minilm-embedding"), Task::Embedding, &exact());
    let texts: Vec<String> = (0..900).map(|i| format!("word{i} {} bank", "profit ".repeat(i % 23))).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = model.predict(&texts).unwrap();
    for index in [0, 1, 450, 898, 899] {
        let alone = model.predict(&[texts[index]]).unwrap().pop().unwrap().unwrap();
        let difference =
            numbers(together[index].as_ref().unwrap()).iter().zip(numbers(&alone)).map(|(a, b)| (a - b).abs());
        assert!(difference.fold(0.0, f32::max) < TOLERANCE, "text {index}");
    }
}

/// A copy of the embedding model whose files a test may change.
fn copy_of_embedding() -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(testdata().join("minilm-embedding")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            std::fs::copy(&entry, copy.path().join(entry.file_name().unwrap())).unwrap();
        }
    }
    std::fs::create_dir(copy.path().join("1_Pooling")).unwrap();
    let pooling = "1_Pooling/config.json";
    std::fs::copy(testdata().join("minilm-embedding").join(pooling), copy.path().join(pooling)).unwrap();
    copy
}

#[test]
fn a_default_prompt_stands_in_front_of_every_text() {
    let folder = copy_of_embedding();
    let mut plain = open(folder.path(), Task::Embedding, &exact());
    let prompts = json!({ "prompts": { "query": "profit: " }, "default_prompt_name": "query" });
    std::fs::write(folder.path().join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
    let mut prompted = open(folder.path(), Task::Embedding, &exact());
    assert_eq!(prompted.predict(&["bank"]).unwrap(), plain.predict(&["profit: bank"]).unwrap());
    assert_ne!(prompted.info().digest, plain.info().digest);
}

#[test]
fn an_old_sentence_transformer_has_its_encoder_in_a_folder_of_its_own() {
    let folder = copy_of_embedding();
    let mut new = open(folder.path(), Task::Embedding, &exact());
    let inner = folder.path().join("0_Transformer");
    std::fs::create_dir(&inner).unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() && !entry.ends_with("modules.json") {
            std::fs::rename(&entry, inner.join(entry.file_name().unwrap())).unwrap();
        }
    }
    let modules = std::fs::read_to_string(folder.path().join("modules.json")).unwrap();
    let modules = modules.replacen("\"path\": \"\"", "\"path\": \"0_Transformer\"", 1);
    std::fs::write(folder.path().join("modules.json"), modules).unwrap();
    let mut old = open(folder.path(), Task::Embedding, &exact());
    assert_eq!(old.predict(&["Profit rises"]).unwrap(), new.predict(&["Profit rises"]).unwrap());
}

#[tokio::test]
async fn a_folder_is_a_model_in_a_pipeline_file() {
    let folder = testdata().join("bert-classifier");
    let mut config: ModelConfig = serde_json::from_value(json!({
        "task": "text-classification", "source": "./bert-classifier", "precision": "f32", "threads": 2,
        "labels": ["bad", "so-so", "good"]
    }))
    .unwrap();
    config.start_from(folder.parent().unwrap());
    let info = config.check().unwrap();
    assert_eq!(info.labels, ["bad", "so-so", "good"].map(Arc::from));
    let handle = config.load("tone").unwrap();
    assert_eq!((&*handle.info().name, &handle.info().digest), ("tone", &info.digest));
    let answers = handle.predict(vec!["Profit rises", "Shares fall", ""]).await.unwrap();
    for answer in answers {
        let sum: f32 = numbers(&answer.unwrap()).iter().sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
}

#[test]
fn settings_of_other_kinds_of_models_are_refused() {
    let refused = |value: serde_json::Value| {
        let mut config: ModelConfig = serde_json::from_value(value).unwrap();
        config.start_from(&testdata());
        config.check().unwrap_err().to_string()
    };
    let folder = |key: &str, value: serde_json::Value| {
        refused(json!({ "task": "text-classification", "source": "./bert-classifier", key: value }))
    };
    assert!(folder("timeout", json!("1s")).contains("`timeout` is for endpoints"));
    assert!(folder("threads", json!(0)).contains("`threads` is 0"));
    assert!(
        folder("labels", json!(["a", "b"])).contains("2 `labels`, but the model has 3: negative, neutral, positive")
    );
    assert!(folder("labels", json!(["a", "b", "a"])).contains("stands twice"));
    let embedding = json!({ "task": "embedding", "source": "./minilm-embedding", "labels": ["a"] });
    assert!(refused(embedding).contains("an embedding has no labels"));
    for (key, value) in [("precision", json!("int8")), ("max_length", json!(9)), ("threads", json!(1))] {
        let builtin =
            json!({ "task": "text-classification", "source": "builtin:headline-sentiment-linear", key: value });
        assert!(refused(builtin).contains(&format!("`{key}` is for folders")));
    }
}

/// What `training/reference.py` writes beside a packed model.
#[derive(Deserialize)]
struct PackedReference {
    labels: Vec<String>,
    texts: Vec<PackedAnswer>,
}

#[derive(Deserialize)]
struct PackedAnswer {
    text: String,
    ids: Vec<u32>,
    probabilities: Vec<f32>,
}

/// Run by hand on a freshly trained model.
#[test]
#[ignore = "set MILLSTREAM_PACKED_MODEL and MILLSTREAM_PACKED_REFERENCE to what `training/export.py` wrote"]
fn a_packed_model_answers_as_transformers_do_with_its_weights() {
    let path = |variable: &str| std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"));
    let bytes = std::fs::read(path("MILLSTREAM_PACKED_MODEL")).unwrap().leak();
    let reference: PackedReference =
        serde_json::from_slice(&std::fs::read(path("MILLSTREAM_PACKED_REFERENCE")).unwrap()).unwrap();
    let mut model = load_packed("packed", bytes, Task::TextClassification, &exact()).unwrap();
    assert_eq!(model.info().labels.iter().map(|label| label.to_string()).collect::<Vec<_>>(), reference.labels);
    let mut largest = 0.0f32;
    for answer in &reference.texts {
        assert_eq!(model.token_ids(&answer.text).unwrap(), answer.ids, "tokens of {:?}", answer.text);
        let prediction = model.predict(&[&answer.text]).unwrap().pop().unwrap().unwrap();
        let differences = numbers(&prediction).iter().zip(&answer.probabilities).map(|(a, b)| (a - b).abs());
        largest = differences.fold(largest, f32::max);
    }
    println!("{} texts, largest difference {largest:e}", reference.texts.len());
    assert!(largest <= TOLERANCE, "{largest}");
}

/// Run by hand on a freshly trained model.
#[test]
#[ignore = "set MILLSTREAM_PACKED_MODEL to a packed classifier and MILLSTREAM_TEXTS to a CSV with the columns `text` and `label`"]
fn the_faster_precisions_agree_with_single_precision_on_the_label() {
    let path = |variable: &str| std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set"));
    let bytes = std::fs::read(path("MILLSTREAM_PACKED_MODEL")).unwrap().leak();
    let rows = crate::EvalRow::read_csv(Path::new(&path("MILLSTREAM_TEXTS")), "text", "label").unwrap();
    let texts: Vec<&str> = rows.iter().filter_map(|row| row.input.as_text()).collect();
    let labels = |precision| {
        let settings = Settings { precision: Some(precision), ..Settings::default() };
        let mut model = load_packed("packed", bytes, Task::TextClassification, &settings).unwrap();
        let answers = texts.chunks(32).flat_map(|texts| model.predict(texts).unwrap());
        answers.map(|answer| crate::output::highest(numbers(&answer.unwrap()))).collect::<Vec<_>>()
    };
    let exact = labels(Precision::F32);
    for precision in [Precision::Bf16, Precision::Int8] {
        let same = labels(precision).iter().zip(&exact).filter(|(label, exact)| label == exact).count();
        println!("{precision:?}: {same} of {} labels are those of F32", texts.len());
        assert!(same as f64 >= 0.995 * texts.len() as f64);
    }
}
