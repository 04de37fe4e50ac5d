//! The grammar of JSON (RFC 8259), read byte by byte straight into columns, without a tree in between.
//!
//! Limit: [`DEPTH_MAX`] objects and lists inside each other. Every string, skipped or not, is checked for control
//! characters and halves of surrogate pairs.

use std::ops::Range;

use millstream_core::{FailureKind, FieldType};

use super::coerce;
use super::columns::{Built, Column, Columns, Fault, shorten};

/// Objects and lists inside each other.
const DEPTH_MAX: usize = 128;

/// A reader of one JSON text. It trusts its input to be UTF-8, and nothing else.
pub(super) struct Parser<'a, 's> {
    input: &'a [u8],
    at: usize,
    last_key_counts: bool,
    /// For keys with escapes.
    scratch: &'s mut Vec<u8>,
    /// Set by every space outside strings.
    spaces: bool,
}

impl<'a, 's> Parser<'a, 's> {
    pub(super) fn new(input: &'a [u8], last_key_counts: bool, scratch: &'s mut Vec<u8>) -> Self {
        Self { input, at: 0, last_key_counts, scratch, spaces: false }
    }

    /// Where the parser is, in bytes from the beginning.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Moves to `at`.
    pub(super) fn go_to(&mut self, at: usize) {
        self.at = at;
    }

    /// The whole input is one record.
    pub(super) fn record(&mut self, columns: &mut Columns<'_>) -> Built {
        self.skip_spaces();
        match self.peek() {
            Some(b'{') => self.object(columns, 1)?,
            None => return Err(Fault::malformed("the record is empty")),
            Some(_) => {
                self.skip(1)?;
                return Err(Fault::malformed(format!("a record must be a JSON object, not {}", shorten(self.input))));
            }
        }
        self.end()
    }

    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.input.get(self.at).copied()
    }

    #[inline]
    pub(super) fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.spaces = true;
            self.at += 1;
        }
    }

    pub(super) fn end(&mut self) -> Built {
        self.skip_spaces();
        if self.at == self.input.len() { Ok(()) } else { Err(self.unexpected("the end of the record")) }
    }

    #[cold]
    fn unexpected(&self, wanted: &str) -> Fault {
        match self.input.get(self.at..) {
            None | Some([]) => {
                Fault::malformed(format!("not JSON: it ends at byte {} where {wanted} should be", self.at))
            }
            Some(rest) => {
                let found = shorten(&rest[..rest.len().min(16)]);
                Fault::malformed(format!("not JSON: `{found}` at byte {} where {wanted} should be", self.at))
            }
        }
    }

    #[cold]
    fn too_deep(&self) -> Fault {
        Fault::malformed(format!("more than {DEPTH_MAX} objects and lists inside each other"))
    }

    /// An object with declared fields; `at` is on the brace.
    fn object(&mut self, columns: &mut Columns<'_>, depth: usize) -> Built {
        if depth > DEPTH_MAX {
            return Err(self.too_deep());
        }
        self.at += 1;
        columns.begin();
        let mut expected = 0;
        self.skip_spaces();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return columns.end();
        }
        loop {
            let index = self.key(|name| columns.find(name, &mut expected))?;
            self.colon()?;
            match index {
                Some(index) => {
                    if !columns.mark(index) {
                        if !self.last_key_counts {
                            return Err(Fault::malformed("appears twice in one object").within(columns.name(index)));
                        }
                        columns.unset(index);
                    }
                    let built = self.value(columns.column(index), depth + 1);
                    built.map_err(|fault| fault.within(columns.name(index)))?;
                }
                None => self.skip(depth + 1)?,
            }
            if !self.comma_or(b'}')? {
                return columns.end();
            }
        }
    }

    /// Goes through an object, and notes where the values lie of the members that `find` knows. `at` is on the brace.
    pub(super) fn members(
        &mut self,
        depth: usize,
        mut find: impl FnMut(&[u8]) -> Option<usize>,
        found: &mut Vec<(usize, Range<usize>)>,
    ) -> Built {
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let index = self.key(&mut find)?;
            self.colon()?;
            let start = self.at;
            self.skip(depth + 1)?;
            found.extend(index.map(|index| (index, start..self.at)));
            if !self.comma_or(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads a key, and hands it without quotes and escapes to `use_key`.
    #[inline]
    fn key<T>(&mut self, use_key: impl FnOnce(&[u8]) -> T) -> Built<T> {
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a field's name in quotes"));
        }
        let start = self.at + 1;
        let end = self.scan_string(start)?;
        if self.input[end] == b'"' {
            self.at = end + 1;
            return Ok(use_key(&self.input[start..end]));
        }
        let mut name = std::mem::take(self.scratch);
        name.clear();
        let unescaped = self.unescape(start, end, &mut name);
        let found = unescaped.map(|()| use_key(&name));
        *self.scratch = name;
        found
    }

    #[inline]
    fn colon(&mut self) -> Built {
        self.skip_spaces();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("a colon"));
        }
        self.at += 1;
        self.skip_spaces();
        Ok(())
    }

    /// Goes behind a comma (true) or `close` (false).
    #[inline]
    fn comma_or(&mut self, close: u8) -> Built<bool> {
        self.skip_spaces();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.skip_spaces();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.unexpected(if close == b'}' { "a comma or }" } else { "a comma or ]" })),
        }
    }

    /// One value of a declared type.
    pub(super) fn value(&mut self, column: &mut Column<'_>, depth: usize) -> Built {
        match self.peek() {
            Some(b'"') if !matches!(column.kind, FieldType::Json) => self.string(column),
            Some(b'n') => {
                self.literal(b"null")?;
                column.null()
            }
            _ if matches!(column.kind, FieldType::Json) => self.json(column, depth),
            Some(b'-' | b'0'..=b'9') => {
                let (number, integral) = self.number()?;
                coerce::push_number(column, number, integral)
            }
            Some(b't') => {
                self.literal(b"true")?;
                coerce::push_bool(column, true)
            }
            Some(b'f') => {
                self.literal(b"false")?;
                coerce::push_bool(column, false)
            }
            Some(b'[') => self.list(column, depth),
            Some(b'{') => match column.fields() {
                Some(fields) => {
                    self.object(fields, depth)?;
                    column.end_struct();
                    Ok(())
                }
                None => self.wrong_type(column, depth, "an object"),
            },
            _ => Err(self.unexpected("a value")),
        }
    }

    /// What is no JSON is called that first; only then is its type looked at.
    #[cold]
    fn wrong_type(&mut self, column: &Column<'_>, depth: usize, found: &str) -> Built {
        self.skip(depth)?;
        Err(Fault::mismatch(format!("{found} is no {}", column.kind)))
    }

    fn list(&mut self, column: &mut Column<'_>, depth: usize) -> Built {
        let Some(items) = column.items() else { return self.wrong_type(column, depth, "a list") };
        if depth > DEPTH_MAX {
            return Err(self.too_deep());
        }
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some(b']') {
            self.at += 1;
        } else {
            let mut index = 0;
            loop {
                self.value(items, depth + 1).map_err(|fault| fault.within_item(index))?;
                index += 1;
                if !self.comma_or(b']')? {
                    break;
                }
            }
        }
        column.end_list();
        Ok(())
    }

    #[inline]
    fn string(&mut self, column: &mut Column<'_>) -> Built {
        let start = self.at + 1;
        let end = self.scan_string(start)?;
        let plain = self.input[end] == b'"';
        if matches!(column.kind, FieldType::String) {
            if plain {
                self.at = end + 1;
                return column.push_bytes(&self.input[start..end]);
            }
            return column.build_bytes(|data| self.unescape(start, end, data));
        }
        if matches!(column.kind, FieldType::List(_) | FieldType::Struct(_)) {
            return self.wrong_type(column, 1, "a string");
        }
        let mut text = std::mem::take(self.scratch);
        text.clear();
        let built = if plain {
            self.at = end + 1;
            text.extend_from_slice(&self.input[start..end]);
            Ok(())
        } else {
            self.unescape(start, end, &mut text)
        };
        let built = built.and_then(|()| match std::str::from_utf8(&text) {
            Ok(text) => coerce::push_text(column, text),
            Err(_) => Err(Fault::new(FailureKind::Encoding, "invalid UTF-8")),
        });
        *self.scratch = text;
        built
    }

    /// Any value, kept as compact text.
    fn json(&mut self, column: &mut Column<'_>, depth: usize) -> Built {
        let start = self.at;
        self.spaces = false;
        self.skip(depth)?;
        let text = &self.input[start..self.at];
        if !self.spaces {
            return column.push_bytes(text);
        }
        column.build_bytes(|data| {
            let (mut in_string, mut escaped) = (false, false);
            for &byte in text {
                if in_string || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                    data.push(byte);
                }
                if escaped {
                    escaped = false;
                } else if byte == b'"' {
                    in_string = !in_string;
                } else if byte == b'\\' {
                    escaped = true;
                }
            }
            Ok(())
        })
    }

    fn literal(&mut self, word: &'static [u8]) -> Built {
        if self.input[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.unexpected("a value"))
        }
    }

    /// A number by the grammar; the flag says that it has neither point nor exponent.
    #[inline]
    fn number(&mut self) -> Built<(&'a [u8], bool)> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.unexpected("a digit")),
        }
        let mut integral = true;
        if self.peek() == Some(b'.') {
            integral = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok((&self.input[start..self.at], integral))
    }

    #[inline]
    fn digits(&mut self) -> Built {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.unexpected("a digit")) } else { Ok(()) }
    }

    /// Checks any value and goes behind it.
    pub(super) fn skip(&mut self, depth: usize) -> Built {
        match self.peek() {
            Some(b'"') => {
                let start = self.at + 1;
                let end = self.scan_string(start)?;
                if self.input[end] == b'"' {
                    self.at = end + 1;
                    return Ok(());
                }
                let mut text = std::mem::take(self.scratch);
                text.clear();
                let checked = self.unescape(start, end, &mut text);
                *self.scratch = text;
                checked
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            Some(b'{' | b'[') if depth > DEPTH_MAX => Err(self.too_deep()),
            Some(b'{') => {
                self.at += 1;
                self.skip_spaces();
                if self.peek() == Some(b'}') {
                    self.at += 1;
                    return Ok(());
                }
                loop {
                    self.key(|_| ())?;
                    self.colon()?;
                    self.skip(depth + 1)?;
                    if !self.comma_or(b'}')? {
                        return Ok(());
                    }
                }
            }
            Some(b'[') => self.array_items(&mut NoSpans(depth)),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Goes through a list, and tells `items` where each item lies.
    pub(super) fn array_items(&mut self, items: &mut impl Items) -> Built {
        self.at += 1;
        self.skip_spaces();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at;
            self.skip(items.depth() + 1)?;
            items.item(start..self.at);
            if !self.comma_or(b']')? {
                return Ok(());
            }
        }
    }

    /// The first quote, backslash or control character from `from` on; the last is an error.
    #[inline]
    fn scan_string(&self, from: usize) -> Built<usize> {
        const ONES: u64 = 0x0101_0101_0101_0101;
        const HIGH: u64 = 0x8080_8080_8080_8080;
        let mut at = from;
        while let Some(chunk) = self.input.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
            let word = u64::from_le_bytes(*chunk);
            // Sets the high bit of a byte that is zero, and maybe of bytes above it: the lowest one counts.
            let zero = |x: u64| x.wrapping_sub(ONES) & !x;
            let control = word.wrapping_sub(ONES * 0x20) & !word;
            let found = (zero(word ^ (ONES * 0x22)) | zero(word ^ (ONES * 0x5c)) | control) & HIGH;
            if found != 0 {
                at += found.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        loop {
            match self.input.get(at) {
                Some(b'"' | b'\\') => return Ok(at),
                Some(0..=0x1f) => {
                    return Err(Fault::malformed(format!("not JSON: a control character in a string at byte {at}")));
                }
                Some(_) => at += 1,
                None => return Err(Fault::malformed("not JSON: a string has no end")),
            }
        }
    }

    /// Appends a string with escapes to `out`; `first` is its first backslash. Goes behind the closing quote.
    fn unescape(&mut self, start: usize, first: usize, out: &mut Vec<u8>) -> Built {
        let (mut from, mut end) = (start, first);
        loop {
            out.extend_from_slice(&self.input[from..end]);
            if self.input[end] == b'"' {
                self.at = end + 1;
                return Ok(());
            }
            from = end + 2;
            let byte = match self.input.get(end + 1) {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'b') => 0x08,
                Some(b'f') => 0x0c,
                Some(&byte @ (b'"' | b'\\' | b'/')) => byte,
                Some(b'u') => {
                    let (character, next) = self.unicode_escape(end + 2)?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    from = next;
                    end = self.scan_string(from)?;
                    continue;
                }
                _ => return Err(Fault::malformed(format!("not JSON: an unknown escape at byte {end}"))),
            };
            out.push(byte);
            end = self.scan_string(from)?;
        }
    }

    /// The character of `\uXXXX`, or of two of them; `at` is behind the u. Also says where it ends.
    fn unicode_escape(&self, at: usize) -> Built<(char, usize)> {
        let high = self.hex4(at)?;
        let lone = || Fault::malformed(format!("not JSON: half of a surrogate pair at byte {}", at - 2));
        match high {
            0xd800..0xdc00 => {
                if self.input.get(at + 4..at + 6) != Some(b"\\u") {
                    return Err(lone());
                }
                let low = self.hex4(at + 6)?;
                if !(0xdc00..0xe000).contains(&low) {
                    return Err(lone());
                }
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                Ok((char::from_u32(code).ok_or_else(lone)?, at + 10))
            }
            code => Ok((char::from_u32(code).ok_or_else(lone)?, at + 4)),
        }
    }

    fn hex4(&self, at: usize) -> Built<u32> {
        let wrong = || Fault::malformed(format!("not JSON: \\u without four hex digits at byte {}", at - 2));
        let digits = self.input.get(at..at + 4).ok_or_else(wrong)?;
        digits.iter().try_fold(0, |code, &digit| Ok(code * 16 + (digit as char).to_digit(16).ok_or_else(wrong)?))
    }
}

/// Who is told about the items of a list.
pub(super) trait Items {
    fn item(&mut self, span: Range<usize>);
    /// How deep the list is.
    fn depth(&self) -> usize;
}

impl Items for Vec<Range<usize>> {
    fn item(&mut self, span: Range<usize>) {
        self.push(span);
    }

    fn depth(&self) -> usize {
        0
    }
}

struct NoSpans(usize);

impl Items for NoSpans {
    fn item(&mut self, _: Range<usize>) {}

    fn depth(&self) -> usize {
        self.0
    }
}
