//! What the services of the suites share: the records that they hold, and whether they are there.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::sources::Record;

/// A service's records.
#[derive(Debug, Default)]
pub(super) struct Held {
    records: Mutex<Vec<Record>>,
    is_away: AtomicBool,
    is_torn: AtomicBool,
    /// Of a service that sends each record once: how many it has sent.
    sent: AtomicUsize,
}

impl Held {
    pub(super) fn add(&self, records: &[Record]) {
        self.records.lock().extend(records);
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.records.lock().clone()
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }

    pub(super) fn tear(&self) {
        self.is_torn.store(true, Ordering::SeqCst);
    }

    /// True once, after [`Held::tear`].
    pub(super) fn is_torn_now(&self) -> bool {
        self.is_torn.swap(false, Ordering::SeqCst)
    }

    /// The next record to send; it counts as sent with [`Held::has_sent`].
    pub(super) fn next(&self) -> Option<Record> {
        self.records.lock().get(self.sent.load(Ordering::SeqCst)).copied()
    }

    pub(super) fn has_sent(&self) {
        self.sent.fetch_add(1, Ordering::SeqCst);
    }
}
