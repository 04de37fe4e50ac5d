//! `template`: a request of your own, and where in the answer to look.
//!
//! The request is a JSON value, not a text: a text of the stream is put in as a string, and can't break out of it.
//! `"{{inputs}}"` becomes the list of all texts; `{{input}}`, anywhere in a string, becomes one text, and then a
//! request carries only one. `answer` is a JSON pointer (RFC 6901) to the list of items, or to the item. With `/*/` in
//! it, the part before leads to a list, and the part behind into each of its elements: `/results/*/output`.

use millstream_core::{Error, Failure, Result};
use serde_json::Value;

use super::{failure, quoted, said};

const ONE: &str = "{{input}}";
const ALL: &str = "{{inputs}}";

/// A request with placeholders, and where the answer is.
pub(crate) struct Template {
    request: Value,
    answer: Answer,
    takes_one: bool,
}

/// Where the items are.
pub(crate) struct Answer {
    list: String,
    /// Behind `/*`: into each element.
    element: String,
}

impl Answer {
    /// Reads a pointer; see the module.
    ///
    /// # Errors
    /// `Config`: what is expected.
    pub(crate) fn parse(pointer: &str) -> Result<Self> {
        let (list, element) = match pointer.split_once("/*") {
            Some((list, element)) if element.is_empty() || element.starts_with('/') => (list, element),
            _ => (pointer, ""),
        };
        let is_pointer = |part: &str| part.is_empty() || part.starts_with('/');
        if !is_pointer(list) || !is_pointer(element) || element.contains("/*") {
            return Err(Error::setting(
                "answer",
                format!(
                    "`answer` is `{pointer}`: write a JSON pointer such as /predictions, or /results/*/output for a part of each item"
                ),
            ));
        }
        Ok(Self { list: list.into(), element: element.into() })
    }
}

impl Template {
    /// # Errors
    /// `Config`: no placeholder, or both.
    pub(crate) fn new(request: Value, answer: Answer) -> Result<Self> {
        let (one, all) = (count(&request, &|text| text.contains(ONE)), count(&request, &|text| text == ALL));
        match (one, all) {
            (0, 0) => Err(Error::setting(
                "request",
                "`request` has no placeholder: write \"{{inputs}}\" where the list of texts goes, or {{input}} where one text goes",
            )),
            (1.., 1..) => {
                Err(Error::setting("request", "`request` has both {{input}} and {{inputs}}: write one of them"))
            }
            _ => Ok(Self { request, answer, takes_one: one > 0 }),
        }
    }

    pub(super) fn texts_max(&self) -> Option<usize> {
        self.takes_one.then_some(1)
    }

    pub(super) fn encode(&self, texts: &[&str]) -> Value {
        filled(&self.request, texts)
    }

    pub(super) fn items(&self, mut body: Value) -> Result<Vec<Value>, Failure> {
        let nothing = |at: &str, body: &Value| {
            failure(format!("the endpoint's answer has nothing at `{at}`: {}", quoted(&said(&body.to_string()))))
        };
        let Some(found) = body.pointer_mut(&self.answer.list).map(Value::take) else {
            return Err(nothing(&self.answer.list, &body));
        };
        if self.takes_one && self.answer.element.is_empty() {
            return Ok(vec![found]);
        }
        let Value::Array(elements) = found else {
            return Err(failure(format!("the endpoint's answer has no list at `{}`", self.answer.list)));
        };
        let inside = |mut element: Value| {
            let found = element.pointer_mut(&self.answer.element).map(Value::take);
            found.ok_or_else(|| nothing(&self.answer.element, &element))
        };
        elements.into_iter().map(inside).collect()
    }
}

fn count(value: &Value, is_wanted: &dyn Fn(&str) -> bool) -> usize {
    match value {
        Value::String(text) => usize::from(is_wanted(text)),
        Value::Array(items) => items.iter().map(|item| count(item, is_wanted)).sum(),
        Value::Object(fields) => fields.values().map(|value| count(value, is_wanted)).sum(),
        _ => 0,
    }
}

fn filled(value: &Value, texts: &[&str]) -> Value {
    match value {
        Value::String(text) if text == ALL => texts.iter().map(|&text| Value::from(text)).collect(),
        Value::String(text) if text.contains(ONE) => text.replace(ONE, &texts.join("\n")).into(),
        Value::Array(items) => items.iter().map(|item| filled(item, texts)).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), filled(value, texts))).collect(),
        other => other.clone(),
    }
}
