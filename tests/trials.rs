//! `millstream try`: one record, step by step, without a trace.

use std::io::Write;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Place, json_lines};

const PIPELINE: &str = "\
pipeline: trials
sources:
  wire:
    type: http
    schema: { id: int, headline: string }
    key: [id]
  sheet:
    type: file
    path: ./sheet.csv
    decode: csv
    schema: { id: int, headline: string }
models:
  sentiment: { task: text-classification, source: 'builtin:headline-sentiment-linear' }
  far: { task: text-classification, source: 'http://127.0.0.1:9/predict', labels: [good, bad], protocol: tei }
transforms:
  ratio:
    sql: SELECT id, headline, 100 / id AS ratio FROM wire
  scored:
    from: ratio
    predict: { model: sentiment, input: headline, output: mood }
  told:
    from: ratio
    predict: { model: far, input: headline, output: opinion }
  cheap:
    sql: SELECT id, headline FROM sheet WHERE id < 10
tables:
  news: { from: scored, key: [id] }
sinks:
  queue:
    type: amqp
    from: news.changes
    url: amqp://me:s3cret@127.0.0.1:9
    exchange: moods
    routing_key: \"mood.{mood.label}\"
  hook: { type: http, from: cheap, url: 'https://example.org/secret-path/{id}', method: PUT, framing: single }
  terminal: { type: stdout, from: told, encode: { format: text, template: '{id}' } }
";

fn place() -> Place {
    Place::new(PIPELINE)
}

fn fed(place: &Place, args: &[&str], text: &[u8]) -> Output {
    let mut command = place.command(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    child.wait_with_output().unwrap()
}

fn steps(printed: &str) -> Vec<Value> {
    json_lines(printed)
}

fn step<'a>(steps: &'a [Value], name: &str) -> &'a Value {
    steps.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no step {name} in {steps:?}"))
}

#[test]
fn a_record_is_shown_through_decoder_sql_model_table_and_sink() {
    let place = place();
    let record = r#"{"id": 4, "headline": "Shares soar to a record"}"#;
    let printed = place.stdout(&["try", "pipeline.yaml", "--source", "wire", "--record", record, "--format", "jsonl"]);
    let steps = steps(&printed);
    assert_eq!(step(&steps, "wire")["out"], json!([{ "id": 4, "headline": "Shares soar to a record" }]));
    assert_eq!(step(&steps, "ratio")["out"][0]["ratio"], 25);
    let mood = &step(&steps, "scored")["out"][0]["mood"]["label"];
    let change = &step(&steps, "news")["out"][0];
    assert_eq!((&change["op"], &change["key"]["id"]), (&json!("insert"), &json!(4)));
    assert_eq!(&change["new"]["mood"]["label"], mood);
    let sent = &step(&steps, "queue")["out"][0];
    assert_eq!(sent["to"], format!("exchange `moods`, routing key `mood.{}`", mood.as_str().unwrap()));
    assert_eq!(serde_json::from_str::<Value>(sent["body"].as_str().unwrap()).unwrap()["op"], "insert");
    // The model behind an endpoint was not asked, and says how to.
    assert!(step(&steps, "told")["note"].as_str().unwrap().contains("--with-endpoints"), "{printed}");
    assert_eq!(step(&steps, "terminal")["out"], json!([]));
    let text = place.stdout(&["try", "pipeline.yaml", "--source", "wire", "--record", record]);
    for wanted in [
        "record: 48 bytes",
        "source wire: 1 row",
        "transform ratio: 1 row",
        "table news: 1 change",
        "sink queue: 1 message",
    ] {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
    assert!(!text.contains("s3cret") && !place.path("millstream-data").exists() && !place.path("data").exists());
}

#[test]
fn a_failure_is_named_with_its_step_and_the_exit_code_says_it() {
    let place = place();
    let tried = |record: &str| {
        let output =
            place.output(&["try", "pipeline.yaml", "--source", "wire", "--record", record, "--format", "jsonl"]);
        assert_eq!(output.status.code(), Some(1), "{record}: {}", String::from_utf8_lossy(&output.stderr));
        steps(&String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(step(&tried(r#"{"id": 4}"#), "wire")["failures"][0]["kind"], "missing_field");
    let zero = tried(r#"{"id": 0, "headline": "x"}"#);
    assert!(step(&zero, "ratio")["failures"][0]["message"].as_str().unwrap().contains("zero"), "{zero:?}");
    assert_eq!(step(&zero, "news")["out"], json!([]));
    assert_eq!(step(&tried("{\"id\": "), "wire")["failures"][0]["kind"], "malformed");
}

#[test]
fn a_record_comes_from_a_file_or_standard_input_and_a_pipeline_from_either() {
    let place = place();
    place.write("sheet-part.csv", "id,headline\n7,seven\n70,seventy\n");
    let args = ["try", "pipeline.yaml", "sheet-part.csv", "--source", "sheet", "--format", "json"];
    let from_file: Value = serde_json::from_str(&place.stdout(&args)).unwrap();
    let steps = from_file.as_array().unwrap();
    assert_eq!(step(steps, "sheet")["out"].as_array().unwrap().len(), 2);
    assert_eq!(step(steps, "cheap")["out"], json!([{ "id": 7, "headline": "seven" }]));
    assert_eq!(step(steps, "hook")["out"][0]["to"], "PUT https://example.org/***7");
    for record in [&["-"][..], &[]] {
        let mut args = vec!["try", "pipeline.yaml"];
        args.extend(record);
        args.extend(["--source", "sheet", "--format", "json"]);
        let output = fed(&place, &args, b"id,headline\n7,seven\n70,seventy\n");
        assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), from_file);
    }
    let piped = ["try", "-", "sheet-part.csv", "--source", "sheet", "--format", "json"];
    assert_eq!(serde_json::from_slice::<Value>(&fed(&place, &piped, PIPELINE.as_bytes()).stdout).unwrap(), from_file);
    let both = fed(&place, &["try", "-", "-", "--source", "sheet"], PIPELINE.as_bytes());
    assert!(String::from_utf8_lossy(&both.stderr).contains("standard input is the pipeline file already"));
}

#[test]
fn what_is_not_clear_is_asked_for() {
    let place = place();
    let said = place.fails(2, &["try", "pipeline.yaml", "--record", "{}"]);
    assert!(said.contains("--source wire or --source sheet"), "{said}");
    let said = place.fails(2, &["try", "pipeline.yaml", "--record", "{}", "--source", "wirr"]);
    assert!(said.contains("did you mean `wire`?"), "{said}");
    let said = place.fails(2, &["try", "pipeline.yaml", "--record", " ", "--source", "wire"]);
    assert!(said.contains("there is no record"), "{said}");
    let said = place.fails(2, &["try", "pipeline.yaml", "none.json", "--source", "wire"]);
    assert!(said.contains("none.json"), "{said}");
}

#[test]
fn a_dead_letter_is_tried_with_mended_rules() {
    let yaml = "\
pipeline: letters
sources:
  wire: { type: file, path: ./wire.csv, decode: csv, schema: { id: int, n: int } }
transforms:
  ratio: { sql: 'SELECT id, 100 / n AS ratio FROM wire' }
tables:
  ratios: { from: ratio, key: [id] }
";
    let place = Place::new(yaml);
    place.write("wire.csv", "id,n\n1,0\n2,x\n3,5\n");
    place.run();
    let letters = place.dead_letters();
    let id = |stage: &str| letters.iter().find(|l| l["stage"] == stage).unwrap()["id"].as_str().unwrap().to_owned();
    let tried = |id: &str, code: i32, more: &[&str]| {
        let mut args = vec!["try", "pipeline.yaml", "--from", "dlq", id, "--data-dir", "data", "--format", "jsonl"];
        args.extend(more);
        let output = place.output(&args);
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        steps(&String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(step(&tried(&id("decode"), 1, &[]), "wire")["failures"][0]["kind"], "type_mismatch");
    assert!(step(&tried(&id("transform"), 1, &[]), "ratio")["failures"][0]["message"].is_string());
    let mended = ["--set", "transforms.ratio.sql=SELECT id, 100 / nullif(n, 0) AS ratio FROM wire"];
    let steps = tried(&id("transform"), 0, &mended);
    assert_eq!(step(&steps, "ratio")["out"], json!([{ "id": 1, "ratio": null }]));
    assert_eq!(step(&steps, "ratios")["out"][0]["op"], "insert");
    // Nothing of it has happened.
    assert_eq!(place.dead_letters(), letters);
    assert_eq!(place.query("SELECT count(*) AS n FROM ratios")[0]["n"], 1);
    let said = place.fails(2, &["try", "pipeline.yaml", "--from", "dlq", "wire/99", "--data-dir", "data"]);
    assert!(said.contains("no dead letter `wire/99`"), "{said}");
}
