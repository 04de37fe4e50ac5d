//! A canary as every secret that there can be, and a search of everything that is said, shown and stored.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Place;
use crate::support::http::{self, get};
use crate::support::process::eventually;

/// Each secret is a word of its own, so that a find says which.
const CANARY: &str = "canary";

/// A server that repeats what it is sent: `/refuse…` with 422, `/redirect…` to another host, `/partly…` as a partial
/// failure, all else as a page that says 404.
fn parrot() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut request = [0; 1 << 16];
                let Ok(n @ 1..) = connection.read(&mut request) else { return };
                let said = String::from_utf8_lossy(&request[..n]).into_owned();
                let path = said.split(' ').nth(1).unwrap_or_default().to_owned();
                let (status, more, body) = if path.starts_with("/refuse") {
                    ("422 Unprocessable Entity", String::new(), said)
                } else if path.starts_with("/partly") {
                    let item = json!({ "status": 400, "error": { "reason": said } });
                    let body = json!({ "errors": true, "items": [item] }).to_string();
                    ("200 OK", "content-type: application/json\r\n".to_owned(), body)
                } else if path.starts_with("/redirect") {
                    ("302 Found", format!("location: http://elsewhere.example{path}\r\n"), said)
                } else {
                    ("404 Not Found", String::new(), said)
                };
                let head =
                    format!("HTTP/1.1 {status}\r\n{more}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = connection.write_all(format!("{head}{body}").as_bytes());
            });
        }
    });
    format!("http://{address}")
}

/// A pipeline whose every secret is a canary, with all systems at `base`.
fn pipeline(base: &str) -> String {
    let at = |name: &str, path: &str| {
        let host = base.split_once("://").unwrap().1;
        format!(
            "http://canary-user-{name}:canary-password-{name}@{host}/{path}/canary-path-{name}1?token=canary-query-{name}"
        )
    };
    let ws = |url: String| url.replace("http://", "ws://");
    let headers = |name: &str| format!("headers: {{ X-Key: canary-header-{name}, X-Env: \"${{CANARY_ENV}}\" }}");
    format!(
        r#"
pipeline: secret
sources:
  wire: {{ type: file, path: ./in.jsonl, schema: {{ id: int, text: string }}, key: [id] }}
  feed: {{ type: feed, urls: ["{feed}", "{moved}"], interval: 1s, {h_feed} }}
  stream: {{ type: http_stream, url: "{stream}", bearer_token: canary-bearer-stream, method: POST, body: {{ key: canary-body }}, decode: json, schema: {{ id: int }}, {h_stream} }}
  socket: {{ type: websocket, url: "{socket}", bearer_token: canary-bearer-socket, subscribe: [{{ auth: canary-subscribe }}], heartbeat: {{ send: canary-beat, every: 1s }}, decode: json, schema: {{ id: int }}, {h_socket} }}
models:
  tone: {{ task: text-classification, source: "{model}", labels: [good, bad], {h_model} }}
transforms:
  scored:
    from: wire
    predict: {{ model: tone, input: text, output: tone, give_up_after: 200ms, on_error: dead_letter }}
tables:
  items: {{ from: scored, key: [id] }}
  fed: {{ from: feed, key: [id] }}
  streamed: {{ from: stream, key: [id] }}
  heard: {{ from: socket, key: [id] }}
sinks:
  refused: {{ type: http, from: wire, url: "{refused}", bearer_token: canary-bearer-refused, {h_refused} }}
  partly: {{ type: http, from: wire, framing: single, url: "{partly}", bearer_token: canary-bearer-partly, {h_partly} }}
  moved: {{ type: http, from: wire, url: "{moved}", {h_moved} }}
  each: {{ type: http, from: wire, url: "{each}", {h_each} }}
  queue: {{ type: amqp, from: wire, url: "amqp://canary-user-queue:canary-password-queue@{host}/v", exchange: e }}
"#,
        host = base.split_once("://").unwrap().1,
        feed = at("feed", "feed"),
        moved = at("moved", "redirect"),
        stream = at("stream", "stream"),
        socket = ws(at("socket", "socket")),
        model = at("model", "model"),
        refused = at("refused", "refuse"),
        partly = at("partly", "partly"),
        each = at("each", "refuse/{id}"),
        h_feed = headers("feed"),
        h_stream = headers("stream"),
        h_socket = headers("socket"),
        h_model = headers("model"),
        h_refused = headers("refused"),
        h_partly = headers("partly"),
        h_moved = headers("moved"),
        h_each = headers("each"),
    )
}

fn place(base: &str) -> Place {
    let place =
        Place::new(&pipeline(base)).with_env("CANARY_ENV", "canary-env").with_env("MILLSTREAM_TOKEN", "canary-token");
    place.write("in.jsonl", "{\"id\":1,\"text\":\"fine\"}\n{\"id\":2,\"text\":\"fine\"}\nno record\n");
    place.with_env("MILLSTREAM_LOG", "debug")
}

/// A canary in what was found: which, and where.
fn find(place: &str, found: &str) -> Option<String> {
    let lower = found.to_lowercase();
    let at = lower.find(CANARY)?;
    let from = lower[..at].char_indices().rev().nth(200).map_or(0, |(i, _)| i);
    let shown: String = lower[from..].chars().take(400).collect();
    Some(format!("{place} shows a secret: …{shown}…"))
}

fn search(place: &str, found: &str) {
    if let Some(found) = find(place, found) {
        panic!("{found}");
    }
}

fn search_output(place: &Place, args: &[&str]) {
    let output = place.output(args);
    for said in [&output.stdout, &output.stderr] {
        search(&format!("{args:?}"), &String::from_utf8_lossy(said));
    }
    assert!(!output.stdout.is_empty() || !output.stderr.is_empty(), "{args:?} says something");
}

fn search_folder(folder: &Path) -> usize {
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        search("a name in the data folder", &entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            files += search_folder(&entry.path());
        } else {
            search(
                &entry.path().display().to_string(),
                &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap()),
            );
            files += 1;
        }
    }
    files
}

fn search_run(place: &Place) {
    let mut server = place.start(&[]);
    let url = server.url();
    let token = [("authorization", "Bearer canary-token")];
    let ask = |path: &str| http::try_send(reqwest::Method::GET, &format!("{url}{path}"), &token, Vec::new()).unwrap();
    // Until everything has failed that can.
    let waiting = ["feed", "stream", "socket", "moved", "queue"];
    let components = eventually("every component has failed", || {
        let all = ask("/api/v1/components").json()["components"].clone();
        let failed =
            |name: &&str| all.as_array().unwrap().iter().any(|c| c["name"] == **name && c["last_error"].is_object());
        waiting.iter().all(failed).then_some(all)
    });
    assert!(components.as_array().unwrap().len() > 8);
    eventually("the records have failed", || {
        (ask("/api/v1/dlq?count=true").json()["total"].as_u64()? >= 3).then_some(())
    });
    for path in [
        "/",
        "/metrics",
        "/healthz",
        "/readyz",
        "/api/v1/openapi.json",
        "/api/v1/pipeline",
        "/api/v1/components",
        "/api/v1/streams",
        "/api/v1/models",
        "/api/v1/tables",
        "/api/v1/tables/items/rows",
        "/api/v1/dlq",
        "/api/v1/dlq/summary",
        "/api/v1/dlq/wire/0",
        "/ping",
        "/models/tone",
        "/no-such-page",
    ] {
        let answer = ask(path);
        search(path, &format!("{:?}\n{}", answer.headers, answer.text));
    }
    search("who has no token", &get(&format!("{url}/api/v1/pipeline")).text);
    let body = json!({ "sql": "SELECT * FROM dead_letters" }).to_string().into_bytes();
    let query = http::try_send(reqwest::Method::POST, &format!("{url}/api/v1/query"), &token, body).unwrap();
    search("a query", &query.text);
    let reload = http::try_send(reqwest::Method::POST, &format!("{url}/api/v1/models/tone/reload"), &token, Vec::new());
    search("a reload", &reload.unwrap().text);
    let seen = std::fs::read(format!("/proc/{}/cmdline", server.id())).unwrap();
    search("the command line", &String::from_utf8_lossy(&seen));
    server.terminate();
    server.wait();
    assert!(server.log().contains("waits"), "{}", server.log());
    search("the log", &server.log());
    search("standard output", &server.printed());
    for args in [
        &["dlq", "list", "--data-dir", "data"][..],
        &["dlq", "list", "--data-dir", "data", "--format", "jsonl"],
        &["dlq", "summary", "--data-dir", "data"],
        &["query", "SELECT * FROM dead_letters", "--data-dir", "data", "--format", "jsonl"],
        &["tap", "wire", "--no-follow", "--data-dir", "data"],
        &["streams", "--data-dir", "data"],
    ] {
        search_output(place, args);
    }
    assert!(search_folder(&place.path("data")) > 10);
}

#[test]
fn no_secret_is_shown_or_stored_where_nobody_answers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let place = place(&base);
    for args in [
        &["validate", "pipeline.yaml"][..],
        &["validate", "--format", "json", "pipeline.yaml"],
        &["validate", "--connect", "pipeline.yaml"],
        &["validate", "--connect", "--format", "json", "pipeline.yaml"],
        &["check", "pipeline.yaml"],
        &["explain", "pipeline.yaml"],
        &["models", "list", "pipeline.yaml"],
        &["models", "info", "tone", "--pipeline", "pipeline.yaml"],
        &["try", "pipeline.yaml", "--source", "wire", "{\"id\":1,\"text\":\"x\"}"],
        &["run", "--help"],
        &["serve", "--help"],
    ] {
        search_output(&place, args);
    }
    let mut server = place.start(&[]);
    let url = format!("{}/api/v1/dlq?count=true", server.url());
    eventually("a dead letter", || {
        let token = [("authorization", "Bearer canary-token")];
        let answer = http::try_send(reqwest::Method::GET, &url, &token, Vec::new()).unwrap();
        search("/api/v1/dlq", &answer.text);
        (answer.json()["total"].as_u64()? >= 1).then_some(())
    });
    server.terminate();
    server.wait();
    search("the log", &server.log());
    assert!(search_folder(&place.path("data")) > 10);
}

#[test]
fn no_secret_is_shown_or_stored_where_servers_repeat_what_they_are_sent() {
    let base = parrot();
    let place = place(&base);
    for args in [
        &["check", "pipeline.yaml"][..],
        &["validate", "--connect", "--format", "json", "pipeline.yaml"],
        &["try", "pipeline.yaml", "--source", "wire", "{\"id\":1,\"text\":\"x\"}"],
    ] {
        search_output(&place, args);
    }
    search_run(&place);
}

#[test]
fn no_mistake_in_the_file_or_on_the_command_line_shows_a_secret() {
    let right = pipeline("http://127.0.0.1:1");
    let place = place("http://127.0.0.1:1");
    // Each of them breaks every line that it is found in.
    let mistakes = [
        ("http://", "ftp://"),
        ("http://", "htp//"),
        ("@127", "@@127"),
        (":1/", ":99999999/"),
        ("url: ", "ulr: "),
        ("bearer_token: ", "bearer_tokn: "),
        ("headers: {", "headers: { \"bad name\": canary-x, "),
        ("X-Key: canary", "X-Key: \"a\\nb canary"),
        ("{id}", "{di}"),
        ("amqp://", "amq://"),
        ("/v\"", "\""),
        ("${CANARY_ENV}", "${CANARY_ENV"),
        ("${CANARY_ENV}", "${NOT_SET:-canary-default}\", nosuch: \"x"),
        ("source: \"", "source: \"x"),
        ("type: feed", "type: fede"),
        ("interval: 1s", "interval: canary"),
    ];
    let (mut failed, mut shown) = (0, Vec::new());
    for (from, to) in mistakes {
        let mut wrong = right.replace(from, to);
        if to == "X-Key: \"a\\nb canary" {
            // The quote is closed where the value ends.
            wrong = right.replace("X-Env", "X-Other: \"a\\nb canary\", X-Env");
        }
        assert_ne!(wrong, right, "{from}");
        place.write("wrong.yaml", &wrong);
        for args in
            [&["validate", "wrong.yaml"][..], &["validate", "--format", "json", "wrong.yaml"], &["check", "wrong.yaml"]]
        {
            let output = place.output(args);
            failed += usize::from(output.status.code() == Some(2));
            for said in [&output.stdout, &output.stderr] {
                // What stands in a place that holds no secret is shown.
                let said = String::from_utf8_lossy(said)
                    .replace("interval: canary", "")
                    .replace("`canary`", "")
                    .replace("${CANARY_ENV", "");
                shown.extend(find(&format!("{from} → {to}: {args:?}"), &said));
            }
        }
    }
    assert!(shown.is_empty(), "{}", shown.join("\n\n"));
    assert!(failed >= 3 * 12, "{failed} of them are mistakes");
    for args in [
        &["validate", "pipeline.yaml", "--set", "sinks.refused.url=ftp://canary"][..],
        &["validate", "pipeline.yaml", "--set", "sinks.refused.bearer_token=[canary"],
        &["validate", "pipeline.yaml", "--set", "sinks.refused.headers={X-Key: \"canary\\n\"}"],
        &["validate", "pipeline.yaml", "--set", "sources.stream.url=canary"],
        &["validate", "pipeline.yaml", "--set", "sources.feed.urls[0]=ftp://canary"],
        &["query", "SELECT 1", "--url", "http://me:canary@127.0.0.1:1"],
        &["validate", "pipeline.yaml", "--env-file", "wrong.env"],
    ] {
        place.write("wrong.env", "CANARY_ENV=canary-file\nno assignment canary-line\n");
        search_output(&place, args);
    }
}

/// A value that nothing checks: only to keep the search itself honest.
#[test]
#[should_panic(expected = "shows a secret")]
fn the_search_finds_what_is_there() {
    search("a line", &Value::String("x Canary-1".into()).to_string());
}
