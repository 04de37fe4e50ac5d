//! Damage of a state's files: found and named, or without effect; never other data, never a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FsPath, PathBuf};

use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

type Entries = BTreeMap<String, String>;

/// Commits so much, and is gone as after `kill -9`: nothing of it runs any more. Gives the state after each commit.
fn write_and_die(dir: &FsPath, commits: std::ops::Range<u32>, known: &mut Vec<Entries>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let options = StateOptions { memtable_bytes: 8 << 10, ..small() };
        let state = State::open(local_store(dir).unwrap(), "s/0", &options).await.unwrap();
        for commit in commits {
            let mut now = known.last().cloned().unwrap_or_default();
            let mut writes = Writes::new();
            for n in 0..8 {
                let (key, value) =
                    (format!("k{:03}", (commit * 7 + n * 3) % 60), format!("{commit}-{n}-{}", "v".repeat(150)));
                writes.put(key.clone(), value.clone());
                now.insert(key, value);
            }
            state.commit(writes).await.unwrap();
            known.push(now);
        }
    });
    // What a thread has begun to do with a file is done to its end; then nothing moves any more.
    runtime.shutdown_timeout(Duration::from_secs(60));
}

fn files(dir: &FsPath) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            all.extend(files(&entry));
        } else {
            all.push(entry);
        }
    }
    all.sort();
    all
}

fn copy(from: &FsPath, to: &FsPath) {
    let _ = std::fs::remove_dir_all(to);
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

async fn read(view: StateView) -> Result<Entries> {
    let mut scan = view.scan(Bytes::from("a")..).await?;
    let mut entries = Entries::new();
    while let Some((key, value)) = scan.next().await? {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        entries.insert(text(&key), text(&value));
    }
    // By key, too: other parts of the files are read for that.
    for (key, value) in &entries {
        assert_eq!(view.get(key.as_bytes()).await?.as_deref(), Some(value.as_bytes()));
    }
    Ok(entries)
}

async fn read_both_ways(dir: &FsPath) -> [Result<Entries>; 2] {
    let reader = match StateReader::open(local_store(dir).unwrap(), "s/0", &small()).await {
        Ok(reader) => read(reader.into()).await,
        Err(e) => Err(e),
    };
    let owner = match State::open(local_store(dir).unwrap(), "s/0", &small()).await {
        Ok(state) => {
            let entries = read(state.clone().into()).await;
            let _ = state.close().await;
            entries
        }
        Err(e) => Err(e),
    };
    [reader, owner]
}

#[derive(Debug, Clone, Copy)]
enum Attack {
    Flip,
    Cut,
    Empty,
    Grow,
    Remove,
    Older,
}

fn attack(file: &FsPath, kind: Attack, older: &FsPath, rng: &mut StdRng) -> bool {
    let mut bytes = std::fs::read(file).unwrap();
    match kind {
        Attack::Remove => return std::fs::remove_file(file).is_ok(),
        Attack::Older => match std::fs::read(older) {
            Ok(before) if before != bytes => bytes = before,
            _ => return false,
        },
        Attack::Grow => bytes.extend_from_slice(b"more"),
        Attack::Empty => bytes.clear(),
        Attack::Cut => bytes.truncate(rng.random_range(0..bytes.len())),
        Attack::Flip => {
            let at = rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << rng.random_range(0..8);
        }
    }
    std::fs::write(file, bytes).unwrap();
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_of_a_file_that_is_open_is_found_and_named() {
    let mut rng = StdRng::seed_from_u64(3);
    for what in [Attack::Flip, Attack::Cut, Attack::Empty, Attack::Grow, Attack::Remove] {
        let dir = tempfile::tempdir().unwrap();
        let (store, at) = (local_store(dir.path()).unwrap(), ObjectPath::from("s/0/compacted/1.sst"));
        store.objects.put(&at, vec![7; 100_000].into()).await.unwrap();
        for part in [10..20, 50_000..70_000, 0..99_999] {
            let wanted = vec![7; (part.end - part.start) as usize];
            assert_eq!(store.objects.get_range(&at, part).await.unwrap(), wanted);
        }
        attack(&dir.path().join(at.as_ref()), what, dir.path(), &mut rng);
        let damaged = match what {
            // The engine has checksums of its own for each part.
            Attack::Flip => match store.objects.get(&at).await {
                Ok(got) => got.bytes().await.map(drop),
                Err(e) => Err(e),
            },
            _ => store.objects.get_range(&at, 10..20).await.map(drop),
        };
        let error = damaged.unwrap_err();
        let found = store.damage.below("s/0").or(store.damage.missing_below("s/0"));
        let found = found.unwrap_or_else(|| panic!("{what:?}: {error}"));
        assert!(found.to_string().contains("1.sst"), "{what:?}: {found}");
    }
}

/// A file that was removed takes room on the disk as long as somebody has it open.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_stays_open_until_it_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, at) = (local_store(dir.path()).unwrap(), ObjectPath::from("s/0/compacted/1.sst"));
    let path = dir.path().canonicalize().unwrap().join(at.as_ref()).display().to_string();
    let handles = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        let targets = all.filter_map(|entry| std::fs::read_link(entry).ok());
        targets.filter(|target| target.display().to_string().starts_with(&path)).count()
    };
    store.objects.put(&at, vec![7; 1000].into()).await.unwrap();
    store.objects.get(&at).await.unwrap().bytes().await.unwrap();
    assert_eq!(handles(), 0, "who reads the whole reads it once");
    for _ in 0..3 {
        store.objects.get_range(&at, 10..20).await.unwrap();
    }
    assert_eq!(handles(), 1);
    store.objects.delete(&at).await.unwrap();
    assert_eq!(handles(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_is_found_and_named_and_gives_no_other_data() {
    let (place, mut known) = (tempfile::tempdir().unwrap(), Vec::new());
    let [live, older, whole] = ["live", "older", "whole"].map(|name| place.path().join(name));
    for commits in [0..14, 14..24] {
        let live = live.clone();
        let mut so_far = std::mem::take(&mut known);
        known = tokio::task::spawn_blocking(move || {
            write_and_die(&live, commits, &mut so_far);
            so_far
        })
        .await
        .unwrap();
        if known.len() == 14 {
            copy(&place.path().join("live"), &older);
        }
    }
    copy(&live, &whole);
    let right = known.last().unwrap();
    for read in read_both_ways(&live).await {
        assert_eq!(&read.unwrap(), right);
    }

    let mut rng = StdRng::seed_from_u64(8);
    let mut noticed: BTreeMap<String, usize> = BTreeMap::new();
    let (mut kinds, mut attacks) = (BTreeSet::new(), 0);
    for file in files(&whole) {
        let relative = file.strip_prefix(&whole).unwrap().to_owned();
        let kind = relative.components().nth(2).unwrap().as_os_str().to_string_lossy().into_owned();
        kinds.insert(kind.clone());
        let flips = std::iter::repeat_n(Attack::Flip, 2);
        for what in flips.chain([Attack::Cut, Attack::Empty, Attack::Grow, Attack::Remove, Attack::Older]) {
            // A folder of its own for each: what an earlier one left running looks after its own.
            let now = place.path().join(format!("{attacks}"));
            attacks += 1;
            copy(&whole, &now);
            if !attack(&now.join(&relative), what, &older.join(&relative), &mut rng) {
                continue;
            }
            let said = format!("{what:?} of {}", relative.display());
            for read in read_both_ways(&now).await {
                match read {
                    Ok(entries) if matches!(what, Attack::Remove | Attack::Older) => {
                        // Without its last objects a state is what it was before them: the work is done again.
                        assert!(known.contains(&entries), "{said}: a state that never was");
                    }
                    Ok(entries) => assert_eq!(&entries, right, "{said}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Corruption, "{said}: {error}");
                        let name = relative.file_name().unwrap().to_string_lossy().into_owned();
                        assert!(error.to_string().contains(&name) || matches!(what, Attack::Remove), "{said}: {error}");
                        *noticed.entry(format!("{kind} {what:?}")).or_default() += 1;
                    }
                }
            }
        }
    }
    for kind in ["manifest", "wal"] {
        for what in ["Flip", "Cut", "Empty", "Grow"] {
            assert!(noticed.contains_key(&format!("{kind} {what}")), "{kind} {what}: {noticed:?}");
        }
    }
    assert!(noticed.contains_key("wal Remove") && kinds.contains("compacted"), "{noticed:?}, {kinds:?}");
}
