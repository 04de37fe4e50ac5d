//! The queue in front of a model: many callers, one bounded queue, batches.
//!
//! * **Bounded**: at most [`QUEUE_BATCHES`] × `batch.max` texts wait (256 at least); a caller awaits a place for its next
//!   chunk. Besides those, each worker holds one batch.
//! * **Batching**: whoever takes a batch takes what is there. Where fewer than `batch.max` texts wait, it goes at once
//!   while the model is idle; otherwise it waits for more, `batch.max_delay` at most. Where more wait, the batch is the
//!   oldest text and those nearest to it in length, so that no time goes into padding and nothing starves.
//! * **Order**: answers are put back in the order of the call's inputs.
//! * **Panics** cost the text that caused them: its batch is repeated text by text.
//! * **Cancellation**: a dropped call leaves the queue; what is under way for it is finished and thrown away.

mod batch;
mod stats;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use millstream_core::{Error, Failure, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

pub use stats::{Histogram, ModelStats};

pub(crate) use worker::spawn_remote;

use crate::{BatchConfig, Model, ModelInfo, Prediction};

/// Batches that may wait.
const QUEUE_BATCHES: usize = 4;

/// What one text came to.
pub(crate) type Answer = Result<Prediction, Failure>;

/// A way to call a model; cheap to clone. The model goes away with its last handle.
#[derive(Clone)]
pub struct ModelHandle {
    owner: Arc<Owner>,
}

/// Closes the queue when the last handle is dropped.
struct Owner {
    queue: Arc<Queue>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl ModelHandle {
    /// Puts a queue in front of `models`: copies of one model, each on a thread of its own.
    ///
    /// # Errors
    /// `Environment`: a thread can't be started. `Bug`: `models` is empty.
    pub fn spawn(models: Vec<Box<dyn Model>>, batch: BatchConfig) -> Result<Self> {
        let info = models.first().ok_or_else(|| Error::bug("no model to put a queue in front of"))?.info().clone();
        let queue = Arc::new(Queue::new(info, batch, models.len()));
        let handle = Self::of(queue.clone());
        for model in models {
            worker::spawn_local(queue.clone(), model)?;
        }
        Ok(handle)
    }

    pub(crate) fn of(queue: Arc<Queue>) -> Self {
        Self { owner: Arc::new(Owner { queue }) }
    }

    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        &self.owner.queue.info
    }

    /// What the model has done so far.
    pub fn stats(&self) -> ModelStats {
        let queue = &self.owner.queue;
        let depth = queue.state.lock().waiting.len();
        queue.stats.snapshot(depth)
    }

    /// One answer per input, in the same order. Waits where the queue is full. Dropping the future gives its place up.
    ///
    /// # Errors
    /// The model as a whole could not answer: `Retry` where the same call may work later (an endpoint is down or
    /// overloaded; the message says for how long, if the endpoint does).
    pub async fn predict<T: Into<Arc<str>>>(&self, inputs: Vec<T>) -> Result<Vec<Result<Prediction, Failure>>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let queue = &self.owner.queue;
        let (call, reply) = Call::new(inputs.len());
        let mut guard = CallGuard { queue, call: &call, answered: false };
        let mut index = 0;
        let mut inputs = inputs.into_iter().peekable();
        while inputs.peek().is_some() && !call.is_over() {
            let chunk: Vec<Arc<str>> = inputs.by_ref().take(queue.batch.max).map(Into::into).collect();
            let places = queue.places.clone().acquire_many_owned(chunk.len() as u32).await;
            let places = places.map_err(|_| closed(&queue.info))?;
            let chunk_len = chunk.len();
            queue.push(&call, index, chunk, places)?;
            index += chunk_len;
        }
        let answers = reply.await.map_err(|_| closed(&queue.info))?;
        guard.answered = true;
        answers
    }
}

impl std::fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelHandle({}@{})", self.info().name, self.info().digest)
    }
}

fn closed(info: &ModelInfo) -> Error {
    Error::bug(format!("the thread of model `{}` is gone", info.name))
}

/// Takes what is left of a dropped or failed call out of the queue.
struct CallGuard<'a> {
    queue: &'a Queue,
    call: &'a Arc<Call>,
    answered: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        let failed_early = self.call.over.swap(true, Ordering::AcqRel);
        if !self.answered || failed_early {
            self.queue.state.lock().waiting.retain(|item| !Arc::ptr_eq(&item.call, self.call));
        }
    }
}

/// One call of [`ModelHandle::predict`].
pub(crate) struct Call {
    /// Nobody waits for further answers: it was dropped, or has failed as a whole.
    over: AtomicBool,
    progress: Mutex<Progress>,
}

struct Progress {
    answers: Vec<Option<Answer>>,
    missing: usize,
    reply: Option<oneshot::Sender<Result<Vec<Answer>>>>,
}

impl Call {
    fn new(inputs: usize) -> (Arc<Self>, oneshot::Receiver<Result<Vec<Answer>>>) {
        let (reply, answered) = oneshot::channel();
        let answers = std::iter::repeat_with(|| None).take(inputs).collect();
        let progress = Mutex::new(Progress { answers, missing: inputs, reply: Some(reply) });
        (Arc::new(Self { over: AtomicBool::new(false), progress }), answered)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn answer(&self, index: usize, answer: Answer) {
        let mut progress = self.progress.lock();
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

    fn fail(&self, error: Error) {
        self.over.store(true, Ordering::Release);
        if let Some(reply) = self.progress.lock().reply.take() {
            let _ = reply.send(Err(error));
        }
    }
}

/// One text of a call.
pub(crate) struct Item {
    text: Arc<str>,
    call: Arc<Call>,
    index: usize,
    queued_at: Instant,
    /// The place in the queue; given back when the item leaves it.
    place: Option<OwnedSemaphorePermit>,
}

/// What handles and workers share.
pub(crate) struct Queue {
    pub(crate) info: ModelInfo,
    batch: BatchConfig,
    /// While fewer batches than this are under way, one that is not full goes at once.
    eager_batches: usize,
    /// One permit for each text that may wait.
    places: Arc<Semaphore>,
    /// A `parking_lot::Mutex`: nothing awaits while it is held.
    state: Mutex<State>,
    /// Wakes worker threads.
    pushed: Condvar,
    /// Wakes an asynchronous worker.
    notify: Notify,
    stats: stats::Recorder,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    waiting: Vec<Item>,
    batches_under_way: usize,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(info: ModelInfo, batch: BatchConfig, eager_batches: usize) -> Self {
        Self {
            info,
            batch,
            eager_batches,
            places: Arc::new(Semaphore::new((batch.max * QUEUE_BATCHES).max(256))),
            state: Mutex::default(),
            pushed: Condvar::new(),
            notify: Notify::new(),
            stats: stats::Recorder::default(),
        }
    }

    fn push(
        &self,
        call: &Arc<Call>,
        first: usize,
        texts: Vec<Arc<str>>,
        mut places: OwnedSemaphorePermit,
    ) -> Result<()> {
        let queued_at = Instant::now();
        let mut state = self.state.lock();
        if state.closed {
            return Err(closed(&self.info));
        }
        for (i, text) in texts.into_iter().enumerate() {
            let place = places.split(1).ok_or_else(|| Error::bug("a text came without its place in the queue"))?;
            state.waiting.push(Item { text, call: call.clone(), index: first + i, queued_at, place: Some(place) });
        }
        drop(state);
        self.wake();
        Ok(())
    }

    /// Every worker, for one of them may be waiting for a batch to fill and would keep the only call to itself.
    fn wake(&self) {
        self.pushed.notify_all();
        self.notify.notify_one();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.places.close();
        self.wake();
    }
}

#[cfg(test)]
mod tests;
