//! `config.json`: which architecture a model has, its sizes, and its labels.

use std::sync::Arc;

use millstream_core::{Error, Result};
use serde_json::Value;

use super::files::Files;
use crate::transformer::{Activation, EncoderSpec};

/// The file's name.
pub const CONFIG: &str = "config.json";
/// More labels than this are not a classifier's.
const LABELS_MAX: u64 = 100_000;

/// The architectures that are understood, which differ in names, positions and heads only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// BERT, and with it MiniLM and FinBERT.
    Bert,
    /// DistilBERT: no token types, no pooler.
    DistilBert,
    /// RoBERTa: positions are counted from behind the padding token's id.
    Roberta,
    /// XLM-R: RoBERTa in many languages.
    XlmRoberta,
}

impl Architecture {
    const ALL: [(&'static str, Self); 4] = [
        ("bert", Self::Bert),
        ("distilbert", Self::DistilBert),
        ("roberta", Self::Roberta),
        ("xlm-roberta", Self::XlmRoberta),
    ];

    /// What stands in front of the encoder's tensors where a head was trained with it.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Bert => "bert.",
            Self::DistilBert => "distilbert.",
            Self::Roberta | Self::XlmRoberta => "roberta.",
        }
    }
}

/// What turns a classifier's numbers into scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScoreFunction {
    /// One label fits: scores sum to 1.
    Softmax,
    /// Any number of labels fit: each has a score of its own.
    Sigmoid,
}

/// What `config.json` says.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file, for messages.
    pub shown: String,
    /// Which architecture.
    pub architecture: Architecture,
    /// The sizes of the encoder.
    pub encoder: EncoderSpec,
    /// The labels in order; `LABEL_0` and so on where the file names none.
    pub labels: Vec<Arc<str>>,
    /// How scores are made.
    pub score_function: ScoreFunction,
    /// The class that was saved, for messages.
    pub saved_as: String,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// `Config`: it is missing, or says something that is not understood here; with the key.
    pub fn read(files: &Files) -> Result<Self> {
        let shown = files.shown(CONFIG);
        let value = files.json(CONFIG)?.ok_or_else(|| Error::config(format!("{shown} is missing")))?;
        let reader = Reader { value: &value, shown: &shown };
        let architecture = reader.architecture()?;
        let encoder = reader.encoder(architecture)?;
        let labels = reader.labels()?;
        let score_function = reader.score_function(labels.len())?;
        let saved_as = reader.first_of_architectures().unwrap_or("an unnamed class").to_owned();
        Ok(Self { architecture, encoder, labels, score_function, saved_as, shown })
    }
}

struct Reader<'a> {
    value: &'a Value,
    shown: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::config(format!("{}: {what}", self.shown))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.value.get(key)?.as_str()
    }

    fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let size = match self.value.get(key) {
            None | Some(Value::Null) => default,
            Some(value) => value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0 && *n < 1 << 32),
        };
        size.ok_or_else(|| self.wrong(format!("`{key}` is missing or no size")))
    }

    fn first_of_architectures(&self) -> Option<&str> {
        self.value.get("architectures")?.get(0)?.as_str()
    }

    fn architecture(&self) -> Result<Architecture> {
        let class = self.first_of_architectures();
        let name = self.text("model_type").or(class).ok_or_else(|| self.wrong("`model_type` is missing"))?;
        let known = Architecture::ALL.iter().find(|(known, _)| *known == name).map(|(_, architecture)| *architecture);
        // Files of 2019 name the class only.
        let by_class = || {
            let class = class?.to_ascii_lowercase();
            let names = ["distilbert", "xlmroberta", "roberta", "bert"];
            let index = names.iter().position(|known| class.starts_with(known))?;
            [Architecture::DistilBert, Architecture::XlmRoberta, Architecture::Roberta, Architecture::Bert]
                .get(index)
                .copied()
        };
        let by_class = if self.text("model_type").is_none() { by_class() } else { None };
        known.or(by_class).ok_or_else(|| {
            let names = Architecture::ALL.map(|(known, _)| known).join(", ");
            self.wrong(format!(
                "unknown architecture `{name}`: known are {names} (MiniLM is bert); export another one to ONNX"
            ))
        })
    }

    fn encoder(&self, architecture: Architecture) -> Result<EncoderSpec> {
        if let Some(kind) = self.text("position_embedding_type").filter(|kind| *kind != "absolute") {
            return Err(self.wrong(format!("`position_embedding_type: {kind}` is not known, only `absolute` is")));
        }
        if self.value.get("is_decoder").and_then(Value::as_bool) == Some(true) {
            return Err(self.wrong("`is_decoder` is true: this is a decoder, only encoders are known"));
        }
        let distil = architecture == Architecture::DistilBert;
        let key = |bert, distil_key| if distil { distil_key } else { bert };
        let counts_from_padding = matches!(architecture, Architecture::Roberta | Architecture::XlmRoberta);
        let padding = self.value.get("pad_token_id").and_then(Value::as_u64).unwrap_or(1) as usize;
        let spec = EncoderSpec {
            hidden: self.size(key("hidden_size", "dim"), None)?,
            layers: self.size(key("num_hidden_layers", "n_layers"), None)?,
            heads: self.size(key("num_attention_heads", "n_heads"), None)?,
            intermediate: self.size(key("intermediate_size", "hidden_dim"), None)?,
            vocabulary: self.size("vocab_size", None)?,
            positions: self.size("max_position_embeddings", Some(512))?,
            first_position: if counts_from_padding { padding.saturating_add(1) } else { 0 },
            token_types: if distil { 0 } else { self.size("type_vocab_size", Some(2))? },
            activation: self.activation(key("hidden_act", "activation"))?,
            norm_epsilon: self.value.get("layer_norm_eps").and_then(Value::as_f64).unwrap_or(1e-12) as f32,
        };
        if !spec.hidden.is_multiple_of(spec.heads) {
            let (width, heads) = (spec.hidden, spec.heads);
            return Err(self.wrong(format!("a hidden size of {width} can't be shared by {heads} attention heads")));
        }
        // Two special tokens and one of the text.
        if spec.positions < spec.first_position.saturating_add(3) {
            return Err(self.wrong("`max_position_embeddings` leaves no place for a text"));
        }
        Ok(spec)
    }

    fn activation(&self, key: &str) -> Result<Activation> {
        match self.text(key).unwrap_or("gelu") {
            "gelu" | "gelu_python" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "relu" => Ok(Activation::Relu),
            other => Err(self.wrong(format!(
                "`{key}: {other}` is not known: known are gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu"
            ))),
        }
    }

    fn labels(&self) -> Result<Vec<Arc<str>>> {
        let names = match self.value.get("id2label") {
            None | Some(Value::Null) => {
                // `transformers` does not write its own default, which is two labels.
                let count = self.value.get("num_labels").and_then(Value::as_u64).unwrap_or(2);
                if count > LABELS_MAX {
                    return Err(self.wrong(format!("`num_labels` is {count}: that can't be right")));
                }
                return Ok((0..count).map(|i| format!("LABEL_{i}").into()).collect());
            }
            Some(names) => names.as_object().ok_or_else(|| self.wrong("`id2label` is no map of numbers to names"))?,
        };
        let label = |i: usize| {
            let name = names.get(&i.to_string()).and_then(Value::as_str);
            let name = name.ok_or_else(|| {
                self.wrong(format!("`id2label` has {} entries but none for `{i}`, or it is no text", names.len()))
            })?;
            Ok(Arc::from(name))
        };
        (0..names.len()).map(label).collect()
    }

    fn score_function(&self, labels: usize) -> Result<ScoreFunction> {
        match self.text("problem_type") {
            Some("multi_label_classification") => Ok(ScoreFunction::Sigmoid),
            Some("regression") => Err(self.wrong("`problem_type: regression`: a number is no label; not supported")),
            Some("single_label_classification") | None if labels == 1 => Ok(ScoreFunction::Sigmoid),
            Some("single_label_classification") | None => Ok(ScoreFunction::Softmax),
            Some(other) => Err(self.wrong(format!("`problem_type: {other}` is not known"))),
        }
    }
}
