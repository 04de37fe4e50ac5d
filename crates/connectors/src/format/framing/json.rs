//! Where a JSON document ends: on its line, some lines later, or right in front of the next one.
//!
//! Between documents stand white space, commas, brackets (of a list of documents) and the record separator of RFC 7464;
//! none of them belongs to a record. So a list in a file needs no state that would have to outlive a restart.
//!
//! Documents are told apart by their braces. One that is broken must not take its neighbours with it:
//!
//! * a line break inside a string ends it there, and so does a brace or bracket that closes what was not opened (at the
//!   end of the line); a document that began on an earlier line ends before the next line that can begin one;
//! * a line that begins with `{` or `[`, no further indented than the document, where no value can stand, is the
//!   beginning of another one. The broken document ends before the first such line behind its own beginning, even where
//!   that could still have been part of it.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};

use super::{BATCH_RECORDS_MAX, Frames};

/// Cuts `buffer` into documents; see [`super::frame`].
pub(super) fn frame(frames: &mut Frames, buffer: &[u8], base: u64, last: bool, max_record: usize) {
    loop {
        let behind = frames.consumed;
        let start = behind + separators(&buffer[behind..]);
        if start == buffer.len() {
            frames.consumed = start;
            return;
        }
        if frames.spans.len() == BATCH_RECORDS_MAX {
            frames.full = true;
            return;
        }
        let Some(end) = document_end(buffer, start, last) else { return };
        let end = end.max(start + 1);
        let record = start..start + buffer[start..end].trim_ascii_end().len();
        frames.push(record, base, max_record);
        frames.consumed = end;
    }
}

/// How many bytes stand between documents and belong to none.
pub(super) fn separators(bytes: &[u8]) -> usize {
    let is_one = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b'[' | b']' | 0x1e);
    bytes.iter().position(|byte| !is_one(byte)).unwrap_or(bytes.len())
}

/// Where the document at `start` ends; `None`: behind the buffer.
fn document_end(buffer: &[u8], start: usize, last: bool) -> Option<usize> {
    if buffer[start] != b'{' {
        return other_end(buffer, start, last);
    }
    if let Some(end) = line_end(buffer, start) {
        return Some(end);
    }
    let mut scan = DocumentScan::new(indentation(buffer, start));
    let end = match scan.find_end(&buffer[start..]) {
        None if last => Some(scan.finish()),
        found => found,
    };
    end.map(|end| start + end as usize)
}

/// The fast path for one document a line: the line is one, since it ends with a brace and the next begins with one, and
/// by the grammar no value may follow on another without a comma. `None`: it takes a closer look.
fn line_end(buffer: &[u8], start: usize) -> Option<usize> {
    let end = start + memchr(b'\n', &buffer[start..])?;
    let line = buffer[start..end].trim_ascii_end();
    if line.last() != Some(&b'}') || first_behind(&buffer[end..])?.1 != b'{' {
        return None;
    }
    let several = memchr_iter(b'}', &line[..line.len() - 1]).any(|brace| match first_behind(&line[brace + 1..]) {
        Some((_, b'{')) => true,
        Some((at, b',')) => first_behind(&line[brace + at + 2..]).is_none_or(|(_, byte)| byte == b'{'),
        _ => false,
    });
    (!several).then_some(end)
}

/// The first byte that is no white space.
fn first_behind(bytes: &[u8]) -> Option<(usize, u8)> {
    bytes.iter().copied().enumerate().find(|(_, byte)| !byte.is_ascii_whitespace())
}

/// How far the line of `start` is indented, as far as the buffer tells.
fn indentation(buffer: &[u8], start: usize) -> usize {
    let line = buffer[..start].iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |end| end + 1);
    buffer[line..start].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// Where something ends that is no object: a number in a list, say, or a line that is not JSON at all.
fn other_end(buffer: &[u8], start: usize, last: bool) -> Option<usize> {
    let rest = &buffer[start..];
    let value = match rest[0] {
        b'"' => string_end(rest),
        _ => {
            let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
            let end = rest.iter().take_while(|byte| word(byte)).count();
            serde_json::from_slice::<serde_json::Value>(&rest[..end]).is_ok().then_some(end)
        }
    };
    let line = memchr2(b'\n', b'\r', rest);
    if let Some(end) = value {
        match rest[end..].iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
            Some(b',' | b']' | b'\n' | b'\r' | 0x1e) => return Some(start + end),
            None if last => return Some(start + end),
            None => return None,
            Some(_) => {}
        }
    }
    match line {
        Some(end) => Some(start + end),
        None => last.then_some(buffer.len()),
    }
}

/// The end of the string at the beginning of `bytes`, if it ends on its line.
fn string_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            b'\n' | b'\r' => return None,
            _ => at += 1,
        }
    }
}

/// Looks for the end of an object, piece by piece; positions count from its beginning.
#[derive(Debug, Clone)]
pub(super) struct DocumentScan {
    /// How far the document's own line is indented.
    indentation: usize,
    at: u64,
    depth: u32,
    /// A bit for each level: set for lists. Deeper ones are all taken for lists.
    lists: u128,
    in_string: bool,
    escaped: bool,
    /// The last byte that was neither white space nor part of a string.
    previous: u8,
    /// White space since the beginning of the line; none behind anything else.
    line_begins: Option<Range<u64>>,
    several_lines: bool,
    /// It is broken, and ends before the next line that can begin a document.
    broken: bool,
    /// The first line behind its own that could begin a document.
    restart: Option<u64>,
}

impl DocumentScan {
    pub(super) fn new(indentation: usize) -> Self {
        Self {
            indentation,
            at: 0,
            depth: 0,
            lists: 0,
            in_string: false,
            escaped: false,
            previous: b':',
            line_begins: None,
            several_lines: false,
            broken: false,
            restart: None,
        }
    }

    /// Goes through a piece; the end, where it is found.
    pub(super) fn find_end(&mut self, piece: &[u8]) -> Option<u64> {
        for &byte in piece {
            let at = self.at;
            self.at += 1;
            let end = if self.in_string { self.within_string(byte, at) } else { self.outside(byte, at) };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// The end where nothing comes behind the pieces.
    pub(super) fn finish(&self) -> u64 {
        self.restart.unwrap_or(self.at)
    }

    fn within_string(&mut self, byte: u8, at: u64) -> Option<u64> {
        match byte {
            b'\n' | b'\r' => {
                self.in_string = false;
                self.break_off(byte, at)
            }
            _ if self.escaped => {
                self.escaped = false;
                None
            }
            b'\\' => {
                self.escaped = true;
                None
            }
            b'"' => {
                (self.in_string, self.previous) = (false, b'"');
                None
            }
            _ => None,
        }
    }

    fn outside(&mut self, byte: u8, at: u64) -> Option<u64> {
        match byte {
            b'\n' | b'\r' => {
                if self.broken && !self.several_lines {
                    return Some(at);
                }
                self.several_lines = true;
                self.line_begins = Some(at + 1..at + 1);
            }
            b' ' | b'\t' => {
                if let Some(spaces) = &mut self.line_begins {
                    spaces.end = at + 1;
                }
            }
            _ if self.broken && !matches!(byte, b'{' | b'[') => self.line_begins = None,
            b'{' | b'[' => return self.open(byte),
            b'}' | b']' => return self.close(byte, at),
            b'"' => {
                self.in_string = true;
                self.line_begins = None;
            }
            _ => {
                self.previous = byte;
                self.line_begins = None;
            }
        }
        None
    }

    fn open(&mut self, byte: u8) -> Option<u64> {
        let line = self.line_begins.take();
        if let Some(line) = line.filter(|spaces| spaces.end - spaces.start <= self.indentation as u64) {
            if self.broken || !self.value_may_stand_here() {
                return Some(self.restart.unwrap_or(line.start));
            }
            self.restart.get_or_insert(line.start);
        }
        if !self.broken {
            self.depth += 1;
            if let Some(bit) = 1_u128.checked_shl(self.depth) {
                self.lists = if byte == b'[' { self.lists | bit } else { self.lists & !bit };
            }
            self.previous = byte;
        }
        None
    }

    fn close(&mut self, byte: u8, at: u64) -> Option<u64> {
        self.line_begins = None;
        let fits = self.depth > 0
            && 1_u128.checked_shl(self.depth).is_none_or(|bit| (self.lists & bit != 0) == (byte == b']'));
        if !fits {
            return self.break_off(byte, at);
        }
        self.depth -= 1;
        self.previous = byte;
        (self.depth == 0).then_some(at + 1)
    }

    /// What stands at `at` can't be there.
    fn break_off(&mut self, byte: u8, at: u64) -> Option<u64> {
        if self.restart.is_some() {
            return self.restart;
        }
        self.broken = true;
        if matches!(byte, b'\n' | b'\r') {
            return self.outside(byte, at);
        }
        None
    }

    fn value_may_stand_here(&self) -> bool {
        let in_list = 1_u128.checked_shl(self.depth).is_none_or(|bit| self.lists & bit != 0);
        matches!(self.previous, b':' | b'[') || (self.previous == b',' && in_list)
    }
}
