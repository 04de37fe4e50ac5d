//! A model from a file: read, checked, planned, and called.

use std::path::Path;
use std::sync::Arc;

use millstream_core::{Error, Failure, FailureKind, Result};
use sha2::{Digest, Sha256};

use crate::model::estimated_tokens;
use crate::sharing::{Identity, SharedWeights};
use crate::{BatchConfig, Cell, Model, ModelFactory, ModelHandle, ModelInfo, Prediction, Reads, Task, TokenEstimate};

use super::config::{OnnxRuntime, OnnxSettings};
use super::file::OnnxFile;
use super::mapping::{self, Content, Mapping};
use super::tensor::{self, RunError, Tensor};
use super::text::{TextTokenizer, TextTokens};
use super::tract::{self, TractGraph};
use super::{answers, rows};

/// The most threads that a model takes.
const THREADS_MAX: usize = 4;

type Answer = Result<Prediction, Failure>;

/// What a file holds, and whether it can be run. Nothing is planned yet.
///
/// # Errors
/// `Config`, `Environment`, `Corruption`: what is wrong with the file, the tokenizer or the settings.
pub(crate) fn check(path: &Path, task: Task, labels: &[String], settings: &OnnxSettings) -> Result<ModelInfo> {
    Ok(Parts::read(path, task, labels, settings)?.info)
}

/// A file that was read, with everything that is known before it is planned.
struct Parts {
    file: OnnxFile,
    mapping: Mapping,
    tokenizer: Option<TextTokenizer>,
    info: ModelInfo,
}

impl Parts {
    fn read(path: &Path, task: Task, labels: &[String], settings: &OnnxSettings) -> Result<Self> {
        let file = OnnxFile::read(path)?;
        let mapping = Mapping::new(&file, task, labels, settings)?;
        match settings.runtime {
            OnnxRuntime::Tract => tract::check_operators(&file, &mapping)?,
            OnnxRuntime::Onnxruntime => find_onnxruntime()?,
        }
        let needs_tokens = mapping.feeds.iter().any(|feed| matches!(feed.content, Content::Tokens(_)));
        let beside = path.with_file_name("tokenizer.json");
        let tokenizer = if needs_tokens {
            Some(TextTokenizer::read(&beside, settings.max_length, mapping.fixed_tokens)?)
        } else {
            None
        };
        let mut digest = Sha256::new();
        digest.update(file.sha256);
        if needs_tokens {
            digest.update(std::fs::read(&beside)?);
        }
        digest.update(format!("{settings:?}{:?}", mapping.labels));
        let digest = crate::config::short_hex(&digest.finalize());
        let name = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let info = ModelInfo {
            name: name.into(),
            digest,
            task,
            labels: mapping.labels.clone(),
            multi_label: false,
            dimensions: mapping.dimensions,
            reads: mapping.reads.clone(),
        };
        Ok(Self { file, mapping, tokenizer, info })
    }
}

#[cfg(feature = "onnxruntime")]
fn find_onnxruntime() -> Result<()> {
    super::ort::library().map(drop)
}

#[cfg(not(feature = "onnxruntime"))]
fn find_onnxruntime() -> Result<()> {
    Err(Error::setting(
        "runtime",
        "`runtime: onnxruntime`: this build can't load ONNX Runtime; build it with `--features onnxruntime`, or leave out `runtime`",
    ))
}

/// A graph, in what computes it.
enum Graph {
    Tract(TractGraph),
    #[cfg(feature = "onnxruntime")]
    Ort(super::ort::OrtGraph),
}

impl Graph {
    fn new(runtime: OnnxRuntime, file: &OnnxFile, mapping: &Mapping) -> Result<Self> {
        match runtime {
            OnnxRuntime::Tract => Ok(Self::Tract(TractGraph::new(file, mapping)?)),
            #[cfg(feature = "onnxruntime")]
            OnnxRuntime::Onnxruntime => Ok(Self::Ort(super::ort::OrtGraph::new(file, mapping)?)),
            #[cfg(not(feature = "onnxruntime"))]
            OnnxRuntime::Onnxruntime => Err(Error::bug("ONNX Runtime was asked for in a build that can't load it")),
        }
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Tensor, RunError> {
        match self {
            Self::Tract(graph) => graph.run(inputs),
            #[cfg(feature = "onnxruntime")]
            Self::Ort(graph) => graph.run(inputs),
        }
    }

    /// How many threads it can use: ONNX Runtime has its own.
    fn threads(&self) -> usize {
        match self {
            Self::Tract(_) => std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX),
            #[cfg(feature = "onnxruntime")]
            Self::Ort(_) => 1,
        }
    }
}

/// Makes a file ready, unless its graph is, and puts a queue in front of it, under the name in `name`.
///
/// # Errors
/// As [`OnnxModel::open`].
pub(crate) fn load(
    name: &str,
    path: &Path,
    task: Task,
    labels: &[String],
    settings: &OnnxSettings,
    batch: BatchConfig,
    weights: &SharedWeights,
) -> Result<ModelHandle> {
    let parts = Parts::read(path, task, labels, settings)?;
    let info = ModelInfo { name: name.into(), ..parts.info.clone() };
    let place = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let planned = weights.get_or_load(Identity::new(place, &info), || Planned::new(parts, settings.runtime))?;
    let threads = planned.graph.threads();
    let model = OnnxModel { info, planned };
    ModelHandle::spawn((0..threads).map(|_| Box::new(model.clone()) as Box<dyn Model>).collect(), batch)
}

/// A model from a file; copies share the plan.
#[derive(Clone)]
pub struct OnnxModel {
    info: ModelInfo,
    planned: Arc<Planned>,
}

impl OnnxModel {
    /// Reads, plans and tries out a file.
    ///
    /// # Errors
    /// As [`check`], and where a node can't be planned, or fails on an input of zeros.
    pub fn open(path: &Path, task: Task, labels: &[String], settings: &OnnxSettings) -> Result<Self> {
        let parts = Parts::read(path, task, labels, settings)?;
        Ok(Self { info: parts.info.clone(), planned: Arc::new(Planned::new(parts, settings.runtime)?) })
    }
}

/// A graph with all that it takes to ask it; models of the same file may share it.
struct Planned {
    mapping: Mapping,
    tokenizer: Option<TextTokenizer>,
    graph: Graph,
}

impl Planned {
    fn new(parts: Parts, runtime: OnnxRuntime) -> Result<Self> {
        let Parts { file, mapping, tokenizer, .. } = parts;
        let planned = |mapping: Mapping| {
            let graph = Graph::new(runtime, &file, &mapping)?;
            let planned = Self { mapping, tokenizer: tokenizer.clone(), graph };
            let ran = planned.warm_up();
            ran.map_err(|why| Error::config(format!("{}: the graph can't be run: {why}", file.path.display())))?;
            Ok(planned)
        };
        match planned(mapping.clone()) {
            // Some graphs of transformers can only be planned where just one of batch and tokens is open.
            Err(open) if mapping.reads == Reads::Text && mapping.fixed_batch.is_none() => {
                planned(Mapping { fixed_batch: Some(1), ..mapping }).map_err(|_: Error| open)
            }
            result => result,
        }
    }

    /// Runs the graph once on nothing in particular, so that what can't work is known before the first record.
    fn warm_up(&self) -> Result<(), String> {
        let row: Vec<Cell>;
        let fed = match &self.mapping.reads {
            Reads::Text => self.feed_text("warm up"),
            Reads::Row(columns) => {
                row = columns.iter().map(|column| column.kind.example()).collect();
                self.feed_row(&row)
            }
        };
        let fed = fed.map_err(|failure| failure.message)?;
        match self.run(&[&fed]) {
            Err(error) if !error.is_about_values => Err(error.why),
            // The answer may be NaN or such: only shapes and operators count here.
            _ => Ok(()),
        }
    }

    /// One answer for each, in the same order.
    fn answer(&self, fed: Vec<Result<Fed<'_>, Failure>>) -> Vec<Answer> {
        let good: Vec<&Fed<'_>> = fed.iter().flatten().collect();
        let mut answers = Vec::with_capacity(good.len());
        for batch in good.chunks(self.mapping.fixed_batch.unwrap_or(usize::MAX).max(1)) {
            answers.extend(self.answer_batch(batch));
        }
        let mut answers = answers.into_iter();
        let answer = |fed: Result<Fed<'_>, Failure>| match fed {
            Ok(_) => answers.next().unwrap_or_else(|| Err(Failure::new(FailureKind::Model, "no answer"))),
            Err(failure) => Err(failure),
        };
        fed.into_iter().map(answer).collect()
    }

    /// A batch that the graph fails on is repeated row by row, so that only the row that caused it fails.
    fn answer_batch(&self, batch: &[&Fed<'_>]) -> Vec<Answer> {
        match self.run(batch) {
            Ok(answers) => answers,
            Err(error) if batch.len() == 1 => vec![Err(Failure::new(FailureKind::Model, error.why))],
            Err(_) => batch.iter().flat_map(|one| self.answer_batch(std::slice::from_ref(one))).collect(),
        }
    }

    fn feed_text<'i>(&self, text: &'i str) -> Result<Fed<'i>, Failure> {
        match (&self.mapping.reads, &self.tokenizer) {
            (Reads::Text, Some(tokenizer)) => Ok(Fed::Tokens(tokenizer.tokens(text)?)),
            (Reads::Text, None) => Ok(Fed::Text(text)),
            (Reads::Row(_), _) => {
                Err(Failure::new(FailureKind::TypeMismatch, "the model reads columns, and got a text"))
            }
        }
    }

    fn feed_row<'i>(&self, cells: &'i [Cell]) -> Result<Fed<'i>, Failure> {
        let Reads::Row(columns) = &self.mapping.reads else {
            return Err(Failure::new(FailureKind::TypeMismatch, "the model reads a text, and got columns"));
        };
        rows::check(cells, columns, &self.mapping.feeds, self.mapping.null)?;
        Ok(Fed::Cells(cells))
    }

    fn run(&self, batch: &[&Fed<'_>]) -> Result<Vec<Answer>, RunError> {
        let rows = self.mapping.fixed_batch.unwrap_or(batch.len());
        let cells: Vec<&[Cell]> = batch.iter().filter_map(|fed| fed.cells()).collect();
        let tokens: Vec<&TextTokens> = batch.iter().filter_map(|fed| fed.tokens()).collect();
        let lengths: Vec<usize> = tokens.iter().map(|tokens| tokens.len()).collect();
        let longest = self.mapping.fixed_tokens.or(lengths.iter().copied().max()).unwrap_or(0);
        let tensor = |feed: &mapping::Feed| match (&feed.content, &self.tokenizer) {
            (Content::Columns(indices), _) => Some(rows::tensor(feed, indices, &cells, rows)),
            (Content::Tokens(part), Some(tokenizer)) => Some(tokenizer.tensor(feed, *part, &tokens, rows, longest)),
            (Content::Tokens(_), None) => None,
            (Content::Text, _) => {
                let texts = batch.iter().filter_map(|fed| fed.text());
                Some(text_tensor(feed, texts.map(str::to_owned).collect(), rows))
            }
        };
        let inputs: Vec<Tensor> = self
            .mapping
            .feeds
            .iter()
            .map(tensor)
            .collect::<Option<_>>()
            .ok_or_else(|| RunError::graph("no tokenizer"))?;
        let output = self.graph.run(inputs)?;
        answers::read(&self.mapping, &output, batch.len(), &lengths).map_err(RunError::graph)
    }
}

fn text_tensor(feed: &mapping::Feed, mut texts: Vec<String>, rows: usize) -> Tensor {
    texts.resize(rows, String::new());
    let shape = if feed.rank == 1 { vec![rows] } else { vec![rows, 1] };
    Tensor { shape, values: tensor::Values::Text(texts) }
}

/// An input that can be fed.
enum Fed<'i> {
    Cells(&'i [Cell]),
    Tokens(TextTokens),
    Text(&'i str),
}

impl Fed<'_> {
    fn cells(&self) -> Option<&[Cell]> {
        if let Self::Cells(cells) = self { Some(cells) } else { None }
    }

    fn tokens(&self) -> Option<&TextTokens> {
        if let Self::Tokens(tokens) = self { Some(tokens) } else { None }
    }

    fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

impl Model for OnnxModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Answer>> {
        Ok(self.planned.answer(inputs.iter().map(|text| self.planned.feed_text(text)).collect()))
    }

    fn predict_rows(&mut self, rows: &[&[Cell]]) -> Result<Vec<Answer>> {
        Ok(self.planned.answer(rows.iter().map(|row| self.planned.feed_row(row)).collect()))
    }

    fn token_estimate(&self) -> TokenEstimate {
        let tokens_max = self.planned.tokenizer.as_ref().map_or(usize::MAX, TextTokenizer::tokens_max);
        Arc::new(move |text| estimated_tokens(text).min(tokens_max))
    }

    fn factory(&self) -> Option<ModelFactory> {
        let model = self.clone();
        Some(Arc::new(move || Ok(Box::new(model.clone()) as Box<dyn Model>)))
    }
}
