//! Memory for what requests bring: taken as their bytes arrive, not as they are announced.
//!
//! Where there is none left for somebody whose bytes are here, the body that has not grown for longest gives way. So
//! nobody keeps others out by sending slowly.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// Larger bodies take their memory in steps of this many KiB.
const STEP_KIB: usize = 64;
/// Who has got further within this time does not have to give way.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);

/// Memory that requests share.
#[derive(Debug)]
pub struct Room {
    free: Arc<Semaphore>,
    kib: usize,
    // This is a `parking_lot` mutex: nothing awaits while it is held.
    arriving: Mutex<BTreeMap<u64, Arriving>>,
    next: AtomicU64,
}

/// A body that is on its way.
#[derive(Debug)]
struct Arriving {
    grown_at: Instant,
    give_way: CancellationToken,
}

/// What one request has of it; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    id: u64,
    kib: usize,
    taken: Option<OwnedSemaphorePermit>,
    give_way: CancellationToken,
}

impl Room {
    /// Room for so many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        let kib = bytes.div_ceil(1024).max(1);
        Arc::new(Self { free: Arc::new(Semaphore::new(kib)), kib, arriving: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// A share of nothing yet, of a body that begins to arrive.
    pub fn share(self: &Arc<Self>) -> Share {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let give_way = CancellationToken::new();
        self.arriving.lock().insert(id, Arriving { grown_at: Instant::now(), give_way: give_way.clone() });
        Share { room: self.clone(), id, kib: 0, taken: None, give_way }
    }

    /// Makes the body give way that has not grown for longest; `but` is who asks.
    fn clear(&self, but: u64) {
        let arriving = self.arriving.lock();
        let others = arriving.iter().filter(|(id, other)| **id != but && !other.give_way.is_cancelled());
        let slowest = others.min_by_key(|(_, other)| other.grown_at);
        if let Some((_, slowest)) = slowest.filter(|(_, slowest)| slowest.grown_at.elapsed() > GIVES_WAY_AFTER) {
            slowest.give_way.cancel();
        }
    }
}

impl Share {
    /// Takes room for `bytes` in all, waiting for it at most that long; false where there is none. More than all the
    /// room is all of it.
    pub async fn grow(&mut self, bytes: usize, wait: Duration) -> bool {
        let more = self.missing(bytes);
        if more == 0 {
            return true;
        }
        let mut taken = self.room.free.clone().try_acquire_many_owned(more as u32).ok();
        if taken.is_none() {
            self.room.clear(self.id);
            let acquire = self.room.free.clone().acquire_many_owned(more as u32);
            taken = tokio::time::timeout(wait, acquire).await.ok().and_then(std::result::Result::ok);
        }
        self.took(taken, more)
    }

    /// The same at once or not at all.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let more = self.missing(bytes);
        more == 0 || {
            let taken = self.room.free.clone().try_acquire_many_owned(more as u32).ok();
            self.took(taken, more)
        }
    }

    /// All of the body is here: it does not have to give way any more.
    pub fn arrived(&self) {
        self.room.arriving.lock().remove(&self.id);
    }

    /// Resolves where this body is to give way to others.
    pub fn gives_way(&self) -> WaitForCancellationFuture<'_> {
        self.give_way.cancelled()
    }

    fn missing(&self, bytes: usize) -> usize {
        let kib = bytes.div_ceil(1024).max(1);
        let kib = if kib < STEP_KIB { kib } else { kib.next_multiple_of(STEP_KIB) };
        kib.min(self.room.kib).saturating_sub(self.kib)
    }

    fn took(&mut self, taken: Option<OwnedSemaphorePermit>, kib: usize) -> bool {
        let Some(taken) = taken else { return false };
        match &mut self.taken {
            Some(before) => before.merge(taken),
            None => self.taken = Some(taken),
        }
        self.kib += kib;
        if let Some(arriving) = self.room.arriving.lock().get_mut(&self.id) {
            arriving.grown_at = Instant::now();
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.arrived();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn what_is_announced_takes_nothing() {
        let room = Room::new(MIB);
        let shares: Vec<Share> = (0..1000).map(|_| room.share()).collect();
        let mut share = room.share();
        assert!(share.try_grow(MIB));
        assert!(!room.share().try_grow(1));
        drop((share, shares));
        assert!(room.share().try_grow(MIB));
    }

    #[tokio::test]
    async fn more_than_all_is_all() {
        let room = Room::new(MIB);
        let mut share = room.share();
        assert!(share.try_grow(10 * MIB) && share.try_grow(20 * MIB));
    }

    #[tokio::test]
    async fn who_gets_no_further_gives_way_to_who_does() {
        let room = Room::new(MIB);
        let (mut slow, mut done) = (room.share(), room.share());
        assert!(slow.try_grow(MIB / 2) && done.try_grow(MIB / 2));
        done.arrived();
        let mut wants = room.share();
        assert!(!wants.grow(1, Duration::ZERO).await, "both have only just grown");
        tokio::time::sleep(GIVES_WAY_AFTER + Duration::from_millis(10)).await;
        let gave_way = tokio::spawn(async move { slow.gives_way().await });
        assert!(wants.grow(MIB / 2, Duration::from_secs(60)).await);
        gave_way.await.unwrap();
        // What has arrived stays.
        tokio::time::sleep(GIVES_WAY_AFTER + Duration::from_millis(10)).await;
        assert!(!room.share().grow(1, Duration::ZERO).await);
        assert!(!done.give_way.is_cancelled());
    }
}
