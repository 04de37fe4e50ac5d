//! From a log to a sink: a reader with its own committed offsets. A sink that is down delays nobody but itself.
//!
//! A sink has a state as a task has one, with the same commit record in it (`outbox.rs`): the offsets of all its
//! inputs, what a staged sink has sealed, and the dead letters of what the other side refused for good, which go to the
//! streams' logs after the commit and, where a crash came between, again at the next start. So a record that a sink has
//! refused is in the queue once, and one that is in the queue is behind the offset.
//!
//! * A **direct** sink commits after the other side has accepted. A crash in between delivers what was not committed
//!   again, with the same ids: at least once.
//! * A **staged** sink commits offsets, token and letters together, then publishes: a crash in between publishes at the
//!   next start. What was not sealed is discarded, its letters too, and comes again: exactly once.
//!
//! # When a direct sink commits
//!
//! A commit is a write to the disk (on an object store, a request that is paid for), so not every piece that is
//! delivered gets one: the first at once, so that a run that is killed again and again still gets on; then one every
//! 100 ms, or where 8,192 rows or 1 MiB of letters have come together. What is delivered does not wait for more to
//! come: the next piece is on its way while the commit becomes due, a piece that takes long does not put it off, and
//! nothing is left uncommitted when the sink waits for its system, drains or stops. So a crash repeats what was
//! delivered in the last 100 ms, about 8,192 rows at most, and the piece under way. A staged sink commits when its
//! output is due; where it has put aside all that it was given, like a direct one.
//!
//! # Trouble
//!
//! A sink's trouble is the sink's. Whatever is in its way (a service that is away, a disk that is full, a folder that
//! is gone), it waits, says for what, and goes on by itself: a direct sink with the same rows, a staged one from its
//! committed offsets, with what it had staged discarded. Only damage, and settings that never worked, end the pipeline.

mod commit;
mod hand_over;
mod input;
mod open;
#[cfg(test)]
mod tests;
mod trouble;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use millstream_core::{AnySink, Result};
use millstream_storage::state::StateOptions;
use tokio::sync::watch;

use self::commit::Ledger;
use self::trouble::Halt;
use crate::health::Part;
use crate::spec::SinkSpec;
use crate::task::TaskContext;

pub use self::open::Opening;

/// How often a staged sink is asked whether it is due.
const DUE_EVERY: Duration = Duration::from_millis(100);
/// For how long it waits where nothing but news can end it.
const LONG: Duration = Duration::from_secs(3600);

/// What the pipeline wants of its sinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Run,
    /// Everything upstream is at its end: deliver all there is, publish what is staged.
    Drain,
    /// Finish the batch under way, publish what is staged, and return.
    Stop,
}

/// A sink with its place.
pub struct Deliver {
    context: TaskContext,
    spec: Arc<SinkSpec>,
    sink: AnySink,
    /// Where it is, and what of that is committed.
    ledger: Ledger,
    wish: watch::Receiver<Wish>,
    part: Part,
    /// How long to wait after the next failure.
    pause: Duration,
    /// The sink has taken rows in this run, so its settings can work.
    has_worked: bool,
    /// Of a staged sink: it has begun anew after a failure, and has published nothing since.
    is_troubled: bool,
    /// Of a staged sink: what the last run, or a failure, has left has to be finished before anything else.
    is_unsettled: bool,
    /// Of a staged sink: the token of the last commit, until it is published.
    sealed: Option<Bytes>,
    /// Rows staged since the last commit; none where nothing was given to a staged sink since.
    staged_rows: Option<usize>,
}

/// Name under which a sink's own redriven records are addressed, it appends to logs, and its state lies.
pub fn sink_target(name: &str) -> Arc<str> {
    format!("sink:{name}").into()
}

/// Those of a state that holds one record, among others that have `shared`.
pub fn state_options(shared: &StateOptions) -> StateOptions {
    StateOptions { memtable_bytes: shared.memtable_bytes.min(256 << 10), ..shared.clone() }
}

impl Deliver {
    /// Delivers until told to stop.
    pub async fn run(mut self) -> Result<()> {
        self.deliver_until_told().await?;
        self.ledger.close().await
    }

    async fn deliver_until_told(&mut self) -> Result<()> {
        let name = self.spec.name.clone();
        loop {
            let trouble = match self.work().await {
                Ok(()) => return Ok(()),
                Err(Halt::Stopped) => return self.keep_delivered().await,
                Err(Halt::Failed(e)) => return Err(e),
                Err(Halt::Trouble(e)) if self.may_pass(&e) => e,
                Err(Halt::Trouble(e)) => {
                    // What has ended the sink is what a person has to know.
                    let _ = self.keep_delivered().await;
                    return Err(e.context(format!("sink {name}")));
                }
            };
            self.begin_anew();
            if self.wait_after(&trouble).await {
                return self.keep_delivered().await;
            }
        }
    }

    async fn work(&mut self) -> Result<(), Halt> {
        self.settle().await?;
        loop {
            let wish = *self.wish.borrow_and_update();
            if wish == Wish::Stop {
                return self.publish().await;
            }
            let mut moved = false;
            for input in 0..self.ledger.inputs.len() {
                for partition in 0..self.ledger.inputs[input].partitions() {
                    moved |= self.advance(input, partition).await?;
                    if *self.wish.borrow() == Wish::Stop {
                        return self.publish().await;
                    }
                }
            }
            if self.is_due() || (!moved && wish == Wish::Drain) {
                self.publish().await?;
            }
            self.commit_if_due().await?;
            if !moved {
                self.wait().await?;
            }
        }
    }

    /// Waits for more to deliver, for a wish, for a commit or a staged output to become due.
    async fn wait(&mut self) -> Result<()> {
        let more = self.ledger.inputs.iter().flat_map(|input| {
            let changed = |(p, &offset): (usize, &u64)| input.stream.log.changed(p as u32, offset).boxed();
            input.offsets.iter().enumerate().map(changed)
        });
        let more: Vec<_> = more.collect();
        let timer = if self.staged_rows.is_some() { DUE_EVERY } else { LONG };
        tokio::select! {
            (changed, _, _) = select_all(more) => changed,
            _ = self.wish.changed() => Ok(()),
            () = tokio::time::sleep(timer) => Ok(()),
            () = self.ledger.due(), if self.has_staged_nothing() => Ok(()),
        }
    }

    /// True where what is staged should be published now.
    fn is_due(&self) -> bool {
        matches!(&self.sink, AnySink::Staged(sink) if sink.due(self.context.clock.now_us()))
    }

    /// True where offsets may be committed without a token: for a direct sink always.
    fn has_staged_nothing(&self) -> bool {
        self.staged_rows.unwrap_or(0) == 0
    }

    async fn commit_if_due(&mut self) -> Result<(), Halt> {
        if !self.ledger.is_due() {
            return Ok(());
        }
        if self.has_staged_nothing() {
            self.ledger.commit(None).await?;
        } else if self.ledger.is_full() {
            self.publish().await?;
        }
        Ok(())
    }

    /// Commits what the other side has accepted; what is only staged comes again.
    async fn keep_delivered(&mut self) -> Result<()> {
        match self.sink {
            AnySink::Direct(_) => self.ledger.commit(None).await,
            AnySink::Staged(_) => Ok(()),
        }
    }

    /// Of a staged sink: seals, commits offsets, letters and token together, publishes. Of a direct one: commits.
    async fn publish(&mut self) -> Result<(), Halt> {
        let AnySink::Staged(sink) = &mut self.sink else {
            self.ledger.commit(None).await?;
            return Ok(());
        };
        let sealed = sink.seal(self.context.clock.now_us()).await.map_err(Halt::Trouble)?;
        self.ledger.commit(sealed.clone()).await?;
        let rows = self.staged_rows.take().unwrap_or(0);
        self.sealed = sealed;
        while let Some(token) = self.sealed.clone() {
            let AnySink::Staged(sink) = &mut self.sink else { break };
            // Once the token is stored the output must appear, however often it takes.
            match sink.publish(token).await {
                Ok(()) => self.sealed = None,
                Err(e) if self.may_pass(&e) => {
                    if self.wait_after(&e).await {
                        return Err(Halt::Stopped);
                    }
                    continue;
                }
                Err(e) => return Err(Halt::Trouble(e)),
            }
            self.is_troubled = false;
            self.works();
        }
        self.context.metrics.sent("sink", &self.spec.name, rows);
        self.ledger.report();
        Ok(())
    }
}

impl std::fmt::Debug for Deliver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Deliver({})", self.spec.name)
    }
}
