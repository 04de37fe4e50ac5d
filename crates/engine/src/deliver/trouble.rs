//! What is in a sink's way: what may pass, how it is waited for, and how the sink gets on afterwards.

use std::time::Duration;

use millstream_core::{AnySink, Error, ErrorKind, Result};

use super::{Deliver, Wish};

/// The first and the longest pause between attempts.
pub(super) const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// Why delivering has come to a halt.
pub(super) enum Halt {
    /// The pipeline stops, and the sink is not available.
    Stopped,
    /// The sink can't do what it was asked to.
    Trouble(Error),
    /// Anything else: logs, the state, rows.
    Failed(Error),
}

impl From<Error> for Halt {
    fn from(e: Error) -> Self {
        Self::Failed(e)
    }
}

impl Deliver {
    /// Finishes what a crash or a failure may have interrupted.
    pub(super) async fn settle(&mut self) -> Result<(), Halt> {
        if let (AnySink::Staged(sink), true) = (&mut self.sink, self.is_unsettled) {
            sink.recover(self.sealed.clone()).await.map_err(Halt::Trouble)?;
            self.is_unsettled = false;
            // What was sealed is published.
            self.is_troubled &= self.sealed.take().is_none();
            let waited = self.pause > RETRY_PAUSE.0;
            if waited && !self.is_troubled {
                self.pause = RETRY_PAUSE.0;
                self.part.works();
            }
        }
        Ok(())
    }

    /// True for a failure that may go away without this pipeline. What a person has to change in the pipeline file may
    /// only where it has worked before: a password that was replaced, say.
    pub(super) fn may_pass(&self, e: &Error) -> bool {
        match e.kind() {
            ErrorKind::Retry | ErrorKind::Unavailable | ErrorKind::Environment => true,
            // What nobody can bring back is not waited for at the end of a run.
            ErrorKind::Gone => *self.wish.borrow() != Wish::Drain,
            ErrorKind::Config => self.has_worked,
            ErrorKind::Input | ErrorKind::Corruption | ErrorKind::Bug | ErrorKind::Stopped | ErrorKind::TooMuch => {
                false
            }
        }
    }

    /// Says why the sink waits, and waits; true where the pipeline stops meanwhile.
    pub(super) async fn wait_after(&mut self, e: &Error) -> bool {
        self.part.waits(&e.to_string());
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_PAUSE.1);
        let wish = *self.wish.borrow();
        let changed = async { self.wish.wait_for(|now| *now == Wish::Stop || *now != wish).await.map(|now| *now) };
        matches!(tokio::time::timeout(pause, changed).await, Ok(Ok(Wish::Stop)))
    }

    /// The sink has taken what it was given.
    pub(super) fn works(&mut self) {
        self.has_worked = true;
        // What is staged again has got no further than before.
        if !self.is_troubled {
            self.pause = RETRY_PAUSE.0;
            self.part.works();
        }
    }

    /// After a failure, a staged sink goes back to its committed offsets, and what it had put aside since is forgotten.
    /// A direct one goes on behind what it has delivered.
    pub(super) fn begin_anew(&mut self) {
        if let AnySink::Staged(_) = self.sink {
            self.is_unsettled = true;
            self.is_troubled |= self.staged_rows.take().is_some();
            self.ledger.forget_pending();
        }
    }
}
