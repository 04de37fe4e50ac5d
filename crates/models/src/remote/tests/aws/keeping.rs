//! Credentials are kept, and renewed before they end.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use millstream_core::Error;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::*;

/// A place that answers what was put there, each time after it was let go on.
struct Scripted {
    answers: Mutex<VecDeque<Result<Credentials>>>,
    asked: AtomicUsize,
    go: Semaphore,
}

#[async_trait::async_trait]
impl Place for Arc<Scripted> {
    async fn find(&self) -> Result<Option<Credentials>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.answers.lock().pop_front().unwrap().map(Some)
    }
}

/// Credentials that end so many minutes after the start.
fn ending_after(id: &str, minutes: i64) -> Result<Credentials> {
    let us = u64::try_from(NOW_US + minutes * 60_000_000).unwrap();
    let expiry = SystemTime::UNIX_EPOCH + Duration::from_micros(us);
    Ok(Credentials::new(id, SECRET, None, Some(expiry), "test"))
}

/// What the tests hold: the place, the clock, and the source above them.
fn source(answers: Vec<Result<Credentials>>, go: usize) -> (Arc<Scripted>, Arc<ManualClock>, Arc<CredentialSource>) {
    let answers = Mutex::new(answers.into());
    let place = Arc::new(Scripted { answers, asked: AtomicUsize::new(0), go: Semaphore::new(go) });
    let clock = Arc::new(ManualClock::new(NOW_US));
    (place.clone(), clock.clone(), Arc::new(CredentialSource::of(place, clock)))
}

async fn id(source: &CredentialSource) -> String {
    source.get().await.unwrap().access_key_id().to_owned()
}

#[tokio::test]
async fn credentials_are_kept_until_shortly_before_they_end() {
    let (place, clock, source) = source(vec![ending_after("A", 60), ending_after("B", 120)], 9);
    // Five minutes before, and at most one more.
    for (minutes, expected) in [(0, "A"), (53, "A"), (2, "B"), (50, "B")] {
        clock.advance_us(minutes * 60_000_000);
        assert_eq!(id(&source).await, expected, "after {minutes} more minutes");
    }
    assert_eq!(place.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn short_lived_credentials_are_kept_for_half_of_their_time() {
    let (place, clock, source) = source(vec![ending_after("A", 4), ending_after("B", 6)], 9);
    for (minutes, expected) in [(0, "A"), (1, "A"), (1, "B")] {
        clock.advance_us(minutes * 60_000_000);
        assert_eq!(id(&source).await, expected);
    }
    assert_eq!(place.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn whoever_has_none_waits_for_the_one_who_looks() {
    let (place, _, source) = source(vec![ending_after("A", 60)], 0);
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let source = source.clone();
            tokio::spawn(async move { id(&source).await })
        })
        .collect();
    while place.asked.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    place.go.add_permits(8);
    for caller in callers {
        assert_eq!(caller.await.unwrap(), "A");
    }
    assert_eq!(place.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn whoever_has_some_that_hold_does_not_wait_while_they_are_renewed() {
    let (place, clock, source) = source(vec![ending_after("A", 60), ending_after("B", 120)], 1);
    assert_eq!(id(&source).await, "A");
    clock.advance_us(56 * 60_000_000);
    let renewing = {
        let source = source.clone();
        tokio::spawn(async move { id(&source).await })
    };
    while place.asked.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    // The place hangs; these come back all the same.
    assert_eq!((id(&source).await, id(&source).await), ("A".into(), "A".into()));
    place.go.add_permits(1);
    assert_eq!(renewing.await.unwrap(), "B");
    assert_eq!(id(&source).await, "B");
    assert_eq!(place.asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn where_renewing_fails_the_old_ones_are_used_until_they_end() {
    let failure = || Err(Error::retry("the place is down"));
    let (place, clock, source) = source(vec![ending_after("A", 60), failure(), failure()], 9);
    assert_eq!(id(&source).await, "A");
    clock.advance_us(56 * 60_000_000);
    for _ in 0..3 {
        assert_eq!(id(&source).await, "A");
    }
    assert_eq!(place.asked.load(Ordering::SeqCst), 2, "it is not asked again at once");
    clock.advance_us(4 * 60_000_000);
    let error = source.get().await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("the place is down"), "{error}");
}

#[tokio::test]
async fn credentials_that_have_ended_already_are_not_used() {
    let (_, _, source) = source(vec![ending_after("A", 0), ending_after("B", 60)], 9);
    let error = source.get().await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("have ended"), "{error}");
    assert_eq!(id(&source).await, "B");
}

#[tokio::test]
async fn forgotten_credentials_are_looked_for_again() {
    let (_, _, source) = source(vec![ending_after("A", 60), ending_after("B", 60)], 9);
    assert_eq!(id(&source).await, "A");
    source.forget();
    assert_eq!(id(&source).await, "B");
}
