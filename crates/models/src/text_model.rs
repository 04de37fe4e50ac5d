//! Texts in, predictions out: tokenizer, encoder and head of a BERT-family model in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;

use millstream_core::{Error, Failure, Result};

use crate::huggingface::head::Head;
use crate::huggingface::tokenizer::TextTokenizer;
use crate::huggingface::{ModelFiles, Parts};
use crate::model::estimated_tokens;
use crate::sharing::{Identity, SharedWeights};
use crate::transformer::{Encoder, PackedEncoder, Precision, Tokens, default_precision};
use crate::{BatchConfig, Model, ModelFactory, ModelHandle, ModelInfo, Prediction, Reads, Task, TokenEstimate};

/// The most tokens that go through the encoder at once: its buffers grow with them. A longer text goes alone.
const TOKENS_AT_ONCE_MAX: usize = 8192;
/// More threads than this help no text.
const THREADS_MAX: usize = 256;

/// The settings of a model in this process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The numbers to compute in; none: those that are fastest here.
    pub precision: Option<Precision>,
    /// The most tokens of a text; none: as the model's files say.
    pub max_length: Option<usize>,
    /// Threads that compute; none: one for each core.
    pub threads: Option<usize>,
    /// Names for the labels, in the model's order; empty: the model's own.
    pub labels: Vec<String>,
}

/// A model that was found and checked, but not read.
pub struct Found {
    /// Where it was found; a name where it is a part of the program.
    place: PathBuf,
    files: ModelFiles,
    tokens_max: usize,
    precision: Precision,
    threads: usize,
    /// What it is.
    pub info: ModelInfo,
}

/// How a model computes, with all defaults filled in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Computing {
    /// The numbers it computes in.
    pub precision: Precision,
    /// The most tokens of a text; what is behind is cut off.
    pub tokens_max: usize,
    /// Threads.
    pub threads: usize,
}

impl Found {
    /// How it will compute.
    pub fn computing(&self) -> Computing {
        Computing { precision: self.precision, tokens_max: self.tokens_max, threads: self.threads }
    }
}

/// The model in a folder. Reads its small files and the names and shapes of its tensors.
///
/// # Errors
/// As [`ModelFiles::open`]; `Config`: a setting does not fit the model.
pub fn find(folder: &Path, task: Task, settings: &Settings) -> Result<Found> {
    let name = folder.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned());
    let place = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    found(ModelFiles::open(folder, task)?, place, &name, task, settings)
}

/// A model in our packed form, called `name`; see `docs/models.md`.
///
/// # Errors
/// As [`find`].
pub fn find_packed(name: &'static str, bytes: &'static [u8], task: Task, settings: &Settings) -> Result<Found> {
    found(ModelFiles::open_packed(name, bytes, task)?, name.into(), name, task, settings)
}

/// A model in our packed form, ready to predict in this thread and its helpers.
///
/// # Errors
/// As [`find`], and as [`TextModel::new`].
pub fn load_packed(name: &'static str, bytes: &'static [u8], task: Task, settings: &Settings) -> Result<TextModel> {
    let found = find_packed(name, bytes, task, settings)?;
    TextModel::new(found.info.clone(), &found)
}

fn found(files: ModelFiles, place: PathBuf, name: &str, task: Task, settings: &Settings) -> Result<Found> {
    let tokens_max = match settings.max_length {
        None => files.tokens_max,
        Some(length) if length <= files.positions() => length,
        Some(length) => {
            let positions = files.positions();
            return Err(Error::setting(
                "max_length",
                format!("`max_length` is {length}, but the model reads {positions} tokens at most"),
            ));
        }
    };
    let cores = available_parallelism().map_or(1, usize::from);
    let threads = settings.threads.unwrap_or(cores.min(THREADS_MAX));
    if !(1..=THREADS_MAX).contains(&threads) {
        return Err(Error::setting("threads", format!("`threads` is {threads}: write 1 to {THREADS_MAX}")));
    }
    let labels = labels(&files, settings)?;
    let precision = settings.precision.unwrap_or_else(default_precision);
    files.tokenizer(tokens_max)?;
    let info = ModelInfo {
        name: name.into(),
        digest: files.digest(tokens_max, precision, &labels)?,
        task,
        labels,
        multi_label: files.multi_label(),
        dimensions: files.dimensions,
        reads: Reads::Text,
    };
    Ok(Found { place, files, tokens_max, precision, threads, info })
}

fn labels(files: &ModelFiles, settings: &Settings) -> Result<Vec<Arc<str>>> {
    if settings.labels.is_empty() {
        return Ok(files.labels.clone());
    }
    let (written, own) = (settings.labels.len(), files.labels.len());
    if own == 0 {
        return Err(Error::setting("labels", "an embedding has no labels: leave out `labels`"));
    }
    if written != own {
        let names = files.labels.join(", ");
        return Err(Error::setting("labels", format!("{written} `labels`, but the model has {own}: {names}")));
    }
    Ok(settings.labels.iter().map(|label| label.as_str().into()).collect())
}

/// Reads the model, unless its weights are there, and puts a queue in front of it: one copy of the weights and one team
/// of threads for all callers.
///
/// # Errors
/// As [`TextModel::new`].
pub(crate) fn load(info: ModelInfo, batch: BatchConfig, found: &Found, weights: &SharedWeights) -> Result<ModelHandle> {
    let identity = Identity::new(found.place.clone(), &info);
    let read = weights.get_or_load(identity, || Read::new(found))?;
    ModelHandle::spawn(vec![Box::new(TextModel::of_read(info, read, found.threads)?)], batch)
}

/// A BERT-family model.
pub struct TextModel {
    shared: Arc<Shared>,
    encoder: Encoder,
    /// Kept for its memory.
    tokens: Tokens,
}

/// What copies of a model have in common.
struct Shared {
    info: ModelInfo,
    read: Arc<Read>,
    threads: usize,
}

/// What was read from a model's files; models of the same files may share it.
struct Read {
    tokenizer: TextTokenizer,
    weights: Arc<PackedEncoder>,
    head: Head,
}

impl Read {
    /// Reads weights and packs them for this processor.
    fn new(found: &Found) -> Result<Self> {
        let Parts { encoder, head, tokenizer } = found.files.load(found.tokens_max, found.precision)?;
        Ok(Self { tokenizer, weights: Arc::new(encoder), head })
    }
}

impl TextModel {
    /// Reads weights, packs them for this processor, and predicts once, so that the first text is not the slowest.
    ///
    /// # Errors
    /// As [`ModelFiles::load`]; `Config`: the model answers nonsense.
    pub fn new(info: ModelInfo, found: &Found) -> Result<Self> {
        Self::of_read(info, Arc::new(Read::new(found)?), found.threads)
    }

    fn of_read(info: ModelInfo, read: Arc<Read>, threads: usize) -> Result<Self> {
        let mut model = Self::of(Arc::new(Shared { info, read, threads }))?;
        for answer in model.predict(&["", "A first text, so that no other has to be it."])? {
            answer.map_err(|failure| Error::config(format!("the model can't be used: {}", failure.message)))?;
        }
        Ok(model)
    }

    fn of(shared: Arc<Shared>) -> Result<Self> {
        let encoder = Encoder::new(shared.read.weights.clone(), shared.threads)?;
        Ok(Self { shared, encoder, tokens: Tokens::default() })
    }

    /// The most tokens of a text that are read.
    pub fn tokens_max(&self) -> usize {
        self.shared.read.tokenizer.tokens_max()
    }

    /// The ids of a text's tokens.
    ///
    /// # Errors
    /// As [`TextTokenizer::append`].
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let mut ids = Vec::new();
        self.shared.read.tokenizer.append(text, &mut ids, &mut Vec::new())?;
        Ok(ids)
    }

    /// Sends the gathered tokens through encoder and head.
    fn flush(&mut self, answers: &mut Vec<Result<Prediction, Failure>>) {
        let hidden = self.encoder.spec().hidden;
        match &self.shared.read.head {
            _ if self.tokens.lengths.is_empty() => {}
            Head::Classifier(classifier) => {
                let states = self.encoder.encode_first(&self.tokens);
                answers.extend(states.chunks_exact(hidden).map(|first| classifier.predict(first)));
            }
            Head::Embedding(embedding) if embedding.reads_first_only() => {
                let states = self.encoder.encode_first(&self.tokens);
                answers.extend(states.chunks_exact(hidden).map(|first| embedding.predict(first, hidden)));
            }
            Head::Embedding(embedding) => {
                let mut states = self.encoder.encode(&self.tokens);
                for length in &self.tokens.lengths {
                    let (own, rest) = states.split_at(length * hidden);
                    answers.push(embedding.predict(own, hidden));
                    states = rest;
                }
            }
        }
        self.clear();
    }

    fn clear(&mut self) {
        self.tokens.ids.clear();
        self.tokens.types.clear();
        self.tokens.lengths.clear();
    }
}

impl Model for TextModel {
    fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Result<Prediction, Failure>>> {
        // What a panic may have left.
        self.clear();
        let mut answers = Vec::with_capacity(inputs.len());
        let mut refused: Vec<(usize, Failure)> = Vec::new();
        for (index, text) in inputs.iter().enumerate() {
            let before = self.tokens.ids.len();
            match self.shared.read.tokenizer.append(text, &mut self.tokens.ids, &mut self.tokens.types) {
                Ok(length) => self.tokens.lengths.push(length),
                Err(failure) => {
                    self.tokens.ids.truncate(before);
                    self.tokens.types.truncate(before);
                    refused.push((index, failure));
                }
            }
            if self.tokens.ids.len() >= TOKENS_AT_ONCE_MAX {
                self.flush(&mut answers);
            }
        }
        self.flush(&mut answers);
        for (index, failure) in refused {
            answers.insert(index, Err(failure));
        }
        Ok(answers)
    }

    /// It reads no further than its longest text.
    fn token_estimate(&self) -> TokenEstimate {
        let tokens_max = self.tokens_max();
        Arc::new(move |text| estimated_tokens(text).min(tokens_max))
    }

    fn factory(&self) -> Option<ModelFactory> {
        let shared = self.shared.clone();
        Some(Arc::new(move || Ok(Box::new(Self::of(shared.clone())?))))
    }
}

#[cfg(test)]
mod tests;
