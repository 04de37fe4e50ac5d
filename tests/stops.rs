//! A stop keeps its deadline whatever is under way, and a redrive of many is quick and says how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::routing::post;
use serde_json::json;

use crate::support::http::{self, get};
use crate::support::process::eventually;
use crate::support::{Place, Server};

/// A system that takes requests and never answers.
fn silent() -> (String, Arc<AtomicBool>) {
    let asked = Arc::new(AtomicBool::new(false));
    let seen = asked.clone();
    let answer = move || {
        seen.store(true, Ordering::SeqCst);
        std::future::pending::<()>()
    };
    (format!("http://{}/", http::serve(axum::Router::new().route("/", post(answer)))), asked)
}

fn stops_in_time(mut server: Server, asked: &AtomicBool) {
    eventually("it is waited for", || asked.load(Ordering::SeqCst).then_some(()));
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert!(!server.log().contains("not everything stopped in time"), "{}", server.log());
}

#[test]
fn a_stop_does_not_wait_for_a_model_that_does_not_answer() {
    let (url, asked) = silent();
    let place = Place::new(&format!(
        "
pipeline: stops
sources: {{ posts: {{ type: http, schema: {{ id: int, text: string }}, key: [id] }} }}
models: {{ tone: {{ task: text-classification, source: \"{url}\", labels: [a, b] }} }}
transforms: {{ scored: {{ from: posts, predict: {{ model: tone, input: text, output: tone, timeout: 600s }} }} }}
tables: {{ items: {{ from: scored, key: [id] }} }}
"
    ));
    let server = place.start(&["--stop-deadline", "5s"]);
    let body: String = (0..500).map(|id| format!("{}\n", json!({ "id": id, "text": format!("text {id}") }))).collect();
    assert_eq!(http::post(&format!("{}/streams/posts/records", server.url()), body).status, 200);
    stops_in_time(server, &asked);
    // Nothing of it is lost.
    assert_eq!(place.tap("posts").len(), 500);
}

#[test]
fn a_stop_does_not_wait_for_a_sink_that_does_not_answer() {
    let (url, asked) = silent();
    let place = Place::new(&format!(
        "
pipeline: stops
sources: {{ posts: {{ type: http, schema: {{ id: int }}, key: [id] }} }}
tables: {{ items: {{ from: posts, key: [id] }} }}
sinks: {{ out: {{ type: http, from: items.changes, url: \"{url}\", timeout: 600s }} }}
"
    ));
    let server = place.start(&["--stop-deadline", "5s"]);
    assert_eq!(http::post(&format!("{}/streams/posts/records", server.url()), r#"{"id": 1}"#).status, 200);
    stops_in_time(server, &asked);
}

const STRICT: &str = "
pipeline: redriven
sources:
  posts: { type: file, path: ./in.jsonl, schema: { id: int, n: int }, key: [id] }
transforms: { parsed: { sql: \"SELECT id, 100 / n AS share FROM posts\" } }
tables: { items: { from: parsed, key: [id] } }
";

#[test]
fn a_redrive_of_many_is_few_appends_and_says_how_far_it_is() {
    let place = Place::new(STRICT);
    let records = 30_000;
    // Two of three fail: one does not decode, one divides by zero.
    let line = |id: u64| match id % 3 {
        0 => format!("{}\n", json!({ "id": id, "n": 1 })),
        1 => format!("{}\n", json!({ "id": id, "n": "x" })),
        _ => format!("{}\n", json!({ "id": id, "n": 0 })),
    };
    place.write("in.jsonl", (0..records).map(line).collect::<String>());
    place.run();
    assert_eq!(place.query("SELECT count(*) AS n FROM items")[0]["n"], records / 3);
    place.write("pipeline.yaml", STRICT.replace("n: int }", "n: string }").replace("100 / n", "1"));
    let server = place.start(&[]);
    let progress = format!("{}/api/v1/dlq/redrive", server.url());
    assert_eq!(get(&progress).json(), json!({ "done": 0, "all": 0 }));
    let before = place.path("data/log/posts");
    let bytes = || std::fs::read_dir(&before).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum::<u64>();
    let stored = bytes();
    let said = place.stdout(&["dlq", "redrive", "--all", "--url", &server.url()]);
    assert!(said.contains(&format!("{} redriven", records * 2 / 3)), "{said}");
    assert_eq!(get(&progress).json(), json!({ "done": 0, "all": 0 }));
    // A chunk for each record would take some hundred bytes for each.
    let grown = bytes() - stored;
    assert!(grown < records * 40, "{grown}");
    let sql = json!({ "sql": "SELECT count(*) AS n FROM items" }).to_string();
    let url = format!("{}/api/v1/query", server.url());
    eventually("all rows", || (http::post(&url, sql.clone()).json()["n"] == records).then_some(()));
    let left = get(&format!("{}/api/v1/dlq?count=true", server.url())).json();
    assert_eq!(left["total"], 0, "{left}");
}
