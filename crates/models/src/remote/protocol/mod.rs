//! What requests to model servers and their answers look like. One file a protocol, none of which does I/O.
//!
//! | protocol | request | answer |
//! |---|---|---|
//! | `json` | `{"inputs": [text, …]}` | `[item, …]` |
//! | `sagemaker` | `{"instances": [text, …]}` | `{"predictions": [item, …]}` |
//! | `kserve` | `{"inputs": [{"name": …, "shape": [n], "datatype": "BYTES", "data": [text, …]}]}` | `{"outputs": [tensor]}` |
//! | `tei` | `{"inputs": [[text], …]}`, for embeddings `{"inputs": [text, …]}` | `[item, …]` |
//! | `openai` | embeddings, or one chat completion a text | `{"data": […]}`, `{"choices": […]}` |
//! | `template` | as written | where the pointer says |

mod item;
mod json;
mod kserve;
mod openai;
mod sagemaker;
mod tei;
mod template;

use millstream_core::{Error, Failure, FailureKind, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

pub(crate) use item::prediction;
pub(crate) use kserve::TensorConfig;
pub(crate) use openai::Chat;
pub(crate) use template::{Answer, Template};

use crate::{ModelInfo, Prediction, Task};

/// The shape of requests to an endpoint and of its answers; see `docs/models.md`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// As Hugging Face endpoints: `{"inputs": […]}`, answered by one list per input.
    #[default]
    Json,
    /// As containers on SageMaker: `{"instances": […]}` to `/invocations`, answered by `{"predictions": […]}`.
    Sagemaker,
    /// The Open Inference Protocol (KServe v2, Triton): a `BYTES` tensor to `/v2/models/{name}/infer`.
    Kserve,
    /// Hugging Face Text Embeddings Inference: `/embed` or `/predict`.
    Tei,
    /// OpenAI and servers like it: `/v1/embeddings`, or `/v1/chat/completions` with a JSON schema for the answer.
    Openai,
    /// JSON of your own: `request` with placeholders, and `answer`, where in the answer to look.
    Template,
}

impl Protocol {
    /// The name in the pipeline file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Sagemaker => "sagemaker",
            Self::Kserve => "kserve",
            Self::Tei => "tei",
            Self::Openai => "openai",
            Self::Template => "template",
        }
    }
}

/// A protocol with everything that its requests and answers depend on.
pub(crate) enum Codec {
    Json,
    Sagemaker,
    Kserve(TensorConfig),
    Tei,
    /// `/v1/embeddings` with the model's name at the server.
    OpenaiEmbeddings(String),
    OpenaiChat(Chat),
    Template(Template),
}

impl Codec {
    /// The most texts that one request can carry; none where the protocol has no limit.
    pub(crate) fn texts_max(&self) -> Option<usize> {
        match self {
            Self::OpenaiChat(_) => Some(1),
            Self::OpenaiEmbeddings(_) => Some(openai::EMBEDDINGS_MAX),
            Self::Template(template) => template.texts_max(),
            Self::Json | Self::Sagemaker | Self::Kserve(_) | Self::Tei => None,
        }
    }

    /// The body of a request; `extra` is put into it, and a null there takes a field away.
    pub(crate) fn encode(&self, info: &ModelInfo, extra: &Map<String, Value>, texts: &[&str]) -> Vec<u8> {
        let mut body = match self {
            Self::Json => json::encode(texts),
            Self::Sagemaker => sagemaker::encode(texts),
            Self::Kserve(tensors) => kserve::encode(tensors, texts),
            Self::Tei => tei::encode(info.task, texts),
            Self::OpenaiEmbeddings(model) => openai::encode_embeddings(model, texts),
            Self::OpenaiChat(chat) => chat.encode(info, texts),
            Self::Template(template) => template.encode(texts),
        };
        if let Some(fields) = body.as_object_mut() {
            for (name, value) in extra {
                if value.is_null() {
                    fields.shift_remove(name);
                } else {
                    fields.insert(name.clone(), value.clone());
                }
            }
        }
        body.to_string().into_bytes()
    }

    /// One answer per text from the body of an endpoint's answer.
    ///
    /// # Errors
    /// The body as a whole can't be used: it is not JSON, of another shape, or answers another number of texts.
    pub(crate) fn decode(
        &self,
        info: &ModelInfo,
        texts: usize,
        body: &[u8],
    ) -> Result<Vec<Result<Prediction, Failure>>, Failure> {
        let body: Value = serde_json::from_slice(body).map_err(|e| {
            let body = String::from_utf8_lossy(body);
            failure(format!("the endpoint's answer is no JSON ({}): {}", quoted(&e.to_string()), quoted(&body)))
        })?;
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            return Err(failure(format!("the endpoint answered with an error: {}", quoted(&said(&error.to_string())))));
        }
        let items = match self {
            Self::Json | Self::Tei => json::items(body, texts)?,
            Self::Sagemaker => sagemaker::items(body)?,
            Self::Kserve(tensors) => kserve::items(tensors, body)?,
            Self::OpenaiEmbeddings(_) => openai::embeddings(body, texts)?,
            Self::OpenaiChat(_) => {
                let message = openai::message(&body)?;
                // What a chat model says, or does not say, is about this one text.
                return Ok(vec![openai::opinion(info, message).and_then(|item| prediction(info, item))]);
            }
            Self::Template(template) => template.items(body)?,
        };
        if items.len() != texts {
            return Err(failure(format!(
                "the endpoint gave {} answers than it got inputs",
                fewer_or_more(items.len(), texts)
            )));
        }
        Ok(items.into_iter().map(|item| prediction(info, item)).collect())
    }
}

/// The address that requests go to, from the one in the pipeline file.
///
/// # Errors
/// `Config`: `kserve` without a model's name; an address of another task.
pub(crate) fn request_url(endpoint: &Url, protocol: Protocol, model_name: Option<&str>, task: Task) -> Result<Url> {
    let mut url = endpoint.clone();
    let has_path = !matches!(url.path(), "" | "/");
    match protocol {
        Protocol::Json | Protocol::Template => {}
        Protocol::Sagemaker if has_path => {}
        Protocol::Sagemaker => url.set_path("/invocations"),
        Protocol::Kserve if url.path().ends_with("/infer") => {}
        Protocol::Kserve => {
            let name = model_name.ok_or_else(|| {
                Error::setting(
                    "model_name",
                    "`model_name` is missing: `protocol: kserve` needs the model's name at the server",
                )
            })?;
            extend(&mut url, &["v2", "models", name, "infer"])?;
        }
        Protocol::Tei => {
            let (wanted, other) = by_task(task, ("embed", "predict"));
            complete(&mut url, &[wanted], &[other])?;
        }
        Protocol::Openai => {
            let (wanted, other): (&[&str], &[&str]) = by_task(task, (&["embeddings"], &["chat", "completions"]));
            let is_versioned = url.path().trim_end_matches('/').ends_with("/v1");
            let full = [&["v1"], wanted].concat();
            let missing = if is_versioned { wanted } else { &full };
            if !url.path().ends_with(&format!("/{}", wanted.join("/"))) {
                complete(&mut url, missing, other)?;
            }
        }
    }
    Ok(url)
}

/// The one that the task needs first, then the other.
fn by_task<T>(task: Task, (embedding, classification): (T, T)) -> (T, T) {
    match task {
        Task::Embedding => (embedding, classification),
        Task::TextClassification | Task::TabularClassification | Task::TabularRegression => (classification, embedding),
    }
}

/// Puts `wanted` at the end of the path, if it is not there.
fn complete(url: &mut Url, wanted: &[&str], other: &[&str]) -> Result<()> {
    let ends_with = |part: &[&str]| url.path().ends_with(&format!("/{}", part.join("/")));
    if ends_with(other) {
        let (wanted, other) = (wanted.join("/"), other.join("/"));
        return Err(Error::setting(
            "source",
            format!("`source` ends in `/{other}`, but this task needs `/{wanted}`: write that"),
        ));
    }
    if ends_with(wanted) { Ok(()) } else { extend(url, wanted) }
}

fn extend(url: &mut Url, segments: &[&str]) -> Result<()> {
    let mut path = url.path_segments_mut().map_err(|()| Error::config("the endpoint's URL has no path"))?;
    path.pop_if_empty().extend(segments);
    Ok(())
}

fn failure(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Model, message)
}

/// `fewer` or `more`: a message that is compared with others has no numbers.
pub(crate) fn fewer_or_more(got: usize, wanted: usize) -> &'static str {
    if got < wanted { "fewer" } else { "more" }
}

/// The beginning of a text from outside, for a message.
pub(crate) fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 200;
    let mut short: String = text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// What an answer says went wrong: the text under `error`, `message`, `detail` and the like, else all of it. Ids and
/// times beside it would make every message another one.
pub(crate) fn said(body: &str) -> String {
    const KEYS: [&str; 6] = ["error", "message", "Message", "errorMessage", "detail", "OriginalMessage"];
    fn text(value: &Value) -> Option<String> {
        match value {
            Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            Value::Object(map) => KEYS.iter().find_map(|key| text(map.get(*key)?)),
            Value::Array(list) => text(list.first()?),
            _ => None,
        }
    }
    let found = serde_json::from_str::<Value>(body).ok().filter(Value::is_object).and_then(|value| text(&value));
    found.unwrap_or_else(|| body.trim().to_owned())
}

/// The beginning of what somebody else says, for a message that will be compared with others: with `N` in the place of
/// numbers, times and ids. (A digit behind a letter stays: `LABEL_0`, `gpt4`.)
pub(crate) fn quoted(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut quoted = String::with_capacity(text.len());
    let mut rest = shortened(text);
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_word(c) != is_word(first)).unwrap_or(rest.len());
        let piece = &rest[..end];
        let is_hex = piece.len() >= 8 && piece.bytes().all(|b| b.is_ascii_hexdigit());
        if first.is_numeric() || (is_hex && piece.bytes().any(|b| b.is_ascii_digit())) {
            // 0.25 is one number.
            if quoted.ends_with("N.") {
                quoted.pop();
            } else {
                quoted.push('N');
            }
        } else {
            quoted.push_str(piece);
        }
        rest.drain(..end);
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_endpoint_says_is_quoted_without_what_changes_from_one_request_to_the_next() {
        for (body, expected) in [
            (r#"{"error": "too long: 812 > 512", "request_id": "8f3a11c0"}"#, "too long: N > N"),
            (r#"{"error": {"message": "sum is 0.83.", "code": 7}}"#, "sum is N."),
            (r#"{"detail": [{"message": "at 2026-11-28T07:13:00Z"}]}"#, "at N-N-N:N:N"),
            ("id 8f3a11c0-77aa LABEL_0 of gpt4", "id N-N LABEL_0 of gpt4"),
            ("  plain\n", "plain"),
            (r#"{"code": 3}"#, r#"{"code": N}"#),
        ] {
            assert_eq!(quoted(&said(body)), expected, "{body}");
        }
    }
}
