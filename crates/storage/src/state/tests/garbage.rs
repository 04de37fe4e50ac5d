//! What is no longer needed is removed: after hours of trickle, and after a hundred restarts.

use std::path::Path as FsPath;

use super::*;

fn count(dir: &FsPath) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}

/// Everything is old at once, and nobody waits.
fn eager() -> StateOptions {
    StateOptions {
        memtable_bytes: 8 << 10,
        garbage_min_age: Duration::from_millis(20),
        garbage_interval: Duration::from_millis(50),
        compaction_interval: Duration::from_millis(20),
        ..small()
    }
}

async fn settles(dir: &FsPath, most: usize) {
    let begun = std::time::Instant::now();
    while count(dir) > most {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} files stay in {}", count(dir), dir.display());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickle_leaves_a_bounded_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    let state = State::open(local_store(dir.path()).unwrap(), "s/0", &eager()).await.unwrap();
    for round in 0..400_u32 {
        let mut writes = Writes::new();
        writes.put(format!("{:03}", round % 50), vec![round as u8; 400]);
        state.commit(writes).await.unwrap();
    }
    // Each commit writes an object of the write-ahead log.
    for folder in ["wal", "manifest", "compactions", "compacted"] {
        settles(&dir.path().join("s/0").join(folder), 60).await;
    }
    state.close().await.unwrap();
    let state = open(dir.path()).await;
    assert_eq!(state.get(b"049").await.unwrap(), Some(vec![399_u32 as u8; 400].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_starts_leave_a_bounded_number_of_files() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..100_u32 {
        let state = State::open(local_store(dir.path()).unwrap(), "s/0", &eager()).await.unwrap();
        let mut writes = Writes::new();
        writes.put("round", round.to_le_bytes().to_vec());
        state.commit(writes).await.unwrap();
        if round % 2 == 0 {
            state.close().await.unwrap();
        }
    }
    let state = State::open(local_store(dir.path()).unwrap(), "s/0", &eager()).await.unwrap();
    settles(dir.path(), 120).await;
    assert_eq!(state.get(b"round").await.unwrap(), Some(99_u32.to_le_bytes().to_vec().into()));
}
