//! How good the built-in model is, and that training is repeatable.

use std::path::Path;

use proptest::prelude::*;

use super::train::{TrainConfig, TrainRow, train};
use super::*;
use crate::{EvalRow, ModelConfig, evaluate};

const BUILTIN: &str = "builtin:headline-sentiment-linear";

fn builtin() -> ModelHandle {
    ModelConfig::new(Task::TextClassification, BUILTIN).load("sentiment").unwrap()
}

#[tokio::test]
async fn the_builtin_model_reaches_its_promised_f1_on_headlines_it_was_not_trained_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/sentiment/sentfin_dev.csv");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let report = evaluate(&builtin(), &EvalRow::read_csv(&path, "text", "label").unwrap()).await.unwrap();
    eprintln!("{}", serde_json::to_string_pretty(&report).unwrap());
    assert_eq!((report.n, report.failed), (929, 0));
    assert!(report.macro_f1 >= 0.80, "{report:?}");
}

#[tokio::test]
async fn the_builtin_model_reads_our_own_headlines() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/headlines.csv");
    let rows = EvalRow::read_csv(&path, "text", "label").unwrap();
    let report = evaluate(&builtin(), &rows).await.unwrap();
    assert!(report.n >= 30 && report.accuracy >= 0.8, "{report:?}");
    assert!(report.per_class.iter().all(|class| class.recall >= 0.6), "{report:?}");
}

#[tokio::test]
async fn scores_are_probabilities_for_any_text() {
    let handle = builtin();
    let long = "profit ".repeat(100_000);
    let texts = ["", "\u{0}\u{feff}", "???", "日本株は上昇", &long, "Profit rises"];
    let answers = handle.predict(texts.iter().map(|text| text.to_string()).collect()).await.unwrap();
    for (text, answer) in texts.iter().zip(answers) {
        let Ok(Prediction::Scores(scores)) = answer else { panic!("{text:?}") };
        assert_eq!(scores.len(), 3);
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5, "{text:?}: {scores:?}");
        assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{text:?}: {scores:?}");
    }
}

fn tiny() -> (Vec<Arc<str>>, Vec<TrainRow>) {
    let rows =
        ["profit falls", "shares fall hard", "loss widens", "profit rises", "shares gain", "record gain in profit"];
    let row = |(i, text): (usize, &&str)| TrainRow { text: (*text).into(), label: i / 3, weight: 1.0 };
    (vec!["negative".into(), "positive".into()], rows.iter().enumerate().map(row).collect())
}

#[test]
fn training_twice_gives_the_same_bytes_and_another_seed_does_not() {
    let (labels, rows) = tiny();
    let config = TrainConfig::default();
    let bytes = train(&labels, &rows, &config).unwrap().to_bytes();
    assert_eq!(train(&labels, &rows, &config).unwrap().to_bytes(), bytes);
    let other = train(&labels, &rows, &TrainConfig { seed: 43, ..config }).unwrap();
    assert_ne!(other.to_bytes(), bytes);
}

#[test]
fn a_trained_model_has_learned_its_rows() {
    let (labels, rows) = tiny();
    let weights = train(&labels, &rows, &TrainConfig::default()).unwrap();
    let mut featurizer = Featurizer::default();
    for row in &rows {
        let scores = weights.scores(featurizer.features(&row.text));
        assert_eq!(crate::output::highest(&scores), row.label, "{row:?}: {scores:?}");
    }
}

#[test]
fn training_refuses_what_it_cannot_learn_from() {
    let (labels, rows) = tiny();
    let config = TrainConfig::default();
    let refused = |labels: &[Arc<str>], rows: &[TrainRow]| train(labels, rows, &config).unwrap_err().to_string();
    assert!(refused(&labels, &rows[..3]).contains("no row has the label `positive`"));
    assert!(refused(&labels[..1], &rows).contains("2 to 255 labels"));
    let mut unknown = rows.clone();
    unknown[1].label = 2;
    assert!(refused(&labels, &unknown).contains("row 2"));
    unknown[1] = TrainRow { weight: f32::NAN, ..rows[1].clone() };
    assert!(refused(&labels, &unknown).contains("row 2"));
}

#[test]
fn weights_read_back_as_they_were_written_and_nothing_else_does() {
    let (labels, rows) = tiny();
    let weights = train(&labels, &rows, &TrainConfig::default()).unwrap();
    let bytes: &'static [u8] = weights.to_bytes().leak();
    let again = Weights::from_bytes(bytes).unwrap();
    assert_eq!(again.to_bytes(), bytes);
    assert_eq!(again.labels, labels);
    for broken in [&bytes[1..], &bytes[..bytes.len() - 1], &bytes[..20], b"", b"MSLINEAR"] {
        assert!(Weights::from_bytes(broken).is_err());
    }
}

proptest! {
    #[test]
    fn a_header_of_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = b"MSLINEAR\x01\0\0\0\x11\0\0\0".to_vec();
        bytes.extend(noise);
        prop_assert!(Weights::from_bytes(bytes.leak()).is_err());
    }
}
