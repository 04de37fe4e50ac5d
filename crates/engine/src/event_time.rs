//! How far the event time of a source is: its watermark, and which of its records came behind it.
//!
//! The watermark is the newest event time seen, less the delay that the pipeline file allows; where senders are told
//! apart (`senders.rs`), the newest of the one that is furthest behind. It is a promise: what comes from here on is not
//! older. A record that is older all the same is *late*, and is named with the watermark that was in front of it, so
//! that whoever asks later whether it is too late gets one answer, however records were cut into batches. It is a
//! function of the records and their order alone, with two exceptions: a time that is ahead of the clock by more than
//! the pipeline file allows does not move it, and a sender that is silent for longer than it allows is not waited for.
//! What came of that is in the log then.
//!
//! ```text
//! cursor of the source  "_event_time"         → the newest time less the delay that was reached, µs, i64 LE
//!                       "_event_time/" sender → see `senders.rs`
//! ```

mod senders;

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array, TimestampMicrosecondArray};
use bytes::Bytes;
use millstream_core::source::{Cursor, CursorDelta};
use millstream_storage::keyed::RowKeys;
use millstream_storage::log::{Late, Watermark};

use self::senders::Senders;
use crate::spec::WatermarkSpec;

/// The key of this in the cursor of a source.
const CURSOR_KEY: &str = "_event_time";

/// The event time of a source.
#[derive(Debug)]
pub struct EventClock {
    delay_us: i64,
    ahead_us: i64,
    newest_us: Option<i64>,
    /// Where they are told apart.
    senders: Option<Senders>,
    /// The time, less the delay of now, that is reached; it never goes back.
    reached_us: Option<i64>,
    /// The watermark in front of each batch that is on its way into the log, by its number.
    on_the_way: BTreeMap<u64, Option<i64>>,
    next: u64,
}

/// What a batch said of event time.
#[derive(Debug, PartialEq, Eq)]
pub struct Observed {
    /// The batch, until it is stored or dropped.
    pub number: u64,
    /// Records that came late.
    pub late: Vec<Late>,
    /// Records whose time is too far ahead of the clock to be believed.
    pub ahead: usize,
    /// The watermark behind the batch, where it is stored behind all batches before it.
    pub watermark_us: Option<i64>,
    /// The same where the batches before it may still be stored behind it.
    pub unordered_us: Option<i64>,
}

impl EventClock {
    /// The clock of a source that has stored `cursor`.
    pub fn new(spec: &WatermarkSpec, cursor: &Cursor) -> Self {
        let stored = cursor.get(CURSOR_KEY).and_then(|bytes| bytes.as_ref().try_into().ok());
        let newest_us = stored.map(i64::from_le_bytes);
        let delay_us = micros(spec.delay);
        let senders = (!spec.per.is_empty()).then(|| Senders::new(spec.idle.map(micros), cursor));
        Self {
            delay_us,
            ahead_us: micros(spec.max_ahead),
            newest_us,
            reached_us: newest_us.map(|newest| newest.saturating_sub(delay_us)),
            senders,
            on_the_way: BTreeMap::new(),
            next: 0,
        }
    }

    /// The newest event time, microseconds since the epoch.
    pub fn newest_us(&self) -> Option<i64> {
        self.newest_us
    }

    /// The watermark behind everything that was observed.
    pub fn watermark_us(&self) -> Option<i64> {
        self.reached_us
    }

    /// The watermark that may be promised by itself: no batch on its way holds what comes before it.
    pub fn safe_us(&self) -> Option<i64> {
        self.on_the_way.values().fold(self.watermark_us(), |safe, front| safe.min(*front))
    }

    /// Takes the event times of a batch, in the order of its records, and who sent each, where senders are told apart.
    pub fn observe(&mut self, times: &TimestampMicrosecondArray, senders: Option<&RowKeys>, now_us: i64) -> Observed {
        let front = self.watermark_us();
        let (ceiling, mut late, mut ahead) = (now_us.saturating_add(self.ahead_us), Vec::new(), 0);
        self.forget_silent(now_us);
        for row in (0..times.len()).filter(|&row| times.is_valid(row)) {
            let time = times.value(row);
            if let Some(watermark_us) = self.reached_us.filter(|reached| time < *reached) {
                late.push(Late { row: row as u32, watermark_us });
            }
            if time > ceiling {
                ahead += 1;
                continue;
            }
            let is_newer = self.newest_us.is_none_or(|newest| time > newest);
            if is_newer {
                self.newest_us = Some(time);
            }
            match (&mut self.senders, senders) {
                (Some(known), Some(keys)) => known.hear(&keys.get(row), time, now_us),
                _ if is_newer => {}
                _ => continue,
            }
            self.advance();
        }
        let number = self.next;
        self.next += 1;
        let unordered_us = self.safe_us();
        self.on_the_way.insert(number, front);
        Observed { number, late, ahead, watermark_us: self.watermark_us(), unordered_us }
    }

    /// Stops waiting for senders that are silent.
    pub fn forget_silent(&mut self, now_us: i64) {
        if self.senders.as_mut().is_some_and(|senders| senders.forget_silent(now_us)) {
            self.advance();
        }
    }

    fn advance(&mut self) {
        let time = match &self.senders {
            Some(senders) => senders.lowest_us(),
            None => self.newest_us,
        };
        let time = time.map(|time| time.saturating_sub(self.delay_us));
        self.reached_us = self.reached_us.max(time);
    }

    /// A batch is stored, or never will be.
    pub fn settled(&mut self, number: u64) {
        self.on_the_way.remove(&number);
    }

    /// What the log must know so that the clock goes on behind what was observed.
    pub fn cursor(&mut self) -> CursorDelta {
        let time = match &self.senders {
            // The delay may be another at the next start.
            Some(_) => self.reached_us.map(|reached| reached.saturating_add(self.delay_us)),
            None => self.newest_us,
        };
        let time = time.map(|time| (CURSOR_KEY.to_owned(), Some(Bytes::copy_from_slice(&time.to_le_bytes()))));
        time.into_iter().chain(self.senders.iter_mut().flat_map(Senders::cursor)).collect()
    }

    /// Takes what is not the source's own out of a cursor.
    pub fn strip(cursor: &mut Cursor) {
        cursor.retain(|key, _| key != CURSOR_KEY && !key.starts_with(senders::CURSOR_PREFIX));
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What was last told to each partition of a log, and what must be told to those that got no rows.
#[derive(Debug)]
pub struct Told(Vec<Option<Watermark>>);

impl Told {
    /// Nothing, to so many partitions.
    pub fn new(partitions: u32) -> Self {
        Self(vec![None; partitions as usize])
    }

    /// A partition was told.
    pub fn tell(&mut self, partition: u32, watermark: Watermark) {
        if let Some(told) = self.0.get_mut(partition as usize) {
            *told = Some(watermark);
        }
    }

    /// The partitions that do not know `watermark` yet.
    pub fn owed(&self, watermark: Watermark) -> Vec<u32> {
        let knows = |told: &Option<Watermark>| match (told, watermark) {
            (Some(Watermark::At(told)), Watermark::At(time)) => *told >= time,
            (told, watermark) => *told == Some(watermark),
        };
        (0_u32..).zip(&self.0).filter(|(_, told)| !knows(told)).map(|(partition, _)| partition).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: i64 = 86_400_000_000;

    fn clock(delay_us: u64) -> EventClock {
        let spec = WatermarkSpec {
            delay: Duration::from_micros(delay_us),
            max_ahead: Duration::from_secs(86_400),
            ..WatermarkSpec::default()
        };
        EventClock::new(&spec, &Cursor::new())
    }

    fn times(times: &[Option<i64>]) -> TimestampMicrosecondArray {
        times.iter().copied().collect()
    }

    #[test]
    fn the_watermark_is_the_newest_time_less_the_delay_and_what_is_older_is_late() {
        let mut clock = clock(10);
        assert_eq!(clock.watermark_us(), None);
        let seen = clock.observe(&times(&[Some(100), None, Some(95), Some(120), Some(109), Some(110)]), None, 0);
        assert_eq!((seen.watermark_us, seen.ahead), (Some(110), 0));
        assert_eq!(seen.late, [Late { row: 4, watermark_us: 110 }]);
        let seen = clock.observe(&times(&[Some(90), Some(115)]), None, 0);
        assert_eq!((seen.watermark_us, seen.late), (Some(110), vec![Late { row: 0, watermark_us: 110 }]));
    }

    #[test]
    fn lateness_is_the_same_however_records_are_cut() {
        let all: Vec<Option<i64>> = (0..200_i64).map(|n| (n % 13 != 0).then_some(n * 7 % 90 + n)).collect();
        let whole = clock(20).observe(&times(&all), None, 0).late;
        assert!(whole.len() > 20);
        for size in [1, 3, 64] {
            let (mut clock, mut late) = (clock(20), Vec::new());
            for (n, part) in all.chunks(size).enumerate() {
                let seen = clock.observe(&times(part), None, 0).late.into_iter();
                late.extend(seen.map(|l| Late { row: l.row + (n * size) as u32, ..l }));
            }
            assert_eq!(late, whole);
        }
    }

    #[test]
    fn a_time_too_far_ahead_of_the_clock_moves_nothing() {
        let mut clock = clock(0);
        let seen = clock.observe(&times(&[Some(5), Some(DAY_US + 8), Some(6), Some(DAY_US + 7)]), None, 7);
        assert_eq!((seen.ahead, seen.watermark_us), (1, Some(DAY_US + 7)));
        assert!(seen.late.is_empty());
    }

    #[test]
    fn it_goes_on_where_it_was() {
        let mut first = clock(10);
        first.observe(&times(&[Some(100)]), None, 0);
        let cursor: Cursor = first.cursor().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        let spec = WatermarkSpec { delay: Duration::from_micros(4), ..WatermarkSpec::default() };
        assert_eq!(EventClock::new(&spec, &cursor).watermark_us(), Some(96), "with the delay of now");
    }

    #[test]
    fn nothing_is_promised_that_a_batch_on_its_way_could_break() {
        let mut clock = clock(0);
        let first = clock.observe(&times(&[Some(10)]), None, 0);
        assert_eq!((first.watermark_us, clock.safe_us()), (Some(10), None));
        clock.settled(first.number);
        assert_eq!(clock.safe_us(), Some(10));
        let second = clock.observe(&times(&[Some(20)]), None, 0);
        let third = clock.observe(&times(&[Some(30)]), None, 0);
        assert_eq!((third.watermark_us, third.unordered_us), (Some(30), Some(10)));
        clock.settled(third.number);
        assert_eq!(clock.safe_us(), Some(10), "the second may hold 11");
        clock.settled(second.number);
        assert_eq!(clock.safe_us(), Some(30));
    }

    #[test]
    fn a_partition_is_told_once() {
        let mut told = Told::new(3);
        told.tell(1, Watermark::At(10));
        assert_eq!(told.owed(Watermark::At(9)), [0, 2]);
        assert_eq!(told.owed(Watermark::At(11)), [0, 1, 2]);
        told.tell(1, Watermark::End);
        assert_eq!(told.owed(Watermark::End), [0, 2]);
        assert_eq!(told.owed(Watermark::At(3)), [0, 1, 2]);
    }

    fn senders(names: &[&str]) -> RowKeys {
        let names: arrow::array::ArrayRef = std::sync::Arc::new(arrow::array::StringArray::from(names.to_vec()));
        millstream_storage::keyed::encode_row_keys(b"", &[names]).unwrap()
    }

    #[test]
    fn the_sender_that_is_furthest_behind_is_waited_for_until_it_is_silent_for_too_long() {
        let micros = Duration::from_micros;
        let spec = WatermarkSpec { delay: micros(10), max_ahead: micros(1_000), per: vec![0], idle: Some(micros(100)) };
        let mut clock = EventClock::new(&spec, &Cursor::new());
        let see = |clock: &mut EventClock, rows: &[(&str, i64)], now_us| {
            let at: Vec<Option<i64>> = rows.iter().map(|row| Some(row.1)).collect();
            let seen =
                clock.observe(&times(&at), Some(&senders(&rows.iter().map(|row| row.0).collect::<Vec<_>>())), now_us);
            clock.settled(seen.number);
            (seen.watermark_us, seen.late.iter().map(|late| late.row).collect::<Vec<_>>())
        };
        assert_eq!(see(&mut clock, &[("a", 100)], 0), (Some(90), vec![]), "one is known");
        assert_eq!(see(&mut clock, &[("b", 60), ("a", 300)], 50), (Some(90), vec![0]), "b comes late, and holds back");
        assert_eq!(see(&mut clock, &[("b", 150), ("b", 120), ("a", 320)], 60), (Some(140), vec![1]));
        // The next start knows all of them.
        let cursor: Cursor = clock.cursor().into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        assert_eq!(cursor.len(), 3);
        let mut own = cursor.clone();
        own.insert("file".into(), "x".into());
        EventClock::strip(&mut own);
        assert_eq!(own.keys().collect::<Vec<_>>(), ["file"]);
        let mut clock = EventClock::new(&spec, &cursor);
        assert_eq!(clock.watermark_us(), Some(140));
        assert_eq!(see(&mut clock, &[("a", 330)], 159), (Some(140), vec![]), "b is silent, but not for so long");
        assert_eq!(see(&mut clock, &[("a", 340)], 161), (Some(330), vec![]), "nobody waits for b any more");
        let gone: Vec<_> = clock.cursor().into_iter().filter(|(_, value)| value.is_none()).collect();
        assert_eq!(gone.len(), 1, "nor is it remembered");
        assert_eq!(see(&mut clock, &[("b", 170), ("b", 400), ("a", 410)], 170), (Some(390), vec![0]), "it is back");
        clock.forget_silent(1_000);
        assert_eq!(clock.watermark_us(), Some(390), "with nobody left, nothing moves");
    }
}
