//! What is to be done when: an ordered index of keys by time.
//!
//! An entry lists keys that have the same time:
//!
//! ```text
//! prefix | time, µs, i64 BE with the sign bit flipped | XXH3-64 of the value, BE → (key length LEB128 | key)*
//! ```
//!
//! Keys of a batch share an entry, so a timer costs a few bytes. A timer can't be taken back or moved: when it is due,
//! its owner looks whether there is still something to do, and sets another where it is too early. Times are whatever
//! the owner compares them with: event time with a watermark, or a clock.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Error, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::end_of;
use super::overlay::OrderedOverlay;
use crate::leb128::{append_length, read_length};
use crate::state::{State, Writes};

/// Keys in an entry.
const ENTRY_KEYS_MAX: usize = 8192;

/// The timers below one prefix of a state. Those that are set, and those that fired, are seen at once, before the
/// writes are durable. One owner: nobody else writes below the prefix.
#[derive(Debug)]
pub struct Timers {
    state: State,
    prefix: Bytes,
    overlay: Arc<OrderedOverlay>,
    /// No entry is earlier. May be too early, never too late.
    first_us: Option<i64>,
    /// What comes behind all that is due, while that is being taken away.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    /// Due entries that have not fired yet.
    left: usize,
    next_us: Option<i64>,
}

/// Keys whose time has come.
#[derive(Debug)]
pub struct Due {
    /// The time that they were set to.
    pub time_us: i64,
    /// The keys, as they were given.
    pub keys: Vec<Bytes>,
    entry: Bytes,
}

impl Timers {
    /// The timers below `prefix`, which does not end with a byte of all ones.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(state: State, prefix: Bytes) -> Result<Self> {
        let mut timers = Self { state, prefix, overlay: Arc::default(), first_us: None, rest: None };
        let mut scan = timers.state.scan(timers.from(i64::MIN)).await?;
        if let Some((entry, _)) = scan.next().await? {
            timers.first_us = Some(timers.time_of(&entry)?);
        }
        Ok(timers)
    }

    /// When [`Self::due`] may have something next.
    pub fn next_us(&self) -> Option<i64> {
        self.first_us
    }

    /// Sets a timer for each of `keys`. The same keys at the same time are set once.
    pub fn set<'a>(&mut self, time_us: i64, keys: impl IntoIterator<Item = &'a [u8]>, writes: &mut Writes) {
        let (mut value, mut count) = (Vec::new(), 0);
        for key in keys {
            append_length(key.len(), &mut value);
            value.extend_from_slice(key);
            count += 1;
            if count % ENTRY_KEYS_MAX == 0 {
                self.write(time_us, std::mem::take(&mut value), writes);
            }
        }
        if !value.is_empty() {
            self.write(time_us, value, writes);
        }
    }

    /// Sets timers of many times. Those that are within `quantum_us` of one another share an entry at the latest of
    /// their times: they fire that much later at most.
    pub fn set_each(&mut self, timers: Vec<(i64, Bytes)>, quantum_us: i64, writes: &mut Writes) {
        let mut groups: BTreeMap<i64, (i64, Vec<Bytes>)> = BTreeMap::new();
        for (time_us, key) in timers {
            let group = groups.entry(time_us.div_euclid(quantum_us.max(1))).or_insert((time_us, Vec::new()));
            group.0 = group.0.max(time_us);
            group.1.push(key);
        }
        for (time_us, keys) in groups.into_values() {
            self.set(time_us, keys.iter().map(|key| key.as_ref()), writes);
        }
    }

    /// The timers up to `until_us` (inclusive), earliest first; entries of at least `keys_max` keys in all, where there
    /// are so many. They stay until [`Self::fired`].
    ///
    /// # Errors
    /// As for reading the state; `Corruption` where an entry does not read back.
    pub async fn due(&mut self, until_us: i64, keys_max: usize) -> Result<Vec<Due>> {
        let (mut due, mut keys) = (Vec::new(), 0);
        self.rest = None;
        let Some(first) = self.first_us.filter(|first| *first <= until_us) else { return Ok(due) };
        // In this order: what becomes durable in between is seen twice, not never.
        let mut pending = self.overlay.range(self.from(first)).into_iter().peekable();
        let mut scan = self.state.scan(self.from(first)).await?;
        let mut stored = scan.next().await?;
        loop {
            let is_pending = match (pending.peek(), &stored) {
                (Some((pending, _)), Some((old, _))) => {
                    if pending == old {
                        // Written or deleted since.
                        stored = scan.next().await?;
                        continue;
                    }
                    pending < old
                }
                (pending, _) => pending.is_some(),
            };
            let next = if is_pending {
                let Some((entry, value)) = pending.next() else { break };
                let Some(value) = value else { continue };
                Some((entry, value))
            } else {
                let next = stored.take();
                stored = if next.is_some() { scan.next().await? } else { None };
                next
            };
            let time_us = next.as_ref().map(|(entry, _)| self.time_of(entry)).transpose()?;
            match next.zip(time_us).filter(|(_, time_us)| *time_us <= until_us) {
                Some(((entry, value), time_us)) => {
                    let listed = keys_of(&value).ok_or_else(broken)?;
                    keys += listed.len();
                    due.push(Due { time_us, keys: listed, entry });
                    if keys >= keys_max {
                        break;
                    }
                }
                None => {
                    self.first_us = due.first().map(|due| due.time_us).or(time_us);
                    self.rest = Some(Rest { left: due.len(), next_us: time_us });
                    break;
                }
            }
        }
        Ok(due)
    }

    /// Takes away what was due.
    pub fn fired(&mut self, due: &Due, writes: &mut Writes) {
        self.overlay.write(due.entry.clone(), None, writes);
        if let Some(rest) = &mut self.rest {
            rest.left = rest.left.saturating_sub(1);
            if rest.left == 0 {
                self.first_us = rest.next_us;
                self.rest = None;
            }
        }
    }

    fn write(&mut self, time_us: i64, value: Vec<u8>, writes: &mut Writes) {
        self.first_us = Some(self.first_us.map_or(time_us, |first| first.min(time_us)));
        if let Some(rest) = &mut self.rest {
            rest.next_us = Some(rest.next_us.map_or(time_us, |next| next.min(time_us)));
        }
        let key = [self.start_of(time_us).as_ref(), &xxh3_64(&value).to_be_bytes()].concat();
        self.overlay.write(key.into(), Some(value.into()), writes);
    }

    /// All entries from `time_us` on.
    fn from(&self, time_us: i64) -> Range<Bytes> {
        self.start_of(time_us)..end_of(&self.prefix)
    }

    fn time_of(&self, entry: &[u8]) -> Result<i64> {
        let time = entry.strip_prefix(self.prefix.as_ref()).and_then(|rest| rest.get(..8)?.try_into().ok());
        Ok((u64::from_be_bytes(time.ok_or_else(broken)?) ^ (1 << 63)) as i64)
    }

    fn start_of(&self, time_us: i64) -> Bytes {
        [self.prefix.as_ref(), &((time_us as u64) ^ (1 << 63)).to_be_bytes()].concat().into()
    }
}

fn broken() -> Error {
    Error::corruption("an entry of the index of timers does not read back")
}

fn keys_of(value: &Bytes) -> Option<Vec<Bytes>> {
    let (mut rest, mut keys) = (value.as_ref(), Vec::new());
    while !rest.is_empty() {
        let length = read_length(&mut rest)?;
        let (key, tail) = rest.split_at_checked(length)?;
        keys.push(value.slice_ref(key));
        rest = tail;
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::state::{StateOptions, local_store};

    async fn open(dir: &std::path::Path) -> Timers {
        let state = State::open(local_store(dir).unwrap(), "s/0", &StateOptions::default()).await.unwrap();
        Timers::open(state, Bytes::from_static(b"x")).await.unwrap()
    }

    /// Takes what is due, two keys or an entry at a time.
    async fn fire(timers: &mut Timers, until_us: i64, writes: &mut Writes) -> Vec<(i64, String)> {
        let mut fired = Vec::new();
        while timers.next_us().is_some_and(|next| next <= until_us) {
            for due in timers.due(until_us, 2).await.unwrap() {
                timers.fired(&due, writes);
                fired.extend(due.keys.iter().map(|k| (due.time_us, String::from_utf8_lossy(k).into_owned())));
            }
        }
        assert!(fired.is_sorted_by_key(|fired| fired.0), "the earliest first");
        fired.sort();
        fired
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn timers_of_about_the_same_time_share_an_entry_at_the_latest_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let mut timers = open(dir.path()).await;
        let mut writes = Writes::new();
        let set = [(12, "a"), (17, "b"), (25, "c"), (-3, "d")];
        timers.set_each(set.map(|(time, key)| (time, key.into())).to_vec(), 10, &mut writes);
        assert_eq!(writes.len(), 3);
        assert_eq!(timers.next_us(), Some(-3));
        assert_eq!(fire(&mut timers, 16, &mut writes).await, [(-3, "d".into())]);
        assert_eq!(fire(&mut timers, 17, &mut writes).await, [(17, "a".into()), (17, "b".into())]);
        assert_eq!(timers.next_us(), Some(25));
    }

    #[derive(Debug, Clone)]
    enum Action {
        Set(i64, Vec<u8>),
        Fire(i64),
        Commit,
        Crash,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            6 => ((-20_i64..20), vec(0_u8..9, 1..4)).prop_map(|(time, keys)| Action::Set(time, keys)),
            3 => (-20_i64..25).prop_map(Action::Fire),
            3 => Just(Action::Commit),
            1 => Just(Action::Crash),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_timer_fires_once_also_before_it_is_durable(actions in vec(action(), 1..25)) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let mut timers = open(dir.path()).await;
                // Entries: the same keys at the same time are set once.
                let (mut model, mut durable) = (BTreeMap::new(), BTreeMap::new());
                let mut writes = Writes::new();
                for action in actions {
                    match action {
                        Action::Set(time, keys) => {
                            timers.set(time, keys.iter().map(std::slice::from_ref), &mut writes);
                            model.insert((time, keys), ());
                        }
                        Action::Fire(until) => {
                            let later = model.split_off(&(until + 1, Vec::new()));
                            let mut expected: Vec<_> = std::mem::replace(&mut model, later)
                                .into_keys()
                                .flat_map(|(time, keys)| {
                                    keys.into_iter().map(move |key| (time, char::from(key).to_string()))
                                })
                                .collect();
                            expected.sort();
                            assert_eq!(fire(&mut timers, until, &mut writes).await, expected);
                        }
                        Action::Commit => {
                            timers.state.commit(std::mem::take(&mut writes)).await.unwrap();
                            durable = model.clone();
                        }
                        Action::Crash => {
                            (writes, model) = (Writes::new(), durable.clone());
                            timers = open(dir.path()).await;
                        }
                    }
                }
            });
        }
    }
}
