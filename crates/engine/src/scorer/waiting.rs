//! What is done where nobody answers: the model's fault, or the record's?
//!
//! ```text
//!   no answer ──▶ was it "not now"? ──yes──▶ wait, ask again
//!                        │ no
//!                        ▼
//!       ask something harmless ──no answer──▶ wait, ask the harmless thing again
//!                        │ answered: the model is well
//!                        ▼
//!      several inputs? each for itself. One? It failed so often beside a model that is well: it is to blame.
//! ```
//!
//! So an endpoint that is down empties no stream into the dead letters, and a record that makes it stumble every time
//! stops nobody. Whoever waits holds its batch; the wait reaches back to the source.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result};
use millstream_models::{Input, Reads};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::{GaveUp, jittered};
use super::{Asking, Scorer};

/// What a model is asked to see whether it is well, as long as it has not answered anything better.
const HARMLESS: &str = "Ready";
/// The longest text or row that is kept to ask again.
const HARMLESS_BYTES_MAX: usize = 4 << 10;

/// How a caller waits for a model that is away.
#[derive(Debug, Clone)]
pub struct Patience {
    /// After this time the failure is handed on; none: it waits for ever.
    pub give_up_after: Option<Duration>,
    /// Ends all waiting.
    pub stop: CancellationToken,
    /// Who is told.
    pub told: Arc<dyn Told>,
}

/// Is told when callers begin and end to wait.
pub trait Told: std::fmt::Debug + Send + Sync {
    /// A call waits, for this reason; said at each attempt.
    fn waits(&self, reason: &str);
    /// A call that waited was answered, or has given up.
    fn answered(&self);
}

/// How the wait of one call goes.
pub(super) struct Wait<'a> {
    patience: &'a Patience,
    began: Instant,
    pause: Duration,
    pause_max: Duration,
    /// It has been said that this call waits.
    said: bool,
}

impl<'a> Wait<'a> {
    pub(super) fn new(patience: &'a Patience, asking: &Asking) -> Self {
        let pause = asking.retry.initial;
        Self { patience, began: Instant::now(), pause, pause_max: asking.retry.max, said: false }
    }

    /// Says why, and waits for the next attempt; false where it is time to give up.
    ///
    /// # Errors
    /// [`STOPPED`].
    pub(super) async fn pause(&mut self, reason: &str, at_least: Duration) -> Result<bool> {
        let left = self.patience.give_up_after.map(|limit| limit.saturating_sub(self.began.elapsed()));
        if left.is_some_and(|left| left.is_zero()) {
            // It goes on, though without an answer.
            self.is_over();
            return Ok(false);
        }
        self.said = true;
        self.patience.told.waits(reason);
        let pause = jittered(self.pause).max(at_least).min(left.unwrap_or(Duration::MAX));
        self.pause = (self.pause * 2).min(self.pause_max);
        self.unless_stopped(tokio::time::sleep(pause)).await?;
        Ok(true)
    }

    /// What `done` gives, unless the pipeline stops before.
    ///
    /// # Errors
    /// [`STOPPED`].
    pub(super) async fn unless_stopped<T>(&self, done: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.patience.stop.cancelled() => Err(Error::new(ErrorKind::Stopped, "stopped while the model was not available")),
            done = done => Ok(done),
        }
    }

    /// The model answers again, or it is waited for no longer.
    pub(super) fn is_over(&mut self) {
        if std::mem::take(&mut self.said) {
            self.patience.told.answered();
        }
        self.pause = self.pause.min(Duration::from_millis(100));
    }
}

impl Scorer {
    /// Asks the model something that it has answered before, or should be able to answer; why it does not.
    ///
    /// # Errors
    /// What it failed with, or that it did not answer in time.
    pub(super) async fn is_well(&self, asking: &Asking) -> std::result::Result<(), GaveUp> {
        let known = self.harmless.lock().clone();
        let input = known.unwrap_or_else(|| match &self.model.info().reads {
            Reads::Text => Input::from(HARMLESS),
            Reads::Row(columns) => columns.iter().map(|column| column.kind.example()).collect::<Vec<_>>().into(),
        });
        // An answer that it does not like this input is an answer.
        self.attempt(&[input], true, asking).await.map(drop)
    }

    /// Remembers an input that the model has answered.
    pub(super) fn keep_harmless(&self, input: &Input) {
        if input.len() <= HARMLESS_BYTES_MAX
            && let Some(mut kept) = self.harmless.try_lock()
        {
            *kept = Some(input.clone());
        }
    }
}

/// True where the failure says by itself that no input is to blame.
pub(super) fn is_away(kind: ErrorKind) -> bool {
    kind == ErrorKind::Unavailable
}
