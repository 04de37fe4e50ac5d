//! Explosive queries: they end with an error, and nobody else notices.

use serde_json::json;

use super::probe::{Probe, peak_mib};
use super::{report, rounds};
use crate::support::{Place, http};

const PIPELINE: &str = "
pipeline: queries
sources:
  posts: { type: http, schema: { n: int }, key: [n] }
tables:
  items: { from: posts, key: [n] }
";

const QUERIES: [&str; 8] = [
    "SELECT sum(length(repeat(lpad(cast(value AS varchar), 30, '0'), 300000))) FROM generate_series(1, 100000)",
    "SELECT sum(cardinality(range(0, value * 1000000))) FROM generate_series(1, 1000)",
    "SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b WHERE a.value * b.value = 7",
    "SELECT replace(repeat('a', 100000), 'a', repeat('b', 30000))",
    "SELECT array_agg(repeat('x', 10000)) FROM generate_series(1, 10000000)",
    "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
    "SELECT a.value FROM generate_series(1, 30000000) a ORDER BY md5(cast(a.value AS varchar)) LIMIT 5",
    "SELECT string_agg(lpad('', 1000000, 'y'), ',') FROM generate_series(1, 100000)",
];

#[test]
fn explosive_queries_end_and_nobody_else_notices() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    let url = server.url();
    let push = |n: u64| http::post(&format!("{url}/streams/posts/records"), json!({ "n": n }).to_string()).status;
    assert_eq!(push(0), 200);
    let probe = Probe::start(&url);
    let times = rounds(1);
    for n in 0..times {
        // Four at a time, and the pipeline goes on beside them.
        for four in QUERIES.chunks(4) {
            let asking: Vec<_> = four
                .iter()
                .map(|sql| {
                    let (url, body) = (format!("{url}/api/v1/query?timeout=5s"), json!({ "sql": sql }).to_string());
                    let headers = [("content-type", "application/json")];
                    std::thread::spawn(move || http::try_send(reqwest::Method::POST, &url, &headers, body))
                })
                .collect();
            let mut stored = 0_u64;
            while asking.iter().any(|query| !query.is_finished()) {
                assert_eq!(push(1 + n as u64), 200);
                stored += 1;
            }
            assert!(stored > 0);
            for (query, sql) in asking.into_iter().zip(four) {
                let answer = query.join().unwrap();
                // Refused at once, or a last line that says why it ended, or an answer: never a broken connection.
                let answer = answer.unwrap_or_else(|e| panic!("{sql}: {e}\n{}", server.log()));
                assert!(!answer.text.contains("panicked"), "{sql}: {}", answer.text);
            }
        }
    }
    let latencies = probe.stop().figures();
    let peak = peak_mib(&server);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert!(peak.is_none_or(|mib| mib < 3_000), "{peak:?} MiB at the peak");
    report("queries", json!({ "queries": times * QUERIES.len(), "healthz": latencies, "peak_mib": peak }));
}
