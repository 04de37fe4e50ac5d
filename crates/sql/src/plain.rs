//! DataFusion's and Arrow's messages in plain words.

use crate::words::{type_name, with_article};
use arrow::datatypes::DataType;

/// `message` without the names of error types, the request for a bug report, and Arrow's names of types.
pub(crate) fn plain(message: &str) -> String {
    let mut text = message;
    for end in ["This issue was likely caused by a bug", ". No function matches the given name", "Please help us to"] {
        text = text.split(end).next().unwrap_or(text);
    }
    let mut text = text.trim().trim_end_matches("..");
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim_start();
    }
    about_value(text).map_or_else(
        || crate::culprit::in_our_words(text),
        |(value, problem)| match value {
            Some(value) => format!("{value} {problem}"),
            None => problem,
        },
    )
}

/// What is wrong with a value, without the value; none where the message holds none.
pub(crate) fn without_value(message: &str) -> Option<String> {
    let mut text = message;
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest.trim_start();
    }
    about_value(text).map(|(value, problem)| match value {
        Some(value) if value.starts_with('\'') => format!("a text {problem}"),
        Some(_) => format!("a number {problem}"),
        None => problem,
    })
}

const PREFIXES: &[&str] = &[
    "Internal error: ",
    "Error during planning: ",
    "Execution error: ",
    "Arrow error: ",
    "Compute error: ",
    "Cast error: ",
    "Parser error: ",
    "Invalid argument error: ",
    "type_coercion",
    "External error: ",
];

/// A value, quoted where it is a text, and what is wrong with it.
fn about_value(text: &str) -> Option<(Option<String>, String)> {
    if let Some((value, kind)) =
        text.strip_prefix("Cannot cast string '").and_then(|rest| rest.rsplit_once("' to value of "))
    {
        return Some((
            Some(format!("'{value}'")),
            format!("can't be read as {}", article(kind.trim_end_matches(" type"))),
        ));
    }
    if let Some((value, _)) =
        text.strip_prefix("Error parsing timestamp from '").and_then(|rest| rest.split_once("': "))
    {
        return Some((Some(format!("'{value}'")), "can't be read as a timestamp (2024-05-01T12:30:00Z)".into()));
    }
    if let Some((value, kind)) = text.strip_prefix("Can't cast value ").and_then(|rest| rest.rsplit_once(" to type ")) {
        return Some((Some(value.to_owned()), format!("does not fit into {}", article(kind))));
    }
    if let Some((_, kind)) = text.strip_prefix("Cannot cast to Decimal").and_then(|rest| rest.split_once('(')) {
        let (kind, _) = kind.split_once(')')?;
        return Some((None, format!("out of range: a number does not fit into a decimal({kind})")));
    }
    if text == "Divide by zero error" {
        return Some((None, "division by zero".into()));
    }
    if let Some((_, call)) = text.split_once("verflow on ") {
        let name = call.split('(').next().unwrap_or(call).to_lowercase();
        return Some((None, format!("out of range: the result of {name} is larger than its type can hold")));
    }
    let lower = text.to_lowercase();
    if lower.contains("overflow") && !lower.contains("stack") {
        return Some((None, "out of range: a result is larger than its type can hold".into()));
    }
    None
}

/// Arrow's name of a type, as ours with an article.
fn article(arrow: &str) -> String {
    match arrow.parse::<DataType>() {
        Ok(kind) if type_name(&kind) != "value" => match kind {
            DataType::Int16 => "a smallint".into(),
            DataType::Int8 => "a tinyint".into(),
            kind => with_article(&kind),
        },
        _ => format!("a value of type {arrow}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_in_plain_words_and_those_of_records_hold_no_values() {
        for (said, value, kind) in [
            (
                "Cast error: Cannot cast string 'abc' to value of Int64 type",
                "'abc' can't be read as an int",
                "a text can't be read as an int",
            ),
            (
                "Cast error: Can't cast value 1e300 to type Int64",
                "1e300 does not fit into an int",
                "a number does not fit into an int",
            ),
            ("Arrow error: Divide by zero error", "division by zero", "division by zero"),
            (
                "Compute error: Int64Array overflow on abs(-9223372036854775808)",
                "out of range: the result of abs is larger than its type can hold",
                "out of range: the result of abs is larger than its type can hold",
            ),
        ] {
            assert_eq!((plain(said).as_str(), without_value(said).as_deref()), (value, Some(kind)));
        }
        let bug = "Internal error: Function 'f' can't take Utf8.. This issue was likely caused by a bug in DataFusion's code. Please";
        assert_eq!(plain(bug), "Function 'f' can't take string");
    }
}
