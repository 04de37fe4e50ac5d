//! What no compiler checks: the width of lines, reasons for exceptions, and that clocks, chance, ids, sleep and the
//! disk are reached through their seams only.

use std::path::{Path, PathBuf};

/// Characters of a line.
const WIDTH: usize = 120;

/// What only some files may name, and why those may: a file, or all in a folder.
struct Seam {
    names: &'static [&'static str],
    allowed: &'static [(&'static str, &'static str)],
}

const SEAMS: [Seam; 6] = [
    Seam { names: &["SystemTime::now", "Utc::now"], allowed: &[("core/src/clock.rs", "the clock itself")] },
    Seam {
        names: &["rand::random"],
        allowed: &[
            ("engine/src/scorer/calls.rs", "pauses that differ"),
            ("models/src/remote/aws/credentials/mod.rs", "renewals that do not come together"),
            ("models/src/remote/aws/credentials/sso.rs", "the name of a file beside another"),
        ],
    },
    Seam { names: &["Uuid::new"], allowed: &[("engine/src/data_dir.rs", "the identity of a folder")] },
    // A test can stop the timers of Tokio, but no thread that sleeps.
    Seam {
        names: &["thread::sleep"],
        allowed: &[
            ("core/src/descriptors.rs", "waits for a descriptor where files are read, on threads that block"),
            ("sql/src/host.rs", "the watch over queries: it must get on where all of Tokio's threads are busy"),
        ],
    },
    // Whoever waits for something that happens here is woken by it. These wait for time alone, or for what does not
    // say.
    Seam {
        names: &["tokio::time::sleep("],
        allowed: &[
            ("connectors/src/http", "as long as a service has asked for with Retry-After"),
            ("engine/src/deliver/mod.rs", "until a file is due, and for what woke nobody"),
            ("engine/src/ingest.rs", "a source or a disk that was no good a moment ago"),
            ("engine/src/models.rs", "more predictions that are written together"),
            ("engine/src/preflight.rs", "looks again whether a sink is there"),
            ("engine/src/scorer", "pauses between calls to a model"),
            ("engine/src/supervise.rs", "the deadline of a stop"),
            ("millstream/src/api/connections.rs", "looks for connections that stand still"),
            ("millstream/src/api/files.rs", "looks whether a file has changed"),
            ("millstream/src/api/listen.rs", "no descriptor for a connection"),
            ("millstream/src/api/paced.rs", "the deadline of a body"),
            ("millstream/src/commands/", "what a person watches, at the pace of a person"),
            ("models/src/queue/call.rs", "the deadline of a batch"),
            ("storage/src/state/clock.rs", "the clock of the state's engine"),
        ],
    },
    // What must survive a crash goes through `core::disk`. These read what others have written, or write for others.
    Seam {
        names: &["std::fs", "tokio::fs", "File::open", "File::create", "OpenOptions"],
        allowed: &[
            ("core/src/disk.rs", "the disk itself"),
            ("core/src/disk/", "the disk itself"),
            ("connectors/src/file/", "files of other systems: inodes, rotation, and modes that the seam has not"),
            ("connectors/src/probe.rs", "tries whether a sink's folder can be written"),
            ("engine/src/data_dir.rs", "the lock of a folder, and what folders lie in it"),
            ("engine/src/repair/", "takes whole folders away, and lists them"),
            ("engine/src/whereabouts.rs", "the inodes of folders that somebody may move"),
            ("millstream/src/api/audit.rs", "the file that administrators rotate"),
            ("millstream/src/api/files.rs", "certificates and tokens that others renew"),
            ("millstream/src/commands/", "files that a person names"),
            ("millstream/src/config/mod.rs", "the pipeline file"),
            ("millstream/src/secrets.rs", "files with secrets, and who may read them"),
            ("models/src/bench.rs", "the memory of the process, as the kernel says it"),
            ("models/src/huggingface/", "models' files, and the cache of the hub, which others fill too"),
            ("models/src/labelled.rs", "files that a person names"),
            ("models/src/onnx/", "models' files"),
            ("models/src/remote/aws/credentials/", "the files of AWS's own tools"),
            ("models/src/text_model.rs", "where a link to a model's folder leads"),
            ("sql/src/host.rs", "the memory of the process, as the kernel says it"),
            ("storage/src/state/local.rs", "seals of files that the state's engine reads by itself"),
            ("storage/src/state/open_files.rs", "the same files, kept open"),
            ("storage/src/state/parts.rs", "the same files, read in parts"),
        ],
    },
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

/// The code of the crates without their tests, by path.
fn product() -> Vec<(String, String)> {
    let is_test = |path: &str| {
        let names = ["/tests", "_tests.rs", "/examples/", "/test_server.rs", "/conformance"];
        names.iter().any(|name| path.contains(name))
    };
    let code = |text: String| {
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    };
    sources("crates").into_iter().filter(|(path, _)| !is_test(path)).map(|(path, text)| (path, code(text))).collect()
}

#[test]
fn clocks_chance_ids_sleep_and_disk_come_through_their_seams() {
    let product = product();
    let (mut found, mut needless) = (Vec::<String>::new(), Vec::<&str>::new());
    for Seam { names, allowed } in &SEAMS {
        let named: Vec<&String> =
            product.iter().filter(|(_, code)| names.iter().any(|name| code.contains(name))).map(|(p, _)| p).collect();
        let is_allowed = |path: &&&String| allowed.iter().any(|(place, why)| path.contains(place) && !why.is_empty());
        found.extend(named.iter().filter(|path| !is_allowed(path)).map(|path| format!("{path}: {names:?}")));
        let is_needless = |place: &&str| !named.iter().any(|path| path.contains(*place));
        needless.extend(allowed.iter().map(|(place, _)| *place).filter(is_needless));
    }
    assert_eq!(found, Vec::<String>::new());
    assert_eq!(needless, Vec::<&str>::new(), "take them out of the list");
}

/// A connector is a folder that nothing knows but the registry, and that knows neither the registry nor another folder.
#[test]
fn no_system_is_known_outside_of_its_folder() {
    let mut found = Vec::new();
    for (path, text) in sources("crates/connectors/src") {
        let is_list = path.ends_with("src/lib.rs") || path.ends_with("src/registry.rs");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        // What every connector promises is a test of all of them.
        if is_list || path.contains("/tests") || path.contains("/conformance/") {
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
