//! The senders of a source, each with an event time of its own: the records of a sensor whose link is slow are not late
//! because others are ahead of it.
//!
//! ```text
//! cursor of the source  "_event_time/" key of the sender in hexadecimal digits
//!                       → newest, µs, i64 LE | when it was heard last by the machine's clock, µs, i64 LE
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_core::source::{Cursor, CursorDelta};

/// What the keys of this in the cursor of a source begin with.
pub(super) const CURSOR_PREFIX: &str = "_event_time/";

/// The senders that are waited for.
#[derive(Debug)]
pub(super) struct Senders {
    idle_us: Option<i64>,
    known: HashMap<Bytes, Sender>,
    /// All of them by their time, the one that is furthest behind first.
    by_time: BTreeSet<(i64, Bytes)>,
    /// All of them by when they were heard, to the second; the one that is silent for longest first.
    by_silence: BTreeSet<(i64, Bytes)>,
    /// Those that the log does not know as they are: changed, or gone.
    changed: BTreeSet<Bytes>,
}

#[derive(Debug, Clone, Copy)]
struct Sender {
    newest_us: i64,
    heard_us: i64,
}

impl Senders {
    /// Those that a source has stored in `cursor`; one that is silent for `idle_us` is forgotten.
    pub fn new(idle_us: Option<i64>, cursor: &Cursor) -> Self {
        let (known, changed) = (HashMap::new(), BTreeSet::new());
        let mut senders = Self { idle_us, known, by_time: BTreeSet::new(), by_silence: BTreeSet::new(), changed };
        for (name, value) in cursor.range(CURSOR_PREFIX.to_owned()..) {
            let Some(key) = name.strip_prefix(CURSOR_PREFIX).and_then(from_hex) else { break };
            let mut value = value.clone();
            if value.len() == 16 {
                senders.put(key, Sender { newest_us: value.get_i64_le(), heard_us: value.get_i64_le() });
            }
        }
        senders
    }

    /// A record of a sender came.
    pub fn hear(&mut self, key: &Bytes, time_us: i64, now_us: i64) {
        let last = self.known.get(key).copied();
        let newest_us = last.map_or(time_us, |last| last.newest_us.max(time_us));
        if last.is_some_and(|last| last.newest_us == newest_us && last.heard_us == now_us) {
            return;
        }
        // Not a slice of the batch's keys, which would keep all of them.
        let key = self.known.get_key_value(key).map_or_else(|| Bytes::copy_from_slice(key), |(key, _)| key.clone());
        self.remove(&key);
        self.put(key.clone(), Sender { newest_us, heard_us: now_us });
        self.changed.insert(key);
    }

    /// The time of the sender that is furthest behind; none where there is no sender.
    pub fn lowest_us(&self) -> Option<i64> {
        self.by_time.first().map(|(time_us, _)| *time_us)
    }

    /// Forgets senders that are silent for too long; true where there were some.
    pub fn forget_silent(&mut self, now_us: i64) -> bool {
        let Some(idle_us) = self.idle_us else { return false };
        let mut has_forgotten = false;
        while let Some((heard_us, key)) = self.by_silence.first()
            && now_us.saturating_sub(*heard_us) > idle_us
        {
            let key = key.clone();
            self.remove(&key);
            self.changed.insert(key);
            has_forgotten = true;
        }
        has_forgotten
    }

    /// What the log has to know: what has changed since the last call.
    pub fn cursor(&mut self) -> CursorDelta {
        let changed = std::mem::take(&mut self.changed);
        let entry = |key: Bytes| {
            let value = self.known.get(&key).map(|sender| {
                let mut value = BytesMut::with_capacity(16);
                value.put_i64_le(sender.newest_us);
                value.put_i64_le(sender.heard_us);
                value.freeze()
            });
            (format!("{CURSOR_PREFIX}{}", to_hex(&key)), value)
        };
        changed.into_iter().map(entry).collect()
    }

    fn put(&mut self, key: Bytes, sender: Sender) {
        self.by_time.insert((sender.newest_us, key.clone()));
        self.by_silence.insert((sender.heard_us, key.clone()));
        self.known.insert(key, sender);
    }

    fn remove(&mut self, key: &Bytes) {
        if let Some(sender) = self.known.remove(key) {
            self.by_time.remove(&(sender.newest_us, key.clone()));
            self.by_silence.remove(&(sender.heard_us, key.clone()));
        }
    }
}

fn to_hex(key: &[u8]) -> String {
    key.iter().fold(String::with_capacity(key.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}
