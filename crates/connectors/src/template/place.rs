//! What a record's value must not do in the place that a template's text goes to.
//!
//! | place | escaped | refused |
//! |---|---|---|
//! | line of a file | nothing | line breaks |
//! | text, line of a terminal | on a terminal, what it obeys, and line breaks | nothing |
//! | URL | all but unreserved characters | a part of the path that is empty, or that is a step (`.`, `..`) however often it is decoded; control characters and `\\` in the path |
//! | routing key | nothing | control characters; more than 255 bytes; beside other text a `.`, which begins another word, and an empty word |
//! | header of a message | nothing | NUL |
//! | header of HTTP | nothing | control characters, and what is not ASCII |
//! | file name | nothing | `/`, `\\`, control and invisible characters, what Windows reserves, a name that is empty, hidden, `.` or `..`, or longer than 255 bytes |
//!
//! The template's own text is the user's, and may do all of that.

use std::borrow::Cow;
use std::ops::Range;

use millstream_core::terminal::{escape_line, is_unsafe};

/// Where the text of a template goes, and so what a record's value must not do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Anything.
    Text,
    /// A line of a file or a body, which is one record there.
    Line,
    /// A line that a terminal shows: values are shown, never obeyed, and none begins another line.
    TerminalLine,
    /// A URL. Values are percent-encoded, and none changes the depth of the path.
    Url,
    /// A routing key of AMQP, whose words are told apart by dots. A value that is the whole key may be of several
    /// words.
    RoutingKey,
    /// The value of a message's header, which has a length in front of it: AMQP, Kafka.
    MessageHeader,
    /// The value of a header of HTTP, which ends with its line.
    HttpHeader,
    /// The name of a file, or of a folder and a file, told apart by `/` in the template.
    FileName,
}

/// AMQP's limit for names and routing keys, in bytes.
pub const SHORT_STRING_MAX: usize = 255;

/// The longest name that common file systems take, in bytes.
const FILE_NAME_MAX: usize = 255;

impl Place {
    /// A value as it is written here.
    pub(super) fn escape(self, value: &str) -> Cow<'_, str> {
        match self {
            Self::Url => percent_encoded(value).into(),
            Self::TerminalLine => escape_line(value),
            Self::Text | Self::Line | Self::RoutingKey | Self::MessageHeader | Self::HttpHeader | Self::FileName => {
                value.into()
            }
        }
    }
}

/// A template being filled in.
pub(super) struct Filled {
    place: Place,
    /// The value is the whole text.
    alone: bool,
    text: String,
    /// Where values stand in `text`.
    values: Vec<Range<usize>>,
    /// The first thing that is wrong with a value.
    wrong: Option<String>,
}

impl Filled {
    pub(super) fn new(place: Place, parts: usize) -> Self {
        Self { place, alone: parts == 1, text: String::new(), values: Vec::new(), wrong: None }
    }

    /// Appends text of the template.
    pub(super) fn push_text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Appends a value of the row.
    pub(super) fn push_value(&mut self, value: &str) {
        let start = self.text.len();
        let reason = match self.place {
            Place::Text | Place::TerminalLine => None,
            Place::Line => value.contains(['\n', '\r']).then_some("has a line break, which would begin another record"),
            Place::Url if is_in_path(&self.text) => in_path(value),
            Place::Url => None,
            Place::RoutingKey if !self.alone && value.contains('.') => Some("has a `.`, which begins another word"),
            Place::RoutingKey => value.contains(char::is_control).then_some(CONTROL),
            Place::MessageHeader => value.contains('\0').then_some("has a NUL"),
            Place::HttpHeader if !value.is_ascii() => Some("is not ASCII, as a header must be"),
            Place::HttpHeader => value.contains(char::is_control).then_some(CONTROL),
            Place::FileName => in_name(value),
        };
        self.text.push_str(&self.place.escape(value));
        self.values.push(start..self.text.len());
        if let (Some(reason), None) = (reason, &self.wrong) {
            self.wrong = Some(format!("can't be made with this row's values: one {reason}"));
        }
    }

    /// The text.
    ///
    /// # Errors
    /// It can't go to its place.
    pub(super) fn finish(self) -> Result<String, String> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        match self.place {
            Place::Text | Place::Line | Place::TerminalLine | Place::MessageHeader | Place::HttpHeader => {}
            Place::Url => check_path(&self.text, &self.values)?,
            Place::RoutingKey => {
                if self.text.len() > SHORT_STRING_MAX {
                    return Err(format!("is longer than the {SHORT_STRING_MAX} bytes that AMQP allows"));
                }
                if !self.alone && self.parts(0..self.text.len(), '.').any(|word| word.is_empty()) {
                    return Err("has an empty word with this row's values".into());
                }
            }
            Place::FileName => {
                if let Some(reason) = self.parts(0..self.text.len(), '/').find_map(of_name) {
                    return Err(format!("{reason} with this row's values"));
                }
            }
        }
        Ok(self.text)
    }

    /// The parts between `separator` that hold a value.
    fn parts(&self, within: Range<usize>, separator: char) -> impl Iterator<Item = &str> {
        parts(&self.text, within, separator)
            .filter(|part| self.values.iter().any(|value| part.start <= value.start && value.end <= part.end))
            .map(|part| &self.text[part])
    }
}

const CONTROL: &str = "has a control character";

/// Why a value can't be in a path.
fn in_path(value: &str) -> Option<&'static str> {
    // A server, or one before it, may decode more than once, and take what comes out for a part of the path.
    let mut decoded = Cow::Borrowed(value.as_bytes());
    loop {
        if decoded.iter().any(u8::is_ascii_control) {
            return Some(CONTROL);
        }
        if decoded.contains(&b'\\') {
            return Some("has a `\\`, which some servers take for a `/`");
        }
        // What follows a `;` is a parameter of the part.
        let is_step = |part: &[u8]| matches!(part.split(|b| *b == b';').next(), Some(b"." | b".."));
        if decoded.contains(&b'/') && decoded.split(|b| *b == b'/').any(is_step) {
            return Some("has `.` or `..` as a part of a path");
        }
        match percent_decoded(&decoded) {
            Some(next) => decoded = Cow::Owned(next),
            None => return None,
        }
    }
}

/// Why a value can't be in the name of a file.
fn in_name(value: &str) -> Option<&'static str> {
    if value.contains(['/', '\\']) {
        return Some("has a `/` or `\\`");
    }
    if value.contains(|c| char::is_control(c) || is_unsafe(c)) {
        return Some("has a control or invisible character");
    }
    value.contains(['<', '>', ':', '"', '|', '?', '*']).then_some("has one of `<>:\"|?*`, which Windows reserves")
}

/// Why a name of a file can't be one, as a whole.
fn of_name(name: &str) -> Option<String> {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = |kind: &str| {
        stem.strip_prefix(kind).is_some_and(|n| n.chars().count() == 1 && n.contains(|c: char| c.is_numeric()))
    };
    let is_device = ["CON", "PRN", "AUX", "NUL"].contains(&stem.as_str()) || numbered("COM") || numbered("LPT");
    Some(match name {
        "" => "has an empty name".into(),
        _ if name.starts_with('.') => "has a name that begins with a `.`".into(),
        _ if name.ends_with(['.', ' ']) => "has a name that ends with a `.` or a blank".into(),
        _ if is_device => "has a name that Windows reserves".into(),
        _ if name.len() > FILE_NAME_MAX => format!("has a name of more than {FILE_NAME_MAX} bytes"),
        _ => return None,
    })
}

/// Everything but the unreserved characters of RFC 3986, section 2.3, encoded.
fn percent_encoded(value: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(value.len());
    for &byte in value.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(HEX[(byte >> 4) as usize] as char);
            out.push(HEX[(byte & 15) as usize] as char);
        }
    }
    out
}

/// The bytes with `%2e` and the like decoded; none where there are none.
fn percent_decoded(bytes: &[u8]) -> Option<Vec<u8>> {
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    (out.len() < bytes.len()).then_some(out)
}

/// True where what follows `begun` is in the path of a URL.
fn is_in_path(begun: &str) -> bool {
    let rest = begun.split_once("://").map_or(begun, |(_, rest)| rest);
    rest.contains('/') && !rest.contains(['?', '#'])
}

/// Refuses a URL whose path another depth has than the template's: `values` are the places of the values in it.
/// Dots may be written `%2e` (<https://url.spec.whatwg.org/#double-dot-path-segment>).
fn check_path(url: &str, values: &[Range<usize>]) -> Result<(), String> {
    let host = url.find("://").map_or(0, |at| at + 3);
    let path = url[host..].find('/').map_or(url.len(), |at| host + at + 1);
    let end = url[host..].find(['?', '#']).map_or(url.len(), |at| host + at);
    for part in parts(url, path..end, '/') {
        let text = percent_decoded(url[part.clone()].as_bytes());
        let text = text.as_deref().unwrap_or_else(|| url[part.clone()].as_bytes());
        let named = match text {
            b"" => "is empty",
            b"." | b".." => "is `.` or `..`",
            _ => continue,
        };
        if values.iter().any(|value| part.start <= value.start && value.end <= part.end) {
            return Err(format!("has a part of its path that {named} with this row's values"));
        }
    }
    Ok(())
}

/// The parts of `text` in `within`, told apart by `separator`.
fn parts(text: &str, within: Range<usize>, separator: char) -> impl Iterator<Item = Range<usize>> {
    let mut next = (within.start <= within.end).then_some(within.start);
    std::iter::from_fn(move || {
        let start = next?;
        let end = text[start..within.end].find(separator).map_or(within.end, |at| start + at);
        next = (end < within.end).then_some(end + 1);
        Some(start..end)
    })
}

#[cfg(test)]
mod tests;
