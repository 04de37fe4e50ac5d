//! The cases of `tests/cases`: a pipeline file, its input, and everything that comes out of it in `expected.txt`.
//!
//! Every case runs straight, and again with `kill -9` on the way, where its file says `${PARTITIONS…}` with another
//! number of partitions, and must come out the same. `UPDATE_GOLDEN=1` writes what the straight run gives.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::support::{Kills, Place, seeded};

macro_rules! cases {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { check(stringify!($name)); })+

        #[test]
        fn every_folder_is_a_case() {
            let mut found: Vec<_> = std::fs::read_dir(cases()).unwrap().map(|e| e.unwrap().file_name()).collect();
            let mut listed: Vec<_> = vec![$(std::ffi::OsString::from(stringify!($name))),+];
            found.sort();
            listed.sort();
            assert_eq!(found, listed);
        }
    };
}

cases! {
    branches_meet, change_events, changes, csv_with_bad_rows, debezium_postgres, fan_in, fan_out, metadata, on_error_default, on_error_dead_letter, on_error_skip, predict,
    sql, tabular, xml,
}

/// Kills on the way of the second run, at most: it may be done before.
const KILLS: usize = 6;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases")
}

fn check(name: &str) {
    let case = cases().join(name);
    let pipeline = std::fs::read_to_string(case.join("pipeline.yaml")).unwrap();

    let straight = place(&case, &pipeline);
    let started = Instant::now();
    straight.run();
    let time = started.elapsed();
    let found = dump(&straight);
    let golden = case.join("expected.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_same(&format!("{name}, run straight"), &expected, &found);

    let mut rng = seeded(name);
    let crashed = place(&case, &pipeline).with_env("PARTITIONS", "5");
    let mut kills = Kills::default();
    for _ in 0..KILLS {
        kills.within(time, &crashed, &mut rng);
    }
    crashed.run();
    eprintln!("{name}: {kills:?}");
    assert_same(&format!("{name}, killed on the way"), &expected, &dump(&crashed));
    assert_eq!(crashed.unfinished("out"), Vec::<PathBuf>::new());
}

fn place(case: &Path, pipeline: &str) -> Place {
    let place = Place::new(pipeline);
    for entry in std::fs::read_dir(case).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("input") || name.ends_with(".onnx") {
            place.write(name, std::fs::read(&path).unwrap());
        }
    }
    place
}

/// Says which line differs first: whole files are hard to compare by eye.
fn assert_same(what: &str, expected: &str, found: &str) {
    let (mut left, mut right) = (expected.lines(), found.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => return,
            (left, right) if left == right => {}
            (left, right) => panic!(
                "{what}: line {number}\nexpected: {}\n   found: {}\n\nUPDATE_GOLDEN=1 accepts what was found:\n{found}",
                left.unwrap_or("(the end)"),
                right.unwrap_or("(the end)")
            ),
        }
    }
}

/// Tables, change streams, files and dead letters, without what differs between two runs: moments, partitions, offsets.
fn dump(place: &Place) -> String {
    let mut out = String::new();
    let catalog: Value = serde_json::from_slice(&std::fs::read(place.path("data/catalog.json")).unwrap()).unwrap();
    for table in catalog["tables"].as_array().unwrap() {
        let name = table["name"].as_str().unwrap();
        section(&mut out, &format!("table {name}"), sorted(place.query(&format!("SELECT * FROM {name}"))));
        let changes = place.tap(&format!("{name}.changes")).into_iter().map(|mut line| line["record"].take());
        section(&mut out, &format!("changes of {name}"), by_key(changes.map(without_time).collect()));
    }
    let mut sinks: Vec<_> =
        std::fs::read_dir(place.path("out")).into_iter().flatten().map(|e| e.unwrap().file_name()).collect();
    sinks.sort();
    for sink in sinks.iter().filter_map(|name| name.to_str()) {
        let rows = place.sink_rows(&format!("out/{sink}")).into_iter().map(without_time).collect();
        section(&mut out, &format!("files of {sink}"), sorted(rows));
    }
    section(&mut out, "dead letters", sorted(place.dead_letters().into_iter().map(lasting).collect()));
    out
}

fn section(out: &mut String, title: &str, rows: Vec<Value>) {
    writeln!(out, "== {title}: {} ==", rows.len()).unwrap();
    rows.iter().for_each(|row| writeln!(out, "{row}").unwrap());
    out.push('\n');
}

fn sorted(mut rows: Vec<Value>) -> Vec<Value> {
    rows.sort_by_key(ToString::to_string);
    rows
}

/// Each key's changes in their order, one key after the other.
fn by_key(mut changes: Vec<Value>) -> Vec<Value> {
    changes.sort_by_key(|change| change["key"].to_string());
    changes
}

fn without_time(mut row: Value) -> Value {
    if row.get("op").is_some() {
        row.as_object_mut().unwrap().shift_remove("ts");
    }
    row
}

/// What of a dead letter is the same in every run. Its origin is a path of the test's own folder.
fn lasting(mut letter: Value) -> Value {
    let origin = letter["origin"].as_str().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned());
    let letter = letter.as_object_mut().unwrap();
    letter.insert("origin".into(), origin.into());
    letter.retain(|name, value| {
        let lasts = ["stage", "component", "kind", "message", "raw", "raw_base64", "origin", "position", "attempts"];
        lasts.contains(&name.as_str()) && !value.is_null()
    });
    Value::Object(letter.clone())
}
