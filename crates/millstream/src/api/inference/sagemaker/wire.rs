//! Bodies of `/invocations`: JSON, JSON Lines, CSV. No I/O.
//!
//! | type | request | answer |
//! |---|---|---|
//! | `application/json` | `{"instances": [text, …]}` | `{"predictions": [item, …]}` |
//! | `application/json` | `{"inputs": text or [text, …]}` (Hugging Face) | `[[{"label", "score"}, …], …]`, or `[[number, …], …]` |
//! | `application/jsonlines` | a text a line | an item a line |
//! | `text/csv` | a text a row | a row each: label, its score, the score of each label; or the numbers |
//!
//! A text is a string, or an object with the string under `text`, `inputs` or `source`. An item is
//! `{"label", "score", "scores": {label: score}}`, `{"embedding": [number, …]}`, or `{"error": why}` for a text that
//! the model failed on; of a regression, `{"value": number}`, in CSV the number.
//!
//! For a model that reads columns, there is a row in the place of each text; see [`super::super::rows`].

use std::sync::Arc;

use millstream_models::{Column, Input, ModelInfo, Prediction, Reads};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::super::admission::Answer;
use super::super::refusal::{Reason, Refusal};
use super::super::rows;

/// Where an object has its text.
const TEXT_KEYS: [&str; 3] = ["text", "inputs", "source"];

/// A type of body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    JsonLines,
    /// `header=present` (RFC 4180): the first row names the columns.
    Csv {
        has_header: bool,
    },
}

impl Format {
    /// The type as it is named in an answer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::JsonLines => "application/jsonlines",
            Self::Csv { has_header: false } => "text/csv",
            Self::Csv { has_header: true } => "text/csv; header=present",
        }
    }

    fn parse(media_type: &str) -> Option<Self> {
        let mut parts = media_type.split(';').map(str::trim);
        let format = match parts.next()?.to_ascii_lowercase().as_str() {
            "application/json" => Self::Json,
            "application/jsonlines" | "application/x-ndjson" | "application/jsonl" => Self::JsonLines,
            "text/csv" => {
                let has_header = parts.any(|part| part.eq_ignore_ascii_case("header=present"));
                Self::Csv { has_header }
            }
            _ => return None,
        };
        Some(format)
    }
}

/// How an answer in JSON is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// `{"predictions": [item, …]}`.
    Predictions,
    /// A bare list, as Hugging Face's containers answer.
    List,
}

/// The type of the request's body; JSON where the client does not say.
pub fn body_format(content_type: Option<&str>) -> Result<Format, Refusal> {
    let Some(content_type) = content_type else { return Ok(Format::Json) };
    Format::parse(content_type).ok_or_else(|| {
        let message = format!("can't read `{content_type}`: send application/json, application/jsonlines or text/csv");
        Refusal::new(Reason::UnsupportedType, message)
    })
}

/// The first type of `Accept` that an answer can have; the request's own where everything is accepted.
pub fn accepted_format(accept: Option<&str>, request: Format) -> Result<Format, Refusal> {
    let Some(accept) = accept.filter(|accept| !accept.trim().is_empty()) else { return Ok(request) };
    for media_type in accept.split(',').map(str::trim) {
        let range = media_type.split(';').next().unwrap_or_default().trim();
        match (Format::parse(media_type), range, request) {
            (Some(format), ..) => return Ok(format),
            (None, "*/*", _) | (None, "application/*", Format::Json | Format::JsonLines) => return Ok(request),
            (None, "text/*", Format::Csv { .. }) => return Ok(request),
            (None, "application/*", _) => return Ok(Format::Json),
            (None, "text/*", _) => return Ok(Format::Csv { has_header: false }),
            _ => {}
        }
    }
    let message = format!("can't answer `{accept}`: accept application/json, application/jsonlines or text/csv");
    Err(Refusal::new(Reason::NotAcceptable, message))
}

/// The model's name in `model=NAME`, among other attributes or alone.
pub fn model_of_attributes(attributes: &str) -> Option<&str> {
    attributes.split([',', ';', ' ']).find_map(|part| part.trim().strip_prefix("model="))
}

/// What the answer says of the models that gave it: `model=NAME;digest=DIGEST`, for several with a comma between them.
pub fn attributes(models: &[Arc<ModelInfo>]) -> String {
    let models = models.iter().map(|info| format!("model={};digest={}", info.name, info.digest));
    models.collect::<Vec<_>>().join(",")
}

/// The texts or rows of a body, as the model reads them.
pub fn decode(format: Format, body: &[u8], reads: &Reads) -> Result<(Vec<Input>, Envelope), Refusal> {
    match format {
        Format::Json => decode_json(body, reads),
        Format::JsonLines => Ok((decode_lines(body, reads)?, Envelope::Predictions)),
        Format::Csv { has_header } => {
            let inputs = match reads {
                Reads::Text => decode_csv(body, has_header)?,
                Reads::Row(columns) => decode_csv_rows(body, has_header, columns)?,
            };
            Ok((inputs, Envelope::Predictions))
        }
    }
}

/// One text or row; `of` and `index` say which.
fn input(value: &Value, reads: &Reads, of: &str, index: usize) -> Result<Input, Refusal> {
    match reads {
        Reads::Text => text(value, of, index).map(Input::from),
        Reads::Row(columns) => rows::row(columns, value, &format!("{of} {}", index + 1)),
    }
}

fn decode_json(body: &[u8], reads: &Reads) -> Result<(Vec<Input>, Envelope), Refusal> {
    let expected = match reads {
        Reads::Text => r#"expected {"instances": ["text", …]} or {"inputs": "text" or ["text", …]}"#.to_owned(),
        Reads::Row(columns) => {
            format!(
                r#"expected {{"instances": [row, …]}} or {{"inputs": [row, …]}}, a row being {}"#,
                rows::expected(columns)
            )
        }
    };
    let body: Value =
        serde_json::from_slice(body).map_err(|e| Refusal::input(format!("the body is no JSON ({e}); {expected}")))?;
    let texts = |list: &[Value], key| -> Result<Vec<Input>, Refusal> {
        list.iter().enumerate().map(|(i, value)| input(value, reads, key, i)).collect()
    };
    if let (Reads::Row(columns), Some(Value::Object(map))) = (reads, body.get("inputs")) {
        let map = map.get("data").and_then(Value::as_object).unwrap_or(map);
        if let Some(rows) = rows::rows_by_column(columns, map) {
            return Ok((rows?, Envelope::List));
        }
        return Ok((vec![rows::row(columns, &body["inputs"], "inputs")?], Envelope::List));
    }
    match (body.get("instances"), body.get("inputs")) {
        (Some(_), Some(_)) => Err(Refusal::input("the body has both `instances` and `inputs`; send one of them")),
        (Some(Value::Array(list)), None) => Ok((texts(list, "instances")?, Envelope::Predictions)),
        (None, Some(Value::Array(list))) => Ok((texts(list, "inputs")?, Envelope::List)),
        (None, Some(Value::String(text))) if *reads == Reads::Text => Ok((vec![text.as_str().into()], Envelope::List)),
        _ => Err(Refusal::input(expected)),
    }
}

fn decode_lines(body: &[u8], reads: &Reads) -> Result<Vec<Input>, Refusal> {
    let lines = body.split(|&byte| byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
    let texts = lines.map(|(i, line)| {
        let value = serde_json::from_slice(line);
        let value: Value = value.map_err(|e| Refusal::input(format!("line {} is no JSON: {e}", i + 1)))?;
        input(&value, reads, "line", i)
    });
    texts.collect()
}

fn text(value: &Value, of: &str, index: usize) -> Result<Arc<str>, Refusal> {
    let text = match value {
        Value::String(text) => Some(text.as_str()),
        Value::Object(object) => TEXT_KEYS.iter().find_map(|key| object.get(*key)).and_then(Value::as_str),
        _ => None,
    };
    text.map(Arc::from).ok_or_else(|| {
        let keys = TEXT_KEYS.join("`, `");
        Refusal::input(format!("{of} {} is no text: write a string, or an object with one under `{keys}`", index + 1))
    })
}

fn decode_csv_rows(body: &[u8], has_header: bool, columns: &[Column]) -> Result<Vec<Input>, Refusal> {
    let mut reader = csv::ReaderBuilder::new().has_headers(has_header).flexible(true).from_reader(body);
    let wrong = |e: csv::Error| Refusal::input(format!("broken CSV: {e}"));
    let header = if has_header { Some(reader.headers().map_err(wrong)?.clone()) } else { None };
    // By name where both have names, else by place.
    let places: Option<Vec<usize>> = header.and_then(|header| {
        let place = |column: &Column| header.iter().position(|name| Some(name) == column.name.as_deref());
        columns.iter().map(place).collect()
    });
    let rows = reader.records().enumerate().map(|(i, record)| {
        let (record, place) = (record.map_err(wrong)?, format!("row {}", i + 1));
        match &places {
            Some(places) => {
                let cells: Vec<&str> = places.iter().map(|&at| record.get(at).unwrap_or_default()).collect();
                rows::row_of_texts(columns, cells.into_iter(), &place)
            }
            None => rows::row_of_texts(columns, record.iter().collect::<Vec<_>>().into_iter(), &place),
        }
    });
    rows.collect()
}

fn decode_csv(body: &[u8], has_header: bool) -> Result<Vec<Input>, Refusal> {
    let mut reader = csv::ReaderBuilder::new().has_headers(has_header).flexible(true).from_reader(body);
    let wrong = |e: csv::Error| Refusal::input(format!("broken CSV: {e}"));
    let column = match has_header {
        false => None,
        true => {
            let header = reader.headers().map_err(wrong)?;
            let column = header.iter().position(|name| name == "text").or((header.len() == 1).then_some(0));
            Some(column.ok_or_else(|| Refusal::input("the header names several columns, none of them `text`"))?)
        }
    };
    let texts = reader.records().enumerate().map(|(i, record)| {
        let (record, row) = (record.map_err(wrong)?, i + 1);
        match column {
            None if record.len() > 1 => {
                let columns = record.len();
                Err(Refusal::input(format!(
                    "row {row} has {columns} columns, expected one text: put a text with a comma in quotes"
                )))
            }
            column => record
                .get(column.unwrap_or(0))
                .map(Input::from)
                .ok_or_else(|| Refusal::input(format!("row {row} has no text"))),
        }
    });
    texts.collect()
}

/// The body of the answer.
///
/// # Errors
/// In CSV, which has no place for reasons: the first text that the model failed on.
pub fn encode(format: Format, envelope: Envelope, labels: &[Arc<str>], answers: &[Answer]) -> Result<Vec<u8>, Refusal> {
    let items = || answers.iter().map(|answer| Item { labels, answer });
    match (format, envelope) {
        (Format::Json, Envelope::Predictions) => {
            #[derive(Serialize)]
            struct Body<'a> {
                predictions: Vec<Item<'a>>,
            }
            json(&Body { predictions: items().collect() })
        }
        (Format::Json, Envelope::List) => {
            json(&answers.iter().map(|answer| Plain { labels, answer }).collect::<Vec<_>>())
        }
        (Format::JsonLines, _) => {
            let mut lines = Vec::new();
            for item in items() {
                lines.extend(json(&item)?);
                lines.push(b'\n');
            }
            Ok(lines)
        }
        (Format::Csv { has_header }, _) => encode_csv(has_header, labels, answers),
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|e| Refusal::new(Reason::Model, format!("can't write the answer: {e}")))
}

/// An item as this program names things.
struct Item<'a> {
    labels: &'a [Arc<str>],
    answer: &'a Answer,
}

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self.answer {
            Ok(Prediction::Scores(scores)) => {
                let best = ranked(self.labels, scores);
                if let Some(best) = best.first() {
                    map.serialize_entry("label", best.label)?;
                    map.serialize_entry("score", &best.score)?;
                }
                map.serialize_entry("scores", &ByLabel { labels: self.labels, scores })?;
            }
            Ok(Prediction::Embedding(numbers)) => map.serialize_entry("embedding", numbers)?,
            Ok(Prediction::Value(number)) => map.serialize_entry("value", number)?,
            Err(failure) => map.serialize_entry("error", &failure.message)?,
        }
        map.end()
    }
}

/// `{label: score}`, in the model's order.
struct ByLabel<'a> {
    labels: &'a [Arc<str>],
    scores: &'a [f32],
}

impl Serialize for ByLabel<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.labels.iter().map(|label| &**label).zip(self.scores))
    }
}

/// A label with its score, as Hugging Face writes them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ranked<'a> {
    pub label: &'a str,
    pub score: f32,
}

/// Labels with their scores, the highest first; equals in the model's order.
pub fn ranked<'a>(labels: &'a [Arc<str>], scores: &[f32]) -> Vec<Ranked<'a>> {
    let mut ranked: Vec<_> = labels.iter().zip(scores).map(|(label, &score)| Ranked { label, score }).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked
}

/// An item as Hugging Face's containers write it.
struct Plain<'a> {
    labels: &'a [Arc<str>],
    answer: &'a Answer,
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.answer {
            Ok(Prediction::Scores(scores)) => ranked(self.labels, scores).serialize(serializer),
            Ok(Prediction::Embedding(numbers)) => numbers.serialize(serializer),
            Ok(Prediction::Value(number)) => number.serialize(serializer),
            Err(failure) => serializer.collect_map([("error", &failure.message)]),
        }
    }
}

fn encode_csv(has_header: bool, labels: &[Arc<str>], answers: &[Answer]) -> Result<Vec<u8>, Refusal> {
    let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
    let wrong = |e: csv::Error| Refusal::new(Reason::Model, format!("can't write the answer: {e}"));
    if has_header {
        let dimensions = answers.iter().find_map(|answer| match answer {
            Ok(Prediction::Embedding(numbers)) => Some(numbers.len()),
            _ => None,
        });
        let is_value = answers.iter().any(|answer| matches!(answer, Ok(Prediction::Value(_))));
        let header: Vec<String> = match dimensions {
            None if is_value => vec!["value".to_owned()],
            Some(dimensions) => (0..dimensions).map(|i| format!("d{i}")).collect(),
            None => ["label", "score"].into_iter().chain(labels.iter().map(|l| &**l)).map(str::to_owned).collect(),
        };
        writer.write_record(header).map_err(wrong)?;
    }
    for (i, answer) in answers.iter().enumerate() {
        let row: Vec<String> = match answer {
            Err(failure) => return Err(Refusal::text(i, failure)),
            Ok(Prediction::Embedding(numbers)) => numbers.iter().map(f32::to_string).collect(),
            Ok(Prediction::Value(number)) => vec![number.to_string()],
            Ok(Prediction::Scores(scores)) => {
                let best = ranked(labels, scores);
                let best =
                    best.first().map_or([String::new(), String::new()], |b| [b.label.into(), b.score.to_string()]);
                best.into_iter().chain(scores.iter().map(f32::to_string)).collect()
            }
        };
        writer.write_record(row).map_err(wrong)?;
    }
    writer.into_inner().map_err(|e| Refusal::new(Reason::Model, format!("can't write the answer: {e}")))
}

#[cfg(test)]
mod tests;
