//! The models that are a part of the program.

use millstream_core::units::HumanDuration;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::*;
use crate::text_model::TextModel;
use crate::transformer::Precision;
use crate::{Model, ModelConfig, Prediction, highest};

/// What `transformers` says of the shipped weights; made by `training/reference.py`.
#[derive(Deserialize)]
struct Reference {
    weights_sha256: String,
    labels: Vec<String>,
    texts: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    text: String,
    ids: Vec<u32>,
    probabilities: Vec<f32>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../testdata/headline-sentiment-reference.json")).unwrap()
}

fn model(precision: Precision) -> TextModel {
    let found = headline_sentiment(&Settings { precision: Some(precision), ..Settings::default() }).unwrap();
    TextModel::new(found.info.clone(), &found).unwrap()
}

fn scores(model: &mut TextModel, texts: &[&str]) -> Vec<Vec<f32>> {
    let scores = |answer| match answer {
        Ok(Prediction::Scores(scores)) => scores,
        other => panic!("{other:?}"),
    };
    model.predict(texts).unwrap().into_iter().map(scores).collect()
}

#[test]
fn the_shipped_model_answers_as_transformers_does_with_the_same_weights() {
    let reference = reference();
    let digest: String = Sha256::digest(HEADLINE_SENTIMENT).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(digest, reference.weights_sha256, "run training/reference.py again");
    let mut model = model(Precision::F32);
    assert!(model.info().labels.iter().map(|l| &**l).eq(reference.labels.iter().map(String::as_str)));
    let texts: Vec<&str> = reference.texts.iter().map(|t| t.text.as_str()).collect();
    for (expected, found) in reference.texts.iter().zip(scores(&mut model, &texts)) {
        assert_eq!(model.token_ids(&expected.text).unwrap(), expected.ids, "{:?}", expected.text);
        for (expected_score, score) in expected.probabilities.iter().zip(&found) {
            assert!((expected_score - score).abs() < 1e-4, "{:?}: {found:?}", expected.text);
        }
    }
}

#[test]
fn the_faster_modes_give_the_same_labels() {
    let reference = reference();
    let texts: Vec<&str> = reference.texts.iter().map(|t| t.text.as_str()).collect();
    for precision in [Precision::Bf16, Precision::Int8] {
        for (expected, found) in reference.texts.iter().zip(scores(&mut model(precision), &texts)) {
            let mut sorted = expected.probabilities.clone();
            sorted.sort_by(f32::total_cmp);
            // Rounding may decide between labels that are as good as equal.
            if sorted[2] - sorted[1] > 0.1 {
                assert_eq!(highest(&found), highest(&expected.probabilities), "{precision:?} {:?}", expected.text);
            }
        }
    }
}

#[test]
fn a_setting_that_does_not_fit_is_refused_with_the_limit() {
    let mut config = ModelConfig::new(Task::TextClassification, "builtin:headline-sentiment");
    config.stall_timeout = Some(HumanDuration(std::time::Duration::from_secs(5)));
    config.max_length = Some(64);
    assert_eq!(config.check().unwrap().labels.len(), 3);
    config.max_length = Some(100_000);
    let message = config.check().unwrap_err().to_string();
    assert!(message.contains("`max_length` is 100000") && message.contains("256"), "{message}");
}
