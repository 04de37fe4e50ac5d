//! A model in the shadow of another: it scores the same records, and nothing depends on what it says.
//!
//! The [`Scorer`](super::scorer::Scorer) of a model offers what it has scored and goes on at once: an offer that finds
//! no room is dropped and counted. A task of its own asks the shadow and compares. Classifiers disagree where their
//! labels differ, embeddings where their cosine is below [`COSINE_MIN`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use millstream_models::{Input, ModelHandle, ModelInfo, Prediction, Scored, highest};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

/// Embeddings that are closer than this agree.
const COSINE_MIN: f64 = 0.99;
/// Records of an offer, at most.
pub const OFFER_RECORDS: usize = 32;
/// Offers that may wait.
const OFFERS_MAX: usize = 64;
/// Bytes of text that may wait.
const OFFERS_BYTES_MAX: usize = 16 << 20;
/// Offers that the shadow is asked for at once.
const CALLS: usize = 4;
/// How long the shadow may take for one.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Disagreements that are kept to be looked at, the newest.
const EXAMPLES: usize = 10;
/// Characters of a text that an example shows.
const EXAMPLE_CHARS: usize = 200;

/// The way to a shadow.
#[derive(Debug)]
pub struct Shadow {
    offers: mpsc::Sender<Offer>,
    bytes: Arc<Semaphore>,
    report: Arc<Mutex<ShadowReport>>,
}

#[derive(Debug)]
struct Offer {
    rows: Vec<(Input, Scored)>,
    _bytes: OwnedSemaphorePermit,
}

/// How a shadow compares with its model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShadowReport {
    /// The shadow's name.
    pub model: Arc<str>,
    /// Records that both have scored (`model_shadow_total`).
    pub total: u64,
    /// Those that they disagree on (`model_shadow_disagreements_total`).
    pub disagreements: u64,
    /// Records that the shadow was not asked for, because it could not keep up.
    pub dropped: u64,
    /// Records that the shadow failed on.
    pub failed: u64,
    /// The newest disagreements, oldest first.
    pub examples: VecDeque<Example>,
}

/// A record that model and shadow disagree on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// The beginning of the text, or of the cells.
    pub text: String,
    /// What the model said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<Verdict>,
    /// What the shadow said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Verdict>,
    /// Of embeddings: how close they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<f64>,
}

/// What a classifier said.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// The label with the highest score.
    pub label: Arc<str>,
    /// That score.
    pub score: f32,
}

impl ShadowReport {
    /// The share of records that both agree on; none before the first.
    pub fn agreement(&self) -> Option<f64> {
        (self.total > 0).then(|| 1.0 - self.disagreements as f64 / self.total as f64)
    }
}

impl Shadow {
    /// Starts comparing with `shadow`; ends when this is dropped.
    pub fn spawn(shadow: ModelHandle) -> Self {
        let (offers, offered) = mpsc::channel(OFFERS_MAX);
        let report = Arc::new(Mutex::new(ShadowReport {
            model: shadow.info().name.clone(),
            total: 0,
            disagreements: 0,
            dropped: 0,
            failed: 0,
            examples: VecDeque::new(),
        }));
        let compared = report.clone();
        tokio::spawn(ReceiverStream::new(offered).for_each_concurrent(CALLS, move |offer| {
            let (shadow, report) = (shadow.clone(), compared.clone());
            async move { compare_all(&shadow, offer, &report).await }
        }));
        Self { offers, bytes: Arc::new(Semaphore::new(OFFERS_BYTES_MAX)), report }
    }

    /// Hands rows on that the model has scored. Never waits.
    pub fn offer(&self, rows: Vec<(Input, Scored)>) {
        let records = rows.len() as u64;
        if records == 0 {
            return;
        }
        let bytes: usize = rows.iter().map(|(input, _)| input.len()).sum();
        let room = u32::try_from(bytes).ok().and_then(|bytes| self.bytes.clone().try_acquire_many_owned(bytes).ok());
        let taken = room.is_some_and(|_bytes| self.offers.try_send(Offer { rows, _bytes }).is_ok());
        if !taken {
            self.report.lock().dropped += records;
        }
    }

    /// How the two compare so far.
    pub fn report(&self) -> ShadowReport {
        self.report.lock().clone()
    }
}

async fn compare_all(shadow: &ModelHandle, offer: Offer, report: &Mutex<ShadowReport>) {
    let inputs: Vec<Input> = offer.rows.iter().map(|(input, _)| input.clone()).collect();
    let answers = tokio::time::timeout(CALL_TIMEOUT, shadow.predict_scored(inputs)).await;
    let Ok(Ok(answers)) = answers else {
        report.lock().failed += offer.rows.len() as u64;
        return;
    };
    let mut report = report.lock();
    for ((input, model), shadow) in offer.rows.iter().zip(answers) {
        let Ok(shadow) = shadow else {
            report.failed += 1;
            continue;
        };
        report.total += 1;
        if let Some(example) = disagreement(&input.shown(), model, &shadow) {
            report.disagreements += 1;
            report.examples.push_back(example);
            if report.examples.len() > EXAMPLES {
                report.examples.pop_front();
            }
        }
    }
}

/// What the two say, where that is not the same.
fn disagreement(text: &str, model: &Scored, shadow: &Scored) -> Option<Example> {
    let text = || text.chars().take(EXAMPLE_CHARS).collect();
    if let (Prediction::Embedding(a), Prediction::Embedding(b)) = (&model.prediction, &shadow.prediction) {
        let cosine = cosine(a, b);
        // Not `<`: what is no number is no agreement.
        let agree = cosine >= COSINE_MIN;
        return (!agree).then(|| Example { text: text(), model: None, shadow: None, cosine: Some(cosine) });
    }
    let (ours, theirs) = (verdict(&model.by, &model.prediction), verdict(&shadow.by, &shadow.prediction));
    let agree = ours.as_ref().map(|v| &v.label) == theirs.as_ref().map(|v| &v.label);
    (!agree).then(|| Example { text: text(), model: ours, shadow: theirs, cosine: None })
}

fn verdict(info: &ModelInfo, prediction: &Prediction) -> Option<Verdict> {
    let Prediction::Scores(scores) = prediction else { return None };
    let best = highest(scores);
    Some(Verdict { label: info.labels.get(best)?.clone(), score: *scores.get(best)? })
}

/// Zero where the lengths differ or one is a zero vector.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return 0.0;
    }
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

#[cfg(test)]
mod tests;
