//! Failure is seen: in the log, in the counts at the end, in the exit code, on the server.

use std::io::{Read, Write};
use std::net::TcpListener;

use serde_json::Value;

use crate::support::Place;
use crate::support::http::{self, Answer};
use crate::support::process::eventually;

const WRONG: &str = "pipeline: wrong
sources:
  wire: { type: file, path: ./in.csv, decode: csv, schema: { id: int, n: int } }
tables:
  kept: { from: wire, key: [id] }
";

/// A folder whose input is ten records, of which the first `wrong` do not decode.
fn place(wrong: usize) -> Place {
    let place = Place::new(WRONG);
    let line = |i: usize| if i < wrong { format!("{i},x\n") } else { format!("{i},{i}\n") };
    place.write("in.csv", "id,n\n".to_owned() + &(0..10).map(line).collect::<String>());
    place
}

fn run(place: &Place, more: &[&str]) -> (Option<i32>, String) {
    let mut server = place.start(&[&["--exit-when-idle"], more].concat());
    let status = server.wait();
    (status.code(), server.log())
}

#[test]
fn a_run_whose_records_were_all_rejected_says_so_and_fails_where_it_is_told_to() {
    let (code, log) = run(&place(10), &[]);
    assert_eq!(code, Some(0));
    assert!(log.contains("WARN") && log.contains("10 records put into the dead letter queue (type_mismatch)"), "{log}");
    assert!(log.contains("source wire") && log.contains("10 dead letters (type_mismatch)"), "the counts: {log}");
    assert!(log.contains("10 of 10 records are in the dead letter queue"), "{log}");
    assert!(!log.contains("everything is read, delivered"), "{log}");

    assert_eq!(run(&place(10), &["--fail-on-dead-letters"]).0, Some(3));
    assert_eq!(run(&place(0), &["--fail-on-dead-letters"]).0, Some(0));
    assert_eq!(run(&place(2), &["--fail-on-dead-letters=2"]).0, Some(0));
    assert_eq!(run(&place(3), &["--fail-on-dead-letters=2"]).0, Some(3));
    assert_eq!(run(&place(2), &["--fail-on-dead-letters=20%"]).0, Some(0));
    assert_eq!(run(&place(3), &["--fail-on-dead-letters=20%"]).0, Some(3));
    let said = place(0).fails(2, &["run", "pipeline.yaml", "--fail-on-dead-letters=some"]);
    assert!(said.contains("some"), "{said}");
}

#[test]
fn a_run_without_a_failure_says_that_everything_is_done_and_counts_it() {
    let (code, log) = run(&place(0), &[]);
    assert_eq!(code, Some(0));
    assert!(log.contains("done: everything is read, delivered and committed") && !log.contains("WARN"), "{log}");
    let line = log.lines().find(|line| line.contains("table kept")).unwrap();
    assert!(line.split_whitespace().filter(|word| *word == "10").count() == 2, "in and out: {line}");
}

#[test]
fn what_is_skipped_is_counted_apart() {
    let place = place(4);
    place.write("pipeline.yaml", WRONG.replace("decode: csv,", "decode: csv, on_error: skip,"));
    let (code, log) = run(&place, &["--fail-on-dead-letters"]);
    assert_eq!(code, Some(0), "what is skipped on purpose is no dead letter: {log}");
    assert!(log.contains("4 skipped (type_mismatch)") && log.contains("done, 4 records skipped"), "{log}");
}

#[test]
fn a_webhook_that_refuses_everything_is_no_success() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let mut request = [0; 4096];
            if connection.read(&mut request).is_ok_and(|n| n > 0) {
                let _ = connection.write_all(b"HTTP/1.1 422 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        }
    });
    let place = place(0);
    place.write("pipeline.yaml", format!("{WRONG}sinks:\n  hook: {{ type: http, from: wire, url: \"{url}\" }}\n"));
    let (code, log) = run(&place, &["--fail-on-dead-letters"]);
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("sink hook: 10 records put into the dead letter queue (rejected)"), "{log}");
    assert!(log.contains("10 dead letters (rejected)"), "{log}");
}

fn component(url: &str, name: &str) -> Value {
    let components = http::get(&format!("{url}/api/v1/components")).json();
    let all = components["components"].as_array().unwrap();
    all.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name} in {components}")).clone()
}

#[test]
fn a_sink_that_waits_is_seen_everywhere_and_goes_on_when_its_system_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let place = place(0);
    let sink = format!("sinks:\n  hook: {{ type: http, from: wire, url: \"http://{address}/hook\" }}\n");
    place.write("pipeline.yaml", format!("{WRONG}{sink}"));
    let server = place.start(&[]);
    let url = server.url();
    assert!(server.log().contains("sink hook waits: "), "said before it runs: {}", server.log());

    let waits =
        eventually("a second attempt", || Some(component(&url, "hook")).filter(|c| c["attempt"].as_u64() >= Some(2)));
    assert_eq!(waits["state"], "waiting");
    assert!(waits["reason"].as_str().unwrap().contains("refused"), "{waits}");
    assert!(waits["since"].is_string() && waits["retries"].as_u64() >= Some(2), "{waits}");
    assert_eq!(component(&url, "wire")["state"], "finished");
    assert_eq!(component(&url, "kept")["state"], "running");
    let Answer { status, text, .. } = http::get(&format!("{url}/readyz"));
    assert!(status == 503 && text.contains("sink hook waits"), "{status} {text}");
    assert_eq!(http::get(&format!("{url}/readyz?waiting=ok")).status, 200);
    let metrics = http::get(&format!("{url}/metrics")).text;
    let state = "component_state{component_kind=\"sink\",component_id=\"hook\",state=\"waiting\"} 1";
    assert!(
        metrics.contains(state) && metrics.contains("component_retries_total{component_kind=\"sink\""),
        "{metrics}"
    );

    let back = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for mut connection in back.incoming().map_while(Result::ok) {
            let mut request = [0; 65536];
            if connection.read(&mut request).is_ok_and(|n| n > 0) {
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            }
        }
    });
    eventually("the sink goes on", || Some(component(&url, "hook")).filter(|c| c["state"] == "running"));
    assert!(component(&url, "hook")["last_error"]["message"].is_string(), "what went wrong last stays");
    eventually("ready", || Some(http::get(&format!("{url}/readyz")).status).filter(|status| *status == 200));
    server.wait_for_log("sink hook goes on after");
}

#[test]
fn what_can_never_work_is_said_before_anything_runs() {
    let place = place(0);
    place.write("file", "");
    let sinks = "sinks:\n  a: { type: file, from: wire, folder: ./file/out }\n  b: { type: file, from: wire, folder: ./file }\n";
    place.write("pipeline.yaml", format!("{}{sinks}", WRONG.replace("./in.csv", "./no-such.csv")));
    let said = place.fails(2, &["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0"]);
    for part in ["source wire: ", "no-such.csv does not exist", "sink a: ", "sink b: ", "is a file, not a folder"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("INFO running"), "{said}");
    let checked = place.output(&["check", "pipeline.yaml"]);
    let lines = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(checked.status.code(), Some(1));
    assert_eq!(lines.matches(": wrong: ").count(), 3, "{lines}");
    let json = place.output(&["validate", "--connect", "--format", "json", "pipeline.yaml"]).stdout;
    let json: Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["connections"].as_array().unwrap().len(), 3);
    assert_eq!(json["ok"], false);
}

#[test]
fn a_log_level_that_does_not_exist_is_an_error() {
    let place = place(0).with_env("MILLSTREAM_LOG", "verbose");
    let said = place.fails(2, &["validate", "pipeline.yaml"]);
    assert!(said.contains("`verbose` is no level") && said.contains("debug"), "{said}");
    let place = place.with_env("MILLSTREAM_LOG", "debug");
    let mut server = place.start(&["--exit-when-idle"]);
    assert!(server.wait().success());
    assert!(!server.log().contains("sqlparser") && !server.log().contains("Parsing sql"), "{}", server.log());
}

#[test]
fn a_terminal_that_goes_away_is_a_graceful_stop() {
    let place = place(0);
    let mut server = place.start(&[]);
    server.url();
    let sent = std::process::Command::new("kill").args(["-HUP", &server.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert!(server.wait().success());
    assert!(server.log().contains("stopped; the next start goes on from here"), "{}", server.log());
}
