//! Which texts go together, and what becomes of their answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::{Error, Failure, FailureKind, Result};

use super::call::Item;
use super::waiting::{Limits, Standing};
use super::{Answer, BATCH_BYTES_MAX, Queue, State};
use crate::{Input, Scored};

/// A batch that has taken this long, or that a caller has given up on, has perhaps hung: the same texts, sent again, go
/// alone.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);

/// Texts on their way through the model. Dropped without an answer, it fails its calls.
pub(crate) struct Batch {
    queue: Arc<Queue>,
    number: u64,
    texts: Vec<Input>,
    ended: bool,
}

/// The queue's side of a batch: who takes it out ends it, be that the worker or the one who gives the worker up.
pub(super) struct UnderWay {
    pub(super) items: Vec<Item>,
    pub(super) started: Instant,
}

impl UnderWay {
    fn is_suspect(&self, after: Duration) -> bool {
        self.started.elapsed() > after || self.items.iter().any(|item| item.call.is_over())
    }
}

/// What a worker finds when it asks for work.
pub(super) enum Next {
    Batch(Batch),
    /// A batch is filling up; ask again when woken, or after this time.
    WaitAtMost(Duration),
    /// Nothing is there.
    Wait,
    /// The last handle is gone, or another model has taken over.
    Closed,
}

impl Queue {
    /// The next batch, if it is time for one.
    pub(super) fn next(self: &Arc<Self>, state: &mut State) -> Next {
        if state.closed {
            return Next::Closed;
        }
        let Some(oldest) = state.waiting.oldest() else { return Next::Wait };
        let full = state.waiting.len() >= self.batch.max || state.waiting.tokens() >= self.batch.max_tokens;
        if !full && state.under_way.len() >= self.eager_batches {
            let waited = oldest.queued_at.elapsed();
            if waited < self.batch.max_delay.0 {
                return Next::WaitAtMost(self.batch.max_delay.0 - waited);
            }
        }
        let limits = Limits { texts: self.batch.max, tokens: self.batch.max_tokens, bytes: BATCH_BYTES_MAX };
        let suspect_after = SUSPECT_AFTER.min(self.stall_timeout() / 2);
        let is_slow = |batch: &&UnderWay| self.is_watched && batch.is_suspect(suspect_after);
        let slow: Vec<&UnderWay> = state.under_way.values().filter(is_slow).collect();
        let mut items = state.waiting.take(limits, |item| standing(item, &slow));
        if items.is_empty() {
            return Next::Wait;
        }
        give_back_places(&mut items);
        items.iter().for_each(|item| item.call.begin());
        let texts = items.iter().map(|item| item.text.clone()).collect();
        let number = state.next_batch;
        state.next_batch += 1;
        state.under_way.insert(number, UnderWay { items, started: Instant::now() });
        Next::Batch(Batch { queue: self.clone(), number, texts, ended: false })
    }
}

/// All at once: each time takes a lock.
fn give_back_places(items: &mut [Item]) {
    let mut places = items.iter_mut().filter_map(|item| item.place.take());
    let Some((mut texts, mut bytes)) = places.next() else { return };
    for (text, more) in places {
        texts.merge(text);
        bytes.merge(more);
    }
}

fn standing(item: &Item, slow: &[&UnderWay]) -> Standing {
    if item.call.is_over() {
        return Standing::Over;
    }
    let mut standing = if item.alone { Standing::Alone } else { Standing::Free };
    for batch in slow {
        // Equal lengths first: most texts differ in it.
        if batch.items.iter().any(|i| i.text.len() == item.text.len() && i.text == item.text) {
            // The only text of a batch that hangs is what it hangs on: a second thread would hang too.
            if batch.items.len() == 1 {
                item.call.hold();
                return Standing::Held;
            }
            standing = Standing::Alone;
        }
    }
    standing
}

impl Batch {
    /// What it asks.
    pub(crate) fn inputs(&self) -> &[Input] {
        &self.texts
    }

    /// The texts, for those who read nothing else; see [`crate::ModelHandle::predict`].
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.texts.iter().filter_map(Input::as_text).collect()
    }

    /// Hands the answers to the callers. False where the batch was given up meanwhile: nobody wants them.
    pub(crate) fn answer(mut self, answers: Result<Vec<Answer>>) -> bool {
        let Some(UnderWay { items, started }) = self.end() else { return false };
        let answers = match answers {
            Ok(answers) if answers.len() != items.len() => {
                let message = "the model gave another number of answers than it got texts";
                Ok(vec![Err(Failure::new(FailureKind::Model, message)); items.len()])
            }
            other => other,
        };
        let failed = answers.as_ref().map_or(items.len(), |all| all.iter().filter(|a| a.is_err()).count());
        // Before the callers know: whoever has an answer finds it counted.
        self.queue.stats.batch(items.len(), failed, started.elapsed());
        match answers {
            Ok(answers) => {
                for (item, answer) in items.into_iter().zip(answers) {
                    let by = self.queue.info.clone();
                    item.call.answer(item.index, answer.map(|prediction| Scored { prediction, by }));
                }
            }
            Err(error) => fail(items, &error),
        }
        true
    }

    fn end(&mut self) -> Option<UnderWay> {
        self.ended = true;
        let mut state = self.queue.state.lock();
        let batch = state.under_way.remove(&self.number);
        if state.closed {
            self.queue.watch.notify_all();
        }
        drop(state);
        self.queue.wake();
        batch
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        if !self.ended
            && let Some(batch) = self.end()
        {
            fail(batch.items, &Error::retry("the model stopped in the middle of a batch"));
        }
    }
}

/// An error belongs to one call; the others get a copy of its kind and message.
pub(super) fn fail(items: Vec<Item>, error: &Error) {
    let message = error.to_string();
    for item in items {
        item.call.fail(Error::new(error.kind(), message.clone()));
    }
}
