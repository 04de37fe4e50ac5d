//! What the queue promises, with models whose pace the test decides.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use millstream_core::{ErrorKind, FailureKind, HumanDuration};
use proptest::prelude::*;

use super::*;
use crate::{Model, Reads, Task};

mod hang;
mod limits;
mod replace;

fn info() -> ModelInfo {
    let (task, reads) = (Task::Embedding, Reads::Text);
    ModelInfo {
        name: "fake".into(),
        digest: "0".into(),
        task,
        labels: vec![],
        multi_label: false,
        dimensions: Some(1),
        reads,
    }
}

fn batch(max: usize) -> BatchConfig {
    BatchConfig { max, max_delay: HumanDuration(Duration::from_millis(1)), ..BatchConfig::default() }
}

/// Answers every text with its own number; panics at `panic`; fails `bad`; waits at a gate before every batch, if it
/// has one.
struct Fake {
    info: ModelInfo,
    /// The texts of each batch, as it came.
    seen: Arc<Mutex<Vec<Vec<String>>>>,
    gate: Option<mpsc::Receiver<()>>,
}

impl Model for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Result<Prediction, Failure>>> {
        self.seen.lock().push(inputs.iter().map(|text| text.to_string()).collect());
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        if inputs.contains(&"down") {
            return Err(Error::environment("out of memory"));
        }
        if inputs.contains(&"short") {
            return Ok(vec![]);
        }
        assert!(!inputs.contains(&"panic"), "no such word");
        let answer = |text: &&str| match text.trim_start_matches('x').parse::<u16>() {
            Ok(number) => Ok(Prediction::Embedding(vec![f32::from(number)])),
            Err(_) => Err(Failure::new(FailureKind::Model, "bad")),
        };
        Ok(inputs.iter().map(answer).collect())
    }
}

type Seen = Arc<Mutex<Vec<Vec<String>>>>;

fn open(max: usize, threads: usize) -> (ModelHandle, Seen) {
    let seen = Seen::default();
    let model = |_| Box::new(Fake { info: info(), seen: seen.clone(), gate: None }) as Box<dyn Model>;
    (ModelHandle::spawn((0..threads).map(model).collect(), batch(max)).unwrap(), seen)
}

/// Each send lets one batch through; dropping the sender lets all through.
fn gated(max: usize) -> (ModelHandle, Seen, mpsc::Sender<()>) {
    let seen = Seen::default();
    let (opener, gate) = mpsc::channel();
    let model = Fake { info: info(), seen: seen.clone(), gate: Some(gate) };
    (ModelHandle::spawn(vec![Box::new(model)], batch(max)).unwrap(), seen, opener)
}

fn call(handle: &ModelHandle, texts: Vec<String>) -> tokio::task::JoinHandle<Result<Vec<Answer>>> {
    let handle = handle.clone();
    tokio::spawn(async move { handle.predict(texts).await })
}

fn numbers(answers: Vec<Answer>) -> Vec<f32> {
    answers.into_iter().map(|answer| if let Ok(Prediction::Embedding(e)) = answer { e[0] } else { f32::NAN }).collect()
}

async fn until(mut reached: impl FnMut() -> bool) {
    while !reached() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_caller_gets_its_own_answers_in_order(
        calls in prop::collection::vec(prop::collection::vec((0_u16..2048, 0_usize..40), 0..90), 1..12),
        max in 1_usize..40,
        threads in 1_usize..4,
    ) {
        let (handle, seen) = open(max, threads);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let text = |&(number, length): &(u16, usize)| format!("{}{number}", "x".repeat(length));
            let waiting: Vec<_> = calls.iter().map(|texts| call(&handle, texts.iter().map(text).collect())).collect();
            for (texts, waiting) in calls.iter().zip(waiting) {
                let expected: Vec<f32> = texts.iter().map(|(number, _)| f32::from(*number)).collect();
                prop_assert_eq!(numbers(waiting.await.unwrap().unwrap()), expected);
            }
            Ok(())
        })?;
        let texts: usize = calls.iter().map(Vec::len).sum();
        prop_assert!(seen.lock().iter().all(|batch| (1..=max).contains(&batch.len())));
        prop_assert_eq!(seen.lock().iter().map(Vec::len).sum::<usize>(), texts);
        let stats = handle.stats();
        prop_assert_eq!((stats.batch_size.sum as usize, stats.failed, stats.queue_depth), (texts, 0, 0));
    }
}

#[tokio::test]
async fn calls_made_while_the_model_works_share_batches_of_at_most_max() {
    let (handle, seen, opener) = gated(4);
    let first = call(&handle, vec!["0".into()]);
    until(|| seen.lock().len() == 1).await;
    let others: Vec<_> = (1..=6).map(|i| call(&handle, vec![i.to_string()])).collect();
    until(|| handle.stats().queue_depth == 6).await;
    drop(opener);
    assert_eq!(numbers(first.await.unwrap().unwrap()), [0.0]);
    for (i, other) in others.into_iter().enumerate() {
        assert_eq!(numbers(other.await.unwrap().unwrap()), [i as f32 + 1.0]);
    }
    let sizes: Vec<usize> = seen.lock().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 4, 2]);
}

#[tokio::test]
async fn a_lone_call_is_not_held_back_while_the_model_is_idle() {
    let seen = Seen::default();
    let model = Fake { info: info(), seen: seen.clone(), gate: None };
    let patient = BatchConfig { max_delay: HumanDuration(Duration::from_secs(3600)), ..BatchConfig::default() };
    let handle = ModelHandle::spawn(vec![Box::new(model)], patient).unwrap();
    for i in 0..3 {
        assert_eq!(numbers(handle.predict(vec![i.to_string()]).await.unwrap()), [i as f32]);
    }
}

#[tokio::test]
async fn a_batch_holds_the_oldest_text_and_those_of_like_length() {
    let (handle, seen, opener) = gated(3);
    let first = call(&handle, vec!["0".into()]);
    until(|| seen.lock().len() == 1).await;
    let long = |n: usize| format!("{}{n}", "x".repeat(50));
    let rest = call(&handle, vec![long(1), "2".into(), long(3), "4".into(), long(5), "6".into()]);
    until(|| handle.stats().queue_depth == 6).await;
    drop(opener);
    first.await.unwrap().unwrap();
    assert_eq!(numbers(rest.await.unwrap().unwrap()), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(seen.lock()[1..], [vec![long(1), long(3), long(5)], vec!["2".into(), "4".into(), "6".into()]]);
}

#[tokio::test]
async fn a_full_queue_makes_callers_wait_and_loses_nothing() {
    let (handle, seen, opener) = gated(2);
    let texts: Vec<String> = (0..1000).map(|i| i.to_string()).collect();
    let big = call(&handle, texts.clone());
    until(|| seen.lock().len() == 1 && handle.stats().queue_depth == 256).await;
    // Given every chance to take more in, it does not.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.stats().queue_depth, 256);
    assert!(handle.predict(vec!["7".to_string()]).now_or_never().is_none());
    drop(opener);
    assert_eq!(numbers(big.await.unwrap().unwrap()), (0..1000).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(handle.stats().queue_depth, 0);
}

#[tokio::test]
async fn a_panic_costs_only_the_text_that_caused_it() {
    let (handle, _) = open(8, 1);
    let answers = handle.predict(vec!["1", "panic", "3"]).await.unwrap();
    let failure = answers[1].as_ref().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Model);
    assert!(failure.message.contains("panicked: no such word"), "{failure:?}");
    assert_eq!((answers[0].is_ok(), answers[2].is_ok()), (true, true));
    assert_eq!(numbers(handle.predict(vec!["4"]).await.unwrap()), [4.0], "the model goes on");
    assert_eq!(handle.stats().failed, 1);
}

#[tokio::test]
async fn a_text_that_fails_leaves_its_neighbours_alone() {
    let (handle, _) = open(8, 1);
    let answers = handle.predict(vec!["1", "bad", "3"]).await.unwrap();
    assert_eq!(answers.iter().map(|a| a.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}

#[tokio::test]
async fn a_model_that_is_down_fails_the_call_with_its_kind_and_message() {
    let (handle, _) = open(1, 1);
    let error = handle.predict(vec!["1", "down", "3"]).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Environment, "out of memory"));
    assert_eq!(numbers(handle.predict(vec!["4"]).await.unwrap()), [4.0]);
}

#[tokio::test]
async fn a_wrong_number_of_answers_is_a_failure_of_each_text() {
    let (handle, _) = open(8, 1);
    for answer in handle.predict(vec!["1", "short"]).await.unwrap() {
        assert!(answer.unwrap_err().message.contains("another number of answers"));
    }
}

#[tokio::test]
async fn a_dropped_call_leaves_the_queue_and_its_texts_are_never_scored() {
    let (handle, seen, opener) = gated(4);
    let first = call(&handle, vec!["0".into()]);
    until(|| seen.lock().len() == 1).await;
    let mut dropped = Box::pin(handle.predict((100..110).map(|i| i.to_string()).collect()));
    assert!((&mut dropped).now_or_never().is_none());
    let kept = call(&handle, vec!["1".into()]);
    until(|| handle.stats().queue_depth == 11).await;
    drop(dropped);
    assert_eq!(handle.stats().queue_depth, 1);
    drop(opener);
    assert_eq!(numbers(first.await.unwrap().unwrap()), [0.0]);
    assert_eq!(numbers(kept.await.unwrap().unwrap()), [1.0]);
    assert_eq!(*seen.lock(), [["0"], ["1"]]);
    assert_eq!(handle.queue().places.available_permits(), 256, "its places are free again");
}

#[tokio::test]
async fn the_model_goes_away_with_its_last_handle() {
    struct Counted(ModelInfo, Arc<AtomicUsize>);
    impl Model for Counted {
        fn info(&self) -> &ModelInfo {
            &self.0
        }
        fn predict(&mut self, _: &[&str]) -> Result<Vec<Answer>> {
            Ok(vec![])
        }
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
    let gone = Arc::new(AtomicUsize::new(0));
    let model = |_| Box::new(Counted(info(), gone.clone())) as Box<dyn Model>;
    let handle = ModelHandle::spawn((0..3).map(model).collect(), batch(4)).unwrap();
    let other = handle.clone();
    drop(handle);
    assert!(other.predict(Vec::<String>::new()).await.unwrap().is_empty());
    assert_eq!(gone.load(Ordering::SeqCst), 0);
    drop(other);
    until(|| gone.load(Ordering::SeqCst) == 3).await;
}
