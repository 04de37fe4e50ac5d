//! Clocks that were set back or ahead between two starts.

use millstream_core::Clock;

use super::clock::StateClock;
use super::local::store_with;
use super::*;

const YEAR_MS: i64 = 365 * 24 * 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_set_back_neither_stalls_nor_refuses_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let now = millstream_core::SystemClock.now_us() / 1000;
    for (round, offset) in [0, -5_000, -60_000, YEAR_MS, -1, 0, -YEAR_MS].into_iter().enumerate() {
        let store = store_with(dir.path(), StateClock::starting_at(now + offset)).unwrap();
        let state = State::open(store, "s/0", &small()).await.unwrap();
        let commit = async {
            for n in 0..3 {
                let mut writes = Writes::new();
                writes.put(format!("{round}-{n}"), "x");
                state.commit(writes).await.unwrap();
            }
        };
        // The engine would wait for ten seconds, and refuse then.
        tokio::time::timeout(Duration::from_secs(8), commit).await.expect("a commit waits for the clock");
        if round % 2 == 0 {
            state.close().await.unwrap();
        }
    }
    let state = open(dir.path()).await;
    assert_eq!(all(state.scan(Bytes::from("0")..).await.unwrap()).await.len(), 21);
}
