//! How many files the sources of this process keep open between two reads: a share of its file descriptors, for all of
//! them together. A source that needs one more closes the one that it opened longest ago.

use std::sync::atomic::{AtomicUsize, Ordering};

use millstream_core::descriptors;

/// Open now. A count of what the process has is the process's.
static OPEN: AtomicUsize = AtomicUsize::new(0);

/// Counts a file as open until it is dropped.
#[derive(Debug)]
pub(crate) struct Handle(());

impl Handle {
    pub(crate) fn new() -> Self {
        OPEN.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

/// True where no more should be open.
pub(crate) fn are_used_up() -> bool {
    OPEN.load(Ordering::Relaxed) >= descriptors::shares().files
}
