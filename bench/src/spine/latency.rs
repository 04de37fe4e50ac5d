//! End-to-end latency under a steady load: from the write of a line into a followed file to its row on Millstream's
//! standard output, by way of log, SQL, table and change stream, each durable.
//!
//! The load comes in ticks of 2 ms, as many records as the rate asks for, with the time of the tick in each. It is not
//! held back by what comes out, so a pipeline that falls behind shows it. This program runs on the same machine and
//! takes its share of the processor.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use millstream_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::arrivals::{Arrivals, SENT_AT};
use crate::generate::Generator;
use crate::process::Usage;
use crate::{Outcome, pipeline, round};

const TICK: Duration = Duration::from_millis(2);
const WARM_UP: Duration = Duration::from_secs(3);
/// How often the file is looked at for more.
const POLL: &str = "5ms";

/// Runs the load for `seconds` seconds after the warm-up.
pub fn measure(millstream: &Path, dir: &Path, partitions: u32, rate: u64, seconds: u64) -> Outcome<Value> {
    pipeline::clear(dir)?;
    let (config, feed) = (dir.join("pipeline.yaml"), dir.join("feed.jsonl"));
    let source = format!("    type: file\n    path: {}\n    follow: true\n    poll_interval: {POLL}\n", feed.display());
    let shape = pipeline::Shape { extra: Some(SENT_AT), partitions, ..Default::default() };
    std::fs::write(&config, pipeline::file(&source, "    type: stdout\n", &shape))?;
    let mut out = File::create(&feed)?;
    let mut child = pipeline::command(millstream, &config, dir).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let arrivals = Arrivals::of(child.stdout.take().ok_or("no standard output")?);

    let duration = WARM_UP + Duration::from_secs(seconds);
    let (mut usage, mut own) = (Usage::default(), Usage::default());
    own.look(std::process::id());
    let own_before_s = own.cpu_s;
    let measured = first_row(&mut out, &arrivals).and_then(|started_us| {
        let sent = load(&mut out, rate, duration)?;
        let delays = arrivals.collect(sent.passing, started_us + WARM_UP.as_micros() as i64)?;
        Ok((sent, delays))
    });
    usage.look(child.id());
    own.look(std::process::id());
    let cores = |cpu_s: f64| round(cpu_s / duration.as_secs_f64(), 2);
    child.kill()?;
    child.wait()?;
    let (sent, delays) = measured?;
    std::fs::remove_dir_all(dir)?;

    let mut report = json!({
        "records_per_s": rate,
        "mb_per_s": round(sent.bytes as f64 / duration.as_secs_f64() / 1e6, 1),
        "seconds": seconds,
        "rows": sent.passing,
        "rows_measured": delays.len(),
        "cores_used": cores(usage.cpu_s),
        "cores_used_by_the_benchmark": cores(own.cpu_s - own_before_s),
        "peak_rss_mib": round(usage.peak_rss_bytes as f64 / 1_048_576.0, 1),
    });
    if let Some(report) = report.as_object_mut() {
        report.extend(delays.percentiles(""));
    }
    Ok(report)
}

/// Sends a single record and waits until it has come out: the pipeline is up. Gives the time then.
fn first_row(out: &mut File, arrivals: &Arrivals) -> Outcome<i64> {
    let mut line = String::new();
    Generator::default().write_passing(SystemClock.now_us(), &mut line);
    out.write_all(line.as_bytes())?;
    arrivals.first()?;
    Ok(SystemClock.now_us())
}

/// What was sent.
struct Sent {
    /// Records that pass the filter.
    passing: u64,
    bytes: u64,
}

fn load(out: &mut File, rate: u64, duration: Duration) -> Outcome<Sent> {
    let mut generator = Generator::after(1_000);
    let started = Instant::now();
    let mut records = 0;
    let mut sent = Sent { passing: 0, bytes: 0 };
    let mut lines = String::new();
    while started.elapsed() < duration {
        let due = (started.elapsed().as_secs_f64() * rate as f64) as u64;
        lines.clear();
        let now_us = SystemClock.now_us();
        while records < due {
            sent.passing += u64::from(generator.write(Some(now_us), &mut lines));
            records += 1;
        }
        sent.bytes += lines.len() as u64;
        out.write_all(lines.as_bytes())?;
        std::thread::sleep(TICK);
    }
    Ok(sent)
}
