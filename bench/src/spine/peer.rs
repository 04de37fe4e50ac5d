//! The peer's side: Redpanda Connect's open core, with the same filter and projection, and no durability.
//!
//! Tuned, since its plain settings are slower: lines are read in batches, mapped on all cores, each batch is written
//! with one call, and Go's garbage collector may use more memory. `docs/benchmarks.md` has the settings that were
//! tried.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::generate::Input;
use crate::process::{self, Usage};
use crate::verify::Seen;
use crate::{Outcome, pipeline};

/// Lines per batch.
const BATCH: usize = 200;
/// After which a batch that is not full goes on. Without one, the last batch of a file would never be sent.
const BATCH_PERIOD: &str = "100ms";
/// Go collects garbage when memory has grown by this many per cent; its own setting is 100.
const GOGC: &str = "400";

const MAPPING: &str = r#"        root = if this.language == "en" && this.urgency <= 8 {
          {
            "id": this.id,
            "source": this.source.uppercase(),
            "headline": this.headline,
            "body": this.body,
            "urgency": this.urgency,
            "published_at": this.published_at
          }
        } else { deleted() }
"#;

/// The peer's binary: the one given, or built with Go into `dir`; else why there is none.
///
/// # Errors
/// Go is there, but does not build it.
pub fn find(given: Option<&Path>, dir: &Path) -> Outcome<Result<PathBuf, String>> {
    if let Some(path) = given {
        let found = std::fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))?;
        return Ok(Ok(found));
    }
    let binary = dir.join("peer");
    eprintln!("building the peer (the first time takes minutes)");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer");
    let build =
        Command::new("go").args(["build", "-trimpath", "-o"]).arg(&binary).arg(".").current_dir(module).status();
    match build {
        Ok(status) if status.success() => Ok(Ok(binary)),
        Ok(status) => {
            Err(format!("`go build` in bench/peer ended with {status}; --no-peer leaves the peer out").into())
        }
        Err(e) => {
            eprintln!("no Go ({e}): the peer is left out");
            Ok(Err(format!("there is no Go to build it with ({e}); or give its binary with --peer")))
        }
    }
}

/// One run, with its output checked.
pub fn run(peer: &Path, input: &Input, dir: &Path) -> Outcome<Usage> {
    pipeline::clear(dir)?;
    let (config, out) = (dir.join("peer.yaml"), dir.join("out.jsonl"));
    std::fs::write(&config, file(&input.path, &out))?;
    let usage = process::run(Command::new(peer).arg("run").arg(&config).env("GOGC", GOGC))?;
    let mut seen = Seen::new(input.records);
    seen.read_file(&out)?;
    seen.check("the peer's file", input.passing)?;
    std::fs::remove_dir_all(dir)?;
    Ok(usage)
}

fn file(input: &Path, out: &Path) -> String {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "http: {{ enabled: false }}\nlogger: {{ level: error }}\n\
         input:\n  batched:\n    child:\n      file:\n        paths: [ {} ]\n        scanner: {{ lines: {{}} }}\n    \
         policy: {{ count: {BATCH}, period: {BATCH_PERIOD} }}\n\
         pipeline:\n  threads: {threads}\n  processors:\n    - mapping: |\n{MAPPING}    - archive: {{ format: lines }}\n\
         output:\n  file:\n    path: {}\n    codec: lines\n",
        input.display(),
        out.display(),
    )
}
