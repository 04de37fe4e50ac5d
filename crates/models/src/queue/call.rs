//! One call of a model, and its texts on their way through the queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// One of its inputs is kept back because the model hangs at the same input of another call.
    held: AtomicBool,
    /// Its inputs get batches of their own.
    pub(super) alone: bool,
    progress: Mutex<Progress>,
}

struct Progress {
    answers: Vec<Option<CallAnswer>>,
    missing: usize,
    /// Inputs that are with the model.
    under_way: usize,
    /// When the model was last given one, or gave an answer.
    moved_at: tokio::time::Instant,
    reply: Option<oneshot::Sender<Result<Vec<CallAnswer>>>>,
}

impl Call {
    pub(super) fn new(inputs: usize, alone: bool) -> (Arc<Self>, oneshot::Receiver<Result<Vec<CallAnswer>>>) {
        let (reply, answered) = oneshot::channel();
        let answers = std::iter::repeat_with(|| None).take(inputs).collect();
        let moved_at = tokio::time::Instant::now();
        let progress = Progress { answers, missing: inputs, under_way: 0, moved_at, reply: Some(reply) };
        let progress = Mutex::new(progress);
        (Arc::new(Self { over: AtomicBool::new(false), held: AtomicBool::new(false), alone, progress }), answered)
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends the call; true where it had ended before.
    pub(super) fn end(&self) -> bool {
        self.over.swap(true, Ordering::AcqRel)
    }

    /// One of the inputs is with the model from now on.
    pub(super) fn begin(&self) {
        let mut progress = self.progress.lock();
        progress.under_way += 1;
        progress.moved_at = tokio::time::Instant::now();
    }

    /// One of the inputs is as good as under way.
    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// One of the inputs waits again.
    pub(super) fn put_back(&self) {
        let mut progress = self.progress.lock();
        progress.under_way = progress.under_way.saturating_sub(1);
    }

    /// Waits until the model has had something of this call for `limit` without a sign of life. Time in the queue does
    /// not count.
    pub(super) async fn overdue(&self, limit: Duration) {
        loop {
            let now = tokio::time::Instant::now();
            let since = {
                let progress = self.progress.lock();
                (progress.under_way > 0 || self.held.load(Ordering::Acquire)).then_some(progress.moved_at)
            };
            match since {
                Some(since) if now.saturating_duration_since(since) >= limit => return,
                Some(since) => tokio::time::sleep_until(since + limit).await,
                None => tokio::time::sleep(limit).await,
            }
        }
    }

    pub(super) fn answer(&self, index: usize, answer: CallAnswer) {
        let mut progress = self.progress.lock();
        progress.under_way = progress.under_way.saturating_sub(1);
        progress.moved_at = tokio::time::Instant::now();
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
