//! Requests and answers of the Open Inference Protocol, byte for byte.

use super::*;

fn info(task: Task) -> ModelInfo {
    let labels = if task == Task::Embedding { vec![] } else { vec!["down".into(), "up".into()] };
    let dimensions = (task == Task::Embedding).then_some(2);
    ModelInfo {
        name: "m".into(),
        digest: "d".into(),
        task,
        labels,
        multi_label: false,
        dimensions,
        reads: millstream_models::Reads::Text,
    }
}

fn refused(body: Value) -> String {
    let refusal = decode(body.to_string().as_bytes(), None, &Reads::Text).unwrap_err();
    assert_eq!(refusal.reason, Reason::Input);
    refusal.message
}

fn answer(request: &Infer, task: Task, predictions: &[Prediction]) -> Answered {
    let info = info(task);
    encode(request, &outputs(request, &info).unwrap(), &info, predictions).unwrap()
}

#[test]
fn json_in_gives_scores_and_labels_out() {
    for (shape, data) in [(json!([2]), json!(["a", "b"])), (json!([2, 1]), json!([["a"], ["b"]]))] {
        let body = json!({ "id": "7", "inputs": [{ "name": "x", "shape": shape, "datatype": "BYTES", "data": data }] });
        let request = decode(body.to_string().as_bytes(), None, &Reads::Text).unwrap();
        assert_eq!(request.inputs.iter().filter_map(Input::as_text).collect::<Vec<_>>(), ["a", "b"]);
        let scores = [Prediction::Scores(vec![0.25, 0.75]), Prediction::Scores(vec![0.9, 0.1])];
        let answer = answer(&request, Task::TextClassification, &scores);
        assert_eq!(answer.header_length, None);
        let text = String::from_utf8(answer.body).unwrap();
        let expected = concat!(
            r#"{"model_name":"m","model_version":"d","id":"7","outputs":["#,
            r#"{"name":"scores","datatype":"FP32","shape":[2,2],"data":[0.25,0.75,0.9,0.1]},"#,
            r#"{"name":"labels","datatype":"BYTES","shape":[2],"data":["up","down"]}]}"#
        );
        assert_eq!(text, expected);
    }
}

#[test]
fn binary_tensors_go_both_ways() {
    let mut body = json!({
        "inputs": [{ "name": "x", "shape": [2], "datatype": "BYTES", "parameters": { "binary_data_size": 11 } }],
        "outputs": [{ "name": "labels", "parameters": { "binary_data": true } }, { "name": "scores" }],
    })
    .to_string()
    .into_bytes();
    let header_length = body.len();
    body.extend(b"\x03\0\0\0a\xc3\xbc\0\0\0\0");
    let request = decode(&body, Some(header_length), &Reads::Text).unwrap();
    assert_eq!(request.inputs.iter().filter_map(Input::as_text).collect::<Vec<_>>(), ["aü", ""]);
    let scores = [Prediction::Scores(vec![0.25, 0.75]), Prediction::Scores(vec![0.9, 0.1])];
    let answer = answer(&request, Task::TextClassification, &scores);
    let (head, binary) = answer.body.split_at(answer.header_length.unwrap());
    let head: Value = serde_json::from_slice(head).unwrap();
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], 14);
    assert_eq!(head["outputs"][1]["shape"], json!([2, 2]));
    assert_eq!(binary, b"\x02\0\0\0up\x04\0\0\0down");
    for (cut, length) in [(body.len() - 1, header_length), (body.len(), body.len() + 1)] {
        assert!(decode(&body[..cut], Some(length), &Reads::Text).is_err());
    }
}

#[test]
fn numbers_of_an_embedding_are_little_endian_floats() {
    let body = json!({
        "parameters": { "binary_data_output": true },
        "inputs": [{ "name": "x", "shape": [1], "datatype": "BYTES", "data": ["a"] }],
    });
    let request = decode(body.to_string().as_bytes(), None, &Reads::Text).unwrap();
    let answer = answer(&request, Task::Embedding, &[Prediction::Embedding(vec![1.0, -2.0])]);
    assert_eq!(&answer.body[answer.header_length.unwrap()..], b"\0\0\x80\x3f\0\0\0\xc0");
}

#[test]
fn what_the_model_does_not_take_is_said() {
    let input = |datatype: &str, shape: Value, data: Value| json!({ "inputs": [{ "name": "x", "shape": shape, "datatype": datatype, "data": data }] });
    assert!(refused(json!({ "inputs": [] })).contains("0 inputs"));
    assert!(refused(json!({})).contains("inputs"));
    assert!(refused(input("FP32", json!([1]), json!([1.0]))).contains("BYTES"));
    assert!(refused(input("BYTES", json!([2]), json!(["a"]))).contains("1 elements"));
    assert!(refused(input("BYTES", json!([1, 2]), json!(["a", "b"]))).contains("shape"));
    assert!(refused(input("BYTES", json!([0]), json!([]))).contains("0 elements"));
    assert!(refused(input("BYTES", json!([2]), json!(["a", 1]))).contains("element 2"));
    assert!(refused(json!({ "inputs": [{ "name": "x", "shape": [1], "datatype": "BYTES" }] })).contains("`data`"));
    let mut request = input("BYTES", json!([1]), json!(["a"]));
    request["outputs"] = json!([{ "name": "logits" }]);
    let request = decode(request.to_string().as_bytes(), None, &Reads::Text).unwrap();
    let refusal = outputs(&request, &info(Task::TextClassification)).unwrap_err();
    assert!(refusal.message.contains("`logits`") && refusal.message.contains("scores, labels"), "{refusal:?}");
}
