//! Who watches the rows of a transform as they come: rows that need no log of their own.
//!
//! Nobody watching costs one atomic load per batch and step. Rows are handed over when their commit has succeeded, so
//! nothing is seen that a crash takes back. A watcher that is too slow holds up nobody: it misses batches, and is told
//! how many rows those had.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::mpsc;

/// Batches (one a commit) that wait for a watcher.
const WAITING_MAX: usize = 32;

/// Rows of a transform, committed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The transform.
    pub name: Arc<str>,
    /// The partition of the log that its stage reads.
    pub partition: u32,
    /// For each row, the offset there of the record that it came from.
    pub offsets: Vec<u64>,
    /// The rows.
    pub batch: RecordBatch,
}

/// All watchers of a pipeline.
#[derive(Debug, Default)]
pub struct Watchers {
    number: AtomicUsize,
    by_name: Mutex<BTreeMap<Arc<str>, Vec<Watcher>>>,
}

#[derive(Debug)]
struct Watcher {
    rows: mpsc::Sender<Seen>,
    missed: Arc<AtomicU64>,
}

/// One watcher's end: rows as they are committed, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    name: Arc<str>,
    rows: mpsc::Receiver<Seen>,
    missed: Arc<AtomicU64>,
    watchers: Arc<Watchers>,
}

impl Watchers {
    /// Watches the transform `name` from now on.
    pub fn watch(self: &Arc<Self>, name: &Arc<str>) -> Watch {
        let (sender, rows) = mpsc::channel(WAITING_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        let watcher = Watcher { rows: sender, missed: missed.clone() };
        self.by_name.lock().entry(name.clone()).or_default().push(watcher);
        self.number.fetch_add(1, Ordering::Release);
        Watch { name: name.clone(), rows, missed, watchers: self.clone() }
    }

    /// True where somebody watches `name`.
    pub fn want(&self, name: &str) -> bool {
        self.number.load(Ordering::Acquire) > 0 && self.by_name.lock().contains_key(name)
    }

    /// Hands over what was committed.
    pub fn show(&self, committed: Vec<Seen>) {
        for seen in committed {
            for watcher in self.by_name.lock().get(&seen.name).into_iter().flatten() {
                let rows = seen.batch.num_rows() as u64;
                if watcher.rows.try_send(seen.clone()).is_err() {
                    watcher.missed.fetch_add(rows, Ordering::Relaxed);
                }
            }
        }
    }
}

impl Watch {
    /// The next rows.
    pub async fn next(&mut self) -> Option<Seen> {
        self.rows.recv().await
    }

    /// The number of rows that were missed since the last call.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut by_name = self.watchers.by_name.lock();
        if let Some(watchers) = by_name.get_mut(&self.name) {
            watchers.retain(|watcher| !Arc::ptr_eq(&watcher.missed, &self.missed));
            if watchers.is_empty() {
                by_name.remove(&self.name);
            }
        }
        self.watchers.number.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn seen(name: &str, rows: i64) -> Seen {
        let column = Arc::new(Int64Array::from_iter_values(0..rows)) as _;
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        Seen { name: name.into(), partition: 0, offsets: (0..rows as u64).collect(), batch }
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_rows_is_told_how_many_and_holds_up_nobody() {
        let watchers = Arc::new(Watchers::default());
        let mut watch = watchers.watch(&"scored".into());
        for _ in 0..WAITING_MAX + 3 {
            watchers.show(vec![seen("scored", 5), seen("other", 5)]);
        }
        for _ in 0..WAITING_MAX {
            assert_eq!(watch.next().await.unwrap().batch.num_rows(), 5);
        }
        assert_eq!(watch.missed(), 15);
        assert_eq!(watch.missed(), 0, "said once");
    }

    #[test]
    fn nothing_is_wanted_before_somebody_watches_and_after_the_last_has_gone() {
        let watchers = Arc::new(Watchers::default());
        assert!(!watchers.want("scored"));
        let (first, second) = (watchers.watch(&"scored".into()), watchers.watch(&"scored".into()));
        assert!(watchers.want("scored") && !watchers.want("english"));
        drop(first);
        assert!(watchers.want("scored"));
        drop(second);
        assert!(!watchers.want("scored"));
        assert!(watchers.by_name.lock().is_empty());
    }
}
