//! What stands beside a model, in front of each of those who ask it.

use std::sync::atomic::{AtomicUsize, Ordering};

use millstream_core::{HumanDuration, SystemClock};
use millstream_models::{BatchConfig, CacheConfig, FallbackConfig, Model, Prediction, Reads, Task};
use millstream_storage::state::StateOptions;
use serde_json::json;

use super::*;

/// Counts the texts that it is asked for, and fails on `bad`; as a whole while `down` is among them.
struct Counting {
    info: ModelInfo,
    asked: Arc<AtomicUsize>,
}

impl Model for Counting {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<std::result::Result<Prediction, Failure>>> {
        self.asked.fetch_add(inputs.len(), Ordering::SeqCst);
        if inputs.contains(&"down") {
            return Err(millstream_core::Error::retry("it is down"));
        }
        let one = |text: &&str| match *text {
            "bad" => Err(Failure::new(FailureKind::Model, "it does not like this")),
            _ => Ok(Prediction::Scores(vec![0.25, 0.75])),
        };
        Ok(inputs.iter().map(one).collect())
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    asked: Arc<AtomicUsize>,
    scorer: Scorer,
}

fn model(name: &str) -> (ModelHandle, Arc<AtomicUsize>) {
    let info = ModelInfo {
        name: name.into(),
        digest: "1".into(),
        task: Task::TextClassification,
        labels: vec!["down".into(), "up".into()],
        multi_label: false,
        dimensions: None,
        reads: Reads::Text,
    };
    let asked = Arc::new(AtomicUsize::new(0));
    let model = Counting { info, asked: asked.clone() };
    (ModelHandle::spawn(vec![Box::new(model)], BatchConfig::default()).unwrap(), asked)
}

impl Fixture {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = CacheConfig { ttl: HumanDuration(Duration::from_secs(3600)), max_entries: None };
        let cache =
            ModelCache::open((folder.path(), &StateOptions::default()), &"tone".into(), config, Arc::new(SystemClock))
                .await
                .unwrap();
        let (model, asked) = model("tone");
        let value = json!({ "label": "down" });
        let config = FallbackConfig::Value(value.as_object().unwrap().clone());
        let fallback = Fallback::new(&model.info(), &config, |_| None).unwrap();
        let scorer = Scorer::alone(model).with_fallback(Some(fallback)).with_cache(Some(Arc::new(cache)));
        Self { folder, asked, scorer }
    }

    async fn score(&self, texts: &[&str], keep: Keep) -> Vec<Answer> {
        self.scorer.score(&inputs(texts), &asking(keep)).await.unwrap()
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

fn inputs(texts: &[&str]) -> Vec<Input> {
    texts.iter().map(|text| Input::from(*text)).collect()
}

fn asking(keep: Keep) -> Asking {
    let retry = RetrySpec { attempts: 1, initial: Duration::ZERO, max: Duration::ZERO };
    Asking { timeout: Duration::from_secs(30), retry, call_inputs: 2, calls: 2, keep, patience: None }
}

/// Who gave each answer; nobody where it failed.
fn by(answers: &[Answer]) -> Vec<Option<&str>> {
    answers.iter().map(|answer| answer.as_ref().ok().map(|scored| &*scored.by.name)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_finds_what_another_was_told() {
    let fixture = Fixture::new().await;
    let tone = Some("tone");
    let answers = fixture.score(&["a", "bad", "b", "a"], Keep::First).await;
    assert_eq!((by(&answers), fixture.asked()), (vec![tone, None, tone, tone], 3));
    let answers = fixture.score(&["b", "c"], Keep::Later).await;
    assert_eq!((by(&answers), fixture.asked()), (vec![tone, tone], 1), "a request reads what a record has left");
    let cache = fixture.scorer.cache().unwrap();
    cache.something_waits().await;
    cache.keep_what_waits().await.unwrap();
    let answers = fixture.score(&["c", "b", "a", "bad"], Keep::First).await;
    assert_eq!((by(&answers), fixture.asked()), (vec![tone, tone, tone, None], 1), "and the other way round");
    assert_eq!(answers[0].as_ref().unwrap().prediction, Prediction::Scores(vec![0.25, 0.75]));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses), (1 + 1 + 3, 3 + 1 + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fallback_answers_for_the_calls_that_failed_and_is_not_kept() {
    let fixture = Fixture::new().await;
    for _ in 0..2 {
        // Calls of two inputs.
        let answers = fixture.score(&["down", "x"], Keep::First).await;
        assert_eq!((by(&answers), fixture.asked()), (vec![Some("tone.fallback"); 2], 2));
    }
    let without = fixture.scorer.clone().with_fallback(None);
    // One after the other, or the queue may put both calls into one batch, which fails as a whole.
    let asking = Asking { calls: 1, ..asking(Keep::Later) };
    let answers = without.score(&inputs(&["down", "x", "bad"]), &asking).await.unwrap();
    let model_error = |answer: &Answer| answer.as_ref().err().map(|unanswered| unanswered.model_error);
    let errors: Vec<_> = answers.iter().map(model_error).collect();
    assert_eq!(errors, [Some(Some(ErrorKind::Retry)), Some(Some(ErrorKind::Retry)), Some(None)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_written_at_the_end_and_a_closed_cache_stops_records_but_no_request() {
    let fixture = Fixture::new().await;
    fixture.score(&["a"], Keep::Later).await;
    let cache = fixture.scorer.cache().unwrap();
    cache.close().await.unwrap();
    assert!(fixture.scorer.score(&inputs(&["a"]), &asking(Keep::First)).await.is_err());
    assert_eq!((by(&fixture.score(&["b"], Keep::Later).await), fixture.asked()), (vec![Some("tone")], 2));

    let config = CacheConfig { ttl: HumanDuration(Duration::from_secs(3600)), max_entries: None };
    let clock = Arc::new(SystemClock);
    let reopened = ModelCache::open((fixture.folder.path(), &StateOptions::default()), &"tone".into(), config, clock)
        .await
        .unwrap();
    let known = reopened.lookup(&fixture.scorer.info(), &["a", "b"]).await.unwrap();
    assert_eq!(known.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shadow_is_offered_what_the_model_said_also_from_the_cache() {
    let fixture = Fixture::new().await;
    let (shadow, asked) = model("next");
    let scorer = fixture.scorer.clone().with_shadow(Some(Arc::new(Shadow::spawn(shadow))));
    for (texts, keep) in [(["a", "bad"], Keep::First), (["a", "b"], Keep::Later), (["down", "c"], Keep::Later)] {
        scorer.score(&inputs(&texts), &asking(keep)).await.unwrap();
    }
    let report = || scorer.shadow().unwrap().report();
    while report().total < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((report().disagreements, report().dropped, asked.load(Ordering::SeqCst)), (0, 0, 3));
}
