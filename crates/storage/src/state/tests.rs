//! The state engine.

use millstream_core::ErrorKind;

use super::*;

fn small() -> StateOptions {
    StateOptions { memtable_bytes: 64 << 10, ..MemoryBudget::new(128 << 10).share(1) }
}

async fn open(dir: &std::path::Path) -> State {
    State::open(local_store(dir).unwrap(), "s/0", &small()).await.unwrap()
}

fn writes<const N: usize>(pairs: [(&'static str, Option<&'static str>); N]) -> Writes {
    let mut writes = Writes::new();
    for (key, value) in pairs {
        match value {
            Some(value) => writes.put(key, value),
            None => writes.delete(key),
        }
    }
    writes
}

async fn all(mut scan: StateScan) -> Vec<(String, String)> {
    let text = |b: Bytes| String::from_utf8_lossy(&b).into_owned();
    let mut entries = vec![];
    while let Some((key, value)) = scan.next().await.unwrap() {
        entries.push((text(key), text(value)));
    }
    entries
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_is_there_after_a_crash_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).await;
    first.commit(writes([("a", Some("1")), ("b", Some("2")), ("c", Some("3"))])).await.unwrap();
    first.commit(writes([("b", None), ("c", Some("4"))])).await.unwrap();
    let never_committed = writes([("d", Some("5"))]);
    assert_eq!((never_committed.len(), never_committed.bytes()), (1, 2));
    // No close: as after `kill -9`, the next one finds only what is on the disk.
    drop((first, never_committed));

    let second = open(dir.path()).await;
    let from_a = Bytes::from("a")..;
    let found = all(second.scan(from_a).await.unwrap()).await;
    assert_eq!(found, [("a".into(), "1".into()), ("c".into(), "4".into())]);
    let got = second.get_many(&["c".into(), "b".into(), "a".into()]).await.unwrap();
    assert_eq!(got, [Some(Bytes::from("4")), None, Some(Bytes::from("1"))]);
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_keys_are_read_side_by_side_and_come_back_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    let key = |n: u32| Bytes::from(format!("{n:05}"));
    for part in 0..4 {
        let mut writes = Writes::new();
        for n in (part..3000).step_by(4).filter(|n| n % 7 != 0) {
            writes.put(key(n), vec![n as u8; 100]);
        }
        state.commit(writes).await.unwrap();
    }
    // Their order is not that of the state, and there are as many that don't divide evenly among tasks.
    let asked: Vec<u32> = (0..1001).map(|n| n * 1999 % 3000).collect();
    let wanted: Vec<Option<Bytes>> = asked.iter().map(|&n| (n % 7 != 0).then(|| vec![n as u8; 100].into())).collect();
    let keys: Vec<Bytes> = asked.iter().map(|&n| key(n)).collect();
    assert_eq!(state.get_many(&keys).await.unwrap(), wanted);
    assert_eq!(StateView::from(&state).get_many(&keys).await.unwrap(), wanted);
    assert_eq!(state.get_many(&[]).await.unwrap(), Vec::<Option<Bytes>>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_owner_is_fenced_and_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let old = open(dir.path()).await;
    old.commit(writes([("a", Some("old"))])).await.unwrap();
    let new = open(dir.path()).await;
    let error = old.commit(writes([("a", Some("too late"))])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    assert!(error.to_string().contains("another process has taken this state over"), "{error}");
    assert_eq!(new.get(b"a").await.unwrap(), Some("old".into()));
    new.commit(writes([("a", Some("new"))])).await.unwrap();
    assert_eq!(new.get(b"a").await.unwrap(), Some("new".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_the_state_and_does_not_fence_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let owner = open(dir.path()).await;
    owner.commit(writes([("a", Some("1"))])).await.unwrap();
    let reader = StateReader::open(local_store(dir.path()).unwrap(), "s/0", &small()).await.unwrap();
    assert_eq!(reader.get(b"a").await.unwrap(), Some("1".into()));
    owner.commit(writes([("b", Some("2"))])).await.unwrap();
    owner.close().await.unwrap();
    let at_rest = StateReader::open(local_store(dir.path()).unwrap(), "s/0", &small()).await.unwrap();
    let view = StateView::from(at_rest);
    let found = all(view.scan(Bytes::from("a")..Bytes::from("z")).await.unwrap()).await;
    assert_eq!(found, [("a".into(), "1".into()), ("b".into(), "2".into())]);

    let nothing = StateReader::open(local_store(dir.path()).unwrap(), "s/1", &small()).await;
    assert!(nothing.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    let mut writes = Writes::new();
    writes.put(FORMAT_KEY, vec![FORMAT + 1]);
    state.commit(writes).await.unwrap();
    let error = State::open(local_store(dir.path()).unwrap(), "s/0", &small()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment);
    assert!(error.to_string().contains("newer Millstream"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_survive_when_they_move_from_memory_to_tables() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    for round in 0..40_u32 {
        let mut writes = Writes::new();
        for key in 0..50_u32 {
            writes.put(format!("{key:04}"), vec![round as u8; 400]);
        }
        writes.put(format!("r{round:04}"), round.to_le_bytes().to_vec());
        state.commit(writes).await.unwrap();
    }
    for key in 0..50_u32 {
        assert_eq!(state.get(format!("{key:04}").as_bytes()).await.unwrap(), Some(vec![39_u8; 400].into()));
    }
    drop(state);
    let state = open(dir.path()).await;
    assert_eq!(all(state.scan(Bytes::from("r")..).await.unwrap()).await.len(), 40);
    assert_eq!(state.get(b"0049").await.unwrap(), Some(vec![39_u8; 400].into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_comes_out_as_an_error_of_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    state.commit(writes([("a", Some("1"))])).await.unwrap();
    // A file where the engine needs a folder: the one kind of refusal that root can't override.
    let wal = dir.path().join("s/0/wal");
    std::fs::rename(&wal, dir.path().join("aside")).unwrap();
    std::fs::write(&wal, b"").unwrap();
    let error = state.commit(writes([("a", Some("2"))])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    let again = state.commit(writes([("a", Some("3"))])).await.unwrap_err();
    assert_ne!(again.kind(), ErrorKind::Retry, "{again}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_refuses_the_background_work_stops_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    let tables = dir.path().join("s/0/compacted");
    // Not there yet: it comes with the first table that is written out.
    std::fs::write(&tables, b"").unwrap();
    let mut committed = 0_u32;
    let error = loop {
        let mut writes = Writes::new();
        for key in 0..20_u32 {
            writes.put(format!("{committed:04}/{key:04}"), vec![7_u8; 1000]);
        }
        match state.commit(writes).await {
            Ok(()) => committed += 1,
            Err(error) => break error,
        }
        assert!(committed < 10_000, "the writer must not go on for ever");
    };
    assert_eq!(error.kind(), ErrorKind::Environment, "{error}");
    drop(state);
    std::fs::remove_file(&tables).unwrap();
    let state = open(dir.path()).await;
    for commit in 0..committed {
        let key = format!("{commit:04}/0000");
        assert!(state.get(key.as_bytes()).await.unwrap().is_some(), "{key} of {committed} is gone");
    }
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    fn open_to_others(dir: &std::path::Path, found: &mut Vec<String>) -> usize {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        let mut files = 0;
        for entry in entries {
            let kind = entry.file_type().unwrap();
            if entry.metadata().unwrap().permissions().mode() & 0o077 != 0 {
                found.push(entry.path().display().to_string());
            }
            files += if kind.is_dir() { open_to_others(&entry.path(), found) } else { 1 };
        }
        files
    }
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path()).await;
    for _ in 0..3 {
        state.commit(writes([("a", Some("1"))])).await.unwrap();
    }
    state.close().await.unwrap();
    let mut found = Vec::new();
    assert!(open_to_others(dir.path(), &mut found) > 2, "files were written");
    assert!(found.is_empty(), "{found:?}");
}

mod damage;
mod garbage;
mod time;
