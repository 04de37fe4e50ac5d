//! The text of an SQL/JSON path, read once: `lax $.a."b c"[0]`, `strict $.items[*].id`.
//!
//! ```text
//! path      = ["lax" | "strict"] "$" { step }
//! step      = "." ( name | quoted | "*" ) | ["."] "[" ( quoted | "*" | subscript { "," subscript } ) "]"
//! subscript = position [ "to" position ]
//! position  = number | "last" [ "-" number ]
//! quoted    = '"' … '"' | "'" … "'"        what follows a backslash stands for itself
//! ```
//!
//! That is SQL:2016 (ISO/IEC 9075-2, 9.39) without filters, methods and variables, and with `['name']`, which Flink's
//! paths have. The mode is lax where none is written, as the standard has it. Flink reads such a path as strict, and
//! does not look into arrays in its lax mode either.

use std::fmt;
use std::iter::Peekable;
use std::str::Chars;

/// Steps of a path; what people write has fewer than ten.
const STEPS_MAX: usize = 64;

/// What happens where a document is not built as the path has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing is found there; a step into an object goes into each item of an array, and a subscript takes what is no
    /// array for one with that item.
    Lax,
    /// It is an error.
    Strict,
}

/// One step down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The value of a member.
    Member(String),
    /// The values of all members.
    EveryMember,
    /// Some items, in this order.
    Items(Vec<Subscript>),
    /// All items.
    EveryItem,
}

/// One item, or those from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subscript {
    pub from: Position,
    pub to: Position,
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// So many items are before it.
    Start(usize),
    /// So many items are behind it.
    End(usize),
}

/// A path that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub mode: Mode,
    pub steps: Vec<Step>,
}

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathError {
    /// The characters before the mistake.
    pub at: usize,
    message: String,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Path {
    pub(super) fn read(text: &str) -> Result<Self, PathError> {
        let mut reader = Reader { rest: text.chars().peekable(), at: 0 };
        let path = reader.path();
        path.map_err(|message| PathError { at: reader.at, message: format!("the path '{text}': {message}") })
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    /// The characters that were read.
    at: usize,
}

type Read<T> = Result<T, String>;

impl Reader<'_> {
    fn path(&mut self) -> Read<Path> {
        self.skip_spaces();
        let mode = match self.rest.peek() {
            Some('$') | None => Mode::Lax,
            Some(_) => self.mode()?,
        };
        self.skip_spaces();
        if !self.take('$') {
            return Err("a path begins with $, the whole document: '$.name'".into());
        }
        let mut steps = Vec::new();
        loop {
            self.skip_spaces();
            match self.rest.peek().copied() {
                None => return Ok(Path { mode, steps }),
                Some('.') => {
                    self.next();
                    self.skip_spaces();
                    steps.push(if self.rest.peek() == Some(&'[') { self.subscripts()? } else { self.member()? });
                }
                Some('[') => steps.push(self.subscripts()?),
                Some('?') => {
                    return Err("a path has no filters here: take the items with UNNEST, and filter them".into());
                }
                Some(other) => return Err(format!("`{other}` can't stand here: a step is .name, .* or [0]")),
            }
            if steps.len() > STEPS_MAX {
                return Err(format!("more than {STEPS_MAX} steps"));
            }
        }
    }

    fn mode(&mut self) -> Read<Mode> {
        let mut rest = self.rest.clone();
        let word: String = std::iter::from_fn(|| rest.next_if(|c| c.is_alphabetic())).collect();
        let mode = match word.to_lowercase().as_str() {
            "lax" => Mode::Lax,
            "strict" => Mode::Strict,
            _ => return Err("a path begins with $, or with lax or strict before it: 'strict $.name'".into()),
        };
        self.at += word.chars().count();
        self.rest = rest;
        Ok(mode)
    }

    /// What stands behind a dot.
    fn member(&mut self) -> Read<Step> {
        match self.rest.peek().copied() {
            Some('*') => {
                self.next();
                Ok(Step::EveryMember)
            }
            Some(quote @ ('"' | '\'')) => Ok(Step::Member(self.quoted(quote)?)),
            Some('.') => Err("`..` searches at any depth, which a path here can't: write each step".into()),
            Some(first) if is_name_start(first) => {
                let name: String = std::iter::from_fn(|| self.next_if(is_name_part)).collect();
                match self.rest.peek() {
                    Some('(') => Err(format!("a path has no methods here: `{name}()`")),
                    Some('-') => Err("a name with a hyphen is quoted: $.\"content-type\"".into()),
                    _ => Ok(Step::Member(name)),
                }
            }
            Some(other) => Err(format!("a name can't begin with `{other}`: quote it, $.\"0\"")),
            None => Err("a name is missing behind the dot".into()),
        }
    }

    /// What stands in brackets.
    fn subscripts(&mut self) -> Read<Step> {
        self.next();
        self.skip_spaces();
        let step = match self.rest.peek().copied() {
            Some('*') => {
                self.next();
                Step::EveryItem
            }
            Some(quote @ ('"' | '\'')) => Step::Member(self.quoted(quote)?),
            _ => {
                let mut list = vec![self.subscript()?];
                while self.take_after_spaces(',') {
                    list.push(self.subscript()?);
                }
                Step::Items(list)
            }
        };
        match self.take_after_spaces(']') {
            true => Ok(step),
            false => Err("`]` is missing: an item is taken with [0], [last], [1 to 3] or [*]".into()),
        }
    }

    fn subscript(&mut self) -> Read<Subscript> {
        let from = self.position()?;
        self.skip_spaces();
        let to = if self.take_word("to") { self.position()? } else { from };
        Ok(Subscript { from, to })
    }

    fn position(&mut self) -> Read<Position> {
        self.skip_spaces();
        if self.take_word("last") {
            let behind = if self.take_after_spaces('-') { self.number()? } else { 0 };
            return Ok(Position::End(behind));
        }
        Ok(Position::Start(self.number()?))
    }

    fn number(&mut self) -> Read<usize> {
        self.skip_spaces();
        let digits: String = std::iter::from_fn(|| self.next_if(|c| c.is_ascii_digit())).collect();
        match self.rest.peek() {
            Some('-') if digits.is_empty() => Err("items are counted from 0; the last one is [last]".into()),
            _ if digits.is_empty() => Err("a number or `last` is missing in the brackets".into()),
            _ => digits.parse().map_err(|_| "no array has so many items".into()),
        }
    }

    fn quoted(&mut self, quote: char) -> Read<String> {
        self.next();
        let mut name = String::new();
        loop {
            match self.next() {
                Some('\\') => name.extend(self.next()),
                Some(end) if end == quote => return Ok(name),
                Some(c) => name.push(c),
                None => return Err(format!("the closing {quote} is missing")),
            }
        }
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.at += usize::from(next.is_some());
        next
    }

    fn next_if(&mut self, is_wanted: impl FnOnce(char) -> bool) -> Option<char> {
        let next = self.rest.next_if(|&c| is_wanted(c));
        self.at += usize::from(next.is_some());
        next
    }

    fn take(&mut self, wanted: char) -> bool {
        self.next_if(|c| c == wanted).is_some()
    }

    fn take_after_spaces(&mut self, wanted: char) -> bool {
        self.skip_spaces();
        self.take(wanted)
    }

    /// Takes a word of lower case letters, whole.
    fn take_word(&mut self, wanted: &str) -> bool {
        let mut rest = self.rest.clone();
        let matches = wanted.chars().all(|c| rest.next().is_some_and(|other| other.eq_ignore_ascii_case(&c)));
        if !matches || rest.peek().copied().is_some_and(is_name_part) {
            return false;
        }
        self.at += wanted.len();
        self.rest = rest;
        true
    }

    fn skip_spaces(&mut self) {
        while self.next_if(char::is_whitespace).is_some() {}
    }
}

fn is_name_start(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn is_name_part(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_step_by_step() {
        let member = |name: &str| Step::Member(name.into());
        let one = |position| Subscript { from: position, to: position };
        for (text, mode, steps) in [
            ("$", Mode::Lax, vec![]),
            ("strict $.a.b", Mode::Strict, vec![member("a"), member("b")]),
            (" LAX $ . a [ 0 ] ", Mode::Lax, vec![member("a"), Step::Items(vec![one(Position::Start(0))])]),
            (
                "$.\"a b\".größe.*[*]",
                Mode::Lax,
                vec![member("a b"), member("größe"), Step::EveryMember, Step::EveryItem],
            ),
            ("$['it\\'s'].[\"x\"].last", Mode::Lax, vec![member("it's"), member("x"), member("last")]),
            (
                "$[last - 1, 0 to 2]",
                Mode::Lax,
                vec![Step::Items(vec![
                    one(Position::End(1)),
                    Subscript { from: Position::Start(0), to: Position::Start(2) },
                ])],
            ),
        ] {
            assert_eq!(Path::read(text), Ok(Path { mode, steps }), "{text}");
        }
    }

    #[test]
    fn what_is_no_path_says_where_and_what_to_write() {
        for (text, at, message) in [
            ("", 0, "begins with $"),
            ("a.b", 0, "begins with $"),
            ("loose $.a", 0, "lax or strict"),
            ("$.a.", 4, "a name is missing"),
            ("$..a", 2, "write each step"),
            ("$.a ? (@ > 1)", 4, "UNNEST"),
            ("$.a.size()", 8, "no methods"),
            ("$.content-type", 9, "quoted"),
            ("$.0", 2, "quote it"),
            ("$[-1]", 2, "[last]"),
            ("$[x]", 2, "a number or `last`"),
            ("$[0", 3, "`]` is missing"),
            ("$.\"a", 4, "closing"),
            ("$.a b", 4, "can't stand here"),
            ("$[99999999999999999999999]", 25, "so many"),
        ] {
            let error = Path::read(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }
}
