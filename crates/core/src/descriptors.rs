//! File descriptors: as many as the system gives, shared out among those that a peer or a folder can make many of. The
//! rest is for logs, states and the connections that the pipeline itself opens.
//!
//! That they are used up passes, since others close theirs: whoever opens something waits for one.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More connections than this are no use to one machine.
const CONNECTIONS_MAX: u64 = 4096;
/// The same of followed files that are kept open.
const FILES_MAX: u64 = 1024;
/// The same of files of states that are kept open.
const STATES_MAX: u64 = 512;
/// What is counted on where there is no limit.
const NO_LIMIT: u64 = 1 << 20;

/// Who may have how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// Connections to the server.
    pub connections: usize,
    /// Files of sources that are kept open between two reads.
    pub files: usize,
    /// Files of one folder of states that are kept open between two reads.
    pub states: usize,
}

impl Shares {
    /// Shares of a limit: a quarter for connections, an eighth for files, a sixteenth for a folder of states, of which
    /// a process has two at most.
    fn of(limit: u64) -> Self {
        let connections = (limit / 4).clamp(8, CONNECTIONS_MAX) as usize;
        let states = (limit / 16).clamp(4, STATES_MAX) as usize;
        Self { connections, files: (limit / 8).clamp(4, FILES_MAX) as usize, states }
    }
}

/// Raises the limit to what this process may have, once, and shares it out.
pub fn shares() -> Shares {
    static SHARES: OnceLock<Shares> = OnceLock::new();
    *SHARES.get_or_init(|| Shares::of(raise()))
}

/// The limit, as high as it may be.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(NO_LIMIT).min(NO_LIMIT);
    let Some(current) = current.filter(|current| *current < wanted) else { return current.unwrap_or(NO_LIMIT) };
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(_) => current,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opener_waits_for_a_descriptor_and_for_nothing_else() {
        for used_up in [23, 24] {
            let mut left = 3;
            let opened = wait_for_one(|| {
                left -= 1;
                if left > 0 { Err(io::Error::from_raw_os_error(used_up)) } else { Ok(left) }
            });
            assert_eq!((opened.unwrap(), left), (0, 0));
        }
        let mut tries = 0;
        let opened: io::Result<()> = wait_for_one(|| {
            tries += 1;
            Err(io::ErrorKind::NotFound.into())
        });
        assert_eq!((opened.unwrap_err().kind(), tries), (io::ErrorKind::NotFound, 1));
    }

    #[test]
    fn connections_and_files_leave_room_for_the_logs() {
        for limit in [64, 256, 1024, 65_536, NO_LIMIT] {
            let shares = Shares::of(limit);
            let shared_out = shares.connections + shares.files + 2 * shares.states;
            assert!(shared_out as u64 <= limit / 2, "{limit}: {shares:?}");
        }
        assert_eq!(Shares::of(1024), Shares { connections: 256, files: 128, states: 64 });
    }
}
