//! Several tokens with roles, read again when their file changes; and a line for what administrators do.

use std::os::unix::fs::PermissionsExt;

use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::http::{Answer, try_send};
use crate::support::process::eventually;
use crate::support::{Place, Server, json_lines};

const PIPELINE: &str = "
pipeline: access
sources: { posts: { type: http, schema: { id: int, text: string }, key: [id] } }
models: { tone: { task: text-classification, source: \"builtin:headline-sentiment-linear\" } }
transforms: { scored: { from: posts, predict: { model: tone, input: text, output: tone } } }
tables: { items: { from: scored, key: [id] } }
";
const READ: &str = "reader-0123456789abcdef";
const WRITE: &str = "writer-0123456789abcdef";
const BOTH: &str = "both-0123456789abcdef";
const ADMIN: &str = "admin-0123456789abcdef";

fn tokens() -> String {
    let digest: String = Sha256::digest(READ).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("# who may\nboard read sha256:{digest}\nshop write {WRITE}\nrobot read,write {BOTH}\nops admin {ADMIN}\n")
}

fn place() -> Place {
    let place = Place::new(PIPELINE);
    write_tokens(&place, &tokens());
    place
}

fn write_tokens(place: &Place, text: &str) {
    place.write("tokens", text);
    std::fs::set_permissions(place.path("tokens"), std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn ask(server: &Server, token: &str, method: Method, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    try_send(method, &format!("{}{path}", server.url()), &headers, body).unwrap()
}

#[test]
fn a_token_may_do_what_its_roles_say_and_a_refusal_says_which_one_is_asked_for() {
    let place = place();
    let server = place.start(&["--tokens", "tokens", "--token", "the-one-of-the-environment"]);
    let record = json!({ "id": 1, "text": "Profits soar" });
    let (query, texts) = (json!({ "sql": "SELECT 1" }), json!({ "instances": ["Profits soar"] }));
    for (method, path, body, role) in [
        (Method::GET, "/api/v1/pipeline", &Value::Null, "read"),
        (Method::GET, "/metrics", &Value::Null, "read"),
        (Method::GET, "/api/v1/dlq", &Value::Null, "read"),
        (Method::GET, "/api/v1/streams/posts/tap?follow=false", &Value::Null, "read"),
        (Method::POST, "/api/v1/query", &query, "read"),
        (Method::POST, "/streams/posts/records", &record, "write"),
        (Method::POST, "/invocations", &texts, "write"),
        (Method::POST, "/api/v1/dlq/redrive", &json!({}), "admin"),
        (Method::POST, "/api/v1/dlq/discard", &json!({}), "admin"),
        (Method::POST, "/api/v1/models/tone/reload", &Value::Null, "admin"),
        (Method::GET, "/v2/models/tone", &Value::Null, "any"),
        (Method::GET, "/api/v1/openapi.json", &Value::Null, "any"),
    ] {
        for (token, roles) in [
            (READ, "read"),
            (WRITE, "write"),
            (BOTH, "read,write"),
            (ADMIN, "admin"),
            ("the-one-of-the-environment", "admin"),
        ] {
            let answer = ask(&server, token, method.clone(), path, body);
            if role == "any" || roles == "admin" || roles.split(',').any(|has| has == role) {
                assert_eq!(answer.status, 200, "{method} {path} with {roles}: {answer:?}");
            } else {
                assert_eq!(answer.status, 403, "{method} {path} with {roles}: {answer:?}");
                let said = answer.json()["error"].as_str().unwrap().to_owned();
                assert!(
                    said.contains(&format!("has the role {roles};")) && said.contains(&format!("asks for {role}")),
                    "{said}"
                );
                assert!(answer.header("www-authenticate").unwrap().contains("insufficient_scope"));
            }
        }
        for wrong in ["", "nobody-0123456789abcdef", "writer-0123456789abcdeF"] {
            assert_eq!(ask(&server, wrong, method.clone(), path, body).status, 401, "{method} {path}");
        }
    }
    // The commands say what the server says.
    let said = place.fails(2, &["dlq", "discard", "--all", "--yes", "--url", &server.url(), "--token", READ]);
    assert!(said.contains("`board` has the role read") && said.contains("asks for admin"), "{said}");
    for token in [READ, WRITE, BOTH, ADMIN] {
        assert!(!server.log().contains(token), "a token is never logged");
    }
}

#[test]
fn tokens_are_read_again_and_a_broken_file_leaves_those_that_were() {
    let place = place();
    let server = place.start(&["--tokens", "tokens"]);
    let status = |token: &str| ask(&server, token, Method::GET, "/api/v1/pipeline", &Value::Null).status;
    assert_eq!((status(READ), status("late-0123456789abcdef")), (200, 401));
    // As Kubernetes does it: another file in its place.
    place.write("next", "late read late-0123456789abcdef\n");
    std::fs::rename(place.path("next"), place.path("tokens")).unwrap();
    eventually("the new token", || (status("late-0123456789abcdef") == 200).then_some(()));
    assert_eq!(status(READ), 401, "who is not in the file any more is out");
    place.write("tokens", "late owner late-0123456789abcdef\n");
    server.wait_for_log("not taken, what was read before stays in force: --tokens, line 1");
    assert_eq!(status("late-0123456789abcdef"), 200);
    std::fs::remove_file(place.path("tokens")).unwrap();
    server.wait_for_log("there is no such file");
    assert_eq!(status("late-0123456789abcdef"), 200);
    write_tokens(&place, &tokens());
    eventually("the first token", || (status(READ) == 200).then_some(()));
}

#[test]
fn a_file_of_tokens_that_is_wrong_is_said_before_anything_runs() {
    let place = place();
    let start = |more: &[&str]| {
        let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--tokens", "tokens"];
        place.fails(2, &[&args, more].concat())
    };
    place.write("tokens", "a read hush-hush-hush-hush\nb everything hush-hush-hush-hush\n");
    let said = start(&[]);
    assert!(said.contains("line 2") && said.contains("`admin`") && !said.contains("hush"), "{said}");
    std::fs::remove_file(place.path("tokens")).unwrap();
    assert!(start(&[]).contains("there is no such file"));
    write_tokens(&place, &tokens());
    assert!(start(&["--audit-log", "no/such/folder"]).contains("--audit-log no/such/folder"));
    assert!(!place.path("data").exists());
    // Who else can read it is told to the one who can change that.
    std::fs::set_permissions(place.path("tokens"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = place.start(&["--tokens", "tokens"]);
    server.wait_for_log("every user of this machine can read it");
}

#[test]
fn every_write_of_an_administrator_is_a_line_and_nothing_else_is() {
    let place = place();
    let server = place.start(&["--tokens", "tokens", "--audit-log", "audit.jsonl"]);
    let post = |token, path, body: &Value| ask(&server, token, Method::POST, path, body).status;
    assert_eq!(post(WRITE, "/streams/posts/records", &json!({ "id": 1, "text": "Profits soar" })), 200);
    assert_eq!(post(READ, "/api/v1/query", &json!({ "sql": "SELECT 1" })), 200);
    let lines = || json_lines(&std::fs::read_to_string(place.path("audit.jsonl")).unwrap());
    assert_eq!(lines().len(), 0);
    assert_eq!(post(ADMIN, "/api/v1/dlq/discard?why=tests", &json!({ "kind": null, "token": "hush" })), 422);
    assert_eq!(post(ADMIN, "/api/v1/dlq/redrive", &json!({ "component": "nobody" })), 400);
    assert_eq!(post(ADMIN, "/api/v1/models/tone/reload", &Value::Null), 200);
    assert_eq!(post(READ, "/api/v1/dlq/redrive", &json!({})), 403);
    assert_eq!(post("nobody-0123456789abcdef", "/api/v1/dlq/redrive", &json!({})), 401);
    let lines = lines();
    let short = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap().to_owned();
        (text("who"), text("method"), text("path"), line["status"].as_u64().unwrap())
    };
    let posted = |who: &str, path: &str, status| (who.to_owned(), "POST".to_owned(), path.to_owned(), status);
    assert_eq!(
        lines.iter().map(short).collect::<Vec<_>>(),
        [
            posted("ops", "/api/v1/dlq/discard", 422),
            posted("ops", "/api/v1/dlq/redrive", 400),
            posted("ops", "/api/v1/models/tone/reload", 200),
            posted("board", "/api/v1/dlq/redrive", 403),
        ]
    );
    let discard = &lines[0]["parameters"];
    assert_eq!(discard, &json!({ "query": { "why": "tests" }, "body": { "kind": null, "token": "***" } }));
    assert_eq!(lines[1]["parameters"], json!({ "component": "nobody" }));
    assert!(lines[1]["answer"]["error"].is_string() && lines[2]["answer"]["digest"].is_string(), "{lines:?}");
    for line in &lines {
        assert!(line["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
        chrono::DateTime::parse_from_rfc3339(line["at"].as_str().unwrap()).unwrap();
    }
    assert_eq!(std::fs::metadata(place.path("audit.jsonl")).unwrap().permissions().mode() & 0o777, 0o600);
    server.wait_for_log("POST /api/v1/models/tone/reload");
    // Taken away to be kept: the next line begins a new file.
    std::fs::rename(place.path("audit.jsonl"), place.path("audit.1")).unwrap();
    assert_eq!(post(ADMIN, "/api/v1/models/tone/reload", &Value::Null), 200);
    assert_eq!(json_lines(&std::fs::read_to_string(place.path("audit.jsonl")).unwrap()).len(), 1);
}
