//! Traps of YAML: text that is valid YAML, or nearly, and not what was meant.
//!
//! * `{ sql: SELECT id, n FROM s }`: in braces a comma ends the value, and `n FROM s` becomes a key.
//! * `sql: SELECT a #> b FROM s`: ` #` begins a comment.
//! * A tab in the indentation, a line that is indented by a space too few or too many.

use crate::config::diagnostics::Problem;
use crate::config::tree::{Content, Entry, LineIndex, Node, Place, Style};

/// Values in braces that a comma ended, each at its comma; problems inside of `hidden` are only consequences.
#[derive(Debug, Default)]
pub struct Braces {
    /// What to say.
    pub problems: Vec<Problem>,
    /// The bytes of the keys that are none.
    pub hidden: Vec<std::ops::Range<usize>>,
}

/// Looks for values that a comma ended.
pub fn braces(root: &Node, source: &str) -> Braces {
    let mut found = Braces::default();
    visit(root, source, &mut found);
    found
}

fn visit(node: &Node, source: &str, found: &mut Braces) {
    match &node.content {
        Content::List(items) => items.iter().for_each(|item| visit(item, source, found)),
        Content::Map(entries) => {
            look(entries, source, found);
            entries.iter().for_each(|entry| visit(&entry.value, source, found));
        }
        Content::Scalar(_) => {}
    }
}

fn look(entries: &[Entry], source: &str, found: &mut Braces) {
    let lines = LineIndex::new(source);
    let mut at = 0;
    while at < entries.len() {
        let first = &entries[at];
        let cut: Vec<&Entry> = entries[at + 1..].iter().take_while(|entry| is_no_key(entry, source)).collect();
        at += 1 + cut.len();
        let is_plain = matches!(&first.value.content, Content::Scalar(s) if s.style == Style::Plain);
        let (Some(last), true) = (cut.last(), is_plain) else { continue };
        let (start, end) = (first.value.place.bytes.clone(), last.place.bytes.end);
        let Some(meant) = source.get(start.start..end) else { continue };
        let meant = meant.split_whitespace().collect::<Vec<_>>().join(" ");
        let quoted =
            if meant.contains('"') { format!("'{}'", meant.replace('\'', "''")) } else { format!("\"{meant}\"") };
        let key = &first.key;
        let comma = source[start.end..].find(',').map_or(start.end, |i| start.end + i);
        let place = Place { at: lines.position(comma), bytes: start.end..comma + 1 };
        found.problems.push(Problem::error(
            &place,
            format!("in braces a comma ends a value: `{key}` is only `{}` here", first.value.typed()),
            Some(format!(
                "quote it ({key}: {quoted}), or use `|`: write `{key}: |` and the text below, without braces"
            )),
        ));
        found.hidden.extend(cut.iter().map(|entry| entry.place.bytes.clone()));
    }
}

/// True for a word between commas, which YAML takes for a key without a value.
fn is_no_key(entry: &Entry, source: &str) -> bool {
    let behind = source.get(entry.place.bytes.end..).unwrap_or_default().trim_start();
    entry.value.is_null() && behind.starts_with([',', '}'])
}

/// The place of ` #` behind a text without quotes, on the line where the text ends; none where there is no comment.
pub fn comment_behind(node: &Node, source: &str) -> Option<Place> {
    let Content::Scalar(scalar) = &node.content else { return None };
    if scalar.style != Style::Plain {
        return None;
    }
    let rest = source.get(node.place.bytes.end..)?.split('\n').next()?;
    let hash = rest.len() - rest.trim_start().len();
    (hash > 0 && rest.trim_start().starts_with('#')).then(|| {
        let at = node.place.bytes.end + hash;
        Place { at: LineIndex::new(source).position(at), bytes: at..at + 1 }
    })
}

/// What is probably wrong where the parser stopped in line `line`: where, what, and what to do.
pub fn explain_stop(source: &str, line: usize) -> Option<(Place, String, &'static str)> {
    let lines = LineIndex::new(source);
    let column = |line: usize, index: usize, length: usize| {
        let start = lines.line_start(line) + index;
        Place { at: lines.position(start), bytes: start..start + length }
    };
    // The parser stops at the tab, or at the line behind it.
    for near in [line, line.saturating_sub(1), line + 1] {
        let text = lines.line(near);
        let indent = text.len() - text.trim_start_matches([' ', '\t']).len();
        if let Some(tab) = text[..indent].find('\t').filter(|_| !text.trim().is_empty()) {
            let message = "this line is indented with a tab".to_owned();
            return Some((column(near, tab, 1), message, "YAML is indented with spaces, not with tabs"));
        }
    }
    if let Some((at, typed)) = sql_above(&lines, line) {
        let text = &typed[..];
        let start = lines.line(at).find(text).unwrap_or(0);
        return Some((
            column(at, start, text.len()),
            "this SQL is no valid YAML without quotes: `: `, ` #`, and in braces `,`, `[` and `{` end it".to_owned(),
            "quote it, or use `|`: write `sql: |` and the SQL in the lines below, indented",
        ));
    }
    let (at, message) = indentation(&lines, line)?;
    let text = lines.line(at);
    let indent = text.len() - text.trim_start().len();
    Some((column(at, 0, indent.max(1)), message, "entries of one map or list begin in the same column"))
}

/// The line at or shortly above `line` that holds SQL without quotes, and that SQL.
fn sql_above(lines: &LineIndex<'_>, line: usize) -> Option<(usize, String)> {
    for at in (line.saturating_sub(3).max(1)..=line).rev() {
        let text = lines.line(at);
        for key in ["sql:", "delete_when:"] {
            let Some((_, value)) = text.split_once(key) else { continue };
            let value = value.trim();
            let risky = [": ", " #", "{", "[", ", "].iter().any(|trap| value.contains(trap));
            if risky && !value.starts_with(['"', '\'', '|', '>']) {
                return Some((at, value.to_owned()));
            }
        }
    }
    None
}

/// The first line up to `line` whose indentation fits nothing above it, and what is wrong with it.
fn indentation(lines: &LineIndex<'_>, line: usize) -> Option<(usize, String)> {
    let mut open: Vec<usize> = vec![0];
    let mut block: Option<usize> = None;
    let mut opens = true;
    let mut depth_of_braces = 0_i64;
    for at in 1..=line {
        let text = lines.line(at);
        let trimmed = text.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let indent = text.len() - text.trim_start().len();
        if block.is_some_and(|above| indent > above) {
            continue;
        }
        block = None;
        let inside_braces = depth_of_braces > 0;
        let count = |chars: [char; 2]| trimmed.matches(chars).count() as i64;
        depth_of_braces += count(['{', '[']) - count(['}', ']']);
        if inside_braces {
            continue;
        }
        let deepest = *open.last().unwrap_or(&0);
        if indent > deepest {
            if !opens {
                let said = format!(
                    "this line is indented by {indent} spaces, deeper than the one above ({deepest}), which has a value already"
                );
                return Some((at, said));
            }
            open.push(indent);
        } else if indent < deepest {
            open.retain(|&o| o <= indent);
            if open.last() != Some(&indent) {
                let above = open.last().copied().unwrap_or(0);
                let said = format!(
                    "this line is indented by {indent} spaces, which fits nothing above it ({above} or {deepest})"
                );
                return Some((at, said));
            }
        }
        let content = trimmed.split(" #").next().unwrap_or(trimmed).trim_end();
        // `- a: 1` opens a map at the column of `a`.
        if let Some(item) = trimmed.strip_prefix("- ") {
            open.push(indent + (trimmed.len() - item.trim_start().len()));
        }
        opens = content.ends_with(':') || content == "-";
        if content.ends_with(['|', '>']) || content.ends_with("|-") || content.ends_with(">-") {
            block = Some(indent);
        }
    }
    None
}
