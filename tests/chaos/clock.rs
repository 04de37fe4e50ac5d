//! Clocks that jump between starts: back by seconds, minutes, a year; ahead by a year. Needs the library of `faketime`
//! (Debian: apt install faketime), which `scripts/chaos` installs where it can; without it nothing is tried.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::{each_once, expected, numbers, report, rounds};
use crate::support::process::eventually;
use crate::support::{Place, http, json_lines, seeded};

const PIPELINE: &str = "
pipeline: clock
sources:
  posts: { type: http, schema: { n: int }, key: [n], partitions: 2 }
tables:
  items: { from: posts, key: [n] }
sinks:
  rows: { type: file, from: items.changes, folder: ./out, roll: { interval: 50ms } }
";

fn library() -> Option<&'static str> {
    const PLACES: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib64/faketime/libfaketime.so.1",
    ];
    PLACES.into_iter().find(|path| Path::new(path).exists())
}

#[test]
fn a_clock_that_jumps_between_starts_loses_and_stops_nothing() {
    use rand::seq::IndexedRandom;
    let Some(library) = library() else {
        eprintln!("faketime is not installed: nothing is tried");
        return;
    };
    let mut rng = seeded("chaos: clock");
    let mut place = Place::new(PIPELINE)
        .with_env("LD_PRELOAD", library)
        // Only the wall clock jumps: a monotonic one does not.
        .with_env("DONT_FAKE_MONOTONIC", "1");
    let (jumps, each) = (rounds(5), 10);
    let mut offsets = vec!["+0", "-5s", "-25s", "+1y", "-3d"];
    let more = ["-3s", "-20s", "-10m", "+2d", "-1y", "+5y", "+0", "-1s", "+30s"];
    while offsets.len() < jumps {
        offsets.push(more.choose(&mut rng).unwrap());
    }
    for (jump, offset) in offsets.iter().enumerate() {
        place = place.with_env("FAKETIME", offset);
        let mut server = place.start(&[]);
        let url = format!("{}/streams/posts/records", server.url());
        for push in 0..2 {
            let first = (jump as u64 * 2 + push) * each;
            let records: Vec<Value> = (first..first + each).map(|n| json!({ "n": n })).collect();
            let answer = http::post(&url, Value::from(records).to_string());
            assert_eq!(answer.status, 200, "{offset}: {}\n{}", answer.text, server.log());
        }
        let all = (jump as u64 + 1) * 2 * each;
        let ask = json!({ "sql": "SELECT count(*) AS n FROM items" }).to_string();
        eventually("the table follows", || {
            let answer = http::post(&format!("{}/api/v1/query", server.url()), ask.clone());
            (json_lines(&answer.text)[0]["n"] == all).then_some(())
        });
        std::thread::sleep(Duration::from_millis(100));
        server.terminate();
        assert!(server.wait().success(), "{offset}: {}", server.log());
    }
    let place = place.with_env("FAKETIME", "+0");
    place.run();
    let all = expected(offsets.len() as u64 * 2 * each, |_| false);
    each_once("table", &all, numbers(&place.query("SELECT n FROM items")));
    each_once("sink", &all, numbers(place.sink_rows("out").iter().map(|change| &change["new"])));
    report("clock", json!({ "jumps": offsets.len(), "lost": 0, "stopped": 0 }));
}
