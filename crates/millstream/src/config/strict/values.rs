//! Single values against their schema, and values and kinds in words.

use serde_json::Value;

use crate::config::named::{NAMED_TYPES, SECRET};
use crate::config::tree::{Content, Node, Scalar};
use millstream_core::names::nearest;

/// What is wrong, and what to do about it.
pub(super) type Wrong = Option<(String, Option<String>)>;

/// What a node is, for "must be …, not …".
pub(super) fn found(node: &Node) -> String {
    match &node.content {
        Content::Map(_) => "a map".to_owned(),
        Content::List(_) => "a list".to_owned(),
        Content::Scalar(scalar) => match &scalar.value {
            Value::Null => "empty".to_owned(),
            Value::Bool(_) => format!("`{}`", node.typed()),
            Value::Number(_) => format!("the number {}", node.typed()),
            _ => format!("the text `{}`", node.typed()),
        },
    }
}

pub(super) fn kind_name(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "object" => "a map",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        _ => return None,
    })
}

pub(super) fn or(wanted: &[&str]) -> String {
    match wanted {
        [] => "something else".to_owned(),
        [only] => (*only).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// The texts, where every branch (but null) is a constant text or a list of them.
pub(super) fn names_of(branches: &[Value]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    for branch in branches {
        match (branch.get("const").and_then(Value::as_str), branch.get("enum").and_then(Value::as_array)) {
            (Some(name), _) => names.push(name),
            (None, Some(list)) => names.extend(list.iter().filter_map(Value::as_str)),
            _ => return None,
        }
    }
    Some(names)
}

/// What is wrong with a scalar of the right kind.
pub(super) fn scalar_problem(
    scalar: &Scalar,
    typed: &str,
    schema: &Value,
    definition: Option<&str>,
    name: &str,
) -> Wrong {
    match &scalar.value {
        Value::String(text) => text_problem(text, typed, schema, definition, name),
        Value::Number(number) => {
            let (min, max) = bounds(schema);
            let value = number.as_f64().unwrap_or(f64::NAN);
            if min.is_some_and(|min| value < min) {
                return Some((format!("{name} must be at least {}, not {typed}", min.unwrap_or_default()), None));
            }
            let max = max.filter(|max| value > *max)?;
            Some((format!("{name} must be at most {max}, not {typed}"), None))
        }
        _ => None,
    }
}

/// What is wrong with a text whose type has a parser of its own.
pub(super) fn named_problem(node: &Node, definition: Option<&str>, name: &str) -> Wrong {
    let named = NAMED_TYPES.iter().find(|n| Some(n.definition) == definition)?;
    let text = node.text()?;
    // The message of the parser repeats what it was given; say what was typed.
    (named.parse)(text).err().map(|message| (format!("{name}: {}", message.replacen(text, &node.typed(), 1)), None))
}

fn text_problem(text: &str, typed: &str, schema: &Value, definition: Option<&str>, name: &str) -> Wrong {
    let secret = definition == Some(SECRET);
    if let Some(names) = names_of(std::slice::from_ref(schema))
        && !names.contains(&text)
    {
        let help = nearest(text, names.iter().copied()).map(|n| format!("did you mean `{n}`?"));
        return Some((format!("{name} must be one of {}, not `{typed}`", names.join(", ")), help));
    }
    if let Some(min) = schema.get("minLength").and_then(Value::as_u64)
        && (text.chars().count() as u64) < min
    {
        return Some((format!("{name} is empty"), None));
    }
    if let Some(max) = schema.get("maxLength").and_then(Value::as_u64)
        && text.chars().count() as u64 > max
    {
        return Some((format!("{name} is longer than {max} characters"), None));
    }
    let pattern = schema.get("pattern").and_then(Value::as_str)?;
    if matches(pattern, text) {
        return None;
    }
    let help = schema.get("description").and_then(Value::as_str).map(|d| format!("write {d}"));
    let shown = if secret { "this".to_owned() } else { format!("`{typed}`") };
    Some((format!("{name} can't be {shown}"), help.or_else(|| Some(format!("it must match {pattern}")))))
}

fn bounds(schema: &Value) -> (Option<f64>, Option<f64>) {
    let of = |key: &str| schema.get(key).and_then(Value::as_f64);
    let (format_min, format_max) = match schema.get("format").and_then(Value::as_str) {
        Some("uint8") => (Some(0.0), Some(f64::from(u8::MAX))),
        Some("uint16") => (Some(0.0), Some(f64::from(u16::MAX))),
        Some("uint32") => (Some(0.0), Some(f64::from(u32::MAX))),
        Some("int32") => (Some(f64::from(i32::MIN)), Some(f64::from(i32::MAX))),
        Some("uint64" | "uint") => (Some(0.0), None),
        Some("int64" | "int") => (None, Some(i64::MAX as f64)),
        _ => (None, None),
    };
    (of("minimum").or(format_min), of("maximum").or(format_max))
}

/// True where `text` matches; a pattern that the regex engine does not know matches everything (serde still checks).
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    regex::Regex::new(pattern).map_or(true, |regex| regex.is_match(text))
}
