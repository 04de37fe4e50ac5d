//! `tap` of anything: transforms that no sink reads, several names, a filter, formats.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::http::{get, post};
use crate::support::process::eventually;
use crate::support::{Place, Server, json_lines};

const PIPELINE: &str = "\
pipeline: taps
sources:
  wire: { type: http, schema: { id: int, kind: string }, key: [id], partitions: 2 }
transforms:
  doubled: { sql: 'SELECT id, kind, 2 * id AS twice FROM wire' }
  odd: { sql: 'SELECT id, twice, 100 / (id - 7) AS ratio FROM doubled WHERE id % 2 = 1' }
tables:
  latest: { from: odd, key: [id] }
";

fn push(server: &Server, ids: std::ops::Range<i64>) {
    let rows: Vec<Value> = ids.map(|id| serde_json::json!({ "id": id, "kind": format!("k{}", id % 3) })).collect();
    let answer = post(&format!("{}/streams/wire/records", server.url()), serde_json::to_vec(&rows).unwrap());
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A tap that runs; records are pushed until it has seen enough and ends by its limit.
fn tapped(place: &Place, server: &Server, args: &[&str]) -> String {
    let mut command: Command = place.command(&["tap"]);
    command.args(args).args(["--url", &server.url()]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child: Child = command.spawn().unwrap();
    let out = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        BufReader::new(out).lines().map_while(Result::ok).fold(String::new(), |text, line| text + &line + "\n")
    });
    // Nobody says when the tap has begun: what comes later is enough.
    let mut next = 1000;
    eventually("the tap has seen enough", || {
        push(server, next..next + 20);
        next += 20;
        child.try_wait().unwrap().map(|status| assert!(status.success()))
    });
    reader.join().unwrap()
}

#[test]
fn a_transform_that_no_sink_reads_is_watched_while_it_runs() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    push(&server, 10..20);
    let lines = json_lines(&tapped(&place, &server, &["odd", "--limit", "15"]));
    assert_eq!(lines.len(), 15);
    for line in &lines {
        let record = &line["record"];
        assert_eq!((line["name"].as_str(), record["id"].as_i64().unwrap() % 2), (Some("odd"), 1), "{line}");
        assert_eq!(record["twice"].as_i64(), record["id"].as_i64().map(|id| 2 * id));
        assert!(record["id"].as_i64() >= Some(1000), "from now on: {line}");
        // The place is that of the record that it came from.
        let sql =
            format!("SELECT id FROM wire WHERE _partition = {} AND _offset = {}", line["partition"], line["offset"]);
        let rows = json_lines(&place.stdout(&["query", &sql, "--data-dir", "data", "--format", "jsonl"]));
        assert_eq!(rows[0]["id"], record["id"]);
    }
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
}

#[test]
fn several_names_with_a_condition_are_shown_beside_each_other() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    let args = ["wire", "doubled", "--where", "id % 10 = 3", "--limit", "8"];
    let lines = json_lines(&tapped(&place, &server, &args));
    assert_eq!(lines.len(), 8, "the limit holds for all together");
    assert!(lines.iter().all(|l| l["record"]["id"].as_i64().unwrap() % 10 == 3), "{lines:?}");
    let of = |name: &str| lines.iter().filter(|l| l["name"] == name).count();
    assert_eq!(of("wire") + of("doubled"), 8);
    let url = server.url();
    // Of what is stored, from the start: the table's name stands for its changes.
    let args = ["tap", "latest", "--from-start", "--limit", "2", "--where", "op = 'insert'", "--url", &url];
    let lines = json_lines(&place.stdout(&args));
    assert!(lines.len() == 2 && lines.iter().all(|l| l["name"] == "latest.changes"), "{lines:?}");
    for (args, wanted) in [
        (&["doubledd"][..], "did you mean `doubled`?"),
        (&["nothing"], "doubled, latest.changes, odd, wire"),
        (&["doubled", "--from-start"], "are not stored"),
        (&["doubled", "--no-follow"], "are not stored"),
        (&["doubled", "--where", "idd = 1"], "the condition does not fit `doubled`"),
        (&["doubled", "--where", "id + 1"], "true or false"),
    ] {
        let mut all = vec!["tap"];
        all.extend(args);
        all.extend(["--url", &url]);
        let said = place.fails(2, &all);
        assert!(said.contains(wanted), "{args:?}: {said}");
    }
    assert_eq!(get(&format!("{url}/api/v1/streams/,/tap")).status, 400);
}

#[test]
fn a_condition_that_fails_on_a_record_ends_the_tap_with_a_word() {
    let place = Place::new(PIPELINE);
    let server = place.start(&[]);
    push(&server, 5..6);
    let url = server.url();
    let condition = "1 / (id - 5) > 0";
    let args = ["tap", "wire", "--from-start", "--no-follow", "--where", condition, "--url", &url];
    let said = place.fails(1, &args);
    assert!(said.contains("1 / (id - 5) > 0") && said.contains("division by zero"), "{said}");
}

#[test]
fn in_a_folder_a_transform_is_computed_again_from_its_source() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    push(&server, 0..12);
    eventually("committed", || {
        let rows = place.stdout(&["query", "SELECT id FROM latest", "--url", &server.url(), "--format", "csv"]);
        (rows.lines().count() == 6).then_some(())
    });
    server.terminate();
    assert!(server.wait().success());
    let said = place.fails(2, &["tap", "odd", "--data-dir", "data"]);
    assert!(said.contains("--pipeline FILE"), "{said}");
    let tap = |more: &[&str]| {
        let mut args = vec!["tap", "odd", "--data-dir", "data", "--pipeline", "pipeline.yaml"];
        args.extend(more);
        place.stdout(&args)
    };
    let mut ids: Vec<i64> = json_lines(&tap(&[])).iter().map(|l| l["record"]["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    // 7 is a dead letter: a division by zero.
    assert_eq!(ids, [1, 3, 5, 9, 11]);
    assert_eq!(json_lines(&tap(&["--where", "id > 4", "--limit", "2"])).len(), 2);
    let csv = tap(&["--where", "id = 9", "--format", "csv"]);
    assert!(csv.starts_with("partition,offset,id,twice,ratio\n") && csv.trim_end().ends_with(",9,18,50"), "{csv}");
    let array: Value = serde_json::from_str(&tap(&["--format", "json"])).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 5);
    let table = tap(&["--where", "id = 9", "--format", "table"]);
    assert!(table.lines().next().unwrap().contains("twice") && table.contains("18"), "{table}");
    let said = place.fails(2, &["tap", "oddd", "--data-dir", "data", "--pipeline", "pipeline.yaml"]);
    assert!(said.contains("did you mean `odd`?"), "{said}");
}
