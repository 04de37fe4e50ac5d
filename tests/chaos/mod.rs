//! Attacks: a slice of each with every test run, minutes of them with `scripts/chaos`.
//!
//! Each attack does something bad to the real process or to its files, and then counts. `MILLSTREAM_CHAOS=20` makes
//! twenty times as many rounds of it; `MILLSTREAM_TEST_SEED` repeats a run. Figures (kills survived, damage found, peak
//! memory, latency of `/healthz`) are written as a line of JSON an attack to the file that `MILLSTREAM_CHAOS_FIGURES`
//! names; those of `docs/reliability.md` come from there.

mod clock;
mod damage;
mod disk;
mod kills;
mod peers;
mod probe;
mod queries;

use std::io::Write;

use serde_json::{Value, json};

/// How many rounds, where `slice` are done with every test run.
fn rounds(slice: usize) -> usize {
    let times = std::env::var("MILLSTREAM_CHAOS").ok().and_then(|times| times.parse::<usize>().ok());
    slice * times.unwrap_or(1).max(1)
}

/// Writes what an attack has shown.
fn report(attack: &str, figures: Value) {
    let line = json!({ "attack": attack, "figures": figures });
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("MILLSTREAM_CHAOS_FIGURES") {
        let mut file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

/// The names of the records `0..n`, without those that `dropped` says are refused or filtered.
fn expected(n: u64, dropped: impl Fn(u64) -> bool) -> std::collections::BTreeSet<u64> {
    (0..n).filter(|n| !dropped(*n)).collect()
}

/// Each of `expected` once, and nothing else.
fn each_once(place: &str, expected: &std::collections::BTreeSet<u64>, found: impl IntoIterator<Item = u64>) {
    let mut found: Vec<u64> = found.into_iter().collect();
    found.sort_unstable();
    let repeated: Vec<u64> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).take(10).collect();
    let there: std::collections::BTreeSet<u64> = found.iter().copied().collect();
    let lost: Vec<&u64> = expected.difference(&there).take(10).collect();
    let strange: Vec<&u64> = there.difference(expected).take(10).collect();
    assert!(
        lost.is_empty() && strange.is_empty() && repeated.is_empty(),
        "{place}: {} expected, {} found; lost {lost:?}…, repeated {repeated:?}…, unexpected {strange:?}…",
        expected.len(),
        found.len()
    );
}

/// The field `n` of rows.
fn numbers<'a>(rows: impl IntoIterator<Item = &'a Value>) -> Vec<u64> {
    rows.into_iter().map(|row| row["n"].as_u64().unwrap_or_else(|| panic!("no n in {row}"))).collect()
}
