//! How fast a table takes rows, durable at each commit, change stream included. Prints JSON.
//!
//! `cargo run --release -p millstream-storage --example bench_table [ROWS] [ROWS_PER_COMMIT] [TABLES]`
//!
//! First new keys, then updates of random keys among them, then the same rows again. Rows have about 400 bytes. With more
//! than one table, each has its own state and task, and the rows are shared out among them.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::Schema;
use millstream_storage::codec::SchemaStore;
use millstream_storage::state::{State, StateOptions, Writes, local_store};
use millstream_storage::table::{Table, TableReader, TableSpec};
use serde_json::json;

type AnyResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn rows(keys: &[u64], version: i64) -> AnyResult<RecordBatch> {
    let body: Vec<String> = keys.iter().map(|k| format!("{:0>1$}", k ^ 0x5555, 220)).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from_iter_values(keys.iter().map(|k| format!("urn:newsml:example.com:{k:012}"))))),
        (
            "headline",
            Arc::new(StringArray::from_iter_values(
                keys.iter().map(|k| format!("Shares of company {k} rise after results, analysts say")),
            )),
        ),
        ("body", Arc::new(StringArray::from(body))),
        ("language", Arc::new(StringArray::from_iter_values(keys.iter().map(|_| "en")))),
        (
            "published_at",
            Arc::new(TimestampMicrosecondArray::from_iter_values(keys.iter().map(|k| *k as i64)).with_timezone("UTC")),
        ),
        ("version", Arc::new(Int64Array::from_iter_values(keys.iter().map(|_| version)))),
        ("score", Arc::new(Float64Array::from_iter_values(keys.iter().map(|k| *k as f64)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}

/// One phase: the batches that it applies, and what it took.
#[derive(Default)]
struct Phase {
    commits: Vec<Duration>,
    applying: Duration,
    changes: usize,
}

async fn phase(state: &State, table: &mut Table, batches: impl Iterator<Item = RecordBatch>) -> AnyResult<Phase> {
    let mut phase = Phase::default();
    for batch in batches {
        let (mut writes, begin) = (Writes::new(), Instant::now());
        let applied = table.apply(&batch, None, 1, &mut writes).await?;
        phase.applying += begin.elapsed();
        phase.changes += applied.changes.num_rows();
        let begin = Instant::now();
        state.commit(writes).await?;
        phase.commits.push(begin.elapsed());
    }
    Ok(phase)
}

fn report(phases: Vec<Phase>, rows: u64, took: Duration) -> serde_json::Value {
    let mut commits: Vec<Duration> = phases.iter().flat_map(|p| p.commits.clone()).collect();
    commits.sort();
    let ms = |q: f64| commits.get(((commits.len() - 1) as f64 * q) as usize).map(|d| d.as_secs_f64() * 1e3);
    let applying: f64 = phases.iter().map(|p| p.applying.as_secs_f64()).sum();
    json!({
        "rows_per_s": rows as f64 / took.as_secs_f64(),
        "apply_only_rows_per_s": rows as f64 / applying,
        "changes": phases.iter().map(|p| p.changes).sum::<usize>(),
        "commit_ms_p50": ms(0.5), "commit_ms_p99": ms(0.99), "commit_ms_max": ms(1.0),
        "s": took.as_secs_f64(),
    })
}

/// Peak resident memory of this process, in MiB (Linux).
fn peak_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Processor time of this process so far, all threads, in seconds (Linux, 100 ticks a second).
fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

#[tokio::main]
async fn main() -> AnyResult<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let total = args.next().transpose()?.unwrap_or(1_000_000);
    let per_commit = args.next().transpose()?.unwrap_or(4096);
    let tables = args.next().transpose()?.unwrap_or(1);
    let dir = tempfile::tempdir()?;
    let schemas = SchemaStore::open(&dir.path().join("schemas"))?;
    let schema: Arc<Schema> = rows(&[0], 0)?.schema();
    let row_bytes = rows(&(0..1000).collect::<Vec<_>>(), 0)?.get_array_memory_size() / 1000;
    let spec = TableSpec { name: "news".into(), key: vec![0], schema, ttl_us: None };

    let mut open = Vec::new();
    for t in 0..tables {
        let state = State::open(local_store(dir.path())?, &format!("news/{t}"), &StateOptions::default()).await?;
        let table = Table::open(state.clone(), spec.clone(), schemas.clone()).await?;
        open.push((t, state, table));
    }
    let mut results = serde_json::Map::new();
    for name in ["insert", "update", "same"] {
        let (begin, cpu) = (Instant::now(), cpu_s());
        let mut tasks = Vec::new();
        for (t, state, mut table) in open.drain(..) {
            tasks.push(tokio::spawn(async move {
                let own = total / tables;
                // Odd multipliers visit all of a power of two in a scattered order; the rest is cut off.
                let key = move |i: u64| if name == "insert" { i } else { i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % own };
                let batches = (0..own).step_by(per_commit as usize).map_while(move |from| {
                    let keys: Vec<u64> = (from..own.min(from + per_commit)).map(|i| t * total + key(i)).collect();
                    rows(&keys, i64::from(name != "insert")).ok()
                });
                let phase = phase(&state, &mut table, batches).await?;
                AnyResult::Ok((t, state, table, phase))
            }));
        }
        let mut phases = Vec::new();
        for task in tasks {
            let (t, state, table, phase) = task.await??;
            open.push((t, state, table));
            phases.push(phase);
        }
        let mut phase = report(phases, total, begin.elapsed());
        phase["cpu_s"] = json!(cpu_s().zip(cpu).map(|(now, then)| now - then));
        results.insert(name.into(), phase);
    }
    results.insert("peak_rss_mib".into(), json!(peak_rss_mib()));

    let (_, state, table) = open.swap_remove(0);
    let reader = TableReader::new(&state, spec.clone(), schemas.clone())?;
    let begin = Instant::now();
    let (mut scan, mut scanned) = (reader.scan(None, None, 1).await?, 0);
    while let Some(batch) = scan.next().await? {
        scanned += batch.num_rows();
    }
    results.insert("scan_rows_per_s".into(), json!(scanned as f64 / begin.elapsed().as_secs_f64()));
    drop(table);
    state.close().await?;
    let begin = Instant::now();
    let state = State::open(local_store(dir.path())?, "news/0", &StateOptions::default()).await?;
    let state_s = begin.elapsed().as_secs_f64();
    drop(Table::open(state, spec, schemas).await?);
    results.insert("reopen_s".into(), json!({ "state": state_s, "with_table": begin.elapsed().as_secs_f64() }));
    let setting = json!({ "rows": total, "row_bytes": row_bytes, "rows_per_commit": per_commit, "tables": tables });
    println!("{}", serde_json::to_string_pretty(&json!({ "bench": "table", "setting": setting, "results": results }))?);
    Ok(())
}
