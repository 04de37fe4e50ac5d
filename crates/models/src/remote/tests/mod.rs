//! Endpoints of every kind, healthy and sick, played by a small server in this process.

#[cfg(feature = "aws")]
mod aws;
mod behaviour;
mod fallback;
mod openai;
mod own;
mod server;
mod shapes;
mod tei;

use std::time::Duration;

use millstream_core::{FailureKind, HumanDuration};
use serde_json::{Value, json};

use server::{Asked, serve};

use super::protocol::Protocol;
use crate::{ModelConfig, ModelHandle, Prediction, Task};

pub fn model(url: &str, protocol: Protocol, task: Task) -> ModelConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ModelConfig::new(task, url);
    config.endpoint.protocol = Some(protocol);
    config.endpoint.model_name = matches!(protocol, Protocol::Kserve | Protocol::Openai).then(|| "tone".into());
    if task == Task::TextClassification {
        config.labels = vec!["bad".into(), "good".into()];
    }
    config.endpoint.timeout = Some(HumanDuration(Duration::from_secs(20)));
    config
}

pub fn classifier(url: &str, protocol: Protocol) -> ModelHandle {
    model(url, protocol, Task::TextClassification).load("tone").unwrap()
}

/// The scores that the server gives a text: its length decides.
pub fn goodness(text: &Value) -> f64 {
    text.as_str().unwrap().len() as f64 / 64.0
}

pub fn item(text: &Value) -> Value {
    let good = goodness(text);
    // Best first, as real servers do: not the order of the labels.
    json!([{ "label": "good", "score": good }, { "label": "bad", "score": 1.0 - good }])
}

pub fn items(texts: &Value) -> Vec<Value> {
    texts.as_array().unwrap().iter().map(item).collect()
}

pub fn scores(answers: Vec<Result<Prediction, millstream_core::Failure>>) -> Vec<Vec<f32>> {
    let scores = |answer| if let Ok(Prediction::Scores(scores)) = answer { scores } else { panic!("{answer:?}") };
    answers.into_iter().map(scores).collect()
}

/// Why a call with one text has no answer.
pub async fn failure(body: &str, protocol: Protocol) -> String {
    let body = body.to_owned();
    let server = serve(move |_| (200, "", body.clone())).await;
    let answers = match classifier(&server.url, protocol).predict(vec!["x"]).await {
        Ok(answers) => answers,
        Err(error) => {
            assert!(error.is_retry());
            return error.message().to_owned();
        }
    };
    let failure = answers.into_iter().next().unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Model);
    failure.message
}
