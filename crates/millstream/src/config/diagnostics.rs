//! What is wrong with a pipeline file: where, what, and what to do. Secrets never get into one.

use std::fmt;
use std::ops::Range;

use millstream_core::names::nearest;
use serde::Serialize;

use crate::config::tree::{LineIndex, Place, TreeError};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The pipeline can't start.
    Error,
    /// It can, but something is probably not as it was meant.
    Warning,
}

/// One thing that is wrong with a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file, as it was named on the command line; or the option (`--set sinks.queue.url`).
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The line in the file with a mark under the place.
    #[serde(skip)]
    excerpt: Option<Excerpt>,
    /// True where it stands on the command line: nobody counts lines there.
    #[serde(skip)]
    is_option: bool,
    /// True where `help` is for files alone.
    #[serde(skip)]
    pub(super) is_help_for_files: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Excerpt {
    line: String,
    /// Characters in front of the mark.
    before: usize,
    /// Characters of the mark.
    width: usize,
}

/// Everything that is wrong with a pipeline file, from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// The only problem: the file itself could not be read.
    pub fn unreadable(file: &str, message: impl Into<String>, help: Option<String>) -> Self {
        let message = message.into();
        Self(vec![Diagnostic {
            severity: Severity::Error,
            file: file.into(),
            line: 1,
            column: 1,
            message,
            help,
            excerpt: None,
            is_option: false,
            is_help_for_files: false,
        }])
    }

    /// The number of errors.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.severity == Severity::Error).count()
    }
}

impl Diagnostic {
    /// Says that it is about an option of the command line, at that line of its value.
    pub(super) fn of_option(&mut self, option: String, line: usize) {
        self.file = option;
        self.line = line;
        self.is_option = true;
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = if self.severity == Severity::Warning { "warning: " } else { "" };
        match self.is_option {
            true => writeln!(f, "{}: {warning}{}", self.file, self.message)?,
            false => writeln!(f, "{}:{}:{}: {warning}{}", self.file, self.line, self.column, self.message)?,
        }
        if let Some(Excerpt { line, before, width }) = &self.excerpt {
            let margin = self.line.to_string().len();
            writeln!(f, "{:margin$} |", "")?;
            writeln!(f, "{} | {line}", self.line)?;
            writeln!(f, "{:margin$} | {:before$}{:^<width$}", "", "", "")?;
        }
        if let Some(help) = &self.help {
            writeln!(f, "  {help}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A problem and its place, before it is put into words for a person.
#[derive(Debug, Clone)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// True where that is for files alone: a shell takes quotes away.
    pub is_help_for_files: bool,
}

impl Problem {
    /// An error at `place`.
    pub fn error(place: &Place, message: impl Into<String>, help: Option<String>) -> Self {
        Self {
            severity: Severity::Error,
            place: place.clone(),
            message: message.into(),
            help,
            is_help_for_files: false,
        }
    }

    /// A warning at `place`.
    pub fn warning(place: &Place, message: impl Into<String>, help: Option<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message, help) }
    }

    /// True for an error, false for a warning.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl From<TreeError> for Problem {
    fn from(error: TreeError) -> Self {
        Self::error(&error.place, error.message, error.help)
    }
}

/// What must not be shown: where secrets stand in the file, and what they are.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// The bytes of the file that hold secrets.
    pub places: Vec<Range<usize>>,
    /// The secrets.
    pub values: Vec<String>,
}

/// Turns problems into diagnostics: sorted by place, each once, with the line of the file, without secrets.
pub fn report(file: &str, source: &str, problems: Vec<Problem>, secrets: &Secrets) -> Diagnostics {
    let lines = LineIndex::new(source);
    let mut diagnostics: Vec<Diagnostic> = problems
        .into_iter()
        .map(|problem| Diagnostic {
            severity: problem.severity,
            file: file.to_owned(),
            line: problem.place.at.line,
            column: problem.place.at.column,
            excerpt: Some(excerpt(&lines, source, &problem.place, secrets)),
            message: secrets.redact(&problem.message),
            help: problem.help.map(|help| secrets.redact(&help)),
            is_option: false,
            is_help_for_files: problem.is_help_for_files,
        })
        .collect();
    diagnostics.sort_by_key(|d| (d.line, d.column));
    diagnostics.dedup();
    Diagnostics(diagnostics)
}

impl Secrets {
    /// `text` without the secrets in it, on one line.
    fn redact(&self, text: &str) -> String {
        let mut text = text.replace(char::is_control, " ");
        for value in &self.values {
            // A shorter one would turn up inside of ordinary words.
            if value.len() >= 3 && text.contains(value.as_str()) {
                text = text.replace(value.as_str(), "***");
            }
        }
        text
    }
}

/// A longer line is cut off: nobody reads it on a terminal.
const EXCERPT_CHARS_MAX: usize = 160;

fn excerpt(lines: &LineIndex<'_>, source: &str, place: &Place, secrets: &Secrets) -> Excerpt {
    let line = lines.line(place.at.line);
    let start = lines.line_start(place.at.line);
    let from = place.bytes.start.clamp(start, start + line.len());
    let to = place.bytes.end.clamp(from, start + line.len());
    let (before, marked) = (masked(source, start..from, secrets), masked(source, from..to, secrets));
    let after = masked(source, to..start + line.len(), secrets);
    let (before, marked, after) = (spaces(&before), spaces(&marked), spaces(&after));
    let width = marked.trim_end().chars().count().max(1);
    let mut shown = format!("{before}{marked}{after}");
    if let Some((cut, _)) = shown.char_indices().nth(EXCERPT_CHARS_MAX) {
        shown.truncate(cut);
        shown.push('…');
    }
    let before = before.chars().count();
    Excerpt { line: shown, before, width: width.min(EXCERPT_CHARS_MAX.saturating_sub(before).max(1)) }
}

/// Tabs would move the mark.
fn spaces(text: &str) -> String {
    text.replace('\t', " ")
}

/// `source[range]`, with secrets shown as `***`; the names of variables stay.
fn masked(source: &str, range: Range<usize>, secrets: &Secrets) -> String {
    let mut shown = String::new();
    let mut at = range.start;
    let mut hidden: Vec<&Range<usize>> =
        secrets.places.iter().filter(|p| p.start < range.end && p.end > range.start && !p.is_empty()).collect();
    hidden.sort_by_key(|p| p.start);
    for place in hidden {
        let (from, to) = (place.start.max(at), place.end.min(range.end));
        if from >= to {
            continue;
        }
        shown.push_str(&source[at..from]);
        let typed = &source[from..to];
        let quote = typed
            .chars()
            .next()
            .filter(|c| matches!(c, '"' | '\'') && typed.len() > 1)
            .map(String::from)
            .unwrap_or_default();
        let inside = typed.trim_matches(['"', '\'']);
        shown.push_str(&format!("{quote}{}{quote}", only_variables(inside)));
        at = to;
    }
    shown.push_str(&source[at..range.end]);
    shown
}

/// `${NAME}` stays, everything else of a secret is shown as `***`.
fn only_variables(typed: &str) -> String {
    let mut shown = String::new();
    let mut rest = typed;
    while let Some((before, inside)) = rest.split_once("${") {
        let Some((variable, after)) = inside.split_once('}') else { break };
        if !before.is_empty() {
            shown.push_str("***");
        }
        match variable.split_once(":-") {
            Some((name, _)) => shown.push_str(&format!("${{{name}:-***}}")),
            None => shown.push_str(&format!("${{{variable}}}")),
        }
        rest = after;
    }
    if !rest.is_empty() {
        shown.push_str("***");
    }
    shown
}

/// "did you mean `x`?", or the list of what there is.
pub fn suggestion(name: &str, what: &str, known: &[&str]) -> Option<String> {
    if let Some(nearest) = nearest(name, known.iter().copied()) {
        return Some(format!("did you mean `{nearest}`?"));
    }
    (!known.is_empty()).then(|| format!("{what}: {}", known.join(", ")))
}
