//! How far a sink is, and what of that is committed: offsets, the token of a staged sink, and dead letters, in one
//! write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_core::{Result, RowFailure, Stage};
use millstream_storage::log::Chunk;
use millstream_storage::state::{State, Writes};
use tokio::time::Instant;

use super::input::Input;
use crate::heard::{Heard, Word};
use crate::outbox::{self, COMMIT_KEY, Commit, Offset};
use crate::spec::OnError;
use crate::streams::StreamBatch;
use crate::tally::Fate;
use crate::task::TaskContext;

/// The shortest time between two commits that nothing else asks for.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// What may come together before it is committed without waiting for that: rows, which a crash would deliver again, and
/// letters, which are kept in memory.
const COMMIT_ROWS: usize = 8192;
const LETTER_BYTES: usize = 1 << 20;

/// How far a sink is.
pub(super) struct Ledger {
    pub(super) context: TaskContext,
    pub(super) name: Arc<str>,
    /// Appends dead letters.
    pub(super) producer: Arc<str>,
    pub(super) on_error: OnError,
    pub(super) state: State,
    pub(super) inputs: Vec<Input>,
    /// Of the last commit.
    pub(super) sequence: u64,
    /// The last commit has a token.
    pub(super) has_token: bool,
    pub(super) pending: Pending,
    /// From then on a commit waits for nothing.
    pub(super) due_at: Instant,
}

/// What the next commit will write, but for the offsets.
#[derive(Default)]
pub(super) struct Pending {
    /// Offsets have moved.
    has_moved: bool,
    rows: usize,
    failures: Vec<RowFailure>,
    letters: BTreeMap<Arc<str>, Vec<Chunk>>,
    letter_bytes: usize,
}

/// What became of rows of one partition of an input.
pub(super) struct Delivered {
    /// The input and its partition.
    pub(super) input: usize,
    pub(super) partition: u32,
    /// The offset behind the last row, and what was heard up to there.
    pub(super) end: u64,
    pub(super) words: Vec<Word>,
    /// How many the sink was given.
    pub(super) rows: usize,
    /// What it refused, and the letters of that where it wants them.
    pub(super) failures: Vec<RowFailure>,
    pub(super) letters: Option<Chunk>,
}

impl Delivered {
    /// No row of a batch was for the sink.
    pub(super) fn nothing(input: usize, batch: &StreamBatch) -> Self {
        let (partition, end, words) = (batch.partition, batch.end_offset(), batch.words.clone());
        Self { input, partition, end, words, rows: 0, failures: Vec::new(), letters: None }
    }
}

impl Ledger {
    /// Rows are done with: delivered, staged, put aside or not for this sink. Offsets move with their letters.
    pub(super) fn add(&mut self, delivered: Delivered) {
        let input = &mut self.inputs[delivered.input];
        let partition = delivered.partition as usize;
        input.offsets[partition] = delivered.end;
        input.heard[partition].take_all(&delivered.words);
        let pending = &mut self.pending;
        pending.has_moved = true;
        pending.rows += delivered.rows;
        pending.failures.extend(delivered.failures);
        if let Some(letters) = delivered.letters {
            pending.letter_bytes += letters.payload.len();
            pending.letters.entry(input.stream.name().clone()).or_default().push(letters);
        }
    }

    /// True where what has come together must not grow.
    pub(super) fn is_full(&self) -> bool {
        self.pending.letter_bytes >= LETTER_BYTES || self.pending.failures.len() >= COMMIT_ROWS
    }

    /// True where there is something to commit, and it has waited long enough.
    pub(super) fn is_due(&self) -> bool {
        let is_due = || Instant::now() >= self.due_at || self.pending.rows >= COMMIT_ROWS || self.is_full();
        self.pending.has_moved && is_due()
    }

    /// Waits until what there is to commit is due by time; for ever where there is nothing.
    pub(super) fn due(&self) -> impl Future<Output = ()> + use<> {
        let due_at = self.pending.has_moved.then_some(self.due_at);
        async move {
            match due_at {
                Some(due_at) => tokio::time::sleep_until(due_at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Commits all there is, with a token where there is one to publish, then appends the letters. Nothing is written
    /// where nothing has changed.
    ///
    /// # Errors
    /// The state or a log can't be written: the sink is of no further use then.
    pub(super) async fn commit(&mut self, token: Option<Bytes>) -> Result<()> {
        if !self.pending.has_moved && token.is_none() && !self.has_token {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let commit = Commit {
            sequence: self.sequence + 1,
            offsets: self.offsets(),
            token,
            outbox: pending.letters.into_iter().collect(),
        };
        let mut writes = Writes::new();
        writes.put(COMMIT_KEY, commit.encode());
        let written = self.state.commit(writes).await;
        written.map_err(|e| e.context(format!("commit sink {}", self.name)))?;
        self.sequence = commit.sequence;
        self.has_token = commit.token.is_some();
        for input in &mut self.inputs {
            input.committed.clone_from(&input.offsets);
            input.committed_heard.clone_from(&input.heard);
        }
        self.due_at = Instant::now() + COMMIT_EVERY;
        // Counted now: what is forgotten before its commit comes again.
        self.context.metrics.failed("sink", Stage::Deliver, &self.name, &pending.failures, self.fate());
        outbox::publish(commit, &self.producer, &self.context.streams).await?;
        if !self.has_token {
            self.report();
        }
        Ok(())
    }

    /// Commits where it begins, with the token that the last commit had.
    pub(super) async fn begin(&mut self, token: Option<Bytes>) -> Result<()> {
        self.pending.has_moved = true;
        let begun = self.commit(token).await;
        // The first piece is committed at once all the same.
        self.due_at = Instant::now();
        begun
    }

    /// Back to the last commit: what came after it comes again.
    pub(super) fn forget_pending(&mut self) {
        self.pending = Pending::default();
        for input in &mut self.inputs {
            input.offsets.clone_from(&input.committed);
            input.heard.clone_from(&input.committed_heard);
        }
    }

    /// Says how far it is: everything below that is committed and handed on.
    pub(super) fn report(&self) {
        for input in &self.inputs {
            for (partition, &offset) in input.committed.iter().enumerate() {
                self.context.progress.advance(&input.position, partition as u32, offset);
                self.context.metrics.committed(&self.producer, partition as u32, offset);
            }
        }
    }

    /// Closes the state, unless that takes too long: what was committed is durable without it.
    pub(super) async fn close(&self) -> Result<()> {
        tokio::select! {
            closed = self.state.close() => closed,
            () = self.context.hurry.sinks.cancelled() => Ok(()),
        }
    }

    fn offsets(&self) -> Vec<Offset> {
        let of = |input: &Input| {
            let stream = input.stream.name().clone();
            let at = |(partition, (next, heard)): (u32, (&u64, &Heard))| Offset {
                heard: heard.clone(),
                ..Offset::at(stream.clone(), partition, *next)
            };
            (0..).zip(input.offsets.iter().zip(&input.heard)).map(at).collect::<Vec<_>>()
        };
        self.inputs.iter().flat_map(of).collect()
    }

    fn fate(&self) -> Fate {
        match self.on_error {
            OnError::Skip => Fate::Skipped,
            OnError::Fail | OnError::DeadLetter | OnError::Default => Fate::DeadLetter,
        }
    }
}
