//! Linear classifiers over hashed words and character runs; the built-in headline sentiment model is one.

pub mod features;
pub mod train;
pub mod weights;

use std::sync::{Arc, LazyLock};

use millstream_core::{Error, Failure, Result};

use crate::config::short_digest;
use crate::model::estimated_tokens;
use crate::{BatchConfig, Model, ModelFactory, ModelHandle, ModelInfo, Prediction, Reads, Task, TokenEstimate};

use features::Featurizer;
use weights::Weights;

/// The most threads that the model takes.
const THREADS_MAX: usize = 4;

static HEADLINE_SENTIMENT: &[u8] = include_bytes!("../../weights/headline-sentiment-linear.bin");

/// Read once; the bytes are a part of the program and never change.
static LOADED: LazyLock<Result<(Arc<Weights>, ModelInfo)>> = LazyLock::new(|| {
    let weights = Weights::from_bytes(HEADLINE_SENTIMENT)?;
    let info = ModelInfo {
        name: "headline-sentiment-linear".into(),
        digest: short_digest(HEADLINE_SENTIMENT),
        task: Task::TextClassification,
        labels: weights.labels.clone(),
        multi_label: false,
        dimensions: None,
        reads: Reads::Text,
    };
    Ok((Arc::new(weights), info))
});

fn headline_sentiment() -> Result<&'static (Arc<Weights>, ModelInfo)> {
    LOADED
        .as_ref()
        .map_err(|e| Error::new(e.kind(), e.to_string()).context("load the built-in headline sentiment model"))
}

/// What the built-in headline sentiment model is.
pub(crate) fn info() -> Result<ModelInfo> {
    Ok(headline_sentiment()?.1.clone())
}

/// The size of its file.
pub(crate) fn bytes() -> usize {
    HEADLINE_SENTIMENT.len()
}

/// The built-in headline sentiment model without a queue, under the name in `info`.
pub(crate) fn open(info: ModelInfo) -> Result<Box<dyn Model>> {
    Ok(Box::new(LinearModel::new(info, headline_sentiment()?.0.clone())))
}

/// The built-in headline sentiment model behind a queue, under the name in `info`.
pub(crate) fn load(info: ModelInfo, batch: BatchConfig) -> Result<ModelHandle> {
    let weights = &headline_sentiment()?.0;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let model = |_| Box::new(LinearModel::new(info.clone(), weights.clone())) as Box<dyn Model>;
    ModelHandle::spawn((0..threads).map(model).collect(), batch)
}

/// A linear classifier.
#[derive(Debug)]
pub struct LinearModel {
    info: ModelInfo,
    weights: Arc<Weights>,
    featurizer: Featurizer,
}

impl LinearModel {
    /// A classifier with these weights; `info` names the same labels.
    pub fn new(info: ModelInfo, weights: Arc<Weights>) -> Self {
        Self { info, weights, featurizer: Featurizer::default() }
    }
}

impl Model for LinearModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Result<Prediction, Failure>>> {
        let score = |text: &&str| Ok(Prediction::Scores(self.weights.scores(self.featurizer.features(text))));
        Ok(inputs.iter().map(score).collect())
    }

    /// It reads no further than the limit, however long a text is.
    fn token_estimate(&self) -> TokenEstimate {
        Arc::new(|text| estimated_tokens(text).min(features::TEXT_BYTES_MAX / 4))
    }

    fn factory(&self) -> Option<ModelFactory> {
        let (info, weights) = (self.info.clone(), self.weights.clone());
        Some(Arc::new(move || Ok(Box::new(Self::new(info.clone(), weights.clone())))))
    }
}

#[cfg(test)]
mod tests;
