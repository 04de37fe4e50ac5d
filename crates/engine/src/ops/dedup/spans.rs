//! Which rows are the first of a span of event time, by key.
//!
//! ```text
//! lane "d/" name 00 "k" key → event time, µs, i64 LE, at which the last span of the key begins
//! lane "d/" name 00 "x" …   → timers at the ends of spans
//! ```

use bytes::Bytes;
use millstream_core::{Error, Result, ResultExt};
use millstream_storage::keyed::{KeySet, KeyedState, Slot, StateTx, Timers};
use millstream_storage::state::{State, Writes};

/// The spans of one partition.
#[derive(Debug)]
pub struct Spans {
    spans: KeyedState,
    timers: Timers,
    prefix: Bytes,
    within_us: i64,
}

/// A row, as far as it matters here.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its key, behind [`Spans::prefix`].
    pub key: Bytes,
    /// Its event time, microseconds since the epoch.
    pub time_us: i64,
    /// The watermark of its source that was in front of it, where it came behind that.
    pub late_behind_us: Option<i64>,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The first of its span: it goes on.
    First,
    /// A repeat of one that went on.
    Repeat,
    /// So far behind the watermark that its span, if there was one, is forgotten.
    Late,
}

impl Spans {
    /// Opens what the operator called `name` keeps below `lane` of `state`; a span is `within_us` long, in
    /// microseconds, at least 1.
    ///
    /// # Errors
    /// As for reading the state.
    pub async fn open(state: State, lane: &str, name: &str, within_us: i64) -> Result<Self> {
        let with = |kind: &[u8]| Bytes::from([lane.as_bytes(), b"d/", name.as_bytes(), b"\0", kind].concat());
        let prefix = with(b"k");
        let timers = Timers::open(state.clone(), with(b"x")).await?;
        Ok(Self { spans: KeyedState::open(state, &prefix).await?, timers, prefix, within_us: within_us.max(1) })
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// Judges rows, in order. What is kept of them goes into `writes`; the next call sees it before that is committed.
    ///
    /// # Errors
    /// As for reading the state. The operator must be dropped then, as where a commit fails.
    pub async fn judge(&mut self, rows: &[Row], writes: &mut Writes) -> Result<Vec<Verdict>> {
        let mut wanted = KeySet::with_capacity(rows.len());
        let slots: Vec<Slot> = rows.iter().map(|row| wanted.insert(row.key.clone())).collect();
        let mut tx = self.spans.look_up(wanted).await?;
        let (mut verdicts, mut ends) = (Vec::with_capacity(rows.len()), Vec::new());
        for (row, slot) in rows.iter().zip(slots) {
            let verdict = self.judge_one(&tx, slot, row)?;
            if verdict == Verdict::First {
                tx.put(slot, row.time_us.to_le_bytes().to_vec().into());
                ends.push((self.end_of(row.time_us), tx.key(slot).slice(self.prefix.len()..)));
            }
            verdicts.push(verdict);
        }
        self.spans.write(tx, writes);
        // Late by a part of the span at most, which changes no answer.
        self.timers.set_each(ends, self.within_us / 16, writes);
        Ok(verdicts)
    }

    fn judge_one(&self, tx: &StateTx, slot: Slot, row: &Row) -> Result<Verdict> {
        // A span whose end the watermark has reached is forgotten, whether it is still stored or not. Only a row that
        // is behind the watermark can see the difference.
        let is_past = |end: i64| row.late_behind_us.is_some_and(|watermark| end <= watermark);
        let span = tx.get(slot).map(begin_of).transpose()?.filter(|begin| !is_past(self.end_of(*begin)));
        Ok(match span {
            Some(begin) if row.time_us < self.end_of(begin) => Verdict::Repeat,
            _ if is_past(self.end_of(row.time_us)) => Verdict::Late,
            _ => Verdict::First,
        })
    }

    /// When [`Self::forget`] has something to do next: once the watermark has reached this.
    pub fn next_us(&self) -> Option<i64> {
        self.timers.next_us()
    }

    /// Drops spans whose end the watermark has reached: about `keys_max` of them. To be called again as long as
    /// [`Self::next_us`] is not behind the watermark.
    ///
    /// # Errors
    /// As for [`Self::judge`].
    pub async fn forget(&mut self, watermark_us: i64, keys_max: usize, writes: &mut Writes) -> Result<()> {
        for due in self.timers.due(watermark_us, keys_max).await? {
            let mut wanted = KeySet::with_capacity(due.keys.len());
            let slots: Vec<Slot> = due.keys.iter().map(|key| wanted.insert(self.full(key))).collect();
            let mut tx = self.spans.look_up(wanted).await?;
            for slot in slots {
                // A later span of the key has a timer of its own.
                let span = tx.get(slot).map(begin_of).transpose()?;
                if span.is_some_and(|begin| self.end_of(begin) <= watermark_us) {
                    tx.delete(slot);
                }
            }
            self.spans.write(tx, writes);
            self.timers.fired(&due, writes);
        }
        Ok(())
    }

    fn full(&self, key: &[u8]) -> Bytes {
        [self.prefix.as_ref(), key].concat().into()
    }

    fn end_of(&self, begin_us: i64) -> i64 {
        begin_us.saturating_add(self.within_us)
    }
}

fn begin_of(value: &Bytes) -> Result<i64> {
    let begin = value.as_ref().try_into().map(i64::from_le_bytes);
    begin.map_err(|_| Error::corruption("a stored time does not read back")).doing(|| "de-duplicate".to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use millstream_storage::keyed::MemoryBudget;
    use millstream_storage::state::local_store;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::Verdict::{First, Late, Repeat};
    use super::*;

    const WITHIN_US: i64 = 10;

    async fn open(dir: &std::path::Path) -> (State, Spans) {
        let options = MemoryBudget::new(1 << 20).share(1);
        let state = State::open(local_store(dir).unwrap(), "s/0", &options).await.unwrap();
        (state.clone(), Spans::open(state, "", "once", WITHIN_US).await.unwrap())
    }

    async fn judge(spans: &mut Spans, rows: &[(u8, i64)], watermark_us: i64, writes: &mut Writes) -> Vec<Verdict> {
        let row = |&(key, time_us): &(u8, i64)| Row {
            key: spans.full(&[key]),
            time_us,
            late_behind_us: (time_us < watermark_us).then_some(watermark_us),
        };
        let rows: Vec<Row> = rows.iter().map(row).collect();
        spans.judge(&rows, writes).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_first_of_each_span_goes_through_and_is_forgotten_behind_the_watermark() {
        let dir = tempfile::tempdir().unwrap();
        let (state, mut spans) = open(dir.path()).await;
        let mut writes = Writes::new();
        let verdicts = judge(&mut spans, &[(1, 100), (2, 95), (1, 109), (1, 92), (1, 110)], 90, &mut writes).await;
        assert_eq!(verdicts, [First, First, Repeat, Repeat, First]);
        assert_eq!(judge(&mut spans, &[(1, 111), (3, 95)], 105, &mut writes).await, [Repeat, Late]);
        assert_eq!(spans.next_us(), Some(105));
        while spans.next_us().is_some_and(|next| next <= 110) {
            spans.forget(110, 1, &mut writes).await.unwrap();
        }
        assert_eq!(spans.next_us(), Some(120), "the later span of the first key");
        state.commit(writes).await.unwrap();
        let mut writes = Writes::new();
        spans.forget(i64::MAX, 100, &mut writes).await.unwrap();
        state.commit(writes).await.unwrap();
        let left = state.scan(Bytes::from("d/")..Bytes::from("d0")).await.unwrap().next().await.unwrap();
        assert_eq!(left, None, "nothing stays behind");
    }

    #[derive(Debug, Clone)]
    enum Action {
        Judge(Vec<(u8, i64)>),
        Advance(i64),
        Forget,
        Commit,
        Crash,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            8 => vec((0_u8..6, -15_i64..25), 1..12).prop_map(Action::Judge),
            3 => (1_i64..12).prop_map(Action::Advance),
            3 => Just(Action::Forget),
            3 => Just(Action::Commit),
            1 => Just(Action::Crash),
        ]
    }

    /// What is expected: the begin of the last span of each key, never forgotten.
    fn expected(model: &mut HashMap<u8, i64>, (key, time): (u8, i64), watermark: i64) -> Verdict {
        match model.get(&key) {
            Some(begin) if begin + WITHIN_US > watermark && time < begin + WITHIN_US => Repeat,
            _ if time + WITHIN_US <= watermark => Late,
            _ => {
                model.insert(key, time);
                First
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_does_what_a_map_does_whatever_is_forgotten_committed_and_crashes(actions in vec(action(), 1..30)) {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let dir = tempfile::tempdir().unwrap();
                let (mut state, mut spans) = open(dir.path()).await;
                let (mut model, mut durable, mut watermark) = (HashMap::new(), HashMap::new(), 0);
                let mut writes = Writes::new();
                for action in actions {
                    match action {
                        Action::Judge(rows) => {
                            let rows: Vec<(u8, i64)> = rows.into_iter().map(|(k, t)| (k, watermark + t)).collect();
                            let verdicts = judge(&mut spans, &rows, watermark, &mut writes).await;
                            let expected = rows.iter().map(|row| expected(&mut model, *row, watermark));
                            assert_eq!(verdicts, expected.collect::<Vec<_>>());
                        }
                        Action::Advance(by) => watermark += by,
                        Action::Forget => spans.forget(watermark, 3, &mut writes).await.unwrap(),
                        Action::Commit => {
                            state.commit(std::mem::take(&mut writes)).await.unwrap();
                            durable = model.clone();
                        }
                        Action::Crash => {
                            (writes, model) = (Writes::new(), durable.clone());
                            (state, spans) = open(dir.path()).await;
                        }
                    }
                }
            });
        }
    }
}
