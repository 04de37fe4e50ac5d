//! Cuts text into tags, text and CDATA sections as a reader of feeds needs it: whatever is not a tag is text, and
//! nothing is an error. What an XML parser would refuse the document for costs the tag that it stands in.

use std::ops::Range;

/// A piece of a document, by its place in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// `<name …>` or `<name …/>`.
    Start {
        name: Range<usize>,
        attributes: Range<usize>,
        /// Ends in `/>`.
        empty: bool,
    },
    /// `</name>`.
    End { name: Range<usize> },
    /// Text in which references are to be resolved.
    Text(Range<usize>),
    /// Text as it is.
    Verbatim(Range<usize>),
    /// `<!DOCTYPE …>`.
    Doctype(Range<usize>),
    /// A comment, a processing instruction, a declaration.
    Skipped {
        /// It is not closed where it should be.
        broken: bool,
    },
}

/// Walks through a document.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    /// Ends of comments and the like that are known not to come any more: they are looked for once, not for each
    /// beginning.
    missing: Vec<&'static str>,
    doctype_seen: bool,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, missing: Vec::new(), doctype_seen: false }
    }

    /// Where the next token begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// The next token; `open` is the name of the innermost open element, whose end tag also ends a CDATA section that
    /// is never closed.
    pub(super) fn next(&mut self, open: Option<&str>) -> Option<Token> {
        let rest = &self.text[self.at..];
        if rest.is_empty() {
            return None;
        }
        let start = self.at;
        if !is_markup(rest) {
            let mut end = start + rest.chars().next().map_or(1, char::len_utf8);
            while let Some(found) = memchr::memchr(b'<', &self.text.as_bytes()[end..]) {
                end += found;
                if is_markup(&self.text[end..]) {
                    self.at = end;
                    return Some(Token::Text(start..end));
                }
                end += 1;
            }
            self.at = self.text.len();
            return Some(Token::Text(start..self.at));
        }
        Some(match rest.as_bytes()[1] {
            b'/' => self.end_tag(),
            b'?' => self.skip("?>"),
            b'!' if rest.starts_with("<!--") => self.skip("-->"),
            b'!' if starts_with_ignoring_case(rest, "<![CDATA[") => self.cdata(open),
            b'!' if starts_with_ignoring_case(rest, "<!DOCTYPE") && !self.doctype_seen => self.doctype(),
            b'!' => self.skip(">"),
            _ => self.start_tag(),
        })
    }

    fn end_tag(&mut self) -> Token {
        let name = self.name(self.at + 2);
        let rest = &self.text.as_bytes()[name.end..];
        self.at = match memchr::memchr2(b'>', b'<', rest) {
            Some(found) if rest[found] == b'>' => name.end + found + 1,
            Some(found) => name.end + found,
            None => self.text.len(),
        };
        Token::End { name }
    }

    fn start_tag(&mut self) -> Token {
        let name = self.name(self.at + 1);
        let (end, next) = tag_end(self.text.as_bytes(), name.end);
        self.at = next;
        let empty = self.text.as_bytes()[name.end..end].ends_with(b"/");
        Token::Start { attributes: name.end..end - usize::from(empty), name, empty }
    }

    fn name(&self, from: usize) -> Range<usize> {
        let bytes = &self.text.as_bytes()[from..];
        let length = bytes.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'>' | b'<' | b'/' | b'='));
        from..from + length.unwrap_or(bytes.len())
    }

    fn skip(&mut self, end: &'static str) -> Token {
        let from = self.at + 2;
        if let Some(found) = self.find(from, end) {
            self.at = from + found + end.len();
            return Token::Skipped { broken: false };
        }
        self.at = memchr::memchr(b'>', &self.text.as_bytes()[from..]).map_or(self.text.len(), |at| from + at + 1);
        Token::Skipped { broken: true }
    }

    fn cdata(&mut self, open: Option<&str>) -> Token {
        let from = self.at + "<![CDATA[".len();
        if let Some(found) = self.find(from, "]]>") {
            self.at = from + found + 3;
            return Token::Verbatim(from..from + found);
        }
        let rest = &self.text[from..];
        let end = open.and_then(|name| rest.find(&format!("</{name}"))).map_or(self.text.len(), |at| from + at);
        self.at = end;
        Token::Verbatim(from..end)
    }

    /// `<!DOCTYPE …>` with what stands in its brackets.
    fn doctype(&mut self) -> Token {
        self.doctype_seen = true;
        let bytes = self.text.as_bytes();
        let start = self.at + 2;
        let mut brackets = 0_usize;
        let mut end = start;
        while end < bytes.len() && (brackets > 0 || bytes[end] != b'>') {
            match bytes[end] {
                b'[' => brackets += 1,
                b']' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            end += 1;
        }
        if brackets > 0 {
            end = memchr::memchr(b'>', &bytes[start..]).map_or(bytes.len(), |at| start + at);
        }
        self.at = (end + 1).min(bytes.len());
        Token::Doctype(start..end)
    }

    fn find(&mut self, from: usize, end: &'static str) -> Option<usize> {
        if self.missing.contains(&end) {
            return None;
        }
        let found = memchr::memmem::find(&self.text.as_bytes()[from..], end.as_bytes());
        if found.is_none() {
            self.missing.push(end);
        }
        found
    }
}

/// True where a tag, a comment or the like begins: a `<` alone is text.
fn is_markup(text: &str) -> bool {
    let name_start = |b: u8| b.is_ascii_alphabetic() || b == b'_' || b == b':' || b >= 0x80;
    match text.as_bytes() {
        [b'<', b'/', next, ..] | [b'<', next, ..] if name_start(*next) => true,
        [b'<', b'?' | b'!', ..] => true,
        _ => false,
    }
}

fn starts_with_ignoring_case(text: &str, prefix: &str) -> bool {
    text.as_bytes().get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Where the inside of a tag ends, and where the next token begins. A `<` ends a tag that is not closed; a `>` and a
/// `<` in quotes do not, unless both stand in a quote that was never closed.
fn tag_end(bytes: &[u8], from: usize) -> (usize, usize) {
    let mut quote: Option<u8> = None;
    let mut closed_in_quotes = None;
    for (at, &byte) in bytes.iter().enumerate().skip(from) {
        match (quote, byte) {
            (None, b'>') => return (at, at + 1),
            (None, b'<') => return (at, at),
            // A quote that does not follow an equals sign is part of a word.
            (None, b'"' | b'\'') if bytes[from..at].trim_ascii_end().ends_with(b"=") => {
                (quote, closed_in_quotes) = (Some(byte), None);
            }
            (Some(open), _) if open == byte => quote = None,
            (Some(_), b'>') => closed_in_quotes = closed_in_quotes.or(Some(at)),
            (Some(_), b'<') if let Some(end) = closed_in_quotes => return (end, end + 1),
            _ => {}
        }
    }
    match closed_in_quotes.filter(|_| quote.is_some()) {
        Some(end) => (end, end + 1),
        None => (bytes.len(), bytes.len()),
    }
}

/// The attributes of a tag: name and raw value, in the order written. What is no attribute is passed over.
pub(super) fn attributes(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '"' | '\'' | '='));
            let end = rest.find(|c: char| c.is_ascii_whitespace() || c == '=').unwrap_or(rest.len());
            if end == 0 {
                return None;
            }
            let (name, behind) = rest.split_at(end);
            let Some(value) = behind.trim_start().strip_prefix('=') else {
                rest = behind;
                continue;
            };
            let value = value.trim_start();
            let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (value, behind) = match quote {
                Some(quote) => value[1..].split_once(quote).unwrap_or((&value[1..], "")),
                None => value.split_at(value.find(|c: char| c.is_ascii_whitespace()).unwrap_or(value.len())),
            };
            rest = behind;
            return Some((name, value));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let mut tokens = Tokens::new(text);
        let mut out = Vec::new();
        while let Some(token) = tokens.next(Some("a")) {
            out.push(match token {
                Token::Start { name, attributes, empty } => {
                    format!("<{}|{}|{empty}", &text[name], text[attributes].trim())
                }
                Token::End { name } => format!("/{}", &text[name]),
                Token::Text(span) => text[span].to_owned(),
                Token::Verbatim(span) => format!("[{}]", &text[span]),
                Token::Doctype(_) => "doctype".into(),
                Token::Skipped { broken } => format!("skipped {broken}"),
            });
        }
        out
    }

    #[test]
    fn what_is_no_tag_is_text_and_what_is_not_closed_ends_where_the_next_tag_begins() {
        for (text, wanted) in [
            ("<a b='1>2' c/>x", &["<a|b='1>2' c|true", "x"][..]),
            ("1 < 2 && <3 <a>", &["1 < 2 && <3 ", "<a||false"]),
            ("<a<b>", &["<a||false", "<b||false"]),
            ("<a x='1><b>t</b>", &["<a|x='1|false", "<b||false", "t", "/b"]),
            ("<a title=\"a < b\">t", &["<a|title=\"a < b\"|false", "t"]),
            ("<a it's>t</a", &["<a|it's|false", "t", "/a"]),
            ("</a <b>", &["/a", "<b||false"]),
            ("<![CDATA[<b>]]>x", &["[<b>]", "x"]),
            ("<![CDATA[<b>x</a>y", &["[<b>x]", "/a", "y"]),
            ("<!-- <b> -->x<!-- y", &["skipped false", "x", "skipped true"]),
            ("<!-- y><b>", &["skipped true", "<b||false"]),
            ("<!DOCTYPE r [<!ELEMENT r ANY>]><r>", &["doctype", "<r||false"]),
            ("<?xml version='1.0'?><?php", &["skipped false", "skipped true"]),
            ("a<", &["a<"]),
            ("<", &["<"]),
            ("</>", &["</>"]),
            ("é<é>ü", &["é", "<é||false", "ü"]),
        ] {
            assert_eq!(cut(text), wanted, "{text}");
        }
    }

    #[test]
    fn attributes_are_read_with_and_without_quotes() {
        let read = |text| attributes(text).collect::<Vec<_>>();
        assert_eq!(read(" a=\"1\" b = '2' c=3 d e='x"), [("a", "1"), ("b", "2"), ("c", "3"), ("e", "x")]);
        assert_eq!(read("a=\"1\"b=\"2\""), [("a", "1"), ("b", "2")]);
        assert_eq!(read("=\"x\" a=''"), [("x\"", ""), ("a", "")][1..]);
        assert_eq!(read(" / "), []);
    }
}
