//! The keys by which clients make pushes safe to repeat, with the answers that they got. They are remembered for a
//! time, and no more of them than a bound in bytes: the log keeps them too, and writes them anew with every segment.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millstream_core::source::{Cursor, CursorDelta};

use super::{Pushed, Stored};

const PREFIX: &str = "idempotency/";
/// What is remembered at most; about 130,000 keys as long as a UUID.
const BYTES_MAX: usize = 32 << 20;

/// What is known of a key.
#[derive(Debug)]
enum Key {
    UnderWay,
    /// `body`: the digest of the body; none of a key that a version without digests has stored.
    Done {
        answer: Stored,
        body: Option<String>,
    },
}

/// All keys of a source.
#[derive(Debug)]
pub(super) struct Keys {
    window_us: i64,
    bytes_max: usize,
    known: HashMap<Arc<str>, Key>,
    /// Those that are done, the oldest first: when, which, and how many bytes the log has of it.
    done: VecDeque<(i64, Arc<str>, usize)>,
    bytes: usize,
    has_warned: bool,
}

impl Keys {
    /// Takes up what the log remembers.
    pub(super) fn restored(cursor: &Cursor, window_us: i64) -> Self {
        let (known, done) = (HashMap::new(), VecDeque::new());
        let mut keys = Self { window_us, bytes_max: BYTES_MAX, known, done, bytes: 0, has_warned: false };
        let mut entries: Vec<_> = cursor
            .iter()
            .filter_map(|(name, value)| Some((remembered(value)?, name.strip_prefix(PREFIX)?, value.len())))
            .collect();
        entries.sort_by_key(|((at_us, ..), ..)| *at_us);
        for ((at_us, answer, body), key, bytes) in entries {
            keys.add(at_us, key, Key::Done { answer: answer.brief(), body }, bytes);
        }
        keys
    }

    /// Begins with a key; what is to be answered at once where it is known.
    pub(super) fn claim(&mut self, key: &str, digest: &str) -> Option<Pushed> {
        match self.known.get(key) {
            Some(Key::UnderWay) => Some(Pushed::InProgress),
            Some(Key::Done { body: Some(body), .. }) if body != digest => Some(Pushed::KeyReused),
            Some(Key::Done { answer, .. }) => Some(Pushed::Stored(Stored { duplicate: true, ..answer.clone() })),
            None => {
                self.known.insert(key.into(), Key::UnderWay);
                None
            }
        }
    }

    /// Lets a key go that was begun with and came to nothing.
    pub(super) fn release(&mut self, key: &str) {
        if matches!(self.known.get(key), Some(Key::UnderWay)) {
            self.known.remove(key);
        }
    }

    /// What the log has to write for a key that is being stored, and to forget with it.
    pub(super) fn entry(&mut self, key: &str, now_us: i64, answer: &Stored, digest: &str) -> (CursorDelta, usize) {
        let value = serde_json::to_vec(&(now_us, answer, digest)).unwrap_or_default();
        let (bytes, mut entries) = (value.len(), self.forget(now_us, value.len()));
        entries.push((format!("{PREFIX}{key}"), Some(value.into())));
        (entries, bytes)
    }

    /// A key whose records are stored.
    pub(super) fn done(&mut self, key: &str, at_us: i64, answer: Stored, body: String, bytes: usize) {
        self.add(at_us, key, Key::Done { answer, body: Some(body) }, bytes);
    }

    fn add(&mut self, at_us: i64, key: &str, known: Key, bytes: usize) {
        let (key, bytes): (Arc<str>, usize) = (key.into(), PREFIX.len() + key.len() + bytes);
        self.known.insert(key.clone(), known);
        self.done.push_back((at_us, key, bytes));
        self.bytes += bytes;
    }

    /// Forgets what is older than the window, and the oldest where there is too much for `more` bytes.
    fn forget(&mut self, now_us: i64, more: usize) -> CursorDelta {
        let mut forgotten = Vec::new();
        while let Some((at_us, key, bytes)) = self.done.front() {
            let is_old = now_us - at_us > self.window_us;
            if !is_old && self.bytes + more <= self.bytes_max {
                break;
            }
            if !is_old && !std::mem::replace(&mut self.has_warned, true) {
                tracing::warn!(
                    "more keys of pushes came within `idempotency_window` than the {} MiB that are remembered: the oldest are \
                     forgotten before their time",
                    self.bytes_max >> 20
                );
            }
            forgotten.push((format!("{PREFIX}{key}"), None));
            self.known.remove(key);
            self.bytes -= bytes;
            self.done.pop_front();
        }
        forgotten
    }
}

/// What the log remembers of a key: time, answer and digest; without the digest where an earlier version wrote it.
fn remembered(value: &[u8]) -> Option<(i64, Stored, Option<String>)> {
    if let Ok((at_us, answer, body)) = serde_json::from_slice::<(i64, Stored, String)>(value) {
        return Some((at_us, answer, Some(body)));
    }
    let (at_us, answer) = serde_json::from_slice::<(i64, Stored)>(value).ok()?;
    Some((at_us, answer, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(accepted: usize) -> Stored {
        Stored { accepted, rejected: Vec::new(), rejected_not_listed: 0, duplicate: false }
    }

    fn keys(bytes_max: usize) -> Keys {
        Keys { bytes_max, ..Keys::restored(&Cursor::default(), 1_000) }
    }

    /// A push with that key, and what the log holds then.
    fn push(keys: &mut Keys, log: &mut Cursor, key: &str, now_us: i64) {
        assert!(keys.claim(key, "digest").is_none(), "{key}");
        let (entries, bytes) = keys.entry(key, now_us, &stored(3), "digest");
        for (name, value) in entries {
            match value {
                Some(value) => log.insert(name, value),
                None => log.remove(&name),
            };
        }
        keys.done(key, now_us, stored(3), "digest".into(), bytes);
    }

    fn is_known(keys: &mut Keys, key: &str) -> bool {
        let known = matches!(keys.claim(key, "digest"), Some(Pushed::Stored(stored)) if stored.duplicate);
        keys.release(key);
        known
    }

    #[test]
    fn keys_are_forgotten_with_time_in_memory_and_in_the_log_and_known_after_a_restart() {
        let (mut keys, mut log) = (keys(BYTES_MAX), Cursor::default());
        for (key, at) in [("a", 0), ("b", 500), ("c", 900)] {
            push(&mut keys, &mut log, key, at);
        }
        assert!(is_known(&mut keys, "a"));
        assert_eq!(keys.claim("a", "another"), Some(Pushed::KeyReused));
        push(&mut keys, &mut log, "d", 1_200);
        let mut restored = Keys::restored(&log, 1_000);
        for keys in [&mut keys, &mut restored] {
            assert_eq!(["a", "b", "c", "d"].map(|key| is_known(keys, key)), [false, true, true, true]);
        }
        assert_eq!(log.len(), 3);
        push(&mut restored, &mut log, "e", 1_600);
        assert!(
            !is_known(&mut restored, "b") && is_known(&mut restored, "c"),
            "the oldest goes first after a restart, too"
        );
    }

    #[test]
    fn however_many_keys_come_what_is_remembered_is_bounded() {
        let (mut keys, mut log) = (keys(10_000), Cursor::default());
        for n in 0..1_000 {
            push(&mut keys, &mut log, &format!("key-{n:04}"), 0);
            let bytes: usize = log.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(bytes < 10_500 && keys.known.len() == log.len() && keys.done.len() == log.len(), "{bytes}");
        }
        assert!(is_known(&mut keys, "key-0999") && !is_known(&mut keys, "key-0000"));
    }

    #[test]
    fn a_key_that_came_to_nothing_can_be_used_again() {
        let mut keys = keys(BYTES_MAX);
        assert!(keys.claim("a", "digest").is_none());
        assert_eq!(keys.claim("a", "digest"), Some(Pushed::InProgress));
        keys.release("a");
        assert!(keys.claim("a", "digest").is_none());
    }
}
