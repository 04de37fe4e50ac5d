//! What many states in one process cost: memory while rows come in, and CPU time while none do. Prints JSON.
//!
//! `cargo run --release -p millstream-storage --example bench_states [STATES] [ROWS_PER_STATE] [IDLE_SECONDS]`

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use millstream_storage::codec::SchemaStore;
use millstream_storage::keyed::MemoryBudget;
use millstream_storage::state::{State, Writes, local_store};
use millstream_storage::table::{Table, TableSpec};
use serde_json::json;

type AnyResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn rows(from: u64, count: u64) -> AnyResult<RecordBatch> {
    let ids = (from..from + count).map(|k| format!("urn:newsml:example.com:{k:012}"));
    let bodies = (from..from + count).map(|k| format!("{:0>1$}", k ^ 0x5555, 300));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(StringArray::from_iter_values(ids))),
        ("body", Arc::new(StringArray::from_iter_values(bodies))),
        ("n", Arc::new(Int64Array::from_iter_values((from..from + count).map(|k| k as i64)))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
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

/// CPU time of this process in seconds (Linux, 100 ticks a second).
fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some((fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?) / 100.0)
}

#[tokio::main]
async fn main() -> AnyResult<()> {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let states = args.next().transpose()?.unwrap_or(256);
    let rows_per_state = args.next().transpose()?.unwrap_or(4096);
    let idle_s = args.next().transpose()?.unwrap_or(20);
    let dir = tempfile::tempdir()?;
    let schemas = SchemaStore::open(&dir.path().join("schemas"))?;
    let spec = TableSpec { name: "news".into(), key: vec![0], schema: rows(0, 1)?.schema(), ttl_us: None };
    let store = local_store(&dir.path().join("state"))?;
    let options = MemoryBudget::default().share(states as usize);

    let begin = Instant::now();
    let mut open = Vec::new();
    for i in 0..states {
        let state = State::open(store.clone(), &format!("news/{i}"), &options).await?;
        let table = Table::open(state.clone(), spec.clone(), schemas.clone()).await?;
        open.push((state, table));
    }
    let opened = json!({ "s": begin.elapsed().as_secs_f64(), "memory_mib": memory_mib() });

    let (begin, cpu) = (Instant::now(), cpu_s());
    for from in (0..rows_per_state).step_by(1024) {
        for (i, (state, table)) in open.iter_mut().enumerate() {
            let mut writes = Writes::new();
            let batch = rows(i as u64 * rows_per_state + from, 1024.min(rows_per_state - from))?;
            table.apply(&batch, None, 1, &mut writes).await?;
            state.commit(writes).await?;
        }
    }
    let took = begin.elapsed().as_secs_f64();
    let filled = json!({
        "s": took,
        "rows_per_s": (states * rows_per_state) as f64 / took,
        "cpu_s": cpu_s().zip(cpu).map(|(now, then)| now - then),
        "memory_mib": memory_mib(),
    });

    // What the filling left to do in the background is not what idle states cost.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let cpu = cpu_s();
    tokio::time::sleep(Duration::from_secs(idle_s)).await;
    let idle = json!({
        "s": idle_s,
        "cpu_s": cpu_s().zip(cpu).map(|(now, then)| now - then),
        "memory_mib": memory_mib(),
    });
    let setting = json!({ "states": states, "rows_per_state": rows_per_state });
    let results = json!({ "open": opened, "fill": filled, "idle": idle });
    println!("{:#}", json!({ "bench": "states", "setting": setting, "results": results }));
    Ok(())
}
