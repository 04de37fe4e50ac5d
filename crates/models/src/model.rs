//! What a model is: a synchronous object that turns texts into predictions.

use std::sync::Arc;

use millstream_core::{Error, Failure, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cell, Reads};

/// What a model does with a text, or with a row of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A score for each label.
    TextClassification,
    /// A list of numbers that stands for the text's meaning.
    Embedding,
    /// A score for each label, from columns.
    TabularClassification,
    /// A number, from columns.
    TabularRegression,
}

impl Task {
    /// The name in the pipeline file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TextClassification => "text-classification",
            Self::Embedding => "embedding",
            Self::TabularClassification => "tabular-classification",
            Self::TabularRegression => "tabular-regression",
        }
    }

    /// Whether it gives a score for each label.
    pub fn is_classification(self) -> bool {
        matches!(self, Self::TextClassification | Self::TabularClassification)
    }

    /// Whether it reads columns, not a text.
    pub fn is_tabular(self) -> bool {
        matches!(self, Self::TabularClassification | Self::TabularRegression)
    }
}

/// What is known of a model before it is loaded; enough to type a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelInfo {
    /// The name in the pipeline file; where a configuration is only checked, the source's own name.
    pub name: Arc<str>,
    /// 16 hexadecimal digits. A local model: of everything that its answers depend on. An endpoint, whose weights
    /// nobody here can see: of its address (without credentials), its labels, and those settings that decide what it is
    /// asked.
    pub digest: Arc<str>,
    /// What it does.
    pub task: Task,
    /// The labels, in the order of the scores; empty for an embedding.
    pub labels: Vec<Arc<str>>,
    /// Each label has a score of its own: any number of labels may fit, and scores need not sum to 1.
    pub multi_label: bool,
    /// The length of its embeddings, where it is known.
    pub dimensions: Option<usize>,
    /// What it reads.
    pub reads: Reads,
}

/// What a model says about one input.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// One score per label, in the order of [`ModelInfo::labels`]; each in 0..=1, together 1 unless
    /// [`ModelInfo::multi_label`].
    Scores(Vec<f32>),
    /// An embedding; every number is finite.
    Embedding(Vec<f32>),
    /// The number that a regression gives; finite.
    Value(f32),
}

/// How many tokens a text has, about; asked for every text on its way into the queue, so it must be quick.
pub type TokenEstimate = Arc<dyn Fn(&str) -> usize + Send + Sync>;

/// Makes another copy of a model; copies share their weights.
pub type ModelFactory = Arc<dyn Fn() -> Result<Box<dyn Model>> + Send + Sync>;

/// A prediction, and who made it: a model may be replaced while it is in use.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// What was said.
    pub prediction: Prediction,
    /// The model that said it.
    pub by: Arc<ModelInfo>,
}

/// The guess for a model that knows no better: four bytes a token, and two tokens around the text.
pub fn estimated_tokens(text: &str) -> usize {
    text.len() / 4 + 2
}

/// A model in this process.
///
/// It lives on a thread of its own behind a [`crate::ModelHandle`], which hands it batches of at most `batch.max`
/// texts. A panic costs only the text that caused it, and the object is used again afterwards: it must not rely on
/// having finished a call.
pub trait Model: Send {
    /// What it is.
    fn info(&self) -> &ModelInfo;

    /// One answer per input, in the same order.
    ///
    /// # Errors
    /// The model as a whole can't answer; a text that it can't digest is a [`Failure`] in its place instead.
    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Result<Prediction, Failure>>>;

    /// The same for rows, of a model whose [`ModelInfo::reads`] says that it reads them.
    ///
    /// # Errors
    /// As [`Model::predict`].
    fn predict_rows(&mut self, rows: &[&[Cell]]) -> Result<Vec<Result<Prediction, Failure>>> {
        let (name, rows) = (&self.info().name, rows.len());
        Err(Error::bug(format!("model `{name}` reads texts, and got {rows} rows of columns")))
    }

    /// What `batch.max_tokens` counts. A model that cuts texts off counts no more than it reads.
    fn token_estimate(&self) -> TokenEstimate {
        Arc::new(estimated_tokens)
    }

    /// Makes a copy for a fresh thread after this one has hung. Without it, a thread that hangs is not replaced.
    fn factory(&self) -> Option<ModelFactory> {
        None
    }
}
