//! The counts at the end of a run: what each component read, handed on, and put aside.

use std::fmt;
use std::sync::Arc;

use crate::metrics::Throughput;
use crate::tally::{Fate, Place};
use crate::worker::Running;

/// The counts of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    rows: Vec<Row>,
    /// Records that the run read: from its sources, or in a replay from their logs.
    pub read: u64,
    /// Records that became dead letters.
    pub dead_letters: u64,
    /// Records that were dropped by `on_error: skip`.
    pub skipped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    kind: &'static str,
    name: Arc<str>,
    through: Throughput,
    failed: Vec<(&'static str, Fate, u64)>,
}

/// More dead letters than this make a run fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeadLetterLimit {
    /// So many records.
    Records(u64),
    /// So many of a hundred records that were read.
    Percent(f64),
}

impl std::str::FromStr for DeadLetterLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is neither a number of records (10) nor a share (2.5%)");
        match text.strip_suffix('%') {
            Some(share) => match share.trim().parse() {
                Ok(share) if (0.0..=100.0).contains(&share) => Ok(Self::Percent(share)),
                _ => Err(wrong()),
            },
            None => text.parse().map(Self::Records).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for DeadLetterLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(records) => write!(f, "{records}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl Summary {
    /// The counts of `running` so far.
    pub fn of(running: &Running) -> Self {
        let pipeline = &running.pipeline;
        let counts = running.metrics.tally().counts();
        let row = |kind, name: &Arc<str>| {
            let failed = counts.iter().filter(|(place, _)| place.component_kind == kind && place.component == *name);
            Row {
                kind,
                name: name.clone(),
                through: running.metrics.throughput(kind, name),
                failed: failed.map(|(Place { failure, fate, .. }, records)| (*failure, *fate, *records)).collect(),
            }
        };
        let mut rows: Vec<Row> = pipeline.sources.iter().map(|s| row("source", &s.name)).collect();
        rows.extend(pipeline.transforms.iter().map(|t| row("transform", &t.name)));
        rows.extend(pipeline.tables.iter().map(|t| row("table", &t.name)));
        rows.extend(pipeline.sinks.iter().map(|s| row("sink", &s.name)));
        let sum = |fate| counts.iter().filter(|(place, _)| place.fate == fate).map(|(_, records)| records).sum();
        let received: u64 = rows.iter().filter(|r| r.kind == "source").map(|r| r.through.received).sum();
        // A replay reads the sources' logs.
        let stages = running.plan.stages.iter().filter(|s| pipeline.source(&s.input).is_some());
        let replayed = stages.map(|s| running.metrics.throughput("stage", &s.id).received).max().unwrap_or(0);
        let read = if received == 0 { replayed } else { received };
        Self { rows, read, dead_letters: sum(Fate::DeadLetter), skipped: sum(Fate::Skipped) }
    }

    /// True where more records are dead letters than `limit` allows.
    pub fn exceeds(&self, limit: DeadLetterLimit) -> bool {
        match limit {
            DeadLetterLimit::Records(records) => self.dead_letters > records,
            DeadLetterLimit::Percent(share) => self.dead_letters as f64 * 100.0 > share * self.read as f64,
        }
    }

    /// One line of the log for each component, for programs that read it.
    pub fn log(&self) {
        for Row { kind, name, through, failed } in &self.rows {
            let (mut letters, mut skipped) = (0, 0);
            for (_, fate, records) in failed {
                match fate {
                    Fate::DeadLetter => letters += records,
                    Fate::Skipped => skipped += records,
                    Fate::Refused => {}
                }
            }
            tracing::info!(
                component_kind = kind, component_id = %name, received = through.received, sent = through.sent,
                dead_letters = letters, skipped, "counts"
            );
        }
    }
}

/// A table for people.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |row: &Row| format!("{} {}", row.kind, row.name);
        let width = self.rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0).max("component".len());
        write!(f, "  {:width$}  {:>12}  {:>12}  put aside", "component", "in", "out")?;
        for row in &self.rows {
            let aside: Vec<String> = row.failed.iter().map(aside).collect();
            let aside = if aside.is_empty() { "-".to_owned() } else { aside.join(", ") };
            let Throughput { received, sent, .. } = row.through;
            write!(f, "\n  {:width$}  {received:>12}  {sent:>12}  {aside}", name(row))?;
        }
        Ok(())
    }
}

fn aside((failure, fate, records): &(&'static str, Fate, u64)) -> String {
    match fate {
        Fate::DeadLetter => format!("{records} dead letters ({failure})"),
        Fate::Skipped => format!("{records} skipped ({failure})"),
        Fate::Refused => format!("{records} refused ({failure})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_a_share_of_what_was_read() {
        let summary = |read, dead_letters| Summary { rows: Vec::new(), read, dead_letters, skipped: 0 };
        let limit = |text: &str| text.parse::<DeadLetterLimit>().unwrap();
        assert!(summary(100, 1).exceeds(limit("0")) && !summary(100, 0).exceeds(limit("0")));
        assert!(summary(100, 6).exceeds(limit("5")) && !summary(100, 5).exceeds(limit("5")));
        assert!(summary(200, 3).exceeds(limit("1%")) && !summary(200, 2).exceeds(limit("1%")));
        assert!(summary(929, 929).exceeds(limit("99.9%")));
        for wrong in ["-1", "101%", "a few", "%", "1.5"] {
            assert!(wrong.parse::<DeadLetterLimit>().is_err(), "{wrong}");
        }
    }
}
