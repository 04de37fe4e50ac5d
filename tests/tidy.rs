//! What no compiler checks: the width of lines, reasons for exceptions, and that clocks, chance and ids are reached
//! through their seams only.

use std::path::{Path, PathBuf};

/// Characters of a line.
const WIDTH: usize = 120;

/// What only some files may name, and why those may.
const SEAMS: [(&str, &[(&str, &str)]); 4] = [
    ("SystemTime::now", &[("core/src/clock.rs", "the clock itself")]),
    ("Utc::now", &[("core/src/clock.rs", "said there to be refused")]),
    (
        "rand::random",
        &[
            ("engine/src/scorer/calls.rs", "pauses that differ"),
            ("models/src/remote/aws/credentials/mod.rs", "renewals that do not come together"),
            ("models/src/remote/aws/credentials/sso.rs", "the name of a file beside another"),
        ],
    ),
    ("Uuid::new", &[("engine/src/data_dir.rs", "the identity of a folder")]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file below a folder of the repository, with its path from there.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut files = super::support::files_below(&root().join(folder));
    files.retain(|file| {
        file.extension().is_some_and(|e| e == "rs") && !file.components().any(|c| c.as_os_str() == "target")
    });
    files.sort();
    let read = |file: &PathBuf| {
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        (path, std::fs::read_to_string(file).unwrap())
    };
    files.iter().map(read).collect()
}

fn all() -> Vec<(String, String)> {
    let files: Vec<_> = ["crates", "tests", "bench", "fuzz"].into_iter().flat_map(sources).collect();
    assert!(files.len() > 300, "only {} files were found", files.len());
    files
}

/// True for a line that is (in) a text, which nobody but its author can cut, or a row of a table.
fn may_be_long(path: &str, line: &str) -> bool {
    let is_test = path.starts_with("tests/") || path.contains("/tests") || path.contains("_tests.rs");
    let code = line.trim_start();
    match code.strip_prefix("//") {
        Some(comment) => comment.trim_start_matches(['/', '!', ' ']).starts_with('|') || !comment.trim().contains(' '),
        None => is_test || line.contains('"') || line.ends_with('\\') || path.ends_with("reference.rs"),
    }
}

#[test]
fn lines_are_no_wider_than_a_page() {
    let wide = |(path, text): (String, String)| {
        let lines = text.lines().enumerate().filter(|(_, line)| line.chars().count() > WIDTH);
        let lines = lines.filter(|(_, line)| !may_be_long(&path, line));
        lines.map(|(number, _)| format!("{path}:{}", number + 1)).collect::<Vec<_>>()
    };
    assert_eq!(all().into_iter().flat_map(wide).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn what_a_lint_would_say_is_only_silenced_with_a_reason() {
    let silent = |(path, text): (String, String)| {
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, line)| line.trim_start().starts_with("#[allow") || line.starts_with("#![allow"));
        let lines = lines.filter(|(_, line)| !line.contains("// ") && !line.contains("reason ="));
        lines.map(|(number, line)| format!("{path}:{}: {line}", number + 1)).collect::<Vec<_>>()
    };
    assert_eq!(all().into_iter().flat_map(silent).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn clocks_chance_and_ids_come_through_their_seams() {
    let mut found = Vec::new();
    for (path, text) in sources("crates") {
        if path.contains("/tests") || path.contains("_tests.rs") || path.contains("/examples/") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for (name, allowed) in SEAMS {
            let is_allowed = allowed.iter().any(|(file, why)| path.ends_with(file) && !why.is_empty());
            if code.contains(name) && !is_allowed {
                found.push(format!("{path}: {name}"));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
    let files: Vec<String> = sources("crates").into_iter().map(|(path, _)| path).collect();
    for (_, allowed) in SEAMS {
        for (file, _) in allowed {
            assert!(files.iter().any(|path| path.ends_with(file)), "{file} is gone: take it out of the list");
        }
    }
}

/// A connector is a folder that nothing knows but the registry, and that knows neither the registry nor another folder.
#[test]
fn no_system_is_known_outside_of_its_folder() {
    let mut found = Vec::new();
    for (path, text) in sources("crates/connectors/src") {
        let is_list = path.ends_with("src/lib.rs") || path.ends_with("src/registry.rs");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if is_list || path.contains("/tests") {
            continue;
        }
        for name in ["registry", "amqp", "feed", "file", "http", "stdout", "websocket"] {
            let is_own = path.starts_with(&format!("crates/connectors/src/{name}"));
            if !is_own && code.contains(&format!("crate::{name}::")) {
                found.push(format!("{path} knows {name}"));
            }
        }
    }
    for (path, text) in ["crates/engine/src", "crates/millstream/src"].into_iter().flat_map(sources) {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for name in ["SourceConfig::", "SinkConfig::", "connectors::file", "connectors::amqp", "connectors::stdout"] {
            if !path.contains("/tests") && code.contains(name) {
                found.push(format!("{path} knows {name}"));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}
