//! Endpoints of all three shapes, healthy and sick, played by a small server in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millstream_core::{ErrorKind, FailureKind, HumanDuration, Secret};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{ModelConfig, Prediction, Task};

/// What the server was asked.
#[derive(Debug, Clone)]
struct Asked {
    head: String,
    body: Value,
}

/// What it answers: status, further headers, body. A status of 0 is no answer at all.
type Reply = (u16, &'static str, String);

struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    busiest: Arc<AtomicUsize>,
}

/// Answers every request with what `reply` makes of it, on as many connections as there come.
async fn serve(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, busiest, busy) = (Arc::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let server = Server { url, asked: Arc::clone(&asked), busiest: busiest.clone() };
    let reply = Arc::new(reply);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, reply, busy, busiest) = (asked.clone(), reply.clone(), busy.clone(), busiest.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                while let Some(request) = read_request(&mut stream).await {
                    busiest.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    asked.lock().push(request.clone());
                    tokio::task::yield_now().await;
                    let (status, headers, body) = reply(&request);
                    if status == 0 {
                        std::future::pending::<()>().await;
                    }
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
                    busy.fetch_sub(1, Ordering::SeqCst);
                    stream.write_all((head + &body).as_bytes()).await.unwrap();
                }
            });
        }
    });
    server
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked { head, body: serde_json::from_slice(&body).unwrap() })
}

fn model(url: &str, protocol: Protocol, task: Task) -> ModelConfig {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = ModelConfig::new(task, url);
    config.protocol = Some(protocol);
    config.model_name = (protocol == Protocol::Kserve).then(|| "tone".into());
    if task == Task::TextClassification {
        config.labels = vec!["bad".into(), "good".into()];
    }
    config.timeout = Some(HumanDuration(Duration::from_secs(20)));
    config
}

fn classifier(url: &str, protocol: Protocol) -> ModelHandle {
    model(url, protocol, Task::TextClassification).load("tone").unwrap()
}

/// The scores that the server gives a text: its length decides.
fn goodness(text: &Value) -> f64 {
    text.as_str().unwrap().len() as f64 / 64.0
}

fn item(text: &Value) -> Value {
    let good = goodness(text);
    // Best first, as real servers do: not the order of the labels.
    json!([{ "label": "good", "score": good }, { "label": "bad", "score": 1.0 - good }])
}

fn items(texts: &Value) -> Vec<Value> {
    texts.as_array().unwrap().iter().map(item).collect()
}

fn scores(answers: Vec<Result<Prediction, millstream_core::Failure>>) -> Vec<Vec<f32>> {
    let scores = |answer| if let Ok(Prediction::Scores(scores)) = answer { scores } else { panic!("{answer:?}") };
    answers.into_iter().map(scores).collect()
}

/// The only failure of a call with one text.
async fn failure(body: &str, protocol: Protocol) -> String {
    let body = body.to_owned();
    let server = serve(move |_| (200, "", body.clone())).await;
    let answers = classifier(&server.url, protocol).predict(vec!["x"]).await.unwrap();
    let failure = answers.into_iter().next().unwrap().unwrap_err();
    assert_eq!(failure.kind, FailureKind::Model);
    failure.message
}

#[tokio::test]
async fn json_scores_are_matched_by_label_and_headers_are_sent() {
    let server = serve(|asked| (200, "", Value::from(items(&asked.body["inputs"])).to_string())).await;
    let mut config = model(&format!("{}/score", server.url), Protocol::Json, Task::TextClassification);
    config.headers = BTreeMap::from([("Authorization".into(), Secret::new("Bearer t"))]);
    let answers = config.load("tone").unwrap().predict(vec!["x".repeat(16), "x".repeat(48)]).await.unwrap();
    assert_eq!(scores(answers), [[0.75, 0.25], [0.25, 0.75]]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /score HTTP/1.1\r\n"), "{}", asked.head);
    assert!(asked.head.contains("authorization: Bearer t\r\n"), "{}", asked.head);
}

#[tokio::test]
async fn sagemaker_predictions_are_read_in_all_their_forms() {
    let server = serve(|asked| {
        let texts = asked.body["instances"].as_array().unwrap();
        let good: Vec<f64> = texts.iter().map(goodness).collect();
        let predictions = json!([
            item(&texts[0]),
            { "label": "good", "score": good[1], "scores": { "good": good[1], "bad": 1.0 - good[1] } },
            [1.0 - good[2], good[2]],
            { "good": good[3], "bad": 1.0 - good[3] },
            { "error": "too long" },
        ]);
        (200, "", json!({ "predictions": predictions }).to_string())
    })
    .await;
    let texts: Vec<String> = (1..=5).map(|i| "x".repeat(i * 8)).collect();
    let mut answers = classifier(&server.url, Protocol::Sagemaker).predict(texts).await.unwrap();
    assert!(answers.pop().unwrap().unwrap_err().message.contains("too long"));
    assert_eq!(scores(answers), [[0.875, 0.125], [0.75, 0.25], [0.625, 0.375], [0.5, 0.5]]);
    assert!(server.asked.lock()[0].head.starts_with("POST /invocations HTTP/1.1\r\n"));
}

#[tokio::test]
async fn kserve_tensors_of_numbers_and_of_texts_are_read() {
    let server = serve(|asked| {
        let input = &asked.body["inputs"][0];
        assert_eq!((&input["datatype"], &input["shape"]), (&json!("BYTES"), &json!([2])));
        let good: Vec<f64> = input["data"].as_array().unwrap().iter().map(goodness).collect();
        let flat = json!([1.0 - good[0], good[0], 1.0 - good[1], good[1]]);
        let nested = json!([[1.0 - good[0], good[0]], [1.0 - good[1], good[1]]]);
        let texts = json!([item(&input["data"][0]).to_string(), item(&input["data"][1]).to_string()]);
        let (datatype, shape, data) = match good[0] {
            0.125 => ("FP32", json!([2, 2]), flat),
            0.25 => ("FP32", json!([2, 2]), nested),
            _ => ("BYTES", json!([2]), texts),
        };
        let tensor = json!({ "name": "output-0", "datatype": datatype, "shape": shape, "data": data });
        (200, "", json!({ "model_name": "tone", "outputs": [tensor] }).to_string())
    })
    .await;
    let handle = classifier(&server.url, Protocol::Kserve);
    for length in [8, 16, 32] {
        let answers = handle.predict(vec!["x".repeat(length), "x".repeat(48)]).await.unwrap();
        let good = length as f32 / 64.0;
        assert_eq!(scores(answers), [[1.0 - good, good], [0.25, 0.75]]);
    }
    assert!(server.asked.lock()[0].head.starts_with("POST /v2/models/tone/infer HTTP/1.1\r\n"));
}

#[tokio::test]
async fn embeddings_are_read_from_all_three_shapes() {
    let answers = [
        (Protocol::Json, json!([[1.0, 2.0]])),
        (Protocol::Sagemaker, json!({ "predictions": [{ "embedding": [1, 2] }] })),
        (Protocol::Kserve, json!({ "outputs": [{ "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0] }] })),
    ];
    for (protocol, answer) in answers {
        let server = serve(move |_| (200, "", answer.to_string())).await;
        let handle = model(&server.url, protocol, Task::Embedding).load("vector").unwrap();
        assert_eq!(handle.predict(vec!["x"]).await.unwrap(), [Ok(Prediction::Embedding(vec![1.0, 2.0]))]);
    }
    let server = serve(|_| (200, "", "[[[1.0], [2.0]]]".into())).await;
    let handle = model(&server.url, Protocol::Json, Task::Embedding).load("vector").unwrap();
    assert!(handle.predict(vec!["x"]).await.unwrap()[0].as_ref().unwrap_err().message.contains("per token"));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failure_that_says_why() {
    use Protocol::{Json, Kserve, Sagemaker};
    let cases = [
        (Json, "<html>", "no JSON"),
        (Json, "", "no JSON"),
        (Json, "[[{\"label\":\"bad\",\"score\":NaN}]]", "no JSON"),
        (Json, "{\"error\":\"loading\"}", "loading"),
        (Json, "{}", "no list"),
        (Json, "[]", "0 answers to 1 inputs"),
        (Json, "[[],[]]", "2 answers to 1 inputs"),
        (Json, "[[{\"label\":\"bad\",\"score\":null},{\"label\":\"good\",\"score\":1}]]", "no scores"),
        (Json, "[[{\"label\":\"LABEL_0\",\"score\":1}]]", "`LABEL_0`; `labels` are bad, good"),
        (Json, "[[{\"label\":\"bad\",\"score\":1}]]", "the label `good` no score"),
        (Json, "[[{\"label\":\"bad\",\"score\":0.5},{\"label\":\"bad\",\"score\":0.5}]]", "two scores"),
        (Json, "[[{\"label\":\"bad\",\"score\":-3.1},{\"label\":\"good\",\"score\":4.1}]]", "logits"),
        (Json, "[[0.9, 0.9]]", "sum to 1.8"),
        (Json, "[[0.2, 0.3, 0.5]]", "3 scores for 2 labels"),
        (Json, "[\"good\"]", "no scores"),
        (Sagemaker, "[]", "predictions"),
        (Sagemaker, "{\"predictions\":[]}", "0 answers to 1 inputs"),
        (Kserve, "{\"outputs\":[]}", "no `outputs`"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1]}]}", "shape [1, 2] but 1"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[2,1],\"data\":[0,1]}]}", "2 answers to 1 inputs"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"INT64\",\"shape\":[1],\"data\":[1]}]}", "INT64"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[18446744073709551615,9],\"data\":[1]}]}", "shape"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"good\"]}]}", "no JSON text"),
    ];
    for (protocol, body, expected) in cases {
        let message = failure(body, protocol).await;
        assert!(message.contains(expected), "{body}: {message}");
    }
}

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
    config.timeout = Some(HumanDuration(Duration::from_millis(50)));
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
    config.concurrency = Some(2);
    config.batch.max = 4;
    let texts: Vec<String> = (0..200).map(|i| "x".repeat(i % 60)).collect();
    let answers = config.load("tone").unwrap().predict(texts.clone()).await.unwrap();
    let lengths: Vec<usize> = scores(answers).iter().map(|scores| (scores[1] * 64.0).round() as usize).collect();
    assert_eq!(lengths, texts.iter().map(String::len).collect::<Vec<_>>());
    assert_eq!(server.asked.lock().len(), 50);
    assert_eq!(server.busiest.load(Ordering::SeqCst), 2);
}
