//! One call of a model, and its texts on their way through the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use millstream_core::{Error, Failure, Result};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{Input, Scored};

/// What the caller gets for one text.
pub(crate) type CallAnswer = Result<Scored, Failure>;

/// One call of [`crate::ModelHandle::predict`].
pub(crate) struct Call {
    /// Nobody waits for further answers: it was dropped, or has failed as a whole.
    over: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    answers: Vec<Option<CallAnswer>>,
    missing: usize,
    reply: Option<oneshot::Sender<Result<Vec<CallAnswer>>>>,
}

impl Call {
    pub(super) fn new(inputs: usize) -> (Arc<Self>, oneshot::Receiver<Result<Vec<CallAnswer>>>) {
        let (reply, answered) = oneshot::channel();
        let answers = std::iter::repeat_with(|| None).take(inputs).collect();
        let progress = Mutex::new(Progress { answers, missing: inputs, reply: Some(reply) });
        (Arc::new(Self { over: AtomicBool::new(false), progress }), answered)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends the call; true where it had ended before.
    pub(super) fn end(&self) -> bool {
        self.over.swap(true, Ordering::AcqRel)
    }

    pub(super) fn answer(&self, index: usize, answer: CallAnswer) {
        let mut progress = self.progress.lock();
        if progress.reply.is_none() {
            return;
        }
        if progress.answers[index].replace(answer).is_none() {
            progress.missing -= 1;
        }
        if progress.missing == 0
            && let Some(reply) = progress.reply.take()
        {
            // A caller that has gone does not want it.
            let _ = reply.send(Ok(progress.answers.drain(..).flatten().collect()));
        }
    }

    pub(super) fn fail(&self, error: Error) {
        self.end();
        if let Some(reply) = self.progress.lock().reply.take() {
            let _ = reply.send(Err(error));
        }
    }
}

/// One text of a call, or one row.
pub(crate) struct Item {
    pub(super) text: Input,
    /// What it counts against `batch.max_tokens`; also its length for finding texts of like length.
    pub(super) tokens: usize,
    pub(super) call: Arc<Call>,
    pub(super) index: usize,
    pub(super) queued_at: Instant,
    /// It was in a batch that hung: it gets a batch of its own, so that it can hang no other text.
    pub(super) alone: bool,
    /// Its place in the queue, by number and by bytes; given back when the item leaves it.
    pub(super) place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}
