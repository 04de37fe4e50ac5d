//! `kill -9` at random moments loses nothing and doubles nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::process::eventually;
use crate::support::{Broker, Kills, Place, Server, http, json_lines, seeded};

const KILLS: usize = 30;
/// In how many groups the records fall.
const GROUPS: u64 = 500;

/// A table keyed as the stream is, one keyed otherwise (its rows go through an exchange), and three file sinks.
const PIPELINE: &str = "
pipeline: crash
sources:
  wire:
    type: file
    path: ./in/*.jsonl
    schema: { id: string, grp: string, n: int, headline: string }
    key: [grp]
    partitions: 4
transforms:
  kept: { sql: \"SELECT id, grp, n, upper(headline) AS headline FROM wire WHERE headline <> 'dropped'\" }
tables:
  items: { from: kept, key: [id], partitions: 3 }
  latest: { from: kept, key: [grp] }
sinks:
  rows: { type: file, from: kept, folder: ./out/rows, roll: { size: 64KiB, interval: 100ms } }
  item_changes: { type: file, from: items.changes, folder: ./out/items, roll: { size: 1MiB, interval: 50ms } }
  latest_changes: { type: file, from: latest.changes, folder: ./out/latest, roll: { interval: 20ms } }
";

/// One more input file; what is in it that must come through.
fn add_input(place: &Place, file: u64, records: u64) {
    let mut text = String::new();
    for n in file * records..(file + 1) * records {
        let headline = if n % 10 == 9 { "dropped".into() } else { format!("shares of company {n} rise after results") };
        text.push_str(
            &json!({ "id": format!("r{n}"), "grp": format!("g{}", n % GROUPS), "n": n, "headline": headline })
                .to_string(),
        );
        text.push('\n');
    }
    // In one step: a file that is still growing is read as far as it goes.
    place.write("in/new", text);
    std::fs::rename(place.path("in/new"), place.path(&format!("in/{file:04}.jsonl"))).unwrap();
}

/// Kills the pipeline until it was hit often enough, with another input file of so many records wherever it has come to
/// its end before. Gives the numbers of the records that must come through.
fn crash_to_the_end(place: &Place, records: u64, rng: &mut rand::rngs::StdRng) -> BTreeSet<u64> {
    let mut files = 3;
    (0..files).for_each(|file| add_input(place, file, records));
    let mut kills = Kills::default();
    // Kills that only hit beginnings would prove little: at least one run must have come to its end between them.
    while kills.running < KILLS || kills.missed == 0 {
        assert!(kills.hit < 20 * KILLS, "it does not get on: {kills:?}");
        if kills.once(place, rng) {
            add_input(place, files, records);
            files += 1;
        }
    }
    place.run();
    eprintln!("{kills:?} over {} records in {files} files", files * records);
    (0..files * records).filter(|n| n % 10 != 9).collect()
}

#[test]
fn killed_thirty_times_every_record_is_everywhere_exactly_once() {
    let place = Place::new(PIPELINE);
    let expected = crash_to_the_end(&place, 6_000, &mut seeded("crash"));
    everything_is_there_once(&place, &expected);
}

#[test]
#[ignore = "needs RabbitMQ: run scripts/test"]
fn killed_thirty_times_rabbitmq_has_every_record_at_least_once_and_repeats_carry_the_same_id() {
    let broker = Broker::connect();
    let sink = format!(
        "  queue: {{ type: amqp, from: items.changes, url: \"{}\", exchange: {1}, queues: [{{ name: {1} }}] }}\n",
        Broker::url(),
        broker.name
    );
    let place = Place::new(&format!("{PIPELINE}{sink}"));
    let expected = crash_to_the_end(&place, 2_000, &mut seeded("crash with rabbitmq"));
    everything_is_there_once(&place, &expected);

    let messages = broker.take_all();
    let mut bodies: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for (id, body) in &messages {
        let (partition, offset) = id.rsplit_once('/').unwrap();
        match bodies.insert(id, body) {
            Some(before) => assert_eq!(before, body, "{id} has two bodies"),
            // What comes for the first time comes in order.
            None => {
                let before = newest.insert(partition, offset.parse().unwrap());
                assert!(before < Some(offset.parse().unwrap()), "{id} is behind {before:?}");
            }
        }
    }
    each_once("RabbitMQ, by message id", &expected, numbers(bodies.values().map(|body| &body["new"])));
    eprintln!("{} messages, {} of them repeated", messages.len(), messages.len() - bodies.len());
    let taps = place.tap("items.changes");
    // Each id begins with the identity of the data folder, which no restart changes.
    let folders: BTreeSet<&str> = bodies.keys().map(|id| id.split('/').next().unwrap()).collect();
    let [folder] = folders.iter().collect::<Vec<_>>()[..] else { panic!("several folders: {folders:?}") };
    for line in &taps {
        let id = format!("{folder}/items.changes/{}/{}", line["partition"], line["offset"]);
        assert_eq!(bodies.get(id.as_str()), Some(&&line["record"]), "{id} is what the stream holds there");
    }
}

fn everything_is_there_once(place: &Place, expected: &BTreeSet<u64>) {
    each_once("stream kept", expected, numbers(place.tap("kept").iter().map(|line| &line["record"])));
    each_once("file sink", expected, numbers(place.sink_rows("out/rows").iter()));
    each_once("table items", expected, numbers(place.query("SELECT n FROM items").iter()));

    let taps: Vec<Value> = place.tap("items.changes").into_iter().map(|line| line["record"].clone()).collect();
    for (what, changes) in [("tap", taps), ("sink", place.sink_rows("out/items"))] {
        assert!(
            changes.iter().all(|c| c["op"] == "insert" && c["old"].is_null()),
            "{what}: a repeat would be an update"
        );
        each_once(&format!("change stream of items, {what}"), expected, numbers(changes.iter().map(|c| &c["new"])));
    }

    let latest: BTreeMap<String, u64> = expected.iter().map(|n| (format!("g{}", n % GROUPS), *n)).collect();
    let rows = place.query("SELECT grp, n FROM latest");
    let rows = rows.iter().map(|r| (text(&r["grp"]), r["n"].as_u64().unwrap())).collect::<BTreeMap<_, _>>();
    assert_eq!(rows, latest, "table latest");
    let taps: Vec<Value> = place.tap("latest.changes").into_iter().map(|line| line["record"].clone()).collect();
    let mut written = place.sink_rows("out/latest");
    // A file holds rows of several partitions, so names do not say which of two files is the older one.
    written.sort_by_key(|change| change["new"]["n"].as_u64());
    for (what, changes) in [("tap", taps), ("sink", written)] {
        each_once(&format!("change stream of latest, {what}"), expected, numbers(changes.iter().map(|c| &c["new"])));
        each_old_image_is_the_last_new_one(what, "grp", &changes);
    }
    for stream in ["wire", "kept", "items.changes", "latest.changes"] {
        offsets_have_no_gap(stream, &place.tap(stream));
    }
    assert_eq!(place.unfinished("out"), Vec::<std::path::PathBuf>::new());
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub(crate) fn numbers<'a>(rows: impl Iterator<Item = &'a Value>) -> Vec<u64> {
    rows.map(|row| row["n"].as_u64().unwrap_or_else(|| panic!("no n in {row}"))).collect()
}

pub(crate) fn each_once(place: &str, expected: &BTreeSet<u64>, found: Vec<u64>) {
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    found.iter().for_each(|n| *times.entry(*n).or_default() += 1);
    let lost: Vec<_> = expected.iter().filter(|n| !times.contains_key(n)).take(10).collect();
    let repeated: Vec<_> = times.iter().filter(|(_, times)| **times > 1).take(10).collect();
    let strange: Vec<_> = times.keys().filter(|n| !expected.contains(n)).take(10).collect();
    assert!(
        lost.is_empty() && repeated.is_empty() && strange.is_empty(),
        "{place}: {} expected, {} found; lost {lost:?}…, repeated {repeated:?}…, unexpected {strange:?}…",
        expected.len(),
        found.len()
    );
}

/// Per key, whose one column is `key`, changes are in order: nothing between two of them is missing.
pub(crate) fn each_old_image_is_the_last_new_one(what: &str, key: &str, changes: &[Value]) {
    let mut now: BTreeMap<String, Value> = BTreeMap::new();
    for change in changes {
        let before = now.insert(text(&change["key"][key]), change["new"].clone()).unwrap_or(Value::Null);
        assert_eq!(change["old"], before, "{what}: {change}");
        let op = if before.is_null() { "insert" } else { "update" };
        assert_eq!(change["op"], op, "{what}: {change}");
        assert!(
            before.is_null() || before["n"].as_u64() < change["new"]["n"].as_u64(),
            "{what}: out of order: {change}"
        );
    }
}

fn offsets_have_no_gap(stream: &str, lines: &[Value]) {
    let mut next: BTreeMap<u64, u64> = BTreeMap::new();
    for line in lines {
        let next = next.entry(line["partition"].as_u64().unwrap()).or_default();
        assert_eq!(line["offset"].as_u64(), Some(*next), "{stream}: {line}");
        *next += 1;
    }
}

/// The headline is a number for the first of the two, and `n` is an int for the other.
const STRICT: &str = "
pipeline: redrive
sources:
  wire:
    type: file
    path: ./in.jsonl
    schema: { id: string, n: int }
    partitions: 2
transforms:
  parsed: { sql: \"SELECT id, n, 100 / n AS share FROM wire\" }
tables:
  items: { from: parsed, key: [id] }
";

#[test]
fn redrives_that_are_killed_lose_and_double_nothing() {
    let mut rng = seeded("redrive");
    let place = Place::new(STRICT);
    // One third decodes and passes, one third does not decode, one third fails in SQL.
    let record = |n: u64| match n % 3 {
        0 => json!({ "id": format!("r{n}"), "n": n + 1 }),
        1 => json!({ "id": format!("r{n}"), "n": { "value": n } }),
        _ => json!({ "id": format!("r{n}"), "n": 0 }),
    };
    let records = 3_000;
    place.write("in.jsonl", (0..records).map(|n| format!("{}\n", record(n))).collect::<String>());
    place.run();
    assert_eq!(place.query("SELECT count(*) AS n FROM items")[0]["n"], 1_000);

    // Now both are accepted.
    let lenient = STRICT.replace("n: int }", "n: json }").replace("100 / n AS share", "1 AS share");
    place.write("pipeline.yaml", lenient);
    let (mut hit, mut through) = (0, 0);
    let mut letters = left(&place);
    while (hit < 10 || through < 5) && !letters.is_empty() {
        let killed = redrive_and_kill(&place, &letters, &mut rng);
        let now = left(&place);
        hit += usize::from(killed);
        through += usize::from(now.len() < letters.len());
        letters = now;
    }
    eprintln!("killed {hit} redrives, {through} sent something through, {} left", letters.len());
    assert!(hit >= 5 && through >= 3, "{hit} redrives were killed, {through} did something");
    place.redrive();
    place.run();
    assert_eq!(left(&place), Vec::<Value>::new());
    let counts = place.query("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM items");
    assert_eq!(counts[0], json!({ "n": records, "ids": records }));
    let changes = place.tap("items.changes");
    assert_eq!(changes.len() as u64, records, "a record that is redriven twice would be an update");
    assert!(changes.iter().all(|line| line["record"]["op"] == "insert"));
}

fn left(place: &Place) -> Vec<Value> {
    let all = ["dlq", "list", "--data-dir", "data", "--format", "jsonl", "--limit", "100000"];
    json_lines(&place.stdout(&all))
}

/// From 1 ms to 2 s, as often below 50 ms as above: there is a good chance to fall into the middle of things on a fast
/// machine and on a slow one.
fn moment(rng: &mut rand::rngs::StdRng) -> Duration {
    Duration::from_secs_f64(10_f64.powf(rng.random_range(-3.0..0.3)))
}

/// A redrive of some of what is left, at rest or on a running server, killed in the middle. True where it was hit.
fn redrive_and_kill(place: &Place, letters: &[Value], rng: &mut rand::rngs::StdRng) -> bool {
    let some = |_: &&Value| letters.len() < 20 || rng.random_bool(0.05);
    let ids = letters.iter().filter(some).map(|l| text(&l["id"])).collect::<Vec<_>>();
    if rng.random_bool(0.5) {
        let mut args = vec!["dlq", "redrive", "--pipeline", "pipeline.yaml", "--data-dir", "data"];
        args.extend(ids.iter().map(String::as_str));
        let mut process = Server::spawn(place.command(&args));
        let ended = process.ended_within(moment(rng));
        assert!(ended.is_none_or(|status| status.success()), "{}", process.log());
        return process.kill();
    }
    let mut server = place.start(&[]);
    let url = format!("{}/api/v1/dlq/redrive", server.url());
    let asked = std::thread::spawn(move || {
        let body = json!({ "ids": ids }).to_string();
        http::try_send(Method::POST, &url, &[("content-type", "application/json")], body).is_ok_and(|a| a.status == 200)
    });
    std::thread::sleep(moment(rng));
    server.kill();
    !asked.join().unwrap()
}

const PUSHED: &str = "
pipeline: pushed
sources:
  posts:
    type: http
    schema: { id: string, n: int }
    key: [id]
    partitions: 2
tables:
  items: { from: posts, key: [id] }
";

#[test]
fn a_client_that_repeats_until_it_is_answered_loses_and_doubles_nothing() {
    const CLIENTS: u64 = 4;
    const REQUESTS: u64 = 60;
    const EACH: u64 = 7;
    let mut rng = seeded("http");
    let place = Place::new(PUSHED);
    let url = Arc::new(Mutex::new(String::new()));
    let stored = Arc::new(AtomicUsize::new(0));
    let refused = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (url, stored, refused) = (url.clone(), stored.clone(), refused.clone());
            std::thread::spawn(move || {
                for request in 0..REQUESTS {
                    let n = (client * REQUESTS + request) * EACH;
                    let records: Vec<Value> = (n..n + EACH).map(|n| json!({ "id": format!("r{n}"), "n": n })).collect();
                    let key = format!("request-{client}-{request}");
                    eventually("an answer", || {
                        let url = format!("{}/streams/posts/records", url.lock().unwrap());
                        let headers = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
                        let answer =
                            http::try_send(Method::POST, &url, &headers, Value::from(records.clone()).to_string());
                        let Ok(answer) = answer.map_err(|_| ()).and_then(|a| (a.status == 200).then_some(a).ok_or(()))
                        else {
                            refused.fetch_add(1, Ordering::Relaxed);
                            return None;
                        };
                        assert_eq!(answer.json()["accepted"], EACH);
                        stored.fetch_add(1, Ordering::Relaxed);
                        Some(())
                    });
                }
            })
        })
        .collect();
    let is_done = || clients.iter().all(std::thread::JoinHandle::is_finished);
    let mut kills = 0;
    while !is_done() {
        let mut server = place.start(&[]);
        *url.lock().unwrap() = server.url();
        // Every server stores something, and none stores it all, however fast or slow the machine is.
        let enough = stored.load(Ordering::Relaxed) + rng.random_range(1..25);
        while stored.load(Ordering::Relaxed) < enough && !is_done() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(rng.random_range(0..10)));
        kills += usize::from(server.kill());
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    let refused = refused.load(Ordering::Relaxed);
    eprintln!("{kills} kills, {refused} requests without an answer");
    assert!(kills > 3 && refused > 0, "{kills} kills, {refused} requests repeated: nothing was tried");

    // The last kill may have left work behind.
    place.run();
    let expected: BTreeSet<u64> = (0..CLIENTS * REQUESTS * EACH).collect();
    each_once("stream", &expected, numbers(place.tap("posts").iter().map(|line| &line["record"])));
    each_once("table", &expected, numbers(place.query("SELECT n FROM items").iter()));
    each_once(
        "change stream",
        &expected,
        numbers(place.tap("items.changes").iter().map(|line| &line["record"]["new"])),
    );
}
