//! Dead letters counted by component, stage, kind and message; and what a filter that takes nothing may have meant.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::names::{NAME_BYTES_MAX, nearest};
use millstream_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Entry, Filter};

/// Messages that are counted apart; what comes then is counted as one.
const MESSAGES_MAX: usize = 1000;

/// Dead letters of one kind with one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Source, transform, table or sink that failed.
    pub component: String,
    /// Stage that failed.
    pub stage: String,
    /// Kind of failure.
    pub kind: String,
    /// Why.
    pub message: String,
    /// How many.
    pub records: u64,
    /// When the first and the last of them failed, microseconds since the epoch.
    pub first_us: i64,
    /// See `first_us`.
    pub last_us: i64,
}

/// Counts dead letters.
#[derive(Debug, Default)]
pub struct Summary {
    /// Component, stage, kind and message → how many, and when the first and the last failed.
    groups: BTreeMap<[String; 4], (u64, i64, i64)>,
}

impl Summary {
    /// Counts one.
    pub fn add(&mut self, entry: &Entry) {
        let letter = &entry.letter;
        let place = |message: &str| {
            [letter.component.clone(), letter.stage.as_str().to_owned(), letter.kind.clone(), message.to_owned()]
        };
        let mut key = place(&general(&letter.message));
        if self.groups.len() >= MESSAGES_MAX && !self.groups.contains_key(&key) {
            key = place("(other messages)");
        }
        let at = letter.failed_at_us;
        let (records, first, last) = self.groups.entry(key).or_insert((0, at, at));
        (*records, *first, *last) = (*records + 1, (*first).min(at), (*last).max(at));
    }

    /// The groups, the largest first.
    pub fn groups(self) -> Vec<Group> {
        let group =
            |([component, stage, kind, message], (records, first_us, last_us)): ([String; 4], (u64, i64, i64))| Group {
                component,
                stage,
                kind,
                message,
                records,
                first_us,
                last_us,
            };
        let mut groups: Vec<Group> = self.groups.into_iter().map(group).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.records));
        groups
    }
}

/// A message without what differs from record to record: quoted values and numbers.
fn general(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(c) = rest.chars().next() {
        // The name of a field says which; the value behind `:` says only what this record held.
        if c.is_ascii_digit() {
            out.push('…');
            rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.' || c == ',');
            continue;
        }
        if c == '`'
            && let Some(end) = rest[1..].find('`')
        {
            let word = &rest[..end + 2];
            let is_name = out.is_empty() || out.ends_with("field ") || out.ends_with("column ");
            out.push_str(if is_name { word } else { "`…`" });
            rest = &rest[end + 2..];
            continue;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// An error where `filter` names a component or kind that no dead letter and no part of the pipeline has.
///
/// # Errors
/// `Config`, with the nearest name.
pub fn check(filter: &Filter, groups: &[Group], components: impl IntoIterator<Item = String>) -> Result<()> {
    let mut known: BTreeSet<String> = groups.iter().map(|g| g.component.clone()).collect();
    known.extend(components);
    is_known("component", filter.component.as_deref(), &known)?;
    let mut kinds: BTreeSet<String> = groups.iter().map(|g| g.kind.clone()).collect();
    kinds.extend(millstream_core::FailureKind::ALL.iter().map(|kind| kind.as_str().to_owned()));
    is_known("kind", filter.kind.as_deref(), &kinds)
}

fn is_known(what: &str, name: Option<&str>, known: &BTreeSet<String>) -> Result<()> {
    let Some(name) = name.filter(|name| !known.contains(*name)) else { return Ok(()) };
    let shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(k) => format!("did you mean `{k}`?"),
        None => format!("there are: {}", known.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
    };
    Err(Error::config(format!("no {what} `{shown}`; {hint}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_differ_in_values_only_are_one_group() {
        assert_eq!(general("field `n`: `x17` is no int"), "field `n`: `…` is no int");
        assert_eq!(general("expected `,` at byte 1,234"), "expected `…` at byte …");
        assert_eq!(general("no quote"), "no quote");
    }

    #[test]
    fn a_name_that_is_not_known_is_an_error_with_the_nearest() {
        let filter = |component: &str, kind: &str| Filter {
            component: Some(component.into()).filter(|c: &String| !c.is_empty()),
            kind: Some(kind.into()).filter(|k: &String| !k.is_empty()),
            ..Filter::default()
        };
        let check = |component, kind| check(&filter(component, kind), &[], ["wire".to_owned(), "queue".to_owned()]);
        assert!(check("wire", "malformed").is_ok());
        assert!(check("wirre", "").unwrap_err().to_string().contains("did you mean `wire`?"));
        assert!(check("", "malformd").unwrap_err().to_string().contains("did you mean `malformed`?"));
        assert!(check("something", "").unwrap_err().to_string().contains("there are: queue, wire"));
    }
}
