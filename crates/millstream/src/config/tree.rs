//! A YAML document as a small tree that remembers where everything stands.
//!
//! Stricter than YAML: one document, keys are plain text and appear once, no tags, no merge keys. Anchors and aliases
//! work; an alias is a copy. Limits: [`DEPTH_MAX`] levels, [`NODES_MAX`] nodes (copies included).

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::{Number, Value};

use crate::config::traps;

/// Levels of nesting.
const DEPTH_MAX: usize = 64;
/// Nodes in a document, aliases expanded.
const NODES_MAX: usize = 100_000;

/// A place in the file: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Where something stands: its first character, and the bytes it covers in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The first character.
    pub at: Position,
    /// The bytes, quotes included; for lists and maps only where they begin.
    pub bytes: std::ops::Range<usize>,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub content: Content,
    /// Its place. For an alias: that of the alias.
    pub place: Place,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub enum Content {
    /// Text, a number, `true`, `false` or null.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file.
    Map(Vec<Entry>),
}

/// A scalar.
#[derive(Debug, Clone)]
pub struct Scalar {
    /// The value: null, bool, number or text.
    pub value: Value,
    /// The text in the file, escapes and folding undone, variables not yet replaced. The only form for messages.
    pub typed: String,
    /// How it is written.
    pub style: Style,
    /// The text after variables were replaced, and where the pieces come from; none where there was no variable.
    pub interpolated: Option<Interpolated>,
}

/// The text that a scalar became when its variables were replaced.
#[derive(Debug, Clone)]
pub struct Interpolated {
    /// The whole text.
    pub text: String,
    /// The pieces that `text` was put together from, in order.
    pub pieces: Vec<Piece>,
    /// The values of the secrets that are in it.
    pub secrets: Vec<String>,
    /// True where a secret in it is not known.
    pub is_unknown: bool,
}

/// A part of an interpolated text, in characters.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Its length in the final text.
    pub text_len: usize,
    /// Its length as typed.
    pub typed_len: usize,
    /// True where both are the same text.
    pub copied: bool,
}

/// How a scalar is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Without quotes.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// After `|` or `>`.
    Block,
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// The value.
    pub value: Node,
}

/// What is wrong with the YAML itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeError {
    /// Where.
    pub place: Place,
    /// What.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// Reads `text` as one YAML document. With errors that leave a usable tree (a repeated key) there are both.
pub fn parse(text: &str) -> (Option<Node>, Vec<TreeError>) {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        text,
        lines: LineIndex::new(text),
        anchors: HashMap::new(),
        errors: Vec::new(),
        nodes: 0,
    };
    match builder.document() {
        Ok(root) => (root, builder.errors),
        Err(error) => {
            builder.errors.push(*error);
            (None, builder.errors)
        }
    }
}

impl Node {
    /// The value of `key`, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    /// The entry of `key`, where this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries().iter().find(|e| e.key == key)
    }

    /// The entries of a map; none for anything else.
    pub fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; this node itself where it is no list (`from: a` for `from: [a]`).
    pub fn items(&self) -> &[Node] {
        match &self.content {
            Content::List(items) => items,
            _ => std::slice::from_ref(self),
        }
    }

    /// The node at a path such as `urls[1]` or `backoff.max`, as far as it leads.
    pub fn at_path(&self, path: &str) -> &Node {
        let mut node = self;
        for step in path.split('.') {
            let (key, index) = match step.split_once('[') {
                Some((key, rest)) => (key, rest.trim_end_matches(']').parse::<usize>().ok()),
                None => (step, None),
            };
            let Some(next) = node.get(key) else { return node };
            node = next;
            let Some(index) = index else { continue };
            match &node.content {
                Content::List(items) if index < items.len() => node = &items[index],
                _ => return node,
            }
        }
        node
    }

    /// The text of a text scalar, variables replaced.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar(Scalar { value: Value::String(text), .. }) => Some(text),
            _ => None,
        }
    }

    /// A scalar as it stands in the file (variables not replaced), on one line, shortened.
    pub fn typed(&self) -> String {
        let Content::Scalar(scalar) = &self.content else { return String::new() };
        let line = scalar.typed.trim_end().replace(char::is_control, " ");
        match line.char_indices().nth(60) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// True for null and for `key:` with nothing behind it.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar(Scalar { value: Value::Null, .. }))
    }

    /// The value without its places.
    pub fn to_json(&self) -> Value {
        match &self.content {
            Content::Scalar(scalar) => scalar.value.clone(),
            Content::List(items) => items.iter().map(Node::to_json).collect(),
            Content::Map(entries) => entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect(),
        }
    }

    /// Calls `visit` for every scalar.
    pub fn each_scalar(&mut self, visit: &mut dyn FnMut(&mut Scalar, &Place)) {
        match &mut self.content {
            Content::Scalar(scalar) => visit(scalar, &self.place),
            Content::List(items) => items.iter_mut().for_each(|n| n.each_scalar(visit)),
            Content::Map(entries) => entries.iter_mut().for_each(|e| e.value.each_scalar(visit)),
        }
    }

    /// The byte behind the last scalar in it.
    pub fn end(&self) -> usize {
        let below = match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Node::end).max().unwrap_or(0),
            Content::Map(entries) => entries.iter().map(|e| e.value.end().max(e.place.bytes.end)).max().unwrap_or(0),
        };
        below.max(self.place.bytes.end)
    }

    fn size(&self) -> usize {
        1 + match &self.content {
            Content::Scalar(_) => 0,
            Content::List(items) => items.iter().map(Node::size).sum(),
            Content::Map(entries) => entries.iter().map(|e| e.value.size()).sum(),
        }
    }
}

/// The value of a plain scalar, by the core schema of YAML 1.2: `yes` and `0123` are not what they were in YAML 1.1.
pub fn plain_value(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i64::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with(['+', '-'])).map(Number::from);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let starts_well = unsigned.starts_with(|c: char| c.is_ascii_digit())
        || unsigned.strip_prefix('.').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    if !starts_well || !unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    if unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let text = text.strip_prefix('+').unwrap_or(text);
        if let Ok(value) = text.parse::<i64>() {
            return Some(value.into());
        }
        if let Ok(value) = text.parse::<u64>() {
            return Some(value.into());
        }
    }
    text.parse().ok().and_then(Number::from_f64)
}

struct Builder<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    text: &'t str,
    lines: LineIndex<'t>,
    anchors: HashMap<usize, Node>,
    errors: Vec<TreeError>,
    nodes: usize,
}

type Step<T> = Result<T, Box<TreeError>>;

impl<'t> Builder<'t> {
    fn document(&mut self) -> Step<Option<Node>> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err(self.error(
                        span,
                        "a second document begins here",
                        Some("a pipeline file is one document: remove the `---`"),
                    ));
                }
                Event::DocumentStart(_) => {
                    let (event, span) = self.next()?;
                    root = Some(self.node(event, span, 0)?);
                }
                _ => return Err(self.error(span, "unexpected YAML", None)),
            }
        }
    }

    fn next(&mut self) -> Step<(Event<'t>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Box::new(self.scan_error(&error))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Step<Node> {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX {
            return Err(self.error(span, "the file is nested too deeply or too large", None));
        }
        let place = self.place(span);
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (Content::Scalar(scalar(&text, style)), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (Content::List(self.list(depth)?), anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span)?;
                (Content::Map(self.map(depth)?), anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(span, "this alias stands inside of what it refers to", None));
                };
                self.nodes += node.size();
                return Ok(Node { content: node.content, place });
            }
            _ => return Err(self.error(span, "unexpected YAML", None)),
        };
        let node = Node { content, place };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Step<Vec<Node>> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Step<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (key, place) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                (Event::Scalar(key, style, _, tag), span) => {
                    self.refuse_tag(tag.is_some(), span)?;
                    if key == "<<" && style == ScalarStyle::Plain {
                        let help = "write the keys out, or use an alias for the whole map (`schema: *wire`)";
                        return Err(self.error(span, "merge keys (`<<`) are not supported", Some(help)));
                    }
                    (key.into_owned(), self.place(span))
                }
                (_, span) => return Err(self.error(span, "a key must be plain text", None)),
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth + 1)?;
            if let Some(first) = entries.iter().find(|e| e.key == key) {
                self.errors.push(TreeError {
                    message: format!("the key `{key}` appears twice"),
                    help: Some(format!("the first one is in line {}", first.place.at.line)),
                    place,
                });
                continue;
            }
            entries.push(Entry { key, place, value });
        }
    }

    fn refuse_tag(&self, tagged: bool, span: Span) -> Step<()> {
        if tagged { Err(self.error(span, "YAML tags (`!…`) are not supported", None)) } else { Ok(()) }
    }

    fn place(&self, span: Span) -> Place {
        self.lines.place(span.start.line(), span.start.col(), span.end.line(), span.end.col())
    }

    fn error(&self, span: Span, message: &str, help: Option<&str>) -> Box<TreeError> {
        Box::new(TreeError { place: self.place(span), message: message.to_owned(), help: help.map(str::to_owned) })
    }

    fn scan_error(&self, error: &ScanError) -> TreeError {
        let (line, column) = (error.marker().line(), error.marker().col());
        let place = self.lines.place(line, column, line, column + 1);
        let typed = self.lines.line(place.at.line);
        if let Some((place, message, help)) = traps::explain_stop(self.text, place.at.line) {
            return TreeError { place, message, help: Some(help.to_owned()) };
        }
        let help = if typed.contains("]?") {
            Some("for an optional list write the `?` behind the name: `tags?: [string]`")
        } else if typed.contains("${") && typed.contains(['{', '[']) {
            Some("between braces or brackets put a variable in quotes: \"${NAME}\"")
        } else if typed.contains(": *") || typed.contains(": @") || typed.contains(": `") || typed.contains(": %") {
            Some("put the value in quotes")
        } else {
            None
        };
        TreeError { place, message: format!("this is no valid YAML: {}", error.info()), help: help.map(str::to_owned) }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Scalar {
    let style = match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    };
    let value = match style {
        Style::Plain => plain_value(text),
        _ => Value::String(text.to_owned()),
    };
    Scalar { value, typed: text.to_owned(), style, interpolated: None }
}

/// Finds lines in a text.
#[derive(Debug)]
pub struct LineIndex<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> LineIndex<'t> {
    /// Looks for the lines of `text`.
    pub fn new(text: &'t str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { text, starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Line `line` (from 1) without its end; empty where there is none.
    pub fn line(&self, line: usize) -> &'t str {
        let Some(&start) = line.checked_sub(1).and_then(|i| self.starts.get(i)) else { return "" };
        let end = self.starts.get(line).copied().unwrap_or(self.text.len());
        self.text[start..end].trim_end_matches(['\n', '\r'])
    }

    /// The byte at which line `line` (from 1) begins.
    pub fn line_start(&self, line: usize) -> usize {
        line.checked_sub(1).and_then(|i| self.starts.get(i)).copied().unwrap_or(self.text.len())
    }

    /// The position of a byte.
    pub fn position(&self, byte: usize) -> Position {
        let line = self.starts.partition_point(|&start| start <= byte).max(1);
        let start = self.starts[line - 1];
        Position { line, column: self.text[start..byte.clamp(start, self.text.len())].chars().count() + 1 }
    }

    /// The parser counts lines from 1 and columns from 0, in characters.
    fn place(&self, line: usize, column: usize, end_line: usize, end_column: usize) -> Place {
        let line = line.clamp(1, self.starts.len());
        let start = self.byte(line, column);
        let end = self.byte(end_line.clamp(1, self.starts.len()), end_column);
        Place { at: Position { line, column: column + 1 }, bytes: start..end.max(start) }
    }

    fn byte(&self, line: usize, column: usize) -> usize {
        let text = self.line(line);
        self.line_start(line) + text.char_indices().nth(column).map_or(text.len(), |(i, _)| i)
    }
}
