//! Peers that take without giving: connections that say nothing, bodies that never come, answers that nobody reads.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::probe::{Probe, peak_mib};
use super::{report, rounds};
use crate::support::process::eventually;
use crate::support::{Place, http};

const PIPELINE: &str = "
pipeline: peers
sources:
  posts: { type: http, schema: { n: int, pad: string? }, key: [n] }
tables:
  items: { from: posts, key: [n] }
";

fn connect(address: &str, say: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.write_all(say.as_bytes()).ok()?;
    Some(stream)
}

#[test]
fn peers_that_hold_on_hold_up_nobody() {
    let place = Place::new(PIPELINE);
    let mut server = place.start(&[]);
    let url = server.url();
    let address = url.trim_start_matches("http://").to_owned();
    let push = |body: Value| http::post(&format!("{url}/streams/posts/records"), body.to_string()).status;
    let rows: Vec<Value> = (0..2_000).map(|n| json!({ "n": n, "pad": "x".repeat(1_000) })).collect();
    assert_eq!(push(Value::from(rows)), 200);
    let probe = Probe::start(&url);
    let times = rounds(1);
    let mut held = 0;
    for n in 0..times {
        let mut peers = Vec::new();
        // Bodies that are announced and do not come.
        for _ in 0..16 {
            let head = format!(
                "POST /streams/posts/records HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n[",
                8 << 20
            );
            peers.extend(connect(&address, &head));
        }
        // Heads that do not end, and connections that say nothing.
        for idle in 0..300 {
            let say = if idle % 2 == 0 { "GET / HTTP/1.1\r\nhost: " } else { "" };
            peers.extend(connect(&address, say));
        }
        // Answers that nobody reads.
        for _ in 0..8 {
            let sql = "SELECT a.n, a.pad, b.n FROM items a, items b";
            let body = json!({ "sql": sql }).to_string();
            let ask = format!(
                "POST /api/v1/query HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            peers.extend(connect(&address, &ask));
        }
        held += peers.len();
        for m in 0..20 {
            eventually("a push beside them", || (push(json!({ "n": n * 20 + m })) == 200).then_some(()));
        }
        // Bytes one by one do no harm either.
        for peer in peers.iter_mut().take(4) {
            for _ in 0..5 {
                let _ = peer.write_all(b" ");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(peers);
        let mut again =
            connect(&address, &format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"))
                .expect("a connection");
        let mut answer = String::new();
        again.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let latencies = probe.stop().figures();
    let peak = peak_mib(&server);
    server.terminate();
    assert!(server.wait().success(), "{}", server.log());
    assert!(peak.is_none_or(|mib| mib < 2_000), "{peak:?} MiB at the peak");
    report("peers", json!({ "connections": held, "healthz": latencies, "peak_mib": peak }));
}
