//! What records, servers and other users of the machine might try: nothing of it gets more than it should.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::Place;

const PIPELINE: &str = "
pipeline: kept
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: string, text: string }, key: [id] }
tables:
  items: { from: wire, key: [id] }
sinks:
  out: { type: file, from: items.changes, folder: ./out }
";

fn place() -> Place {
    let place = Place::new(PIPELINE);
    place.write("in.jsonl", "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"b\"}\n");
    place
}

/// Everything below a folder, and the folder.
fn all_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(all_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

fn open_to_others(folder: &Path) -> Vec<PathBuf> {
    all_below(folder).into_iter().filter(|path| mode(path) & 0o077 != 0).collect()
}

#[test]
fn the_data_folder_is_its_owners_alone_and_one_that_was_open_is_closed() {
    let place = place();
    place.run();
    let data = place.path("data");
    assert!(all_below(&data).len() > 10);
    assert_eq!(open_to_others(&data), Vec::<PathBuf>::new());
    // As an earlier version left it.
    for path in all_below(&data) {
        let open = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(open)).unwrap();
    }
    let said =
        place.output(&["run", "pipeline.yaml", "--data-dir", "data", "--listen", "127.0.0.1:0", "--exit-when-idle"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("was open to other users: it is its owner's alone now"), "{said}");
    assert_eq!(open_to_others(&data), Vec::<PathBuf>::new());
    // What users get has the mode that their umask gives.
    let probe = place.path("probe");
    std::fs::write(&probe, "").unwrap();
    let files: Vec<PathBuf> = all_below(&place.path("out")).into_iter().filter(|path| path.is_file()).collect();
    assert!(!files.is_empty() && files.iter().all(|path| mode(path) == mode(&probe)));
}

#[test]
fn rows_that_grow_together_beyond_memory_go_through_in_pieces_and_are_counted_once() {
    let place = Place::new(
        "
pipeline: grown
sources:
  wire: { type: file, path: ./in.jsonl, schema: { id: string, n: int } }
transforms:
  divided: { sql: \"SELECT id, n, 100 / n AS part FROM wire\" }
  grown: { sql: \"SELECT id, repeat(id, n) AS text FROM divided\" }
  small: { sql: \"SELECT id, length(text) AS size FROM grown\" }
tables:
  sizes: { from: small, key: [id] }
",
    );
    // Forty rows that become 8 MB each, one that asks for too much, and one that fails before that.
    let n = |i: usize| match i {
        3 => 0,
        30 => 2_000_000_000,
        _ => 4_000_000,
    };
    place.write("in.jsonl", (0..42).map(|i| format!("{{\"id\":\"{i:02}\",\"n\":{}}}\n", n(i))).collect::<String>());
    let mut server = place.start(&["--exit-when-idle", "--fail-on-dead-letters=2"]);
    assert!(server.wait().success(), "two are counted, each once: {}", server.log());
    let sizes = place.query("SELECT count(*) AS n, min(size) AS least, max(size) AS most FROM sizes");
    assert_eq!(sizes[0], serde_json::json!({ "n": 40, "least": 8_000_000, "most": 8_000_000 }));
    assert_eq!(place.dead_letters().len(), 2);
}
