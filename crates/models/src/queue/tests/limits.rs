//! Batches by tokens and bytes, and a queue that is bounded by bytes.

use super::*;
use crate::queue::call::Call;
use crate::queue::waiting::{Limits, Standing, Waiting};

fn item(length: usize) -> Item {
    let text: Arc<str> = "x".repeat(length).into();
    let (call, _) = Call::new(1, false);
    let tokens = estimated_tokens(&text);
    Item { text: text.into(), tokens, call, index: 0, queued_at: Instant::now(), alone: false, place: None }
}

const UNLIMITED: Limits = Limits { texts: usize::MAX, tokens: usize::MAX, bytes: usize::MAX };

proptest! {
    #[test]
    fn every_batch_keeps_its_limits_and_has_the_oldest_text_and_all_texts_come_out_once(
        lengths in prop::collection::vec(0_usize..400, 1..80),
        texts in 1_usize..9,
        tokens in 1_usize..300,
        bytes in 1_usize..900,
    ) {
        let mut waiting = Waiting::default();
        lengths.iter().for_each(|&length| waiting.push(item(length)));
        let mut left = lengths.clone();
        while let Some(oldest) = left.first().copied() {
            prop_assert_eq!(waiting.tokens(), left.iter().map(|length| length / 4 + 2).sum::<usize>());
            let batch = waiting.take(Limits { texts, tokens, bytes }, |_| Standing::Free);
            prop_assert_eq!(batch[0].text.len(), oldest);
            prop_assert!(batch.len() <= texts);
            let fits = batch.iter().map(|i| i.tokens).sum::<usize>() <= tokens
                && batch.iter().map(|i| i.text.len()).sum::<usize>() <= bytes;
            prop_assert!(fits || batch.len() == 1);
            for item in batch {
                let place = left.iter().position(|&length| length == item.text.len());
                left.remove(place.unwrap());
            }
        }
        prop_assert_eq!((waiting.len(), waiting.tokens()), (0, 0));
    }

    #[test]
    fn a_batch_has_the_nearest_lengths_of_all_that_wait(
        lengths in prop::collection::vec(0_usize..400, 2..60),
        texts in 2_usize..9,
    ) {
        let mut waiting = Waiting::default();
        lengths.iter().for_each(|&length| waiting.push(item(length)));
        let distance = |tokens: usize| tokens.abs_diff(lengths[0] / 4 + 2);
        let batch = waiting.take(Limits { texts, ..UNLIMITED }, |_| Standing::Free);
        let farthest = batch.iter().map(|i| distance(i.tokens)).max().unwrap();
        prop_assert!(waiting.drain().iter().all(|i| distance(i.tokens) >= farthest));
    }
}

#[tokio::test]
async fn a_burst_of_long_texts_goes_in_batches_of_at_most_max_tokens() {
    let seen = Seen::default();
    let (opener, gate) = mpsc::channel();
    let model = Fake { info: info(), seen: seen.clone(), gate: Some(gate) };
    // A text of 36 digits is guessed to be 11 tokens.
    let config = BatchConfig { max_tokens: 33, ..batch(100) };
    let handle = ModelHandle::spawn(vec![Box::new(model)], config).unwrap();
    let first = call(&handle, vec!["0".into()]);
    until(|| seen.lock().len() == 1).await;
    let rest = call(&handle, (1..=7).map(|i| format!("{i:036}")).collect());
    until(|| handle.stats().queue_depth == 7).await;
    drop(opener);
    first.await.unwrap().unwrap();
    assert_eq!(numbers(rest.await.unwrap().unwrap()), (1..=7).map(|i| i as f32).collect::<Vec<_>>());
    assert_eq!(seen.lock().iter().map(Vec::len).collect::<Vec<_>>(), [1, 3, 3, 1]);
}

#[tokio::test]
async fn texts_of_many_megabytes_wait_outside_the_queue() {
    let (handle, seen, opener) = gated(1000);
    let first = call(&handle, vec!["0".into()]);
    until(|| seen.lock().len() == 1).await;
    let large: Arc<str> = "x".repeat(10 << 20).into();
    let waiting = handle.clone();
    let texts: Vec<Arc<str>> = (0..40).map(|_| large.clone()).collect();
    let rest = tokio::spawn(async move { waiting.predict(texts).await });
    until(|| handle.stats().queue_depth == 6).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.stats().queue_depth, 6, "64 MiB hold six texts of 10 MiB");
    assert!(handle.predict(vec![large.clone()]).now_or_never().is_none());
    drop(opener);
    first.await.unwrap().unwrap();
    assert_eq!(rest.await.unwrap().unwrap().len(), 40);
    assert!(seen.lock().iter().all(|batch| batch.iter().map(String::len).sum::<usize>() <= BATCH_BYTES_MAX));
    until(|| handle.queue().bytes.available_permits() == QUEUE_BYTES_MAX).await;
}

#[tokio::test]
async fn a_text_larger_than_the_queue_goes_through_it_all_the_same() {
    let (handle, _) = open(4, 1);
    let answers = handle.predict(vec!["x".repeat(QUEUE_BYTES_MAX + 1), "1".into()]).await.unwrap();
    assert_eq!((answers[0].is_err(), answers[1].is_ok()), (true, true));
}
