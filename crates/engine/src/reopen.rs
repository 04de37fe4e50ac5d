//! What a reader of logs (a task, a sink) finds of itself when it is opened: its last commit, checked against the logs
//! and with its outbox appended; and where it goes on.

use std::sync::Arc;

use millstream_core::{Error, Result};
use millstream_storage::state::State;

use crate::metrics::Metrics;
use crate::outbox::{self, COMMIT_KEY, Commit};
use crate::streams::{Stream, Streams};

/// What reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderKind {
    /// A task of a stage.
    Stage,
    /// A sink.
    Sink,
}

impl ReaderKind {
    /// As in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Sink => "sink",
        }
    }

    /// What `millstream repair` does where its state is no good.
    fn remedy(self) -> &'static str {
        match self {
            Self::Stage => "build it anew from its log",
            Self::Sink => "start the sink again with the oldest record",
        }
    }
}

/// Who reads.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// What it is.
    pub kind: ReaderKind,
    /// The id of the stage, or the name of the sink.
    pub id: &'a Arc<str>,
    /// The name under which it appends to its output logs.
    pub producer: &'a Arc<str>,
}

/// A reader as its last run has left it.
#[derive(Debug)]
pub struct Reopened {
    /// Its last commit, whose outbox is in the logs. Where it has none, its number is that of what its logs have of it:
    /// they would drop what has an old one.
    pub commit: Commit,
    /// It has no commit: it is new, or its state was removed.
    pub is_fresh: bool,
}

impl Reopened {
    /// True where it has no commit and had one: its logs know it.
    pub fn is_lost(&self) -> bool {
        self.is_fresh && self.commit.sequence > 0
    }
}

/// Reads the last commit of `reader` and appends whatever that still owes.
///
/// # Errors
/// A state that is older than what it has written, or ahead of a log, is `Corruption`: one of them was replaced.
pub async fn reopen(reader: Reader<'_>, state: &State, streams: &Streams) -> Result<Reopened> {
    let stored = state.get(COMMIT_KEY).await?;
    let is_fresh = stored.is_none();
    let written = written_sequence(reader.producer, streams);
    let commit = match stored {
        Some(bytes) => Commit::decode(bytes)?,
        None => Commit { sequence: written, ..Commit::default() },
    };
    let (kind, id, remedy) = (reader.kind.as_str(), reader.id, reader.kind.remedy());
    if commit.sequence < written {
        return Err(Error::corruption(format!(
            "the state {} is older than what it has written to its streams (commit {}, there {written}): an older copy \
             was put in its place, or in that of its manifest or wal. Put the newest back, or let `millstream repair` \
             {remedy}",
            state.path(),
            commit.sequence
        )));
    }
    for outbox::Offset { stream, partition, next, .. } in &commit.offsets {
        let end = streams.get(stream).map_or(u64::MAX, |stream| stream.log.end_offset(*partition));
        if *next > end {
            return Err(Error::corruption(format!(
                "{kind} {id} is at offset {next} of {stream} partition {partition}, but that log ends at {end}: the \
                 log folder was removed or replaced. Restore it, or start with another data folder"
            )));
        }
    }
    let kept = Commit { outbox: Vec::new(), ..commit.clone() };
    outbox::publish(commit, reader.producer, streams).await?;
    Ok(Reopened { commit: kept, is_fresh })
}

/// The number of the last commit of a producer that its output logs have seen.
fn written_sequence(producer: &str, streams: &Streams) -> u64 {
    streams.values().filter_map(|stream| stream.log.producer(producer)?.sequence).max().unwrap_or(0)
}

impl Reader<'_> {
    /// Where this reader goes on that has stored `offset`: there, or with the oldest record that is kept. What
    /// retention has removed in between it will never see; that is said, and counted.
    pub fn goes_on_at(&self, offset: u64, stream: &Stream, partition: u32, metrics: &Metrics) -> u64 {
        let start = stream.log.start_offset(partition);
        let Some(missed) = start.checked_sub(offset).filter(|missed| *missed > 0) else { return offset };
        let (kind, id, name) = (self.kind.as_str(), self.id, stream.name());
        tracing::warn!(
            %kind,
            component = %id,
            stream = %name,
            partition,
            records = missed,
            "{kind} {id} does not see {missed} records of `{name}`: retention removed them while it was not there. It \
             goes on at offset {start} of partition {partition}"
        );
        metrics.discarded(kind, id, missed);
        start
    }
}
