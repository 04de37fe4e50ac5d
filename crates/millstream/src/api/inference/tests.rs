//! Every protocol over real connections, with models that fail and wait when they are told to.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};

use millstream_core::{Failure, FailureKind, Result};
use millstream_models::{
    BatchConfig, Fallback, FallbackConfig, Model, ModelConfig, ModelHandle, ModelInfo, Prediction,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::*;

/// Fails on `bad`, answers `wait` once the gate lets it, panics on `panic`.
struct Moody {
    info: ModelInfo,
    /// Told of each `wait`, and what lets it go on.
    gate: Option<(Sender<()>, Receiver<()>)>,
}

impl Model for Moody {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn predict(&mut self, inputs: &[&str]) -> Result<Vec<Result<Prediction, Failure>>> {
        let task = self.info.task;
        let gate = &self.gate;
        let one = |text: &&str| match (*text, gate) {
            ("bad", _) => Err(Failure::new(FailureKind::Model, "it does not like this")),
            ("panic", _) => panic!("told to"),
            ("wait", Some((waiting, go))) => {
                let _ = waiting.send(());
                let _ = go.recv();
                Ok(Prediction::Scores(vec![0.25, 0.75]))
            }
            (number, _) if task == Task::Embedding && number.parse::<f32>().is_ok() => {
                Ok(Prediction::Embedding(vec![number.parse().unwrap()]))
            }
            _ if task == Task::Embedding => Ok(Prediction::Embedding(vec![3.0, 4.0])),
            _ => Ok(Prediction::Scores(vec![0.25, 0.75])),
        };
        Ok(inputs.iter().map(one).collect())
    }
}

fn moody(name: &str, task: Task, gate: Option<(Sender<()>, Receiver<()>)>) -> (Arc<str>, Scorer) {
    let labels = if task == Task::Embedding { vec![] } else { vec!["down".into(), "up".into()] };
    let dimensions = (task == Task::Embedding).then_some(2);
    let info = ModelInfo {
        name: name.into(),
        digest: "d1".into(),
        task,
        labels,
        multi_label: false,
        dimensions,
        reads: millstream_models::Reads::Text,
    };
    let model = Moody { info, gate };
    (name.into(), Scorer::alone(ModelHandle::spawn(vec![Box::new(model)], BatchConfig::default()).unwrap()))
}

async fn start(inference: Inference) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router(inference)).await });
    address
}

/// A server with one classifier, `mood`, and one embedding, `meaning`.
async fn two_models() -> SocketAddr {
    let models = [moody("mood", Task::TextClassification, None), moody("meaning", Task::Embedding, None)];
    start(Inference::of(models.into(), Limits::default())).await
}

struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

async fn send(at: SocketAddr, path: &str, headers: &[(&str, &str)], body: impl Into<Option<String>>) -> Answer {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let body = body.into();
    let method = if body.is_some() { Method::POST } else { Method::GET };
    let mut request = reqwest::Client::new().request(method, format!("http://{at}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.body(body.unwrap_or_default()).send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.unwrap();
    Answer { status, headers, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) }
}

fn infer(texts: &[&str]) -> String {
    json!({ "inputs": [{ "name": "x", "shape": [texts.len()], "datatype": "BYTES", "data": texts }] }).to_string()
}

/// A request in each protocol, with one text for the classifier.
fn requests(text: &str) -> [(&'static str, String); 3] {
    [
        ("/invocations?model=mood", json!({ "instances": [text] }).to_string()),
        ("/v2/models/mood/infer", infer(&[text])),
        ("/predict?model=mood", json!({ "inputs": text }).to_string()),
    ]
}

#[tokio::test]
async fn while_models_are_loaded_every_protocol_says_so_and_alive_is_not_ready() {
    let inference = Inference::loading(Limits::default());
    let at = start(inference.clone()).await;
    for path in ["/ping", "/health", "/v2/health/ready", "/info", "/v2/models/mood"] {
        assert_eq!(send(at, path, &[], None).await.status, 503, "{path}");
    }
    assert_eq!(send(at, "/v2/health/live", &[], None).await.status, 200);
    for (path, body) in requests("a") {
        let answer = send(at, path, &[], body).await;
        assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &"1".parse().unwrap()), "{path}");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.contains("being loaded")), "{path}");
    }
    inference.loaded([moody("mood", Task::TextClassification, None)].into());
    for path in ["/ping", "/health", "/v2/health/ready", "/info", "/v2/models/mood"] {
        assert_eq!(send(at, path, &[], None).await.status, 200, "{path}");
    }
    for (path, body) in requests("a") {
        assert_eq!(send(at, path, &[], body).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn one_of_several_models_is_chosen_by_name_or_by_what_it_does() {
    let at = two_models().await;
    let body = || json!({ "inputs": ["a"] }).to_string();
    let scored = json!([[{ "label": "up", "score": 0.75 }, { "label": "down", "score": 0.25 }]]);
    let attributes = [("X-Amzn-SageMaker-Custom-Attributes", "trace=7,model=mood")];
    let answer = send(at, "/invocations", &attributes, body()).await;
    assert_eq!((answer.status.as_u16(), &answer.body), (200, &scored));
    assert_eq!(answer.headers["x-amzn-sagemaker-custom-attributes"], "model=mood;digest=d1");
    assert_eq!(send(at, "/invocations?model=meaning", &[], body()).await.body, json!([[3.0, 4.0]]));
    let answer = send(at, "/invocations", &[], body()).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body["error"].as_str().is_some_and(|e| e.contains("meaning, mood")), "{}", answer.body);
    for (path, headers) in [("/invocations?model=moo", &[][..]), ("/invocations", &[(attributes[0].0, "model=moo")])] {
        let answer = send(at, path, headers, body()).await;
        assert_eq!(answer.status, 404);
        assert!(answer.body["error"].as_str().is_some_and(|e| e.contains("`moo`") && e.contains("mood")));
    }
    assert_eq!(send(at, "/embed", &[], body()).await.body, json!([[0.6, 0.8]]), "normalised, as TEI does by default");
    assert_eq!(send(at, "/predict", &[], body()).await.body, scored[0], "a list of one text is one text");
    let answer = send(at, "/embed?model=mood", &[], body()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error_type"]), (422, &json!("Tokenizer")));
    let info = send(at, "/info?model=mood", &[], None).await.body;
    assert_eq!(info["model_type"]["classifier"]["id2label"], json!({ "0": "down", "1": "up" }));
}

#[tokio::test]
async fn kserve_clients_find_models_their_tensors_and_versions() {
    let at = two_models().await;
    assert_eq!(send(at, "/v2", &[], None).await.body["name"], "millstream");
    let index = send(at, "/v2/repository/index", &[], String::new()).await.body;
    assert_eq!(index[1], json!({ "name": "mood", "version": "d1", "state": "READY" }));
    let metadata = send(at, "/v2/models/mood", &[], None).await.body;
    assert_eq!(metadata["outputs"][0], json!({ "name": "scores", "datatype": "FP32", "shape": [-1, 2] }));
    assert_eq!(metadata["versions"], json!(["d1"]));
    let metadata = send(at, "/v2/models/meaning/versions/d1", &[], None).await.body;
    assert_eq!(metadata["outputs"], json!([{ "name": "embedding", "datatype": "FP32", "shape": [-1, 2] }]));
    assert_eq!(send(at, "/v2/models/mood/ready", &[], None).await.body["ready"], true);
    for path in ["/v2/models/moo", "/v2/models/moo/ready", "/v2/models/mood/versions/d2"] {
        assert_eq!(send(at, path, &[], None).await.status, 404, "{path}");
    }
    assert_eq!(send(at, "/v2/models/moo/infer", &[], infer(&["a"])).await.status, 404);
    let answer = send(at, "/v2/models/meaning/versions/d1/infer", &[], infer(&["a", "b"])).await;
    assert_eq!(answer.headers["x-millstream-scored-by"], "meaning@d1");
    assert_eq!(answer.body["outputs"][0]["data"], json!([3.0, 4.0, 3.0, 4.0]));
}

#[tokio::test]
async fn a_text_that_the_model_fails_on_fails_alone_where_the_protocol_can_say_so() {
    let at = two_models().await;
    let body = || json!({ "instances": ["good", "bad", "panic"] }).to_string();
    let answer = send(at, "/invocations?model=mood", &[], body()).await;
    let predictions = answer.body["predictions"].as_array().unwrap().clone();
    assert_eq!((answer.status.as_u16(), &predictions[0]["label"]), (200, &json!("up")));
    assert_eq!(predictions[1], json!({ "error": "it does not like this" }));
    assert!(predictions[2]["error"].as_str().is_some_and(|e| e.contains("panicked: told to")), "{predictions:?}");
    let answer = send(at, "/v2/models/mood/infer", &[], infer(&["good", "bad"])).await;
    assert_eq!((answer.status.as_u16(), &answer.body), (400, &json!({ "error": "text 2: it does not like this" })));
    let answer = send(at, "/predict", &[], json!({ "inputs": [["good"], ["bad"]] }).to_string()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error_type"]), (422, &json!("Tokenizer")));
    let csv = [("content-type", "text/csv")];
    assert_eq!(send(at, "/invocations?model=mood", &csv, "good\nbad\n".to_owned()).await.status, 400);
    assert_eq!(send(at, "/invocations?model=mood", &csv, "good\n".to_owned()).await.body, "up,0.75,0.25,0.75\n");
}

#[tokio::test]
async fn what_is_not_of_the_protocol_is_refused_in_its_own_words() {
    let at = two_models().await;
    for (path, status) in [("/invocations?model=mood", 400), ("/v2/models/mood/infer", 400), ("/predict", 422)] {
        let answer = send(at, path, &[], "{".to_owned()).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.body.get("error_type").is_some(), path == "/predict", "{path}: {}", answer.body);
    }
    let empty = send(at, "/predict", &[], json!({ "inputs": [] }).to_string()).await;
    assert_eq!((empty.status.as_u16(), &empty.body["error_type"]), (400, &json!("Empty")));
    let headers = [("content-type", "application/x-npy")];
    assert_eq!(send(at, "/invocations?model=mood", &headers, "x".to_owned()).await.status, 415);
    let headers = [("accept", "image/png")];
    assert_eq!(send(at, "/invocations?model=mood", &headers, "{}".to_owned()).await.status, 406);
    let headers = [("inference-header-content-length", "many")];
    assert_eq!(send(at, "/v2/models/mood/infer", &headers, infer(&["a"])).await.status, 400);
}

#[tokio::test]
async fn a_body_or_a_number_of_texts_beyond_the_limit_is_413_in_every_protocol() {
    let limits = Limits { body_bytes_max: 200 << 10, ..Limits::default() };
    let at = start(Inference::of([moody("mood", Task::TextClassification, None)].into(), limits)).await;
    for text in [vec!["x".repeat(300 << 10)], vec![String::new(); admission::TEXTS_MAX + 1]] {
        let nested: Vec<_> = text.iter().map(|t| [t]).collect();
        let texts: Vec<&str> = text.iter().map(String::as_str).collect();
        for (path, body) in [
            ("/invocations", json!({ "instances": text }).to_string()),
            ("/v2/models/mood/infer", infer(&texts)),
            ("/predict", json!({ "inputs": nested }).to_string()),
        ] {
            assert_eq!(send(at, path, &[], body).await.status, 413, "{path}");
        }
    }
    // Of unknown length, so that only reading it tells.
    let pieces = futures::stream::iter((0..40).map(|_| Ok::<_, std::io::Error>(vec![b' '; 10 << 10])));
    let request = reqwest::Client::new().post(format!("http://{at}/invocations"));
    let answer = request.body(reqwest::Body::wrap_stream(pieces)).send().await.unwrap();
    assert_eq!(answer.status(), 413);
}

#[tokio::test]
async fn an_answer_that_would_take_too_much_is_refused_before_the_model_works() {
    let info = ModelInfo {
        name: "wide".into(),
        digest: "d1".into(),
        task: Task::Embedding,
        labels: vec![],
        multi_label: false,
        dimensions: Some(1 << 20),
        reads: millstream_models::Reads::Text,
    };
    let model = ModelHandle::spawn(vec![Box::new(Moody { info, gate: None })], BatchConfig::default()).unwrap();
    let at = start(Inference::of([("wide".into(), Scorer::alone(model.clone()))].into(), Limits::default())).await;
    for texts in [1, 8] {
        assert_eq!(send(at, "/embed", &[], json!({ "inputs": vec!["a"; texts] }).to_string()).await.status, 200);
    }
    let batches = model.stats().batch_size.count();
    let answer = send(at, "/embed", &[], json!({ "inputs": vec!["a"; 16] }).to_string()).await;
    assert_eq!((answer.status.as_u16(), &answer.body["error_type"]), (413, &json!("Validation")));
    assert_eq!(model.stats().batch_size.count(), batches);
    // What was sent is no longer held: each of these needs nearly all of the room.
    for _ in 0..4 {
        assert_eq!(send(at, "/embed", &[], json!({ "inputs": vec!["a"; 10] }).to_string()).await.status, 200);
    }
}

#[tokio::test]
async fn requests_at_once_get_their_own_answers_in_their_own_order() {
    let at = two_models().await;
    let clients = (0..48_u32).map(|client| {
        tokio::spawn(async move {
            // More than one call to the queue, so that calls of several clients lie between each other.
            let numbers: Vec<u32> = (0..300).map(|n| client * 1000 + n).collect();
            let texts: Vec<String> = numbers.iter().map(u32::to_string).collect();
            let body = json!({ "inputs": texts, "normalize": false }).to_string();
            let path = if client % 2 == 0 { "/embed" } else { "/invocations?model=meaning" };
            let answer = send(at, path, &[], body).await;
            assert_eq!(answer.body, json!(numbers.iter().map(|&n| [f64::from(n)]).collect::<Vec<_>>()), "{path}");
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn with_no_room_left_a_request_is_sent_away_and_what_has_room_is_answered() {
    let ((waiting, is_waiting), (go, let_go)) = (channel(), channel());
    let (name, model) = moody("mood", Task::TextClassification, Some((waiting, let_go)));
    let limits = Limits { wait_max: Duration::from_millis(50), ..Limits::default() };
    let at = start(Inference::of([(name, model)].into(), limits)).await;
    // As many texts as may wait, in calls of which each has its turn; the first of them keeps the model busy.
    let texts: Vec<&str> = ["wait"].into_iter().chain(std::iter::repeat_n("a", 255)).collect();
    let body = json!({ "instances": texts }).to_string();
    let patient: Vec<_> = (0..4)
        .map(|_| {
            let body = body.clone();
            tokio::spawn(async move { send(at, "/invocations", &[], body).await.status })
        })
        .collect();
    tokio::task::spawn_blocking(move || is_waiting.recv()).await.unwrap().unwrap();
    // Until all four have their turn, a request may still find room, and then waits for the model.
    for (path, body) in requests("b") {
        let answer = loop {
            let asked = tokio::time::timeout(Duration::from_secs(5), send(at, path, &[], body.clone())).await;
            if let Ok(answer) = asked {
                break answer;
            }
        };
        assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (429, &"1".parse().unwrap()), "{path}");
    }
    assert_eq!(send(at, "/ping", &[], None).await.status, 200, "busy is not broken");
    // One for each of the four, and one for good measure where a batch was taken apart.
    for _ in 0..5 {
        let _ = go.send(());
    }
    for request in patient {
        assert_eq!(request.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn a_model_that_does_not_answer_in_time_is_unavailable() {
    let ((waiting, _is_waiting), (go, let_go)) = (channel(), channel());
    let (name, model) = moody("mood", Task::TextClassification, Some((waiting, let_go)));
    let limits = Limits { answer_max: Duration::from_millis(50), ..Limits::default() };
    let at = start(Inference::of([(name, model)].into(), limits)).await;
    for (path, body) in requests("wait") {
        let answer = send(at, path, &[], body).await;
        assert_eq!((answer.status.as_u16(), &answer.headers["retry-after"]), (503, &"1".parse().unwrap()), "{path}");
    }
    drop(go);
}

#[tokio::test]
async fn where_the_model_cannot_answer_its_fallback_does_and_every_protocol_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = json!({ "task": "text-classification", "source": nowhere, "labels": ["down", "up"] });
    let model = serde_json::from_value::<ModelConfig>(config).unwrap().load("mood").unwrap();
    let value = json!({ "scores": { "up": 0.75, "down": 0.25 } });
    let fallback = FallbackConfig::Value(value.as_object().unwrap().clone());
    let fallback = Fallback::new(&model.info(), &fallback, |_| None).unwrap();
    let by = format!("mood.fallback@{}", fallback.info().digest);
    let alone = Scorer::alone(model);
    let with = alone.clone().with_fallback(Some(fallback));
    let at = start(Inference::of([("mood".into(), alone)].into(), Limits::default())).await;
    for (path, body) in requests("a") {
        assert_eq!(send(at, path, &[], body).await.status, 503, "{path}");
    }
    let at = start(Inference::of([("mood".into(), with)].into(), Limits::default())).await;
    for (path, body) in requests("a") {
        let answer = send(at, path, &[], body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        assert_eq!(answer.headers["x-millstream-scored-by"], by, "{path}");
        assert!(answer.body.to_string().contains("0.75"), "{path}: {}", answer.body);
    }
    let (path, body) = requests("a")[0].clone();
    let attributes = by.replace('@', ";digest=");
    let answer = send(at, path, &[], body).await;
    assert_eq!(answer.headers["x-amzn-sagemaker-custom-attributes"], format!("model={attributes}"));
}

#[tokio::test]
async fn a_fallback_has_its_own_part_of_the_time_that_a_request_may_take() {
    let ((waiting, _is_waiting), (go, let_go)) = (channel(), channel());
    let (name, model) = moody("mood", Task::TextClassification, Some((waiting, let_go)));
    let value = json!({ "label": "down" });
    let config = FallbackConfig::Value(value.as_object().unwrap().clone());
    let fallback = Fallback::new(&model.info(), &config, |_| None).unwrap();
    let model = model.with_fallback(Some(fallback));
    let limits = Limits { answer_max: Duration::from_millis(500), ..Limits::default() };
    let at = start(Inference::of([(name, model)].into(), limits)).await;
    let answer = send(at, "/predict", &[], json!({ "inputs": "wait" }).to_string()).await;
    assert_eq!((answer.status.as_u16(), &answer.body[0]["label"]), (200, &json!("down")));
    drop(go);
}

#[tokio::test]
async fn a_model_that_hangs_for_good_is_not_healthy() {
    let ((waiting, _is_waiting), (go, let_go)) = (channel(), channel());
    let (name, model) = moody("mood", Task::TextClassification, Some((waiting, let_go)));
    model.model().set_stall_timeout(Duration::from_millis(20));
    let at = start(Inference::of([(name, model)].into(), Limits::default())).await;
    assert_eq!(send(at, "/ping", &[], None).await.status, 200);
    let body = json!({ "instances": ["wait"] }).to_string();
    tokio::spawn(async move { send(at, "/invocations", &[], body).await });
    // Nobody can take its place: there is no other copy of it.
    while send(at, "/ping", &[], None).await.status == 200 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(send(at, "/v2/health/ready", &[], None).await.status, 503);
    assert_eq!(send(at, "/v2/health/live", &[], None).await.status, 200);
    drop(go);
}
