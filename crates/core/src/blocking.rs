//! Work that takes a while, on a thread that others wait for.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Bytes that are taken apart in no time.
const SMALL_BYTES: usize = 64 << 10;

/// Does `work` on `bytes` of input; where that takes a while, the other tasks of this thread go on elsewhere meanwhile.
pub fn with_bytes<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let is_shared = Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > SMALL_BYTES && is_shared { tokio::task::block_in_place(work) } else { work() }
}
