//! Those who take batches from the queue: a thread per local model, a task per endpoint.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use millstream_core::{Error, Failure, FailureKind, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::batch::{Batch, Next};
use super::{Answer, ModelHandle, Queue, State};
use crate::remote::Remote;
use crate::remote::gate::{Gate, Turn};
use crate::remote::protocol::quoted;
use crate::{BatchConfig, Input, Model, ModelInfo, Reads};

/// Runs `model` on a thread of its own, until the queue is closed or the thread was given up.
pub(super) fn spawn_local(queue: Arc<Queue>, mut model: Box<dyn Model>) -> Result<()> {
    let name = format!("model-{}", queue.info.name);
    let mut seat = Seat { queue: queue.clone(), given_up: false };
    queue.state.lock().workers += 1;
    let work = move || {
        while let Some(batch) = wait_for_batch(&seat.queue) {
            let answers = predict(model.as_mut(), batch.inputs());
            if !batch.answer(answers) {
                seat.given_up = true;
                return;
            }
        }
    };
    match std::thread::Builder::new().name(name).spawn(work) {
        Ok(_) => Ok(()),
        Err(e) => Err(Error::environment("can't start a thread for the model").caused_by(e)),
    }
}

/// A worker's place among those of its queue.
struct Seat {
    queue: Arc<Queue>,
    /// Its place was taken from it while it hung.
    given_up: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if self.given_up {
            state.given_up -= 1;
            return;
        }
        state.workers -= 1;
        let nobody_left = state.workers == 0 && !state.closed;
        drop(state);
        if nobody_left {
            self.queue.break_down("its last thread has ended".into());
        }
    }
}

fn wait_for_batch(queue: &Arc<Queue>) -> Option<Batch> {
    let mut state = queue.state.lock();
    loop {
        match queue.next(&mut state) {
            Next::Batch(batch) => return Some(batch),
            Next::Closed => return None,
            Next::Wait => queue.pushed.wait(&mut state),
            Next::WaitAtMost(time) => {
                queue.pushed.wait_for(&mut state, time);
            }
        }
    }
}

/// Asks the model; where it panics, asks again text by text, so that only the text that caused it fails.
fn predict(model: &mut dyn Model, texts: &[Input]) -> Result<Vec<Answer>> {
    match catch_unwind(AssertUnwindSafe(|| ask(model, texts))) {
        Ok(answers) => answers,
        Err(panic) if texts.len() == 1 => Ok(vec![Err(failure_of(&*panic))]),
        Err(_) => {
            tracing::warn!(model = %model.info().name, texts = texts.len(), "the model panicked; trying its texts one by one");
            let mut answers = Vec::with_capacity(texts.len());
            for text in texts {
                match predict(model, std::slice::from_ref(text))?.pop() {
                    Some(answer) => answers.push(answer),
                    None => answers.push(Err(Failure::new(FailureKind::Model, "the model gave no answer"))),
                }
            }
            Ok(answers)
        }
    }
}

/// All inputs of a queue are of the sort that its model reads.
fn ask(model: &mut dyn Model, inputs: &[Input]) -> Result<Vec<Answer>> {
    match model.info().reads {
        Reads::Text => model.predict(&inputs.iter().filter_map(Input::as_text).collect::<Vec<_>>()),
        Reads::Row(_) => model.predict_rows(&inputs.iter().filter_map(Input::as_row).collect::<Vec<_>>()),
    }
}

fn failure_of(panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Failure::new(FailureKind::Model, format!("the model panicked: {}", quoted(message.unwrap_or("no message"))))
}

/// Puts a queue in front of an endpoint; at most `concurrency` batches are under way at once.
///
/// # Errors
/// `Bug`: there is no Tokio runtime.
pub(crate) fn spawn_remote(
    info: ModelInfo,
    batch: BatchConfig,
    concurrency: usize,
    remote: Remote,
) -> Result<ModelHandle> {
    let runtime = tokio::runtime::Handle::try_current()
        .map_err(|e| Error::bug("an endpoint's model was loaded outside a runtime").caused_by(e))?;
    let queue = Arc::new(Queue::new(info, batch, 1));
    queue.stats.watch(remote.gate().clone());
    runtime.spawn(drive(queue.clone(), concurrency, Arc::new(remote)));
    Ok(ModelHandle::of(queue))
}

async fn drive(queue: Arc<Queue>, concurrency: usize, remote: Arc<Remote>) {
    let slots = Arc::new(Semaphore::new(concurrency));
    let mut under_way = JoinSet::new();
    loop {
        while under_way.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Some((batch, turn)) = next_batch(&queue, remote.gate()).await else { break };
        let remote = remote.clone();
        under_way.spawn(async move {
            let answers = remote.predict(&batch.texts(), turn).await;
            batch.answer(answers);
            drop(slot);
        });
    }
    // Dropping the set ends what nobody waits for any more.
}

/// The next batch and the turn to send it; none where the last handle is gone. It is taken when it can be sent: until
/// the endpoint may be asked, texts gather, and those of callers that give up leave.
async fn next_batch(queue: &Arc<Queue>, gate: &Gate) -> Option<(Batch, Option<Turn>)> {
    let mut turn = None;
    loop {
        until(queue, |state| state.closed || !state.waiting.is_empty()).await;
        tokio::select! {
            new = gate.turn(turn.take()) => turn = new,
            () = until(queue, |state| state.closed) => return None,
        }
        // Its own statement: the lock must not be held while this waits.
        let next = queue.next(&mut queue.state.lock());
        match next {
            Next::Batch(batch) => return Some((batch, turn)),
            Next::Closed => return None,
            Next::Wait => {}
            Next::WaitAtMost(time) => {
                let _ = tokio::time::timeout(time, queue.notify.notified()).await;
            }
        }
    }
}

/// Waits for something about the queue. A wake-up that it takes from another is no loss: everyone looks before waiting.
async fn until(queue: &Queue, is_so: impl Fn(&State) -> bool) {
    while !is_so(&queue.state.lock()) {
        queue.notify.notified().await;
    }
}
