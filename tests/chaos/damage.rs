//! Damage of files at rest: flipped bits, files cut off, emptied, removed, grown or put back as they were before. What
//! is read afterwards is right, or an error that names the file; never other data, never a panic.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{report, rounds};
use crate::support::process::Server;
use crate::support::{Place, json_lines, seeded};

const PIPELINE: &str = "
pipeline: damage
sources:
  wire:
    type: file
    path: ./in/*.jsonl
    schema: { id: string, grp: string, n: int }
    key: [grp]
    partitions: 2
transforms:
  kept: { sql: \"SELECT id, grp, 100 / (n % 50) AS share, n FROM wire\" }
tables:
  items: { from: kept, key: [id] }
  latest: { from: kept, key: [grp] }
sinks:
  rows: { type: file, from: kept, folder: ./out/rows }
  changes: { type: file, from: latest.changes, folder: ./out/latest }
";
/// What is compared: everything that can be read of the folder at rest.
const READS: [&str; 6] = ["wire", "kept", "items.changes", "latest.changes", "TABLE items", "TABLE latest"];

fn add_input(place: &Place, file: u64) {
    let line = |n: u64| json!({ "id": format!("r{}", n % 300), "grp": format!("g{}", n % 40), "n": n }).to_string();
    place.write("new", (file * 400..(file + 1) * 400).map(|n| line(n) + "\n").collect::<String>());
    std::fs::create_dir_all(place.path("in")).unwrap();
    std::fs::rename(place.path("new"), place.path(&format!("in/{file}.jsonl"))).unwrap();
}

/// A folder whose states have tables and write-ahead objects, and the copy of one moment before.
fn whole() -> Place {
    let place = Place::new(PIPELINE);
    add_input(&place, 0);
    place.run();
    copy(&place.path("data"), &place.path("older"));
    for file in 1..4 {
        add_input(&place, file);
        // Killed where it has not ended by itself by then: what a kill leaves is there, too.
        let mut server = place.start(&["--exit-when-idle"]);
        server.wait_for_log("running; http://");
        let _ = server.ended_within(std::time::Duration::from_millis(400 * file));
        server.kill();
    }
    place.run();
    copy(&place.path("data"), &place.path("whole"));
    copy(&place.path("out"), &place.path("whole-out"));
    place
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(done.success());
}

/// Everything that can be read, or what is said instead.
fn read(place: &Place) -> Result<BTreeMap<&'static str, Vec<Value>>, String> {
    let mut all = BTreeMap::new();
    for what in READS {
        let output = match what.strip_prefix("TABLE ") {
            Some(table) => {
                let sql = format!("SELECT * FROM {table} ORDER BY 1, 2, 3, 4");
                place.output(&["query", &sql, "--data-dir", "data", "--format", "jsonl"])
            }
            None => place.output(&["tap", what, "--no-follow", "--from", "earliest", "--data-dir", "data"]),
        };
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        all.insert(what, json_lines(&String::from_utf8_lossy(&output.stdout)));
    }
    Ok(all)
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    Flip,
    Cut,
    Empty,
    Remove,
    Grow,
    Older,
}

/// False for what can't be told from something else, and is said to be so in docs/reliability.md: a log that nobody
/// reads with less in it.
fn is_told(file: &Path, attack: Attack) -> bool {
    let is_unread = file.components().any(|part| part.as_os_str() == "items.changes");
    !(is_unread && matches!(attack, Attack::Older | Attack::Remove | Attack::Cut | Attack::Empty))
}

/// Does it to a file; false where that changes nothing.
fn damage(place: &Place, file: &Path, attack: Attack, rng: &mut StdRng) -> bool {
    let path = place.path("data").join(file);
    let mut bytes = std::fs::read(&path).unwrap();
    match attack {
        Attack::Remove => return std::fs::remove_file(&path).is_ok(),
        Attack::Older => match std::fs::read(place.path("older").join(file)) {
            Ok(older) if older != bytes => bytes = older,
            _ => return false,
        },
        Attack::Grow => bytes.extend((0..rng.random_range(1..200)).map(|_| rng.random::<u8>())),
        _ if bytes.is_empty() => return false,
        Attack::Flip => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
        Attack::Cut => bytes.truncate(rng.random_range(0..bytes.len())),
        Attack::Empty => bytes.clear(),
    }
    std::fs::write(&path, bytes).unwrap();
    true
}

/// All files below the data folder, by their path in it; without what only says who is running.
fn files(folder: &Path) -> Vec<PathBuf> {
    let list = std::process::Command::new("find").args([".", "-type", "f"]).current_dir(folder).output().unwrap();
    let mut files: Vec<PathBuf> = String::from_utf8_lossy(&list.stdout).lines().map(PathBuf::from).collect();
    files.retain(|file| !file.to_string_lossy().contains("lock"));
    files.sort();
    files
}

/// Files in groups: those of one ending in folders of one name, so that the many of one kind leave the few of others a
/// turn.
fn by_kind(files: Vec<PathBuf>) -> Vec<Vec<PathBuf>> {
    let mut kinds: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let top = file.components().nth(1).map(|part| part.as_os_str().to_owned());
        let folder = file.parent().and_then(Path::file_name).map(|name| name.to_owned());
        let folder = if file.extension().is_some_and(|e| e == "seg" || e == "idx") { None } else { folder };
        kinds.entry((top, folder, file.extension().map(|e| e.to_owned()))).or_default().push(file);
    }
    kinds.into_values().collect()
}

/// An error that a person can do something with: the damaged file by name, no panic, nothing of the engine's insides.
fn is_clear(said: &str, file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    let stem = name.split('.').next().unwrap_or(&name);
    let folder = file.parent().and_then(Path::file_name).map(|folder| folder.to_string_lossy().into_owned());
    !said.contains("panicked") && (said.contains(stem) || folder.is_some_and(|folder| said.contains(&folder)))
}

#[test]
fn damaged_files_are_found_and_named_and_never_read_as_something_else() {
    let mut rng = seeded("chaos: damage");
    let place = whole();
    let right = read(&place).expect("the folder is whole");
    let files = by_kind(files(&place.path("whole")));
    let attacks = [Attack::Flip, Attack::Cut, Attack::Empty, Attack::Remove, Attack::Grow, Attack::Older];
    let (mut found, mut harmless) = (0, 0);
    let rounds = rounds(12);
    for round in 0..rounds {
        copy(&place.path("whole"), &place.path("data"));
        copy(&place.path("whole-out"), &place.path("out"));
        let kind = &files[rng.random_range(0..files.len())];
        let (file, attack) = (&kind[rng.random_range(0..kind.len())], attacks[round % attacks.len()]);
        if !is_told(file, attack) || !damage(&place, file, attack, &mut rng) {
            continue;
        }
        let what = format!("{attack:?} of {}", file.display());
        let before = read(&place);
        let mut server = place.start(&["--exit-when-idle"]);
        let status = server.wait();
        let after = read(&place);
        assert!(!server.log().contains("panicked"), "{what}: a panic\n{}", server.log());
        if !status.success() {
            assert!(is_clear(&server.log(), file), "{what}: {}", server.log());
        }
        for (when, read) in [("read before a start", &before), ("read after a start", &after)] {
            match read {
                Ok(read) => {
                    let other = read.iter().find(|(name, rows)| *rows != &right[*name]).map(|(name, _)| name);
                    // A file that is gone, cut off or an old copy can leave what was once true. Only a start, which
                    // compares the files with each other, can tell: it does the work again, or says so.
                    let was_true = matches!(attack, Attack::Remove | Attack::Older | Attack::Cut | Attack::Empty);
                    let is_told = was_true && (!status.success() || when == "read before a start");
                    assert!(other.is_none() || is_told, "{what}, {when}: {other:?} is other data, without a word");
                }
                Err(said) => assert!(is_clear(said, file), "{what}, {when}: {said}"),
            }
        }
        let is_noticed = !status.success() || before.is_err() || after.is_err();
        found += usize::from(is_noticed);
        harmless += usize::from(!is_noticed);
        if status.success() {
            outputs_are_whole(&place, &what, &server);
        }
    }
    report("damage", json!({ "files": rounds, "found": found, "harmless": harmless, "other_data": 0, "panics": 0 }));
}

/// Nothing is missing of what the sinks wrote, and nothing is there twice.
fn outputs_are_whole(place: &Place, what: &str, server: &Server) {
    let numbers = |folder: &str| {
        let mut all: Vec<String> = place.sink_rows(folder).iter().map(Value::to_string).collect();
        all.sort_unstable();
        all
    };
    for folder in ["rows", "latest"] {
        let (now, then) = (numbers(&format!("out/{folder}")), numbers(&format!("whole-out/{folder}")));
        assert!(now == then, "{what}: out/{folder} has {} rows of {}\n{}", now.len(), then.len(), server.log());
    }
}
