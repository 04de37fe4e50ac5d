//! `secrets:` of a pipeline file: from files, variables, commands and AWS Secrets Manager, and into no message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::support::http::serve;
use crate::support::process::eventually;
use crate::support::{Place, json_lines};

/// The headers of each request, and the body.
type Asked = Arc<Mutex<Vec<(BTreeMap<String, String>, String)>>>;

fn remembered(asked: &Asked, headers: &HeaderMap, body: String) {
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    asked.lock().unwrap().push((headers, body));
}

/// A feed that remembers what it was asked with.
fn feed() -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let remember = asked.clone();
    let answer = move |headers: HeaderMap| async move {
        remembered(&remember, &headers, String::new());
        "{\"id\": 1}\n"
    };
    (serve(axum::Router::new().route("/feed", get(answer))), asked)
}

/// AWS Secrets Manager, as far as `GetSecretValue`.
fn secrets_manager() -> (SocketAddr, Asked) {
    let asked = Asked::default();
    let remember = asked.clone();
    let answer = move |headers: HeaderMap, body: String| async move {
        remembered(&remember, &headers, body.clone());
        let wanted: Value = serde_json::from_str(&body).unwrap();
        match wanted["SecretId"].as_str() {
            Some("prod/feed") => {
                let secret = json!({ "user": "u", "key": "of-aws-hush" }).to_string();
                (StatusCode::OK, json!({ "Name": "prod/feed", "SecretString": secret }).to_string())
            }
            Some("slow") => (StatusCode::BAD_REQUEST, json!({ "__type": "ThrottlingException" }).to_string()),
            _ => {
                let missing =
                    json!({ "__type": "ResourceNotFoundException", "Message": "Secrets Manager can't find it." });
                (StatusCode::BAD_REQUEST, missing.to_string())
            }
        }
    };
    (serve(axum::Router::new().route("/", post(answer))), asked)
}

fn pipeline(feed: SocketAddr, aws: SocketAddr) -> String {
    format!(
        "pipeline: secrets
secrets:
  of_file: {{ from: file, path: keys/feed }}
  of_env: {{ from: env, name: FEED_KEY }}
  of_command: {{ from: command, command: [./print-key, of-command-hush], timeout: 20s }}
  of_aws: {{ from: aws_secrets_manager, id: prod/feed, field: key, region: eu-west-1, endpoint_url: \"http://{aws}/\" }}
sources:
  wire:
    type: http_stream
    url: http://{feed}/feed
    headers:
      x-file: Key ${{secret:of_file}}
      x-env: \"${{secret:of_env}}\"
      x-command: ${{secret:of_command}}
      x-aws: ${{secret:of_aws}}
    schema: {{ id: int }}
tables:
  items: {{ from: wire, key: [id] }}
"
    )
}

fn place(pipeline: &str) -> Place {
    let place = Place::new(pipeline)
        .with_env("FEED_KEY", "of-env-hush")
        .with_env("AWS_ACCESS_KEY_ID", "AKID")
        .with_env("AWS_SECRET_ACCESS_KEY", "aws-hush");
    place.write("keys/feed", "of-file-hush\n");
    place.write("print-key", "#!/bin/sh\necho \"$1\"\ntouch called\n");
    std::fs::set_permissions(place.path("print-key"), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

#[test]
fn secrets_come_from_where_they_are_kept_and_get_to_where_they_are_needed() {
    let ((feed, asked), (aws, asked_of_aws)) = (feed(), secrets_manager());
    let place = place(&pipeline(feed, aws));
    let server = place.start(&[]);
    eventually("a request", || (!asked.lock().unwrap().is_empty()).then_some(()));
    let headers = asked.lock().unwrap()[0].0.clone();
    for (name, value) in [
        ("x-file", "Key of-file-hush"),
        ("x-env", "of-env-hush"),
        ("x-command", "of-command-hush"),
        ("x-aws", "of-aws-hush"),
    ] {
        assert_eq!(headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    // As its API reference says: JSON 1.1, signed.
    let (headers, body) = asked_of_aws.lock().unwrap()[0].clone();
    assert_eq!(headers["content-type"], "application/x-amz-json-1.1");
    assert_eq!(headers["x-amz-target"], "secretsmanager.GetSecretValue");
    let signed = &headers["authorization"];
    assert!(signed.starts_with("AWS4-HMAC-SHA256 Credential=AKID/"), "{signed}");
    assert!(signed.contains("/eu-west-1/secretsmanager/aws4_request"), "{signed}");
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), json!({ "SecretId": "prod/feed" }));
    assert_eq!(asked_of_aws.lock().unwrap().len(), 1);
    server.wait_for_log("running");
    assert!(!server.log().contains("hush"), "{}", server.log());
}

#[test]
fn validate_calls_nobody_unless_it_is_to_connect() {
    let ((feed, _), (aws, asked_of_aws)) = (feed(), secrets_manager());
    let place = place(&pipeline(feed, aws));
    let said = place.stdout(&["validate", "pipeline.yaml"]);
    assert!(said.contains("ok (1 source, 1 table)"), "{said}");
    assert!(asked_of_aws.lock().unwrap().is_empty() && !place.path("called").exists());
    let said = place.stdout(&["check", "pipeline.yaml"]);
    assert!(said.contains("source wire: ok") && !said.contains("hush"), "{said}");
    assert!(asked_of_aws.lock().unwrap().len() == 1 && place.path("called").exists());
    place.write("pipeline.yaml", pipeline(feed, aws).replace("prod/feed", "slow"));
    let said = place.fails(1, &["check", "pipeline.yaml"]);
    assert!(said.contains("ThrottlingException"), "{said}");
    place.write("pipeline.yaml", pipeline(feed, aws));
    // Files and variables are on this machine: they are looked at.
    std::fs::remove_file(place.path("keys/feed")).unwrap();
    let said = place.fails(2, &["validate", "pipeline.yaml"]);
    assert!(said.contains("pipeline.yaml:3:3") && said.contains("the secret `of_file` can't be had"), "{said}");
}

#[test]
fn where_a_secret_is_not_known_nothing_is_said_about_its_value() {
    let place = place(
        "pipeline: unknown
secrets: { url: { from: command, command: [./print-key, x] }, model: { from: command, command: [./print-key, y] } }
sources: { wire: { type: file, path: a.jsonl, schema: { id: int, text: string } } }
models: { tone: { task: text-classification, source: \"${secret:model}\" } }
sinks: { out: { from: wire, type: amqp, url: \"${secret:url}\", exchange: e } }
",
    );
    place.write("a.jsonl", "");
    let said = place.output(&["validate", "pipeline.yaml"]);
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{text}");
    assert!(!place.path("called").exists());
}

#[test]
fn what_is_wrong_with_a_secret_is_said_with_its_place_and_its_name_and_never_its_value() {
    let ((feed, _), (aws, _)) = (feed(), secrets_manager());
    let right = pipeline(feed, aws);
    let says = |from: &str, to: &str, code: i32, expected: &[&str]| {
        assert!(right.contains(from), "{from}");
        let place = place(&right.replace(from, to));
        let said = place.fails(code, &["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
        assert!(!said.contains("hush"), "{said}");
        for text in expected {
            assert!(said.contains(text), "`{text}`: {said}");
        }
        assert!(!place.path("data").exists());
    };
    says(
        "${secret:of_env}",
        "${secret:of_evn}",
        2,
        &["pipeline.yaml:13:", "no secret `of_evn`", "did you mean `of_env`?"],
    );
    says("name: FEED_KEY", "name: NO_KEY", 2, &["pipeline.yaml:4:3", "`of_env`", "`NO_KEY` is not set"]);
    says("path: keys/feed", "path: keys/none", 2, &["pipeline.yaml:3:3", "`of_file`", "keys/none"]);
    says("path: keys/feed", "path: pipeline.yaml, mode: 1", 2, &["pipeline.yaml:3:", "`mode`"]);
    says("from: env", "from: vault", 2, &["pipeline.yaml:4:", "file, env, command, aws_secrets_manager"]);
    says("path: keys/feed", "path: \"${secret:of_env}\"", 2, &["pipeline.yaml:3:", "can't be made of another one"]);
    says("id: prod/feed", "id: prod/none", 2, &["pipeline.yaml:6:3", "`of_aws`", "ResourceNotFoundException"]);
    says("field: key", "field: password", 2, &["`of_aws`", "it has user, key"]);
    // What may be there later: the code of a failure, not that of a wrong file.
    says("id: prod/feed", "id: slow", 1, &["`of_aws`", "ThrottlingException"]);
    says(
        "[./print-key, of-command-hush]",
        "[/bin/false]",
        1,
        &["pipeline.yaml:5:3", "`of_command`", "`/bin/false` failed"],
    );
    says(
        "[./print-key, of-command-hush], timeout: 20s",
        "[sleep, \"100\"], timeout: 100ms",
        1,
        &["did not end within 100ms"],
    );
    // … but not where the file is wrong as well.
    says("id: prod/feed", "id: slow, idd: 1", 2, &["`idd`"]);
    says("[./print-key, of-command-hush]", "[/bin/true]", 2, &["`of_command`", "it is empty"]);
    // A value with a secret in it is shown nowhere, wherever it stands.
    says("schema: { id: int }", "schema: { id: \"${secret:of_env}\" }", 2, &["${secret:of_env}"]);
    says("key: [id]", "key: [\"${secret:of_env}\"]", 2, &["${secret:of_env}"]);
    let unused = place(&right.replace("      x-env: \"${secret:of_env}\"\n", ""));
    let said = String::from_utf8_lossy(&unused.output(&["validate", "pipeline.yaml"]).stderr).into_owned();
    assert!(said.contains("warning") && said.contains("no value refers to the secret `of_env`"), "{said}");
}

#[test]
fn a_new_value_of_a_secret_is_no_new_version_of_the_pipeline() {
    let place = Place::new(
        "pipeline: version
secrets: { from_there: { from: file, path: key } }
sources: { posts: { type: file, path: \"${secret:from_there}\", schema: { id: int } } }
tables: { items: { from: posts, key: [id] } }
",
    );
    place.write("a.jsonl", "{\"id\": 1}\nbad\n");
    place.write("b.jsonl", "{\"id\": 2}\nbad\n");
    for file in ["a.jsonl", "b.jsonl"] {
        place.write("key", file);
        place.run();
    }
    let ids: Vec<Value> = place.query("SELECT id FROM items ORDER BY id").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, [json!(1), json!(2)]);
    let letters = place.stdout(&["dlq", "list", "--data-dir", "data", "--format", "jsonl"]);
    let versions: std::collections::BTreeSet<String> =
        json_lines(&letters).iter().map(|letter| letter["pipeline_version"].to_string()).collect();
    assert_eq!(versions.len(), 1, "{letters}");
}
