//! The protocol `tei`.

use super::*;

#[tokio::test]
async fn each_text_is_a_list_of_one_so_that_two_are_not_taken_for_a_pair() {
    let server = serve(|asked| {
        let texts = asked.body["inputs"].as_array().unwrap().iter().map(|input| item(&input[0]));
        (200, "", Value::from_iter(texts).to_string())
    })
    .await;
    let answers = classifier(&server.url, Protocol::Tei).predict(vec!["x".repeat(16), "x".repeat(48)]).await.unwrap();
    assert_eq!(scores(answers), [[0.75, 0.25], [0.25, 0.75]]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /predict HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.body, json!({ "inputs": [["x".repeat(16)], ["x".repeat(48)]], "truncate": true }));
}

#[tokio::test]
async fn embeddings_are_asked_for_at_their_own_address() {
    let server = serve(|_| (200, "", "[[1.0, 2.0], [3.0, 4.0]]".into())).await;
    let mut config = model(&format!("{}/base", server.url), Protocol::Tei, Task::Embedding);
    config.endpoint.extra_body = serde_json::from_value(json!({ "truncate": null, "normalize": false })).unwrap();
    let answers = config.load("vector").unwrap().predict(vec!["a", "b"]).await.unwrap();
    assert_eq!(answers, [Ok(Prediction::Embedding(vec![1.0, 2.0])), Ok(Prediction::Embedding(vec![3.0, 4.0]))]);
    let asked = server.asked.lock()[0].clone();
    assert!(asked.head.starts_with("POST /base/embed HTTP/1.1\r\n"), "{}", asked.head);
    assert_eq!(asked.raw, "{\"inputs\":[\"a\",\"b\"],\"normalize\":false}");
}

#[tokio::test]
async fn a_batch_that_the_server_finds_too_large_is_halved() {
    let server = serve(|asked| {
        let texts = asked.body["inputs"].as_array().unwrap();
        if texts.len() > 2 {
            let error = "{\"error\":\"batch size > maximum allowed batch size 2\",\"error_type\":\"Validation\"}";
            return (422, "", error.into());
        }
        (200, "", Value::from_iter(texts.iter().map(|input| item(&input[0]))).to_string())
    })
    .await;
    let texts: Vec<String> = (1..=7).map(|i| "x".repeat(i)).collect();
    let answers = classifier(&server.url, Protocol::Tei).predict(texts).await.unwrap();
    let lengths: Vec<f32> = scores(answers).iter().map(|scores| (scores[1] * 64.0).round()).collect();
    assert_eq!(lengths, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
}
