//! The data folder when it is in use, read-only, full, newer or damaged: a clear error, and nothing is lost.

use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Mount, Place};

const PIPELINE: &str = "
pipeline: kept
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: string, text: string }, key: [id] }
tables:
  items: { from: wire, key: [id] }
";
const RUN: [&str; 7] = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle"];

/// Appends records to the input.
fn grow(place: &Place, from: usize, records: usize, text_bytes: usize) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(place.path("in.jsonl")).unwrap();
    // Text that does not compress to nothing.
    let mut rng = rand::rngs::StdRng::seed_from_u64(from as u64);
    for n in from..from + records {
        let text: String = (&mut rng).sample_iter(rand::distr::Alphanumeric).take(text_bytes).map(char::from).collect();
        writeln!(file, "{}", json!({ "id": format!("r{n}"), "text": text })).unwrap();
    }
}

fn count(place: &Place) -> u64 {
    place.query("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM items")[0]["n"].as_u64().unwrap()
}

#[test]
fn a_second_process_on_the_same_folder_is_turned_away_and_readers_are_not() {
    let place = Place::new(PIPELINE);
    grow(&place, 0, 10, 20);
    place.run();
    let mut server = place.start(&[]);
    server.url();
    for args in [
        &RUN[..],
        &["replay", "pipeline.yaml", "--data-dir", "data"],
        &["dlq", "redrive", "--all", "--pipeline", "pipeline.yaml", "--data-dir", "data"],
    ] {
        let said = place.fails(1, args);
        assert!(
            said.contains("another Millstream process is using it") && said.contains("--data-dir"),
            "{args:?}: {said}"
        );
    }
    assert_eq!(count(&place), 10, "a query reads beside it");
    assert_eq!(place.tap("wire").len(), 10);
    assert!(server.kill(), "the first one was not disturbed");
    // A lock dies with its process.
    place.run();
}

#[test]
fn a_folder_of_a_newer_version_is_left_as_it_is() {
    let place = Place::new(PIPELINE);
    grow(&place, 0, 10, 20);
    place.run();
    let newer = r#"{"format": 99, "something": ["new"]}"#;
    place.write("data/millstream.json", newer);
    for args in [
        &RUN[..],
        &["query", "SELECT 1 AS one", "--data-dir", "data"],
        &["tap", "wire", "--data-dir", "data"],
        &["dlq", "list", "--data-dir", "data"],
    ] {
        let said = place.fails(1, args);
        assert!(said.contains("newer version"), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(place.path("data/millstream.json")).unwrap(), newer);
    let other = Place::new(&PIPELINE.replace("pipeline: kept", "pipeline: other"));
    let said = place.output(&[]);
    assert_eq!(said.status.code(), Some(2));
    other.write("in.jsonl", "");
    other.run();
    other.write("pipeline.yaml", PIPELINE);
    let said = other.fails(2, &RUN);
    assert!(said.contains("belongs to the pipeline `other`"), "{said}");
}

#[test]
fn a_read_only_folder_is_a_clear_error() {
    let place = Place::new(PIPELINE);
    grow(&place, 0, 10, 20);
    let Some(disk) = Mount::tmpfs(&place.path("data"), "64m") else { return };
    disk.remount("ro");
    let said = place.fails(1, &RUN);
    assert!(said.contains("data") && said.to_lowercase().contains("read-only"), "{said}");
    disk.remount("rw");
    place.run();
    disk.remount("ro");
    assert_eq!(count(&place), 10, "what is there can be read");
    let said = place.fails(1, &RUN);
    assert!(said.to_lowercase().contains("read-only"), "{said}");
}

#[test]
fn a_full_disk_holds_the_source_up_and_it_goes_on_when_there_is_room() {
    let place = Place::new(PIPELINE);
    let Some(disk) = Mount::tmpfs(&place.path("data"), "64m") else { return };
    let records = 30_000;
    grow(&place, 0, records, 2_000);
    let mut server = place.start(&["--exit-when-idle"]);
    server.wait_for_log("source wire waits: the disk of the data folder data has less than 16 MiB left");
    disk.remount("size=512m");
    let status = server.wait();
    let log = server.log();
    assert!(status.success() && log.contains("source wire goes on"), "{log}");
    assert_eq!(count(&place), records as u64);
    assert_eq!(place.tap("wire").len(), records);
    assert_eq!(place.tap("items.changes").len(), records, "and nothing is doubled");
}

#[test]
fn a_start_on_a_full_disk_is_a_clear_error_and_nothing_is_lost() {
    let place = Place::new(PIPELINE);
    let Some(_disk) = Mount::tmpfs(&place.path("data"), "32m") else { return };
    grow(&place, 0, 500, 2_000);
    place.run();
    // Somebody else takes all the room there is.
    let _ = std::fs::write(place.path("data/other"), vec![0; 48 << 20]);
    grow(&place, 500, 500, 2_000);
    let said = place.fails(1, &RUN);
    assert!(said.contains("No space left on device"), "{said}");
    std::fs::remove_file(place.path("data/other")).unwrap();
    place.run();
    assert_eq!(count(&place), 1_000);
    assert_eq!(place.tap("wire").len(), 1_000);
    assert_eq!(place.tap("items.changes").len(), 1_000, "and nothing is doubled");
}

#[test]
fn a_flipped_byte_in_the_log_is_named_with_its_file_and_place() {
    let place = Place::new(PIPELINE);
    for turn in 0..5 {
        grow(&place, turn * 20, 20, 200);
        place.run();
    }
    for stream in ["wire", "items.changes"] {
        let segment = place.path(&format!("data/log/{stream}/00000000000000000000.seg"));
        let whole = std::fs::read(&segment).unwrap();
        // Well inside: the end may be a torn write, which is cut off.
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 0x10;
        std::fs::write(&segment, &damaged).unwrap();
        let said = place.fails(1, &RUN);
        assert!(said.contains("00000000000000000000.seg") && said.contains("byte"), "{stream}: {said}");
        assert_eq!(std::fs::read(&segment).unwrap(), damaged, "nothing was cut off");
        let tapped = place.output(&["tap", stream, "--data-dir", "data"]);
        assert_eq!(tapped.status.code(), Some(1), "{stream}: {}", String::from_utf8_lossy(&tapped.stderr));
        std::fs::write(&segment, &whole).unwrap();
    }
    place.run();
    assert_eq!(count(&place), 100);
}

#[test]
fn a_flipped_byte_in_the_state_never_gives_a_wrong_row() {
    let place = Place::new(PIPELINE);
    grow(&place, 0, 2_000, 100);
    place.run();
    let whole: Vec<Value> = place.query("SELECT * FROM items ORDER BY id");
    let mut files = Vec::new();
    tables_below(&place.path("data/state"), &mut files);
    assert!(!files.is_empty());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let mut damaged = bytes.clone();
        damaged[bytes.len() / 2] ^= 0x10;
        std::fs::write(&file, &damaged).unwrap();
        let query =
            place.output(&["query", "SELECT * FROM items ORDER BY id", "--data-dir", "data", "--format", "jsonl"]);
        if query.status.success() {
            let rows = crate::support::json_lines(&String::from_utf8(query.stdout).unwrap());
            assert!(rows == whole, "{}: {} rows where {} were", file.display(), rows.len(), whole.len());
        } else {
            eprintln!("{}: {}", file.display(), String::from_utf8_lossy(&query.stderr));
        }
        std::fs::write(&file, bytes).unwrap();
    }
    assert!(place.query("SELECT * FROM items ORDER BY id") == whole);
}

/// All tables of the state below a folder.
fn tables_below(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tables_below(&path, files);
        } else if path.extension().is_some_and(|e| e == "sst") && path.metadata().unwrap().len() > 0 {
            files.push(path);
        }
    }
}

#[test]
fn pipelines_in_one_folder_keep_their_data_apart_and_commands_find_it() {
    let place = Place::new(PIPELINE);
    place.write("other.yaml", PIPELINE.replace("pipeline: kept", "pipeline: other").replace("in.jsonl", "other.jsonl"));
    grow(&place, 0, 10, 20);
    place.write("other.jsonl", "{\"id\":\"x\",\"text\":\"y\"}\n");
    let run = |file: &str| place.stdout(&["run", file, "--listen", "127.0.0.1:0", "--exit-when-idle"]);
    let count = |more: &[&str]| {
        // No server is asked: this port is nobody's.
        let args = [&["query", "SELECT count(*) AS n FROM items", "--format", "jsonl"], more].concat();
        crate::support::json_lines(&place.stdout(&args))[0]["n"].as_u64()
    };
    run("pipeline.yaml");
    assert_eq!(count(&[]), Some(10), "the only one is found");
    run("other.yaml");
    assert!(place.path("millstream-data/kept/millstream.json").exists());
    assert!(place.path("millstream-data/other/millstream.json").exists());
    let said = place.fails(2, &["query", "SELECT 1 AS one"]);
    assert!(said.contains("kept, other") && said.contains("--pipeline"), "{said}");
    assert_eq!((count(&["--pipeline", "kept"]), count(&["--pipeline", "other.yaml"])), (Some(10), Some(1)));
    let said = place.fails(2, &["dlq", "list", "--pipeline", "third"]);
    assert!(said.contains("kept, other"), "{said}");
    place.stdout(&["replay", "other.yaml"]);
    place.stdout(&["dlq", "redrive", "--all", "--pipeline", "other.yaml"]);
    place.stdout(&["tap", "wire", "--no-follow", "--pipeline", "kept"]);
}

#[test]
fn a_folder_of_an_earlier_version_is_used_where_it_is() {
    let place = Place::new(PIPELINE);
    grow(&place, 0, 10, 20);
    let args = ["run", "pipeline.yaml", "--listen", "127.0.0.1:0", "--exit-when-idle"];
    place.stdout(&[
        "run",
        "pipeline.yaml",
        "--data-dir",
        "millstream-data",
        "--listen",
        "127.0.0.1:0",
        "--exit-when-idle",
    ]);
    grow(&place, 10, 5, 20);
    let output = place.output(&args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("as earlier versions had it"), "{said}");
    assert!(!place.path("millstream-data/kept").exists());
    let rows = place.stdout(&["query", "SELECT count(*) AS n FROM items", "--format", "jsonl"]);
    assert_eq!(rows.trim(), "{\"n\":15}");
}
