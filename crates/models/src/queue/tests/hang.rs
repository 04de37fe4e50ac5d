//! Models that hang.

use super::*;
use std::sync::atomic::AtomicBool;

use crate::ModelFactory;

/// What the copies of a [`Hanging`] share.
#[derive(Clone, Default)]
struct Common {
    seen: Seen,
    /// Threads that hang now.
    hanging: Arc<AtomicUsize>,
    /// While it is set, threads hang.
    stuck: Arc<AtomicBool>,
}

impl Common {
    fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Ordering::SeqCst);
    }
}

/// Answers like [`Fake`], but hangs at `hang…`.
struct Hanging {
    fake: Fake,
    common: Common,
    can_be_copied: bool,
}

impl Hanging {
    fn boxed(common: &Common, can_be_copied: bool) -> Box<dyn Model> {
        let fake = Fake { info: info(), seen: common.seen.clone(), gate: None };
        Box::new(Self { fake, common: common.clone(), can_be_copied })
    }
}

impl Model for Hanging {
    fn info(&self) -> &ModelInfo {
        &self.fake.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Answer>> {
        if inputs.iter().any(|text| text.starts_with("hang")) {
            self.common.hanging.fetch_add(1, Ordering::SeqCst);
            while self.common.stuck.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.common.hanging.fetch_sub(1, Ordering::SeqCst);
        }
        self.fake.predict(inputs)
    }

    fn factory(&self) -> Option<ModelFactory> {
        let common = self.common.clone();
        self.can_be_copied.then(|| Arc::new(move || Ok(Self::boxed(&common, true))) as ModelFactory)
    }
}

fn hanging(can_be_copied: bool) -> (ModelHandle, Common) {
    let common = Common::default();
    let handle = ModelHandle::spawn(vec![Hanging::boxed(&common, can_be_copied)], batch(8)).unwrap();
    handle.set_stall_timeout(Duration::from_millis(40));
    (handle, common)
}

#[tokio::test]
async fn a_text_that_a_model_hangs_on_times_out_and_the_others_of_its_batch_are_scored() {
    let (handle, common) = hanging(true);
    common.set_stuck(true);
    let answers = handle.predict(vec!["1", "hang", "3"]).await.unwrap();
    let failure = answers[1].as_ref().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
    assert!(failure.message.contains("hangs"), "{failure:?}");
    assert_eq!((answers[0].is_ok(), answers[2].is_ok()), (true, true), "{answers:?}");
    assert_eq!(numbers(handle.predict(vec!["4"]).await.unwrap()), [4.0], "a fresh thread goes on");
    let stats = handle.stats();
    assert_eq!((stats.stalls, stats.threads_given_up, stats.out_of_order), (2, 2, None));
    common.set_stuck(false);
    until(|| handle.stats().threads_given_up == 0).await;
    assert_eq!(common.hanging.load(Ordering::SeqCst), 0, "threads that come back end");
}

#[tokio::test]
async fn a_model_that_hangs_too_often_says_so_and_takes_no_more_threads() {
    let (handle, common) = hanging(true);
    common.set_stuck(true);
    let waiting = call(&handle, vec!["hang1".into()]);
    for i in 2..=4 {
        let answers = handle.predict(vec![format!("hang{i}")]).await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap_err().kind, FailureKind::Timeout);
    }
    waiting.await.unwrap().unwrap();
    let _ = handle.predict(vec!["hang5"]).await;
    until(|| handle.stats().out_of_order.is_some()).await;
    let error = handle.predict(vec!["1"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.message().contains("out of order") && error.message().contains("models reload fake"), "{error}");
    assert_eq!(common.hanging.load(Ordering::SeqCst), 5, "bounded");
}

#[tokio::test]
async fn a_model_that_cannot_be_copied_answers_with_an_error_once_its_thread_hangs() {
    let (handle, common) = hanging(false);
    common.set_stuck(true);
    let waiting = call(&handle, vec!["hang".into()]);
    until(|| common.hanging.load(Ordering::SeqCst) == 1).await;
    let behind = call(&handle, vec!["1".into()]);
    assert_eq!(waiting.await.unwrap().unwrap()[0].as_ref().unwrap_err().kind, FailureKind::Timeout);
    assert_eq!(behind.await.unwrap().unwrap_err().kind(), ErrorKind::Environment);
    assert!(handle.predict(vec!["1"]).await.unwrap_err().message().contains("out of order"));
}

#[tokio::test]
async fn a_repeated_call_for_a_text_that_hangs_takes_no_second_thread() {
    let common = Common::default();
    let models = (0..3).map(|_| Hanging::boxed(&common, true)).collect();
    let handle = ModelHandle::spawn(models, batch(8)).unwrap();
    // Suspect after a second at most, given up never.
    handle.set_stall_timeout(Duration::from_secs(3600));
    common.set_stuck(true);
    let first = call(&handle, vec!["hang".into()]);
    until(|| common.hanging.load(Ordering::SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let again = call(&handle, vec!["hang".into(), "7".into()]);
    until(|| common.seen.lock().iter().any(|batch| batch.contains(&"7".to_string()))).await;
    assert_eq!((common.hanging.load(Ordering::SeqCst), handle.stats().queue_depth), (1, 1));
    common.set_stuck(false);
    assert!(first.await.unwrap().unwrap()[0].is_err());
    assert_eq!(again.await.unwrap().unwrap().len(), 2);
}

#[tokio::test]
async fn a_queue_that_is_closed_while_its_model_hangs_lets_go_of_the_call() {
    let (handle, common) = hanging(true);
    common.set_stuck(true);
    let (call, reply) = crate::queue::call::Call::new(1, false);
    let queue = handle.queue();
    let texts: Vec<Input> = vec!["hang".into()];
    let room = queue.room(&texts).await.unwrap();
    assert!(queue.push(&call, 0, texts, room).is_ok());
    until(|| common.hanging.load(Ordering::SeqCst) == 1).await;
    drop(handle);
    let answers = reply.await.unwrap().unwrap();
    assert_eq!(answers[0].as_ref().unwrap_err().kind, FailureKind::Timeout);
    common.set_stuck(false);
}
