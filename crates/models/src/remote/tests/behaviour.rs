//! What is the same for all protocols: errors, limits, and endpoints that are not well.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::FutureExt;
use millstream_core::ErrorKind;
use tokio::net::TcpListener;

use super::server::{BROKEN, HALF, NOTHING};
use super::*;
use crate::BreakerState;
use crate::remote::breaker::BreakerConfig;
use crate::remote::rate::Rate;

#[tokio::test]
async fn an_overloaded_or_broken_endpoint_asks_for_a_retry() {
    for (status, headers, kind) in [
        (429, "retry-after: 7\r\n", ErrorKind::Unavailable),
        (429, "", ErrorKind::Unavailable),
        (500, "", ErrorKind::Retry),
        (503, "retry-after: 1\r\n", ErrorKind::Unavailable),
        (408, "", ErrorKind::Retry),
    ] {
        let body = |_: &Asked| "{\"error\":\"busy for 17 ms\",\"request\":\"77aa8811\"}".to_owned();
        let server = serve(move |asked| (status, headers, body(asked))).await;
        let error = classifier(&server.url, Protocol::Json).predict(vec!["x"]).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        let said = error.to_string();
        assert!(said.contains(&status.to_string()) && said.ends_with(": busy for N ms"), "{said}");
    }
}

#[tokio::test]
async fn silence_and_a_closed_port_ask_for_a_retry() {
    let server = serve(|_| (NOTHING, "", String::new())).await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.timeout = Some(HumanDuration(Duration::from_millis(50)));
    let error = config.load("tone").unwrap().predict(vec!["x"]).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("no answer within 50ms"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://user:pass@{free}/?token=hush");
    let error = classifier(&url, Protocol::Json).predict(vec!["x"]).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.to_string().contains("can't connect"), "{error}");
    assert!(!error.to_string().contains("hush") && !error.to_string().contains("pass"), "{error}");
}

#[tokio::test]
async fn a_refused_text_leaves_its_neighbours_alone() {
    let server = serve(|asked| {
        let texts = &asked.body["inputs"];
        if texts.as_array().unwrap().contains(&json!("poison")) {
            return (422, "", "{\"detail\":\"too many tokens\"}".into());
        }
        (200, "", Value::from(items(texts)).to_string())
    })
    .await;
    let texts = vec!["x", "xx", "poison", "xxxx", "xxxxx"];
    let mut answers = classifier(&server.url, Protocol::Json).predict(texts).await.unwrap();
    let failure = answers.remove(2).unwrap_err();
    assert!(failure.message.contains("422") && failure.message.contains("too many tokens"), "{failure:?}");
    let good: Vec<f32> = scores(answers).iter().map(|scores| scores[1] * 64.0).collect();
    assert_eq!(good, [1.0, 2.0, 4.0, 5.0]);
}

#[tokio::test]
async fn what_is_no_answer_of_the_protocol_is_laid_to_no_text() {
    let server = serve(move |_| (200, "", "<html>maintenance</html>".to_owned())).await;
    let error = classifier(&server.url, Protocol::Json).predict(vec!["x", "xx"]).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("no JSON"), "{error}");
}

#[tokio::test]
async fn a_missing_right_or_a_redirect_is_no_fault_of_the_texts() {
    for (status, headers, expected) in
        [(401, "", "401"), (404, "", "404"), (307, "location: http://elsewhere/\r\n", "redirects are not followed")]
    {
        let server = serve(move |_| (status, headers, String::new())).await;
        let error = classifier(&server.url, Protocol::Json).predict(vec!["x", "y"]).await.unwrap_err();
        assert!(error.is_retry() && error.to_string().contains(expected), "{error}");
        assert_eq!(server.asked.lock().len(), 1);
    }
}

#[tokio::test]
async fn no_more_than_the_set_number_of_batches_is_under_way() {
    let server = serve(|asked| (200, "", Value::from(items(&asked.body["inputs"])).to_string())).await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.concurrency = Some(2);
    config.batch.max = 4;
    let texts: Vec<String> = (0..200).map(|i| "x".repeat(i % 60)).collect();
    let answers = config.load("tone").unwrap().predict(texts.clone()).await.unwrap();
    let lengths: Vec<usize> = scores(answers).iter().map(|scores| (scores[1] * 64.0).round() as usize).collect();
    assert_eq!(lengths, texts.iter().map(String::len).collect::<Vec<_>>());
    assert_eq!(server.asked.lock().len(), 50);
    assert_eq!(server.busiest.load(Ordering::SeqCst), 2);
}

/// Lets everything that is ready run, the network too: an exchange with another server.
async fn settle() {
    let other = serve(|_| (200, "", "[[0.5, 0.5]]".into())).await;
    for _ in 0..3 {
        classifier(&other.url, Protocol::Json).predict(vec!["x"]).await.unwrap();
    }
}

/// Moves the clock of the timers, without waiting.
async fn after(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

fn healthy(asked: &Asked) -> (u16, &'static str, String) {
    (200, "", Value::from(items(&asked.body["inputs"])).to_string())
}

#[tokio::test]
async fn an_endpoint_that_says_when_to_come_back_is_not_asked_before() {
    let calls = AtomicUsize::new(0);
    let server = serve(move |asked| match calls.fetch_add(1, Ordering::SeqCst) {
        0 => (429, "retry-after: 3600\r\n", "busy".into()),
        _ => healthy(asked),
    })
    .await;
    let handle = classifier(&server.url, Protocol::Json);
    assert!(handle.predict(vec!["first"]).await.unwrap_err().is_retry());
    let mut gives_up = Box::pin(handle.predict(vec!["gives up"]));
    assert!((&mut gives_up).now_or_never().is_none());
    let waiting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.predict(vec!["waits"]).await }
    });
    settle().await;
    assert_eq!(server.asked.lock().len(), 1, "nothing is sent before the hour is over");
    drop(gives_up);
    after(Duration::from_secs(3601)).await;
    assert_eq!(scores(waiting.await.unwrap().unwrap()).len(), 1);
    assert_eq!(server.asked.lock()[1].body, json!({ "inputs": ["waits"] }), "who gave up is not asked for");
    let stats = handle.stats().endpoint.unwrap();
    assert_eq!((stats.requests, stats.throttled, stats.breaker), (2, 1, BreakerState::Closed));
}

#[tokio::test]
async fn requests_are_sent_at_the_rate_that_is_set() {
    let server = serve(healthy).await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.rate = Some(Rate::parse("2/h").unwrap());
    config.batch.max = 1;
    let handle = config.load("tone").unwrap();
    let call = tokio::spawn(async move { handle.predict(vec!["x", "xx", "xxx"]).await });
    for sent in 1..=3 {
        settle().await;
        assert_eq!(server.asked.lock().len(), sent);
        after(Duration::from_secs(1801)).await;
    }
    assert_eq!(scores(call.await.unwrap().unwrap()).len(), 3);
}

#[tokio::test]
async fn the_breaker_opens_fails_fast_and_closes_when_the_endpoint_is_well_again() {
    let is_well = Arc::new(AtomicBool::new(false));
    let well = is_well.clone();
    let server = serve(move |asked| match well.load(Ordering::SeqCst) {
        true => healthy(asked),
        false => (503, "", "down".into()),
    })
    .await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.circuit_breaker =
        Some(BreakerConfig { failures: 3, open_for: HumanDuration(Duration::from_secs(3600)) });
    let handle = config.load("tone").unwrap();
    for _ in 0..3 {
        assert!(handle.predict(vec!["x"]).await.unwrap_err().is_retry());
    }
    for _ in 0..5 {
        let error = handle.predict(vec!["x"]).await.unwrap_err();
        assert!(error.is_retry() && error.to_string().contains("too many failed"), "{error}");
        assert!(error.to_string().contains("503") && error.to_string().contains("down"), "{error}");
    }
    assert_eq!((server.asked.lock().len(), handle.stats().endpoint.unwrap().breaker), (3, BreakerState::Open));

    after(Duration::from_secs(3601)).await;
    assert!(handle.predict(vec!["x"]).await.is_err(), "the probe finds it down still");
    assert!(handle.predict(vec!["x"]).await.is_err());
    assert_eq!((server.asked.lock().len(), handle.stats().endpoint.unwrap().breaker_opened), (4, 2));

    is_well.store(true, Ordering::SeqCst);
    after(Duration::from_secs(3601)).await;
    assert_eq!(scores(handle.predict(vec!["x", "y"]).await.unwrap()).len(), 2);
    assert_eq!(handle.stats().endpoint.unwrap().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn texts_that_are_refused_do_not_open_the_breaker() {
    let server = serve(|_| (422, "", "too long".into())).await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.circuit_breaker = Some(BreakerConfig { failures: 1, ..BreakerConfig::default() });
    let handle = config.load("tone").unwrap();
    let answers = handle.predict(vec!["a", "b", "c", "d"]).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().message.contains("too long")));
    assert_eq!(handle.stats().endpoint.unwrap().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_model_that_is_dropped_while_it_waits_leaves_no_worker_behind() {
    let server = serve(|_| (429, "retry-after: 86400\r\n", String::new())).await;
    let handle = classifier(&server.url, Protocol::Json);
    assert!(handle.predict(vec!["x"]).await.is_err());
    settle().await;
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    drop(handle);
    while tokio::runtime::Handle::current().metrics().num_alive_tasks() >= before {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn half_an_answer_asks_for_a_retry_and_counts_as_a_failure() {
    for (status, timeout_ms, expected) in [(HALF, 50, "no answer within"), (BROKEN, 20_000, "broke")] {
        let server = serve(move |_| (status, "", String::new())).await;
        let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
        config.endpoint.timeout = Some(HumanDuration(Duration::from_millis(timeout_ms)));
        config.endpoint.circuit_breaker = Some(BreakerConfig { failures: 1, ..BreakerConfig::default() });
        let handle = config.load("tone").unwrap();
        let error = handle.predict(vec!["x"]).await.unwrap_err();
        assert!(error.is_retry() && error.to_string().contains(expected), "{error}");
        assert_eq!(handle.stats().endpoint.unwrap().breaker, BreakerState::Open);
    }
}
