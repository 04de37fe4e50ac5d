//! Event time in whole pipelines: who is late, who waits, and what a replay and a filling make of it.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Place, http};

/// Two sensors, of which the first is 20 minutes behind; every reading is sent twice.
fn readings() -> String {
    let mut text = String::new();
    for n in 0..60 {
        for (sensor, minute) in [("slow", n), ("fast", 20 + n)] {
            let at = format!("2026-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60);
            let reading = json!({ "id": format!("{sensor}-{n}"), "sensor": sensor, "n": n, "at": at });
            writeln!(text, "{reading}\n{reading}").unwrap();
        }
    }
    text
}

fn pipeline(watermark: &str, source: &str, partitions: u32) -> String {
    format!(
        "pipeline: p
sources:
  wire:
    {source}
    schema: {{ id: string, sensor: string, n: int, at: timestamp }}
    event_time: at
    watermark: {watermark}
    key: [sensor]
    partitions: {partitions}
transforms:
  once: {{ from: wire, dedup: {{ key: [id], within: 10m }} }}
tables:
  t: {{ from: once, key: [id] }}
"
    )
}

const FILE: &str = "type: file\n    path: ./in.jsonl";

#[test]
fn a_slow_sender_is_late_beside_a_fast_one_unless_each_has_a_time_of_its_own() {
    for (watermark, expected) in [("0s", 61), ("{ per: [sensor], idle: 1h }", 120)] {
        let place = Place::new(&pipeline(watermark, FILE, 3));
        place.write("in.jsonl", readings());
        place.run();
        assert_eq!(place.query("SELECT id FROM t").len(), expected, "{watermark}");
        let late = place.dead_letters();
        assert_eq!(late.len(), 2 * (120 - expected), "{watermark}: late ones can't be told from repeats");
        assert!(late.iter().all(|letter| letter["kind"] == "late" && letter["component"] == "once"));
    }
}

#[test]
fn a_late_record_goes_through_when_it_is_sent_again_and_a_replay_gives_the_same() {
    let place = Place::new(&pipeline("0s", FILE, 2));
    place.write("in.jsonl", readings());
    place.run();
    let letters = place.dead_letters().len();
    assert_eq!(letters, 118);
    // The oldest of them first: with no watermark in front of them, each is the first of its span or a repeat.
    place.redrive();
    place.run();
    assert_eq!(place.dead_letters().len(), 0);
    let rows = |place: &Place| {
        let mut rows: Vec<String> = place.query("SELECT * FROM t").iter().map(Value::to_string).collect();
        rows.sort();
        rows
    };
    let before = rows(&place);
    assert_eq!(before.len(), 120);
    let changes = place.tap("t.changes").len();
    place.stdout(&["replay", "pipeline.yaml", "--from", "earliest", "--data-dir", "data"]);
    assert_eq!(rows(&place), before, "the same rows");
    assert_eq!(place.tap("t.changes").len(), changes, "so nothing changes");
}

#[test]
fn a_replay_computes_anew_what_lies_behind_de_duplication() {
    let written = |factor: u32| {
        let scaled = format!("  scaled: {{ sql: \"SELECT id, sensor, n * {factor} AS n, at FROM once\" }}\n");
        let text = pipeline("{ per: [sensor], idle: 1h }", FILE, 2).replace("t: { from: once,", "t: { from: scaled,");
        text.replace("tables:\n", &format!("{scaled}tables:\n")) + "  other: { from: scaled, key: [sensor, n] }\n"
    };
    let place = Place::new(&written(10));
    place.write("in.jsonl", readings());
    place.run();
    let sum =
        |place: &Place, table: &str| place.query(&format!("SELECT sum(n) AS s, count(*) AS c FROM {table}"))[0].clone();
    assert_eq!(sum(&place, "t"), json!({ "s": 2 * 1770 * 10, "c": 120 }));
    place.write("pipeline.yaml", written(100));
    place.stdout(&["replay", "pipeline.yaml", "--from", "earliest", "--data-dir", "data"]);
    assert_eq!(sum(&place, "t"), json!({ "s": 2 * 1770 * 100, "c": 120 }), "each row once, and anew");
    place.write("pipeline.yaml", written(1000));
    place.stdout(&["replay", "pipeline.yaml", "--table", "t", "--from", "earliest", "--data-dir", "data"]);
    assert_eq!(sum(&place, "t"), json!({ "s": 2 * 1770 * 1000, "c": 120 }), "for one table alone too");
    assert_eq!(sum(&place, "other")["c"], 228, "beside those of before, of which twelve have the same key");
}

#[test]
fn a_table_that_is_new_behind_de_duplication_is_filled_with_what_went_through() {
    let place = Place::new(&pipeline("{ per: [sensor], idle: 1h }", FILE, 2));
    place.write("in.jsonl", readings());
    place.run();
    let more = "  u: { from: once, key: [id], start: earliest }\n";
    place.write("pipeline.yaml", pipeline("{ per: [sensor], idle: 1h }", FILE, 2) + more);
    place.run();
    assert_eq!(place.query("SELECT id FROM u").len(), 120);
    assert_eq!(place.tap("u.changes").len(), 120, "each once");
    assert_eq!(place.tap("t.changes").len(), 120, "and nothing came a second time elsewhere");
}

#[test]
fn what_waits_for_its_time_survives_a_kill_and_goes_on_when_time_does() {
    let place = Place::new(&pipeline("1m", "type: http", 2));
    let mut server = place.start(&[]);
    let push = |url: &str, n: u32, at: &str| {
        let body = json!({ "id": format!("r{n}"), "sensor": "a", "n": n, "at": at }).to_string();
        let answer = http::try_send(Method::POST, &format!("{url}/streams/wire/records"), &[], body).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text);
    };
    push(&server.url(), 1, "2026-01-01T00:00:00Z");
    push(&server.url(), 1, "2026-01-01T00:00:30Z");
    // Both are within a minute of the newest: they wait, also for a process that comes after this one.
    server.kill();
    place.run();
    assert_eq!(place.query("SELECT id FROM t").len(), 0);
    let mut server = place.start(&[]);
    push(&server.url(), 2, "2026-01-01T00:05:00Z");
    server.kill();
    place.run();
    let rows = place.query("SELECT id, at FROM t");
    assert_eq!(rows.len(), 1, "the second waits in its turn: {rows:?}");
    assert_eq!(rows[0]["id"], "r1");
    assert_eq!(rows[0]["at"], "2026-01-01T00:00:00Z", "the first by event time");
    let mut server = place.start(&[]);
    let metrics = http::try_send(Method::GET, &format!("{}/metrics", server.url()), &[], String::new()).unwrap().text;
    for name in ["source_lag_seconds{component_kind=\"source\",", "watermark_lag_seconds{component_kind=\"source\","] {
        assert!(metrics.contains(name), "{metrics}");
    }
    server.kill();
}
