//! Bodies of `/invocations`, byte for byte.

use millstream_core::{Failure, FailureKind};

use super::*;

const CSV: Format = Format::Csv { has_header: false };

fn texts(format: Format, body: &str) -> Vec<String> {
    decode(format, body.as_bytes(), &Reads::Text).unwrap().0.iter().map(|text| text.as_text().unwrap().into()).collect()
}

fn refused(format: Format, body: &str) -> String {
    let refusal = decode(format, body.as_bytes(), &Reads::Text).unwrap_err();
    assert_eq!(refusal.reason, Reason::Input, "{refusal:?}");
    refusal.message
}

#[test]
fn texts_come_in_every_shape_that_the_contract_has() {
    let mixed = r#"{"instances": ["a", {"text": "b"}, {"source": "c"}, ""]}"#;
    assert_eq!(texts(Format::Json, mixed), ["a", "b", "c", ""]);
    assert_eq!(texts(Format::Json, r#"{"inputs": "a"}"#), ["a"]);
    assert_eq!(texts(Format::Json, r#"{"inputs": ["a", "b"], "parameters": {}}"#), ["a", "b"]);
    assert_eq!(texts(Format::Json, r#"{"instances": []}"#), Vec::<String>::new());
    assert_eq!(texts(Format::JsonLines, "\"a\"\r\n\n{\"inputs\": \"b\"}\n"), ["a", "b"]);
    assert_eq!(texts(CSV, "a\n\"b, \"\"c\"\"\"\r\nü"), ["a", "b, \"c\"", "ü"]);
    assert_eq!(texts(Format::Csv { has_header: true }, "id,text\n1,a\n2,b\n"), ["a", "b"]);
    assert_eq!(texts(Format::Csv { has_header: true }, "headline\na\n"), ["a"]);
}

#[test]
fn what_is_no_text_is_named_with_its_place() {
    assert!(refused(Format::Json, "nonsense").contains("instances"));
    assert!(refused(Format::Json, r#"["a"]"#).contains("instances"));
    assert!(refused(Format::Json, r#"{"instances": "a"}"#).contains("expected"));
    assert!(refused(Format::Json, r#"{"instances": ["a"], "inputs": ["a"]}"#).contains("both"));
    assert!(refused(Format::Json, r#"{"instances": ["a", null]}"#).contains("instances 2"));
    assert!(refused(Format::Json, r#"{"inputs": [["a", "b"]]}"#).contains("inputs 1"));
    assert!(refused(Format::JsonLines, "\"a\"\nb\n").contains("line 2"));
    assert!(refused(CSV, "a\nb, c\n").contains("row 2"));
    assert!(refused(Format::Csv { has_header: true }, "a,b\n1,2\n").contains("`text`"));
    assert!(decode(CSV, b"\xff\xfe\n", &Reads::Text).is_err());
}

#[test]
fn the_answer_has_the_first_type_that_is_accepted_and_else_that_of_the_request() {
    let answer = |accept: &str| accepted_format(Some(accept), CSV);
    assert_eq!(accepted_format(None, CSV), Ok(CSV));
    assert_eq!(answer("*/*"), Ok(CSV));
    assert_eq!(answer("image/png, application/json;q=0.9"), Ok(Format::Json));
    assert_eq!(answer("application/x-ndjson"), Ok(Format::JsonLines));
    assert_eq!(answer("text/csv; header=present"), Ok(Format::Csv { has_header: true }));
    assert_eq!(answer("text/*"), Ok(CSV));
    assert_eq!(answer("application/*"), Ok(Format::Json));
    assert_eq!(answer("image/png").unwrap_err().reason, Reason::NotAcceptable);
    assert_eq!(body_format(None), Ok(Format::Json));
    assert_eq!(body_format(Some("application/json; charset=utf-8")), Ok(Format::Json));
    assert_eq!(body_format(Some("application/x-npy")).unwrap_err().reason, Reason::UnsupportedType);
}

#[test]
fn answers_are_written_in_every_type() {
    let labels: Vec<Arc<str>> = vec!["down".into(), "up".into()];
    let scored = || Ok(Prediction::Scores(vec![0.25, 0.75]));
    let failed = || Err(Failure::new(FailureKind::Model, "no"));
    let write = |format, envelope, answers: &[Answer]| {
        encode(format, envelope, &labels, answers).map(|body| String::from_utf8(body).unwrap())
    };
    let item = r#"{"label":"up","score":0.75,"scores":{"down":0.25,"up":0.75}}"#;
    let predictions = write(Format::Json, Envelope::Predictions, &[scored(), failed()]).unwrap();
    assert_eq!(predictions, format!(r#"{{"predictions":[{item},{{"error":"no"}}]}}"#));
    let list = write(Format::Json, Envelope::List, &[scored()]).unwrap();
    assert_eq!(list, r#"[[{"label":"up","score":0.75},{"label":"down","score":0.25}]]"#);
    let lines = write(Format::JsonLines, Envelope::List, &[scored(), failed()]).unwrap();
    assert_eq!(lines, format!("{item}\n{{\"error\":\"no\"}}\n"));
    let with_header = Format::Csv { has_header: true };
    let csv = write(with_header, Envelope::Predictions, &[scored()]).unwrap();
    assert_eq!(csv, "label,score,down,up\nup,0.75,0.25,0.75\n");
    let refusal = write(CSV, Envelope::Predictions, &[scored(), failed()]).unwrap_err();
    assert!(refusal.message.contains("text 2"), "{refusal:?}");
    let embedding = [Ok(Prediction::Embedding(vec![0.1, -2.0]))];
    assert_eq!(write(CSV, Envelope::Predictions, &embedding).unwrap(), "0.1,-2\n");
    assert_eq!(write(Format::Json, Envelope::List, &embedding).unwrap(), "[[0.1,-2.0]]");
    let predictions = write(Format::Json, Envelope::Predictions, &embedding).unwrap();
    assert_eq!(predictions, r#"{"predictions":[{"embedding":[0.1,-2.0]}]}"#);
}

#[test]
fn a_model_is_named_among_other_attributes() {
    assert_eq!(model_of_attributes("model=tone"), Some("tone"));
    assert_eq!(model_of_attributes("trace=1, model=tone;x=y"), Some("tone"));
    assert_eq!(model_of_attributes("remodel=tone"), None);
}

#[test]
fn rows_come_in_every_shape_that_clients_of_tabular_models_send() {
    use millstream_models::{Cell, ColumnKind};
    let column = |name: &str| Column { name: Some(name.into()), kind: ColumnKind::Float };
    let reads = Reads::Row([column("a"), column("b")].into());
    let row = |a: f64, b: f64| Input::from(vec![Cell::Float(a), Cell::Float(b)]);
    let rows = vec![row(1.0, 2.0), row(3.0, 4.0)];
    for (format, body) in [
        (Format::Json, r#"{"instances": [[1, 2], {"b": 4, "a": 3}]}"#),
        (Format::Json, r#"{"instances": [{"features": [1, 2]}, [3, 4]]}"#),
        (Format::Json, r#"{"inputs": [[1, 2], [3, 4]]}"#),
        (Format::Json, r#"{"inputs": {"data": {"b": [2, "4"], "a": [1, 3]}}}"#),
        (Format::JsonLines, "[1, 2]\n{\"a\": 3, \"b\": 4}\n"),
        (CSV, "1,2\n3,4\n"),
        (Format::Csv { has_header: true }, "b,x,a\n2,9,1\n4,9,3\n"),
    ] {
        assert_eq!(decode(format, body.as_bytes(), &reads).unwrap().0, rows, "{body}");
    }
    let refused = |body: &str| decode(Format::Json, body.as_bytes(), &reads).unwrap_err().message;
    assert!(refused(r#"{"instances": [[1]]}"#).contains("instances 1 has 1 values"));
    assert!(refused(r#"{"instances": ["text"]}"#).contains("instances 1 is no row"));
    let values = [Ok(Prediction::Value(1.5))];
    let answer = |format, envelope| String::from_utf8(encode(format, envelope, &[], &values).unwrap()).unwrap();
    assert_eq!(answer(Format::Json, Envelope::Predictions), r#"{"predictions":[{"value":1.5}]}"#);
    assert_eq!(answer(Format::Csv { has_header: true }, Envelope::Predictions), "value\n1.5\n");
}
