//! Rows as they come out on Millstream's standard output, with the time that each was sent and read.

use std::io::{BufRead, BufReader};
use std::process::ChildStdout;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use memchr::memmem;
use millstream_core::{Clock, SystemClock};
use serde_json::{Map, Value};

use crate::{Outcome, round};

/// How long the next row may take to come out.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// The field that says when a record was sent, microseconds since the epoch.
pub const SENT_AT: &str = "sent_at";

/// One row that came out: when it was sent and when it was read, microseconds since the epoch.
type Arrival = (i64, i64);

/// The rows of one process.
#[derive(Debug)]
pub struct Arrivals(Receiver<Arrival>);

impl Arrivals {
    /// Reads rows on a thread of its own, until there are no more.
    pub fn of(rows: ChildStdout) -> Self {
        let (send, arrivals) = channel();
        // A reader that fails hangs up, which `next` and `collect` see.
        std::thread::spawn(move || read_rows(rows, &send));
        Self(arrivals)
    }

    /// Waits for the first row: the pipeline is up.
    ///
    /// # Errors
    /// There was none.
    pub fn first(&self) -> Outcome<()> {
        self.0.recv_timeout(PATIENCE).map_err(|_| "Millstream printed nothing: it did not start")?;
        Ok(())
    }

    /// Waits for `rows` rows; of those sent at `from_us` or later, how long each was under way, sorted.
    ///
    /// # Errors
    /// There were fewer.
    pub fn collect(&self, rows: u64, from_us: i64) -> Outcome<Delays> {
        let mut delays = Vec::with_capacity(rows as usize);
        for seen in 0..rows {
            match self.0.recv_timeout(PATIENCE) {
                Ok((sent, read)) if sent >= from_us => delays.push(read - sent),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(format!("only {seen} of {rows} rows came out").into());
                }
            }
        }
        Ok(Delays::new(delays))
    }
}

/// Times in microseconds, sorted.
#[derive(Debug)]
pub struct Delays(Vec<i64>);

impl Delays {
    /// In any order.
    pub fn new(mut us: Vec<i64>) -> Self {
        us.sort_unstable();
        Self(us)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Percentiles and the largest, in milliseconds, each name with `prefix` in front.
    pub fn percentiles(&self, prefix: &str) -> Map<String, Value> {
        let ms = |us: &i64| round(*us as f64 / 1e3, 2);
        let at = |share: f64| self.0.get((self.0.len() as f64 * share) as usize).map(ms);
        let named = [
            ("p50", at(0.5)),
            ("p90", at(0.9)),
            ("p99", at(0.99)),
            ("p999", at(0.999)),
            ("max", self.0.last().map(ms)),
        ];
        named.into_iter().map(|(name, ms)| (format!("{prefix}{name}_ms"), ms.into())).collect()
    }
}

fn read_rows(rows: ChildStdout, send: &Sender<Arrival>) -> Outcome<()> {
    let mut rows = BufReader::with_capacity(256 << 10, rows);
    let field = format!("\"{SENT_AT}\":");
    let finder = memmem::Finder::new(&field);
    let mut line = Vec::new();
    while rows.read_until(b'\n', &mut line)? > 0 {
        let at = finder.find(&line).ok_or("a row without `sent_at`")? + field.len();
        let digits = line[at..].iter().take_while(|b| b.is_ascii_digit());
        let sent_us = digits.fold(0, |n, b| n * 10 + i64::from(b - b'0'));
        send.send((sent_us, SystemClock.now_us()))?;
        line.clear();
    }
    Ok(())
}
