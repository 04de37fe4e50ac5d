//! File descriptors that are used up: a state that passes, since others close theirs.

use std::io;
use std::time::Duration;

/// How long an opener that blocks waits for a descriptor before its caller hears of it.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// `EMFILE` and `ENFILE`: the process, or the machine, has no file descriptor left.
pub fn are_used_up(e: &io::Error) -> bool {
    // The same numbers on Linux, macOS and the BSDs.
    cfg!(unix) && matches!(e.raw_os_error(), Some(23 | 24))
}

/// Opens something; waits where there is no file descriptor for it. It blocks.
///
/// # Errors
/// As `open`; that there is still no descriptor after half a minute.
pub fn wait_for_one<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut waited = Duration::ZERO;
    loop {
        match open() {
            Err(e) if are_used_up(&e) && waited < PATIENCE => {
                if waited.is_zero() {
                    tracing::warn!(
                        "no file descriptor is left ({e}): waiting for one; `ulimit -n` sets how many there are"
                    );
                }
                std::thread::sleep(PAUSE);
                waited += PAUSE;
            }
            opened => return opened,
        }
    }
}
