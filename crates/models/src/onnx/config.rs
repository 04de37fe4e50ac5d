//! What can be set for an ONNX file: which columns go in, what comes out, and what computes it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A name, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several, side by side.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl Names {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Which of the graph's outputs means what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct OnnxOutputs {
    /// Classification: the output with a score for each label (or, with two labels, one for the second). Default: the
    /// only output of floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<String>,
    /// Classification by a graph without scores: the output with the label; it gets the score 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Regression: the output with the number. Default: the only output of floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Embedding: the output with a vector for each text, or one for each of its tokens. Default: the only output of
    /// floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<String>,
}

/// What turns the graph's numbers into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnnxActivation {
    /// Nothing: the graph gives probabilities.
    None,
    /// `exp(x) / Σ exp(x)`: the graph gives a logit for each label.
    Softmax,
    /// `1 / (1 + exp(-x))`: the graph gives one logit, for the second of two labels.
    Sigmoid,
}

/// What a column that is null becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnnxNull {
    /// The record fails.
    #[default]
    Fail,
    /// NaN, which trees and imputers take as a missing value; for floats only.
    Nan,
}

/// What makes one vector of the vectors of a text's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnnxPooling {
    /// Their mean.
    Mean,
    /// The first.
    Cls,
}

/// What computes a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnnxRuntime {
    /// The engine inside of Millstream, on the processor.
    #[default]
    Tract,
    /// The ONNX Runtime library, which the environment variable `ORT_DYLIB_PATH` names; for builds with the feature
    /// `onnxruntime`.
    Onnxruntime,
}

impl OnnxRuntime {
    /// The name in the pipeline file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tract => "tract",
            Self::Onnxruntime => "onnxruntime",
        }
    }
}

/// The settings of a model from an ONNX file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "snake_case")]
pub struct OnnxConfig {
    /// ONNX files only: graph input → the columns that go into it, side by side. Default: where the graph has one
    /// input, all columns of `predict.input` in their order; where each input takes one column, the column of that
    /// name. Of a text: graph input → `input_ids`, `attention_mask` or `token_type_ids`; default: by these names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Names>,
    /// ONNX files only: which output of the graph means what. Default: its only output of floats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<OnnxOutputs>,
    /// ONNX files only: what turns the graph's numbers into scores. Default: `none` where the operator that makes them
    /// gives probabilities; else it has to be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<OnnxActivation>,
    /// ONNX files only: what a column that is null becomes. Default: `fail`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_null: Option<OnnxNull>,
    /// ONNX files only: for an embedding from a graph that gives a vector for each token, what makes one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<OnnxPooling>,
    /// ONNX files only: whether embeddings are made 1 long. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// ONNX files only: what computes the graph. Default: `tract`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<OnnxRuntime>,
}

impl OnnxConfig {
    /// The first setting that is written, for a model that takes none of them.
    pub fn first_set(&self) -> Option<&'static str> {
        let set = [
            ("inputs", !self.inputs.is_empty()),
            ("outputs", self.outputs.is_some()),
            ("activation", self.activation.is_some()),
            ("on_null", self.on_null.is_some()),
            ("pooling", self.pooling.is_some()),
            ("normalize", self.normalize.is_some()),
            ("runtime", self.runtime.is_some()),
        ];
        set.iter().find(|(_, is_set)| *is_set).map(|(key, _)| *key)
    }
}

/// What was set, beside the labels, with the defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnnxSettings {
    /// Graph input → names of the columns that go into it, side by side.
    pub inputs: BTreeMap<String, Names>,
    /// The outputs that count.
    pub outputs: OnnxOutputs,
    /// What turns the graph's numbers into scores.
    pub activation: Option<OnnxActivation>,
    /// What a null becomes.
    pub on_null: OnnxNull,
    /// What makes one vector of those of the tokens.
    pub pooling: Option<OnnxPooling>,
    /// Whether embeddings are made 1 long.
    pub normalize: bool,
    /// The most tokens of one text.
    pub max_length: Option<usize>,
    /// What computes it.
    pub runtime: OnnxRuntime,
}

impl OnnxSettings {
    /// What the file says, with the defaults filled in.
    pub fn new(config: &OnnxConfig, max_length: Option<usize>) -> Self {
        Self {
            inputs: config.inputs.clone(),
            outputs: config.outputs.clone().unwrap_or_default(),
            activation: config.activation,
            on_null: config.on_null.unwrap_or_default(),
            pooling: config.pooling,
            normalize: config.normalize.unwrap_or(false),
            max_length,
            runtime: config.runtime.unwrap_or_default(),
        }
    }
}
