//! Work that takes a while, on a thread that others wait for.

use std::num::NonZero;
use std::sync::LazyLock;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// Bytes that are taken apart in no time.
const SMALL_BYTES: usize = 64 << 10;

/// Does `work` on `bytes` of input; where that takes a while, the other tasks of this thread go on elsewhere meanwhile.
pub fn with_bytes<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let is_shared = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL_BYTES && is_shared { tokio::task::block_in_place(work) } else { work() }
}

/// How much of it is done at once: disks and processors have so many hands, and the threads are others' too.
static PLACES: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(2 * std::thread::available_parallelism().map_or(2, NonZero::get).max(2)));

/// Does `work`, which waits for a disk or computes for long, on a thread that is there for that. Where the call is
/// dropped, work that has begun is done to its end.
///
/// # Errors
/// Those of `work`; `Bug` where it panics.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let place = PLACES.acquire().await.map_err(|e| Error::bug(e.to_string()))?;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await.map_err(|e| Error::bug(format!("work on a thread of its own broke off: {e}")))?
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn others_go_on_on_the_only_thread_while_work_waits() {
        let (go, wait) = mpsc::channel::<u32>();
        let work = tokio::spawn(apart(move || Ok(wait.recv().unwrap())));
        tokio::task::yield_now().await;
        go.send(7).unwrap();
        assert_eq!(work.await.unwrap().unwrap(), 7);
        let broken = apart::<()>(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(broken.kind(), crate::ErrorKind::Bug);
    }
}
