//! What stands behind an encoder: a classifier on the first token, or pooling into an embedding.

use millstream_core::{Error, Failure, FailureKind, Result};
use serde_json::Value;

use super::config::{Architecture, Config, ScoreFunction};
use super::encoder::{Tensors, Values};
use super::files::Files;
use crate::Prediction;
use crate::transformer::Projection;

/// Steps behind the pooling that a model's files can ask for.
const MODULES_MAX: usize = 16;

/// A dense layer and the function on its outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    projection: Projection,
    function: Function,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Identity,
    Tanh,
    Relu,
    Sigmoid,
}

impl Dense {
    fn new(projection: Projection, function: Function) -> Self {
        Self { projection, function }
    }

    fn apply(&self, input: &[f32]) -> Vec<f32> {
        let rows = self.projection.weight.chunks_exact(input.len().max(1));
        rows.zip(&self.projection.bias).map(|(row, bias)| self.function.of(dot(row, input) + bias)).collect()
    }
}

impl Function {
    fn of(self, x: f32) -> f32 {
        match self {
            Self::Identity => x,
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(0.0),
            Self::Sigmoid => sigmoid(x),
        }
    }

    /// The function that a module's `activation_function` names.
    fn named(name: &str) -> Option<Self> {
        match name.rsplit('.').next()? {
            "Identity" => Some(Self::Identity),
            "Tanh" => Some(Self::Tanh),
            "ReLU" => Some(Self::Relu),
            "Sigmoid" => Some(Self::Sigmoid),
            _ => None,
        }
    }
}

/// What makes a prediction of hidden states.
#[derive(Debug, Clone, PartialEq)]
pub enum Head {
    /// Reads the first token.
    Classifier(Classifier),
    /// Reads all tokens, or the first where nothing else is pooled.
    Embedding(Embedding),
}

/// Dense layers on the first token.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    hidden: Dense,
    outputs: Dense,
    score_function: ScoreFunction,
}

impl Classifier {
    /// The classifier of a model; `tensors` has no prefix, `encoder_prefix` is that of the encoder.
    ///
    /// # Errors
    /// `Config`: a tensor is missing or has another shape, or the number of labels is another.
    pub fn read(config: &Config, tensors: Tensors<'_>, encoder_prefix: &str) -> Result<Self> {
        let (width, labels) = (config.encoder.hidden, config.labels.len());
        let pooler = format!("{encoder_prefix}pooler.dense");
        let (hidden, function, outputs) = match config.architecture {
            Architecture::Bert => (pooler.as_str(), Function::Tanh, "classifier"),
            Architecture::DistilBert => ("pre_classifier", Function::Relu, "classifier"),
            Architecture::Roberta | Architecture::XlmRoberta => {
                ("classifier.dense", Function::Tanh, "classifier.out_proj")
            }
        };
        let last = format!("{outputs}.weight");
        let Some(shape) = tensors.weights.shape(&last) else {
            let (saved_as, shown) = (&config.saved_as, tensors.weights.shown());
            return Err(Error::config(format!(
                "{shown} has no classifier (tensor `{last}` is missing; the model was saved as {saved_as}): \
                 use a model that was trained for classification, or `task: embedding`"
            )));
        };
        if shape.first() != Some(&labels) {
            let (shown, found) = (&config.shown, shape.first().copied().unwrap_or(0));
            return Err(Error::config(format!(
                "{shown} names {labels} labels (`id2label`), but the classifier gives {found} scores \
                 (tensor `{last}` in {} has the shape {shape:?}): correct `id2label`",
                tensors.weights.shown()
            )));
        }
        Ok(Self {
            hidden: Dense::new(tensors.projection(hidden, width, width)?, function),
            outputs: Dense::new(tensors.projection(outputs, width, labels)?, Function::Identity),
            score_function: config.score_function,
        })
    }

    /// Scores from the hidden state of a text's first token.
    ///
    /// # Errors
    /// A score is no number.
    pub fn predict(&self, first: &[f32]) -> Result<Prediction, Failure> {
        let mut scores = self.outputs.apply(&self.hidden.apply(first));
        if let Some(wrong) = scores.iter().find(|score| !score.is_finite()) {
            return Err(Failure::new(FailureKind::Model, format!("the model's output for this text is {wrong}")));
        }
        match self.score_function {
            ScoreFunction::Softmax => softmax(&mut scores),
            ScoreFunction::Sigmoid => scores.iter_mut().for_each(|score| *score = sigmoid(*score)),
        }
        Ok(Prediction::Scores(scores))
    }
}

/// Pooling, and what sentence-transformers put behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    pooling: Vec<Pooling>,
    behind: Vec<Module>,
    /// Numbers in an embedding.
    pub dimensions: usize,
}

/// How the tokens of a text become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pooling {
    First,
    Max,
    Mean,
    MeanSqrtLength,
}

#[derive(Debug, Clone, PartialEq)]
enum Module {
    Dense(Dense),
    /// To length 1.
    Normalize,
}

impl Embedding {
    /// Mean pooling, which is used where a model's files say nothing.
    pub fn mean(hidden: usize) -> Self {
        Self { pooling: vec![Pooling::Mean], behind: Vec::new(), dimensions: hidden }
    }

    /// What stands behind the encoder by `modules.json` (sentence-transformers): `list` without its first entry, the
    /// encoder.
    ///
    /// # Errors
    /// `Config`: a module is not known, or its files are missing or wrong.
    pub fn read(files: &Files, list: &[Value], hidden: usize, values: Values) -> Result<Self> {
        let shown = files.shown("modules.json");
        if list.len() > MODULES_MAX {
            return Err(Error::config(format!("{shown} lists more than {MODULES_MAX} modules")));
        }
        let mut embedding = Self::mean(hidden);
        for (index, module) in list.iter().enumerate() {
            let kind = module.get("type").and_then(Value::as_str).unwrap_or_default();
            let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
            if path.split(['/', '\\']).any(|part| part == "..") || path.starts_with('/') {
                return Err(Error::config(format!("{shown}: the path `{path}` leads out of the model's folder")));
            }
            let inside = files.inside(path);
            match kind.rsplit('.').next().unwrap_or_default() {
                "Pooling" if index == 0 => {
                    embedding.pooling = pooling(&inside)?;
                    embedding.dimensions = hidden * embedding.pooling.len();
                }
                "Normalize" => embedding.behind.push(Module::Normalize),
                "Dense" => {
                    let (dense, outputs) = dense(&inside, embedding.dimensions, values)?;
                    embedding.behind.push(Module::Dense(dense));
                    embedding.dimensions = outputs;
                }
                // Drops numbers in training only.
                "Dropout" => {}
                _ => {
                    return Err(Error::config(format!(
                        "{shown}: the module `{kind}` at place {} is not known there: known are Transformer, then Pooling, \
                         then Dense and Normalize",
                        index + 1
                    )));
                }
            }
        }
        Ok(embedding)
    }

    /// Whether the first token's state is all that is needed.
    pub fn reads_first_only(&self) -> bool {
        self.pooling == [Pooling::First]
    }

    /// An embedding from the hidden states of a text's tokens (or of the first alone, where that is enough).
    ///
    /// # Errors
    /// A number of it is none.
    pub fn predict(&self, states: &[f32], hidden: usize) -> Result<Prediction, Failure> {
        let mut vector: Vec<f32> = self.pooling.iter().flat_map(|pooling| pooling.of(states, hidden)).collect();
        for module in &self.behind {
            match module {
                Module::Dense(dense) => vector = dense.apply(&vector),
                Module::Normalize => normalize(&mut vector),
            }
        }
        match vector.iter().find(|number| !number.is_finite()) {
            Some(wrong) => {
                Err(Failure::new(FailureKind::Model, format!("the model's embedding of this text holds {wrong}")))
            }
            None => Ok(Prediction::Embedding(vector)),
        }
    }
}

impl Pooling {
    fn of(self, states: &[f32], hidden: usize) -> Vec<f32> {
        let rows = states.chunks_exact(hidden);
        let count = rows.len() as f32;
        let mut vector = states[..hidden].to_vec();
        if self == Self::First {
            return vector;
        }
        for row in rows.skip(1) {
            for (into, number) in vector.iter_mut().zip(row) {
                *into = if self == Self::Max { into.max(*number) } else { *into + number };
            }
        }
        let divisor = match self {
            Self::First | Self::Max => return vector,
            Self::Mean => count,
            Self::MeanSqrtLength => count.sqrt(),
        };
        vector.iter_mut().for_each(|number| *number /= divisor);
        vector
    }
}

/// `1_Pooling/config.json`. Where several kinds are on, their vectors stand side by side, in this order.
fn pooling(files: &Files) -> Result<Vec<Pooling>> {
    let shown = files.shown("config.json");
    let value = files.json("config.json")?.ok_or_else(|| Error::config(format!("{shown} is missing")))?;
    if value.get("include_prompt").and_then(Value::as_bool) == Some(false) {
        return Err(Error::config(format!("{shown}: `include_prompt: false` is not supported")));
    }
    let kinds = [
        ("pooling_mode_cls_token", "cls", Pooling::First),
        ("pooling_mode_max_tokens", "max", Pooling::Max),
        ("pooling_mode_mean_tokens", "mean", Pooling::Mean),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::MeanSqrtLength),
    ];
    let mut chosen: Vec<Pooling> = Vec::new();
    if let Some(mode) = value.get("pooling_mode") {
        let named = match mode {
            Value::Array(modes) => modes.iter().filter_map(Value::as_str).collect(),
            other => vec![other.as_str().unwrap_or_default()],
        };
        for name in named {
            let kind = kinds.iter().find(|(_, short, _)| *short == name);
            let (_, _, kind) = kind.ok_or_else(|| {
                let known = kinds.map(|(_, short, _)| short).join(", ");
                Error::config(format!("{shown}: the pooling `{name}` is not known: known are {known}"))
            })?;
            chosen.push(*kind);
        }
    }
    for (key, on) in value.as_object().into_iter().flatten() {
        if key.starts_with("pooling_mode_")
            && on.as_bool() == Some(true)
            && !kinds.iter().any(|(known, ..)| known == key)
        {
            let known = kinds.map(|(key, ..)| key).join(", ");
            return Err(Error::config(format!("{shown}: `{key}` is not known: known are {known}")));
        }
    }
    let is_on = |key: &str| value.get(key).and_then(Value::as_bool) == Some(true);
    if chosen.is_empty() {
        chosen.extend(kinds.iter().filter(|(key, ..)| is_on(key)).map(|(.., kind)| *kind));
    }
    if chosen.is_empty() {
        chosen.push(Pooling::Mean);
    }
    Ok(chosen)
}

/// `2_Dense`: the layer, and its outputs.
fn dense(files: &Files, inputs: usize, values: Values) -> Result<(Dense, usize)> {
    let shown = files.shown("config.json");
    let value = files.json("config.json")?.ok_or_else(|| Error::config(format!("{shown} is missing")))?;
    let size = |key: &str| value.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let (Some(found), Some(outputs)) = (size("in_features"), size("out_features")) else {
        return Err(Error::config(format!("{shown}: `in_features` or `out_features` is missing")));
    };
    if found != inputs {
        return Err(Error::config(format!("{shown}: `in_features` is {found}, but {inputs} numbers come in")));
    }
    let name = value.get("activation_function").and_then(Value::as_str).unwrap_or("torch.nn.modules.activation.Tanh");
    let function = Function::named(name).ok_or_else(|| {
        Error::config(format!("{shown}: `{name}` is not known: known are Identity, Tanh, ReLU, Sigmoid"))
    })?;
    let weights = files.weights()?;
    let tensors = Tensors { weights: &weights, prefix: "", values };
    let has_bias = value.get("bias").and_then(Value::as_bool).unwrap_or(true);
    let projection = if has_bias {
        tensors.projection("linear", inputs, outputs)?
    } else {
        Projection { weight: tensors.tensor("linear.weight", &[outputs, inputs])?, bias: vec![0.0; outputs] }
    };
    Ok((Dense::new(projection, function), outputs))
}

/// To length 1, as PyTorch's `normalize` does.
fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt().max(1e-12);
    vector.iter_mut().for_each(|number| *number /= length);
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(scores: &mut [f32]) {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// Eight sums side by side, which the compiler turns into vectors.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_blocks, a_rest) = a.as_chunks::<8>();
    let (b_blocks, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
