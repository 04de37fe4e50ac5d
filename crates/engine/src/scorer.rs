//! A model with what stands beside it. Whoever asks, a `predict` step or a request to the server, is answered the same
//! way.
//!
//! ```text
//! inputs ──▶ cache ──what is new──▶ model ──where it can't answer──▶ fallback ──▶ answers ──▶ shadow, from the side
//!                                     └──what it says──▶ cache
//! ```
//!
//! Retry lives here and nowhere below: only whoever asks knows how long an input may still wait ([`Asking`]), and a
//! model's `fallback` is asked when the attempts are used up. Where there is none, records wait and requests do not
//! ([`waiting`]).

mod calls;
pub mod waiting;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use millstream_core::{ErrorKind, Failure, FailureKind, Result};
use millstream_models::{Fallback, Input, ModelHandle, ModelInfo, Scored};
use parking_lot::Mutex;

use crate::model_cache::ModelCache;
use crate::shadow::{self, Shadow};
use crate::spec::RetrySpec;
use waiting::Patience;

/// Bytes of what one call asks.
const CALL_BYTES: usize = 4 << 20;

/// A model, ready to be asked; cheap to clone.
#[derive(Debug, Clone)]
pub struct Scorer {
    model: ModelHandle,
    /// Answers where the model as a whole can't.
    fallback: Option<Fallback>,
    /// What the model has said before.
    cache: Option<Arc<ModelCache>>,
    /// Scores the same inputs on the side.
    shadow: Option<Arc<Shadow>>,
    /// Something that the model has answered.
    harmless: Arc<Mutex<Option<Input>>>,
}

/// How whoever asks wants to be answered.
#[derive(Debug, Clone)]
pub struct Asking {
    /// How long one call may take; then, how long its fallback.
    pub timeout: Duration,
    /// What a call that failed, but may work later, gets.
    pub retry: RetrySpec,
    /// Inputs that one call carries.
    pub call_inputs: usize,
    /// Calls that may be under way at once.
    pub calls: usize,
    /// When the cache gets what the model says.
    pub keep: Keep,
    /// Whether it waits for a model that is away, without a fallback that answers; none: it is told so at once.
    pub patience: Option<Patience>,
}

impl Asking {
    /// Waits; true where the pipeline stops meanwhile.
    async fn stopped_within(&self, pause: Duration) -> bool {
        let Some(patience) = &self.patience else {
            tokio::time::sleep(pause).await;
            return false;
        };
        tokio::time::timeout(pause, patience.stop.cancelled()).await.is_ok()
    }
}

/// When the cache gets what the model says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Durably, before the answer is handed on. A cache that can't be read or written is an error.
    First,
    /// A moment later: nobody waits for it, and a crash may lose it. A cache that can't be read has nothing to say.
    Later,
}

/// What one input came to.
pub type Answer = std::result::Result<Scored, Unanswered>;

/// An input without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// Why.
    pub failure: Failure,
    /// Set where it is not the input's fault: the model as a whole could not answer. Whether asking again may help.
    pub model_error: Option<ErrorKind>,
}

impl Scorer {
    /// A model that nothing stands beside.
    pub fn alone(model: ModelHandle) -> Self {
        Self { model, fallback: None, cache: None, shadow: None, harmless: Arc::default() }
    }

    /// The same with a fallback.
    #[must_use]
    pub fn with_fallback(self, fallback: Option<Fallback>) -> Self {
        Self { fallback, ..self }
    }

    /// The same with a cache.
    #[must_use]
    pub fn with_cache(self, cache: Option<Arc<ModelCache>>) -> Self {
        Self { cache, ..self }
    }

    /// The same with a shadow.
    #[must_use]
    pub fn with_shadow(self, shadow: Option<Arc<Shadow>>) -> Self {
        Self { shadow, ..self }
    }

    /// What the model is now.
    pub fn info(&self) -> Arc<ModelInfo> {
        self.model.info()
    }

    /// The model and its queue.
    pub fn model(&self) -> &ModelHandle {
        &self.model
    }

    /// Its cache.
    pub fn cache(&self) -> Option<&Arc<ModelCache>> {
        self.cache.as_ref()
    }

    /// Its shadow.
    pub fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }

    /// Whether somebody else answers where the model can't.
    pub fn has_fallback(&self) -> bool {
        self.fallback.is_some()
    }

    /// One answer per input, in order.
    ///
    /// # Errors
    /// With [`Keep::First`]: the cache can't be read or written. With [`Patience`]: [`waiting::STOPPED`].
    pub async fn score(&self, inputs: &[Input], asking: &Asking) -> Result<Vec<Answer>> {
        let mut answers: Vec<Option<Answer>> = vec![None; inputs.len()];
        let mut to_ask: Vec<usize> = (0..inputs.len()).collect();
        let mut repeats = Vec::new();
        if let Some(cache) = &self.cache {
            (to_ask, repeats) = first_of_each(inputs);
            to_ask = self.look_up(cache, inputs, to_ask, asking.keep, &mut answers).await?;
            cache.count_lookups((inputs.len() - to_ask.len()) as u64, to_ask.len() as u64);
        }
        let calls = stream::iter(cut(inputs, &to_ask, asking.call_inputs)).map(|call| {
            let asked: Vec<Input> = call.iter().map(|&index| inputs[index].clone()).collect();
            async move { (call, self.ask(asked, asking).await) }
        });
        let mut answered = calls.buffered(asking.calls.max(1));
        while let Some((call, results)) = answered.next().await {
            for (index, answer) in call.into_iter().zip(results?) {
                answers[index] = Some(answer);
            }
        }
        for (index, first) in repeats {
            answers[index] = answers[first].clone();
        }
        let none = || Err(Failure::new(FailureKind::Model, "the model gave no answer").into());
        let answers: Vec<Answer> = answers.into_iter().map(|answer| answer.unwrap_or_else(none)).collect();
        self.offer_to_shadow(inputs, &answers);
        Ok(answers)
    }

    /// Fills in what the cache knows; gives the inputs that the model has to be asked for.
    async fn look_up(
        &self,
        cache: &ModelCache,
        inputs: &[Input],
        asked: Vec<usize>,
        keep: Keep,
        answers: &mut [Option<Answer>],
    ) -> Result<Vec<usize>> {
        let info = self.model.info();
        let keys: Vec<Cow<'_, str>> = asked.iter().map(|&index| inputs[index].key()).collect();
        let known = match cache.lookup(&info, &keys.iter().map(|key| &**key).collect::<Vec<_>>()).await {
            Err(e) if keep == Keep::Later => {
                tracing::warn!(model = %info.name, "the cache can't be read, the model is asked: {e}");
                return Ok(asked);
            }
            known => known?,
        };
        let mut missing = Vec::new();
        for (index, prediction) in asked.into_iter().zip(known) {
            match prediction {
                Some(prediction) => answers[index] = Some(Ok(Scored { prediction, by: info.clone() })),
                None => missing.push(index),
            }
        }
        Ok(missing)
    }

    /// One call, and what the model says for the cache, if there is one.
    async fn ask(&self, inputs: Vec<Input>, asking: &Asking) -> Result<Vec<Answer>> {
        let Some(cache) = &self.cache else { return self.call(inputs, false, asking).await };
        let answers = self.call(inputs.clone(), false, asking).await?;
        let name = self.model.info().name.clone();
        let keys: Vec<Cow<'_, str>> = inputs.iter().map(Input::key).collect();
        let said = keys.iter().zip(&answers).filter_map(|(key, answer)| match answer {
            // What a fallback says is not the model's.
            Ok(scored) if scored.by.name == name => Some((&*scored.by.digest, &**key, &scored.prediction)),
            _ => None,
        });
        match asking.keep {
            Keep::First => cache.keep(said).await?,
            Keep::Later => cache.keep_later(said),
        }
        Ok(answers)
    }

    fn offer_to_shadow(&self, inputs: &[Input], answers: &[Answer]) {
        let Some(shadow) = &self.shadow else { return };
        let name = self.model.info().name.clone();
        let (mut offer, mut bytes) = (Vec::new(), 0);
        for (input, answer) in inputs.iter().zip(answers) {
            let Some(scored) = answer.as_ref().ok().filter(|scored| scored.by.name == name) else { continue };
            bytes += input.len();
            offer.push((input.clone(), scored.clone()));
            if offer.len() == shadow::OFFER_RECORDS || bytes >= CALL_BYTES {
                shadow.offer(std::mem::take(&mut offer));
                bytes = 0;
            }
        }
        shadow.offer(offer);
    }
}

impl From<Failure> for Unanswered {
    /// The input is to blame.
    fn from(failure: Failure) -> Self {
        Self { failure, model_error: None }
    }
}

/// The first of each input, and each further one with the first of its kind.
fn first_of_each(inputs: &[Input]) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut first_index: HashMap<Cow<'_, str>, usize> = HashMap::with_capacity(inputs.len());
    let mut firsts = Vec::with_capacity(inputs.len());
    let mut repeats = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        match first_index.entry(input.key()) {
            std::collections::hash_map::Entry::Occupied(first) => repeats.push((index, *first.get())),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(index);
                firsts.push(index);
            }
        }
    }
    (firsts, repeats)
}

/// Cuts inputs into calls of at most `inputs_max` and about [`CALL_BYTES`].
fn cut(inputs: &[Input], asked: &[usize], inputs_max: usize) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &index in asked {
        let length = inputs[index].len();
        match calls.last_mut() {
            Some(call) if call.len() < inputs_max && bytes + length <= CALL_BYTES => {
                call.push(index);
                bytes += length;
            }
            _ => {
                calls.push(vec![index]);
                bytes = length;
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests;
