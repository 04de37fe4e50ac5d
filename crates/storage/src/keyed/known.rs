//! Which keys a state may have, so that new ones need no look-up.
//!
//! The filter is built behind: a state opens at once, and while its keys are read, those that memory does not know are
//! looked up. Nothing of it is stored, so nothing can be wrong with it after a crash. It never forgets a key, so it is
//! built anew when many of its keys are gone. Where the budget has no room for it, it is left out until the next open.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Error, Result};
use parking_lot::Mutex;

use super::budget::{Claim, MemoryBudget};
use super::filter::KeyFilter;
use super::keys::fingerprint;
use crate::state::{State, StateScan};

/// Keys that are read before the open returns: a small state has its filter at once.
const AT_ONCE_KEYS: usize = if cfg!(test) { 2 } else { 1024 };
/// Keys that are read under one lock of the filter.
const STEP_KEYS: usize = if cfg!(test) { 3 } else { 1024 };
/// Deletes after which a filter is built anew, where that is half of its keys.
const GONE_KEYS_MIN: u64 = if cfg!(test) { 5 } else { 64 << 10 };

/// The keys of one keyed state. Clones are handles to the same.
#[derive(Debug, Clone)]
pub(super) struct KnownKeys(Arc<Mutex<Filters>>);

#[derive(Debug, Default)]
struct Filters {
    /// Knows every key of the state.
    whole: Option<Filter>,
    /// Knows what was written since it was begun; what was there before is being read.
    building: Option<Filter>,
    /// Keys that were deleted since `building` or, without it, `whole` was begun.
    gone: u64,
}

#[derive(Debug)]
struct Filter {
    keys: KeyFilter,
    claim: Claim,
}

impl Filter {
    fn new(budget: &MemoryBudget) -> Self {
        Self { keys: KeyFilter::default(), claim: budget.claim() }
    }

    /// False where there is no room: the filter must be dropped then, for it would lie.
    #[must_use]
    fn insert(&mut self, fingerprint: u64) -> bool {
        let wanted = self.keys.bytes_wanted();
        let fits = wanted == 0 || self.claim.grow(wanted);
        if fits {
            self.keys.insert(fingerprint);
        }
        fits
    }
}

impl Filters {
    fn insert(&mut self, fingerprint: u64) {
        for filter in [&mut self.whole, &mut self.building] {
            if filter.as_mut().is_some_and(|filter| !filter.insert(fingerprint)) {
                *filter = None;
            }
        }
    }

    /// Into the one that is being built; false where there is none any more.
    fn insert_read(&mut self, fingerprints: impl Iterator<Item = u64>) -> bool {
        for fingerprint in fingerprints {
            if !self.building.as_mut().is_some_and(|filter| filter.insert(fingerprint)) {
                self.building = None;
                return false;
            }
        }
        true
    }
}

impl KnownKeys {
    /// The keys of `state` in `range`, which has no writes that are not durable.
    ///
    /// # Errors
    /// As for reading the state.
    pub(super) async fn open(state: &State, range: Range<Bytes>) -> Result<Self> {
        let known = Self(Arc::default());
        known.0.lock().building = Some(Filter::new(state.memory()));
        let mut scan = state.scan(range.clone()).await?;
        if !known.read(&mut scan, AT_ONCE_KEYS).await? {
            known.go_on(state.clone(), range, Some(scan));
        }
        Ok(known)
    }

    /// What each of these keys is, under one lock.
    pub(super) fn may_contain(&self, fingerprints: impl Iterator<Item = u64>, mut told: impl FnMut(bool)) {
        let filters = self.0.lock();
        let whole = filters.whole.as_ref();
        fingerprints.for_each(|key| told(whole.is_none_or(|filter| filter.keys.may_contain(key))));
    }

    /// Notes what is being written: keys that were not there, and the number of those that are deleted. `pending` are
    /// keys that are not durable yet.
    pub(super) fn wrote(
        &self,
        new: impl Iterator<Item = u64>,
        gone: u64,
        pending: impl FnOnce() -> Vec<u64>,
        (state, range): (&State, &Range<Bytes>),
    ) {
        let mut filters = self.0.lock();
        filters.gone += gone;
        let keys = filters.whole.as_ref().map_or(0, |filter| filter.keys.keys());
        if filters.building.is_none() && filters.whole.is_some() && filters.gone >= GONE_KEYS_MIN.max(keys / 2) {
            filters.gone = 0;
            filters.building = Some(Filter::new(state.memory()));
            // The scan sees what is durable when it begins; all other keys are put in from here on.
            if filters.insert_read(pending().into_iter()) {
                self.go_on(state.clone(), range.clone(), None);
            }
        }
        new.for_each(|fingerprint| filters.insert(fingerprint));
    }

    /// True once every key is in the filter.
    #[cfg(test)]
    pub(super) fn is_whole(&self) -> bool {
        let filters = self.0.lock();
        filters.whole.is_some() && filters.building.is_none()
    }

    /// Reads the rest in a task of its own.
    fn go_on(&self, state: State, range: Range<Bytes>, scan: Option<StateScan>) {
        let filters = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            // A budget that is gone has no states.
            let Ok(_turn) = state.memory().builds().acquire().await else { return };
            let read = async {
                let mut scan = match scan {
                    Some(scan) => scan,
                    None => state.scan(range).await?,
                };
                while let Some(filters) = filters.upgrade() {
                    if Self(filters).read(&mut scan, STEP_KEYS).await? {
                        break;
                    }
                }
                Ok::<_, Error>(())
            };
            if let Err(e) = read.await {
                // Whoever uses the state next sees why, or it was closed meanwhile.
                tracing::debug!("the keys of state {} were not all read: {e}", state.path());
                if let Some(filters) = filters.upgrade() {
                    filters.lock().building = None;
                }
            }
        });
    }

    /// Reads up to `keys` more keys. True where nothing is left to do.
    async fn read(&self, scan: &mut StateScan, keys: usize) -> Result<bool> {
        let (mut fingerprints, mut end) = (Vec::with_capacity(keys), false);
        while fingerprints.len() < keys && !end {
            match scan.next().await? {
                Some((key, _)) => fingerprints.push(fingerprint(&key)),
                None => end = true,
            }
        }
        let mut filters = self.0.lock();
        let goes_on = filters.insert_read(fingerprints.into_iter());
        if goes_on && end {
            filters.whole = filters.building.take();
        }
        Ok(end || !goes_on)
    }
}
