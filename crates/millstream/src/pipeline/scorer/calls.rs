//! One call of the model: its attempts, and then its fallback.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use millstream_core::{ErrorKind, Failure, FailureKind};
use millstream_models::{BreakerState, Input, Scored};

use super::{Answer, Asking, Scorer, Unanswered};

/// Why the attempts of a call came to nothing.
struct GaveUp {
    failure: Failure,
    kind: ErrorKind,
    /// A time-out, with more than one text and with attempts left: one of the texts may be what the others waited for.
    next_attempt: Option<u32>,
}

impl Scorer {
    /// One call, tried again as often as is asked, from attempt `first` on; then the fallback is asked. One answer per
    /// input.
    pub(super) fn call<'a>(&'a self, inputs: Vec<Input>, first: u32, asking: &'a Asking) -> BoxFuture<'a, Vec<Answer>> {
        async move {
            let (failure, kind) = match self.attempts(&inputs, first, asking).await {
                Ok(answers) => return answers,
                Err(GaveUp { next_attempt: Some(next), .. }) => {
                    // Each for itself: whoever is to blame takes no other with it.
                    let alone = inputs.into_iter().map(|input| self.call(vec![input], next, asking));
                    return join_all(alone).await.into_iter().flatten().collect();
                }
                Err(GaveUp { failure, kind, .. }) => (failure, kind),
            };
            let records = inputs.len();
            let repeat = |failure| vec![Err(Unanswered { failure, model_error: Some(kind) }); records];
            let Some(fallback) = &self.fallback else { return repeat(failure) };
            match tokio::time::timeout(asking.timeout, fallback.predict(inputs)).await {
                Ok(Ok(answers)) if answers.len() == records => {
                    let by = Arc::new(fallback.info());
                    let scored = |prediction| Scored { prediction, by: by.clone() };
                    answers.into_iter().map(|answer| answer.map(scored).map_err(Unanswered::from)).collect()
                }
                // Of two failures, the first is the one to look into.
                _ => repeat(Failure::new(failure.kind, format!("{}; its fallback failed too", failure.message))),
            }
        }
        .boxed()
    }

    /// The model's answers, or why it can't answer.
    async fn attempts(
        &self,
        inputs: &[Input],
        first: u32,
        asking: &Asking,
    ) -> std::result::Result<Vec<Answer>, GaveUp> {
        let (records, retry) = (inputs.len(), asking.retry);
        let mut pause = retry.initial;
        let mut attempt = first;
        loop {
            let asked = tokio::time::timeout(asking.timeout, self.model.predict_scored(inputs.to_vec())).await;
            let (failure, kind, may_work_later) = match asked {
                Ok(Ok(answers)) if answers.len() == records => {
                    return Ok(answers.into_iter().map(|answer| answer.map_err(Unanswered::from)).collect());
                }
                Ok(Ok(answers)) => {
                    let message = format!("the model gave {} answers to {records} inputs", answers.len());
                    (Failure::new(FailureKind::Model, message), ErrorKind::Bug, true)
                }
                Ok(Err(e)) => (Failure::new(FailureKind::Model, e.to_string()), e.kind(), e.is_retry()),
                Err(_) => {
                    let message = format!("no answer within {:?}", asking.timeout);
                    (Failure::new(FailureKind::Timeout, message), ErrorKind::Retry, true)
                }
            };
            let gave_up = |failure| GaveUp { failure, kind, next_attempt: None };
            // An open breaker stays open longer than these pauses: with a fallback there is nothing to wait for.
            if !may_work_later || retry.attempts == 1 || (self.fallback.is_some() && self.is_shut_off()) {
                return Err(gave_up(failure));
            }
            if attempt >= retry.attempts {
                let message = format!("{} (attempt {attempt} of {})", failure.message, retry.attempts);
                return Err(gave_up(Failure::new(failure.kind, message)));
            }
            attempt += 1;
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(retry.max);
            if failure.kind == FailureKind::Timeout && records > 1 {
                return Err(GaveUp { failure, kind, next_attempt: Some(attempt) });
            }
        }
    }

    fn is_shut_off(&self) -> bool {
        self.model.stats().endpoint.is_some_and(|endpoint| endpoint.breaker != BreakerState::Closed)
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
