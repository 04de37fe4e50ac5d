//! Memory of a whole pipeline.

use std::fmt::Write;

use crate::support::process::eventually;
use crate::support::{Place, Server};

/// The most memory that a process has held, in MiB; none where the system does not say.
pub fn peak_mib(server: &Server) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024)
}

#[test]
fn four_stages_of_64_partitions_run_in_a_gigabyte() {
    const ROWS: usize = 3_000;
    let mut pipeline = String::from("pipeline: many\nsources:\n");
    for n in 0..4 {
        let source = "{ type: file, path: ./in.jsonl, decode: json, schema: { id: string, text: string }, key: [id], \
                      partitions: 64, follow: true }";
        let _ = writeln!(pipeline, "  s{n}: {source}");
    }
    pipeline.push_str("tables:\n");
    for n in 0..4 {
        let _ = writeln!(pipeline, "  t{n}: {{ from: s{n}, key: [id], partitions: 64 }}");
    }
    let place = Place::new(&pipeline);
    let row = |n: usize| format!("{{\"id\":\"{n}\",\"text\":\"{n:0>400}\"}}\n");
    place.write("in.jsonl", (0..ROWS).map(row).collect::<String>());
    let server = place.start(&[]);
    let url = server.url();
    for n in 0..4 {
        let count = format!("SELECT count(*) AS n FROM t{n}");
        let rows = || place.stdout(&["query", &count, "--url", &url, "--format", "csv"]);
        eventually("all rows of a table", || (rows() == format!("n\n{ROWS}\n")).then_some(()));
    }
    match peak_mib(&server) {
        Some(peak) => assert!(peak < 1024, "{peak} MiB"),
        None => eprintln!("skipped: this system has no /proc"),
    }
}
