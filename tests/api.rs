//! The server: records in, and answers that say what became of them; metrics, health, the token, a graceful end.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::http::{get, read_lines, try_send};
use crate::support::process::{PATIENCE, eventually};
use crate::support::{Place, Server, http};

const PIPELINE: &str = "
pipeline: pushed
sources:
  posts:
    type: http
    max_body: 2KiB
    schema: { id: string, n: int, text: string?, at: timestamp? }
    event_time: at
    watermark: 5s
    key: [id]
    partitions: 2
models:
  sentiment: { task: text-classification, source: builtin:headline-sentiment }
transforms:
  texts: { sql: \"SELECT id, n, coalesce(text, '') AS text, 10 / n AS share FROM posts\" }
  scored: { from: texts, predict: { model: sentiment, input: text, output: sentiment } }
tables:
  items: { from: scored, key: [id] }
sinks:
  files: { type: file, from: items.changes, folder: ./out, roll: { interval: 10ms } }
";

fn push(server: &Server, body: impl Into<Vec<u8>>) -> http::Answer {
    http::post(&format!("{}/streams/posts/records", server.url()), body)
}

fn rows(server: &Server) -> u64 {
    let sql = json!({ "sql": "SELECT count(*) AS n FROM items" }).to_string();
    http::post(&format!("{}/api/v1/query", server.url()), sql).json()["n"].as_u64().unwrap()
}

#[test]
fn headers_that_are_named_are_kept_with_each_record_of_a_request_and_no_others() {
    let pipeline = PIPELINE
        .replace(
            "    key: [id]\n    partitions",
            "    headers: [X-Trace]\n    metadata: [headers]\n    key: [id]\n    partitions",
        )
        .replace("10 / n AS share FROM", "10 / n AS share, _headers ->> 'X-Trace' AS trace FROM");
    let place = Place::new(&pipeline);
    let server = place.start(&[]);
    let url = format!("{}/streams/posts/records", server.url());
    let send = |headers: &[(&str, &str)], body: &str| try_send(Method::POST, &url, headers, body).unwrap().status;
    let headers = [("x-trace", "one"), ("X-TRACE", "two"), ("X-Other", "no"), ("Cookie", "hush")];
    assert_eq!(send(&headers, r#"[{"id":"a","n":1},{"id":"b","n":1}]"#), 200);
    assert_eq!(send(&[], r#"{"id":"c","n":1}"#), 200);
    eventually("three rows", || (rows(&server) == 3).then_some(()));
    let query = |sql: &str| {
        let answer = http::post(&format!("{}/api/v1/query", server.url()), json!({ "sql": sql }).to_string());
        crate::support::json_lines(&answer.text)
    };
    let traces = query("SELECT id, trace FROM items ORDER BY id");
    assert_eq!(
        traces,
        [
            json!({"id": "a", "trace": "one, two"}),
            json!({"id": "b", "trace": "one, two"}),
            json!({"id": "c", "trace": null})
        ]
    );
    assert!(
        !place.stdout(&["tap", "posts", "--from", "earliest", "--no-follow", "--url", &server.url()]).contains("hush")
    );
}

#[test]
fn records_come_one_by_one_as_an_array_or_as_lines() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    for body in [
        r#"{"id":"a","n":1}"#,
        r#"[{"id":"b","n":1},{"id":"c","n":2}]"#,
        "{\"id\":\"d\",\"n\":1}\n\n{\"id\":\"e\",\"n\":2}\r\n{\"id\":\"f\",\"n\":3}",
    ] {
        let answer = push(&server, body);
        let expected = body.matches("\"id\"").count();
        assert_eq!(
            (answer.status, &answer.json()),
            (200, &json!({ "accepted": expected, "rejected": [], "duplicate": false }))
        );
    }
    eventually("six rows", || (rows(&server) == 6).then_some(()));
    for nothing in ["", "[]", "\n"] {
        let answer = push(&server, nothing);
        assert!(answer.status == 200 || answer.status == 400, "{nothing:?}: {answer:?}");
    }
    assert_eq!(rows(&server), 6);
}

#[test]
fn a_body_may_hold_documents_in_a_row_and_be_packed() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let answer = push(&server, r#"{"id":"a","n":1}{"id":"b","n":2}"#);
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(2)));
    let answer = push(&server, "{\"id\":\"c\",\"n\":3}\n{\"id\":\"x\",\"n\":\n{\n  \"id\": \"d\",\n  \"n\": 4\n}\n");
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(2)), "{answer:?}");
    assert_eq!(answer.json()["rejected"][0]["index"], 1);

    let packed = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let url = format!("{}/streams/posts/records", server.url());
    let send = |headers: &[(&str, &str)], body: Vec<u8>| try_send(Method::POST, &url, headers, body).unwrap();
    let answer = send(&[("content-encoding", "gzip")], packed(r#"{"id":"e","n":5}"#));
    assert_eq!((answer.status, &answer.json()["accepted"]), (200, &json!(1)), "{answer:?}");
    // A few bytes that would be many.
    let bomb = packed(&format!(r#"{{"id":"z","n":1,"text":"{}"}}"#, "x".repeat(200 << 10)));
    assert!(bomb.len() < 2000, "{}", bomb.len());
    assert_eq!(send(&[("content-encoding", "gzip")], bomb).status, 413);
    let cut = packed(r#"{"id":"z","n":1}"#);
    assert_eq!(send(&[("content-encoding", "gzip")], cut[..cut.len() - 6].to_vec()).status, 400);
    assert_eq!(send(&[("content-encoding", "br")], b"{}".to_vec()).status, 415);
    let latin = [&br#"{"id":"caf"#[..], b"\xe9", br#"","n":6}"#].concat();
    assert_eq!(send(&[("content-type", "application/json; charset=iso-8859-1")], latin).status, 200);
    eventually("six rows", || (rows(&server) == 6).then_some(()));
}

#[test]
fn records_that_are_refused_are_named_and_the_others_are_stored() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let answer = push(
        &server,
        r#"[{"id":"a","n":1},{"id":"b"},{"id":"c","n":"x"},{"id":"d","n":9223372036854775808},{"id":"e","n":2}]"#,
    );
    let said = answer.json();
    assert_eq!((answer.status, &said["accepted"]), (200, &json!(2)), "{said}");
    let rejected = said["rejected"].as_array().unwrap();
    let kinds: Vec<_> = rejected.iter().map(|r| (r["index"].as_u64().unwrap(), r["kind"].as_str().unwrap())).collect();
    assert_eq!(kinds, [(1, "missing_field"), (2, "type_mismatch"), (3, "out_of_range")]);
    assert!(rejected.iter().all(|r| !r["message"].as_str().unwrap().is_empty()));

    let answer = push(&server, r#"[{"id":"a"},{"n":1}]"#);
    assert_eq!((answer.status, &answer.json()["accepted"]), (422, &json!(0)));
    for broken in [&b"[{\"id\":\"z\",\"n\":1}"[..], b"{\"id\":\"z\xff\",\"n\":1}", b"nonsense"] {
        let answer = push(&server, broken);
        assert!(answer.status == 400 || answer.status == 422, "{answer:?}");
        assert!(answer.json().get("error").is_some() || answer.json()["accepted"] == 0, "{answer:?}");
    }
    let answer = push(&server, format!(r#"{{"id":"z","n":1,"text":"{}"}}"#, "x".repeat(3000)));
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.json()["error"].as_str().unwrap().contains("max_body"));
    let answer = http::post(&format!("{}/streams/nothing/records", server.url()), "{}");
    assert_eq!(answer.status, 404);
    assert!(answer.json()["error"].as_str().unwrap().contains("posts"), "it names what there is: {answer:?}");

    eventually("two rows", || (rows(&server) == 2).then_some(()));
    let letters = get(&format!("{}/api/v1/dlq", server.url())).json();
    assert_eq!(letters["dead_letters"], json!([]), "what is refused stays with the client");
}

#[test]
fn a_repeated_idempotency_key_is_answered_and_not_stored_again() {
    let place = Place::new(PIPELINE);
    let send = |server: &Server, key: &str| {
        let url = format!("{}/streams/posts/records", server.url());
        try_send(Method::POST, &url, &[("idempotency-key", key)], r#"{"id":"a","n":1}"#).unwrap()
    };
    let mut server = place.start(&[]);
    assert_eq!(send(&server, "one").json()["duplicate"], false);
    let again = send(&server, "one");
    assert_eq!((again.status, &again.json()), (200, &json!({ "accepted": 1, "rejected": [], "duplicate": true })));
    assert_eq!(send(&server, "two").json()["duplicate"], false);
    assert_eq!(send(&server, &"k".repeat(256)).status, 400);
    server.kill();
    let mut server = place.start(&[]);
    assert_eq!(send(&server, "one").json()["duplicate"], true, "it is remembered across a crash");
    let url = format!("{}/streams/posts/records", server.url());
    let other = try_send(Method::POST, &url, &[("idempotency-key", "one")], r#"{"id":"b","n":2}"#).unwrap();
    assert_eq!(other.status, 422, "another body under a key that was used");
    assert!(other.json().to_string().contains("another body"), "{}", other.json());
    server.kill();
    assert_eq!(place.tap("posts").len(), 2);
}

/// A pipeline whose model answers only after the gate is opened.
fn gated() -> (Place, Arc<tokio::sync::Semaphore>) {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let closed = gate.clone();
    let app = axum::Router::new().route(
        "/score",
        post(move |Json(request): Json<Value>| async move {
            let _ = closed.acquire().await.map(drop);
            let texts = request["inputs"].as_array().cloned().unwrap_or_default();
            Json(texts.iter().map(|_| json!([1.0, 0.0])).collect::<Vec<_>>())
        }),
    );
    let pipeline = format!(
        "
pipeline: gated
settings: {{ max_backlog: 1KiB }}
sources:
  posts: {{ type: http, schema: {{ id: string, text: string }}, key: [id] }}
models:
  slow: {{ task: text-classification, source: \"http://{}/score\", labels: [a, b], timeout: 10m }}
transforms:
  scored: {{ from: posts, predict: {{ model: slow, input: text, output: mood, timeout: 10m }} }}
tables:
  items: {{ from: scored, key: [id] }}
",
        http::serve(app)
    );
    (Place::new(&pipeline), gate)
}

#[test]
fn back_pressure_answers_429_until_there_is_room_and_what_was_accepted_is_kept() {
    let (place, gate) = gated();
    let server = place.start(&[]);
    let record = |n: usize| json!({ "id": format!("r{n}"), "text": format!("text {n}") }).to_string();
    let mut accepted = 0;
    let refused = eventually("a refusal", || {
        let answer = push(&server, record(accepted));
        if answer.status == 200 {
            accepted += 1;
            assert!(accepted < 1_000, "a backlog of 1 KiB holds no thousand records");
            return None;
        }
        Some(answer)
    });
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    assert!(accepted > 0);
    assert_eq!(rows(&server), 0);
    gate.add_permits(100_000);
    eventually("room", || (push(&server, record(accepted)).status == 200).then_some(()));
    eventually("all rows", || (rows(&server) == accepted as u64 + 1).then_some(()));
}

#[test]
fn a_dead_letter_has_the_event_time_of_its_own_record_or_none() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    push(
        &server,
        r#"[{"id":"a","n":0,"at":"2024-05-01T00:00:00Z"}, {"id":"a","n":0},
            {"id":"a","n":0,"at":"2021-02-03T00:00:00Z"}]"#,
    );
    let url = format!("{}/api/v1/dlq", server.url());
    let letters = eventually("three letters", || {
        let letters = get(&url).json()["dead_letters"].as_array().unwrap().clone();
        (letters.len() == 3).then_some(letters)
    });
    let times: Vec<_> = letters.iter().map(|letter| letter["event_time"].as_str().map(|time| &time[..10])).collect();
    assert_eq!(times, [Some("2024-05-01"), None, Some("2021-02-03")]);
}

#[test]
fn metrics_have_the_names_that_dashboards_know() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    push(&server, r#"[{"id":"a","n":1,"text":"Shares rise","at":"2024-05-01T00:00:00Z"},{"id":"b","n":0},{"id":"c"}]"#);
    let url = format!("{}/metrics", server.url());
    let delivered = "component_sent_events_total{component_kind=\"sink\",component_id=\"files\"} 1";
    let text = eventually("a delivery", || Some(get(&url).text).filter(|text| text.contains(delivered)));
    for sample in [
        "component_received_events_total{component_kind=\"source\",component_id=\"posts\"} 3",
        "component_sent_events_total{component_kind=\"source\",component_id=\"posts\"} 2",
        "component_received_bytes_total{component_kind=\"source\",component_id=\"posts\"} ",
        "component_errors_total{component_kind=\"source\",component_id=\"posts\",error_type=\"missing_field\"} 1",
        "component_received_events_total{component_kind=\"table\",component_id=\"items\"} 1",
        "dlq_records_total{stage=\"transform\",component_id=\"texts\",error_type=\"expression\"} 1",
        "source_lag_seconds{component_kind=\"source\",component_id=\"posts\"} ",
        "watermark_lag_seconds{component_kind=\"source\",component_id=\"posts\"} ",
        "end_to_end_latency_seconds_count{component_kind=\"sink\",component_id=\"files\"} 1",
        "model_batch_size_count{component_id=\"sentiment\"} 1",
        "model_inference_seconds_count{component_id=\"sentiment\"} 1",
        "committed_offset{",
    ] {
        assert!(text.contains(sample), "no `{sample}` in\n{text}");
    }
    let lag = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name) && !l.starts_with('#')).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(
        (lag("watermark_lag_seconds") - lag("source_lag_seconds") - 5.0).abs() < 1e-3,
        "the watermark is 5 s behind"
    );
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn the_api_document_lists_exactly_the_routes_that_are_served() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let url = server.url();
    let document = get(&format!("{url}/api/v1/openapi.json")).json();
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            listed.insert((path.clone(), method.clone()));
            let filled = path.replace("{name}", "posts").replace("{stream}", "posts").replace("{offset}", "0");
            let follow = if filled.ends_with("/tap") { "?follow=false" } else { "" };
            let method = method.to_uppercase().parse().unwrap();
            let answer = try_send(method, &format!("{url}{filled}{follow}"), &[], "").unwrap();
            assert!(answer.status != 405 && !answer.text.contains("no such path"), "{path}: {answer:?}");
        }
    }
    let source = concat!(
        include_str!("../crates/millstream/src/api/mod.rs"),
        include_str!("../crates/millstream/src/api/inference/mod.rs")
    );
    let routes = source.split(".route(\"").skip(1).map(|rest| {
        let (path, rest) = rest.split_once("\", ").unwrap();
        (path.to_owned(), rest.split_once('(').unwrap().0.to_owned())
    });
    assert_eq!(routes.collect::<BTreeSet<_>>(), listed);
    let lost = get(&format!("{url}/api/v2"));
    assert_eq!((lost.status, lost.json()["error"].as_str().is_some_and(|e| e.contains("openapi.json"))), (404, true));
}

#[test]
fn with_a_token_everything_but_health_asks_for_it() {
    let place = Place::new(PIPELINE).with_env("MILLSTREAM_TOKEN", "s3cret");
    let server = place.start(&[]);
    let url = server.url();
    for path in ["/healthz", "/readyz", "/ping", "/health", "/v2/health/live", "/v2/health/ready"] {
        assert_eq!(get(&format!("{url}{path}")).status, 200, "{path}");
    }
    let guarded = [
        "/",
        "/metrics",
        "/api/v1/openapi.json",
        "/api/v1/pipeline",
        "/api/v1/streams",
        "/api/v1/tables",
        "/api/v1/dlq",
        "/v2",
        "/v2/models/sentiment",
        "/v2/models/sentiment/ready",
        "/info",
    ];
    for path in guarded {
        let refused = get(&format!("{url}{path}"));
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        for (token, status) in [("Bearer s3cret", 200), ("Bearer s3cre", 401), ("Bearer s3cretx", 401), ("s3cret", 401)]
        {
            let answer = try_send(Method::GET, &format!("{url}{path}"), &[("authorization", token)], "").unwrap();
            assert_eq!(answer.status, status, "{path} with {token}");
        }
    }
    // A browser is asked for the token by a page, which shows nothing by itself.
    let page = try_send(Method::GET, &format!("{url}/"), &[("accept", "text/html,*/*;q=0.8")], "").unwrap();
    assert_eq!((page.status, page.header("x-frame-options")), (200, Some("DENY")));
    assert!(page.header("content-security-policy").unwrap().contains("connect-src 'self'"));
    assert!(page.text.contains("This server asks for its token") && !page.text.contains("s3cret"));
    let data = try_send(Method::GET, &format!("{url}/api/v1/pipeline"), &[("accept", "text/html")], "").unwrap();
    assert_eq!((data.status, data.json()["error"].is_string()), (401, true), "the API answers in JSON");
    assert_eq!(push(&server, r#"{"id":"a","n":1}"#).status, 401);
    assert_eq!(http::post(&format!("{url}/api/v1/query"), "{}").status, 401);
    for path in ["api/v1/dlq/redrive", "invocations", "v2/models/sentiment/infer", "predict", "embed"] {
        assert_eq!(http::post(&format!("{url}/{path}"), "{}").status, 401, "{path}");
    }
    // The commands take it from the environment.
    place.stdout(&["query", "SELECT * FROM items", "--url", &url]);
    let stranger =
        place.command(&["query", "SELECT 1 AS one", "--url", &url]).env_remove("MILLSTREAM_TOKEN").output().unwrap();
    assert_eq!(stranger.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("MILLSTREAM_TOKEN"));
    assert!(!server.log().contains("s3cret"), "a token is never logged");
}

#[test]
fn a_tap_follows_the_stream_and_ends_with_the_server() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    push(&server, r#"[{"id":"a","n":1},{"id":"b","n":2}]"#);
    let url = format!("{}/api/v1/streams/items.changes/tap", server.url());
    let (head, lines) = read_lines(&format!("{url}?from=earliest"), &[], 2);
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
    let records: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        records.iter().all(|r| r["partition"].is_u64() && r["offset"].is_u64() && r["record"]["op"] == "insert"),
        "{records:?}"
    );

    let follower = std::thread::spawn({
        let url = url.clone();
        move || read_lines(&format!("{url}?from=earliest"), &[], 1_000).1
    });
    for n in 0..5 {
        push(&server, json!({ "id": format!("later {n}"), "n": 1 }).to_string());
    }
    eventually("seven rows", || (rows(&server) == 7).then_some(()));
    assert_eq!(get(&format!("{url}?from=nowhere")).status, 400);
    assert_eq!(get(&format!("{url}?color=red")).status, 400);
    assert_eq!(get(&url.replace("items.changes", "nothing")).status, 404);
    server.terminate();
    assert!(server.wait().success());
    assert_eq!(follower.join().unwrap().len(), 7);
}

#[test]
fn a_row_is_found_by_its_key() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    push(&server, r#"[{"id":"a","n":1},{"id":"b/ ü","n":2}]"#);
    eventually("two rows", || (rows(&server) == 2).then_some(()));
    let table = format!("{}/api/v1/tables/items/rows", server.url());
    assert_eq!(get(&format!("{table}?id=a")).json()["n"], 1);
    assert_eq!(get(&format!("{table}?id=b%2F%20%C3%BC")).json()["n"], 2);
    assert_eq!(get(&format!("{table}?id=c")).status, 404);
    let many: Vec<Value> = (1..=20).map(|n| json!({ "id": format!("r{n}"), "n": n })).collect();
    push(&server, Value::from(many).to_string());
    eventually("the rows of both partitions", || (rows(&server) == 22).then_some(()));
    for n in 1..=20 {
        assert_eq!(get(&format!("{table}?id=r{n}")).json()["n"], n);
    }
    for wrong in ["", "?n=1", "?id=a&n=1"] {
        let answer = get(&format!("{table}{wrong}"));
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
    let tables = get(&format!("{}/api/v1/tables", server.url())).json();
    assert_eq!((&tables["tables"][0]["name"], &tables["tables"][0]["key"]), (&json!("items"), &json!(["id"])));
}

#[test]
fn a_stop_ends_what_is_under_way_and_the_next_start_goes_on() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    let records: Vec<Value> = (0..20).map(|n| json!({ "id": format!("r{n}"), "n": 1 })).collect();
    assert_eq!(push(&server, Value::from(records).to_string()).status, 200);
    server.terminate();
    let status = server.ended_within(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    assert!(server.log().contains("stopped; the next start goes on from here"), "{}", server.log());
    assert_eq!(place.unfinished("out"), Vec::<std::path::PathBuf>::new(), "what was staged is published");
    place.run();
    assert_eq!(place.query("SELECT count(*) AS n FROM items")[0]["n"], 20);
    assert_eq!(place.sink_rows("out").len(), 20);
}

#[test]
fn a_stop_does_not_wait_longer_than_its_deadline() {
    let (place, gate) = gated();
    let mut server = place.start(&["--stop-deadline", "300ms"]);
    assert_eq!(push(&server, r#"{"id":"a","text":"x"}"#).status, 200);
    server.terminate();
    let status = server.ended_within(PATIENCE).expect("it ends although the model never answers");
    assert_eq!(status.code(), Some(0), "{}", server.log());
    gate.add_permits(1_000);
    place.run();
    assert_eq!(
        place.query("SELECT id FROM items"),
        [json!({ "id": "a" })],
        "what was accepted is done at the next start"
    );
}

#[test]
fn a_sink_that_is_down_holds_up_nobody_else_and_no_stop() {
    // Port 1 of this machine: nobody answers there.
    let place =
        Place::new(&format!("{PIPELINE}  hook: {{ type: http, from: items.changes, url: \"http://127.0.0.1:1/\" }}\n"));
    let mut server = place.start(&[]);
    push(&server, r#"[{"id":"a","n":1},{"id":"b","n":1}]"#);
    eventually("the other sink", || (place.sink_rows("out").len() == 2).then_some(()));
    server.wait_for_log("sink hook waits");
    server.terminate();
    let status = server.ended_within(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.log());
}
