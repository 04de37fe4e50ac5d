//! `${NAME}`, `${NAME:-default}`, `${secret:NAME}` and `$$` in scalars.
//!
//! Variables are replaced after the YAML was parsed, so that no value can add keys or change the structure. A plain
//! scalar that is nothing but one variable gets its type from the value (`partitions: ${N}` may be a number). A `$`
//! before anything but `{` or `$` stands for itself.

use crate::config::tree::{
    Interpolated, LineIndex, Node, Piece, Place, Position, Scalar, Style, TreeError, plain_value,
};
use serde_json::Value;

use crate::config::secrets::UNKNOWN;

/// What a value refers to as `${secret:NAME}`.
pub enum Found {
    /// The secret.
    Secret(String),
    /// It is not asked for now, or it was said already why it can't be had.
    Unknown,
    /// There can be none.
    Wrong {
        /// Why.
        message: String,
        /// What to do.
        help: String,
    },
}

/// Looks for a secret by its name.
pub type Find<'a> = dyn Fn(&str) -> Found + 'a;

/// Replaces the variables and secrets in every scalar of `root`, and returns what is wrong with them.
pub fn interpolate(
    root: &mut Node,
    source: &str,
    env: &dyn Fn(&str) -> Option<String>,
    secret: &Find<'_>,
) -> Vec<TreeError> {
    let mut errors = Vec::new();
    let lines = LineIndex::new(source);
    root.each_scalar(&mut |scalar, place| {
        if !matches!(&scalar.value, Value::String(text) if text.contains('$')) {
            return;
        }
        match replace(&scalar.typed, env, secret) {
            Ok(None) => {}
            Ok(Some(result)) => {
                let only_variable =
                    scalar.style == Style::Plain && result.pieces.len() == 1 && scalar.typed.starts_with("${");
                scalar.value = match only_variable {
                    true => plain_value(&result.text),
                    false => Value::String(result.text.clone()),
                };
                scalar.interpolated = Some(result);
            }
            Err(wrong) => {
                let byte = typed_byte(scalar, place, source, wrong.index);
                let place = Place { at: lines.position(byte), bytes: byte..byte + wrong.length };
                errors.push(TreeError { place, message: wrong.message, help: Some(wrong.help) });
            }
        }
    });
    errors
}

/// Where character `index` (from 0) of a scalar's final text stands in the file: through the variables, then through
/// quotes, escapes, folding and indentation.
pub fn position_in(scalar: &Scalar, place: &Place, source: &str, index: usize) -> Position {
    let mut typed_index = index;
    if let Some(interpolated) = &scalar.interpolated {
        let (mut text_start, mut typed_start) = (0, 0);
        for piece in &interpolated.pieces {
            if index < text_start + piece.text_len {
                typed_index = typed_start + if piece.copied { index - text_start } else { 0 };
                break;
            }
            text_start += piece.text_len;
            typed_start += piece.typed_len;
            typed_index = typed_start + index - text_start;
        }
    }
    LineIndex::new(source).position(typed_byte(scalar, place, source, typed_index))
}

/// The byte of the file at which character `index` of the typed text stands.
fn typed_byte(scalar: &Scalar, place: &Place, source: &str, index: usize) -> usize {
    let bytes = place.bytes.clone();
    let written = &source[bytes.clone()];
    let mut rest = written.char_indices().peekable();
    if scalar.style == Style::Quoted {
        rest.next();
    }
    for (i, wanted) in scalar.typed.chars().enumerate() {
        // The written text may have more white space (indentation, folded lines), escapes and doubled quotes.
        while rest.peek().is_some_and(|&(_, c)| c != wanted && c.is_whitespace()) {
            rest.next();
        }
        if i == index {
            break;
        }
        match rest.next() {
            Some((_, '\\')) if scalar.style == Style::Quoted && wanted != '\\' => skip_escape(&mut rest),
            Some((_, '\\')) if scalar.style == Style::Quoted && written.starts_with('"') => {
                rest.next();
            }
            Some((_, '\'')) if scalar.style == Style::Quoted && written.starts_with('\'') => {
                rest.next();
            }
            Some(_) => {}
            None => break,
        }
        // A folded line break: one space in the text, line end and indentation in the file.
        if wanted.is_whitespace() && scalar.style != Style::Block {
            while rest.peek().is_some_and(|&(_, c)| matches!(c, '\n' | '\r')) {
                rest.next();
            }
        }
    }
    bytes.start + rest.peek().map_or(written.len(), |&(i, _)| i)
}

fn skip_escape(rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>) {
    let digits = match rest.next() {
        Some((_, 'x')) => 2,
        Some((_, 'u')) => 4,
        Some((_, 'U')) => 8,
        _ => 0,
    };
    for _ in 0..digits {
        rest.next();
    }
}

struct Wrong {
    /// Character of the typed text.
    index: usize,
    /// Bytes to point at.
    length: usize,
    message: String,
    help: String,
}

fn replace(
    typed: &str,
    env: &dyn Fn(&str) -> Option<String>,
    secret: &Find<'_>,
) -> Result<Option<Interpolated>, Wrong> {
    let mut result = Interpolated { text: String::new(), pieces: Vec::new(), secrets: Vec::new(), is_unknown: false };
    let mut rest = typed;
    let mut replaced = false;
    let add = |result: &mut Interpolated, text: &str, typed: &str| {
        result.text.push_str(text);
        let (text_len, typed_len) = (text.chars().count(), typed.chars().count());
        result.pieces.push(Piece { text_len, typed_len, copied: text == typed });
    };
    while let Some(dollar) = rest.find('$') {
        if dollar > 0 {
            add(&mut result, &rest[..dollar], &rest[..dollar]);
        }
        rest = &rest[dollar..];
        if rest.starts_with("$$") {
            add(&mut result, "$", "$$");
            replaced = true;
            rest = &rest[2..];
            continue;
        }
        let Some(inside) = rest.strip_prefix("${") else {
            add(&mut result, "$", "$");
            rest = &rest[1..];
            continue;
        };
        let index = typed[..typed.len() - rest.len()].chars().count();
        let wrong = |length: usize, message: String, help: String| Wrong { index, length, message, help };
        let Some(end) = inside.find('}') else {
            return Err(wrong(2, "`${` without `}`".into(), "write `$$` for a dollar sign".into()));
        };
        let written = &rest[..end + 3];
        if let Some(name) = inside[..end].strip_prefix("secret:") {
            let value = match secret(name) {
                Found::Secret(value) => {
                    result.secrets.push(value.clone());
                    value
                }
                Found::Unknown => {
                    result.is_unknown = true;
                    UNKNOWN.to_owned()
                }
                Found::Wrong { message, help } => return Err(wrong(written.len(), message, help)),
            };
            add(&mut result, &value, written);
            replaced = true;
            rest = &rest[written.len()..];
            continue;
        }
        let (name, default) = match inside[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inside[..end], None),
        };
        if !is_name(name) {
            let help = "write `${NAME}` or `${NAME:-default}`, and `$${` for the text `${`";
            return Err(wrong(written.len(), format!("`{name}` is no name of an environment variable"), help.into()));
        }
        // As in a shell, `:-` also replaces a variable that is set, but empty.
        let value = match (env(name).filter(|v| !(v.is_empty() && default.is_some())), default) {
            (Some(value), _) => value,
            (None, Some(default)) => default.to_owned(),
            (None, None) => {
                let help = format!("set it, or give a default: `${{{name}:-value}}`");
                return Err(wrong(written.len(), format!("the environment variable `{name}` is not set"), help));
            }
        };
        add(&mut result, &value, written);
        replaced = true;
        rest = &rest[written.len()..];
    }
    if !rest.is_empty() {
        add(&mut result, rest, rest);
    }
    Ok(replaced.then_some(result))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
