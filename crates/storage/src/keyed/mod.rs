//! State by key, for operators that compute without waiting.
//!
//! ```text
//! keys wanted ──look-up──▶ StateTx ──get, put, delete──▶ write ──▶ Writes ──commit──▶ durable
//!      overlay → row cache → filter → state, one batch            └─▶ overlay (seen by the next look-up)
//! ```
//!
//! An operator says which keys it wants ([`KeySet`]); they are read together, asynchronously ([`KeyedState::look_up`]);
//! then it runs over their values ([`StateTx`]), synchronously, and gives back what it changed ([`KeyedState::write`]).
//! Several batches may be written before one commit, and the next may be computed while a commit becomes durable: each
//! sees those before it. What is to happen later is a timer ([`Timers`]), by event time or by a clock.
//!
//! A keyed state has one owner, the task of its partition. Where a commit fails, or writes are dropped without one,
//! what was computed since the last commit is void: open it again.
//!
//! Memory: one [`MemoryBudget`] for all states of the process, and the entries of commits that are not durable yet.

mod budget;
mod filter;
mod generations;
mod keys;
mod known;
mod overlay;
mod row_keys;
mod rows;
mod timers;
mod tx;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::Result;

pub use budget::{MEMORY_BYTES, MemoryBudget};
pub use keys::{KeySet, Slot};
pub use row_keys::{RowKeys, can_be_key, encode_row_keys};
pub use timers::{Due, Timers};
pub use tx::StateTx;

use crate::state::{State, Writes};
pub(crate) use generations::Generations;
pub(crate) use keys::copy;
use known::KnownKeys;
use overlay::Overlay;
use rows::Rows;

/// Values by key below one prefix of a state.
#[derive(Debug)]
pub struct KeyedState {
    state: State,
    range: Range<Bytes>,
    overlay: Arc<Overlay>,
    known: KnownKeys,
}

impl KeyedState {
    /// The keys of `state` that begin with `prefix`, which does not end with a byte of all ones. Nobody else writes
    /// there, and nothing that was written there waits for its commit.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(state: State, prefix: &Bytes) -> Result<Self> {
        let range = prefix.clone()..end_of(prefix);
        let known = KnownKeys::open(&state, range.clone()).await?;
        let overlay = Overlay::new(Rows::new(state.memory()));
        Ok(Self { state, range, overlay, known })
    }

    /// The values of `wanted`, whose keys have the prefix: from memory where possible, the others in one batch.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn look_up(&self, wanted: KeySet) -> Result<StateTx> {
        let mut tx = StateTx::new(wanted);
        let mut unknown = self.fill_from_memory(&mut tx);
        if !unknown.is_empty() {
            // In key order, neighbours find each other's blocks in the engine's cache.
            unknown.sort_unstable_by(|&a, &b| tx.entries[a].key.cmp(&tx.entries[b].key));
            let keys: Vec<Bytes> = unknown.iter().map(|&i| tx.entries[i].key.clone()).collect();
            for (i, value) in unknown.into_iter().zip(self.state.get_many(&keys).await?) {
                (tx.entries[i].value, tx.entries[i].was_read) = (value, true);
            }
        }
        for entry in &mut tx.entries {
            entry.was_there = entry.value.is_some();
        }
        Ok(tx)
    }

    /// Adds what `tx` changed to `writes`. Look-ups see it from now on.
    pub fn write(&self, tx: StateTx, writes: &mut Writes) {
        let new = tx.entries.iter().filter(|e| !e.was_there && e.value.is_some()).map(|e| e.fingerprint);
        let gone = tx.entries.iter().filter(|e| e.was_there && e.value.is_none()).count() as u64;
        self.known.wrote(new, gone, || self.overlay.fingerprints(), (&self.state, &self.range));
        let (mut written, mut read) = (Vec::with_capacity(tx.entries.len()), Vec::new());
        for entry in tx.entries {
            if !entry.is_written {
                read.extend(entry.was_read.then_some(entry));
                continue;
            }
            match &entry.value {
                Some(value) => writes.put(entry.key.clone(), value.clone()),
                None if entry.was_there => writes.delete(entry.key.clone()),
                // Put and deleted again.
                None => continue,
            }
            written.push((entry.fingerprint, entry.key, entry.value));
        }
        self.overlay.keep_read(read.iter().map(|e| (e.fingerprint, copy(&e.key), e.value.as_ref().map(copy))));
        if !written.is_empty() {
            self.overlay.insert(written.into_iter(), writes);
        }
    }

    /// What the state is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Fills in what memory knows; the entries that it does not know.
    fn fill_from_memory(&self, tx: &mut StateTx) -> Vec<usize> {
        let mut unknown = Vec::new();
        let keys = tx.entries.iter().map(|e| (e.fingerprint, e.key.as_ref()));
        let mut found = Vec::with_capacity(tx.entries.len());
        self.overlay.get_each(keys, |value| {
            if value.is_none() {
                unknown.push(found.len());
            }
            found.push(value.flatten());
        });
        tx.entries.iter_mut().zip(found).for_each(|(entry, value)| entry.value = value);
        let fingerprints = unknown.iter().map(|&i| tx.entries[i].fingerprint);
        let mut may_be_there = Vec::with_capacity(unknown.len());
        self.known.may_contain(fingerprints, |may_be| may_be_there.push(may_be));
        let mut may_be_there = may_be_there.into_iter();
        unknown.retain(|_| may_be_there.next() != Some(false));
        unknown
    }
}

/// The end of the range of keys that begin with `prefix`, whose last byte is not all ones.
pub(crate) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end.into()
}

#[cfg(test)]
mod tests;
