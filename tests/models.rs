//! What stands beside a model: its cache across restarts and crashes, its replacement, its shadow; and what the server
//! says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::http::{self, get};
use crate::support::process::eventually;
use crate::support::{Place, Server};

/// An endpoint that counts how often it was asked for each text, and says `good` to those with a `g`.
#[derive(Clone, Default)]
struct Endpoint {
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Endpoint {
    /// Its address. It takes so long for an answer.
    fn serve(&self, pause: Duration) -> String {
        let asked = self.asked.clone();
        let app = axum::Router::new().route(
            "/score",
            post(move |Json(request): Json<Value>| async move {
                let texts: Vec<String> = serde_json::from_value(request["inputs"].clone()).unwrap();
                for text in &texts {
                    *asked.lock().unwrap().entry(text.clone()).or_default() += 1;
                }
                tokio::time::sleep(pause).await;
                let score = |text: &String| if text.contains('g') { json!([0.25, 0.75]) } else { json!([0.75, 0.25]) };
                Json(texts.iter().map(score).collect::<Vec<_>>())
            }),
        );
        format!("http://{}/score", http::serve(app))
    }

    /// Texts that it was asked for, repeats counted.
    fn asked(&self) -> usize {
        self.asked.lock().unwrap().values().sum()
    }
}

fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.enumerate().map(|(id, text)| json!({ "id": id, "text": text }).to_string() + "\n").collect()
}

/// A pipeline that reads a file and has each line scored by a model with those settings.
fn from_file(model: &str) -> Place {
    Place::new(&format!(
        "
pipeline: scored
sources:
  posts: {{ type: file, path: ./posts.jsonl, schema: {{ id: int, text: string }}, key: [id] }}
models:
  tone: {{ {model} }}
transforms:
  scored: {{ from: posts, predict: {{ model: tone, input: text, output: tone, timeout: 1m }} }}
tables:
  items: {{ from: scored, key: [id] }}
"
    ))
}

const ROWS: &str = "SELECT id, tone.label AS label, tone.model_digest AS digest FROM items ORDER BY id";

#[test]
fn a_cached_model_is_asked_once_for_a_text_also_by_a_later_run_and_a_replay() {
    let endpoint = Endpoint::default();
    let url = endpoint.serve(Duration::ZERO);
    let place =
        from_file(&format!("task: text-classification, source: \"{url}\", labels: [bad, good], cache: {{ ttl: 1h }}"));
    let texts = |n: usize| (0..n).map(|i| format!("{} {}", ["bad", "good"][i % 2], i % 50));
    place.write("posts.jsonl", lines(texts(400)));
    place.run();
    assert_eq!(endpoint.asked(), 50, "repeats in a batch are asked once");
    let rows = place.query(ROWS);
    let expected: Vec<&str> = (0..400).map(|i| ["bad", "good"][i % 2]).collect();
    assert_eq!(rows.iter().map(|row| row["label"].as_str().unwrap()).collect::<Vec<_>>(), expected);

    place.write("posts.jsonl", lines(texts(450)));
    place.run();
    assert_eq!((endpoint.asked(), place.query(ROWS).len()), (50, 450), "the next run asks nothing");
    let before = place.query(ROWS);
    place.stdout(&["replay", "pipeline.yaml", "--data-dir", "data"]);
    assert_eq!(endpoint.asked(), 50, "nor does a replay");
    assert_eq!(place.query(ROWS), before, "which gives the same answers");
}

#[test]
fn what_a_remote_model_has_said_is_not_paid_again_after_a_crash() {
    const RECORDS: usize = 1_500;
    /// `max_in_flight`, in batches of 32.
    const IN_FLIGHT: usize = 64;
    let endpoint = Endpoint::default();
    let url = endpoint.serve(Duration::from_millis(15));
    let place =
        from_file(&format!("task: text-classification, source: \"{url}\", labels: [bad, good], cache: {{ ttl: 1h }}"));
    place.write("posts.jsonl", lines((0..RECORDS).map(|i| format!("good {i}"))));
    let mut kills = 0;
    for until in [300, 700, 1_100] {
        let mut server = place.start(&["--exit-when-idle"]);
        eventually("so many texts", || (endpoint.asked() >= until || !is_alive(&mut server)).then_some(()));
        kills += usize::from(server.kill());
    }
    assert!(kills > 0, "it was always faster than the test");
    place.run();
    let (asked, paid_twice) = (endpoint.asked(), endpoint.asked() - RECORDS);
    // Everything is one commit of the task: without the cache, each run would ask for all of it again.
    assert!(paid_twice <= kills * IN_FLIGHT, "{asked} texts asked for {RECORDS} records and {kills} crashes");
    let rows = place.query(ROWS);
    assert_eq!((rows.len(), rows.iter().all(|row| row["label"] == "good")), (RECORDS, true));
    place.stdout(&["replay", "pipeline.yaml", "--data-dir", "data"]);
    assert_eq!(endpoint.asked(), asked);
}

fn is_alive(server: &mut Server) -> bool {
    server.ended_within(Duration::from_millis(1)).is_none()
}

/// A pipeline that is pushed to, with these models; `tone` scores.
fn pushed(models: &str) -> Place {
    Place::new(&format!(
        "
pipeline: pushed
sources:
  posts: {{ type: http, schema: {{ id: int, text: string }}, key: [id], partitions: 2 }}
models:
{models}
transforms:
  scored: {{ from: posts, predict: {{ model: tone, input: text, output: tone }} }}
tables:
  items: {{ from: scored, key: [id] }}
"
    ))
}

fn push(server: &Server, texts: impl Iterator<Item = String>) {
    let answer = http::post(&format!("{}/streams/posts/records", server.url()), lines(texts));
    assert_eq!(answer.status, 200, "{answer:?}");
}

fn model(server: &Server, name: &str) -> Value {
    let models = get(&format!("{}/api/v1/models", server.url())).json();
    models["models"].as_array().unwrap().iter().find(|m| m["name"] == name).cloned().unwrap_or_default()
}

fn rows(server: &Server) -> u64 {
    let sql = json!({ "sql": "SELECT count(*) AS n FROM items" }).to_string();
    http::post(&format!("{}/api/v1/query", server.url()), sql).json()["n"].as_u64().unwrap()
}

#[test]
fn the_server_says_what_its_models_do_and_shows_no_secret() {
    let endpoint = Endpoint::default();
    let url = endpoint.serve(Duration::ZERO).replace("http://", "http://user:hush@") + "?token=hush";
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"{url}\", labels: [bad, good], cache: {{ ttl: 1h }} }}"
    ));
    let server = place.start(&[]);
    for _ in 0..2 {
        push(&server, (0..40).map(|i| format!("text {}", i % 20)));
    }
    eventually("forty rows", || (rows(&server) == 40).then_some(()));
    let seen = eventually("eighty look-ups", || {
        let seen = model(&server, "tone");
        let cache = &seen["cache"];
        (cache["hits"].as_u64()? + cache["misses"].as_u64()? == 80).then_some(seen)
    });
    assert_eq!((seen["task"].as_str(), &seen["labels"]), (Some("text-classification"), &json!(["bad", "good"])));
    assert_eq!((seen["failures"].as_u64(), seen["queue_depth"].as_u64()), (Some(0), Some(0)), "{seen}");
    assert_eq!(seen["records"].as_u64(), Some(endpoint.asked() as u64));
    assert!(seen["batches"].as_u64() > Some(0) && seen["seconds"].as_f64() > Some(0.0), "{seen}");
    // A path can hold a token as well.
    let source = seen["source"].as_str().unwrap();
    assert!(!seen.to_string().contains("hush"), "{seen}");
    assert!(source.starts_with("http://127.0.0.1:") && source.ends_with("/***"), "{seen}");
    let metrics = get(&format!("{}/metrics", server.url())).text;
    let (hits, misses) = (&seen["cache"]["hits"], &seen["cache"]["misses"]);
    for line in [
        format!("model_cache_hits_total{{component_id=\"tone\"}} {hits}"),
        format!("model_cache_misses_total{{component_id=\"tone\"}} {misses}"),
        "model_out_of_order{component_id=\"tone\"} 0".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
}

#[test]
fn a_model_is_reloaded_while_records_go_on_and_an_endpoint_is_not() {
    let url = Endpoint::default().serve(Duration::ZERO);
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"builtin:headline-sentiment-linear\", shadow: next }}\n  \
         next: {{ task: text-classification, source: \"{url}\", labels: [negative, neutral, positive] }}"
    ));
    let server = place.start(&[]);
    let reload = |name: &str| http::post(&format!("{}/api/v1/models/{name}/reload", server.url()), "");
    let digest = model(&server, "tone")["digest"].clone();
    push(&server, (0..500).map(|i| format!("text {i}")));
    let answer = reload("tone");
    assert_eq!((answer.status, answer.json()), (200, json!({ "model": "tone", "replaced": digest, "digest": digest })));
    let said = place.stdout(&["models", "reload", "tone", "--url", &server.url()]);
    assert!(said.contains("unchanged") && said.contains(digest.as_str().unwrap()), "{said}");
    eventually("all rows", || (rows(&server) == 500).then_some(()));
    eventually("all counted", || (model(&server, "tone")["records"] == 500).then_some(()));
    let letters = get(&format!("{}/api/v1/dlq", server.url())).json();
    assert_eq!(letters["dead_letters"], json!([]));

    let refused = reload("next");
    assert_eq!(refused.status, 400);
    assert!(refused.json()["error"].as_str().unwrap().contains("behind an endpoint"), "{refused:?}");
    let unknown = reload("tune");
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["error"].as_str().unwrap().contains("next, tone"), "{unknown:?}");
    assert!(place.fails(2, &["models", "reload", "next", "--url", &server.url()]).contains("behind an endpoint"));
}

#[test]
fn a_shadow_scores_the_same_records_and_changes_nothing() {
    let (now, next) = (Endpoint::default(), Endpoint::default());
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"{}\", labels: [bad, good], shadow: next }}\n  \
         next: {{ task: text-classification, source: \"{}\", labels: [good, bad] }}",
        now.serve(Duration::ZERO),
        next.serve(Duration::ZERO)
    ));
    let server = place.start(&[]);
    push(&server, (0..60).map(|i| format!("{} {i}", ["poor", "great", "good"][i % 3])));
    let seen = eventually("all compared", || {
        let seen = model(&server, "tone");
        (seen["shadow"]["total"] == 60).then_some(seen)
    });
    // The labels of the shadow stand the other way round, and its endpoint gives scores in that order.
    assert_eq!(seen["shadow"]["disagreements"], 60);
    assert_eq!(seen["shadow"]["agreement"], 0.0);
    assert_eq!(seen["shadow"]["examples"].as_array().unwrap().len(), 10);
    let metrics = get(&format!("{}/metrics", server.url())).text;
    assert!(metrics.contains("model_shadow_total{component_id=\"tone\"} 60"), "{metrics}");
    assert!(metrics.contains("model_shadow_disagreements_total{component_id=\"tone\"} 60"), "{metrics}");
    assert_eq!((now.asked(), next.asked()), (60, 60));
    eventually("sixty rows", || (rows(&server) == 60).then_some(()));
    let sql = json!({ "sql": "SELECT DISTINCT tone.model AS model FROM items" }).to_string();
    assert_eq!(http::post(&format!("{}/api/v1/query", server.url()), sql).json(), json!({ "model": "tone" }));
}

#[test]
fn a_request_reads_and_fills_the_cache_of_the_pipeline_and_feeds_its_shadow() {
    let endpoint = Endpoint::default();
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"{}\", labels: [bad, good], shadow: next, \
         cache: {{ ttl: 1h }} }}\n  \
         next: {{ task: text-classification, source: \"{}\", labels: [bad, good] }}",
        endpoint.serve(Duration::ZERO),
        Endpoint::default().serve(Duration::ZERO)
    ));
    let server = place.start(&[]);
    push(&server, ["good 1", "poor 1"].map(str::to_owned).into_iter());
    eventually("two rows", || (rows(&server) == 2).then_some(()));
    assert_eq!(endpoint.asked(), 2);
    let ask = |server: &Server, path: &str, body: Value| {
        let answer = http::post(&format!("{}{path}", server.url()), body.to_string());
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.header("x-millstream-scored-by").unwrap().starts_with("tone@"), "{answer:?}");
        answer.json()
    };
    let tensor = json!({ "name": "x", "shape": [1], "datatype": "BYTES", "data": ["poor 1"] });
    let said = ask(&server, "/v2/models/tone/infer", json!({ "inputs": [tensor] }));
    assert_eq!(said["outputs"][0]["data"], json!([0.75, 0.25]));
    let said = ask(&server, "/predict?model=tone", json!({ "inputs": "good 1" }));
    assert_eq!(said[0], json!({ "label": "good", "score": 0.75 }));
    assert_eq!(endpoint.asked(), 2, "records have paid for these");
    let invoke = |server: &Server| ask(server, "/invocations?model=tone", json!({ "instances": ["good 1", "good 2"] }));
    assert_eq!(invoke(&server)["predictions"][1]["label"], "good");
    assert_eq!(endpoint.asked(), 3, "nobody has asked for the second one");
    // It is kept a moment later; until then it is asked again.
    let asked = eventually("it is kept", || {
        let before = endpoint.asked();
        invoke(&server);
        (endpoint.asked() == before).then_some(before)
    });
    push(&server, std::iter::once("good 2".to_owned()));
    eventually("its label", || {
        let sql = json!({ "sql": "SELECT tone.label AS label FROM items WHERE text = 'good 2'" }).to_string();
        let found = http::post(&format!("{}/api/v1/query", server.url()), sql).text;
        found.contains("good").then_some(())
    });
    assert_eq!(endpoint.asked(), asked, "a request has paid for the record");
    let seen = eventually("all compared", || {
        let seen = model(&server, "tone");
        let texts = seen["cache"]["hits"].as_u64()? + seen["cache"]["misses"].as_u64()?;
        (seen["shadow"]["total"].as_u64()? == texts).then_some(seen)
    });
    assert_eq!(seen["cache"]["misses"].as_u64(), Some(asked as u64), "{seen}");
    assert_eq!(seen["shadow"]["disagreements"], 0, "{seen}");

    let mut server = server;
    assert!(server.kill());
    let server = place.start(&[]);
    invoke(&server);
    assert_eq!(endpoint.asked(), asked, "nor does anyone after a restart");
}

#[test]
fn a_request_is_answered_by_the_fallback_where_the_endpoint_is_down() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nowhere = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"{nowhere}\", labels: [positive, neutral, negative], \
         fallback: linear }}\n  \
         linear: {{ task: text-classification, source: \"builtin:headline-sentiment-linear\" }}"
    ));
    let server = place.start(&[]);
    let body = json!({ "instances": ["Profits soar at Acme after record quarter"] }).to_string();
    let answer = http::post(&format!("{}/invocations?model=tone", server.url()), body);
    let by = format!("linear@{}", model(&server, "linear")["digest"].as_str().unwrap());
    assert_eq!((answer.status, answer.header("x-millstream-scored-by")), (200, Some(&*by)), "{answer:?}");
    assert_eq!(answer.json()["predictions"][0]["label"], "positive");
}

#[test]
fn a_shadow_that_never_answers_holds_nothing_up() {
    let now = Endpoint::default();
    let place = pushed(&format!(
        "  tone: {{ task: text-classification, source: \"{}\", labels: [bad, good], shadow: next }}\n  \
         next: {{ task: text-classification, source: \"{}\", labels: [bad, good], timeout: 1h }}",
        now.serve(Duration::ZERO),
        Endpoint::default().serve(Duration::from_secs(3_600))
    ));
    let server = place.start(&[]);
    push(&server, (0..6_000).map(|i| format!("text {i}")));
    eventually("all rows", || (rows(&server) == 6_000).then_some(()));
    let shadow = model(&server, "tone")["shadow"].clone();
    assert_eq!(shadow["total"], 0, "{shadow}");
    assert!(shadow["dropped"].as_u64().unwrap() > 0, "{shadow}");
}
