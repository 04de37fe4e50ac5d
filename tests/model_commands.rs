//! `millstream models`: what the commands print, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Json;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::{Value, json};

use crate::support::{Place, http, json_lines};

const LINEAR: &str = "builtin:headline-sentiment-linear";

const PIPELINE: &str = "
pipeline: two
sources: { wire: { type: http, schema: { id: string, headline: string }, key: [id] } }
models:
  tone: { task: text-classification, source: \"builtin:headline-sentiment-linear\" }
  far: { task: text-classification, source: \"http://user:s3cret@127.0.0.1:1/x\", labels: [a, b] }
";

/// Four headlines with labels, of which the classifier gets all right but the last.
const LABELLED: &str = "no,text,label
1,\"Profits soar, shares jump at Acme\",positive
2,Shares plunge as bank warns of heavy losses,negative
3,Company to hold annual general meeting on Monday,neutral
4,Profits soar at Acme after record quarter,negative
";

#[test]
fn eval_prints_the_numbers_for_any_labelled_csv() {
    let place = Place::new("");
    place.write("rows.csv", LABELLED);
    let call = "models eval builtin:headline-sentiment --input rows.csv --text text --label label --format json";
    let report: Value = serde_json::from_str(&place.stdout(&call.split(' ').collect::<Vec<_>>())).unwrap();
    assert_eq!((&report["n"], &report["failed"], &report["accuracy"]), (&json!(4), &json!(0), &json!(0.75)));
    let by_hand = (2.0 / 3.0 + 1.0 + 2.0 / 3.0) / 3.0;
    assert!((report["macro_f1"].as_f64().unwrap() - by_hand).abs() < 1e-9, "{report}");
    let negative = &report["per_class"][0];
    assert_eq!((&negative["label"], &negative["support"]), (&json!("negative"), &json!(2)));
    assert_eq!((&negative["precision"], &negative["recall"]), (&json!(1.0), &json!(0.5)));
    assert_eq!(report["confusion"], json!([[1, 0, 1], [0, 1, 0], [0, 0, 1]]), "rows are the truth");
    assert!(report["seconds"].is_f64() && report["digest"].as_str().is_some_and(|d| d.len() == 16));

    let table = place.stdout(&["models", "eval", LINEAR, "--input", "rows.csv"]);
    assert!(table.contains("accuracy 0.7500") && table.contains("negative"), "{table}");
    let csv = place.stdout(&["models", "eval", LINEAR, "--input", "rows.csv", "--format", "csv"]);
    assert!(csv.starts_with("metric,label,predicted,value\nn,,,4\n"), "{csv}");
    assert!(csv.contains("\nrecall,negative,,0.5\n") && csv.contains("\nconfusion,negative,positive,1\n"), "{csv}");
}

#[test]
fn eval_takes_other_columns_and_other_names_for_labels() {
    let place = Place::new(PIPELINE);
    let other = LABELLED.replace("text,label", "headline,mood").replace(",positive", ",Bullish");
    place.write("rows.csv", other.replace(",negative", ",Bearish"));
    let args = ["models", "eval", "tone", "--pipeline", "pipeline.yaml", "--input", "rows.csv"];
    let with = |more: &[&'static str]| [&args[..], more].concat();
    let columns = ["--text", "headline", "--label", "mood", "--format", "json"];
    let maps = ["--map", "Bullish=positive", "--map", "Bearish=negative"];
    let report: Value = serde_json::from_str(&place.stdout(&with(&[&columns[..], &maps].concat()))).unwrap();
    assert_eq!((&report["model"], &report["accuracy"]), (&json!("tone"), &json!(0.75)));

    let said = place.fails(1, &with(&columns));
    for part in ["rows.csv", "row 1", "`Bullish`", "negative, neutral, positive"] {
        assert!(said.contains(part), "it does not say {part}: {said}");
    }
    let said = place.fails(2, &with(&["--text", "title"]));
    assert!(said.contains("`title`") && said.contains("no, headline, mood"), "{said}");
    let said = place.fails(2, &with(&["--map", "Bullish=great"]));
    assert!(said.contains("`great`") && said.contains("neutral"), "{said}");
    place.fails(2, &with(&["--map", "Bullish"]));
    place.fails(1, &["models", "eval", LINEAR, "--input", "missing.csv"]);
    place.write("empty.csv", "text,label\n");
    place.fails(1, &["models", "eval", LINEAR, "--input", "empty.csv"]);
}

#[test]
fn list_names_built_ins_and_the_models_of_a_pipeline_without_their_secrets() {
    let place = Place::new(PIPELINE);
    let built_in = json_lines(&place.stdout(&["models", "list", "--format", "jsonl"]));
    let sources: Vec<_> = built_in.iter().map(|model| model["source"].as_str().unwrap()).collect();
    assert!(sources.contains(&"builtin:headline-sentiment") && sources.contains(&LINEAR), "{sources:?}");
    for model in &built_in {
        assert_eq!((&model["task"], &model["labels"][0]), (&json!("text-classification"), &json!("negative")));
        assert!(model["bytes"].as_u64() > Some(100_000) && model["digest"].as_str().is_some_and(|d| d.len() == 16));
    }
    let csv = place.stdout(&["models", "list", "pipeline.yaml", "--format", "csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], "name,source,task,labels,dimensions,digest,bytes,reads");
    assert!(
        csv.contains("tone,builtin:headline-sentiment-linear,text-classification,\"negative, neutral, positive\""),
        "{csv}"
    );
    assert!(csv.contains("far,") && !csv.contains("s3cret"), "{csv}");
    let table = place.stdout(&["models", "list"]);
    assert!(table.contains("builtin:headline-sentiment-linear"), "{table}");
    place.fails(2, &["models", "list", "missing.yaml"]);
    place.fails(1, &["models", "list", "--url", "http://127.0.0.1:1"]);
}

#[test]
fn info_says_what_a_model_is() {
    let place = Place::new(PIPELINE);
    let info: Value = serde_json::from_str(&place.stdout(&["models", "info", LINEAR, "--format", "json"])).unwrap();
    assert_eq!((&info["source"], &info["task"]), (&json!(LINEAR), &json!("text-classification")));
    assert_eq!(info["labels"], json!(["negative", "neutral", "positive"]));
    assert!(info["files"][0]["bytes"].as_u64() > Some(100_000), "{info}");
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/testdata/transformers/minilm-embedding");
    let args = ["models", "info", folder, "--precision", "f32", "--max-length", "16", "--format", "json"];
    let info: Value = serde_json::from_str(&place.stdout(&args)).unwrap();
    assert_eq!((&info["task"], &info["max_length"]), (&json!("embedding"), &json!(16)));
    assert_eq!((&info["precision"], &info["labels"]), (&json!("f32"), &json!([])));
    assert!(info["dimensions"].is_u64(), "{info}");
    let files: Vec<&str> = info["files"].as_array().unwrap().iter().map(|f| f["file"].as_str().unwrap()).collect();
    assert!(files.contains(&"config.json") && files.contains(&"1_Pooling/config.json"), "{files:?}");
    let said = place.fails(2, &["models", "info", LINEAR, "--precision", "int8"]);
    assert!(said.contains("`precision`"), "{said}");
    let table = place.stdout(&["models", "info", "far", "--pipeline", "pipeline.yaml"]);
    assert!(table.contains("a, b") && !table.contains("s3cret"), "{table}");
    let said = place.fails(2, &["models", "info", "builtin:nothing"]);
    assert!(said.contains("builtin:headline-sentiment"), "{said}");
}

#[test]
fn bench_measures_every_size_by_itself_and_through_the_queue() {
    let place = Place::new(PIPELINE);
    place.write("rows.csv", LABELLED);
    let args = ["models", "bench", LINEAR, "--input", "rows.csv", "--batch", "1,2", "--seconds", "0.01"];
    let output = place.output(&[&args[..], &["--format", "json"]].concat());
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["texts"], 4);
    let batches = report["batches"].as_array().unwrap();
    assert_eq!(batches.iter().map(|b| b["batch"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for batch in batches {
        assert!(batch["sequences_per_second"].as_f64() > Some(0.0), "{batch}");
        assert!(batch["queue_sequences_per_second"].as_f64() > Some(0.0), "{batch}");
    }
    for latency in ["latency_ms", "queue_latency_ms"] {
        assert!(report[latency]["p50"].as_f64() <= report[latency]["p99"].as_f64(), "{report}");
    }
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("measuring") && !said.contains('\r'), "without a terminal, progress is lines: {said}");
    let table = place.stdout(&args);
    assert!(table.contains("through the queue"), "{table}");
    place.fails(2, &["models", "bench", LINEAR, "--batch", "0"]);
    let said = place.fails(1, &["models", "bench", "far", "--pipeline", "pipeline.yaml", "--seconds", "0.01"]);
    // Before it stand the file's own lines, with what nothing uses.
    let error = said.lines().find(|line| line.starts_with("millstream: ")).unwrap();
    assert!(error.contains("127.0.0.1:1") && !error.contains("s3cret"), "{error}");
}

/// Two models that read columns: `fraud` names its own, `spend` takes three side by side.
fn tabular() -> Place {
    let place = Place::new(
        "
pipeline: cards
sources: { cards: { type: http, schema: { id: string, amount: float, hour: int, age: int, country: string }, key: [id] } }
models:
  fraud: { task: tabular-classification, source: ./fraud.onnx }
  spend: { task: tabular-regression, source: ./spend.onnx, inputs: { input: [amount, hour, account_days] } }
transforms:
  expected: { from: cards, predict: { model: spend, input: { amount: amount, hour: hour, account_days: age }, output: spend } }
  scored: { from: expected, predict: { model: fraud, input: [country, amount, hour], output: fraud } }
tables:
  scores: { from: scored, key: [id] }
",
    );
    for file in ["fraud.onnx", "spend.onnx"] {
        place.write(
            file,
            std::fs::read(format!("{}/../../tests/cases/tabular/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap(),
        );
    }
    place
}

#[test]
fn models_of_columns_are_listed_described_evaluated_and_measured() {
    let place = tabular();
    let json = |args: &[&str]| -> Value { serde_json::from_str(&place.stdout(args)).unwrap() };
    let info = json(&["models", "info", "./fraud.onnx", "--format", "json"]);
    assert_eq!((&info["task"], &info["labels"]), (&json!("tabular-classification"), &json!(["fraud", "ok"])));
    assert_eq!(info["files"][0]["file"], "fraud.onnx");
    let columns: Vec<&str> = info["reads"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert!(columns.contains(&"amount: float") && columns.contains(&"country: string"), "{columns:?}");
    let info = json(&["models", "info", "./spend.onnx", "--format", "json"]);
    assert_eq!((&info["task"], info["reads"].as_array().unwrap().len()), (&json!("tabular-regression"), 3));
    let list = json_lines(&place.stdout(&["models", "list", "pipeline.yaml", "--format", "jsonl"]));
    assert!(list[1]["reads"].as_str().unwrap().contains("account_days: float"), "{list:?}");

    place.write("cards.csv", "country,amount,hour,label\nDE,20,12,ok\nUS,5000,2,fraud\n");
    let report = json(&["models", "eval", "./fraud.onnx", "--input", "cards.csv", "--format", "json"]);
    assert_eq!(
        (&report["n"], &report["failed"], report["confusion"].as_array().unwrap().len()),
        (&json!(2), &json!(0), 2)
    );
    place.write("spend.csv", "a,b,c,right\n30.5,9,858,30\n100.25,6,1539,90\n137,7,474,120\n");
    let spend = ["models", "eval", "./spend.onnx", "--input", "spend.csv", "--label", "right"];
    let report = json(&[&spend[..], &["--format", "json"]].concat());
    assert!(report["mean_absolute_error"].as_f64().is_some_and(|e| e.is_finite()) && report["n"] == 3, "{report}");
    assert!(place.stdout(&spend).contains("root_mean_squared_error"));
    let said = place.fails(2, &["models", "eval", "./spend.onnx", "--input", "spend.csv"]);
    assert!(said.contains("no column `label`; the file has a, b, c, right"), "{said}");
    let named = ["models", "eval", "spend", "--pipeline", "pipeline.yaml", "--input", "spend.csv", "--label", "right"];
    let said = place.fails(2, &named);
    assert!(said.contains("no column `amount`"), "{said}");
    place.stdout(&[&named[..], &["--columns", "a,b,c"]].concat());

    for model in [&["./spend.onnx"][..], &["fraud", "--pipeline", "pipeline.yaml", "--input", "cards.csv"]] {
        let args = [&["models", "bench", "--batch", "1,8", "--seconds", "0.01", "--format", "json"], model].concat();
        let report = json(&args);
        assert!(report["batches"][0]["sequences_per_second"].as_f64() > Some(0.0), "{report}");
        assert!(report["batches"][1]["queue_sequences_per_second"].as_f64() > Some(0.0), "{report}");
    }
}

#[test]
fn models_of_columns_are_served_alone_and_by_a_running_pipeline() {
    let place = tabular();
    let post = |url: &str, path: &str, kind: &str, body: &str| {
        let headers = [("content-type", kind)];
        let answer = http::try_send(reqwest::Method::POST, &format!("{url}{path}"), &headers, body).unwrap();
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text);
        answer.text
    };
    let alone = crate::support::Server::spawn(place.command(&["serve", "./spend.onnx", "--listen", "127.0.0.1:0"]));
    let url = alone.url();
    let value = |text: &str| text.trim().parse::<f64>().unwrap();
    let csv = value(&post(&url, "/invocations", "text/csv", "30.5,9,858\n"));
    let answer: Value =
        serde_json::from_str(&post(&url, "/invocations", "application/json", r#"{"instances": [[30.5, 9, 858]]}"#))
            .unwrap();
    assert!((answer["predictions"][0]["value"].as_f64().unwrap() - csv).abs() < 1e-3, "{answer} {csv}");
    let tensor =
        json!({ "inputs": [{ "name": "input", "shape": [1, 3], "datatype": "FP32", "data": [30.5, 9, 858] }] });
    let answer: Value =
        serde_json::from_str(&post(&url, "/v2/models/spend/infer", "application/json", &tensor.to_string())).unwrap();
    assert_eq!((&answer["outputs"][0]["name"], &answer["outputs"][0]["shape"]), (&json!("value"), &json!([1])));
    assert!((answer["outputs"][0]["data"][0].as_f64().unwrap() - csv).abs() < 1e-3, "{answer}");
    let list = json_lines(&place.stdout(&["models", "list", "--url", &url, "--format", "jsonl"]));
    assert_eq!((&list[0]["task"], &list[0]["name"]), (&json!("tabular-regression"), &json!("spend")));
    drop(alone);

    let server = place.start(&[]);
    let url = server.url();
    let row =
        r#"{"instances": [{"country": "US", "amount": 5000, "hour": 2}, {"country": "DE", "amount": 20, "hour": 12}]}"#;
    let answer: Value = serde_json::from_str(&post(&url, "/invocations?model=fraud", "application/json", row)).unwrap();
    let items = answer["predictions"].as_array().unwrap();
    assert!(items.iter().all(|item| item["scores"]["fraud"].is_f64() && item["label"].is_string()), "{answer}");
    assert!(http::get(&format!("{url}/v2/models/fraud")).text.contains("\"name\":\"country\""));
    let wrong = http::post(&format!("{url}/invocations?model=fraud"), r#"{"instances": ["text"]}"#);
    assert!(wrong.status == 400 && wrong.text.contains("country"), "{wrong:?}");
    let wrong = http::post(&format!("{url}/predict?model=fraud"), r#"{"inputs": "text"}"#);
    assert!(wrong.status == 422 && wrong.text.contains("tabular-classification"), "{wrong:?}");
}

/// Stands for the hub: one model of two files, and how often one of them was asked for.
fn hub() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let list = json!({ "sha": "c0ffee", "siblings": [
        { "rfilename": "README.md" }, { "rfilename": "config.json" }, { "rfilename": "model.safetensors" },
    ] });
    let file = move |Path(name): Path<String>| async move {
        counted.fetch_add(1, Ordering::Relaxed);
        match name.as_str() {
            "config.json" => ([(header::ETAG, "\"c1\"")], "{}".to_owned()).into_response(),
            "model.safetensors" => ([(header::ETAG, "\"w1\"")], "x".repeat(100_000)).into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    };
    let app = axum::Router::new()
        .route("/api/models/org/small/revision/main", get(|| async { Json(list) }))
        .route("/org/small/resolve/c0ffee/{name}", get(file));
    (format!("http://{}", http::serve(app)), asked)
}

#[test]
fn pull_brings_a_model_into_the_cache_once_and_says_where_it_is() {
    let (url, asked) = hub();
    let place = Place::new("").with_env("HF_ENDPOINT", &url).with_env("HF_HUB_CACHE", "cache");
    let output = place.output(&["models", "pull", "hf://org/small"]);
    assert!(output.status.success(), "{output:?}");
    let folder = String::from_utf8(output.stdout).unwrap();
    let folder = place.path(folder.trim());
    assert_eq!(std::fs::read_to_string(folder.join("config.json")).unwrap(), "{}");
    assert_eq!(std::fs::metadata(folder.join("model.safetensors")).unwrap().len(), 100_000);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("model.safetensors: 100000 of 100000") && !said.contains('\r'), "lines, not a bar: {said}");
    assert_eq!(asked.load(Ordering::Relaxed), 2, "what no model needs is not downloaded");
    let again = place.stdout(&["models", "pull", "hf://org/small"]);
    assert_eq!((place.path(again.trim()), asked.load(Ordering::Relaxed)), (folder, 2));

    let said = place.fails(2, &["models", "pull", "hf://org/other"]);
    assert!(said.contains("org/other"), "{said}");
    place.fails(2, &["models", "pull", "hf://a/b/c"]);
    let said = place.fails(2, &["models", "info", "hf://org/other"]);
    assert!(said.contains("millstream models pull hf://org/other"), "it says what to do: {said}");
    // What needs the model asks the hub for it.
    let said = place.fails(2, &["models", "bench", "hf://org/other"]);
    assert!(said.contains("download hf://org/other from"), "{said}");
    let place = place.with_env("HF_HUB_OFFLINE", "1");
    let said = place.fails(2, &["models", "pull", "hf://org/small"]);
    assert!(said.contains("HF_HUB_OFFLINE"), "{said}");
    let place = place.with_env("HF_HUB_OFFLINE", "0").with_env("HF_ENDPOINT", "http://127.0.0.1:1");
    let said = place.fails(1, &["models", "pull", "hf://org/small"]);
    assert!(said.contains("can't be reached") && said.contains("HF_ENDPOINT"), "{said}");
}
