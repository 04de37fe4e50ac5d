//! The queue in front of a model: many callers, one bounded queue, batches.
//!
//! * **Bounded**: at most [`QUEUE_BATCHES`] × `batch.max` texts wait (256 at least), and at most [`QUEUE_BYTES_MAX`]
//!   bytes of them; a caller awaits a place for its next chunk. Besides those, each worker holds one batch.
//! * **Batching**: whoever takes a batch takes what is there. Where less than `batch.max` texts and `batch.max_tokens`
//!   tokens wait, they go at once while the model is idle; otherwise they wait for more, `batch.max_delay` at most.
//!   Where more wait, the batch is the oldest text and those nearest to it in length, so that no time goes into padding
//!   and nothing starves.
//! * **Order**: answers are put back in the order of the call's inputs.
//! * **Panics** cost the text that caused them: its batch is repeated text by text.
//! * **A model that hangs** costs the text that caused it, and a thread; see `watchdog`.
//! * **Cancellation**: a dropped call leaves the queue; what is under way for it is finished and thrown away.
//! * **Replacement**: a model can be replaced by another with the same labels or dimensions. Each model has its own
//!   queue; what waits moves over, what is under way is answered by the old one, and every answer names who gave it.

mod batch;
mod call;
mod handle;
mod stats;
mod waiting;
mod watchdog;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use millstream_core::{Error, Failure, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

pub use handle::ModelHandle;
pub use stats::{Histogram, ModelStats};

pub(crate) use worker::spawn_remote;

use crate::model::estimated_tokens;
use crate::{BatchConfig, Input, ModelFactory, ModelInfo, Prediction, TokenEstimate};
use batch::UnderWay;
use call::{Call, Item};
use waiting::Waiting;

/// Batches that may wait.
const QUEUE_BATCHES: usize = 4;

/// Bytes of text that may wait.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Bytes of text in a batch, and in what a caller puts into the queue at a time; one text alone may have more.
const BATCH_BYTES_MAX: usize = 16 << 20;
/// How long a batch may take in a local model before its thread is given up.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What one text came to.
pub(crate) type Answer = Result<Prediction, Failure>;

/// What handles and workers share.
pub(crate) struct Queue {
    pub(crate) info: Arc<ModelInfo>,
    batch: BatchConfig,
    /// While fewer batches than this are under way, one that is not full goes at once.
    eager_batches: usize,
    estimate: TokenEstimate,
    factory: Option<ModelFactory>,
    /// It is a thread's: a batch that takes long has perhaps hung. Requests to an endpoint have their own time-out.
    is_watched: bool,
    stall_timeout_ms: AtomicU64,
    /// One permit for each text that may wait.
    places: Arc<Semaphore>,
    /// One permit for each byte that may wait.
    bytes: Arc<Semaphore>,
    /// A `parking_lot::Mutex`: nothing awaits while it is held.
    state: Mutex<State>,
    /// Wakes worker threads.
    pushed: Condvar,
    /// Wakes an asynchronous worker.
    notify: Notify,
    /// Wakes the watchdog.
    watch: Condvar,
    stats: stats::Recorder,
}

#[derive(Default)]
struct State {
    waiting: Waiting,
    under_way: BTreeMap<u64, UnderWay>,
    next_batch: u64,
    /// Threads that serve the queue.
    workers: usize,
    /// Threads that hung and have not come back.
    given_up: usize,
    /// How often a thread was given up.
    stalls: u64,
    /// Why nothing is answered any more.
    broken: Option<String>,
    closed: bool,
}

/// Why texts were not taken in.
enum Refused {
    /// The queue is closed; here they are again.
    Closed(Vec<Input>),
    /// The model is out of order.
    Broken(Error),
}

type Places = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Queue {
    pub(crate) fn new(info: ModelInfo, batch: BatchConfig, eager_batches: usize) -> Self {
        Self {
            info: Arc::new(info),
            batch,
            eager_batches,
            estimate: Arc::new(estimated_tokens),
            factory: None,
            is_watched: false,
            stall_timeout_ms: AtomicU64::new(STALL_TIMEOUT.as_millis() as u64),
            places: Arc::new(Semaphore::new((batch.max * QUEUE_BATCHES).max(256))),
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            state: Mutex::default(),
            pushed: Condvar::new(),
            notify: Notify::new(),
            watch: Condvar::new(),
            stats: stats::Recorder::default(),
        }
    }

    fn stall_timeout(&self) -> Duration {
        Duration::from_millis(self.stall_timeout_ms.load(Ordering::Relaxed))
    }

    fn set_stall_timeout(&self, timeout: Duration) {
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
        self.stall_timeout_ms.store(ms, Ordering::Relaxed);
        self.watch.notify_all();
    }

    /// Waits until there is room for `texts`; none where the queue is closed.
    async fn room(&self, texts: &[Input]) -> Option<Places> {
        let bytes: usize = texts.iter().map(held_bytes).sum();
        let places = self.places.clone().acquire_many_owned(texts.len() as u32).await.ok()?;
        let bytes = self.bytes.clone().acquire_many_owned(bytes as u32).await.ok()?;
        Some((places, bytes))
    }

    fn push(&self, call: &Arc<Call>, first: usize, texts: Vec<Input>, room: Places) -> Result<(), Refused> {
        let (mut places, mut bytes) = room;
        let queued_at = Instant::now();
        let mut items = Vec::with_capacity(texts.len());
        for (i, text) in texts.into_iter().enumerate() {
            let place = places.split(1).zip(bytes.split(held_bytes(&text)));
            let tokens = self.tokens(&text);
            items.push(Item {
                text,
                tokens,
                call: call.clone(),
                index: first + i,
                queued_at,
                alone: call.alone,
                place,
            });
        }
        let mut state = self.state.lock();
        if state.closed {
            return Err(Refused::Closed(items.into_iter().map(|item| item.text).collect()));
        }
        if state.broken.is_some() {
            drop(state);
            return Err(Refused::Broken(self.out_of_order()));
        }
        items.into_iter().for_each(|item| state.waiting.push(item));
        drop(state);
        self.wake();
        Ok(())
    }

    /// Every worker, for one of them may be waiting for a batch to fill and would keep the only call to itself.
    fn wake(&self) {
        self.pushed.notify_all();
        self.notify.notify_one();
    }

    /// Ends the workers once they are done with what is under way. Gives what waits.
    fn close(&self) -> Vec<Item> {
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = state.waiting.drain();
        drop(state);
        self.places.close();
        self.bytes.close();
        self.wake();
        self.watch.notify_all();
        waiting
    }

    /// What an input counts against `batch.max_tokens`; a row has none, and counts as one.
    fn tokens(&self, input: &Input) -> usize {
        input.as_text().map_or(1, |text| (self.estimate)(text))
    }

    /// Takes over what waited for another model.
    fn take_over(&self, items: Vec<Item>) {
        let mut state = self.state.lock();
        for mut item in items {
            // Its place was in the other queue.
            item.place = None;
            item.tokens = self.tokens(&item.text);
            state.waiting.push(item);
        }
        drop(state);
        self.wake();
    }
}

/// What a text takes of [`QUEUE_BYTES_MAX`]: one that is larger takes all of it.
fn held_bytes(text: &Input) -> usize {
    text.len().min(QUEUE_BYTES_MAX)
}

#[cfg(test)]
mod tests;
