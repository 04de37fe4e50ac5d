//! The protocol `template`: requests of the user's own.

use super::*;

fn template(url: &str, request: Value, answer: &str) -> ModelConfig {
    let mut config = model(url, Protocol::Template, Task::TextClassification);
    config.endpoint.request = serde_json::from_value(request).unwrap();
    config.endpoint.answer = Some(answer.into());
    config
}

#[tokio::test]
async fn a_text_can_not_break_out_of_its_place() {
    let texts = ["\"}], \"admin\": true, {{input}} \\", "{{inputs}}", "line\nbreak\u{0}"];
    let server = serve(|_| (200, "", "{\"result\":{\"bad\":0.25,\"good\":0.75}}".into())).await;
    let request = json!({ "prompt": ["Is this good? {{input}}!", 1, true], "{{input}}": null });
    let handle = template(&format!("{}/x", server.url), request, "/result").load("tone").unwrap();
    for text in texts {
        assert_eq!(scores(handle.predict(vec![text]).await.unwrap()), [[0.25, 0.75]]);
        let asked = server.asked.lock().pop().unwrap();
        assert!(asked.head.starts_with("POST /x HTTP/1.1\r\n"), "{}", asked.head);
        assert_eq!(asked.body, json!({ "prompt": [format!("Is this good? {text}!"), 1, true], "{{input}}": null }));
    }
}

#[tokio::test]
async fn a_list_of_texts_is_one_request_and_the_answer_is_found_by_its_path() {
    let server = serve(|asked| {
        let texts = asked.body["doc"]["texts"].as_array().unwrap();
        let results = texts.iter().map(|text| json!({ "id": 1, "out": { "scores": item(text) } }));
        (200, "", json!({ "a/b": { "results": Value::from_iter(results) } }).to_string())
    })
    .await;
    let request = json!({ "doc": { "texts": "{{inputs}}" }, "version": 3 });
    let handle = template(&server.url, request, "/a~1b/results/*/out/scores").load("tone").unwrap();
    let answers = handle.predict(vec!["x".repeat(16), "x".repeat(48)]).await.unwrap();
    assert_eq!(scores(answers), [[0.75, 0.25], [0.25, 0.75]]);
    assert_eq!(server.asked.lock().len(), 1);
}

#[tokio::test]
async fn an_answer_without_the_place_is_a_failure_that_names_it() {
    let request = json!({ "texts": "{{inputs}}" });
    for (body, answer, expected) in [
        ("{\"results\":[]}", "/result", "nothing at `/result`"),
        ("{\"results\":{}}", "/results", "no list at `/results`"),
        ("{\"results\":[{\"x\":1}]}", "/results/*/out", "nothing at `/out`"),
        ("{\"results\":[]}", "/results", "fewer answers than it got inputs"),
    ] {
        let server = serve(move |_| (200, "", body.into())).await;
        let handle = template(&server.url, request.clone(), answer).load("tone").unwrap();
        let message = handle.predict(vec!["x"]).await.unwrap_err().to_string();
        assert!(message.contains(expected), "{body} {answer}: {message}");
    }
}
