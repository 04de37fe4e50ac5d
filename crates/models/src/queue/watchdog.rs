//! What is done about a model that hangs: its thread is given up, its texts are tried one by one, and a fresh thread
//! goes on.
//!
//! A thread can't be stopped from outside. One that is given up is left to itself; when it comes back after all, it
//! ends. The number of threads that may be out at a time is bounded: beyond [`GIVEN_UP_MAX`], the model answers with an
//! error.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, Failure, FailureKind, Result};
use parking_lot::MutexGuard;

use super::batch::{UnderWay, fail};
use super::{Queue, State, worker};

/// Threads of one model that may be out at a time.
const GIVEN_UP_MAX: usize = 4;
/// How often it looks: an eighth of the time-out, within these bounds.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(5);
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);

/// Watches the workers of a queue on a thread of its own, until the queue is closed.
pub(super) fn spawn(queue: Arc<Queue>) -> Result<()> {
    let name = format!("watch-{}", queue.info.name);
    match std::thread::Builder::new().name(name).spawn(move || watch(&queue)) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::environment("can't start a thread for the model").caused_by(e)),
    }
}

fn watch(queue: &Arc<Queue>) {
    let mut state = queue.state.lock();
    while !(state.closed && state.under_way.is_empty()) {
        let limit = queue.stall_timeout();
        let hung: Vec<u64> =
            state.under_way.iter().filter(|(_, b)| b.started.elapsed() >= limit).map(|(n, _)| *n).collect();
        for number in hung {
            if let Some(batch) = state.under_way.remove(&number) {
                give_up(queue, &mut state, batch, limit);
                MutexGuard::unlocked(&mut state, || replace(queue));
            }
        }
        queue.watch.wait_for(&mut state, (limit / 8).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX));
    }
}

fn give_up(queue: &Queue, state: &mut State, batch: UnderWay, limit: Duration) {
    state.workers -= 1;
    state.given_up += 1;
    state.stalls += 1;
    let texts = batch.items.len();
    tracing::warn!(model = %queue.info.name, texts, ?limit, "the model hangs; its thread is given up");
    if texts > 1 && !state.closed {
        // One of them is to blame: each gets another try, alone.
        batch.items.into_iter().for_each(|mut item| {
            item.alone = true;
            item.call.put_back();
            state.waiting.push(item);
        });
        return;
    }
    queue.stats.batch(texts, texts, batch.started.elapsed());
    for culprit in batch.items {
        let failure =
            Failure::new(FailureKind::Timeout, format!("the model gave no answer within {limit:?}, and hangs"));
        for item in state.waiting.remove_where(|waiting| waiting.text == culprit.text) {
            item.call.answer(item.index, Err(failure.clone()));
        }
        culprit.call.answer(culprit.index, Err(failure));
    }
}

/// Starts a fresh thread, where that is possible and enough are not out yet.
fn replace(queue: &Arc<Queue>) {
    let State { given_up, closed, .. } = *queue.state.lock();
    if closed {
        return;
    }
    if given_up > GIVEN_UP_MAX {
        return queue.break_down("too many of its threads hang".into());
    }
    let fresh = match &queue.factory {
        None => Err(Error::bug("its kind of model can't be started again")),
        Some(factory) => factory().and_then(|model| worker::spawn_local(queue.clone(), model)),
    };
    if let Err(e) = fresh {
        tracing::warn!(model = %queue.info.name, "no fresh thread: {e}");
        if queue.state.lock().workers == 0 {
            queue.break_down(format!("it hangs, and no fresh thread can be started ({e})"));
        }
    }
    queue.wake();
}

impl Queue {
    /// Answers everything with an error from now on.
    pub(super) fn break_down(&self, why: String) {
        tracing::error!(model = %self.info.name, "the model is out of order: {why}");
        let mut state = self.state.lock();
        state.broken = Some(why);
        let waiting = state.waiting.drain();
        drop(state);
        fail(waiting, &self.out_of_order());
    }

    pub(super) fn out_of_order(&self) -> Error {
        let why = self.state.lock().broken.clone().unwrap_or_default();
        let name = &self.info.name;
        Error::environment(format!(
            "model `{name}` is out of order: {why}. Load it again with `millstream models reload {name}`, or restart"
        ))
    }
}
