//! `millstream serve` and the model endpoints of a running pipeline, as other systems see them.

use std::sync::Arc;

use axum::Json;
use axum::routing::post;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};

use crate::support::http::{block_on, get, try_send};
use crate::support::process::PATIENCE;
use crate::support::{Place, Server, http};

const LINEAR: &str = "builtin:headline-sentiment-linear";
const HEADLINES: [&str; 6] = [
    "Profits soar at Acme after record quarter",
    "Shares plunge as regulator opens inquiry",
    "Company to hold annual meeting in May",
    "",
    "Größe \"zählt\": 株価が上昇, 😀",
    "Copper slips below $9,000, first time since June",
];

fn serve(place: &Place, args: &[&str]) -> Server {
    let mut all = vec!["serve"];
    all.extend(args);
    all.extend(["--listen", "127.0.0.1:0"]);
    Server::spawn(place.command(&all))
}

#[test]
fn every_remote_protocol_gives_the_predictions_of_the_model_in_the_process() {
    let server_place = Place::new("");
    let server = serve(&server_place, &[LINEAR, "--name", "tone"]);
    let url = server.url();
    let remotes = [
        ("json", format!("source: \"{url}/invocations\"")),
        ("sagemaker", format!("source: \"{url}\", protocol: sagemaker")),
        ("kserve", format!("source: \"{url}\", protocol: kserve, model_name: tone")),
        ("tei", format!("source: \"{url}\", protocol: tei")),
    ];
    let mut models = format!("  local: {{ task: text-classification, source: \"{LINEAR}\" }}\n");
    let mut transforms =
        "  by_local: { from: wire, predict: { model: local, input: headline, output: local } }\n".to_owned();
    let mut from = "by_local".to_owned();
    for (name, settings) in &remotes {
        let labels = "labels: [negative, neutral, positive], batch: { max: 4 }";
        models += &format!("  {name}: {{ task: text-classification, {settings}, {labels} }}\n");
        transforms += &format!(
            "  by_{name}: {{ from: {from}, predict: {{ model: {name}, input: headline, output: {name} }} }}\n"
        );
        from = format!("by_{name}");
    }
    let place = Place::new(&format!(
        "
pipeline: same
sources:
  wire: {{ type: file, path: ./in.jsonl, schema: {{ id: int, headline: string }}, key: [id] }}
models:
{models}transforms:
{transforms}tables:
  news: {{ from: {from}, key: [id] }}
"
    ));
    let lines = HEADLINES.iter().enumerate();
    let lines: Vec<_> = lines.map(|(id, headline)| json!({ "id": id, "headline": headline }).to_string()).collect();
    place.write("in.jsonl", lines.join("\n"));
    place.run();
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
    let rows = place.query("SELECT * FROM news ORDER BY id");
    assert_eq!(rows.len(), HEADLINES.len());
    for row in &rows {
        for (name, _) in &remotes {
            assert_eq!(row[name]["label"], row["local"]["label"], "{name}: {row}");
            for (label, score) in row["local"]["scores"].as_object().unwrap() {
                let remote = row[name]["scores"][label].as_f64().unwrap();
                // What six decimals leave, and the sum being scaled to 1 once more.
                assert!((remote - score.as_f64().unwrap()).abs() < 2e-6, "{name}, {label}: {row}");
            }
        }
    }
    let labels: Vec<_> = rows.iter().map(|row| row["local"]["label"].as_str().unwrap()).collect();
    assert_eq!(labels[..2], ["positive", "negative"], "the labels differ, or all of this says nothing");
}

#[test]
fn a_running_pipeline_answers_every_protocol_and_counts_it() {
    let place = Place::new(
        "
pipeline: pushed
sources: { wire: { type: http, schema: { id: string, headline: string }, key: [id] } }
models: { tone: { task: text-classification, source: \"builtin:headline-sentiment-linear\" } }
transforms: { scored: { from: wire, predict: { model: tone, input: headline, output: tone } } }
tables: { news: { from: scored, key: [id] } }
",
    );
    let server = place.start(&[]);
    let url = server.url();
    assert_eq!(get(&format!("{url}/ping")).status, 200);
    let send = |path: &str, kind: &str, accept: &str, body: String| {
        let headers = [("content-type", kind), ("accept", accept)];
        let answer = try_send(Method::POST, &format!("{url}{path}"), &headers, body).unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer
    };
    let headline = HEADLINES[0];
    let (json_type, lines_type) = ("application/json", "application/jsonlines");
    let item = send("/invocations", json_type, "*/*", json!({ "instances": [headline] }).to_string()).json();
    let item = item["predictions"][0].clone();
    assert_eq!(item["label"], "positive");
    let lines = send("/invocations", "text/csv", lines_type, format!("{headline}\n"));
    assert_eq!((lines.header("content-type"), lines.json()), (Some(lines_type), item.clone()));
    let csv = send("/invocations", lines_type, "text/csv", format!("\"{headline}\"\n"));
    assert!(csv.text.starts_with("positive,") && csv.text.split(',').count() == 5, "{}", csv.text);
    let outputs = send("/v2/models/tone/infer", json_type, "*/*", tensor(&[headline.into()]).to_string()).json();
    assert_eq!(outputs["outputs"][0]["data"][2], item["scores"]["positive"]);
    assert_eq!(outputs["outputs"][1]["data"], json!(["positive"]));
    let ranked = send("/predict", json_type, "*/*", json!({ "inputs": [[headline]] }).to_string()).json();
    assert_eq!(ranked[0][0], json!({ "label": "positive", "score": item["score"] }));
    let figures = get(&format!("{url}/metrics")).text;
    assert!(figures.contains("model_batch_size_count{component_id=\"tone\"} 5\n"), "{figures}");
    let listed = place.stdout(&["models", "list", "--url", &url, "--format", "jsonl"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["name"], &listed["labels"][2]), (&json!("tone"), &json!("positive")));
}

#[test]
fn in_a_container_the_environment_says_what_is_served_and_where() {
    let place = Place::new("").with_env("MILLSTREAM_MODEL", LINEAR).with_env("MILLSTREAM_LISTEN", "127.0.0.1:0");
    // What SageMaker starts: the image's entry point with the one word `serve`.
    let server = Server::spawn(place.command(&["serve"]));
    let answer = http::post(&format!("{}/invocations", server.url()), r#"{"instances": ["Profits soar"]}"#);
    assert_eq!((answer.status, &answer.json()["predictions"][0]["label"]), (200, &json!("positive")));
}

/// A pipeline file with a model whose endpoint answers only after the gate is opened, and says when it is asked.
fn gated() -> (Place, Arc<Semaphore>, Arc<Notify>) {
    let (gate, asked) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
    let (closed, told) = (gate.clone(), asked.clone());
    let app = axum::Router::new().route(
        "/score",
        post(move |Json(request): Json<Value>| async move {
            told.notify_one();
            let _ = closed.acquire().await.map(drop);
            let texts = request["inputs"].as_array().cloned().unwrap_or_default();
            Json(texts.iter().map(|_| json!([0.75, 0.25])).collect::<Vec<_>>())
        }),
    );
    let pipeline = format!(
        "
pipeline: gated
sources: {{ wire: {{ type: http, schema: {{ id: string, text: string }}, key: [id] }} }}
models: {{ slow: {{ task: text-classification, source: \"http://{}/score\", labels: [a, b], timeout: 10m }} }}
",
        http::serve(app)
    );
    (Place::new(&pipeline), gate, asked)
}

#[test]
fn a_stop_answers_what_is_under_way_and_takes_nothing_new() {
    let (place, gate, asked) = gated();
    let mut server = serve(&place, &["slow", "--pipeline", "pipeline.yaml", "--stop-deadline", "10m"]);
    let url = server.url();
    let request = std::thread::spawn({
        let url = url.clone();
        move || http::post(&format!("{url}/invocations"), r#"{"inputs": "a"}"#)
    });
    block_on(async { tokio::time::timeout(PATIENCE, asked.notified()).await.unwrap() });
    server.terminate();
    crate::support::process::eventually("a closed door", || {
        try_send(Method::GET, &format!("{url}/ping"), &[], "").is_err().then_some(())
    });
    gate.add_permits(100);
    let answer = request.join().unwrap();
    assert_eq!((answer.status, answer.json()[0][0]["label"].as_str()), (200, Some("a")));
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
}

#[test]
fn a_stop_does_not_wait_for_a_model_longer_than_its_deadline() {
    let (place, _gate, asked) = gated();
    let mut server = serve(&place, &["slow", "--pipeline", "pipeline.yaml", "--stop-deadline", "100ms"]);
    let url = format!("{}/invocations", server.url());
    let request = std::thread::spawn(move || try_send(Method::POST, &url, &[], r#"{"inputs": "a"}"#).is_err());
    block_on(async { tokio::time::timeout(PATIENCE, asked.notified()).await.unwrap() });
    server.terminate();
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    assert!(server.log().contains("not every request was answered in time"), "{}", server.log());
    assert!(request.join().unwrap(), "the connection breaks off");
}

#[test]
fn a_served_model_asks_for_the_token_except_for_health() {
    let place = Place::new("").with_env("MILLSTREAM_TOKEN", "s3cret");
    let server = serve(&place, &[LINEAR]);
    let url = server.url();
    for path in ["/ping", "/healthz", "/readyz", "/health", "/v2/health/ready"] {
        assert_eq!(get(&format!("{url}{path}")).status, 200, "{path}");
    }
    for path in ["/metrics", "/v2", "/info", "/api/v1/openapi.json"] {
        assert_eq!(get(&format!("{url}{path}")).status, 401, "{path}");
        let with_token = try_send(Method::GET, &format!("{url}{path}"), &[("authorization", "Bearer s3cret")], "");
        assert_eq!(with_token.unwrap().status, 200, "{path}");
    }
    assert_eq!(http::post(&format!("{url}/invocations"), r#"{"inputs": "a"}"#).status, 401);
    assert_eq!(get(&format!("{url}/nothing")).status, 404);
    place.stdout(&["models", "list", "--url", &url]);
    assert!(!server.log().contains("s3cret"), "a token is never logged");
}

#[test]
fn what_can_not_be_served_is_said_and_ends_with_the_right_code() {
    let (place, _gate, _asked) = gated();
    let said = place.fails(2, &["serve", "builtin:nothing", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("builtin:headline-sentiment-linear"), "{said}");
    let said = place.fails(2, &["serve", "fast", "--pipeline", "pipeline.yaml", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("no model `fast`") && said.contains("slow"), "{said}");
    let said = place.fails(2, &["serve", LINEAR, "--name", "a/b", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("--name"), "{said}");
    for file in std::fs::read_dir(format!("{TRANSFORMERS}/bert-classifier")).unwrap().map(Result::unwrap) {
        let content = std::fs::read(file.path()).unwrap();
        place.write(&format!("größe/{}", file.file_name().to_str().unwrap()), content);
    }
    let said = place.fails(2, &["serve", "./größe", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("`größe` is no name") && said.contains("--name"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = place.fails(1, &["serve", LINEAR, "--listen", &address]);
    assert!(said.contains("--listen"), "{said}");
}

/// Models of random weights, and what the reference implementation says to some texts.
const TRANSFORMERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/testdata/transformers");

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
}

fn assert_close(got: &[f64], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let difference = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < 1e-4, "{what}: {difference}");
}

#[test]
fn a_model_folder_is_served_with_the_answers_of_the_reference() {
    let expected = std::fs::read_to_string(format!("{TRANSFORMERS}/expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let texts = expected["texts"].as_array().unwrap();
    for (model, path, body) in [
        ("minilm-embedding", "/embed", json!({ "inputs": texts, "normalize": false })),
        ("minilm-embedding", "/invocations", json!({ "inputs": texts })),
        ("bert-classifier", "/invocations", json!({ "instances": texts })),
        ("bert-multi-label-torch", "/v2/models/m/infer", tensor(texts)),
    ] {
        let place = Place::new("");
        let server = serve(&place, &[&format!("{TRANSFORMERS}/{model}"), "--name", "m", "--precision", "f32"]);
        let answer = http::post(&format!("{}{path}", server.url()), body.to_string());
        assert_eq!(answer.status, 200, "{model}{path}: {answer:?}");
        let answer = answer.json();
        let columns = numbers(&expected["models"][model]["outputs"][0]).len();
        let rows: Vec<Vec<f64>> = match path {
            "/v2/models/m/infer" => {
                numbers(&answer["outputs"][0]["data"]).chunks(columns).map(<[f64]>::to_vec).collect()
            }
            "/invocations" if model == "bert-classifier" => {
                let scores = |item: &Value| {
                    item["scores"].as_object().unwrap().values().map(|score| score.as_f64().unwrap()).collect()
                };
                answer["predictions"].as_array().unwrap().iter().map(scores).collect()
            }
            _ => answer.as_array().unwrap().iter().map(numbers).collect(),
        };
        assert_eq!(rows.len(), texts.len(), "{model}{path}");
        for (i, row) in rows.iter().enumerate() {
            let output = numbers(&expected["models"][model]["outputs"][i]);
            assert_close(row, &output, &format!("{model}{path}, text {i}"));
        }
    }
}

fn tensor(texts: &[Value]) -> Value {
    json!({ "inputs": [{ "name": "text", "shape": [texts.len()], "datatype": "BYTES", "data": texts }] })
}
