//! From what was set and what the file says to what is done: which column goes where, which output counts. Pure.

use std::sync::Arc;

use millstream_core::{Error, Result};

use super::config::{OnnxActivation, OnnxNull, OnnxOutputs, OnnxPooling, OnnxSettings};
use super::file::{OnnxFile, Output, Port};
use super::tensor::Kind;
use crate::Task;
use crate::input::{Column, ColumnKind, Reads};

/// How a graph is fed and read.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mapping {
    pub(super) reads: Reads,
    /// In the order of the graph's inputs.
    pub(super) feeds: Vec<Feed>,
    /// The graph takes batches of this size only.
    pub(super) fixed_batch: Option<usize>,
    /// The graph takes texts of so many tokens only; shorter ones are filled up.
    pub(super) fixed_tokens: Option<usize>,
    pub(super) null: OnnxNull,
    pub(super) answer: Answer,
    /// The labels, in the order of the scores; empty where there are none.
    pub(super) labels: Vec<Arc<str>>,
    /// The length of the embeddings, where the file says it.
    pub(super) dimensions: Option<usize>,
}

/// What goes into one input.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Feed {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// Dimensions: 1 (one value a row) or 2.
    pub(super) rank: usize,
    pub(super) content: Content,
}

/// Where an input's values come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// These columns, by their index in the row.
    Columns(Vec<usize>),
    /// The text as it is.
    Text,
    /// A part of the tokens.
    Tokens(TokenPart),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenPart {
    Ids,
    Mask,
    Types,
}

/// What is read from the output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    /// The output's name in the file.
    pub(super) name: String,
    /// The tensor that it comes from.
    pub(super) tensor: String,
    pub(super) meaning: Meaning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    Scores(OnnxActivation),
    Label,
    Value,
    Embedding {
        /// How the vectors of tokens become one, if there is one for each token.
        pooling: Option<OnnxPooling>,
        /// Whether the vector is made 1 long.
        normalize: bool,
    },
}

impl Mapping {
    /// # Errors
    /// `Config`: what does not fit, naming the file and the tensor, and what to write.
    pub(super) fn new(file: &OnnxFile, task: Task, labels: &[String], settings: &OnnxSettings) -> Result<Self> {
        let path = file.path.display().to_string();
        let mapping = Self::resolve(file, task, labels, settings);
        mapping.map_err(|e| Error::new(e.kind(), format!("{path}: {e}")))
    }

    fn resolve(file: &OnnxFile, task: Task, labels: &[String], settings: &OnnxSettings) -> Result<Self> {
        let is_there = |name: &String| file.inputs.iter().any(|input| input.name == *name);
        if let Some(name) = settings.inputs.keys().find(|name| !is_there(name)) {
            return Err(Error::setting("inputs", format!("`inputs` names `{name}`; {}", inputs_there(file))));
        }
        let (reads, feeds) =
            if task.is_tabular() { column_feeds(file, settings)? } else { (Reads::Text, text_feeds(file, settings)?) };
        if settings.on_null == OnnxNull::Nan {
            let other = feeds.iter().find(|feed| !feed.kind.is_float() && matches!(feed.content, Content::Columns(_)));
            if let Some(feed) = other {
                let kind = feed.kind.as_str();
                return Err(Error::setting(
                    "on_null",
                    format!("`on_null: nan` can't be: the input `{}` takes {kind}", feed.name),
                ));
            }
        }
        let first = |input: &Port| input.shape.as_ref().and_then(|shape| shape.first().copied().flatten());
        let fixed_batch = file.inputs.iter().find_map(first);
        let second = |input: &Port| input.shape.as_ref().and_then(|shape| shape.get(1).copied().flatten());
        let fixed_tokens = if feeds.iter().any(|feed| matches!(feed.content, Content::Tokens(_))) {
            file.inputs.iter().find_map(second)
        } else {
            None
        };
        let (output, answer) = answer(file, task, settings)?;
        let labels = labels_of(task, labels, output, &answer)?;
        let width = output.port.shape.as_ref().and_then(|shape| shape.last().copied().flatten());
        let dimensions = width.filter(|_| matches!(answer.meaning, Meaning::Embedding { .. }));
        Ok(Self { reads, feeds, fixed_batch, fixed_tokens, null: settings.on_null, answer, labels, dimensions })
    }
}

fn column_feeds(file: &OnnxFile, settings: &OnnxSettings) -> Result<(Reads, Vec<Feed>)> {
    let mut columns: Vec<Column> = Vec::new();
    let mut feeds = Vec::new();
    let are_single = file.inputs.iter().all(|input| width(input) == Some(1));
    for input in &file.inputs {
        let kind = kind(input)?;
        let rank = rank(input)?;
        let names: Vec<Option<Arc<str>>> = match (settings.inputs.get(&input.name), width(input)) {
            (Some(names), width) => {
                let names = names.all();
                if let Some(width) = width.filter(|&width| width != names.len()) {
                    return Err(Error::config(format!(
                        "the input `{}` takes {width} columns; `inputs` names {}",
                        input.name,
                        names.len()
                    )));
                }
                names.iter().map(|name| Some(name.as_str().into())).collect()
            }
            (None, Some(width)) if file.inputs.len() == 1 && settings.inputs.is_empty() => vec![None; width],
            (None, Some(1)) if are_single || !settings.inputs.is_empty() => vec![Some(input.name.as_str().into())],
            (None, _) => {
                let example = format!("`inputs: {{ {}: [column, …] }}`", input.name);
                let why = match width(input) {
                    None => "its width is open".to_owned(),
                    Some(width) => format!("it takes {width} columns, and there are other inputs"),
                };
                let message = format!("which columns go into the input `{}`? {why}: write {example}", input.name);
                return Err(Error::config(message));
            }
        };
        let mut indices = Vec::with_capacity(names.len());
        for name in names {
            let known = name.as_ref().and_then(|name| columns.iter().position(|c| c.name.as_ref() == Some(name)));
            indices.push(known.unwrap_or(columns.len()));
            match known {
                // One column may go into several inputs: it has to suit the strictest.
                Some(at) => columns[at].kind = both(columns[at].kind, column_kind(kind), &columns[at], &input.name)?,
                None => columns.push(Column { name, kind: column_kind(kind) }),
            }
        }
        feeds.push(Feed { name: input.name.clone(), kind, rank, content: Content::Columns(indices) });
    }
    Ok((Reads::Row(columns.into()), feeds))
}

fn both(a: ColumnKind, b: ColumnKind, column: &Column, input: &str) -> Result<ColumnKind> {
    if (a == ColumnKind::Text) != (b == ColumnKind::Text) {
        return Err(Error::config(format!("the column `{column}` can't go into the input `{input}` too")));
    }
    let strictness = |kind: &ColumnKind| match kind {
        ColumnKind::Float | ColumnKind::Text => 0,
        ColumnKind::Int => 1,
        ColumnKind::Bool => 2,
    };
    Ok([a, b].into_iter().max_by_key(strictness).unwrap_or(a))
}

fn column_kind(kind: Kind) -> ColumnKind {
    match kind {
        Kind::F32 | Kind::F64 => ColumnKind::Float,
        Kind::I64 | Kind::I32 => ColumnKind::Int,
        Kind::Bool => ColumnKind::Bool,
        Kind::Text => ColumnKind::Text,
    }
}

fn text_feeds(file: &OnnxFile, settings: &OnnxSettings) -> Result<Vec<Feed>> {
    if let [input] = file.inputs.as_slice()
        && input.kind == Some(Kind::Text)
    {
        let rank = rank(input)?;
        return Ok(vec![Feed { name: input.name.clone(), kind: Kind::Text, rank, content: Content::Text }]);
    }
    let feed = |input: &Port| {
        let meaning = match settings.inputs.get(&input.name).map(|names| names.all()) {
            Some([name]) => name.as_str(),
            Some(_) => "",
            None => input.name.as_str(),
        };
        let part = match meaning {
            "input_ids" => TokenPart::Ids,
            "attention_mask" => TokenPart::Mask,
            "token_type_ids" => TokenPart::Types,
            _ => {
                return Err(Error::setting(
                    "inputs",
                    format!(
                        "a text can't fill the input `{0}`: say what it takes, `inputs: {{ {0}: input_ids }}`, attention_mask or token_type_ids",
                        input.name
                    ),
                ));
            }
        };
        let kind = kind(input)?;
        if !matches!(kind, Kind::I64 | Kind::I32) {
            return Err(Error::config(format!("the input `{}` takes {}, not token ids", input.name, kind.as_str())));
        }
        if input.shape.as_ref().is_some_and(|shape| shape.len() != 2) {
            return Err(Error::config(format!("the input `{}` is not of the shape [batch, tokens]", input.name)));
        }
        Ok(Feed { name: input.name.clone(), kind, rank: 2, content: Content::Tokens(part) })
    };
    let feeds = file.inputs.iter().map(feed).collect::<Result<Vec<_>>>()?;
    if !feeds.iter().any(|feed| feed.content == Content::Tokens(TokenPart::Ids)) {
        return Err(Error::config(format!("no input takes token ids (`input_ids`); {}", inputs_there(file))));
    }
    Ok(feeds)
}

/// The output that counts, and what it means.
fn answer<'f>(file: &'f OnnxFile, task: Task, settings: &OnnxSettings) -> Result<(&'f Output, Answer)> {
    let OnnxOutputs { scores, label, value, embedding } = &settings.outputs;
    let (key, wanted) = match task {
        Task::TextClassification | Task::TabularClassification => {
            if scores.is_none() && label.is_some() {
                ("label", label)
            } else {
                ("scores", scores)
            }
        }
        Task::TabularRegression => ("value", value),
        Task::Embedding => ("embedding", embedding),
    };
    let set = [("scores", scores), ("label", label), ("value", value), ("embedding", embedding)];
    let is_classifier = task.is_classification();
    let of_task = |name: &str| name == key || (is_classifier && (name == "label" || name == "scores"));
    if let Some((name, _)) = set.iter().find(|(name, set)| set.is_some() && !of_task(name)) {
        return Err(Error::setting(
            "outputs",
            format!("`outputs.{name}` is not for `task: {}`, which has `{key}`", task.as_str()),
        ));
    }
    let output = match wanted {
        Some(name) => file.outputs.iter().find(|output| output.port.name == *name).ok_or_else(|| {
            Error::setting("outputs", format!("`outputs.{key}` is `{name}`; {}", outputs_there(file)))
        })?,
        None => {
            let is_float = |output: &&Output| output.port.kind.is_some_and(Kind::is_float);
            let mut floats = file.outputs.iter().filter(is_float);
            match (floats.next(), floats.next()) {
                (Some(output), None) => output,
                _ => {
                    let there = outputs_there(file);
                    return Err(Error::setting(
                        "outputs",
                        format!("which output counts? Write `outputs: {{ {key}: … }}`; {there}"),
                    ));
                }
            }
        }
    };
    let name = &output.port.name;
    if key != "label" && !output.port.kind.is_some_and(Kind::is_float) {
        return Err(Error::setting("outputs", format!("the output `{name}` gives no floats; {}", outputs_there(file))));
    }
    let rank = output.port.shape.as_ref().map(Vec::len);
    let meaning = match key {
        "label" => Meaning::Label,
        "value" => Meaning::Value,
        "embedding" => {
            if rank == Some(3) && settings.pooling.is_none() {
                let message =
                    format!("the output `{name}` has a vector for each token: write `pooling: mean` or `cls`");
                return Err(Error::setting("pooling", message));
            }
            Meaning::Embedding { pooling: settings.pooling, normalize: settings.normalize }
        }
        _ => match settings.activation {
            Some(OnnxActivation::Sigmoid) if rank == Some(2) && scores_of(output).is_some_and(|width| width != 1) => {
                let message = format!("`activation: sigmoid` is for one score; the output `{name}` has more");
                return Err(Error::setting("activation", message));
            }
            Some(activation) => Meaning::Scores(activation),
            None if output.is_probability => Meaning::Scores(OnnxActivation::None),
            None => {
                let message = format!(
                    "does the output `{name}` give logits or probabilities? Write `activation: softmax`, `sigmoid` or `none`"
                );
                return Err(Error::setting("activation", message));
            }
        },
    };
    Ok((output, Answer { name: name.clone(), tensor: output.tensor.clone(), meaning }))
}

/// How many scores a row of an output has, where the file says it.
fn scores_of(output: &Output) -> Option<usize> {
    output.port.shape.as_ref().and_then(|shape| shape.get(1).copied().flatten())
}

fn labels_of(task: Task, labels: &[String], output: &Output, answer: &Answer) -> Result<Vec<Arc<str>>> {
    if !task.is_classification() {
        return if labels.is_empty() {
            Ok(Vec::new())
        } else {
            Err(Error::setting("labels", format!("`task: {}` has no labels: leave out `labels`", task.as_str())))
        };
    }
    let is_label = answer.meaning == Meaning::Label;
    let width = scores_of(output).filter(|_| !is_label);
    let name = &output.port.name;
    if labels.is_empty() {
        return match (output.labels.len(), width) {
            (0 | 1, _) => Err(Error::setting(
                "labels",
                format!(
                    "the file does not name the labels of the output `{name}`{}: write `labels: […]`, in its order",
                    width.map_or(String::new(), |width| format!(", which has {width}"))
                ),
            )),
            (named, Some(width)) if named != width && (named, width) != (2, 1) => {
                Err(Error::config(format!("the output `{name}` has {width} scores for {named} labels")))
            }
            _ => Ok(output.labels.clone()),
        };
    }
    let there = if output.labels.is_empty() { width } else { Some(output.labels.len()) };
    if let Some(there) = there.filter(|&there| there != labels.len() && (there, labels.len()) != (1, 2)) {
        return Err(Error::setting(
            "labels",
            format!("`labels` has {} labels; the output `{name}` has {there}", labels.len()),
        ));
    }
    if is_label && output.labels.iter().any(|label| labels.iter().all(|other| **other != **label)) {
        let there = output.labels.join(", ");
        return Err(Error::setting("labels", format!("the labels that the output `{name}` gives are [{there}]")));
    }
    Ok(labels.iter().map(|label| label.as_str().into()).collect())
}

fn kind(input: &Port) -> Result<Kind> {
    input.kind.ok_or_else(|| {
        Error::config(format!(
            "the input `{}` is of a type that can't be filled; float, double, int64, int32, bool and string can",
            input.name
        ))
    })
}

/// The number of dimensions; 2 where the file does not say.
fn rank(input: &Port) -> Result<usize> {
    match input.shape.as_ref().map(Vec::len) {
        None | Some(2) => Ok(2),
        Some(1) => Ok(1),
        Some(other) => {
            let message = format!("the input `{}` has {other} dimensions; rows of columns fill 1 or 2", input.name);
            Err(Error::config(message))
        }
    }
}

/// How many columns go into an input; `None`: as many as one likes.
fn width(input: &Port) -> Option<usize> {
    match input.shape.as_deref() {
        Some([_]) => Some(1),
        Some([_, width]) => *width,
        _ => None,
    }
}

fn inputs_there(file: &OnnxFile) -> String {
    let ports: Vec<String> = file.inputs.iter().map(described).collect();
    format!("the graph's inputs are {}", ports.join(", "))
}

fn outputs_there(file: &OnnxFile) -> String {
    let ports: Vec<String> = file.outputs.iter().map(|output| described(&output.port)).collect();
    format!("the graph's outputs are {}", ports.join(", "))
}

/// `probabilities: float[?, 3]`.
fn described(port: &Port) -> String {
    let kind = port.kind.map_or("other", Kind::as_str);
    let shape = port.shape.as_ref().map_or(String::new(), |shape| {
        let sizes: Vec<String> =
            shape.iter().map(|size| size.map_or("?".to_owned(), |size| size.to_string())).collect();
        format!("[{}]", sizes.join(", "))
    });
    format!("`{}: {kind}{shape}`", port.name)
}
