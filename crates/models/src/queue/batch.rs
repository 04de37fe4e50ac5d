//! Which texts go together, and what becomes of their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::{Error, Failure, FailureKind, Result};

use super::{Answer, Item, Queue, State};

/// Texts on their way through the model. Dropped without an answer, it fails its calls.
pub(crate) struct Batch {
    queue: Arc<Queue>,
    items: Vec<Item>,
    started: Instant,
}

/// What a worker finds when it asks for work.
pub(super) enum Next {
    Batch(Batch),
    /// A batch is filling up; ask again when woken, or after this time.
    WaitAtMost(Duration),
    /// Nothing is there.
    Wait,
    /// The last handle is gone.
    Closed,
}

impl Queue {
    /// The next batch, if it is time for one.
    pub(super) fn next(self: &Arc<Self>, state: &mut State) -> Next {
        if state.closed {
            return Next::Closed;
        }
        state.waiting.retain(|item| !item.call.is_over());
        let Some(oldest) = state.waiting.first() else { return Next::Wait };
        if state.waiting.len() < self.batch.max && state.batches_under_way >= self.eager_batches {
            let waited = oldest.queued_at.elapsed();
            if waited < self.batch.max_delay.0 {
                return Next::WaitAtMost(self.batch.max_delay.0 - waited);
            }
        }
        let mut items = take_similar(&mut state.waiting, self.batch.max);
        items.iter_mut().for_each(|item| item.place = None);
        state.batches_under_way += 1;
        Next::Batch(Batch { queue: self.clone(), items, started: Instant::now() })
    }
}

/// Takes the oldest item and those nearest to it in length, `max` in all; the rest stays in order.
fn take_similar(waiting: &mut Vec<Item>, max: usize) -> Vec<Item> {
    if waiting.len() <= max {
        return std::mem::take(waiting);
    }
    let oldest_len = waiting[0].text.len();
    let mut by_distance: Vec<usize> = (0..waiting.len()).collect();
    // Index last: of two texts at the same distance, the older one goes first, and the oldest always does.
    by_distance.select_nth_unstable_by_key(max - 1, |&i| (waiting[i].text.len().abs_diff(oldest_len), i));
    let mut is_taken = vec![false; waiting.len()];
    by_distance[..max].iter().for_each(|&i| is_taken[i] = true);
    let mut taken = Vec::with_capacity(max);
    let mut rest = Vec::with_capacity(waiting.len() - max);
    for (item, is_taken) in waiting.drain(..).zip(is_taken) {
        if is_taken { taken.push(item) } else { rest.push(item) }
    }
    *waiting = rest;
    taken
}

impl Batch {
    /// The texts.
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.items.iter().map(|item| &*item.text).collect()
    }

    /// Hands the answers to the callers.
    pub(crate) fn answer(mut self, answers: Result<Vec<Answer>>) {
        let answers = match answers {
            Ok(answers) if answers.len() != self.items.len() => {
                let message = format!("the model gave {} answers to {} texts", answers.len(), self.items.len());
                Ok(vec![Err(Failure::new(FailureKind::Model, message)); self.items.len()])
            }
            other => other,
        };
        let failed = answers.as_ref().map_or(self.items.len(), |all| all.iter().filter(|a| a.is_err()).count());
        // Before the callers know: whoever has an answer finds it counted.
        self.queue.stats.batch(self.items.len(), failed, self.started.elapsed());
        match answers {
            Ok(answers) => {
                for (item, answer) in self.items.drain(..).zip(answers) {
                    item.call.answer(item.index, answer);
                }
            }
            Err(error) => self.fail(&error),
        }
    }

    /// An error belongs to one call; the others get a copy of its kind and message.
    fn fail(&mut self, error: &Error) {
        let message = error.to_string();
        for item in self.items.drain(..) {
            item.call.fail(Error::new(error.kind(), message.clone()));
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.fail(&Error::retry("the model stopped in the middle of a batch"));
        let mut state = self.queue.state.lock();
        state.batches_under_way -= 1;
        drop(state);
        self.queue.wake();
    }
}
