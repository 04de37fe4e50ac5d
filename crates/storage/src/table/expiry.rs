//! When rows expire.
//!
//! A row has a timer at the time when it was inserted, set with its batch; it is not moved when the row is written
//! again. When it is due, the row itself says when it was last written, and gets a later timer where it is not over
//! yet. So an update costs nothing.

use std::collections::HashSet;

use bytes::Bytes;
use millstream_core::Result;

use crate::keyed::{KeySet, KeyedState, Slot, Timers, copy};
use crate::row::{self, RowCodec};
use crate::state::{State, Writes};

/// Rows that were written this close together share an entry when they are put back.
const QUANTUM_US_MAX: i64 = 1_000_000;
/// Rows that one call of [`Expiry::expire`] looks at, due or not; more where its limit is higher.
const LOOKS_MAX: usize = 16 << 10;

/// The expiry index of one table: keys without the table's prefix, at the time of their last write or before.
#[derive(Debug)]
pub(super) struct Expiry {
    ttl_us: i64,
    timers: Timers,
}

impl Expiry {
    pub(super) async fn open(state: State, ttl_us: i64, prefix: Bytes) -> Result<Self> {
        Ok(Self { ttl_us, timers: Timers::open(state, prefix).await? })
    }

    /// When to look next.
    pub(super) fn next_us(&self) -> Option<i64> {
        self.timers.next_us().map(|first| first.saturating_add(self.ttl_us))
    }

    /// Lists new rows, by their keys.
    pub(super) fn inserted<'a>(&mut self, time_us: i64, keys: impl IntoIterator<Item = &'a [u8]>, writes: &mut Writes) {
        self.timers.set(time_us, keys, writes);
    }

    /// Deletes rows that are over, about `limit` of them at most, and gives them as they were.
    pub(super) async fn expire(
        &mut self,
        rows: &KeyedState,
        prefix: &[u8],
        (now_us, limit): (i64, usize),
        writes: &mut Writes,
    ) -> Result<Vec<Option<Bytes>>> {
        let (mut expired, mut put_back, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let due = self.timers.due(now_us.saturating_sub(self.ttl_us), LOOKS_MAX.max(limit)).await?;
        for listed in due {
            if expired.len() >= limit {
                break;
            }
            let (now, later) = listed.keys.split_at(listed.keys.len().min(limit - expired.len()));
            let mut wanted = KeySet::with_capacity(now.len());
            // A key that was deleted and inserted again is listed twice.
            let slots: Vec<(&Bytes, Slot)> = now
                .iter()
                .filter(|key| seen.insert(copy(key)))
                .map(|key| (key, wanted.insert([prefix, key].concat().into())))
                .collect();
            let mut tx = rows.look_up(wanted).await?;
            for (key, slot) in slots {
                let Some(row) = tx.get(slot) else { continue };
                RowCodec::check(row)?;
                let written_at = row::written_at(row);
                if written_at.saturating_add(self.ttl_us) <= now_us {
                    expired.push(tx.delete(slot));
                } else {
                    put_back.push((written_at, copy(key)));
                }
            }
            rows.write(tx, writes);
            self.timers.fired(&listed, writes);
            self.timers.set(listed.time_us, later.iter().map(|key| key.as_ref()), writes);
        }
        self.timers.set_each(put_back, (self.ttl_us / 16).clamp(1, QUANTUM_US_MAX), writes);
        Ok(expired)
    }
}
