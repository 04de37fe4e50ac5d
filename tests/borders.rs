//! One harness for every operator: the same records, cut at random borders, killed at random moments, at 1 to 8
//! partitions, must give equal tables, and equal changes for each key.
//!
//! A case is a pipeline of one source `s` that is pushed to. The reference is one run over one file at one partition.
//! The last record is far later than all others and is in no table: what waits for its time has it then.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Place, Server, http, seeded};

/// Records of a case, over so many keys.
const RECORDS: usize = 600;
const KEYS: u32 = 9;
/// Runs with other borders.
const RUNS: usize = 2;

/// Each with the tables that are compared.
const CASES: [(&str, &str, &[&str]); 5] = [
    (
        "filter, project, delete, skip",
        "transforms:
  some: { sql: \"SELECT id, n, v, n * 2 AS twice FROM s WHERE v <> 'c'\" }
  fails: { sql: \"SELECT id, n, v, CAST(v AS INT) AS twice FROM s WHERE v = 'd' OR n % 3 = 0\", on_error: skip }
tables:
  t: { from: some, key: [id], delete_when: \"v = 'b' AND n % 5 = 0\" }
  f: { from: fails, key: [id] }
",
        &["t", "f"],
    ),
    (
        "branches that meet",
        "transforms:
  a: { sql: \"SELECT * FROM s WHERE v = 'a'\" }
  b: { sql: \"SELECT * FROM s WHERE v = 'b'\" }
  b2: { sql: \"SELECT id, n, v || '!' AS v, at FROM b\" }
  u: { sql: \"SELECT * FROM b UNION ALL SELECT * FROM a UNION ALL SELECT * FROM s WHERE v = 'c'\" }
tables:
  met: { from: [b, a], key: [id] }
  united: { from: u, key: [id] }
  both: { from: [b2, a, b], key: [id] }
",
        &["met", "united", "both"],
    ),
    (
        "a chain of tables",
        "transforms:
  latest: { sql: \"SELECT key.id AS id, new.n AS n, old.n AS before, new.v AS v FROM t.changes WHERE op <> 'delete'\" }
tables:
  t: { from: s, key: [id], delete_when: \"v = 'd'\" }
  jumps: { from: latest, key: [id] }
  of_v: { from: latest, key: [id, v] }
",
        &["t", "jumps", "of_v"],
    ),
    (
        "rows that become many",
        "transforms:
  each: { sql: \"SELECT id, n, v, unnest(range(0, n % 4)) AS part FROM s\" }
  two: { sql: \"SELECT id, part, n, v FROM each WHERE part < 2 UNION ALL SELECT id, part, n, v FROM each\" }
tables:
  parts: { from: each, key: [id, part] }
  twos: { from: two, key: [id] }
",
        &["parts", "twos"],
    ),
    (
        "de-duplication, in the stage of its source and behind exchanges",
        "transforms:
  by_id: { from: s, dedup: { key: [id], within: 7s } }
  some: { sql: \"SELECT id, v, n, at FROM s WHERE v <> 'c' OR n % 2 = 0\" }
  by_v: { from: some, dedup: { key: [v, id], within: 11s }, on_error: skip }
  again: { from: by_v, dedup: { key: [v], within: 3s } }
  of_id: { sql: \"SELECT * FROM by_id WHERE v <> 'last'\" }
  of_v: { sql: \"SELECT * FROM by_v WHERE v <> 'last'\" }
  few: { sql: \"SELECT * FROM again WHERE v <> 'last'\" }
tables:
  ids: { from: of_id, key: [id] }
  vs: { from: of_v, key: [v, id] }
  rare: { from: few, key: [v] }
",
        &["ids", "vs", "rare"],
    ),
];

fn pipeline(rest: &str, source: &str, partitions: u32) -> String {
    format!(
        "pipeline: p
sources:
  s:
    {source}
    schema: {{ id: int, n: int, v: string, at: timestamp }}
    event_time: at
    watermark: 4s
    key: [id]
    partitions: {partitions}
{rest}"
    )
}

fn records(rng: &mut StdRng) -> Vec<Value> {
    let mut count = BTreeMap::<u32, i64>::new();
    let record = |number: usize| {
        // One second later than the one before, but for up to nine: some come late. No two have the same.
        let at =
            1_767_225_600_000_000 + (number as i64 * 1_000_000) - rng.random_range(0..9) * 1_000_000 + number as i64;
        let id = rng.random_range(0..KEYS);
        let n = count.entry(id).or_default();
        *n += 1;
        let v = ["a", "b", "c", "d"].choose(rng).unwrap();
        json!({ "id": id, "n": *n, "v": v, "at": at })
    };
    let last = json!({ "id": 0, "n": 0, "v": "last", "at": 1_767_400_000_000_000_i64 });
    (0..RECORDS).map(record).chain([last]).collect()
}

#[test]
fn whatever_the_borders_the_kills_and_the_partitions_the_result_is_the_same() {
    let mut rng = seeded("borders");
    let records = records(&mut rng);
    let text: String = records.iter().map(|record| format!("{record}\n")).collect();
    for (title, rest, tables) in CASES {
        let straight = Place::new(&pipeline(rest, "type: file\n    path: ./in.jsonl", 1));
        straight.write("in.jsonl", &text);
        straight.run();
        let expected = dump(&straight, tables);
        for _ in 0..RUNS {
            let partitions = rng.random_range(1..=8);
            let place = Place::new(&pipeline(rest, "type: http", partitions));
            let kills = push(&place, &records, &mut rng);
            place.run();
            let found = dump(&place, tables);
            let differs = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
            assert_eq!(differs, None, "{title}: {partitions} partitions, {kills} kills");
            assert_eq!(
                expected.lines().count(),
                found.lines().count(),
                "{title}: {partitions} partitions, {kills} kills"
            );
        }
    }
}

/// Pushes all records in pieces of random sizes, each until it is answered, with `kill -9` on the way.
fn push(place: &Place, records: &[Value], rng: &mut StdRng) -> usize {
    let mut server: Option<Server> = None;
    let (mut left, mut number, mut kills) = (records, 0, 0);
    while !left.is_empty() {
        let piece = &left[..rng.random_range(1..=left.len().min(70))];
        let body: String = piece.iter().map(|record| format!("{record}\n")).collect();
        let key = format!("piece-{number}");
        let running = server.get_or_insert_with(|| place.start(&[]));
        let url = format!("{}/streams/s/records", running.url());
        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/x-ndjson")];
        match http::try_send(Method::POST, &url, &headers, body) {
            Ok(answer) if answer.status == 200 => {
                (left, number) = (&left[piece.len()..], number + 1);
            }
            Ok(answer) => panic!("{} {}", answer.status, answer.text),
            // Killed by the last round: the same piece again.
            Err(_) => {}
        }
        match rng.random_range(0..12) {
            // What is under way is cut off somewhere.
            0 => kills += usize::from(server.take().is_some_and(|mut server| server.kill())),
            1..4 => std::thread::sleep(Duration::from_millis(rng.random_range(0..15))),
            _ => {}
        }
    }
    kills += usize::from(server.is_some_and(|mut server| server.kill()));
    kills
}

/// The rows of the tables, and the changes of each key in their order.
fn dump(place: &Place, tables: &[&str]) -> String {
    let mut out = String::new();
    for table in tables {
        let mut rows: Vec<String> =
            place.query(&format!("SELECT * FROM {table}")).iter().map(ToString::to_string).collect();
        rows.sort();
        rows.iter().for_each(|row| writeln!(out, "{table} {row}").unwrap());
        let mut by_key = BTreeMap::<String, Vec<String>>::new();
        for mut line in place.tap(&format!("{table}.changes")) {
            let change = line["record"].as_object_mut().unwrap();
            change.shift_remove("ts");
            by_key.entry(change["key"].to_string()).or_default().push(Value::from(change.clone()).to_string());
        }
        by_key.values().flatten().for_each(|change| writeln!(out, "{table}.changes {change}").unwrap());
    }
    out
}
