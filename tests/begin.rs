//! Where something new begins in an old data folder: tables, and sinks on sources, transforms and change streams.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Place, Server};

const SOURCE: &str = "
pipeline: kept
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: int, n: int }, key: [id], partitions: PARTITIONS }
";
/// A record with `n: 0` is a dead letter.
const REST: &str = "
transforms:
  halved: { sql: \"SELECT id, n, 100 / n AS share FROM wire\" }
tables:
  news: { from: halved, key: [id] }
";

fn pipeline(partitions: u32, more: &str) -> String {
    SOURCE.replace("PARTITIONS", &partitions.to_string()) + REST + more
}

/// A folder after a run over ten records, of which `id` 5 is a dead letter.
fn old(partitions: u32) -> Place {
    let place = Place::new(&pipeline(partitions, ""));
    grow(&place, 0, 10);
    place.run();
    assert_eq!((count(&place, "news"), place.dead_letters().len()), (9, 1));
    place
}

/// Appends records; every one with an `id` that ends in 5 can't be halved.
fn grow(place: &Place, from: usize, records: usize) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(place.path("in.jsonl")).unwrap();
    for id in from..from + records {
        writeln!(file, "{}", json!({ "id": id, "n": if id % 10 == 5 { 0 } else { id + 1 } })).unwrap();
    }
}

fn count(place: &Place, relation: &str) -> u64 {
    place.query(&format!("SELECT count(*) AS n FROM {relation}"))[0]["n"].as_u64().unwrap()
}

/// Runs `pipeline.yaml` with more at its end; gives the log.
fn run_with(place: &Place, partitions: u32, more: &str) -> String {
    place.write("pipeline.yaml", pipeline(partitions, more));
    let mut server = place.start(&["--exit-when-idle"]);
    let status = server.wait();
    assert!(status.success(), "{}", server.log());
    server.log()
}

/// The ids that a file sink has written, sorted.
fn ids(place: &Place, folder: &str) -> Vec<i64> {
    let id = |row: &Value| row["id"].as_i64().or(row["new"]["id"].as_i64()).unwrap();
    let mut ids: Vec<i64> = place.sink_rows(folder).iter().map(id).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_table_that_is_added_later_begins_now_says_so_and_a_replay_fills_it_alone() {
    let place = old(1);
    let log = run_with(&place, 1, "  news2: { from: halved, key: [id] }\n");
    let said = "`news2` begins at offset 10 of `wire`; `millstream replay FILE --table news2` fills it";
    assert!(log.contains(said), "{log}");
    grow(&place, 10, 10);
    let log = run_with(&place, 1, "  news2: { from: halved, key: [id] }\n");
    assert!(!log.contains("begins at"), "it has begun: {log}");
    assert_eq!((count(&place, "news"), count(&place, "news2")), (18, 9));

    place.stdout(&["replay", "pipeline.yaml", "--table", "news2", "--data-dir", "data"]);
    assert_eq!((count(&place, "news"), count(&place, "news2")), (18, 18));
    assert_eq!(place.dead_letters().len(), 2, "what failed then is not put aside again");
    assert_eq!((place.tap("news.changes").len(), place.tap("news2.changes").len()), (18, 18));
    grow(&place, 20, 10);
    run_with(&place, 1, "  news2: { from: halved, key: [id] }\n");
    assert_eq!((count(&place, "news"), count(&place, "news2"), place.dead_letters().len()), (27, 27, 3));
    let said = place.fails(2, &["replay", "pipeline.yaml", "--table", "new", "--data-dir", "data"]);
    assert!(said.contains("no table `new`"), "{said}");
}

#[test]
fn a_table_that_starts_earliest_is_filled_once_and_nothing_is_repeated_elsewhere() {
    for (partitions, table) in [
        (1, "  news2: { from: halved, key: [id], start: earliest }\n"),
        (3, "  news2: { from: halved, key: [id], start: earliest }\n"),
        // Partitioned otherwise, so that its rows go through an exchange.
        (3, "  news2: { from: halved, key: [n], start: earliest, partitions: 2 }\n"),
        // With a step of its own, whose failures are new.
        (1, "  news2: { from: again, key: [id], start: earliest }\n"),
    ] {
        let place = old(partitions);
        grow(&place, 10, 10);
        let step = "transforms:\n  again: { sql: \"SELECT id, n, 100 / (n - 3) AS share FROM halved\" }\n";
        let write = |place: &Place| {
            let text =
                pipeline(partitions, table).replacen("transforms:\n", step, usize::from(table.contains("again")));
            place.write("pipeline.yaml", text);
        };
        write(&place);
        let mut server = place.start(&["--exit-when-idle"]);
        assert!(server.wait().success(), "{}", server.log());
        assert!(server.log().contains("`news2` is filled with what `wire` holds from offset"), "{}", server.log());
        let (rows, letters) = if table.contains("again") { (17, 3) } else { (18, 2) };
        assert_eq!((count(&place, "news"), count(&place, "news2")), (18, rows), "{table}");
        assert_eq!((place.tap("news.changes").len(), place.tap("news2.changes").len()), (18, rows as usize));
        assert_eq!(place.dead_letters().len(), letters, "{table}");
        grow(&place, 20, 10);
        write(&place);
        place.run();
        assert_eq!((count(&place, "news"), count(&place, "news2")), (27, rows + 9), "{table}");
    }
}

#[test]
fn a_sink_that_is_added_later_begins_now_whatever_it_reads() {
    for from in ["wire", "halved", "news.changes"] {
        let sink =
            |name: &str, start: &str| format!("  {name}: {{ type: file, from: {from}, folder: ./{name}{start} }}\n");
        let place = old(1);
        let sinks = format!("sinks:\n{}", sink("later", ""));
        let log = run_with(&place, 1, &sinks);
        let streams = if from == "halved" {
            "10 of `wire`"
        } else {
            if from == "wire" { "10 of `wire`" } else { "9 of `news.changes`" }
        };
        assert!(log.contains(&format!("`later` begins at offset {streams}")), "{from}: {log}");
        grow(&place, 10, 4);
        run_with(&place, 1, &sinks);
        assert_eq!(ids(&place, "later"), [10, 11, 12, 13], "{from}");

        // One that wants what is older; and the first one under another name: a new sink.
        let sinks = format!("sinks:\n{}{}", sink("renamed", ""), sink("all", ", start: earliest"));
        grow(&place, 14, 1);
        let log = run_with(&place, 1, &sinks);
        assert!(log.contains("`renamed` begins at"), "{from}: {log}");
        assert_eq!(ids(&place, "renamed"), [14], "{from}: {log}");
        // A transform's stream has what was written since its first sink.
        let expected: Vec<i64> = match from {
            "wire" => (0..15).collect(),
            "halved" => (10..15).collect(),
            _ => (0..15).filter(|id| *id != 5).collect(),
        };
        assert_eq!(ids(&place, "all"), expected, "{from}");
        assert_eq!(place.dead_letters().len(), 1, "{from}");
    }
}

#[test]
fn a_sink_whose_state_was_removed_is_not_new() {
    let place = old(1);
    let sinks = "sinks:\n  all: { type: file, from: wire, folder: ./all, start: earliest }\n";
    run_with(&place, 1, sinks);
    // What `start` says is for new sinks.
    let sinks = sinks.replace(", start: earliest", "");
    std::fs::remove_dir_all(place.path("data/state/sink:all")).unwrap();
    let log = run_with(&place, 1, &sinks);
    assert!(log.contains("sink all has no state") && !log.contains("begins at"), "{log}");
    let twice: Vec<i64> = (0..10).flat_map(|id| [id, id]).collect();
    assert_eq!(ids(&place, "all"), twice);
    assert!(!run_with(&place, 1, &sinks).contains("has no state"), "it has begun");
}

#[test]
fn the_first_sink_on_a_transform_that_starts_earliest_gets_what_the_source_still_has() {
    let place = old(1);
    let sinks = "sinks:\n  all: { type: file, from: halved, folder: ./all, start: earliest }\n";
    let log = run_with(&place, 1, sinks);
    assert!(log.contains("`all` is filled with what `wire` holds from offset 0 on"), "{log}");
    grow(&place, 10, 2);
    run_with(&place, 1, sinks);
    assert_eq!(ids(&place, "all"), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]);
    assert_eq!((place.dead_letters().len(), place.tap("news.changes").len()), (1, 11));
    // Taken out and put back: it goes on where it was, and what came meanwhile is made up for.
    grow(&place, 12, 1);
    run_with(&place, 1, "");
    grow(&place, 13, 1);
    run_with(&place, 1, sinks);
    assert_eq!(ids(&place, "all"), [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn start_counts_only_where_something_is_new() {
    let place = Place::new(&pipeline(1, "  news2: { from: halved, key: [id], start: latest }\n"));
    grow(&place, 0, 10);
    place.run();
    assert_eq!(count(&place, "news2"), 9, "in a new folder there is nothing older");
    let more = "  news3: { from: halved, key: [id] }\n";
    run_with(&place, 1, more);
    grow(&place, 10, 1);
    let log = run_with(&place, 1, "  news3: { from: halved, key: [id], start: earliest }\n");
    assert!(!log.contains("is filled"), "{log}");
    assert_eq!(count(&place, "news3"), 1);
}

#[test]
fn a_filling_that_is_killed_again_and_again_gives_each_row_once() {
    const RECORDS: usize = 60_000;
    let place = Place::new(&pipeline(2, ""));
    grow(&place, 0, RECORDS);
    place.run();
    let table = "  news2: { from: halved, key: [id], start: earliest }\n  news3: { from: halved, key: [n], partitions: 1, start: earliest }\n";
    place.write("pipeline.yaml", pipeline(2, table));
    let mut killed = 0;
    for (n, pause_ms) in [150, 250, 400, 600].into_iter().enumerate() {
        let mut server: Server = place.start(&["--exit-when-idle"]);
        server.wait_for_log(if n == 0 { "is filled with what" } else { "running; http" });
        server.ended_within(Duration::from_millis(pause_ms));
        killed += usize::from(server.kill());
    }
    assert!(killed > 0, "it was always faster than the test");
    place.run();
    let good = RECORDS as u64 / 10 * 9;
    for table in ["news", "news2", "news3"] {
        let changes = format!("SELECT count(*) AS n FROM \"{table}.changes\"");
        assert_eq!((count(&place, table), place.query(&changes)[0]["n"].as_u64()), (good, Some(good)), "{table}");
    }
    let letters = place.stdout(&["dlq", "list", "--data-dir", "data", "--format", "jsonl", "--limit", "1000000"]);
    assert_eq!(letters.lines().count(), RECORDS / 10);
}
