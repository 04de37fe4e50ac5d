//! `kill -9` between two stages: while an exchange holds rows that its reader has not taken, and between the commit of
//! a task and the append of its outbox. After each kill the data folder says which of the two it was.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::disk::RealDisk;
use millstream_engine::outbox::{COMMIT_KEY, Commit};
use millstream_storage::log::Log;
use millstream_storage::state::{StateOptions, StateReader, StateStore, local_store};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::crash::{each_old_image_is_the_last_new_one, each_once, numbers};
use crate::support::{Place, seeded};

/// Kills of each kind, at the least.
const KILLS: usize = 4;
/// Runs, at the most, in which that many must have hit.
const RUNS: usize = 400;
/// Records a file.
const RECORDS: u64 = 3_000;
/// In how many keys the records fall; all records of one are in one partition of the source.
const KEYS: u64 = 701;

/// The partitions of the source, of the table behind the first exchange, and of those behind the second and third.
type Partitions = [u32; 3];

/// Every table is partitioned otherwise than what it reads. `items` and `again` keep order by id, `every` holds each
/// record as a row of its own.
fn pipeline([source, items, again]: Partitions) -> String {
    format!(
        "
pipeline: exchange
sources:
  wire:
    type: file
    path: ./in/*.jsonl
    schema: {{ id: string, grp: int, n: int }}
    key: [grp]
    partitions: {source}
transforms:
  kept: {{ sql: \"SELECT id, n, grp FROM wire WHERE n % 10 <> 9\" }}
  of_items: {{ sql: \"SELECT key.id AS id, new.n AS n FROM items.changes WHERE op <> 'delete'\" }}
tables:
  items: {{ from: kept, key: [id], partitions: {items} }}
  again: {{ from: of_items, key: [id], partitions: {again} }}
  every: {{ from: of_items, key: [n], partitions: {again} }}
sinks:
  changes: {{ type: file, from: again.changes, folder: ./out, roll: {{ interval: 50ms }} }}
"
    )
}

fn add_input(place: &Place, file: u64) {
    let line = |n: u64| format!("{}\n", json!({ "id": format!("r{}", n % KEYS), "grp": n % KEYS % 60, "n": n }));
    place.write("in/new", (file * RECORDS..(file + 1) * RECORDS).map(line).collect::<String>());
    std::fs::rename(place.path("in/new"), place.path(&format!("in/{file:04}.jsonl"))).unwrap();
}

/// What a kill has left between the stages.
#[derive(Debug, Default, Clone, Copy)]
struct Between {
    /// Rows in an exchange that its reader has not committed.
    waiting: u64,
    /// Rows of outboxes that are committed and not yet appended.
    owed: u64,
}

/// The exchanges of the pipeline.
const EXCHANGES: [&str; 3] = ["items.input", "again.input", "every.input"];

/// Reads the commits of all tasks, and what the logs have of them.
async fn between(data: &Path) -> Between {
    let store = local_store(&data.join("state")).unwrap();
    let mut found = Between::default();
    for stage in names(&data.join("state")).iter().filter(|stage| !stage.contains(':')) {
        for partition in names(&data.join("state").join(stage)) {
            let Some(commit) = commit_of(&store, &format!("{stage}/{partition}")).await else { continue };
            let partition: u32 = partition.parse().unwrap();
            for (stream, chunks) in &commit.outbox {
                let known = log(data, stream).producer(&format!("{stage}/{partition}")).and_then(|p| p.sequence);
                if known < Some(commit.sequence) {
                    found.owed += chunks.iter().map(|chunk| u64::from(chunk.count)).sum::<u64>();
                }
            }
            if EXCHANGES.contains(&stage.as_str()) {
                let taken = commit.next_offset(stage, partition).unwrap();
                found.waiting += log(data, stage).end_offset(partition) - taken;
            }
        }
    }
    found
}

async fn commit_of(store: &StateStore, path: &str) -> Option<Commit> {
    let reader = StateReader::open(store.clone(), path, &StateOptions::default()).await.unwrap();
    let commit = reader.get(COMMIT_KEY).await.unwrap();
    reader.close().await.unwrap();
    commit.map(|bytes| Commit::decode(bytes).unwrap())
}

fn log(data: &Path, stream: &str) -> Log {
    Log::open_read_only(Arc::new(RealDisk), &data.join("log").join(stream), stream).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits for the file of another commit of some task, for a moment: what it owes to logs is not appended before that.
fn next_commit(place: &Place, rng: &mut StdRng) {
    let states = ["wire", "items.input", "items.changes"];
    let stage = place.path("data/state").join(states[rng.random_range(0..states.len())]);
    let wal = |partition: &String| names(&stage.join(partition).join("wal"));
    // Under its last name a file is whole.
    let commits = || names(&stage).iter().flat_map(wal).filter(|file| file.ends_with(".sst")).count();
    let (enough, give_up) = (commits() + rng.random_range(1..6), Instant::now() + Duration::from_millis(500));
    while commits() < enough && Instant::now() < give_up {
        std::thread::yield_now();
    }
}

/// Kills the pipeline until it was hit often enough between the stages, and lets it come to its end. Gives the numbers
/// of the records that must come through.
fn crash_to_the_end(place: &Place, rng: &mut StdRng) -> BTreeSet<u64> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (mut files, mut runs) = (2, 0);
    (0..files).for_each(|file| add_input(place, file));
    let (mut waited, mut owed, mut ended) = (0, 0, 0);
    while waited < KILLS || owed < KILLS || ended == 0 {
        runs += 1;
        assert!(runs <= RUNS, "{waited} kills with rows in an exchange, {owed} with an outbox owed in {runs} runs");
        let mut server = place.start(&["--exit-when-idle"]);
        server.wait_for_log("running; http://");
        if rng.random_bool(0.5) {
            server.ended_within(Duration::from_millis(rng.random_range(0..500)));
        } else {
            next_commit(place, rng);
        }
        if server.kill() {
            let left = runtime.block_on(between(&place.path("data")));
            waited += usize::from(left.waiting > 0);
            owed += usize::from(left.owed > 0);
        } else {
            ended += 1;
            add_input(place, files);
            files += 1;
        }
    }
    place.run();
    let left = runtime.block_on(between(&place.path("data")));
    assert_eq!((left.waiting, left.owed), (0, 0), "nothing is left at the end");
    eprintln!("{runs} runs, {waited} killed with rows in an exchange, {owed} between commit and append");
    (0..files * RECORDS).filter(|n| n % 10 != 9).collect()
}

fn killed_between_the_stages(partitions: Partitions) {
    let mut rng = seeded(&format!("crash: exchange {partitions:?}"));
    let place = Place::new(&pipeline(partitions));
    let expected = crash_to_the_end(&place, &mut rng);
    for exchange in EXCHANGES {
        let log = log(&place.path("data"), exchange);
        let rows: u64 = (0..log.partitions()).map(|partition| log.end_offset(partition)).sum();
        assert_eq!(rows, expected.len() as u64, "rows of {exchange}");
    }
    let changes = |table: &str| -> Vec<Value> {
        place.tap(&format!("{table}.changes")).into_iter().map(|line| line["record"].clone()).collect()
    };
    for table in ["items", "again"] {
        let changes = changes(table);
        each_once(&format!("changes of {table}"), &expected, numbers(changes.iter().map(|change| &change["new"])));
        each_old_image_is_the_last_new_one(table, "id", &changes);
        let rows = place.query(&format!("SELECT n FROM {table}"));
        let newest: BTreeMap<u64, u64> = expected.iter().map(|n| (n % KEYS, *n)).collect();
        each_once(&format!("table {table}"), &newest.into_values().collect(), numbers(rows.iter()));
    }
    let every = changes("every");
    assert!(every.iter().all(|change| change["op"] == "insert"), "a repeat would be an update");
    each_once("changes of every", &expected, numbers(every.iter().map(|change| &change["new"])));
    each_once("table every", &expected, numbers(place.query("SELECT n FROM every").iter()));
    let sent = place.sink_rows("out");
    each_once("file sink", &expected, numbers(sent.iter().map(|change| &change["new"])));
    assert_eq!(place.dead_letters(), Vec::<Value>::new());
}

#[test]
fn killed_between_the_stages_of_a_wide_pipeline_nothing_is_lost_doubled_or_out_of_order() {
    killed_between_the_stages([2, 3, 4]);
}

#[test]
fn killed_where_one_partition_becomes_several_nothing_is_lost_doubled_or_out_of_order() {
    killed_between_the_stages([1, 4, 2]);
}

#[test]
fn killed_where_several_partitions_become_one_nothing_is_lost_doubled_or_out_of_order() {
    killed_between_the_stages([4, 1, 3]);
}
