//! One call of the model: its attempts, then its fallback, then waiting.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use millstream_core::{ErrorKind, Failure, FailureKind, Result};
use millstream_models::{BreakerState, Input, Scored};

use super::waiting::{Wait, is_away};
use super::{Answer, Asking, Scorer, Unanswered};

/// Why an attempt, or all of them, came to nothing.
pub(super) struct GaveUp {
    pub(super) failure: Failure,
    pub(super) kind: ErrorKind,
}

impl GaveUp {
    /// One of several inputs may be what the others waited for.
    fn is_timeout(&self) -> bool {
        self.failure.kind == FailureKind::Timeout
    }
}

impl Scorer {
    /// One call. One answer per input. `alone`: each gets a batch of its own.
    ///
    /// # Errors
    /// [`super::waiting::STOPPED`].
    pub(super) fn call<'a>(
        &'a self,
        inputs: Vec<Input>,
        alone: bool,
        asking: &'a Asking,
    ) -> BoxFuture<'a, Result<Vec<Answer>>> {
        async move {
            let failed = match self.attempts(&inputs, alone, asking).await {
                Ok(answers) => return Ok(answers),
                Err(failed) => failed,
            };
            match &asking.patience {
                Some(patience) => {
                    let wait = Wait::new(patience, asking);
                    self.wait_or_blame(inputs, failed, wait, asking).await
                }
                // Each for itself: whoever is to blame takes no other with it.
                None if failed.is_timeout() && inputs.len() > 1 && asking.retry.attempts > 1 => {
                    self.each_alone(inputs, asking).await
                }
                None => Ok(unanswered(inputs.len(), failed)),
            }
        }
        .boxed()
    }

    /// Nobody has answered: waits while that is the model's fault, and finds out whose fault it is where that is open.
    async fn wait_or_blame(
        &self,
        inputs: Vec<Input>,
        mut failed: GaveUp,
        mut wait: Wait<'_>,
        asking: &Asking,
    ) -> Result<Vec<Answer>> {
        let mut blamed = 0;
        loop {
            let away = if is_away(failed.kind) {
                Some(failed.failure.message.clone())
            } else {
                wait.unless_stopped(self.is_well(asking)).await?.err().map(|why| why.failure.message)
            };
            if let Some(reason) = away {
                blamed = 0;
                if !wait.pause(&reason, self.model.wait()).await? {
                    let kind = if failed.is_timeout() { FailureKind::Timeout } else { FailureKind::Unavailable };
                    return Ok(unanswered(inputs.len(), GaveUp { failure: Failure::new(kind, reason), ..failed }));
                }
                if !is_away(failed.kind) {
                    // First the harmless input again, then these.
                    continue;
                }
            } else {
                wait.is_over();
                if inputs.len() > 1 {
                    return self.each_alone(inputs, asking).await;
                }
                blamed += 1;
                if blamed >= asking.retry.attempts {
                    return Ok(vec![Err(failed.failure.into())]);
                }
                wait.unless_stopped(tokio::time::sleep(jittered(asking.retry.initial))).await?;
            }
            match wait.unless_stopped(self.attempt_or_fallback(&inputs, asking)).await? {
                Ok(answers) => {
                    wait.is_over();
                    return Ok(answers);
                }
                Err(again) => failed = again,
            }
        }
    }

    async fn each_alone(&self, inputs: Vec<Input>, asking: &Asking) -> Result<Vec<Answer>> {
        let alone = inputs.into_iter().map(|input| self.call(vec![input], true, asking));
        Ok(try_join_all(alone).await?.into_iter().flatten().collect())
    }

    /// The model's answers, tried as often as is asked, then those of the fallback; or why there are none.
    async fn attempts(
        &self,
        inputs: &[Input],
        alone: bool,
        asking: &Asking,
    ) -> std::result::Result<Vec<Answer>, GaveUp> {
        let retry = asking.retry;
        let mut pause = retry.initial;
        for attempt in 1.. {
            let failed = match self.attempt(inputs, alone, asking).await {
                Ok(answers) => return Ok(answers),
                Err(failed) => failed,
            };
            let may_work_later = matches!(failed.kind, ErrorKind::Retry | ErrorKind::Unavailable | ErrorKind::Bug);
            // An open breaker stays open longer than these pauses: with a fallback there is nothing to wait for.
            let is_shut_off = self.fallback.is_some() && self.is_shut_off();
            // Whoever waits says so, and waits longer than these pauses.
            let waits = asking.patience.is_some() && self.fallback.is_none() && is_away(failed.kind);
            // One of several texts may be what the others waited for: they are asked for one by one.
            let waited = asking.patience.is_some() && failed.is_timeout() && inputs.len() > 1;
            if !may_work_later || is_shut_off || waits || waited || attempt >= retry.attempts {
                return self.fall_back(inputs, failed, asking).await;
            }
            if asking.stopped_within(jittered(pause)).await {
                return Err(failed);
            }
            pause = (pause * 2).min(retry.max);
        }
        unreachable!("attempts end");
    }

    async fn attempt_or_fallback(&self, inputs: &[Input], asking: &Asking) -> std::result::Result<Vec<Answer>, GaveUp> {
        // One by itself is here because it is under suspicion.
        let alone = inputs.len() == 1;
        match self.attempt(inputs, alone, asking).await {
            Err(failed) => self.fall_back(inputs, failed, asking).await,
            answered => answered,
        }
    }

    /// The fallback's answers, where there is one and it has some.
    async fn fall_back(
        &self,
        inputs: &[Input],
        failed: GaveUp,
        asking: &Asking,
    ) -> std::result::Result<Vec<Answer>, GaveUp> {
        let Some(fallback) = &self.fallback else { return Err(failed) };
        match tokio::time::timeout(asking.timeout, fallback.predict(inputs.to_vec())).await {
            Ok(Ok(answers)) if answers.len() == inputs.len() => {
                let by = Arc::new(fallback.info());
                let scored = |prediction| Scored { prediction, by: by.clone() };
                Ok(answers.into_iter().map(|answer| answer.map(scored).map_err(Unanswered::from)).collect())
            }
            // Of two failures, the first is the one to look into.
            _ => {
                let GaveUp { failure, kind } = failed;
                let message = format!("{}; its fallback failed too", failure.message);
                Err(GaveUp { failure: Failure::new(failure.kind, message), kind })
            }
        }
    }

    /// Asks the model once. `alone`: nothing else goes with it.
    pub(super) async fn attempt(
        &self,
        inputs: &[Input],
        alone: bool,
        asking: &Asking,
    ) -> std::result::Result<Vec<Answer>, GaveUp> {
        let gave_up = |kind, failure| Err(GaveUp { failure, kind });
        let asked = match asking.patience.is_some() && self.fallback.is_none() {
            // Who waits for the model anyway need not count the time in its queue.
            true => self.model.predict_within(inputs.to_vec(), asking.timeout, alone).await,
            false => match tokio::time::timeout(asking.timeout, self.model.predict_scored(inputs.to_vec())).await {
                Ok(asked) => asked.map(Some),
                Err(_) => Ok(None),
            },
        };
        match asked {
            Ok(Some(answers)) if answers.len() == inputs.len() => {
                if let Some(at) = answers.iter().position(std::result::Result::is_ok) {
                    self.keep_harmless(&inputs[at]);
                }
                Ok(answers.into_iter().map(|answer| answer.map_err(Unanswered::from)).collect())
            }
            Ok(Some(_)) => {
                let message = "the model gave another number of answers than it got inputs";
                gave_up(ErrorKind::Bug, Failure::new(FailureKind::Model, message))
            }
            Ok(None) => {
                let message = format!("no answer within {:?}", asking.timeout);
                gave_up(ErrorKind::Retry, Failure::new(FailureKind::Timeout, message))
            }
            Err(e) => {
                let kind = if is_away(e.kind()) { FailureKind::Unavailable } else { FailureKind::Model };
                gave_up(e.kind(), Failure::new(kind, e.to_string()))
            }
        }
    }

    fn is_shut_off(&self) -> bool {
        self.model.stats().endpoint.is_some_and(|endpoint| endpoint.breaker != BreakerState::Closed)
    }
}

fn unanswered(records: usize, GaveUp { failure, kind }: GaveUp) -> Vec<Answer> {
    vec![Err(Unanswered { failure, model_error: Some(kind) }); records]
}

pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
