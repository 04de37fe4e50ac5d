//! What is the same for all protocols: errors, limits, and endpoints that are not well.

use std::sync::atomic::Ordering;

use millstream_core::ErrorKind;
use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn an_overloaded_or_broken_endpoint_asks_for_a_retry() {
    for (status, headers, expected) in [
        (429, "retry-after: 7\r\n", "Retry-After: 7"),
        (500, "", "500"),
        (503, "retry-after: 1\r\n", "Retry-After: 1"),
        (408, "", "408"),
    ] {
        let server = serve(move |_| (status, headers, "busy".into())).await;
        let error = classifier(&server.url, Protocol::Json).predict(vec!["x"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retry);
        assert!(error.to_string().contains(expected) && error.to_string().contains("busy"), "{error}");
    }
}

#[tokio::test]
async fn silence_and_a_closed_port_ask_for_a_retry() {
    let server = serve(|_| (0, "", String::new())).await;
    let mut config = model(&server.url, Protocol::Json, Task::TextClassification);
    config.endpoint.timeout = Some(HumanDuration(Duration::from_millis(50)));
    let error = config.load("tone").unwrap().predict(vec!["x"]).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("no answer within 50ms"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = format!("http://user:pass@{free}/?token=hush");
    let error = classifier(&url, Protocol::Json).predict(vec!["x"]).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("can't connect"), "{error}");
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
async fn a_missing_right_or_a_redirect_fails_each_text_at_once() {
    for (status, headers, expected) in
        [(401, "", "401"), (404, "", "404"), (307, "location: http://elsewhere/\r\n", "redirects are not followed")]
    {
        let server = serve(move |_| (status, headers, String::new())).await;
        let answers = classifier(&server.url, Protocol::Json).predict(vec!["x", "y"]).await.unwrap();
        assert!(answers.iter().all(|answer| answer.as_ref().unwrap_err().message.contains(expected)), "{answers:?}");
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
