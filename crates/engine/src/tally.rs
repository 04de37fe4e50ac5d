//! Records that did not get through, counted by component, kind and what became of them: said in the log when it
//! happens, and in the table of counts at the end of a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::RowFailure;
use parking_lot::Mutex;
use tokio::time::Instant;

/// More of the same is said at most this often.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What became of a record that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It is in the dead letter queue.
    DeadLetter,
    /// It was dropped: `on_error: skip`.
    Skipped,
    /// Its sender was told (a push over HTTP): it is not kept.
    Refused,
}

/// Which component failed on a record, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// source, transform, table or sink.
    pub component_kind: &'static str,
    /// Its name.
    pub component: Arc<str>,
    /// The kind of failure.
    pub failure: &'static str,
    /// What became of the records.
    pub fate: Fate,
}

/// Counts of failed records of this run.
#[derive(Debug, Default)]
pub struct Tally {
    /// Nothing awaits while it is held; taken only where records fail.
    counts: Mutex<BTreeMap<Place, Count>>,
}

#[derive(Debug)]
struct Count {
    records: u64,
    said: u64,
    said_at: Instant,
    /// What the first of those that were not said yet failed with.
    example: String,
}

impl Tally {
    /// Counts failures; the first of a kind is said at once.
    pub fn add(&self, component_kind: &'static str, component: &Arc<str>, failures: &[RowFailure], fate: Fate) {
        let mut counts = self.counts.lock();
        for failure in failures {
            let kind = failure.failure.kind.as_str();
            let place = Place { component_kind, component: component.clone(), failure: kind, fate };
            let count = counts.entry(place).or_insert_with(|| Count {
                records: 0,
                said: 0,
                said_at: Instant::now(),
                example: failure.failure.message.clone(),
            });
            if count.records == count.said {
                failure.failure.message.clone_into(&mut count.example);
            }
            count.records += 1;
        }
        counts.iter_mut().filter(|(_, count)| count.said == 0).for_each(say);
    }

    /// Says what has come since the last time, where that is a while ago.
    pub fn say_more(&self) {
        let mut counts = self.counts.lock();
        let due = |count: &Count| count.records > count.said && count.said_at.elapsed() >= SAY_EVERY;
        counts.iter_mut().filter(|(_, count)| due(count)).for_each(say);
    }

    /// All counts.
    pub fn counts(&self) -> Vec<(Place, u64)> {
        self.counts.lock().iter().map(|(place, count)| (place.clone(), count.records)).collect()
    }

    /// Records that are dead letters.
    pub fn dead_letters(&self) -> u64 {
        let counts = self.counts.lock();
        counts.iter().filter(|(place, _)| place.fate == Fate::DeadLetter).map(|(_, count)| count.records).sum()
    }
}

fn say((place, count): (&Place, &mut Count)) {
    let records = count.records - count.said;
    (count.said, count.said_at) = (count.records, Instant::now());
    let Place { component_kind, component, failure, fate } = place;
    let plural = if records == 1 { "" } else { "s" };
    let example = &count.example;
    let place = format!("{component_kind} {component}: {records} record{plural}");
    match fate {
        Fate::DeadLetter => tracing::warn!(
            "{place} put into the dead letter queue ({failure}), such as: {example}; `millstream dlq summary` shows all"
        ),
        Fate::Skipped => tracing::warn!("{place} skipped ({failure}), such as: {example}"),
        Fate::Refused => tracing::debug!("{place} refused ({failure}), such as: {example}"),
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::{Failure, FailureKind};

    use super::*;

    fn failures(kind: FailureKind, records: u32) -> Vec<RowFailure> {
        (0..records).map(|row| RowFailure { row, failure: Failure::new(kind, "no good") }).collect()
    }

    #[test]
    fn failures_are_counted_by_component_kind_and_fate() {
        let tally = Tally::default();
        let wire: Arc<str> = "wire".into();
        tally.add("source", &wire, &failures(FailureKind::Malformed, 3), Fate::DeadLetter);
        tally.add("source", &wire, &failures(FailureKind::Malformed, 2), Fate::DeadLetter);
        tally.add("source", &wire, &failures(FailureKind::MissingField, 1), Fate::DeadLetter);
        tally.add("sink", &"hook".into(), &failures(FailureKind::Rejected, 4), Fate::Skipped);
        let counts: Vec<_> = tally.counts().into_iter().map(|(p, n)| (p.component_kind, p.failure, n)).collect();
        assert_eq!(counts, [("sink", "rejected", 4), ("source", "malformed", 5), ("source", "missing_field", 1)]);
        assert_eq!(tally.dead_letters(), 6, "what was skipped is no dead letter");
    }
}
