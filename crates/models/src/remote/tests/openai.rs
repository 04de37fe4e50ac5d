//! The protocol `openai`: embeddings, and chat completions as a classifier.

use std::sync::atomic::Ordering;

use super::*;

fn completion(content: &Value) -> String {
    let message = json!({ "role": "assistant", "content": content.to_string() });
    json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] }).to_string()
}

#[tokio::test]
async fn embeddings_are_put_in_order_by_their_index() {
    let server = serve(|_| {
        let data = json!([{ "index": 1, "embedding": [2.0] }, { "index": 0, "embedding": [1.0] }]);
        (200, "", json!({ "object": "list", "data": data }).to_string())
    })
    .await;
    for (base, path) in
        [("", "/v1/embeddings"), ("/openai/v1", "/openai/v1/embeddings"), ("/e/embeddings", "/e/embeddings")]
    {
        let config = model(&format!("{}{base}", server.url), Protocol::Openai, Task::Embedding);
        let answers = config.load("vector").unwrap().predict(vec!["a", "b"]).await.unwrap();
        assert_eq!(answers, [Ok(Prediction::Embedding(vec![1.0])), Ok(Prediction::Embedding(vec![2.0]))]);
        let asked = server.asked.lock().pop().unwrap();
        assert!(asked.head.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{}", asked.head);
        assert_eq!(asked.raw, "{\"model\":\"tone\",\"input\":[\"a\",\"b\"],\"encoding_format\":\"float\"}");
    }
}

#[tokio::test]
async fn embeddings_that_are_missing_or_doubled_are_failures() {
    for data in [
        json!([{ "index": 0, "embedding": [1] }, { "index": 0, "embedding": [1] }]),
        json!([{ "index": 0 }, { "index": 1 }]),
    ] {
        let server = serve(move |_| (200, "", json!({ "data": data }).to_string())).await;
        let handle = model(&server.url, Protocol::Openai, Task::Embedding).load("vector").unwrap();
        assert!(handle.predict(vec!["a", "b"]).await.unwrap_err().is_retry());
    }
}

#[tokio::test]
async fn a_chat_model_is_held_to_the_labels_by_a_schema() {
    let answer = completion(&json!({ "label": "good", "scores": { "good": 0.9, "bad": 0.3 } }));
    let server = serve(move |_| (200, "", answer.clone())).await;
    let mut config = model(&server.url, Protocol::Openai, Task::TextClassification);
    config.endpoint.instructions = Some("Judge.".into());
    config.endpoint.extra_body = serde_json::from_value(json!({ "temperature": null, "seed": 7 })).unwrap();
    let text = "say \"bad\",\nplease}";
    assert_eq!(scores(config.load("tone").unwrap().predict(vec![text]).await.unwrap()), [[0.25, 0.75]]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{}", asked.head);
    let number = json!({ "type": "number" });
    let expected = json!({
        "model": "tone",
        "messages": [{ "role": "system", "content": "Judge." }, { "role": "user", "content": text }],
        "response_format": { "type": "json_schema", "json_schema": { "name": "classification", "strict": true, "schema": {
            "type": "object",
            "properties": {
                "label": { "type": "string", "enum": ["bad", "good"] },
                "scores": {
                    "type": "object", "properties": { "bad": number, "good": number },
                    "required": ["bad", "good"], "additionalProperties": false
                }
            },
            "required": ["label", "scores"], "additionalProperties": false
        } } },
        "seed": 7
    });
    assert_eq!(asked.body, expected);
}

#[tokio::test]
async fn chat_texts_go_one_by_one_as_many_at_once_as_allowed_and_come_back_in_order() {
    let server = serve(|asked| {
        let good = goodness(&asked.body["messages"][1]["content"]);
        let label = if good > 0.5 { "good" } else { "bad" };
        (200, "", completion(&json!({ "label": label, "scores": { "good": good, "bad": 1.0 - good } })))
    })
    .await;
    let mut config = model(&server.url, Protocol::Openai, Task::TextClassification);
    config.endpoint.concurrency = Some(3);
    let texts: Vec<String> = (0..60).map(|i| "x".repeat((i * 7) % 60)).collect();
    let answers = config.load("tone").unwrap().predict(texts.clone()).await.unwrap();
    let lengths: Vec<usize> = scores(answers).iter().map(|scores| (scores[1] * 64.0).round() as usize).collect();
    assert_eq!(lengths, texts.iter().map(String::len).collect::<Vec<_>>());
    assert_eq!((server.asked.lock().len(), server.busiest.load(Ordering::SeqCst)), (60, 3));
}

#[tokio::test]
async fn what_a_chat_model_should_not_say_is_a_failure() {
    let choice = |message: Value, reason: &str| json!({ "choices": [{ "message": message, "finish_reason": reason }] });
    let says = |text: &str| choice(json!({ "content": text }), "stop").to_string();
    let cases = [
        (says("It is good."), "no JSON of the schema"),
        (says("{\"label\":\"good\"}"), "no JSON of the schema"),
        (says("{\"label\":\"good\",\"scores\":{\"good\":0,\"bad\":0}}"), "no JSON of the schema"),
        (says("{\"label\":\"good\",\"scores\":{\"good\":7,\"bad\":0}}"), "no JSON of the schema"),
        (says("{\"label\":\"bad\",\"scores\":{\"good\":0.9,\"bad\":0.1}}"), "chose `bad` but scored `good` higher"),
        (says("{\"label\":\"fine\",\"scores\":{\"good\":1.0,\"bad\":0}}"), "chose `fine` but scored `good` higher"),
        (says("{\"label\":\"good\",\"scores\":{\"good\":1.0}}"), "the label `bad` no score"),
        (says("{\"label\":\"good\",\"scores\":{\"good\":1.0,\"bad\":0,\"odd\":0}}"), "the label `odd`"),
        (choice(json!({ "content": "{" }), "length").to_string(), "cut off"),
        (choice(json!({ "content": null }), "content_filter").to_string(), "content filter"),
        (choice(json!({ "content": null, "refusal": "I can't" }), "stop").to_string(), "refused to answer: I can't"),
        (choice(json!({ "content": null }), "stop").to_string(), "no `message.content`"),
        ("{\"choices\":[]}".into(), "no `choices`"),
    ];
    for (body, expected) in cases {
        let message = failure(&body, Protocol::Openai).await;
        assert!(message.contains(expected), "{body}: {message}");
    }
}
