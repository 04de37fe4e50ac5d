//! A disk that is full, and has room again. Needs a small disk of its own (Linux, as root); elsewhere nothing is tried.

use std::process::Command;
use std::time::{Duration, Instant};

use rand::Rng;
use reqwest::Method;
use serde_json::{Value, json};

use super::{each_once, numbers, report, rounds};
use crate::support::process::eventually;
use crate::support::{Place, Server, http, json_lines, seeded};

const PIPELINE: &str = "
pipeline: full
sources:
  posts: { type: http, schema: { n: int, pad: string }, key: [n], partitions: 2 }
tables:
  items: { from: posts, key: [n] }
sinks:
  rows: { type: file, from: posts, folder: ./out, roll: { interval: 50ms } }
";

/// A disk of so many MiB at a folder, until it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: std::path::PathBuf, mib: u32) -> Option<Self> {
        std::fs::create_dir_all(&at).unwrap();
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }

    /// Takes all the room that is left but `bytes`.
    fn fill(&self, but: u64) {
        let path = self.0.join("filler");
        let _ = std::fs::remove_file(&path);
        let file = std::fs::File::create(&path).unwrap();
        let piece = vec![0_u8; 64 << 10];
        while std::io::Write::write_all(&mut &file, &piece).is_ok() {}
        let length = file.metadata().unwrap().len();
        file.set_len(length.saturating_sub(but)).unwrap();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Pushes until a push is refused or the server is gone; the numbers that were answered for go to `stored`.
fn push(server: &Server, next: &mut u64, stored: &mut Vec<u64>, requests: u32) -> bool {
    let url = format!("{}/streams/posts/records", server.url());
    for _ in 0..requests {
        let numbers: Vec<u64> = (*next..*next + 10).collect();
        *next += 10;
        let pad = "x".repeat(800);
        let records: Vec<Value> = numbers.iter().map(|n| json!({ "n": n, "pad": pad })).collect();
        let answer = http::try_send(
            Method::POST,
            &url,
            &[("content-type", "application/json")],
            Value::from(records).to_string(),
        );
        match answer {
            Ok(answer) if answer.status == 200 => stored.extend(numbers),
            _ => return false,
        }
    }
    true
}

#[test]
fn the_disk_of_the_data_is_full_and_what_was_answered_for_is_there() {
    let mut rng = seeded("chaos: disk");
    let place = Place::new(PIPELINE);
    let Some(disk) = SmallDisk::mount(place.path("data"), 64) else {
        eprintln!("no disk could be mounted (are you root?): nothing is tried");
        return;
    };
    let (mut next, mut stored, mut ended) = (0, Vec::new(), 0);
    let times = rounds(2);
    let mut server = place.start(&[]);
    for _ in 0..times {
        push(&server, &mut next, &mut stored, rng.random_range(1..10));
        disk.fill(rng.random_range(0..200_000));
        let begun = Instant::now();
        while push(&server, &mut next, &mut stored, 5) && begun.elapsed() < Duration::from_secs(20) {}
        std::thread::sleep(Duration::from_millis(500));
        disk.free();
        if let Some(status) = server.ended_within(Duration::from_millis(500)) {
            // Where it can't wait it ends, with a sentence.
            assert_eq!(status.code(), Some(1), "{}", server.log());
            assert!(server.log().contains("space") && !server.log().contains("panicked"), "{}", server.log());
            ended += 1;
            server = place.start(&[]);
        }
        eventually("it takes records again", || push(&server, &mut next, &mut stored, 1).then_some(()));
    }
    let ask = json!({ "sql": format!("SELECT count(*) AS n FROM items WHERE n = {}", next - 1) }).to_string();
    eventually("the table follows", || {
        let answer = http::post(&format!("{}/api/v1/query", server.url()), ask.clone());
        (json_lines(&answer.text)[0]["n"] == 1).then_some(())
    });
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    everything_once(&place, &stored, next);
    report("full disk", json!({ "times": times, "ended": ended, "lost": 0, "doubled": 0 }));
}

#[test]
fn the_disk_of_a_sink_is_full_and_only_the_sink_waits() {
    let place = Place::new(PIPELINE);
    let Some(disk) = SmallDisk::mount(place.path("out"), 4) else {
        eprintln!("no disk could be mounted (are you root?): nothing is tried");
        return;
    };
    let (mut next, mut stored) = (0, Vec::new());
    let mut server = place.start(&[]);
    assert!(push(&server, &mut next, &mut stored, 3));
    disk.fill(0);
    assert!(push(&server, &mut next, &mut stored, 40), "the pipeline goes on:\n{}", server.log());
    eventually("the sink says that it waits", || {
        let components = http::get(&format!("{}/api/v1/components", server.url())).text;
        (components.contains("waiting") && components.contains("space")).then_some(())
    });
    disk.free();
    eventually("the sink goes on", || (place.sink_rows("out").len() >= stored.len()).then_some(()));
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    everything_once(&place, &stored, next);
    report("full disk of a sink", json!({ "ended": 0, "lost": 0, "doubled": 0 }));
}

/// What was answered for is there once; what was refused or not answered is there once or not at all.
fn everything_once(place: &Place, stored: &[u64], next: u64) {
    let table = numbers(&place.query("SELECT n FROM items"));
    let there: std::collections::BTreeSet<u64> = table.iter().copied().collect();
    assert!(there.iter().all(|n| *n < next));
    let lost: Vec<&u64> = stored.iter().filter(|n| !there.contains(n)).take(10).collect();
    assert!(lost.is_empty(), "answered with 200 and gone: {lost:?}…");
    each_once("table", &there, table);
    each_once("sink", &there, numbers(&place.sink_rows("out")));
}
