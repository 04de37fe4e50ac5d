//! End-to-end latency under a steady load: from the write of a line into a followed file to its row on Millstream's
//! standard output, by way of log, SQL, table and change stream, each durable.
//!
//! The load comes in ticks of 2 ms, as many records as the rate asks for, with the time of the tick in each. It is not
//! held back by what comes out, so a pipeline that falls behind shows it. This program runs on the same machine and
//! takes its share of the processor.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use memchr::memmem;
use millstream_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::generate::Generator;
use crate::process::Usage;
use crate::{Outcome, pipeline, round};

const TICK: Duration = Duration::from_millis(2);
const WARM_UP: Duration = Duration::from_secs(3);
/// How often the file is looked at for more.
const POLL: &str = "5ms";
/// How long the last row may take to come out.
const PATIENCE: Duration = Duration::from_secs(60);
const SENT_AT: &[u8] = br#""sent_at":"#;

/// One row that came out: when it was sent and when it was read, microseconds since the epoch.
type Arrival = (i64, i64);

/// Runs the load for `seconds` seconds after the warm-up.
pub fn measure(millstream: &Path, dir: &Path, partitions: u32, rate: u64, seconds: u64) -> Outcome<Value> {
    pipeline::clear(dir)?;
    let (config, feed) = (dir.join("pipeline.yaml"), dir.join("feed.jsonl"));
    let source = format!("    path: {}\n    follow: true\n    poll_interval: {POLL}\n", feed.display());
    std::fs::write(&config, pipeline::file(&source, "    type: stdout\n", Some("sent_at"), partitions, None))?;
    let mut out = File::create(&feed)?;
    let mut child = pipeline::command(millstream, &config, dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let rows = child.stdout.take().ok_or("no standard output")?;
    let (send, arrivals) = channel();
    let reader = std::thread::spawn(move || read_rows(rows, &send));

    let duration = WARM_UP + Duration::from_secs(seconds);
    let (mut usage, mut own) = (Usage::default(), Usage::default());
    own.look(std::process::id());
    let own_before_s = own.cpu_s;
    let sent = first_row(&mut out, &arrivals).and_then(|from_us| load(&mut out, rate, duration).map(|n| (from_us, n)));
    let measured =
        sent.and_then(|(from_us, (passing, bytes))| Ok((from_us, passing, bytes, collect(&arrivals, passing)?)));
    usage.look(child.id());
    own.look(std::process::id());
    let cores = |cpu_s: f64| round(cpu_s / duration.as_secs_f64(), 2);
    child.kill()?;
    child.wait()?;
    // A reader that failed has said so by hanging up, which `collect` saw.
    let _ = reader.join();
    let (from_us, passing, bytes, arrivals) = measured?;
    std::fs::remove_dir_all(dir)?;

    let from_us = from_us + WARM_UP.as_micros() as i64;
    let mut late: Vec<i64> =
        arrivals.iter().filter(|(sent, _)| *sent >= from_us).map(|(sent, read)| read - sent).collect();
    late.sort_unstable();
    let at = |share: f64| late.get((late.len() as f64 * share) as usize).map(|us| round(*us as f64 / 1e3, 2));
    Ok(json!({
        "records_per_s": rate,
        "mb_per_s": round(bytes as f64 / duration.as_secs_f64() / 1e6, 1),
        "seconds": seconds,
        "rows": passing,
        "rows_measured": late.len(),
        "p50_ms": at(0.5),
        "p90_ms": at(0.9),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": late.last().map(|us| round(*us as f64 / 1e3, 2)),
        "cores_used": cores(usage.cpu_s),
        "cores_used_by_the_benchmark": cores(own.cpu_s - own_before_s),
        "peak_rss_mib": round(usage.peak_rss_bytes as f64 / 1_048_576.0, 1),
    }))
}

/// Sends single records until one has come out: the pipeline is up. Gives the time then.
fn first_row(out: &mut File, arrivals: &Receiver<Arrival>) -> Outcome<i64> {
    let mut generator = Generator::default();
    let started = Instant::now();
    let mut line = String::new();
    while !generator.write(Some(SystemClock.now_us()), &mut line) {
        line.clear();
    }
    out.write_all(line.as_bytes())?;
    let left = PATIENCE.saturating_sub(started.elapsed());
    arrivals.recv_timeout(left).map_err(|_| "Millstream printed nothing: it did not start")?;
    Ok(SystemClock.now_us())
}

/// Writes the load; gives the number of records that pass the filter, and bytes.
fn load(out: &mut File, rate: u64, duration: Duration) -> Outcome<(u64, u64)> {
    let mut generator = Generator::after(1_000);
    let started = Instant::now();
    let (mut sent, mut passing, mut bytes) = (0, 0, 0);
    let mut lines = String::new();
    while started.elapsed() < duration {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        lines.clear();
        let now_us = SystemClock.now_us();
        while sent < due {
            passing += u64::from(generator.write(Some(now_us), &mut lines));
            sent += 1;
        }
        bytes += lines.len() as u64;
        out.write_all(lines.as_bytes())?;
        std::thread::sleep(TICK);
    }
    Ok((passing, bytes))
}

/// Waits for all rows.
fn collect(arrivals: &Receiver<Arrival>, passing: u64) -> Outcome<Vec<Arrival>> {
    let mut all = Vec::with_capacity(passing as usize);
    while (all.len() as u64) < passing {
        match arrivals.recv_timeout(PATIENCE) {
            Ok(arrival) => all.push(arrival),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(format!("only {} of {passing} rows came out", all.len()).into());
            }
        }
    }
    Ok(all)
}

fn read_rows(rows: ChildStdout, send: &std::sync::mpsc::Sender<Arrival>) -> Outcome<()> {
    let mut rows = BufReader::with_capacity(256 << 10, rows);
    let finder = memmem::Finder::new(SENT_AT);
    let mut line = Vec::new();
    while rows.read_until(b'\n', &mut line)? > 0 {
        let at = finder.find(&line).ok_or("a row without `sent_at`")? + SENT_AT.len();
        let digits = line[at..].iter().take_while(|b| b.is_ascii_digit());
        let sent_us = digits.fold(0, |n, b| n * 10 + i64::from(b - b'0'));
        send.send((sent_us, SystemClock.now_us()))?;
        line.clear();
    }
    Ok(())
}
