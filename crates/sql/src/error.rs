//! What is wrong with a piece of SQL, and where in its text.

use std::fmt;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, Tokenizer};

use crate::dialect::MillstreamDialect;

/// The most names that a message lists.
const LISTED_MAX: usize = 12;

/// SQL that can't be used, with the place in its text where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError {
    /// What is wrong, for the person who wrote the SQL.
    pub message: String,
    /// What to write instead, where that can be guessed.
    pub help: Option<String>,
    /// Line in the SQL text, from 1.
    pub line: Option<u32>,
    /// Column in that line, from 1, in characters.
    pub column: Option<u32>,
}

impl SqlError {
    /// An error without a place.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, line: None, column: None }
    }

    /// An error at the first token of `sql` that reads `word`, whatever its case.
    pub(crate) fn at(sql: &str, word: &str, message: impl Into<String>) -> Self {
        Self::new(message).placed(locate(sql, word))
    }

    /// The same at a line and column.
    pub(crate) fn placed(self, place: Option<(u32, u32)>) -> Self {
        Self { line: place.map(|p| p.0), column: place.map(|p| p.1), ..self }
    }

    /// The same with what to write instead.
    pub(crate) fn with_help(self, help: Option<String>) -> Self {
        Self { help, ..self }
    }

    /// An error where `span` begins.
    pub(crate) fn in_span(span: Span, message: impl Into<String>) -> Self {
        let (line, column) = (span.start.line as u32, span.start.column as u32);
        Self::new(message).placed(Some((line, column)))
    }

    /// What DataFusion says about `sql`, in words that fit a pipeline file.
    pub(crate) fn from_datafusion(sql: &str, error: &DataFusionError) -> Self {
        let said = match root(error) {
            DataFusionError::SQL(parser, _) => return from_parser(sql, parser),
            DataFusionError::SchemaError(schema, _) => {
                let (said, word) = about_schema(schema);
                said.placed(locate(sql, &word))
            }
            other => {
                let message = plain_message(other);
                if let Some((_, name)) = message.split_once("Invalid qualifier ") {
                    let name = name.trim();
                    let message = format!(
                        "`{name}.*`: there is no relation `{name}` in FROM; of a struct, take each field: {name}.label"
                    );
                    return Self::at(sql, name, message);
                }
                let unnest = if message.contains(UNNEST_RAW) { locate(sql, "unnest") } else { None };
                Self::new(explain(message)).placed(unnest)
            }
        };
        match error.diagnostic().and_then(|d| d.span) {
            Some(span) => said.placed(Some((span.start.line as u32, span.start.column as u32))),
            None => said,
        }
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "line {line}, column {column}: ")?;
        }
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

impl std::error::Error for SqlError {}

impl From<SqlError> for millstream_core::Error {
    fn from(e: SqlError) -> Self {
        Self::config(e.to_string())
    }
}

/// "did you mean `x`?", where `known` has something like `name`.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let lower = name.to_lowercase();
    let score = |k: &str| strsim::jaro_winkler(&lower, &k.to_lowercase());
    let best = known.into_iter().map(|k| (score(k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((score, nearest)) if score > 0.75 => Some(format!("did you mean `{nearest}`?")),
        _ => None,
    }
}

/// `message` about a name that is not there, and what is: as help behind a name that is alike, else in the message.
pub(crate) fn not_there<'a>(message: String, name: &str, known: impl Iterator<Item = &'a str> + Clone) -> SqlError {
    let nearest = did_you_mean(name, known.clone());
    let listed: Vec<&str> = known.clone().take(LISTED_MAX).collect();
    let more = if known.count() > LISTED_MAX { ", …" } else { "" };
    let list = if listed.is_empty() { String::new() } else { format!(" (there are: {}{more})", listed.join(", ")) };
    match nearest {
        Some(nearest) => SqlError::new(message).with_help(Some(nearest + &list)),
        None => SqlError::new(message + &list),
    }
}

/// The message of an error that a record causes: the same for all that fail alike, so without the record's own value.
pub(crate) fn row_message(error: &DataFusionError) -> String {
    shortened(crate::plain::without_value(&plain_message(root(error))).unwrap_or_else(|| run_time_message(error)))
}

/// The message of an error at run time, without DataFusion's own words around it, at most about 300 bytes long.
pub(crate) fn run_time_message(error: &DataFusionError) -> String {
    shortened(explain(plain_message(root(error))))
}

fn shortened(mut message: String) -> String {
    if message.len() > 300 {
        let end = (0..=300).rev().find(|&i| message.is_char_boundary(i)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The innermost DataFusion error.
pub(crate) fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        DataFusionError::Collection(all) => all.first().map_or(error, root),
        DataFusionError::External(inner) => inner.downcast_ref::<DataFusionError>().map_or(error, root),
        DataFusionError::ArrowError(inner, _) => match &**inner {
            ArrowError::ExternalError(e) => e.downcast_ref::<DataFusionError>().map_or(error, root),
            _ => error,
        },
        other => other,
    }
}

/// Where the first token that reads `word` stands: line and column, from 1.
pub(crate) fn locate(sql: &str, word: &str) -> Option<(u32, u32)> {
    let tokens = Tokenizer::new(&MillstreamDialect, sql).tokenize_with_location().ok()?;
    tokens.iter().find_map(|t| match &t.token {
        Token::Word(w) if w.value.eq_ignore_ascii_case(word) => {
            Some((t.span.start.line as u32, t.span.start.column as u32))
        }
        _ => None,
    })
}

fn from_parser(sql: &str, error: &ParserError) -> SqlError {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.as_str(),
        ParserError::RecursionLimitExceeded => return SqlError::new("the SQL is nested too deeply"),
    };
    let (message, place) = split_place(text);
    let message = match message.trim_end() {
        comma if comma.ends_with("found: ,") => comma,
        other => other.trim_end_matches(','),
    };
    if let Some((word, what)) = STATEFUL.iter().find(|(word, _)| message.to_uppercase().ends_with(word)) {
        return SqlError::at(sql, word, format!("{what} keeps state across records: not supported"));
    }
    // What is missing is missing at the end.
    let place = place.or_else(|| message.ends_with("EOF").then(|| end_of(sql)));
    SqlError::new(message).placed(place)
}

/// Clauses of other dialects that the parser does not know, as it names them, and what they are.
const STATEFUL: &[(&str, &str)] = &[
    ("MATCH_RECOGNIZE", "MATCH_RECOGNIZE"),
    ("SYSTEM_TIME", "FOR SYSTEM_TIME AS OF reads a table as it was, which is no stream and"),
];

/// The place behind the last character.
fn end_of(sql: &str) -> (u32, u32) {
    let sql = sql.trim_end();
    let last = sql.rsplit('\n').next().unwrap_or(sql);
    (sql.matches('\n').count() as u32 + 1, last.chars().count() as u32 + 1)
}

/// Splits `… at Line: 1, Column: 8` off a parser's message.
fn split_place(text: &str) -> (&str, Option<(u32, u32)>) {
    let Some((message, place)) = text.rsplit_once(" at Line: ") else { return (text, None) };
    let Some((line, column)) = place.split_once(", Column: ") else { return (text, None) };
    match (line.trim().parse(), column.trim().parse()) {
        (Ok(line), Ok(column)) => (message, Some((line, column))),
        _ => (text, None),
    }
}

/// What is wrong with a name, and the name.
fn about_schema(error: &SchemaError) -> (SqlError, String) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names = valid_fields.iter().map(|column| column.name.as_str());
            let name = field.flat_name().replace('"', "");
            (not_there(format!("no column `{name}`"), &field.name, names), field.name.clone())
        }
        SchemaError::AmbiguousReference { field } => {
            let name = field.name.clone();
            let message = format!("`{name}` could be a column of more than one table: write the table in front of it");
            (SqlError::new(message), name)
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            let message = format!("two columns are called `{name}`: give one another name with AS");
            (SqlError::new(message), name.clone())
        }
    }
}

fn plain_message(error: &DataFusionError) -> String {
    match error {
        DataFusionError::ArrowError(inner, _) => inner.to_string(),
        // `message()` would ask for a bug report elsewhere.
        DataFusionError::Internal(text) => text.clone(),
        other => other.message().into_owned(),
    }
}

/// What DataFusion says about an UNNEST where it has no place.
const UNNEST_RAW: &str = "Unnest should be rewritten";

/// One line, and a hint where the message is one that people can't read.
fn explain(message: String) -> String {
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = crate::plain::plain(&message);
    if message.contains("Union(") {
        return "`->` gives JSON, which can't be used here: take text with `->>`, or a value with json_get_str, \
                json_get_int, json_get_float or json_get_bool"
            .to_owned();
    }
    if message.contains(UNNEST_RAW) {
        return "UNNEST is a column, not a condition: filter around it (SELECT … FROM (SELECT …, UNNEST(tags) AS tag \
                FROM …) WHERE tag = …), or use array_has(tags, …)"
            .to_owned();
    }
    if message.contains("require unique expression names") {
        return format!("two output columns have the same name: give one another name with AS ({message})");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_word_is_found_outside_of_strings_and_comments() {
        assert_eq!(locate("SELECT 'now' -- now\n, now()", "NOW"), Some((2, 3)));
        assert_eq!(locate("SELECT 1", "now"), None);
    }

    #[test]
    fn the_parsers_place_leaves_its_message() {
        let (message, place) = split_place("Expected: end of statement, found: x at Line: 2, Column: 14");
        assert_eq!((message, place), ("Expected: end of statement, found: x", Some((2, 14))));
    }
}
