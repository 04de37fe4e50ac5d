//! What whole-pipeline tests share: a folder to work in, the binary as a process, and a plain HTTP client.

pub mod broker;
pub mod http;
pub mod kills;
pub mod mount;
pub mod place;
pub mod process;

pub use broker::Broker;
pub use kills::Kills;
pub use mount::Mount;
pub use place::{Place, files_below};
pub use process::Server;

use serde_json::Value;

/// A seeded generator, printed so that a failure can be run again: `MILLSTREAM_TEST_SEED=…`.
pub fn seeded(test: &str) -> rand::rngs::StdRng {
    use rand::SeedableRng;
    let given = std::env::var("MILLSTREAM_TEST_SEED").ok().and_then(|s| s.parse().ok());
    let seed: u64 = given.unwrap_or_else(rand::random);
    eprintln!("{test}: MILLSTREAM_TEST_SEED={seed}");
    rand::rngs::StdRng::seed_from_u64(seed)
}

/// Lines of JSON.
pub fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}"));
    text.lines().filter(|line| !line.trim().is_empty()).map(parse).collect()
}
