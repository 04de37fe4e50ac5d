//! Who answers where an endpoint can't: another model of the pipeline, or a fixed value.
//!
//! The `predict` step asks it for the texts of a call that has failed as a whole: the breaker is open, or the attempts
//! are used up. A text that the endpoint refuses is not one of them: the endpoint has answered.

use std::sync::Arc;

use millstream_core::{Error, Failure, FailureKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::protocol;
use crate::config::short_digest;
use crate::{Input, ModelHandle, ModelInfo, Prediction, Task};

/// What is written behind `fallback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FallbackConfig {
    /// The name of another model, with the same task and labels.
    Model(String),
    /// `{ label: neutral }`, `{ scores: { negative: 0.2, … } }` or `{ embedding: [0, …] }`.
    Value(Map<String, Value>),
}

/// A fallback, ready to answer; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fallback(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Model {
        handle: ModelHandle,
        /// For each label of the model that it stands in for: where it is among its own.
        places: Arc<[usize]>,
    },
    Value {
        info: ModelInfo,
        prediction: Prediction,
    },
}

impl Fallback {
    /// The fallback of the model `of`; `models` finds a loaded model by its name.
    ///
    /// # Errors
    /// `Config`: see [`check`].
    pub fn new(of: &ModelInfo, config: &FallbackConfig, models: impl Fn(&str) -> Option<ModelHandle>) -> Result<Self> {
        Ok(Self(match config {
            FallbackConfig::Model(name) => {
                let handle = models(name).ok_or_else(|| unknown(name))?;
                let places = places(of, &handle.info())?;
                Kind::Model { handle, places }
            }
            FallbackConfig::Value(value) => {
                let written = Value::Object(value.clone()).to_string();
                let info = ModelInfo {
                    name: format!("{}.fallback", of.name).into(),
                    digest: short_digest(written.as_bytes()),
                    ..of.clone()
                };
                Kind::Value { info, prediction: fixed(of, value)? }
            }
        }))
    }

    /// Who answers: rows that it scores carry this name and digest. A fixed value has the model's name with
    /// `.fallback`.
    pub fn info(&self) -> ModelInfo {
        match &self.0 {
            Kind::Model { handle, .. } => ModelInfo::clone(&handle.info()),
            Kind::Value { info, .. } => info.clone(),
        }
    }

    /// One answer per text, in order, with scores in the order of the labels of the model that it stands in for.
    ///
    /// # Errors
    /// As [`ModelHandle::predict`].
    pub async fn predict<T: Into<Input>>(&self, texts: Vec<T>) -> Result<Vec<Result<Prediction, Failure>>> {
        let (handle, places) = match &self.0 {
            Kind::Value { prediction, .. } => return Ok(texts.iter().map(|_| Ok(prediction.clone())).collect()),
            Kind::Model { handle, places } => (handle, places),
        };
        let answers = handle.predict(texts).await?;
        Ok(answers.into_iter().map(|answer| answer.and_then(|answer| in_order(answer, places))).collect())
    }
}

/// Whether a fallback fits the model `of`, before anything is loaded; `models` finds a checked model by its name.
///
/// # Errors
/// `Config`: there is no such model, it does something else or has other labels; the value is no prediction of this
/// model.
pub fn check<'a>(
    of: &ModelInfo,
    config: &FallbackConfig,
    models: impl Fn(&str) -> Option<&'a ModelInfo>,
) -> Result<()> {
    match config {
        FallbackConfig::Model(name) if **name == *of.name => {
            Err(Error::config(format!("the `fallback` of `{name}` is itself: name another model, or write a value")))
        }
        FallbackConfig::Model(name) => places(of, models(name).ok_or_else(|| unknown(name))?).map(drop),
        FallbackConfig::Value(value) => fixed(of, value).map(drop),
    }
}

/// The prediction that a fixed value stands for.
pub(crate) fn fixed(of: &ModelInfo, value: &Map<String, Value>) -> Result<Prediction> {
    let only_label = value.get("label").and_then(Value::as_str).filter(|_| value.len() == 1);
    let item = match only_label {
        Some(chosen) if of.task == Task::TextClassification => {
            let mut scores: Map<String, Value> = of.labels.iter().map(|label| (label.to_string(), 0.into())).collect();
            if scores.insert(chosen.into(), 1.into()).is_none() {
                let labels = of.labels.join(", ");
                return Err(Error::setting(
                    "fallback",
                    format!("`fallback` has the label `{chosen}`; `labels` are {labels}"),
                ));
            }
            Value::Object(Map::from_iter([("scores".to_owned(), Value::Object(scores))]))
        }
        _ => Value::Object(value.clone()),
    };
    protocol::prediction(of, item).map_err(|failure| {
        let example = match of.task {
            Task::TextClassification | Task::TabularClassification | Task::TabularRegression => {
                "write `{ label: … }`, or `{ scores: { … } }` with a score for each label"
            }
            Task::Embedding => "write `{ embedding: [0.1, …] }`",
        };
        let why = failure.message.replace("the endpoint", "`fallback`");
        Error::setting("fallback", format!("`fallback` is no prediction of this model ({why}): {example}"))
    })
}

fn places(of: &ModelInfo, other: &ModelInfo) -> Result<Arc<[usize]>> {
    let (task, wanted) = (other.task.as_str(), of.task.as_str());
    if other.task != of.task {
        return Err(Error::setting(
            "fallback",
            format!("`fallback` is `{}`, which does {task}, not {wanted}", other.name),
        ));
    }
    let place = |label: &Arc<str>| other.labels.iter().position(|theirs| theirs == label);
    let places: Option<Arc<[usize]>> = of.labels.iter().map(place).collect();
    places.filter(|places| places.len() == other.labels.len()).ok_or_else(|| {
        let (theirs, ours) = (other.labels.join(", "), of.labels.join(", "));
        Error::setting("fallback", format!("`fallback` is `{}`, whose labels are {theirs}, not {ours}", other.name))
    })
}

fn in_order(answer: Prediction, places: &[usize]) -> Result<Prediction, Failure> {
    let Prediction::Scores(scores) = answer else { return Ok(answer) };
    let ordered: Option<Vec<f32>> = places.iter().map(|&place| scores.get(place).copied()).collect();
    ordered.map(Prediction::Scores).ok_or_else(|| {
        Failure::new(FailureKind::Model, "the fallback gave another number of scores than there are labels")
    })
}

fn unknown(name: &str) -> Error {
    Error::setting("fallback", format!("`fallback` is `{name}`, but there is no such model"))
}
