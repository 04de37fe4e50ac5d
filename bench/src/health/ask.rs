//! Asks `/healthz` in step, whatever the answers take.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use millstream_bench::Outcome;

const EVERY: Duration = Duration::from_millis(20);
/// A server that does not answer for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n";

/// Asks the server at `address` until it has gone; how long each answer took, shortest first.
///
/// # Errors
/// It never answered, or with something else than 200.
pub fn until_gone(address: &str) -> Outcome<Vec<Duration>> {
    let started = Instant::now();
    let mut took = Vec::new();
    for n in 0.. {
        let due = started + EVERY * n;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        match ask(address) {
            Ok(answer) if answer.starts_with(b"HTTP/1.1 200") => took.push(due.elapsed()),
            // It closes its connections at the end of the run.
            Err(_) | Ok(_) if !took.is_empty() && TcpStream::connect(address).is_err() => break,
            Ok(answer) => return Err(format!("it answered {:?}", String::from_utf8_lossy(&answer)).into()),
            Err(e) => return Err(format!("{address}: {e}").into()),
        }
    }
    took.sort_unstable();
    Ok(took)
}

fn ask(address: &str) -> std::io::Result<Vec<u8>> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(REQUEST)?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer)?;
    Ok(answer)
}
