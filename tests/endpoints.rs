//! Models behind endpoints, as a whole pipeline sees them: protocols side by side, signed requests, fallbacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::{Place, http};

const RECORDS: &str =
    "{\"id\":\"a\",\"headline\":\"Company reports record profit\"}\n{\"id\":\"b\",\"headline\":\"Shares fall\"}\n";

/// A server that speaks three protocols. For SageMaker it wants a signature, and may be down.
fn servers() -> (String, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(true));
    let state = up.clone();
    let sagemaker = move |headers: HeaderMap, Json(request): Json<Value>| async move {
        let signature = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") {
            return (StatusCode::FORBIDDEN, Json(json!({ "message": "unsigned" })));
        }
        if !state.load(Ordering::Relaxed) {
            return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "message": "down" })));
        }
        let scores: Value = request["instances"].as_array().unwrap().iter().map(|_| json!([0.1, 0.2, 0.7])).collect();
        (StatusCode::OK, Json(json!({ "predictions": scores })))
    };
    let tei = |Json(request): Json<Value>| async move {
        let vectors = request["inputs"].as_array().unwrap().iter().map(|text| json!([text.as_str().unwrap().len(), 1]));
        Json(Value::from_iter(vectors))
    };
    let chat = |Json(request): Json<Value>| async move {
        let is_good = request["messages"][1]["content"].as_str().unwrap().contains("profit");
        let answer = match is_good {
            true => json!({ "label": "good", "scores": { "good": 0.9, "bad": 0.1 } }),
            false => json!({ "label": "bad", "scores": { "good": 0.2, "bad": 0.6 } }),
        };
        Json(json!({ "choices": [{ "message": { "content": answer.to_string() }, "finish_reason": "stop" }] }))
    };
    let app = axum::Router::new()
        .route("/endpoints/tone/invocations", post(sagemaker))
        .route("/embed", post(tei))
        .route("/v1/chat/completions", post(chat));
    (format!("http://{}", http::serve(app)), up)
}

fn place(url: &str, fallback: &str) -> Place {
    let pipeline = format!(
        "
pipeline: scored
sources:
  wire: {{ type: file, path: ./in.jsonl, schema: {{ id: string, headline: string }}, key: [id] }}
models:
  tone:
    task: text-classification
    source: sagemaker://tone
    region: eu-west-1
    endpoint_url: \"{url}\"
    labels: [positive, neutral, negative]
    circuit_breaker: {{ failures: 2 }}
    {fallback}
  linear: {{ task: text-classification, source: \"builtin:headline-sentiment-linear\" }}
  vector: {{ task: embedding, source: \"{url}\", protocol: tei }}
  chat: {{ task: text-classification, source: \"{url}\", protocol: openai, model_name: m, labels: [bad, good], rate: 1000/s }}
transforms:
  toned: {{ from: wire, predict: {{ model: tone, input: headline, output: tone, retry: {{ attempts: 2, initial: 1ms }} }} }}
  placed: {{ from: toned, predict: {{ model: vector, input: headline, output: vector }} }}
  judged: {{ from: placed, predict: {{ model: chat, input: headline, output: chat }} }}
tables:
  news: {{ from: judged, key: [id] }}
"
    );
    let place = Place::new(&pipeline)
        .with_env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        .with_env("AWS_SECRET_ACCESS_KEY", "hush")
        .with_env("AWS_EC2_METADATA_DISABLED", "true");
    place.write("in.jsonl", RECORDS);
    place
}

fn scored(place: &Place) -> Vec<Value> {
    let sql = "SELECT tone.label AS tone, tone.model AS by, vector.embedding AS vector, chat.label AS chat FROM news ORDER BY id";
    place.query(sql)
}

#[test]
fn one_pipeline_scores_with_sagemaker_tei_and_a_chat_model() {
    let (url, _) = servers();
    let place = place(&url, "");
    place.run();
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
    let row = |vector: Value, chat: &str| json!({ "tone": "negative", "by": "tone", "vector": vector, "chat": chat });
    assert_eq!(scored(&place), [row(json!([29.0, 1.0]), "good"), row(json!([11.0, 1.0]), "bad")]);
}

#[test]
fn while_an_endpoint_is_down_its_fallback_scores_and_the_rows_say_so() {
    for (fallback, tones, by) in [
        ("fallback: linear", ["positive", "negative"], "linear"),
        ("fallback: { label: neutral }", ["neutral", "neutral"], "tone.fallback"),
    ] {
        let (url, up) = servers();
        up.store(false, Ordering::Relaxed);
        let place = place(&url, fallback);
        place.run();
        assert_eq!(place.dead_letters(), Vec::<Value>::new());
        let rows = scored(&place);
        assert_eq!(rows.iter().map(|row| row["tone"].as_str().unwrap()).collect::<Vec<_>>(), tones);
        assert!(rows.iter().all(|row| row["by"] == by), "{rows:?}");
    }
}

#[test]
fn validate_needs_neither_network_nor_credentials() {
    let place = place("http://192.0.2.1:9", "fallback: nobody");
    let said = place.fails(2, &["validate", "pipeline.yaml"]);
    assert!(said.contains("`fallback` is `nobody`, but there is no such model"), "{said}");
    let place = Place::new(&std::fs::read_to_string(place.path("pipeline.yaml")).unwrap().replace("nobody", "linear"));
    place.stdout(&["validate", "pipeline.yaml"]);
}
