//! The command line: what each command prints, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Json;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::{Value, json};

use crate::support::process::eventually;
use crate::support::{Place, http, json_lines};

const NUMBERS: &str = "
pipeline: numbers
sources:
  numbers:
    type: file
    path: ./in.jsonl
    schema: { id: string, n: int }
    key: [id]
    partitions: 2
transforms:
  doubled: { sql: \"SELECT id, n * 2 AS n FROM numbers\" }
tables:
  doubles: { from: doubled, key: [id] }
";

/// Ten records: `r0` to `r9`.
fn ten() -> String {
    (0..10).map(|n| format!("{}\n", json!({ "id": format!("r{n}"), "n": n }))).collect()
}

fn numbers() -> Place {
    let place = Place::new(NUMBERS);
    place.write("in.jsonl", ten());
    place
}

fn of(rows: &[Value], field: &str) -> Vec<i64> {
    let mut numbers: Vec<_> = rows.iter().map(|row| row[field].as_i64().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn validate_names_every_mistake_with_its_place_and_ends_with_two() {
    let place = numbers();
    let said = place.stdout(&["validate", "pipeline.yaml"]);
    assert!(said.contains("ok (1 source, 1 transform, 1 table)"), "{said}");

    let wrong = NUMBERS
        .replace("sources:", "settings: { max_backlg: 1MiB }\nsources:")
        .replace("from: doubled", "from: doubledd")
        .replace("n * 2 AS n", "m * 2 AS n");
    place.write("pipeline.yaml", wrong);
    for args in [&["validate", "pipeline.yaml"][..], &["run", "pipeline.yaml", "--data-dir", "data"]] {
        let said = place.fails(2, args);
        for part in ["pipeline.yaml:3:13", "`max_backlg`", "max_backlog", "doubledd", "doubled", "`m`"] {
            assert!(said.contains(part), "{args:?} does not say {part}:\n{said}");
        }
    }
    assert!(!place.path("data").exists(), "a wrong pipeline file leaves no trace");
    let report = place.output(&["validate", "--format", "json", "pipeline.yaml"]);
    assert_eq!(report.status.code(), Some(2));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert!(report["diagnostics"].as_array().unwrap().len() >= 3, "{report}");
}

#[test]
fn wrong_usage_ends_with_two_and_a_failed_run_with_one() {
    let place = numbers();
    place.fails(2, &["walk"]);
    place.fails(2, &["run"]);
    place.fails(2, &["run", "missing.yaml"]);
    place.fails(2, &["query", "SELECT 1", "--data-dir", "nowhere"]);
    place.run();
    let said = place.fails(2, &["query", "SELECT nn FROM doubles", "--data-dir", "data"]);
    assert!(said.contains("nn"), "{said}");
    let said = place.fails(2, &["tap", "doubless.changes", "--data-dir", "data"]);
    assert!(said.contains("doubles.changes"), "it names what there is: {said}");
    place.fails(1, &["query", "SELECT 1", "--url", "http://127.0.0.1:1"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = place.fails(1, &["run", "pipeline.yaml", "--data-dir", "data", "--listen", &address]);
    assert!(said.contains("--listen"), "{said}");
}

#[test]
fn on_error_fail_stops_at_the_bad_record_and_goes_on_once_it_is_right() {
    let place = Place::new(&NUMBERS.replace("key: [id]\n    part", "key: [id]\n    on_error: fail\n    part"));
    place.write("in.jsonl", "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":\"x\"}\n{\"id\":\"c\",\"n\":3}\n");
    let said =
        place.fails(1, &["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle"]);
    assert!(said.contains("`x` is no int") && said.contains("in.jsonl") && said.contains("on_error: fail"), "{said}");
    place.write("pipeline.yaml", NUMBERS);
    place.run();
    assert_eq!(of(&place.query("SELECT n FROM doubles"), "n"), [2, 6]);
    assert_eq!(place.dead_letters().len(), 1);
}

#[test]
fn query_prints_tables_json_and_csv_at_rest_and_from_a_server() {
    let place = Place::new(&NUMBERS.replace("type: file\n    path: ./in.jsonl", "type: http"));
    let server = place.start(&[]);
    let url = server.url();
    let records = json!([{ "id": "a,\"b\"", "n": 1 }, { "id": "ü", "n": 2 }]);
    assert_eq!(http::post(&format!("{url}/streams/numbers/records"), records.to_string()).status, 200);
    let sql = "SELECT id, n, [n, n + 1] AS list FROM doubles ORDER BY n";
    let running = |format: &str| place.stdout(&["query", sql, "--url", &url, "--format", format]);
    eventually("both rows", || (running("jsonl").lines().count() == 2).then_some(()));
    let answers = ["table", "json", "jsonl", "csv"].map(running);
    drop(server);
    assert_eq!(answers[0].lines().last(), Some("2 rows"), "{}", answers[0]);
    assert_eq!(answers[2], "{\"id\":\"a,\\\"b\\\"\",\"n\":2,\"list\":[2,3]}\n{\"id\":\"ü\",\"n\":4,\"list\":[4,5]}\n");
    let document: Vec<serde_json::Value> = serde_json::from_str(&answers[1]).unwrap();
    assert_eq!(document, crate::support::json_lines(&answers[2]));
    assert_eq!(answers[3], "id,n,list\n\"a,\"\"b\"\"\",2,\"[2,3]\"\nü,4,\"[4,5]\"\n");
    let at_rest = ["table", "json", "jsonl", "csv"]
        .map(|format| place.stdout(&["query", sql, "--data-dir", "data", "--format", format]));
    assert_eq!(at_rest, answers);
    // Streams too, dead process or not.
    assert_eq!(of(&place.query("SELECT n FROM numbers"), "n"), [1, 2]);
    let changes = place.query("SELECT op, new.n AS n FROM doubles.changes WHERE op = 'insert'");
    assert_eq!(of(&changes, "n"), [2, 4]);
}

#[test]
fn tap_begins_where_it_is_told_to_and_ends_at_its_limit() {
    let place = numbers();
    place.run();
    let all = place.tap("numbers");
    assert_eq!(all.len(), 10);
    let limited = json_lines(&place.stdout(&["tap", "numbers", "--limit", "3", "--data-dir", "data"]));
    assert_eq!(limited, all[..3]);
    let later = json_lines(&place.stdout(&["tap", "numbers", "--from", "2", "--data-dir", "data"]));
    let expected: Vec<_> = all.iter().filter(|line| line["offset"].as_u64() >= Some(2)).cloned().collect();
    assert_eq!(later, expected);
    assert_eq!(place.stdout(&["tap", "numbers", "--from", "latest", "--data-dir", "data"]), "");

    let server = place.start(&[]);
    let url = server.url();
    let served = json_lines(&place.stdout(&["tap", "numbers", "--from", "earliest", "--no-follow", "--url", &url]));
    assert_eq!(served, all);
    let served =
        json_lines(&place.stdout(&["tap", "doubles.changes", "--from", "earliest", "--limit", "4", "--url", &url]));
    assert_eq!(served.len(), 4, "a tap with a limit ends although the stream goes on");
    assert_eq!(
        place.stdout(&["tap", "numbers", "--no-follow", "--url", &url]),
        "",
        "from now on, unless told otherwise"
    );
}

#[test]
fn replay_runs_a_table_again_or_fills_another_from_an_offset_or_a_moment() {
    let place = numbers();
    place.run();
    // A better rule, for what has been read already.
    place.write("pipeline.yaml", NUMBERS.replace("n * 2", "n * 3"));
    let into = |from: &str, table: &str| {
        place.stdout(&[
            "replay",
            "pipeline.yaml",
            "--data-dir",
            "data",
            "--from",
            from,
            "--table",
            "doubles",
            "--into",
            table,
        ])
    };
    let said = into("earliest", "triples");
    assert!(said.contains("query it"), "{said}");
    assert_eq!(of(&place.query("SELECT n FROM triples"), "n"), (0..10).map(|n| n * 3).collect::<Vec<_>>());
    assert_eq!(of(&place.query("SELECT n FROM doubles"), "n"), (0..10).map(|n| n * 2).collect::<Vec<_>>(), "untouched");

    into("3", "later");
    let expected: usize = place.tap("numbers").iter().filter(|line| line["offset"].as_u64() >= Some(3)).count();
    assert_eq!(place.query("SELECT n FROM later").len(), expected);

    std::thread::sleep(std::time::Duration::from_millis(50));
    let now_us = millstream_core::Clock::now_us(&millstream_core::SystemClock);
    let moment = chrono::DateTime::from_timestamp_micros(now_us).unwrap().to_rfc3339();
    let more = ten().replace("\"r", "\"s");
    place.write("in.jsonl", ten() + &more);
    place.run();
    into(&moment, "new_ones");
    let new: Vec<_> = place.query("SELECT id FROM new_ones ORDER BY id").iter().map(|row| row["id"].clone()).collect();
    assert_eq!(new, (0..10).map(|n| json!(format!("s{n}"))).collect::<Vec<_>>());

    // Into its own table: the first ten become triples, one update each, and nothing else changes.
    let before = place.tap("doubles.changes").len();
    place.stdout(&["replay", "pipeline.yaml", "--data-dir", "data"]);
    assert_eq!(place.query("SELECT n FROM doubles WHERE n % 3 <> 0"), Vec::<Value>::new());
    let changes = place.tap("doubles.changes");
    assert_eq!(changes.len() - before, 9, "r0 stays 0, and the second ten were triples already");
    place.run();
    assert_eq!(place.tap("doubles.changes").len(), changes.len(), "after a replay the pipeline goes on where it was");
    place.fails(2, &["replay", "pipeline.yaml", "--data-dir", "data", "--from", "yesterday"]);
    place.stdout(&["replay", "pipeline.yaml", "--data-dir", "data", "--table", "doubles"]);
    assert_eq!(place.tap("doubles.changes").len(), changes.len(), "nor does a replay of what is there already");
    place.fails(2, &["replay", "pipeline.yaml", "--data-dir", "data", "--into", "doubles"]);
}

#[test]
fn a_record_that_did_not_decode_goes_through_after_a_fix_of_the_pipeline_file() {
    let place = numbers();
    place.write("in.jsonl", "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\"}\n{\"id\":\"c\" \"n\":3}\n");
    place.run();
    let letters = place.dead_letters();
    assert_eq!(letters.iter().map(|l| &l["kind"]).collect::<Vec<_>>(), ["missing_field", "malformed"]);
    let id = letters[0]["id"].as_str().unwrap();
    let shown: Value = serde_json::from_str(&place.stdout(&["dlq", "show", id, "--data-dir", "data"])).unwrap();
    assert_eq!(
        (&shown["raw"], &shown["stage"], &shown["attempts"]),
        (&json!("{\"id\":\"b\"}"), &json!("decode"), &json!(1))
    );
    assert_eq!(place.raw(id), b"{\"id\":\"b\"}");
    let table = place.stdout(&["dlq", "list", "--data-dir", "data"]);
    assert!(table.contains("missing_field") && table.contains("2 dead letters"), "{table}");
    let filtered = place.stdout(&["dlq", "list", "--kind", "malformed", "--format", "csv", "--data-dir", "data"]);
    assert_eq!(filtered.lines().count(), 2, "{filtered}");

    // Nothing is better yet.
    assert!(place.redrive().contains("2 failed again"));
    assert_eq!(place.dead_letters().iter().map(|l| &l["attempts"]).collect::<Vec<_>>(), [2, 2]);
    place.write("pipeline.yaml", NUMBERS.replace("n: int", "n: int?").replace("n * 2", "coalesce(n, 100) * 2"));
    let said = place.redrive();
    assert!(said.contains("1 redriven") && said.contains("1 failed again"), "{said}");
    place.run();
    assert_eq!(of(&place.query("SELECT n FROM doubles"), "n"), [2, 200]);
    let left = place.dead_letters();
    assert_eq!(left.len(), 1);
    assert_eq!((&left[0]["kind"], &left[0]["attempts"]), (&json!("malformed"), &json!(3)));
    place.fails(2, &["dlq", "show", id, "--data-dir", "data"]);
    place.fails(2, &["dlq", "redrive", "--data-dir", "data"]);
    place.fails(2, &["dlq", "redrive", "--all", "--data-dir", "data"]);
}

/// A model's endpoint that is down until it is switched on.
fn endpoint() -> (String, Arc<AtomicBool>) {
    let up = Arc::new(AtomicBool::new(false));
    let state = up.clone();
    let app = axum::Router::new().route(
        "/score",
        post(move |Json(request): Json<Value>| async move {
            if !state.load(Ordering::Relaxed) {
                return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "down" })));
            }
            let texts = request["inputs"].as_array().cloned().unwrap_or_default();
            let scores: Vec<Value> = texts.iter().map(|_| json!([0.75, 0.25])).collect();
            (StatusCode::OK, Json(scores.into()))
        }),
    );
    (format!("http://{}/score", http::serve(app)), up)
}

fn scored(endpoint: &str) -> String {
    format!(
        "
pipeline: scored
sources:
  wire: {{ type: file, path: ./in.jsonl, schema: {{ id: string, headline: string }}, key: [id], partitions: 2 }}
models:
  mood: {{ task: text-classification, source: \"{endpoint}\", labels: [good, bad] }}
transforms:
  scored:
    from: wire
    predict: {{ model: mood, input: headline, output: mood, retry: {{ attempts: 2, initial: 1ms }}, give_up_after: 0s }}
tables:
  news: {{ from: scored, key: [id] }}
"
    )
}

#[test]
fn records_that_gave_up_on_a_dead_endpoint_go_through_when_it_is_back() {
    for on_a_server in [false, true] {
        let (url, up) = endpoint();
        let place = Place::new(&scored(&url));
        place.write("in.jsonl", "{\"id\":\"a\",\"headline\":\"One\"}\n{\"id\":\"b\",\"headline\":\"Two\"}\n");
        place.run();
        let letters = place.dead_letters();
        assert_eq!(letters.len(), 2, "{letters:?}");
        assert!(letters.iter().all(|l| l["stage"] == "predict" && l["component"] == "scored"), "{letters:?}");
        up.store(true, Ordering::Relaxed);
        if on_a_server {
            let server = place.start(&[]);
            let url = server.url();
            let said = place.stdout(&["dlq", "redrive", "--stage", "predict", "--url", &url]);
            assert!(said.contains("2 redriven"), "{said}");
            let count = ["query", "SELECT count(*) AS n FROM news", "--url", &url, "--format", "jsonl"];
            eventually("both rows", || (place.stdout(&count) == "{\"n\":2}\n").then_some(()));
            let left = place.stdout(&["dlq", "list", "--url", &url]);
            assert!(left.contains("no dead letters"), "{left}");
        } else {
            assert!(place.redrive().contains("2 redriven"));
            place.run();
        }
        let labels: Vec<_> =
            place.query("SELECT mood.label AS label FROM news").iter().map(|r| r["label"].clone()).collect();
        assert_eq!(labels, ["good", "good"]);
        assert_eq!(place.tap("news.changes").len(), 2);
        assert_eq!(place.dead_letters(), Vec::<Value>::new());
    }
}

#[test]
fn the_schema_is_a_json_schema_that_names_every_section() {
    let place = Place::new("");
    let schema: Value = serde_json::from_str(&place.stdout(&["schema"])).unwrap();
    for section in ["pipeline", "settings", "sources", "models", "transforms", "tables", "sinks"] {
        assert!(schema["properties"][section].is_object(), "{section}");
    }
    assert_eq!(schema["additionalProperties"], false);
}

#[test]
fn the_demo_shows_headlines_scores_and_the_one_that_failed() {
    let place = Place::new("");
    let printed = place.stdout(&["demo", "--pause-ms", "1", "--listen", "127.0.0.1:0"]);
    assert!(printed.contains("insert  positive  ") && printed.contains("insert  negative  "), "{printed}");
    assert!(printed.contains("mean_score"), "{printed}");
    let letters = place.stdout(&["dlq", "list", "--data-dir", "millstream-demo/data"]);
    assert!(letters.contains("n-broken"), "{letters}");
    let again = place.stdout(&["demo", "--pause-ms", "1", "--listen", "127.0.0.1:0"]);
    assert!(!again.contains("insert  "), "what was read is not read again: {again}");
}
