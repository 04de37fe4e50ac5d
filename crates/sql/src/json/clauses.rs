//! What may stand behind the path of `JSON_VALUE`, `JSON_QUERY` and `JSON_EXISTS`: `RETURNING int DEFAULT 0 ON EMPTY`.
//!
//! The SQL parser does not know these words. So, before it sees them, they are checked here, where their places are
//! known, and become one text behind the path: `json_value(payload, '$.n', 'RETURNING int DEFAULT 0 ON EMPTY')`, which
//! the function reads again.

use std::fmt;

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer};

use super::path::Path;
use crate::dialect::MillstreamDialect;
use crate::error::SqlError;

/// One of the three functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Value,
    Query,
    Exists,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Value, Self::Query, Self::Exists];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Value => "json_value",
            Self::Query => "json_query",
            Self::Exists => "json_exists",
        }
    }

    /// What it takes behind the path, for messages.
    fn takes(self) -> &'static str {
        match self {
            Self::Value => {
                "RETURNING string|int|float|bool, then NULL|ERROR|DEFAULT value with ON EMPTY, and the same with ON \
                 ERROR"
            }
            Self::Query => {
                "WITHOUT WRAPPER or WITH [CONDITIONAL|UNCONDITIONAL] WRAPPER, then NULL|ERROR|EMPTY ARRAY|EMPTY OBJECT \
                 with ON EMPTY, and the same with ON ERROR"
            }
            Self::Exists => "TRUE|FALSE|UNKNOWN|ERROR ON ERROR",
        }
    }
}

/// The type that `JSON_VALUE` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Returning {
    String,
    Int,
    Float,
    Bool,
}

/// When `JSON_QUERY` puts what was found into an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrapper {
    Never,
    /// Unless it is one object or array.
    Conditional,
    Always,
}

/// What is given where there is nothing, or an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Instead {
    Null,
    Error,
    /// A text, number or truth, as text.
    Default(String),
    /// `[]` or `{}`.
    Empty(&'static str),
    Truth(bool),
    /// Neither true nor false.
    Unknown,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clauses {
    pub returning: Returning,
    pub wrapper: Wrapper,
    pub on_empty: Instead,
    pub on_error: Instead,
}

impl Clauses {
    pub(super) fn none(kind: Kind) -> Self {
        Self {
            returning: Returning::String,
            wrapper: Wrapper::Never,
            on_empty: Instead::Null,
            on_error: if kind == Kind::Exists { Instead::Truth(false) } else { Instead::Null },
        }
    }

    /// Reads the text that [`rewritten`] makes.
    pub(super) fn read(kind: Kind, text: &str) -> Result<Self, String> {
        let tokens = Tokenizer::new(&MillstreamDialect, text).tokenize_with_location().map_err(|e| e.to_string())?;
        let tokens: Vec<&TokenWithSpan> = tokens.iter().filter(|t| !is_space(&t.token)).collect();
        Self::parse(kind, &tokens).map_err(|wrong| wrong.message)
    }

    fn parse(kind: Kind, tokens: &[&TokenWithSpan]) -> Result<Self, Wrong> {
        let mut parser = Parser { kind, tokens, at: 0 };
        let mut clauses = Self::none(kind);
        if kind == Kind::Value && parser.take("returning") {
            clauses.returning = parser.returning()?;
        }
        if kind == Kind::Query {
            clauses.wrapper = parser.wrapper()?;
        }
        let (mut empty, mut error) = (false, false);
        while parser.at < tokens.len() {
            let at = parser.at;
            let instead = parser.instead()?;
            if let Instead::Default(value) = &instead {
                let fits = clauses.returning.fits(value);
                fits.map_err(|why| parser.wrong_at(at + 1, format!("DEFAULT {value}: {why}")))?;
            }
            if !parser.take("on") {
                return Err(parser.wrong("ON EMPTY or ON ERROR is missing".into()));
            }
            if !empty && !error && kind != Kind::Exists && parser.take("empty") {
                (clauses.on_empty, empty) = (instead, true);
            } else if !error && parser.take("error") {
                (clauses.on_error, error) = (instead, true);
            } else {
                return Err(parser.wrong("this clause can't stand here".into()));
            }
        }
        Ok(clauses)
    }

    /// True where a row can fail with them.
    pub(super) fn can_fail(&self) -> bool {
        self.on_empty == Instead::Error || self.on_error == Instead::Error
    }
}

impl Returning {
    /// Whether a default is of this type.
    fn fits(self, value: &str) -> Result<(), &'static str> {
        match self {
            Self::String => Ok(()),
            Self::Int => value.parse::<i64>().map(drop).map_err(|_| "this is no int"),
            Self::Float => match value.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(()),
                _ => Err("this is no float"),
            },
            Self::Bool => value.parse::<bool>().map(drop).map_err(|_| "this is neither true nor false"),
        }
    }
}

struct Wrong {
    span: Option<Span>,
    message: String,
}

struct Parser<'a> {
    kind: Kind,
    tokens: &'a [&'a TokenWithSpan],
    at: usize,
}

impl Parser<'_> {
    fn wrong(&self, message: String) -> Wrong {
        self.wrong_at(self.at, message)
    }

    fn wrong_at(&self, at: usize, message: String) -> Wrong {
        // What is missing is missing at the end.
        let token = self.tokens.get(at).or(self.tokens.last());
        let message = format!("{}: {message}; behind the path stands {}", self.kind.name(), self.kind.takes());
        Wrong { span: token.map(|t| t.span), message }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.tokens.get(self.at).is_some_and(|t| is_word(&t.token, word));
        self.at += usize::from(found);
        found
    }

    fn token(&mut self) -> Option<&Token> {
        let token = self.tokens.get(self.at).map(|t| &t.token);
        self.at += usize::from(token.is_some());
        token
    }

    fn returning(&mut self) -> Result<Returning, Wrong> {
        let at = self.at;
        let name = match self.token() {
            Some(Token::Word(word)) => word.value.to_lowercase(),
            _ => String::new(),
        };
        let returning = match name.as_str() {
            "string" | "text" | "varchar" | "char" => Returning::String,
            "int" | "integer" | "bigint" | "smallint" | "tinyint" => Returning::Int,
            "float" | "double" | "real" => Returning::Float,
            "bool" | "boolean" => Returning::Bool,
            _ => {
                let message = "RETURNING takes string, int, float or bool; CAST makes anything else of that";
                return Err(self.wrong_at(at, message.into()));
            }
        };
        self.take("precision");
        // A length is no limit here.
        if matches!(self.tokens.get(self.at).map(|t| &t.token), Some(Token::LParen)) {
            self.at += 1;
            let length = matches!(self.token(), Some(Token::Number(..)));
            if !length || !matches!(self.token(), Some(Token::RParen)) {
                return Err(self.wrong_at(at, "the length of a text is a number: VARCHAR(20)".into()));
            }
        }
        Ok(returning)
    }

    fn wrapper(&mut self) -> Result<Wrapper, Wrong> {
        let wrapper = if self.take("without") {
            Wrapper::Never
        } else if self.take("with") {
            match self.take("conditional") {
                true => Wrapper::Conditional,
                false => {
                    self.take("unconditional");
                    Wrapper::Always
                }
            }
        } else {
            return Ok(Wrapper::Never);
        };
        self.take("array");
        match self.take("wrapper") {
            true => Ok(wrapper),
            false => Err(self.wrong("WRAPPER is missing".into())),
        }
    }

    fn instead(&mut self) -> Result<Instead, Wrong> {
        if self.take("error") {
            return Ok(Instead::Error);
        }
        let kind = self.kind;
        match kind {
            Kind::Value | Kind::Query if self.take("null") => return Ok(Instead::Null),
            Kind::Value if self.take("default") => return self.default(),
            Kind::Query if self.take("empty") => {
                let object = self.take("object");
                if !object {
                    self.take("array");
                }
                return Ok(Instead::Empty(if object { "{}" } else { "[]" }));
            }
            Kind::Exists if self.take("unknown") => return Ok(Instead::Unknown),
            Kind::Exists if self.take("true") => return Ok(Instead::Truth(true)),
            Kind::Exists if self.take("false") => return Ok(Instead::Truth(false)),
            _ => {}
        }
        let found = self.tokens.get(self.at).map_or(String::new(), |t| format!(" `{}`", t.token));
        Err(self.wrong(format!("this is not understood:{found}")))
    }

    fn default(&mut self) -> Result<Instead, Wrong> {
        let at = self.at;
        if self.take("null") {
            return Ok(Instead::Null);
        }
        let minus = matches!(self.tokens.get(self.at).map(|t| &t.token), Some(Token::Minus));
        self.at += usize::from(minus);
        let value = match self.token() {
            Some(Token::Number(number, _)) => Some(if minus { format!("-{number}") } else { number.clone() }),
            Some(Token::SingleQuotedString(text)) if !minus => Some(text.clone()),
            Some(token) if !minus && is_word(token, "true") => Some("true".into()),
            Some(token) if !minus && is_word(token, "false") => Some("false".into()),
            _ => None,
        };
        match value {
            Some(value) => Ok(Instead::Default(value)),
            None => {
                let message = "DEFAULT takes a text, a number, true or false; COALESCE takes anything else";
                Err(self.wrong_at(at, message.into()))
            }
        }
    }
}

impl fmt::Display for Clauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match self.returning {
            Returning::String => {}
            Returning::Int => parts.push("RETURNING int".into()),
            Returning::Float => parts.push("RETURNING float".into()),
            Returning::Bool => parts.push("RETURNING bool".into()),
        }
        match self.wrapper {
            Wrapper::Never => {}
            Wrapper::Conditional => parts.push("WITH CONDITIONAL WRAPPER".into()),
            Wrapper::Always => parts.push("WITH WRAPPER".into()),
        }
        for (instead, end) in [(&self.on_empty, "ON EMPTY"), (&self.on_error, "ON ERROR")] {
            let instead = match instead {
                // It is what happens without a word.
                Instead::Null => continue,
                Instead::Unknown => "UNKNOWN".into(),
                Instead::Error => "ERROR".into(),
                Instead::Default(text) => format!("DEFAULT '{}'", text.replace('\'', "''")),
                Instead::Empty("{}") => "EMPTY OBJECT".into(),
                Instead::Empty(_) => "EMPTY ARRAY".into(),
                Instead::Truth(truth) => truth.to_string().to_uppercase(),
            };
            parts.push(format!("{instead} {end}"));
        }
        f.write_str(&parts.join(" "))
    }
}

/// `tokens` with the clauses of each call of the three functions as one text; a wrong path or clause is an error at its
/// place.
pub(crate) fn rewritten(mut tokens: Vec<TokenWithSpan>) -> Result<Vec<TokenWithSpan>, SqlError> {
    // From the end, so that places before it stay.
    for at in (0..tokens.len()).rev() {
        let kind = Kind::ALL.into_iter().find(|kind| is_word(&tokens[at].token, kind.name()));
        let Some((kind, open)) = kind.zip(next_token(&tokens, at)) else { continue };
        if tokens[open].token != Token::LParen {
            continue;
        }
        let Some(call) = Call::find(&tokens, open) else { continue };
        if let Some(path) = call.path {
            check_path(&tokens[path])?;
        }
        let Some(start) = call.clauses else { continue };
        let given: Vec<&TokenWithSpan> = tokens[start..call.end].iter().filter(|t| !is_space(&t.token)).collect();
        let clauses = Clauses::parse(kind, &given).map_err(|wrong| match wrong.span {
            Some(span) => SqlError::in_span(span, wrong.message),
            None => SqlError::new(wrong.message),
        })?;
        let text = clauses.to_string();
        let span = tokens[start].span;
        let argument = [Token::Comma, Token::SingleQuotedString(text.clone())];
        let argument = argument.into_iter().map(|token| TokenWithSpan::new(token, span));
        tokens.splice(start..call.end, argument.filter(|_| !text.is_empty()));
    }
    Ok(tokens)
}

/// Where the parts of a call stand among the tokens.
struct Call {
    /// The path, where it is a text.
    path: Option<usize>,
    /// The first word behind the path.
    clauses: Option<usize>,
    /// The closing parenthesis.
    end: usize,
}

impl Call {
    /// None where the call is not closed, or has other arguments than a value and a path.
    fn find(tokens: &[TokenWithSpan], open: usize) -> Option<Self> {
        let (mut depth, mut commas) = (0_usize, 0);
        let (mut path, mut clauses): (Vec<usize>, Option<usize>) = (Vec::new(), None);
        for (at, token) in tokens.iter().enumerate().skip(open) {
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
                Token::RParen | Token::RBracket | Token::RBrace => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        let first = path.first().copied();
                        let is_text = path.len() == 1
                            && first.is_some_and(|at| matches!(tokens[at].token, Token::SingleQuotedString(_)));
                        return (commas == 1).then_some(Self { path: first.filter(|_| is_text), clauses, end: at });
                    }
                }
                Token::Comma if depth == 1 => {
                    commas += 1;
                    continue;
                }
                Token::Whitespace(_) => continue,
                token if depth == 1 && commas == 1 && clauses.is_none() => {
                    let before = path.last().map(|&at| &tokens[at].token);
                    if before.is_some_and(ends_value) && STARTS.iter().any(|word| is_word(token, word)) {
                        clauses = Some(at);
                    }
                }
                _ => {}
            }
            if commas == 1 && clauses.is_none() {
                path.push(at);
            }
        }
        None
    }
}

/// Words that a clause begins with, those that are not supported too.
const STARTS: &[&str] = &[
    "returning",
    "default",
    "null",
    "error",
    "empty",
    "true",
    "false",
    "unknown",
    "with",
    "without",
    "passing",
    "keep",
    "omit",
    "format",
];

/// True for a token that a path can end with.
fn ends_value(token: &Token) -> bool {
    match token {
        Token::SingleQuotedString(_) | Token::RParen | Token::RBracket => true,
        Token::Word(word) => {
            let operators = ["is", "not", "then", "else", "when", "and", "or", "case", "in", "like"];
            word.quote_style.is_some() || !operators.iter().any(|o| word.value.eq_ignore_ascii_case(o))
        }
        _ => false,
    }
}

/// An error in the literal where a path is none.
fn check_path(token: &TokenWithSpan) -> Result<(), SqlError> {
    let Token::SingleQuotedString(text) = &token.token else { return Ok(()) };
    Path::read(text).map(drop).map_err(|wrong| {
        let before: String = text.chars().take(wrong.at).collect();
        let mut place = token.span;
        // A quote is written twice.
        if !before.contains('\n') {
            place.start.column += 1 + (before.chars().count() + before.matches('\'').count()) as u64;
        }
        SqlError::in_span(place, wrong.to_string())
    })
}

fn next_token(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    (at + 1..tokens.len()).find(|&next| !is_space(&tokens[next].token))
}

fn is_space(token: &Token) -> bool {
    matches!(token, Token::Whitespace(_))
}

fn is_word(token: &Token, wanted: &str) -> bool {
    matches!(token, Token::Word(word) if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_are_read_from_what_is_written_of_them() {
        for (kind, text) in [
            (Kind::Value, ""),
            (Kind::Value, "RETURNING int DEFAULT '-1' ON EMPTY ERROR ON ERROR"),
            (Kind::Value, "DEFAULT 'it''s' ON ERROR"),
            (Kind::Query, "WITH CONDITIONAL WRAPPER EMPTY ARRAY ON EMPTY EMPTY OBJECT ON ERROR"),
            (Kind::Query, "WITH WRAPPER"),
            (Kind::Exists, "TRUE ON ERROR"),
        ] {
            assert_eq!(Clauses::read(kind, text).unwrap().to_string(), if text.is_empty() { "" } else { text });
        }
        let read = |text| Clauses::read(Kind::Value, text).unwrap();
        assert_eq!(read("returning DOUBLE PRECISION"), read("RETURNING float"));
        assert_eq!(read("RETURNING VARCHAR(20) NULL ON EMPTY DEFAULT NULL ON ERROR"), Clauses::none(Kind::Value));
    }
}
