//! Who answers where the endpoint can't.

use crate::{Fallback, FallbackConfig, ModelInfo};

use super::*;

fn config(value: Value) -> FallbackConfig {
    serde_json::from_value(value).unwrap()
}

fn info(labels: &[&str], task: Task) -> ModelInfo {
    let labels = labels.iter().map(|&label| label.into()).collect();
    ModelInfo {
        name: "tone".into(),
        digest: "d".into(),
        task,
        labels,
        multi_label: false,
        dimensions: None,
        reads: crate::Reads::Text,
    }
}

#[tokio::test]
async fn another_model_answers_in_the_order_of_the_first_ones_labels() {
    let handle =
        ModelConfig::new(Task::TextClassification, "builtin:headline-sentiment-linear").load("linear").unwrap();
    let of = info(&["positive", "negative", "neutral"], Task::TextClassification);
    let fallback =
        Fallback::new(&of, &config(json!("linear")), |name| (name == "linear").then(|| handle.clone())).unwrap();
    let text = "Company reports record profit";
    let own = scores(handle.predict(vec![text]).await.unwrap()).remove(0);
    let answers = scores(fallback.predict(vec![text]).await.unwrap());
    assert_eq!(answers, [[own[2], own[0], own[1]]], "its labels are negative, neutral, positive");
    assert_eq!((&*fallback.info().name, &fallback.info().digest), ("linear", &handle.info().digest));
}

#[tokio::test]
async fn a_fixed_value_says_that_it_is_one() {
    let of = info(&["bad", "good"], Task::TextClassification);
    let nothing = |_: &str| None;
    for (value, expected) in [
        (json!({ "label": "good" }), [0.0, 1.0]),
        (json!({ "scores": { "good": 0.25, "bad": 0.75 } }), [0.75, 0.25]),
        (json!({ "good": 0.25, "bad": 0.75 }), [0.75, 0.25]),
    ] {
        let fallback = Fallback::new(&of, &config(value), nothing).unwrap();
        assert_eq!(scores(fallback.predict(vec!["x", "y"]).await.unwrap()), [expected, expected]);
        assert_eq!(&*fallback.info().name, "tone.fallback");
        assert_ne!(fallback.info().digest, of.digest);
    }
    let vector = Fallback::new(&info(&[], Task::Embedding), &config(json!({ "embedding": [0, 1] })), nothing).unwrap();
    assert_eq!(vector.predict(vec!["x"]).await.unwrap(), [Ok(Prediction::Embedding(vec![0.0, 1.0]))]);
}

#[test]
fn a_fallback_that_does_not_fit_is_refused_before_the_start() {
    let of = info(&["bad", "good"], Task::TextClassification);
    let same = info(&["good", "bad"], Task::TextClassification);
    let more = info(&["bad", "good", "odd"], Task::TextClassification);
    let vector = info(&[], Task::Embedding);
    let models = |name: &str| match name {
        "same" => Some(&same),
        "more" => Some(&more),
        "vector" => Some(&vector),
        _ => None,
    };
    let check = |value| crate::remote::fallback::check(&of, &config(value), models);
    check(json!("same")).unwrap();
    for (value, expected) in [
        (json!("more"), "labels are bad, good, odd, not bad, good"),
        (json!("vector"), "does embedding"),
        (json!("tone"), "is itself"),
        (json!("nobody"), "no such model"),
        (json!({ "label": "odd" }), "the label `odd`"),
        (json!({ "good": 1.0 }), "`bad` no score"),
        (json!({ "scores": { "good": 3, "bad": 0 } }), "scores must be in 0..=1"),
        (json!({}), "write `{ label: … }`"),
        (json!({ "embedding": [1] }), "write `{ label: … }`"),
    ] {
        let message = check(value.clone()).unwrap_err().to_string();
        assert!(message.contains(expected), "{value}: {message}");
    }
}
