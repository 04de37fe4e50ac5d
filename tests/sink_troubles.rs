//! A sink that can't write: it waits, says for what, and goes on by itself; everything else goes on meanwhile.

use std::io::Read;
use std::process::Stdio;

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::http::{self, get, post};
use crate::support::process::eventually;
use crate::support::{Mount, Place, Server};

const PIPELINE: &str = "
pipeline: kept
sources:
  wire: { type: http, schema: { id: int, text: string }, key: [id] }
tables:
  items: { from: wire, key: [id] }
sinks:
  out: { type: file, from: wire, folder: ./out, roll: { size: 200KiB, interval: 100ms } }
  fine: { type: file, from: wire, folder: ./fine, roll: { interval: 100ms } }
";

/// Rows of the ids from `from` on, 2 KB each, which do not compress to nothing.
fn push(url: &str, from: usize, rows: usize) -> http::Answer {
    let text = |id: usize| -> String {
        let random = rand::rngs::StdRng::seed_from_u64(id as u64);
        random.sample_iter(rand::distr::Alphanumeric).take(2_000).map(char::from).collect()
    };
    let rows: Vec<Value> = (from..from + rows).map(|id| json!({ "id": id, "text": text(id) })).collect();
    post(&format!("{url}/streams/wire/records"), json!(rows).to_string())
}

fn component(url: &str, name: &str) -> Value {
    let components = get(&format!("{url}/api/v1/components")).json();
    let all = components["components"].as_array().unwrap();
    all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name} in {components}")).clone()
}

fn waits(url: &str, name: &str, reason: &str) {
    eventually(reason, || {
        let component = component(url, name);
        let waits = component["state"] == "waiting" && component["reason"].as_str()?.contains(reason);
        waits.then_some(())
    });
}

fn runs(url: &str, name: &str) {
    eventually("it goes on", || (component(url, name)["state"] == "running").then_some(()));
}

/// Each id once, in the files of a sink.
fn has_all(place: &Place, folder: &str, rows: usize) {
    let ids = eventually("all rows", || {
        let mut ids: Vec<u64> = place.sink_rows(folder).iter().map(|row| row["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        (ids.len() >= rows).then_some(ids)
    });
    assert_eq!(ids, (0..rows as u64).collect::<Vec<_>>());
}

fn end(mut server: Server) {
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn a_full_disk_of_a_sink_holds_up_nothing_else_and_it_goes_on_when_there_is_room() {
    let place = Place::new(PIPELINE);
    let Some(disk) = Mount::tmpfs(&place.path("out"), "1m") else { return };
    let server = place.start(&[]);
    let url = server.url();
    for turn in 0..10 {
        assert_eq!(push(&url, turn * 100, 100).status, 200);
    }
    waits(&url, "out", "the disk is full");
    has_all(&place, "fine", 1_000);
    assert_eq!(component(&url, "fine")["state"], "running");
    assert_eq!(push(&url, 1_000, 10).status, 200, "records are taken in as before");
    disk.remount("size=64m");
    runs(&url, "out");
    has_all(&place, "out", 1_010);
    server.wait_for_log("sink out goes on after");
    end(server);
    has_all(&place, "out", 1_010);
}

#[test]
fn a_stop_while_a_sink_waits_is_no_failure_and_the_next_run_delivers() {
    let place = Place::new(PIPELINE);
    let Some(disk) = Mount::tmpfs(&place.path("out"), "1m") else { return };
    for (from, size) in [(0, "1m"), (1_000, "1m"), (2_000, "64m")] {
        disk.remount(&format!("size={size}"));
        let server = place.start(&[]);
        let url = server.url();
        for turn in 0..10 {
            assert_eq!(push(&url, from + turn * 100, 100).status, 200);
        }
        match size {
            "1m" => waits(&url, "out", "the disk is full"),
            _ => has_all(&place, "out", 3_000),
        }
        end(server);
    }
}

#[test]
fn a_folder_that_is_read_only_or_removed_is_waited_for() {
    let place = Place::new(PIPELINE);
    let Some(disk) = Mount::tmpfs(&place.path("out"), "64m") else { return };
    let server = place.start(&[]);
    let url = server.url();
    push(&url, 0, 10);
    has_all(&place, "out", 10);
    disk.remount("ro");
    push(&url, 10, 10);
    waits(&url, "out", "read-only");
    disk.remount("rw");
    has_all(&place, "out", 20);
    runs(&url, "out");
    // The other one's folder, with what is being written in it, and again while nothing is.
    for turn in 2..6 {
        push(&url, turn * 10, 10);
        let _ = std::fs::remove_dir_all(place.path("fine"));
    }
    has_all(&place, "out", 60);
    push(&url, 60, 10);
    eventually("the last rows", || {
        let rows = place.sink_rows("fine");
        (rows.iter().filter(|row| row["id"].as_u64() >= Some(60)).count() == 10).then_some(())
    });
    end(server);
}

const PRINTED: &str = "
pipeline: printed
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: int } }
tables:
  items: { from: wire, key: [id] }
sinks:
  out: { type: stdout, from: wire }
";

#[test]
fn an_output_that_nobody_reads_is_the_sinks_trouble_and_at_the_end_an_error() {
    let place = Place::new(PRINTED);
    place.write("in.jsonl", "{\"id\":1}\n{\"id\":2}\n");
    let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"];
    let start = |more: &[&str]| {
        let mut command = place.command(&[&args[..], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        child
    };
    let mut child = start(&["--exit-when-idle"]);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains("sink out: standard output was closed by its reader"), "{said}");
    assert_eq!(place.query("SELECT count(*) AS n FROM items")[0]["n"], 2, "the rest was done");

    let mut child = start(&[]);
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("sink out waits: standard output was closed") || !said.contains("running; http://") {
        assert!(std::io::BufRead::read_line(&mut log, &mut said).unwrap() > 0, "{said}");
    }
    let url = said.split("running; ").nth(1).unwrap().split_whitespace().next().unwrap();
    waits(url, "out", "closed by its reader");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_full_disk_of_the_data_folder_refuses_pushes_and_takes_them_again_when_there_is_room() {
    let place = Place::new(PIPELINE);
    let Some(disk) = Mount::tmpfs(&place.path("data"), "32m") else { return };
    let server = place.start(&[]);
    let url = server.url();
    let mut stored = 0;
    let refused = eventually("a refusal", || {
        let answer = push(&url, stored, 100);
        if answer.status == 429 {
            return None;
        }
        stored += if answer.status == 200 { 100 } else { 0 };
        (answer.status != 200).then_some(answer)
    });
    assert_eq!(refused.status, 507, "{}", refused.text);
    assert!(refused.text.contains("less than 8 MiB left") && refused.header("retry-after").is_some(), "{refused:?}");
    waits(&url, "wire", "the disk of the data folder");
    assert_eq!(get(&format!("{url}/healthz")).status, 200);
    disk.remount("size=512m");
    assert_eq!(push(&url, stored, 100).status, 200);
    runs(&url, "wire");
    has_all(&place, "out", stored + 100);
    end(server);
    assert_eq!(place.query("SELECT count(*) AS n FROM items")[0]["n"], stored + 100);
}
