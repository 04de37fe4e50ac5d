//! What requests hold at once is bounded: bytes of bodies, texts in a model's queue, bytes of answers. Whoever finds no
//! room waits for a moment, then is sent away with 429, so that a client learns of the load instead of adding to it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, HeaderName};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millstream_core::{Error, Failure};
use millstream_models::{Input, ModelInfo, Prediction, Scored, Task};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::refusal::{Reason, Refusal};
use super::{Inference, Limits};
use crate::api::bodies::{self, Unread};
use millstream_engine::room::Share;
use millstream_engine::scorer::{self, Asking, Keep, Scorer};
use millstream_engine::spec::RetrySpec;

/// Bytes of bodies that may be held at once.
const BODY_BYTES_IN_ALL: usize = 128 << 20;
/// Bytes of answers that may be held at once, sent or not.
pub const ANSWER_BYTES_IN_ALL: usize = 256 << 20;
/// What a small body counts as: it bounds the number of requests, each of which takes more than its body.
const BODY_BYTES_MIN: usize = 64 << 10;
/// What a value of JSON takes in memory, whatever it takes in the body.
const VALUE_BYTES: usize = 80;
/// Texts in one request: an empty text is 3 bytes in a body, but more than a hundred in the queue and in the answer.
pub const TEXTS_MAX: usize = 16_384;
/// Texts that requests may have in one model's queue at once.
const TURNS: usize = 1024;
/// Texts that go to the queue together. Large requests take turns with small ones.
const CALL_TEXTS: usize = 256;

/// Who gave the answer, in every protocol: `name@digest`, for several with a comma between them.
const SCORED_BY: HeaderName = HeaderName::from_static("x-millstream-scored-by");
/// The length of an embedding of which nothing is known.
const DIMENSIONS_GUESS: usize = 1024;

/// A body, and the room that it takes until it is dropped.
pub struct Admitted {
    pub body: Bytes,
    _room: Share,
}

/// What goes with answers.
pub struct Receipt {
    /// The models that gave them, each once.
    scored_by: Vec<Arc<ModelInfo>>,
    /// Kept until they are sent.
    room: OwnedSemaphorePermit,
}

impl Receipt {
    /// The models that gave the answers: the one that was asked, its fallback, or both.
    pub fn scored_by(&self) -> &[Arc<ModelInfo>] {
        &self.scored_by
    }
}

/// What a model says about one text.
pub type Answer = std::result::Result<Prediction, Failure>;

/// Bytes of bodies that a server with these limits may hold.
pub fn body_bytes_in_all(limits: &Limits) -> usize {
    BODY_BYTES_IN_ALL.max(limits.body_bytes_max)
}

impl Inference {
    /// Reads a body.
    pub async fn read(&self, headers: &HeaderMap, body: Body) -> Result<Admitted, Refusal> {
        let limits = &self.0.limits;
        let length = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        if length > Some(limits.body_bytes_max) {
            return Err(body_too_large(limits.body_bytes_max));
        }
        let mut share = self.0.bodies.share();
        if !share.grow(BODY_BYTES_MIN, limits.wait_max).await {
            return Err(overloaded());
        }
        let read = bodies::read(body, limits.body_bytes_max, &mut share, limits.wait_max);
        let body = match timeout(limits.answer_max, read).await {
            Ok(Ok(body)) => body,
            Ok(Err(Unread::NoRoom)) => return Err(overloaded()),
            Ok(Err(Unread::TooLarge(max))) => return Err(body_too_large(max)),
            Ok(Err(Unread::TooSlow(why))) => return Err(Refusal::new(Reason::TooSlow, why)),
            Ok(Err(Unread::Broken(why))) => return Err(Refusal::input(why)),
            Err(_) => {
                let why = format!("the body did not arrive within {:?}", limits.answer_max);
                return Err(Refusal::new(Reason::TooSlow, why));
            }
        };
        if !share.grow(body.len() + VALUE_BYTES * values(&body), limits.wait_max).await {
            return Err(overloaded());
        }
        Ok(Admitted { body, _room: share })
    }

    /// One answer per text or row, in order; and what goes with them.
    pub async fn predict(&self, model: &Scorer, texts: Vec<Input>) -> Result<(Vec<Answer>, Receipt), Refusal> {
        if texts.len() > TEXTS_MAX {
            let sent = texts.len();
            return Err(Refusal::too_large(format!("{sent} texts in one request; send at most {TEXTS_MAX}")));
        }
        let limits = &self.0.limits;
        let room = self.room(texts.len() * answer_bytes(&model.info())).await?;
        let asking = asking(limits, model);
        let turns = self.turns(model);
        let take = |texts: usize| turns.clone().acquire_many_owned(texts.min(CALL_TEXTS) as u32);
        let Ok(Ok(first)) = timeout(limits.wait_max, take(texts.len())).await else { return Err(overloaded()) };
        let mut first = Some(first);
        let calls = stream::iter(texts.chunks(CALL_TEXTS).map(<[Input]>::to_vec)).map(|texts| {
            let (turn, take, asking) = (first.take(), &take, &asking);
            async move {
                let _turn = match turn {
                    Some(turn) => turn,
                    None => take(texts.len()).await.map_err(|_| overloaded())?,
                };
                by_text(model.score(&texts, asking).await?)
            }
        });
        match timeout(limits.answer_max, calls.buffered(2).try_concat()).await {
            Ok(answers) => {
                let answers: Vec<Result<Scored, Failure>> = answers?;
                let scored_by = scorers(&answers, model);
                let answers = answers.into_iter().map(|answer| answer.map(|scored| scored.prediction)).collect();
                Ok((answers, Receipt { scored_by, room }))
            }
            Err(_) => {
                let message = format!("the model gave no answer within {:?}", limits.answer_max);
                Err(Refusal::new(Reason::Unavailable, message))
            }
        }
    }

    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Refusal> {
        if bytes > ANSWER_BYTES_IN_ALL {
            let mib = bytes >> 20;
            return Err(Refusal::too_large(format!("the answer would take {mib} MiB; send fewer texts at once")));
        }
        let room = self.0.answer_kib.clone().acquire_many_owned(bytes.div_ceil(1024) as u32);
        match timeout(self.0.limits.wait_max, room).await {
            Ok(Ok(room)) => Ok(room),
            _ => Err(overloaded()),
        }
    }

    fn turns(&self, model: &Scorer) -> Arc<Semaphore> {
        let mut turns = self.0.turns.lock();
        turns.entry(model.info().name.clone()).or_insert_with(|| Arc::new(Semaphore::new(TURNS))).clone()
    }
}

/// A request is tried once: trying again is its client's. A fallback gets the half of the time that the model had not.
fn asking(limits: &Limits, model: &Scorer) -> Asking {
    let timeout = if model.has_fallback() { limits.answer_max / 2 } else { limits.answer_max };
    let retry = RetrySpec { attempts: 1, initial: Duration::ZERO, max: Duration::ZERO };
    Asking { timeout, retry, call_inputs: CALL_TEXTS, calls: 1, keep: Keep::Later, patience: None }
}

/// The answers, unless the model as a whole has given none.
fn by_text(answers: Vec<scorer::Answer>) -> Result<Vec<Result<Scored, Failure>>, Refusal> {
    let answer = |answer: scorer::Answer| match answer {
        Ok(scored) => Ok(Ok(scored)),
        Err(unanswered) => match unanswered.model_error {
            Some(kind) => Err(Refusal::model_error(kind, unanswered.failure.message)),
            None => Ok(Err(unanswered.failure)),
        },
    };
    answers.into_iter().map(answer).collect()
}

/// Who gave the answers; where there are none, who was asked.
fn scorers(answers: &[Result<Scored, Failure>], asked: &Scorer) -> Vec<Arc<ModelInfo>> {
    let mut scorers: Vec<Arc<ModelInfo>> = Vec::new();
    for scored in answers.iter().flatten() {
        let is_known = |by: &Arc<ModelInfo>| by.name == scored.by.name && by.digest == scored.by.digest;
        if !scorers.iter().any(is_known) {
            scorers.push(scored.by.clone());
        }
    }
    if scorers.is_empty() { vec![asked.info()] } else { scorers }
}

/// What one answer takes at most: its numbers, and the text that they become.
fn answer_bytes(info: &ModelInfo) -> usize {
    match info.task {
        Task::TextClassification | Task::TabularClassification => {
            128 + info.labels.iter().map(|label| 64 + 2 * label.len()).sum::<usize>()
        }
        Task::TabularRegression => 128,
        Task::Embedding => 128 + 24 * info.dimensions.unwrap_or(DIMENSIONS_GUESS),
    }
}

/// An answer whose room is given back once it is sent.
pub fn answered(body: Vec<u8>, receipt: Receipt) -> Response {
    let Receipt { scored_by, room } = receipt;
    let scored_by = scored_by.iter().map(|by| format!("{}@{}", by.name, by.digest)).collect::<Vec<_>>().join(",");
    let length = body.len();
    let last = stream::once(async move {
        // Asked for when the bytes before are with the connection.
        drop(room);
        Ok::<_, Error>(Bytes::new())
    });
    let pieces = stream::iter([Ok(Bytes::from(body))]).chain(last);
    ([(CONTENT_LENGTH, length.to_string()), (SCORED_BY, scored_by)], Body::from_stream(pieces)).into_response()
}

/// The predictions, where the model failed on no text.
pub fn all_good(answers: Vec<Answer>) -> Result<Vec<Prediction>, Refusal> {
    answers.into_iter().enumerate().map(|(i, answer)| answer.map_err(|failure| Refusal::text(i, &failure))).collect()
}

/// How many values a body has at most: whatever it is, something stands between two of them.
fn values(body: &[u8]) -> usize {
    1 + body.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{' | b':' | b'\n')).count()
}

fn body_too_large(bytes_max: usize) -> Refusal {
    Refusal::too_large(format!("the body is larger than {bytes_max} bytes; send fewer texts at once"))
}

fn overloaded() -> Refusal {
    Refusal::new(Reason::Overloaded, "too many requests are waiting; send this again later")
}
