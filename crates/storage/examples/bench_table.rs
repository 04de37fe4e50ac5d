//! What a table costs: rows per second while it is filled, how fast it opens, new and known keys after that, memory.
//! Prints JSON.
//!
//! `cargo run --release -p millstream-storage --example bench_table [KEYS] [ROWS_PER_COMMIT] [TABLES] [SAMPLE]`
//!
//! Five million keys unless told otherwise, in rows of about 400 bytes, each commit durable, the change stream
//! included. Then the table is opened again, and takes SAMPLE rows (200,000) of each kind: new keys, updates of random
//! known ones, the same rows again. With more than one table, each has its own state and task, and the keys are shared
//! out among them.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use millstream_storage::codec::SchemaStore;
use millstream_storage::keyed::MemoryBudget;
use millstream_storage::state::{State, Writes, local_store};
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

/// Resident memory of this process now and at its peak, in MiB (Linux).
fn memory_mib() -> serde_json::Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    };
    json!({ "now": of("VmRSS:"), "peak": of("VmHWM:") })
}

/// Processor time of this process so far, all threads, in seconds (Linux, 100 ticks a second).
fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

/// Opens all tables; what that took.
async fn open_all(place: &Path, tables: u64) -> AnyResult<(Vec<(u64, State, Table)>, serde_json::Value)> {
    let schemas = SchemaStore::open(&place.join("schemas"))?;
    let options = MemoryBudget::default().share(tables as usize);
    let spec = TableSpec { name: "news".into(), key: vec![0], schema: rows(&[0], 0)?.schema(), ttl_us: None };
    let (mut open, mut states_s, begin) = (Vec::new(), 0.0, Instant::now());
    for t in 0..tables {
        let begin = Instant::now();
        let state = State::open(local_store(place)?, &format!("news/{t}"), &options).await?;
        states_s += begin.elapsed().as_secs_f64();
        let table = Table::open(state.clone(), spec.clone(), schemas.clone()).await?;
        open.push((t, state, table));
    }
    Ok((open, json!({ "states_s": states_s, "with_tables_s": begin.elapsed().as_secs_f64() })))
}

#[tokio::main]
async fn main() -> AnyResult<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let keys = args.next().transpose()?.unwrap_or(5_000_000);
    let per_commit = args.next().transpose()?.unwrap_or(4096);
    let tables = args.next().transpose()?.unwrap_or(1);
    let sample = args.next().transpose()?.unwrap_or(200_000);
    let dir = tempfile::tempdir()?;
    let row_bytes = rows(&(0..1000).collect::<Vec<_>>(), 0)?.get_array_memory_size() / 1000;

    let (mut open, _) = open_all(dir.path(), tables).await?;
    let mut results = serde_json::Map::new();
    for name in ["fill", "new", "update", "same"] {
        if name == "new" {
            results.insert("memory_after_fill_mib".into(), memory_mib());
            for (_, state, table) in open.drain(..) {
                drop(table);
                state.close().await?;
            }
            let (opened, took) = open_all(dir.path(), tables).await?;
            open = opened;
            results.insert("open".into(), took);
        }
        let rows_in_all = if name == "fill" { keys } else { sample };
        let (begin, cpu) = (Instant::now(), cpu_s());
        let mut tasks = Vec::new();
        for (t, state, mut table) in open.drain(..) {
            tasks.push(tokio::spawn(async move {
                let (own, of_table) = (rows_in_all / tables, keys / tables);
                // Known keys in a scattered order: an odd multiplier visits all of a power of two; the rest is cut off.
                let key = move |i: u64| match name {
                    "fill" => i,
                    "new" => of_table + i,
                    _ => i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % of_table,
                };
                let batches = (0..own).step_by(per_commit as usize).map_while(move |from| {
                    let keys: Vec<u64> = (from..own.min(from + per_commit)).map(|i| (t << 40) + key(i)).collect();
                    rows(&keys, i64::from(name == "update" || name == "same")).ok()
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
        let mut phase = report(phases, rows_in_all, begin.elapsed());
        phase["cpu_s"] = json!(cpu_s().zip(cpu).map(|(now, then)| now - then));
        results.insert(name.into(), phase);
    }

    let (_, state, table) = open.swap_remove(0);
    let schemas = SchemaStore::open(&dir.path().join("schemas"))?;
    let reader = TableReader::new(&state, table.spec().clone(), schemas)?;
    let begin = Instant::now();
    let (mut scan, mut scanned) = (reader.scan(None, None, 1).await?, 0);
    while let Some(batch) = scan.next().await? {
        scanned += batch.num_rows();
    }
    results.insert("scan_rows_per_s".into(), json!(scanned as f64 / begin.elapsed().as_secs_f64()));
    results.insert("memory_mib".into(), memory_mib());
    let setting = json!({
        "keys": keys, "row_bytes": row_bytes, "rows_per_commit": per_commit, "tables": tables, "sample": sample,
    });
    println!("{}", serde_json::to_string_pretty(&json!({ "bench": "table", "setting": setting, "results": results }))?);
    Ok(())
}
