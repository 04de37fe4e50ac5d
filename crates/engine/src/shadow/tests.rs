//! How shadows are compared, and that they hold nobody up.

use std::sync::mpsc as gates;

use millstream_core::{Failure, FailureKind, Result};
use millstream_models::{BatchConfig, Model, Task};

use super::*;

/// Scores by the text's first letter, in labels of its own order; fails on `fail`; waits at a gate, if it has one.
struct Fake {
    info: ModelInfo,
    gate: Option<gates::Receiver<()>>,
}

fn info(labels: &[&str]) -> ModelInfo {
    let labels = labels.iter().map(|label| Arc::from(*label)).collect();
    ModelInfo {
        name: "next".into(),
        digest: "2".into(),
        task: Task::TextClassification,
        labels,
        multi_label: false,
        dimensions: None,
        reads: millstream_models::Reads::Text,
    }
}

impl Model for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<std::result::Result<Prediction, Failure>>> {
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        let answer = |text: &&str| match text.chars().next() {
            Some('f') => Err(Failure::new(FailureKind::Model, "no")),
            first => Ok(Prediction::Scores(if first == Some('u') { vec![0.9, 0.1] } else { vec![0.2, 0.8] })),
        };
        Ok(inputs.iter().map(answer).collect())
    }
}

fn spawn(gate: Option<gates::Receiver<()>>) -> Shadow {
    let fake = Fake { info: info(&["up", "down"]), gate };
    Shadow::spawn(ModelHandle::spawn(vec![Box::new(fake)], BatchConfig::default()).unwrap())
}

/// What a model with the labels the other way round says: always `up`.
fn scored(text: &str) -> (Input, Scored) {
    let by = Arc::new(ModelInfo { name: "now".into(), digest: "1".into(), ..info(&["down", "up"]) });
    (text.into(), Scored { prediction: Prediction::Scores(vec![0.3, 0.7]), by })
}

async fn until(shadow: &Shadow, reached: impl Fn(&ShadowReport) -> bool) -> ShadowReport {
    loop {
        let report = shadow.report();
        if reached(&report) {
            return report;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn labels_are_compared_by_name_and_disagreements_are_shown() {
    let shadow = spawn(None);
    assert_eq!(shadow.report().agreement(), None);
    shadow.offer(vec![scored("u1"), scored("d2"), scored("u3"), scored("f4"), scored("u5")]);
    let report = until(&shadow, |r| r.total == 4).await;
    assert_eq!((report.disagreements, report.dropped, report.failed), (1, 0, 1));
    assert_eq!((&*report.model, report.agreement()), ("next", Some(0.75)));
    let verdict = |label: &str, score| Some(Verdict { label: label.into(), score });
    let expected = Example { text: "d2".into(), model: verdict("up", 0.7), shadow: verdict("down", 0.8), cosine: None };
    assert_eq!(report.examples, [expected]);
}

#[tokio::test]
async fn only_the_newest_examples_are_kept_and_only_the_beginning_of_a_text() {
    let shadow = spawn(None);
    for i in 0..30 {
        shadow.offer(vec![scored(&format!("d{i}{}", "é".repeat(500)))]);
        until(&shadow, |r| r.total == i + 1).await;
    }
    let examples = shadow.report().examples;
    assert_eq!((examples.len(), examples[9].text.chars().count()), (EXAMPLES, EXAMPLE_CHARS));
    assert!(examples[9].text.starts_with("d29"));
}

#[tokio::test]
async fn a_shadow_that_cannot_keep_up_is_not_waited_for_and_what_it_misses_is_counted() {
    let (opener, gate) = gates::channel();
    let shadow = spawn(Some(gate));
    for _ in 0..1000 {
        shadow.offer(vec![scored("u"), scored("d")]);
    }
    let dropped = shadow.report().dropped;
    assert!(dropped >= 1000, "{dropped}: no more than the offers that may wait are taken");
    drop(opener);
    let report = until(&shadow, |r| r.total + r.dropped == 2000).await;
    assert_eq!((report.dropped, report.disagreements), (dropped, report.total / 2));
}

#[tokio::test]
async fn texts_of_many_megabytes_are_not_kept_for_the_shadow() {
    let (opener, gate) = gates::channel();
    let shadow = spawn(Some(gate));
    let large = scored(&"u".repeat(10 << 20));
    for _ in 0..3 {
        shadow.offer(vec![large.clone()]);
    }
    assert_eq!(shadow.report().dropped, 2);
    drop(opener);
    until(&shadow, |r| r.total == 1).await;
}

#[test]
fn embeddings_disagree_where_their_cosine_is_below_the_limit() {
    let by = Arc::new(ModelInfo { task: Task::Embedding, labels: vec![], ..info(&[]) });
    let scored = |numbers: &[f32]| Scored { prediction: Prediction::Embedding(numbers.to_vec()), by: by.clone() };
    let disagree = |a: &[f32], b: &[f32]| disagreement("text", &scored(a), &scored(b)).and_then(|e| e.cosine);
    assert_eq!(disagree(&[1.0, 2.0], &[2.0, 4.0]), None, "the direction counts");
    assert_eq!(disagree(&[1.0, 0.0], &[1.0, 0.1]), None);
    assert!(disagree(&[1.0, 0.0], &[1.0, 0.2]).is_some_and(|cosine| cosine > 0.9));
    assert_eq!(disagree(&[1.0], &[1.0, 0.0]), Some(0.0));
    assert!(disagree(&[f32::NAN], &[1.0]).is_some());
}
