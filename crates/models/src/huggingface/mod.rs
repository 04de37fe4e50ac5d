//! Models as Hugging Face's libraries save them: a folder, the hub's cache of such folders, or our own packed form.
//!
//! ```text
//! hf://… ─▶ hub ─▶ folder ─┬─▶ config      architecture, sizes, labels
//!         builtin ─▶ packed ┤─▶ tokenizer   text → ids
//!                           ├─▶ weights     file_bytes → safetensors_file | torch_file (pickle) → tensors → encoder
//!                           └─▶ head        classifier, or pooling and what sentence-transformers put behind it
//! ```
//!
//! [`ModelFiles::open`] reads the small files and compares every tensor's name and shape with them, without reading
//! numbers: enough to type a pipeline, and to refuse a model that can't work before the pipeline starts.

pub mod config;
pub mod download;
pub mod encoder;
pub mod file_bytes;
pub mod files;
pub mod head;
pub mod hub;
pub mod pickle;
pub mod safetensors_file;
pub mod tensors;
pub mod tokenizer;
pub mod torch_file;

use std::path::Path;
use std::sync::Arc;

use millstream_core::{Error, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::Task;
use crate::transformer::{PackedEncoder, Precision};

use config::{Config, ScoreFunction};
use encoder::{Tensors, Values};
use files::Files;
use head::{Classifier, Embedding, Head};
use tensors::Weights;
use tokenizer::{Description, TextTokenizer};

/// Settings of sentence-transformers, prompts among them.
pub const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";

/// A model's files, read as far as it takes to say what it is.
pub struct ModelFiles {
    files: Files,
    config: Config,
    tokenizer: Description,
    weights: Weights,
    task: Task,
    /// What `modules.json` lists behind the encoder.
    modules: Option<Vec<Value>>,
    /// The most tokens of a text, by the model's files.
    pub tokens_max: usize,
    /// The labels, in the order of the scores; empty for an embedding.
    pub labels: Vec<Arc<str>>,
    /// The length of its embeddings.
    pub dimensions: Option<usize>,
}

/// A model read in full.
pub struct Parts {
    /// The encoder, packed.
    pub encoder: PackedEncoder,
    /// What stands behind it.
    pub head: Head,
    /// What stands in front of it.
    pub tokenizer: TextTokenizer,
}

impl ModelFiles {
    /// The model in a folder.
    ///
    /// # Errors
    /// `Config`: a file, a tensor or a setting is missing or does not fit; with its name. `Corruption`: a file is
    /// damaged.
    pub fn open(path: &Path, task: Task) -> Result<Self> {
        Self::of(Files::folder(path)?, task)
    }

    /// The model in a packed file (see `docs/models.md`), called `name` in messages.
    ///
    /// # Errors
    /// As [`ModelFiles::open`].
    pub fn open_packed(name: &'static str, bytes: &'static [u8], task: Task) -> Result<Self> {
        Self::of(Files::packed(name, bytes)?, task)
    }

    fn of(files: Files, task: Task) -> Result<Self> {
        let modules = match task {
            Task::Embedding => modules(&files)?,
            Task::TextClassification => None,
            Task::TabularClassification | Task::TabularRegression => {
                let task = task.as_str();
                return Err(Error::setting(
                    "task",
                    format!("`task: {task}` is for ONNX files; these models read texts"),
                ));
            }
        };
        // Old sentence-transformers have the encoder in a folder of its own.
        let encoder_files = match modules.as_ref().and_then(|list| list[0].get("path")?.as_str()) {
            Some(path) if !path.is_empty() && !path.contains("..") && !path.starts_with('/') => files.inside(path),
            _ => files.clone(),
        };
        let config = Config::read(&encoder_files)?;
        let mut tokenizer = Description::read(&encoder_files)?;
        let weights = encoder_files.weights()?;
        let positions = config.encoder.tokens_max();
        let mut declared = tokenizer.length.of_config;
        if modules.is_some() {
            let sentences = encoder_files.json("sentence_bert_config.json")?.unwrap_or_default();
            let length = sentences.get("max_seq_length").and_then(Value::as_u64);
            declared = length.and_then(|n| usize::try_from(n).ok()).or(declared);
            if sentences.get("do_lower_case").and_then(Value::as_bool) == Some(true) {
                tokenizer.lower_case();
            }
            tokenizer.prompt = default_prompt(&files)?;
        }
        let tokens_max = declared.or(tokenizer.length.of_tokenizer).unwrap_or(positions).min(positions);
        let modules = modules.map(|list| list[1..].to_vec());
        let labels = if task == Task::Embedding { Vec::new() } else { config.labels.clone() };
        let mut model = Self { files, config, tokenizer, weights, task, modules, tokens_max, labels, dimensions: None };
        if model.task == Task::TextClassification {
            check_labels(&model.config)?;
        }
        let tensors = model.tensors(Values::Check);
        encoder::check(&model.config, tensors)?;
        if let Head::Embedding(embedding) = model.head(tensors)? {
            model.dimensions = Some(embedding.dimensions);
        }
        Ok(model)
    }

    /// Whether each label has a score of its own, so that scores need not sum to 1.
    pub fn multi_label(&self) -> bool {
        self.task == Task::TextClassification && self.config.score_function == ScoreFunction::Sigmoid
    }

    /// 16 hexadecimal digits over everything that the answers depend on: weights, configuration, tokenizer, the most
    /// tokens of a text, and the precision.
    ///
    /// # Errors
    /// `Environment`: a file can't be read.
    pub fn digest(&self, tokens_max: usize, precision: Precision, labels: &[Arc<str>]) -> Result<Arc<str>> {
        let mut digest = Sha256::new();
        let mut part = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        part(&self.weights.hash().to_le_bytes());
        part(format!("{:?}", (&self.config.encoder, &self.config.score_function, labels)).as_bytes());
        part(&self.tokenizer.bytes());
        if let Some(modules) = &self.modules {
            for module in modules {
                part(module.to_string().as_bytes());
                let path = module.get("path").and_then(Value::as_str).unwrap_or_default();
                for name in [config::CONFIG, files::SAFETENSORS, files::TORCH] {
                    part(&self.files.inside(path).bytes(name)?.unwrap_or_default());
                }
            }
        }
        part(format!("{tokens_max} {precision:?}").as_bytes());
        Ok(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>().into())
    }

    /// The most tokens of a text that the table of positions has room for.
    pub fn positions(&self) -> usize {
        self.config.encoder.tokens_max()
    }

    /// Everything, for texts of at most `tokens_max` tokens, to compute in `precision`. The encoder's layers are read
    /// and packed one by one: a whole model in single precision is never in memory.
    ///
    /// # Errors
    /// As [`ModelFiles::open`]; `Config` also where a weight is infinite or no number; `Environment`: no memory.
    pub fn load(&self, tokens_max: usize, precision: Precision) -> Result<Parts> {
        let tokenizer = self.tokenizer(tokens_max)?;
        let tensors = self.tensors(Values::Read);
        let embeddings = encoder::embeddings(&self.config, tensors)?;
        let layers = encoder::layers(&self.config, tensors);
        let encoder = PackedEncoder::new(self.config.encoder.clone(), embeddings, layers, precision)?;
        Ok(Parts { encoder, head: self.head(tensors)?, tokenizer })
    }

    /// The tokenizer alone.
    ///
    /// # Errors
    /// `Config`: it is broken, or does not fit the model.
    pub fn tokenizer(&self, tokens_max: usize) -> Result<TextTokenizer> {
        let spec = &self.config.encoder;
        self.tokenizer.build(tokens_max, spec.vocabulary, spec.token_types)
    }

    /// The encoder's tensors.
    fn tensors(&self, values: Values) -> Tensors<'_> {
        Tensors { weights: &self.weights, prefix: encoder::prefix(&self.config, &self.weights), values }
    }

    /// What stands behind the encoder, whose tensors are `tensors`.
    fn head(&self, tensors: Tensors<'_>) -> Result<Head> {
        Ok(match (self.task, &self.modules) {
            // Tasks of columns were refused with the files.
            (Task::TextClassification | Task::TabularClassification | Task::TabularRegression, _) => {
                Head::Classifier(Classifier::read(&self.config, Tensors { prefix: "", ..tensors }, tensors.prefix)?)
            }
            (Task::Embedding, None) => Head::Embedding(Embedding::mean(self.config.encoder.hidden)),
            (Task::Embedding, Some(list)) => {
                Head::Embedding(Embedding::read(&self.files, list, self.config.encoder.hidden, tensors.values)?)
            }
        })
    }
}

/// The list in `modules.json`, whose first entry is the encoder.
fn modules(files: &Files) -> Result<Option<Vec<Value>>> {
    let shown = files.shown("modules.json");
    let Some(value) = files.json("modules.json")? else { return Ok(None) };
    let list = value.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Error::config(format!("{shown} is no list of modules")))?;
    let kind = list[0].get("type").and_then(Value::as_str).unwrap_or_default();
    if kind.rsplit('.').next() != Some("Transformer") {
        return Err(Error::config(format!("{shown}: the first module is `{kind}`: only Transformer is known there")));
    }
    Ok(Some(list.clone()))
}

/// What sentence-transformers put in front of every text, where the model has a prompt by default.
fn default_prompt(files: &Files) -> Result<String> {
    let settings = files.json(SENTENCE_TRANSFORMERS)?.unwrap_or_default();
    let Some(name) = settings.get("default_prompt_name").and_then(Value::as_str) else { return Ok(String::new()) };
    let prompt = settings.get("prompts").and_then(|prompts| prompts.get(name)?.as_str());
    let shown = files.shown(SENTENCE_TRANSFORMERS);
    prompt.map(str::to_owned).ok_or_else(|| Error::config(format!("{shown}: there is no prompt `{name}` in `prompts`")))
}

fn check_labels(config: &Config) -> Result<()> {
    let labels = &config.labels;
    if labels.is_empty() {
        return Err(Error::config(format!("{}: `id2label` names no label", config.shown)));
    }
    for (index, label) in labels.iter().enumerate() {
        if label.trim().is_empty() || labels[..index].contains(label) {
            return Err(Error::config(format!("{}: the label `{label}` is empty or stands twice", config.shown)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
