//! A model takes the place of another.

use super::*;

fn named(digest: &str, gate: Option<mpsc::Receiver<()>>) -> (ModelHandle, Seen) {
    let seen = Seen::default();
    let info = ModelInfo { digest: digest.into(), ..info() };
    let model = Fake { info, seen: seen.clone(), gate };
    (ModelHandle::spawn(vec![Box::new(model)], batch(4)).unwrap(), seen)
}

async fn digests(handle: &ModelHandle, texts: Vec<String>) -> Vec<String> {
    let answers = handle.predict_scored(texts).await.unwrap();
    answers.into_iter().map(|answer| answer.unwrap().by.digest.to_string()).collect()
}

#[tokio::test]
async fn what_is_under_way_is_answered_by_the_old_model_and_what_waits_by_the_new_one() {
    let (opener, gate) = mpsc::channel();
    let (handle, old_seen) = named("old", Some(gate));
    let under_way = tokio::spawn({
        let handle = handle.clone();
        async move { digests(&handle, vec!["0".into()]).await }
    });
    until(|| old_seen.lock().len() == 1).await;
    // More than fits into the queue: the rest waits for a place in it.
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { digests(&handle, (0..600).map(|i| i.to_string()).collect()).await }
    });
    until(|| handle.stats().queue_depth == 256).await;
    let (new, new_seen) = named("new", None);
    assert_eq!(&*handle.replace(new).unwrap(), "old");
    assert_eq!(&*handle.info().digest, "new");
    let answered_by = waiting.await.unwrap();
    assert_eq!((answered_by.len(), answered_by.iter().all(|digest| digest == "new")), (600, true));
    drop(opener);
    assert_eq!(under_way.await.unwrap(), ["old"]);
    assert_eq!(old_seen.lock().len(), 1);
    assert_eq!(new_seen.lock().iter().map(Vec::len).sum::<usize>(), 600);
    assert_eq!(handle.stats().batch_size.sum as usize, 601, "figures go on");
}

#[tokio::test]
async fn calls_made_while_models_are_replaced_again_and_again_are_all_answered_in_order() {
    let (handle, _) = named("0", None);
    let calls: Vec<_> = (0..40)
        .map(|c| {
            let handle = handle.clone();
            tokio::spawn(async move {
                for round in 0..10 {
                    let texts = (0..30).map(|i| ((c * 31 + round * 7 + i) % 2000).to_string()).collect();
                    let expected: Vec<f32> = (0..30).map(|i| ((c * 31 + round * 7 + i) % 2000) as f32).collect();
                    assert_eq!(numbers(handle.predict::<String>(texts).await.unwrap()), expected);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for i in 1..20 {
        handle.replace(named(&i.to_string(), None).0).unwrap();
        tokio::task::yield_now().await;
    }
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(handle.stats().batch_size.sum as usize, 40 * 10 * 30);
}

type Change = fn(&mut ModelInfo);

#[tokio::test]
async fn a_model_that_does_not_fit_is_refused_and_the_old_one_stays() {
    let (handle, _) = named("old", None);
    let other = |change: Change| {
        let mut info = ModelInfo { digest: "new".into(), ..info() };
        change(&mut info);
        let model = Fake { info, seen: Seen::default(), gate: None };
        ModelHandle::spawn(vec![Box::new(model)], batch(4)).unwrap()
    };
    let cases: [(Change, &str); 3] = [
        (|info| info.dimensions = Some(2), "dimensions 2"),
        (|info| info.labels = vec!["a".into()], "labels [a]"),
        (|info| info.task = Task::TextClassification, "text-classification"),
    ];
    for (change, said) in cases {
        let error = handle.replace(other(change)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.message().contains(said), "{error}");
    }
    assert_eq!(digests(&handle, vec!["1".into()]).await, ["old"]);
}

#[tokio::test]
async fn a_warm_up_asks_the_model_and_counts_in_no_figure() {
    let (handle, seen) = named("old", None);
    let error = handle.warm_up().await.unwrap_err();
    assert!(error.to_string().contains("fails on plain text: bad"), "{error}");
    assert_eq!(seen.lock().len(), 1);

    let builtin = crate::ModelConfig::new(Task::TextClassification, "builtin:headline-sentiment-linear");
    let handle = builtin.load("sentiment").unwrap();
    handle.warm_up().await.unwrap();
    assert_eq!(handle.stats().batch_size.count(), 0);
}
