//! What a change event says, whoever wrote it: images of rows, as places in the record, and what became of them.

use std::ops::Range;

use crate::format::columns::{Built, Fault, shorten};
use crate::format::json_parser::Parser;

/// A place in a record.
pub(super) type Span = Range<usize>;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    Insert,
    Update,
    Delete,
}

impl Op {
    /// The value of the column `_op`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// A row of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) op: Op,
    /// The row: after an insert or update, before a delete.
    pub(super) image: Span,
    /// Values that hold instead of those of the image: what an update has changed, as it was.
    pub(super) instead: Option<Span>,
}

impl Change {
    pub(super) fn new(op: Op, image: Span) -> Self {
        Self { op, image, instead: None }
    }
}

/// What an event holds.
#[derive(Debug, Default)]
pub(super) struct Event {
    /// Of which table: database, schema and table, as far as the event says so.
    pub(super) table: Vec<String>,
    /// Why it can't be read, where it is an event of the table that is wanted.
    pub(super) refused: Option<Fault>,
    /// Its rows; none where it is no event of a row.
    pub(super) changes: Vec<Change>,
    /// The types of its columns, where it brings them.
    pub(super) schema: Option<Span>,
}

impl Event {
    /// True where the event is of `wanted`: the table's name, with those of its schema and database in front or
    /// without.
    pub(super) fn is_of(&self, wanted: &str) -> bool {
        let full = self.table.join(".");
        full.strip_suffix(wanted).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    }
}

/// A record that is looked into.
pub(super) struct Record<'a> {
    bytes: &'a [u8],
    scratch: Vec<u8>,
    found: Vec<(usize, Span)>,
}

impl<'a> Record<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, scratch: Vec::new(), found: Vec::new() }
    }

    /// All of it: one JSON value, with nothing behind it.
    pub(super) fn whole(&mut self) -> Built<Span> {
        let mut parser = Parser::new(self.bytes, true, &mut self.scratch);
        parser.skip_spaces();
        let start = parser.at();
        if start == self.bytes.len() {
            return Ok(start..start);
        }
        parser.skip(1)?;
        let end = parser.at();
        parser.end()?;
        Ok(start..end)
    }

    /// True where there is nothing: no byte, or `null`.
    pub(super) fn is_nothing(&self, span: &Span) -> bool {
        matches!(&self.bytes[span.clone()], b"" | b"null")
    }

    /// Where the values of these members of an object lie; none where there is no such member, or it is null.
    pub(super) fn members<const N: usize>(&mut self, object: &Span, names: [&str; N]) -> Built<[Option<Span>; N]> {
        let mut spans = [const { None }; N];
        let mut found = std::mem::take(&mut self.found);
        found.clear();
        let mut parser = Parser::new(self.bytes, true, &mut self.scratch);
        parser.go_to(object.start);
        let read = match parser.peek() {
            Some(b'{') => parser.members(1, |name| names.iter().position(|n| n.as_bytes() == name), &mut found),
            _ => Err(Fault::malformed(format!("{} is no object", shorten(&self.bytes[object.clone()])))),
        };
        for (index, span) in found.drain(..) {
            spans[index] = (!self.is_nothing(&span)).then_some(span);
        }
        self.found = found;
        read.map(|()| spans)
    }

    /// The names of an object's members.
    pub(super) fn names(&mut self, object: &Span) -> Built<Vec<String>> {
        let (mut names, mut found) = (Vec::new(), Vec::new());
        let mut parser = Parser::new(self.bytes, true, &mut self.scratch);
        parser.go_to(object.start);
        parser.members(
            1,
            |name| {
                names.push(String::from_utf8_lossy(name).into_owned());
                None
            },
            &mut found,
        )?;
        Ok(names)
    }

    /// The items of a list.
    pub(super) fn items(&mut self, list: &Span) -> Built<Vec<Span>> {
        let mut items = Vec::new();
        let mut parser = Parser::new(self.bytes, true, &mut self.scratch);
        parser.go_to(list.start);
        match parser.peek() {
            Some(b'[') => parser.array_items(&mut items)?,
            _ => return Err(Fault::malformed(format!("{} is no list", shorten(&self.bytes[list.clone()])))),
        }
        Ok(items)
    }

    /// A string; none where it is something else, or nothing.
    pub(super) fn text(&self, span: Option<&Span>) -> Option<String> {
        serde_json::from_slice(&self.bytes[span?.clone()]).ok()
    }

    /// A list of strings; empty where it is something else, or nothing.
    pub(super) fn texts(&self, span: Option<&Span>) -> Vec<String> {
        span.and_then(|span| serde_json::from_slice(&self.bytes[span.clone()]).ok()).unwrap_or_default()
    }

    /// True where the JSON value is `true`.
    pub(super) fn is_true(&self, span: Option<&Span>) -> bool {
        span.is_some_and(|span| self.bytes[span.clone()] == *b"true")
    }

    /// The names that there are, one after another: the table of an event.
    pub(super) fn path<const N: usize>(&self, names: [Option<&Span>; N]) -> Vec<String> {
        names.into_iter().filter_map(|name| self.text(name)).filter(|name| !name.is_empty()).collect()
    }

    /// The changes of one row that an update has changed. Where it has changed the key, the row with the old one is
    /// gone. `old` holds what was changed, as it was; `key` is what the event says of the key's columns.
    pub(super) fn update(&mut self, row: Span, old: Option<Span>, key: &[String]) -> Built<Vec<Change>> {
        let Some(old) = old.filter(|_| !key.is_empty()) else { return Ok(vec![Change::new(Op::Update, row)]) };
        let mut has_moved = false;
        for column in key {
            let [changed] = self.members(&old, [column])?;
            has_moved |= changed.is_some();
        }
        if !has_moved {
            return Ok(vec![Change::new(Op::Update, row)]);
        }
        let gone = Change { op: Op::Delete, image: row.clone(), instead: Some(old) };
        Ok(vec![gone, Change::new(Op::Insert, row)])
    }
}

/// What is said of a table that was emptied in one go: no row of it is named, so none can be deleted here.
pub(super) fn truncated(table: &[String]) -> Fault {
    Fault::malformed(format!(
        "the table `{}` was truncated, and the event names no rows that could be deleted: they stay until they are \
         deleted one by one",
        table.join(".")
    ))
}

/// What an event must have, and has not.
pub(super) fn lacks(member: &str, of: &str) -> Fault {
    Fault::malformed(format!("{of} without `{member}`"))
}
