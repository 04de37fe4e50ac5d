//! A model's endpoint that is away, or that stumbles over one record: what waits, and what becomes a dead letter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::process::eventually;
use crate::support::{Place, http};

/// An endpoint that answers with `status` until it is 200, and with 500 whenever `poison` is among the texts.
#[derive(Clone)]
struct Endpoint {
    status: Arc<AtomicU16>,
    refused: Arc<AtomicUsize>,
    url: String,
}

impl Endpoint {
    fn new(status: u16) -> Self {
        let (status, refused) = (Arc::new(AtomicU16::new(status)), Arc::new(AtomicUsize::new(0)));
        let (state, count) = (status.clone(), refused.clone());
        let answer = move |Json(request): Json<Value>| async move { respond(&request, &state, &count).await };
        let url = format!("http://{}/score", http::serve(axum::Router::new().route("/score", post(answer))));
        Self { status, refused, url }
    }

    fn is_up(&self) {
        self.status.store(200, Ordering::SeqCst);
    }

    /// Waits until it has sent away so many requests.
    fn has_refused(&self, requests: usize) {
        eventually("refused requests", || (self.refused.load(Ordering::SeqCst) >= requests).then_some(()));
    }
}

async fn respond(request: &Value, state: &AtomicU16, refused: &AtomicUsize) -> Response {
    let texts = request["inputs"].as_array().unwrap();
    match state.load(Ordering::SeqCst) {
        // Silence.
        0 => std::future::pending().await,
        200 if texts.contains(&json!("slow poison")) => std::future::pending().await,
        200 if texts.contains(&json!("poison")) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        200 if texts.contains(&json!("page")) => "<html>hello</html>".into_response(),
        200 if texts.contains(&json!("too long")) => {
            let n = refused.fetch_add(1, Ordering::SeqCst);
            let body = json!({ "error": format!("{n} tokens"), "request": n });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
        }
        200 => Json(texts.iter().map(|_| json!([0.25, 0.75])).collect::<Vec<_>>()).into_response(),
        // A page of a proxy that says that all is well.
        299 => {
            refused.fetch_add(1, Ordering::SeqCst);
            "<html>maintenance</html>".into_response()
        }
        status => {
            let n = refused.fetch_add(1, Ordering::SeqCst);
            let body = json!({ "error": format!("busy since {n} ms"), "request": n });
            (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
        }
    }
}

fn place(url: &str, predict: &str, texts: impl Iterator<Item = String>) -> Place {
    let place = Place::new(&format!(
        "
pipeline: scored
sources:
  posts: {{ type: file, path: ./posts.jsonl, schema: {{ id: int, text: string }}, key: [id], partitions: 3 }}
models:
  tone:
    task: text-classification
    source: \"{url}\"
    labels: [bad, good]
    circuit_breaker: {{ failures: 5, open_for: 300ms }}
transforms:
  scored: {{ from: posts, predict: {{ model: tone, input: text, output: tone, retry: {{ initial: 5ms, max: 50ms }}{predict} }} }}
tables:
  items: {{ from: scored, key: [id] }}
"
    ));
    place.write("posts.jsonl", lines(texts));
    place
}

fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.enumerate().map(|(id, text)| json!({ "id": id, "text": text }).to_string() + "\n").collect()
}

fn ninety() -> impl Iterator<Item = String> {
    (0..90).map(|n| format!("text {n}"))
}

fn scored(place: &Place) -> u64 {
    place.query("SELECT count(*) AS n FROM items WHERE tone.label = 'good'")[0]["n"].as_u64().unwrap()
}

#[test]
fn an_endpoint_that_is_away_is_waited_for_and_no_record_becomes_a_dead_letter() {
    for status in [500, 503, 429, 401, 403, 404, 307, 299] {
        let endpoint = Endpoint::new(status);
        let place = place(&endpoint.url, "", ninety());
        let mut server = place.start(&["--exit-when-idle"]);
        endpoint.has_refused(12);
        endpoint.is_up();
        let ended = server.wait();
        let log = server.log();
        assert!(ended.success(), "{status}: {log}");
        assert_eq!(place.dead_letters(), Vec::<Value>::new(), "{status}");
        assert_eq!(scored(&place), 90, "{status}");
        let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        // Once at each change, whatever the number of attempts, calls and partitions.
        assert_eq!(
            (said("WARN transform scored waits: model tone: "), said("goes on after")),
            (1, 1),
            "{status}: {log}"
        );
    }
}

#[test]
fn an_endpoint_that_is_silent_is_waited_for_too() {
    let endpoint = Endpoint::new(0);
    let place = place(&endpoint.url, ", timeout: 100ms", ninety());
    let mut server = place.start(&["--exit-when-idle"]);
    server.wait_for_log("transform scored waits");
    endpoint.is_up();
    // What was sent into the silence is waited for by nobody; the endpoint's slots come free after `timeout` of the
    // model.
    assert!(server.wait().success(), "{}", server.log());
    assert_eq!((place.dead_letters().len(), scored(&place)), (0, 90));
}

#[test]
fn a_record_that_the_endpoint_stumbles_over_is_the_only_dead_letter() {
    for (poison, kind, message) in [
        ("poison", "model", "500 Internal Server Error"),
        ("slow poison", "timeout", "no answer within 300ms"),
        ("page", "model", "no JSON"),
        ("too long", "model", "422 Unprocessable Entity: N tokens"),
    ] {
        let endpoint = Endpoint::new(200);
        let texts = (0..60).map(|n| if n == 17 { poison.to_owned() } else { format!("text {n}") });
        let place = place(&endpoint.url, ", timeout: 300ms", texts);
        place.run();
        let letters = place.dead_letters();
        assert_eq!((letters.len(), scored(&place)), (1, 59), "{poison}: {letters:?}");
        assert_eq!(letters[0]["kind"], kind, "{letters:?}");
        assert!(letters[0]["message"].as_str().unwrap().contains(message), "{letters:?}");
    }
    // Alone in the stream, with nobody beside it that was answered.
    let endpoint = Endpoint::new(200);
    let place = place(&endpoint.url, "", std::iter::once("poison".to_owned()));
    place.run();
    assert_eq!(place.dead_letters().len(), 1);
}

#[test]
fn after_give_up_after_on_error_applies_with_one_message_for_all() {
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = place(&format!("http://{nowhere}/score"), ", give_up_after: 200ms", ninety());
    place.run();
    let letters = place.dead_letters();
    assert_eq!(letters.len(), 90);
    let messages: BTreeSet<&str> = letters.iter().map(|letter| letter["message"].as_str().unwrap()).collect();
    assert!(messages.len() <= 2, "a closed port, and the breaker: {messages:?}");
    assert!(letters.iter().all(|letter| letter["kind"] == "unavailable"), "{letters:?}");
}

#[test]
fn a_stop_while_it_waits_is_quick_and_loses_nothing() {
    let endpoint = Endpoint::new(503);
    let place = place(&endpoint.url, "", ninety());
    let mut server = place.start(&[]);
    endpoint.has_refused(6);
    server.wait_for_log("transform scored waits");
    server.terminate();
    // Far below `--stop-deadline`, whose end would be said in the log.
    let status = server.ended_within(Duration::from_secs(9)).expect("it stops");
    let log = server.log();
    assert!(status.success() && !log.contains("not everything stopped in time"), "{log}");
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
    endpoint.is_up();
    place.run();
    assert_eq!((place.dead_letters().len(), scored(&place)), (0, 90));
}

#[test]
fn a_request_to_the_server_does_not_wait() {
    let endpoint = Endpoint::new(503);
    let place = place(&endpoint.url, "", ninety());
    let server = place.start(&[]);
    endpoint.has_refused(6);
    let answer = http::post(&format!("{}/invocations", server.url()), json!({ "instances": ["x"] }).to_string());
    assert_eq!(answer.status, 503, "{answer:?}");
}
