//! The protocols `json`, `sagemaker` and `kserve`, and answers that make no sense.

use std::collections::BTreeMap;

use millstream_core::Secret;

use super::*;

#[tokio::test]
async fn json_scores_are_matched_by_label_and_headers_are_sent() {
    let server = serve(|asked| (200, "", Value::from(items(&asked.body["inputs"])).to_string())).await;
    let mut config = model(&format!("{}/score", server.url), Protocol::Json, Task::TextClassification);
    config.endpoint.headers = BTreeMap::from([("Authorization".into(), Secret::new("Bearer t"))]);
    let answers = config.load("tone").unwrap().predict(vec!["x".repeat(16), "x".repeat(48)]).await.unwrap();
    assert_eq!(scores(answers), [[0.75, 0.25], [0.25, 0.75]]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /score HTTP/1.1\r\n"), "{}", asked.head);
    assert!(asked.head.contains("authorization: Bearer t\r\n"), "{}", asked.head);
    assert_eq!(asked.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn sagemaker_predictions_are_read_in_all_their_forms() {
    let server = serve(|asked| {
        let texts = asked.body["instances"].as_array().unwrap();
        let good: Vec<f64> = texts.iter().map(goodness).collect();
        let predictions = json!([
            item(&texts[0]),
            { "label": "good", "score": good[1], "scores": { "good": good[1], "bad": 1.0 - good[1] } },
            [1.0 - good[2], good[2]],
            { "good": good[3], "bad": 1.0 - good[3] },
            { "error": "too long" },
        ]);
        (200, "", json!({ "predictions": predictions }).to_string())
    })
    .await;
    let texts: Vec<String> = (1..=5).map(|i| "x".repeat(i * 8)).collect();
    let mut answers = classifier(&server.url, Protocol::Sagemaker).predict(texts).await.unwrap();
    assert!(answers.pop().unwrap().unwrap_err().message.contains("too long"));
    assert_eq!(scores(answers), [[0.875, 0.125], [0.75, 0.25], [0.625, 0.375], [0.5, 0.5]]);
    assert!(server.asked.lock()[0].head.starts_with("POST /invocations HTTP/1.1\r\n"));
}

#[tokio::test]
async fn kserve_tensors_of_numbers_and_of_texts_are_read() {
    let server = serve(|asked| {
        let input = &asked.body["inputs"][0];
        assert_eq!((&input["datatype"], &input["shape"]), (&json!("BYTES"), &json!([2])));
        let good: Vec<f64> = input["data"].as_array().unwrap().iter().map(goodness).collect();
        let flat = json!([1.0 - good[0], good[0], 1.0 - good[1], good[1]]);
        let nested = json!([[1.0 - good[0], good[0]], [1.0 - good[1], good[1]]]);
        let texts = json!([item(&input["data"][0]).to_string(), item(&input["data"][1]).to_string()]);
        let (datatype, shape, data) = match good[0] {
            0.125 => ("FP32", json!([2, 2]), flat),
            0.25 => ("FP32", json!([2, 2]), nested),
            _ => ("BYTES", json!([2]), texts),
        };
        let tensor = json!({ "name": "output-0", "datatype": datatype, "shape": shape, "data": data });
        (200, "", json!({ "model_name": "tone", "outputs": [tensor] }).to_string())
    })
    .await;
    let handle = classifier(&server.url, Protocol::Kserve);
    for length in [8, 16, 32] {
        let answers = handle.predict(vec!["x".repeat(length), "x".repeat(48)]).await.unwrap();
        let good = length as f32 / 64.0;
        assert_eq!(scores(answers), [[1.0 - good, good], [0.25, 0.75]]);
    }
    assert!(server.asked.lock()[0].head.starts_with("POST /v2/models/tone/infer HTTP/1.1\r\n"));
}

#[tokio::test]
async fn embeddings_are_read_from_all_three_shapes() {
    let answers = [
        (Protocol::Json, json!([[1.0, 2.0]])),
        (Protocol::Sagemaker, json!({ "predictions": [{ "embedding": [1, 2] }] })),
        (Protocol::Kserve, json!({ "outputs": [{ "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0] }] })),
    ];
    for (protocol, answer) in answers {
        let server = serve(move |_| (200, "", answer.to_string())).await;
        let handle = model(&server.url, protocol, Task::Embedding).load("vector").unwrap();
        assert_eq!(handle.predict(vec!["x"]).await.unwrap(), [Ok(Prediction::Embedding(vec![1.0, 2.0]))]);
    }
    let server = serve(|_| (200, "", "[[[1.0], [2.0]]]".into())).await;
    let handle = model(&server.url, Protocol::Json, Task::Embedding).load("vector").unwrap();
    assert!(handle.predict(vec!["x"]).await.unwrap()[0].as_ref().unwrap_err().message.contains("per token"));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_a_failure_that_says_why() {
    use Protocol::{Json, Kserve, Sagemaker};
    let cases = [
        (Json, "<html>", "no JSON"),
        (Json, "", "no JSON"),
        (Json, "[[{\"label\":\"bad\",\"score\":NaN}]]", "no JSON"),
        (Json, "{\"error\":\"loading\"}", "loading"),
        (Json, "{}", "no list"),
        (Json, "[]", "fewer answers than it got inputs"),
        (Json, "[[],[]]", "more answers than it got inputs"),
        (Json, "[[{\"label\":\"bad\",\"score\":null},{\"label\":\"good\",\"score\":1}]]", "no scores"),
        (Json, "[[{\"label\":\"LABEL_0\",\"score\":1}]]", "`LABEL_0`; `labels` are bad, good"),
        (Json, "[[{\"label\":\"bad\",\"score\":1}]]", "the label `good` no score"),
        (Json, "[[{\"label\":\"bad\",\"score\":0.5},{\"label\":\"bad\",\"score\":0.5}]]", "two scores"),
        (Json, "[[{\"label\":\"bad\",\"score\":-3.1},{\"label\":\"good\",\"score\":4.1}]]", "logits"),
        (Json, "[[0.9, 0.9]]", "do not sum to 1"),
        (Json, "[[0.2, 0.3, 0.5]]", "more scores than there are labels"),
        (Json, "[\"good\"]", "no scores"),
        (Sagemaker, "[]", "predictions"),
        (Sagemaker, "{\"predictions\":[]}", "fewer answers than it got inputs"),
        (Kserve, "{\"outputs\":[]}", "no `outputs`"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[1,2],\"data\":[1]}]}", "than its shape says"),
        (
            Kserve,
            "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[2,1],\"data\":[0,1]}]}",
            "more answers than it got inputs",
        ),
        (Kserve, "{\"outputs\":[{\"datatype\":\"INT64\",\"shape\":[1],\"data\":[1]}]}", "INT64"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"FP32\",\"shape\":[18446744073709551615,9],\"data\":[1]}]}", "shape"),
        (Kserve, "{\"outputs\":[{\"datatype\":\"BYTES\",\"shape\":[1],\"data\":[\"good\"]}]}", "no JSON text"),
    ];
    for (protocol, body, expected) in cases {
        let message = failure(body, protocol).await;
        assert!(message.contains(expected), "{body}: {message}");
    }
}

#[tokio::test]
async fn the_tensors_of_triton_have_their_own_names_and_shape() {
    let server = serve(|asked| {
        let good = goodness(&asked.body["inputs"][0]["data"][0]);
        let other = json!({ "name": "LOGITS", "datatype": "FP32", "shape": [1, 2], "data": [-3.0, 3.0] });
        let wanted = json!({ "name": "SCORES", "datatype": "FP32", "shape": [1, 2], "data": [1.0 - good, good] });
        (200, "", json!({ "outputs": [other, wanted] }).to_string())
    })
    .await;
    let mut config = model(&server.url, Protocol::Kserve, Task::TextClassification);
    config.endpoint.tensors =
        serde_json::from_value(json!({ "input": "TEXT", "output": "SCORES", "rank": 2 })).unwrap();
    let handle = config.load("tone").unwrap();
    assert_eq!(scores(handle.predict(vec!["x".repeat(16)]).await.unwrap()), [[0.75, 0.25]]);
    let input = json!({ "name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["x".repeat(16)] });
    assert_eq!(server.asked.lock()[0].body, json!({ "inputs": [input], "outputs": [{ "name": "SCORES" }] }));

    config.endpoint.tensors = serde_json::from_value(json!({ "output": "OTHER" })).unwrap();
    let error = config.load("tone").unwrap().predict(vec!["x"]).await.unwrap_err();
    assert!(error.to_string().contains("no output tensor `OTHER`"), "{error}");
}
