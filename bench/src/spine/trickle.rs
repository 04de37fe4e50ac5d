//! End-to-end latency of few records: from the moment that a record is due to be pushed over HTTP to its row on
//! Millstream's standard output, by way of log, SQL, table and change stream, each durable; and how long the push was
//! answered.
//!
//! Each record is a request of its own. A connection that is late sends at once, and the time that was lost counts:
//! what comes out is what a sender sees who does not wait for others.

use std::path::Path;
use std::time::{Duration, Instant};

use millstream_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::arrivals::{Arrivals, Delays, SENT_AT};
use crate::generate::Generator;
use crate::server::{Client, Server};
use crate::{Outcome, pipeline, round};

const WARM_UP: Duration = Duration::from_secs(3);
const PATH: &str = "/streams/wire/records";
/// Ids of the connections begin so far apart.
const IDS_APART: u64 = 1_000_000;

/// A load.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Records in a second, over all connections.
    pub records_per_s: u64,
    /// Connections that take turns.
    pub connections: u64,
    /// How long it lasts after the warm-up.
    pub seconds: u64,
}

/// Runs one load against a pipeline of its own.
pub fn measure(millstream: &Path, dir: &Path, partitions: u32, load: Load) -> Outcome<Value> {
    pipeline::clear(dir)?;
    let config = dir.join("pipeline.yaml");
    let shape = pipeline::Shape { extra: Some(SENT_AT), partitions, ..Default::default() };
    std::fs::write(&config, pipeline::file("    type: http\n", "    type: stdout\n", &shape))?;
    let mut server = Server::start(millstream, &config, dir)?;
    let arrivals = Arrivals::of(server.output()?);
    let mut first = String::new();
    Generator::default().write_passing(SystemClock.now_us(), &mut first);
    server.client()?.post(PATH, &first)?;
    arrivals.first()?;

    let clients = (0..load.connections).map(|_| server.client()).collect::<Outcome<Vec<_>>>()?;
    let (begin, begin_us) = (Instant::now(), SystemClock.now_us());
    let cpu_before_s = server.usage().cpu_s;
    let senders: Vec<_> = clients
        .into_iter()
        .zip(0..)
        .map(|(client, turn)| std::thread::spawn(move || send(client, turn, load, (begin, begin_us))))
        .collect();
    let mut answers = Vec::new();
    for sender in senders {
        answers.extend(sender.join().map_err(|_| "a sender panicked")??);
    }
    let took_s = begin.elapsed().as_secs_f64();
    let counted_from_us = begin_us + WARM_UP.as_micros() as i64;
    let rows = arrivals.collect(answers.len() as u64, counted_from_us)?;
    let usage = server.usage();
    server.kill()?;
    std::fs::remove_dir_all(dir)?;

    let sent = answers.len();
    let counted = answers.into_iter().filter(|(due_us, _)| *due_us >= counted_from_us).map(|(_, took_us)| took_us);
    let mut report = json!({
        "records_per_s_asked_for": load.records_per_s,
        "records_per_s": round(sent as f64 / took_s, 1),
        "connections": load.connections,
        "seconds": load.seconds,
        "rows_measured": rows.len(),
        "cores_used": round((usage.cpu_s - cpu_before_s) / took_s, 2),
        "peak_rss_mib": round(usage.peak_rss_bytes as f64 / 1_048_576.0, 1),
    });
    if let Some(report) = report.as_object_mut() {
        report.extend(rows.percentiles(""));
        report.extend(Delays::new(counted.collect()).percentiles("answer_"));
    }
    Ok(report)
}

/// One connection: every `connections`-th record. Gives, for each, when it was due and how long its answer took, in
/// microseconds.
fn send(mut client: Client, turn: u64, load: Load, (begin, begin_us): (Instant, i64)) -> Outcome<Vec<(i64, i64)>> {
    let duration = WARM_UP + Duration::from_secs(load.seconds);
    let mut generator = Generator::after((turn + 1) * IDS_APART);
    let mut answers = Vec::new();
    let mut line = String::new();
    for round in 0.. {
        let due = Duration::from_secs_f64((round * load.connections + turn) as f64 / load.records_per_s as f64);
        if due >= duration {
            break;
        }
        if let Some(early) = due.checked_sub(begin.elapsed()) {
            std::thread::sleep(early);
        }
        let due_us = begin_us + due.as_micros() as i64;
        line.clear();
        generator.write_passing(due_us, &mut line);
        let asked = Instant::now();
        client.post(PATH, &line)?;
        answers.push((due_us, asked.elapsed().as_micros() as i64));
    }
    Ok(answers)
}
