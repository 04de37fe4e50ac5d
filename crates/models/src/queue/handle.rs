//! The caller's side of a queue.

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{Error, Failure, Result};
use parking_lot::RwLock;
use tokio::sync::oneshot;

use super::call::{Call, CallAnswer};
use super::{BATCH_BYTES_MAX, ModelStats, Queue, Refused, watchdog, worker};
use crate::{BatchConfig, Input, Model, ModelInfo, Prediction, Reads, Scored};

/// What a model is asked before it is used: what is read or set up at the first call is there for the second.
const WARM_UP: [&str; 2] = ["Ready", "Shares rose after the company raised its forecast for the full year"];

/// A way to call a model; cheap to clone. The model goes away with its last handle.
#[derive(Clone)]
pub struct ModelHandle {
    owner: Arc<Owner>,
}

/// Closes the queue when the last handle is dropped.
struct Owner {
    /// Another one once the model was replaced.
    queue: RwLock<Arc<Queue>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.queue.get_mut().close();
    }
}

impl ModelHandle {
    /// Puts a queue in front of `models`: copies of one model, each on a thread of its own.
    ///
    /// # Errors
    /// `Environment`: a thread can't be started. `Bug`: `models` is empty.
    pub fn spawn(models: Vec<Box<dyn Model>>, batch: BatchConfig) -> Result<Self> {
        let first = models.first().ok_or_else(|| Error::bug("no model to put a queue in front of"))?;
        let mut queue = Queue::new(first.info().clone(), batch, models.len());
        queue.estimate = first.token_estimate();
        queue.factory = first.factory();
        queue.is_watched = true;
        let queue = Arc::new(queue);
        let handle = Self::of(queue.clone());
        for model in models {
            worker::spawn_local(queue.clone(), model)?;
        }
        watchdog::spawn(queue)?;
        Ok(handle)
    }

    pub(crate) fn of(queue: Arc<Queue>) -> Self {
        Self { owner: Arc::new(Owner { queue: RwLock::new(queue) }) }
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        self.owner.queue.read().clone()
    }

    /// What the model is now. Its name, task, labels and dimensions stay; its digest changes when it is replaced.
    pub fn info(&self) -> Arc<ModelInfo> {
        self.queue().info.clone()
    }

    /// What the model has done so far; goes on where a model is replaced.
    pub fn stats(&self) -> ModelStats {
        let queue = self.queue();
        let state = queue.state.lock();
        let (depth, stalls, given_up, broken) =
            (state.waiting.len(), state.stalls, state.given_up, state.broken.clone());
        drop(state);
        let counted = queue.stats.snapshot(depth);
        ModelStats { stalls, threads_given_up: given_up, out_of_order: broken, ..counted }
    }

    /// How long a batch may take in a model of this process before its thread is given up; a minute unless set. The
    /// requests to an endpoint have their own time-out.
    pub fn set_stall_timeout(&self, timeout: Duration) {
        self.queue().set_stall_timeout(timeout);
    }

    /// One answer per input, in the same order. Waits where the queue is full. Dropping the future gives its place up.
    ///
    /// # Errors
    /// The model as a whole could not answer: `Retry` where the same call may work later (an endpoint is down or
    /// overloaded; the message says for how long, if the endpoint does). `Bug`: the inputs are not of the sort that the
    /// model reads ([`ModelInfo::reads`]).
    pub async fn predict<T: Into<Input>>(&self, inputs: Vec<T>) -> Result<Vec<Result<Prediction, Failure>>> {
        let answers = self.predict_scored(inputs).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|scored| scored.prediction)).collect())
    }

    /// The same, with who gave each answer.
    ///
    /// # Errors
    /// As [`ModelHandle::predict`].
    pub async fn predict_scored<T: Into<Input>>(&self, inputs: Vec<T>) -> Result<Vec<Result<Scored, Failure>>> {
        let inputs: Vec<Input> = inputs.into_iter().map(Into::into).collect();
        let (call, reply) = Call::new(inputs.len(), false);
        self.ask(&call, reply, inputs).await
    }

    /// The same, unless the model keeps inputs for `limit` without a sign of life: then none. Time that they spend in
    /// the queue does not count. `alone`: each gets a batch of its own, so that it can't suffer for another.
    ///
    /// # Errors
    /// As [`ModelHandle::predict`].
    pub async fn predict_within(
        &self,
        inputs: Vec<Input>,
        limit: Duration,
        alone: bool,
    ) -> Result<Option<Vec<Result<Scored, Failure>>>> {
        let (call, reply) = Call::new(inputs.len(), alone);
        tokio::select! {
            biased;
            answers = self.ask(&call, reply, inputs) => answers.map(Some),
            () = call.overdue(limit) => Ok(None),
        }
    }

    /// How long the endpoint behind it is still to be left alone; zero for any other model.
    pub fn wait(&self) -> Duration {
        self.queue().stats.wait()
    }

    async fn ask(
        &self,
        call: &Arc<Call>,
        reply: oneshot::Receiver<Result<Vec<CallAnswer>>>,
        inputs: Vec<Input>,
    ) -> Result<Vec<CallAnswer>> {
        if inputs.is_empty() {
            return Ok(Vec::new());
        }
        let info = self.info();
        if inputs.iter().any(|input| !input.is_for(&info.reads)) {
            let (name, reads) = (&info.name, info.reads.as_str());
            return Err(Error::bug(format!("model `{name}` reads {reads}, and got something else")));
        }
        let mut guard = CallGuard { handle: self, call, answered: false };
        let mut first = 0;
        let mut inputs = inputs.into_iter().peekable();
        while inputs.peek().is_some() && !call.is_over() {
            let chunk = next_chunk(&mut inputs, self.queue().batch.max);
            let texts = chunk.len();
            self.enqueue(call, first, chunk).await?;
            first += texts;
        }
        let answers: Result<Vec<CallAnswer>> = reply.await.map_err(|_| closed(&self.info()))?;
        guard.answered = true;
        answers
    }

    /// Puts texts into the queue, into that of the next model where it is replaced meanwhile.
    async fn enqueue(&self, call: &Arc<Call>, first: usize, mut texts: Vec<Input>) -> Result<()> {
        loop {
            let queue = self.queue();
            if let Some(room) = queue.room(&texts).await {
                texts = match queue.push(call, first, texts, room) {
                    Ok(()) => return Ok(()),
                    Err(Refused::Closed(texts)) => texts,
                    Err(Refused::Broken(error)) => return Err(error),
                };
            }
            if Arc::ptr_eq(&queue, &self.queue()) {
                return Err(closed(&queue.info));
            }
        }
    }

    /// Asks the model something, so that the first record does not wait for what the first call sets up. It counts in
    /// no figure.
    ///
    /// # Errors
    /// The model does not answer, or fails on plain text.
    pub async fn warm_up(&self) -> Result<()> {
        // What a row of a model looks like that it must not fail on, only the model knows: such models try themselves
        // when they are loaded.
        if matches!(self.info().reads, Reads::Row(_)) {
            return Ok(());
        }
        let doing = || format!("warm up model `{}`", self.info().name);
        let answers = self.predict(WARM_UP.to_vec()).await.map_err(|e| e.context(doing()))?;
        if let Some(failure) = answers.into_iter().find_map(Result::err) {
            return Err(Error::environment(format!("it fails on plain text: {}", failure.message)).context(doing()));
        }
        self.queue().stats.reset();
        Ok(())
    }

    /// Puts `new` in the place of the model. Callers notice nothing: what waits is answered by the new one, what is
    /// under way by the old one, which goes away then. Gives the digest of the old one.
    ///
    /// # Errors
    /// `Config`: the new one does something else, or has other labels or dimensions; the old one stays.
    pub fn replace(&self, new: ModelHandle) -> Result<Arc<str>> {
        let (old, next) = (self.queue(), new.queue());
        fits(&old.info, &next.info)?;
        next.stats.go_on_from(&old.stats);
        next.set_stall_timeout(old.stall_timeout());
        next.state.lock().stalls = old.state.lock().stalls;
        // From here on, calls go to the new one.
        std::mem::swap(&mut *self.owner.queue.write(), &mut *new.owner.queue.write());
        next.take_over(old.close());
        Ok(old.info.digest.clone())
    }
}

impl std::fmt::Debug for ModelHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let info = self.info();
        write!(f, "ModelHandle({}@{})", info.name, info.digest)
    }
}

/// The next texts of a call: as many as fit into a batch.
fn next_chunk(inputs: &mut std::iter::Peekable<impl Iterator<Item = Input>>, texts_max: usize) -> Vec<Input> {
    let mut bytes = 0;
    let mut chunk = Vec::new();
    while chunk.len() < texts_max
        && let Some(text) = inputs.next_if(|text| chunk.is_empty() || bytes + text.len() <= BATCH_BYTES_MAX)
    {
        bytes += text.len();
        chunk.push(text);
    }
    chunk
}

/// Whether the rows of `new` have the type of those of `old`.
fn fits(old: &ModelInfo, new: &ModelInfo) -> Result<()> {
    let refused = |what: &str, old: String, new: String| {
        Err(Error::config(format!(
            "the new model has {what} {new}, the running one has {old}: the pipeline's types would change; restart it instead"
        )))
    };
    if old.task != new.task {
        return refused("the task", old.task.as_str().into(), new.task.as_str().into());
    }
    if old.labels != new.labels {
        return refused("the labels", format!("[{}]", old.labels.join(", ")), format!("[{}]", new.labels.join(", ")));
    }
    if old.reads != new.reads {
        return refused("the columns", old.reads.to_string(), new.reads.to_string());
    }
    let shown = |dimensions: Option<usize>| dimensions.map_or("unknown".into(), |d| d.to_string());
    if old.dimensions != new.dimensions {
        return refused("the dimensions", shown(old.dimensions), shown(new.dimensions));
    }
    Ok(())
}

fn closed(info: &ModelInfo) -> Error {
    Error::bug(format!("the thread of model `{}` is gone", info.name))
}

/// Takes what is left of a dropped or failed call out of the queue.
struct CallGuard<'a> {
    handle: &'a ModelHandle,
    call: &'a Arc<Call>,
    answered: bool,
}

impl Drop for CallGuard<'_> {
    fn drop(&mut self) {
        let failed_early = self.call.end();
        if !self.answered || failed_early {
            let queue = self.handle.queue();
            let left = queue.state.lock().waiting.remove_where(|item| Arc::ptr_eq(&item.call, self.call));
            drop(left);
        }
    }
}
