//! `millstream repair`: it finds what is damaged in a data folder, and makes anew what something else can make.

use std::path::PathBuf;

use serde_json::json;

use crate::support::{Place, files_below};

const PIPELINE: &str = "
pipeline: mended
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: string, n: int }, key: [id] }
transforms:
  kept: { sql: \"SELECT id, n FROM wire\" }
tables:
  items: { from: kept, key: [id] }
sinks:
  rows: { type: file, from: kept, folder: ./out/rows }
  changes: { type: file, from: items.changes, folder: ./out/changes }
";
const DRY: [&str; 5] = ["repair", "pipeline.yaml", "--data-dir", "data", "--dry-run"];
const YES: [&str; 5] = ["repair", "pipeline.yaml", "--data-dir", "data", "--yes"];
const ROWS: usize = 300;

fn place() -> Place {
    let place = Place::new(PIPELINE);
    let line = |n: usize| json!({ "id": format!("r{}", n % 50), "n": n }).to_string() + "\n";
    place.write("in.jsonl", (0..ROWS).map(line).collect::<String>());
    place.run();
    place
}

fn table(place: &Place) -> Vec<serde_json::Value> {
    place.query("SELECT id, n FROM items ORDER BY id")
}

/// The files of one ending below a folder of the data folder that are not empty.
fn files(place: &Place, folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut files = files_below(&place.path("data").join(folder));
    files.retain(|file| file.to_string_lossy().ends_with(ending) && std::fs::metadata(file).unwrap().len() > 0);
    files.sort();
    assert!(!files.is_empty(), "no {ending} in {folder}");
    files
}

fn flip(file: &std::path::Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// What a dry run says, where something is damaged.
fn said(place: &Place) -> String {
    let output = place.output(&DRY);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("nothing was changed"), "{out}{err}");
    out.into_owned()
}

#[test]
fn a_whole_folder_is_said_to_be_whole() {
    let place = place();
    let out = place.stdout(&DRY);
    assert!(out.contains("nothing is damaged") && out.contains("2 sinks"), "{out}");
    assert_eq!(place.stdout(&YES), out, "nothing to do");
    assert!(!place.path("data/damaged").exists());
}

#[test]
fn a_damaged_state_is_built_anew_from_its_log_and_nothing_of_it_is_lost() {
    let place = place();
    let before = table(&place);
    assert_eq!(before.len(), 50);
    let states = place.path("data/state");
    let mut all = files(&place, "state/wire", ".sst");
    all.extend(files(&place, "state/wire", ".manifest"));
    all.iter().for_each(|file| flip(file));
    let out = said(&place);
    for file in &all {
        let name = file.strip_prefix(place.path("data")).unwrap().to_string_lossy().into_owned();
        assert!(out.contains(&name), "{name} is not named: {out}");
    }
    assert!(out.contains("built anew from the") && out.contains("sent again"), "{out}");
    let said = place.fails(2, &YES[..4]);
    assert!(said.contains("--yes"), "it asks: {said}");
    assert!(files_below(&states).contains(&all[0]), "and has done nothing");

    let out = place.stdout(&YES);
    assert!(out.contains("built anew from their logs"), "{out}");
    assert_eq!(table(&place), before);
    assert!(place.stdout(&DRY).contains("nothing is damaged"));
    let aside = files(&place, "damaged", ".manifest");
    assert!(!aside.is_empty(), "what was damaged is kept");
    // What the sinks read was written again, and all of it has arrived: the logs did not take it for what they had.
    assert_eq!(place.tap("kept").len(), 2 * ROWS);
    assert_eq!(place.sink_rows("out/rows").len(), 2 * ROWS);
    let more = std::fs::read_to_string(place.path("in.jsonl")).unwrap() + "{\"id\":\"new\",\"n\":1}\n";
    place.write("in.jsonl", more);
    place.run();
    assert_eq!(table(&place).len(), 51, "and it goes on");
    assert_eq!(place.sink_rows("out/rows").len(), 2 * ROWS + 1);
}

#[test]
fn an_older_copy_of_a_state_is_found_by_a_start_and_mended() {
    let place = Place::new(PIPELINE);
    let line = |n: usize| json!({ "id": format!("r{n}"), "n": n }).to_string() + "\n";
    place.write("in.jsonl", (0..10).map(line).collect::<String>());
    place.run();
    let copy = |from: &str, to: &str| {
        let _ = std::fs::remove_dir_all(place.path(to));
        let done = std::process::Command::new("cp").arg("-a").args([place.path(from), place.path(to)]).status();
        assert!(done.unwrap().success());
    };
    copy("data/state", "older");
    place.write("in.jsonl", (0..40).map(line).collect::<String>());
    place.run();
    copy("older", "data/state");
    let args = ["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle"];
    let said_by_run = place.fails(1, &args);
    assert!(said_by_run.contains("older") && said_by_run.contains("millstream repair"), "{said_by_run}");
    assert!(said(&place).contains("is an older copy"));
    place.stdout(&YES);
    assert_eq!(table(&place).len(), 40);
}

#[test]
fn a_sink_whose_offsets_are_damaged_starts_again_and_small_files_are_written_anew() {
    let place = place();
    let before = table(&place);
    files(&place, "state/sink:rows", ".manifest").iter().for_each(|file| flip(file));
    place.write("data/catalog.json", "{");
    let schemas = files(&place, "schemas", ".arrow");
    for schema in &schemas {
        let bytes = std::fs::read(schema).unwrap();
        std::fs::write(schema, &bytes[..bytes.len() / 2]).unwrap();
    }
    let out = said(&place);
    for what in ["state/sink:rows", "delivered again", "catalog.json", "schemas"] {
        assert!(out.contains(what), "{what}: {out}");
    }
    assert!(!out.contains("no repair"), "the pipeline file has all schemas: {out}");
    place.stdout(&YES);
    place.run();
    assert_eq!(table(&place), before);
    assert_eq!(place.sink_rows("out/rows").len(), 2 * ROWS, "everything once more");
    assert_eq!(place.sink_rows("out/changes").len(), place.tap("items.changes").len(), "and only there");
}

#[test]
fn a_damaged_log_is_named_and_left_as_it_is() {
    let place = place();
    let segment = files(&place, "log/wire", ".seg").remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[8] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    files(&place, "state/wire/0", ".sst").iter().for_each(|file| flip(file));
    let out = said(&place);
    assert!(out.contains(&*segment.file_name().unwrap().to_string_lossy()), "{out}");
    assert!(out.contains("no repair: nothing else holds these records"), "{out}");
    assert!(out.contains("nothing can build it anew"), "a state is not taken away where its log is damaged: {out}");
    let said = place.fails(1, &YES);
    assert!(said.contains("stay damaged"), "{said}");
    assert_eq!(std::fs::read(&segment).unwrap(), bytes);
    assert!(place.path("data/state/wire/0").exists());
}

#[test]
fn a_folder_that_is_in_use_or_none_is_not_touched() {
    let place = place();
    let mut server = place.start(&[]);
    server.url();
    assert!(place.fails(1, &YES).contains("another Millstream process is using it"));
    assert!(server.kill());
    let said = place.fails(2, &["repair", "pipeline.yaml", "--data-dir", "none", "--yes"]);
    assert!(said.contains("is no data folder"), "{said}");
    assert!(!place.path("none").exists());
}
