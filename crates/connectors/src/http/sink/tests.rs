//! The HTTP sink against a web service in the same process.

use std::collections::VecDeque;
use std::sync::Mutex;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap as Headers, Method as Verb, Uri};
use axum::response::IntoResponse;
use millstream_core::ErrorKind;
use serde_json::{Value, json};

use super::*;
use crate::payload::tests::{change_schema, changes, context, ids, row_schema, rows};

/// A status and headers.
type Answer = (u16, Vec<(&'static str, String)>);

/// A web service that answers as it is told, then 200, and remembers what it accepted and what it was asked.
#[derive(Clone, Default)]
struct Service {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    /// Bodies that hold this text are refused with 422.
    poison: Arc<Mutex<Option<&'static str>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

#[derive(Debug, Clone)]
struct Asked {
    verb: Verb,
    uri: String,
    headers: Headers,
    body: String,
    status: u16,
}

impl Service {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    fn answer_with(&self, status: u16, headers: Vec<(&'static str, String)>) {
        self.answers.lock().unwrap().push_back((status, headers));
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The ids of the rows that were accepted, in order.
    fn accepted(&self) -> Vec<i64> {
        let asked = self.asked();
        let accepted = asked.iter().filter(|a| a.status == 200);
        accepted
            .flat_map(|a| {
                let values: Vec<Value> = match serde_json::from_str(&a.body).unwrap() {
                    Value::Array(values) => values,
                    one => vec![one],
                };
                values.into_iter().map(|v| v["id"].as_i64().unwrap())
            })
            .collect()
    }
}

async fn answer(
    State(service): State<Service>,
    verb: Verb,
    uri: Uri,
    headers: Headers,
    body: Bytes,
) -> impl IntoResponse {
    let body = String::from_utf8(body.to_vec()).unwrap();
    let poisoned = service.poison.lock().unwrap().is_some_and(|p| body.contains(p));
    let next = service.answers.lock().unwrap().pop_front();
    let (status, more) = next.unwrap_or((if poisoned { 422 } else { 200 }, Vec::new()));
    service.asked.lock().unwrap().push(Asked { verb, uri: uri.to_string(), headers, body, status });
    let mut answer = (axum::http::StatusCode::from_u16(status).unwrap(), "because\nof reasons").into_response();
    for (name, value) in more {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

fn checked(settings: Value, schema: &SchemaRef) -> HttpSinkSpec {
    let config: HttpSinkConfig = serde_json::from_value(settings).unwrap();
    config.checked(schema).unwrap()
}

fn sink(settings: Value) -> HttpSink {
    // Another test may have installed it already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    HttpSink::new(&checked(settings, &row_schema()), context())
}

#[tokio::test]
async fn rows_go_out_in_order_in_requests_of_the_asked_size() {
    let service = Service::default();
    let url = service.start().await;
    let mut sink = sink(
        json!({"url": format!("{url}/hook?a=b"), "batch": {"max": 4}, "bearer_token": "t", "headers": {"X-A": "b"}}),
    );
    let mut batch = ids(10, 6);
    batch.offsets = vec![10, 11, 13, 14, 15, 20];
    assert_eq!(sink.deliver(&batch).await.unwrap(), []);
    assert_eq!(service.accepted(), [10, 11, 12, 13, 14, 15]);
    let asked = service.asked();
    assert_eq!(asked.len(), 2);
    let header = |i: usize, name: &str| asked[i].headers[name].to_str().unwrap().to_owned();
    assert_eq!((asked[0].verb.as_str(), asked[0].uri.as_str()), ("POST", "/hook?a=b"));
    assert_eq!(header(0, "idempotency-key"), "f0/wire/0/10-14");
    assert_eq!(header(0, "x-millstream-folder"), "f0");
    assert_eq!(header(0, "x-millstream-stream"), "wire");
    assert_eq!(header(0, "x-millstream-partition"), "0");
    assert_eq!(header(0, "x-millstream-offsets"), "10-11,13-14");
    assert_eq!(header(1, "x-millstream-offsets"), "15,20");
    assert_eq!((header(1, "authorization"), header(1, "x-a")), ("Bearer t".into(), "b".into()));
    assert_eq!(header(1, "content-type"), "application/json");
}

#[tokio::test]
async fn each_format_is_what_it_says() {
    let service = Service::default();
    let url = service.start().await;
    let row = |id: u64| format!("{{\"id\":{id},\"headline\":null,\"at\":null,\"sentiment\":null}}");
    let line = json!({"format": "text", "template": "no {id}"});
    let csv = |ids: &str| format!("id,headline,at,sentiment\n{ids}\n");
    for (settings, kind, bodies) in [
        (json!({}), "application/json", vec![format!("[{},{}]", row(0), row(1))]),
        (json!({"framing": "lines"}), "application/x-ndjson", vec![format!("{}\n{}\n", row(0), row(1))]),
        (json!({"framing": "single"}), "application/json", vec![row(0), row(1)]),
        (json!({"encode": "csv"}), "text/csv", vec![csv("0,,,\n1,,,")]),
        (json!({"encode": line}), "text/plain; charset=utf-8", vec!["no 0\nno 1\n".into()]),
    ] {
        service.asked.lock().unwrap().clear();
        let mut all = json!({"url": url, "method": "PUT"});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        sink(all).deliver(&ids(0, 2)).await.unwrap();
        let asked = service.asked();
        assert_eq!(asked.iter().map(|a| a.body.clone()).collect::<Vec<_>>(), bodies);
        assert_eq!(asked[0].verb, Verb::PUT);
        assert_eq!(asked[0].headers["content-type"], kind);
    }
}

#[tokio::test]
async fn a_row_without_bytes_is_a_failure_of_its_own_and_offsets_stay_those_of_the_rows() {
    let service = Service::default();
    let url = service.start().await;
    let raw = json!({"format": "raw", "column": "headline"});
    let values = [json!({"id": 0, "headline": "a"}), json!({"id": 1}), json!({"id": 2, "headline": "b\nc"})];
    let failures = sink(json!({"url": url, "encode": raw})).deliver(&rows(5, &values)).await.unwrap();
    assert_eq!(failures.iter().map(|f| (f.row, f.failure.kind)).collect::<Vec<_>>(), [(1, FailureKind::MissingField)]);
    let asked = service.asked();
    assert_eq!(asked.iter().map(|a| a.body.as_str()).collect::<Vec<_>>(), ["a", "b\nc"]);
    assert_eq!(asked[1].headers["idempotency-key"], "f0/wire/0/7");
    assert_eq!(asked[1].headers["content-type"], "application/octet-stream");
}

#[tokio::test]
async fn only_the_rows_at_fault_are_refused() {
    let service = Service::default();
    let url = service.start().await;
    *service.poison.lock().unwrap() = Some("bad");
    let values: Vec<Value> =
        (0..20).map(|id| json!({"id": id, "headline": if id == 7 || id == 19 { "bad" } else { "good" }})).collect();
    let failures = sink(json!({"url": url})).deliver(&rows(0, &values)).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [7, 19]);
    assert_eq!(failures[0].failure.kind, FailureKind::Rejected);
    let message = &failures[0].failure.message;
    assert!(message.ends_with("answers 422 Unprocessable Entity: because of reasons"), "{message}");
    assert_eq!(service.accepted(), (0..20).filter(|id| ![7, 19].contains(id)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_retry_goes_on_where_the_first_try_stopped() {
    let service = Service::default();
    let url = service.start().await;
    for status in [200, 422, 503] {
        service.answer_with(status, Vec::new());
    }
    let mut sink = sink(json!({"url": url, "framing": "single"}));
    let batch = ids(0, 4);
    let error = sink.deliver(&batch).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("503 Service Unavailable: because of reasons"), "{error}");
    let failures = sink.deliver(&batch).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1]);
    assert_eq!(service.accepted(), [0, 2, 3]);
    // The next batch begins at its own first row.
    assert_eq!(sink.deliver(&ids(4, 2)).await.unwrap(), []);
    assert_eq!(service.accepted(), [0, 2, 3, 4, 5]);
}

#[tokio::test]
async fn what_says_nothing_about_the_rows_is_tried_again() {
    let service = Service::default();
    let url = service.start().await;
    let mut sink = sink(json!({"url": format!("{url}/token-in-path?key=hush")}));
    for (status, advice) in [
        (401, "credentials"),
        (403, "credentials"),
        (302, "redirects are not followed"),
        (408, ""),
        (429, ""),
        (500, ""),
    ] {
        let location = if status == 302 { vec![("location", "/elsewhere".to_owned())] } else { Vec::new() };
        service.answer_with(status, location);
        let error = sink.deliver(&ids(0, 1)).await.unwrap_err();
        assert!(error.is_retry() && error.to_string().contains(advice), "{error}");
        assert!(!error.to_string().contains("hush") && !error.to_string().contains("token-in-path"), "{error}");
    }
    assert_eq!(service.accepted(), [] as [i64; 0]);
    service.answer_with(413, Vec::new());
    assert_eq!(sink.deliver(&ids(0, 1)).await.unwrap()[0].failure.kind, FailureKind::TooLarge);
}

#[tokio::test]
async fn a_refused_connection_is_tried_again_and_names_the_host_only() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error =
        sink(json!({"url": format!("http://u:hush@{address}/hush?hush")})).deliver(&ids(0, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry);
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && !text.contains("hush"), "{text}");
}

#[tokio::test]
async fn a_silent_service_is_given_up_after_the_time_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let error = sink(json!({"url": url, "timeout": "50ms"})).deliver(&ids(0, 1)).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("timed out"), "{error}");
}

#[tokio::test]
async fn columns_in_the_url_are_encoded_and_split_requests() {
    let service = Service::default();
    let url = service.start().await;
    let values = ["a/b", "a/b", "ü"].map(|h| json!({"id": 1, "headline": h}));
    sink(json!({"url": format!("{url}/{{headline}}/x")})).deliver(&rows(0, &values)).await.unwrap();
    assert_eq!(service.asked().iter().map(|a| a.uri.clone()).collect::<Vec<_>>(), ["/a%2Fb/x", "/%C3%BC/x"]);
}

#[tokio::test]
async fn new_images_of_changes_keep_their_own_offsets() {
    let service = Service::default();
    let url = service.start().await;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = json!({"url": format!("{url}/{{sentiment.label}}"), "image": "new", "framing": "single"});
    let mut sink = HttpSink::new(&checked(settings, &change_schema()), context());
    *service.poison.lock().unwrap() = Some("negative");
    let failures = sink.deliver(&changes()).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1]);
    let asked = service.asked();
    assert_eq!(asked[0].headers["idempotency-key"], "f0/news.changes/2/7");
    assert_eq!(asked[1].headers["idempotency-key"], "f0/news.changes/2/8");
    assert_eq!(asked[1].uri, "/negative");
    assert_eq!(asked.len(), 2);
}

/// The wait itself, with tokio's clock standing still: it moves only while everything waits.
#[tokio::test(start_paused = true)]
async fn retry_after_is_honoured_up_to_the_limit() {
    for (asked, seconds) in [("7", 7), ("100000", 60)] {
        let response =
            axum::http::Response::builder().status(429).header("retry-after", asked).body("slow down").unwrap();
        let before = tokio::time::Instant::now();
        let error = sink(json!({"url": "http://h"}))
            .judge(Response::from(response), "POST http://h", 1, &Hidden::default())
            .await
            .err()
            .unwrap();
        assert_eq!(before.elapsed().as_secs(), seconds);
        assert_eq!(error.message(), "POST http://h answers 429 Too Many Requests: slow down");
    }
}

/// A web service that takes rows one by one, as Elasticsearch does: 2 is refused, 1 and 4 are throttled once.
async fn picky(State(asked): State<Arc<Mutex<Vec<Vec<i64>>>>>, body: Bytes) -> axum::Json<Value> {
    let rows: Vec<Value> = serde_json::from_slice(&body).unwrap();
    let ids: Vec<i64> = rows.iter().map(|row| row["id"].as_i64().unwrap()).collect();
    let first = asked.lock().unwrap().is_empty();
    asked.lock().unwrap().push(ids.clone());
    let item = |id: &i64| match id {
        2 => json!({"index": {"status": 400, "error": {"reason": "no number"}}}),
        1 | 4 if first => json!({"index": {"status": 429}}),
        _ => json!({"index": {"status": 201}}),
    };
    let items: Vec<Value> = ids.iter().map(item).collect();
    let errors = items.iter().any(|item| item["index"]["status"] != 201);
    axum::Json(json!({"errors": errors, "items": items}))
}

#[tokio::test]
async fn of_a_request_taken_in_part_only_what_may_still_go_is_sent_again() {
    let asked: Arc<Mutex<Vec<Vec<i64>>>> = Arc::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let router = Router::new().fallback(picky).with_state(asked.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mut sink = sink(json!({"url": url}));
    let batch = ids(0, 6);
    let error = sink.deliver(&batch).await.unwrap_err();
    assert!(error.is_retry() && error.to_string().contains("in part"), "{error}");
    let failures = sink.deliver(&batch).await.unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [2]);
    assert!(failures[0].failure.message.ends_with("400 no number"), "{}", failures[0].failure.message);
    assert_eq!(*asked.lock().unwrap(), [vec![0, 1, 2, 3, 4, 5], vec![1], vec![4]]);
}

#[tokio::test]
async fn a_row_that_would_leave_its_path_is_refused_and_the_others_are_sent() {
    let service = Service::default();
    let url = service.start().await;
    let values = ["a", "..", "", "b"].map(|h| json!({"id": 1, "headline": h}));
    let failures = sink(json!({"url": format!("{url}/items/{{headline}}"), "method": "PUT"}))
        .deliver(&rows(0, &values))
        .await
        .unwrap();
    assert_eq!(failures.iter().map(|f| f.row).collect::<Vec<_>>(), [1, 2]);
    assert!(failures.iter().all(|f| f.failure.kind == FailureKind::Rejected));
    assert_eq!(service.asked().iter().map(|a| a.uri.clone()).collect::<Vec<_>>(), ["/items/a", "/items/b"]);
}
