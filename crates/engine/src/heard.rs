//! What a reader of one partition has heard of each producer: the last chunk that it took, so that repeats are dropped
//! (a log that delivers at least once is then enough), and how far the producer's event time is.
//!
//! The watermark of the reader is the lowest over its producers. One that is idle or at its end is not waited for; one
//! that has not been heard is, so a reader knows the names of those that it waits for. It never goes back.
//!
//! It is stored in the reader's commit record. In bytes (little-endian):
//!
//! ```text
//! reached i64 (MIN = none) | producers u32 | producer…
//! producer: name (u16 length) | flags u8 (1 sequence, 2 time, 4 idle, 8 end) | sequence u64, number u32 | time i64
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_core::Result;
use millstream_storage::log::Watermark;

use crate::outbox::{put_name, take, take_name};
use crate::streams::StreamBatch;

const HAS_SEQUENCE: u8 = 1;
const HAS_TIME: u8 = 2;
const IS_IDLE: u8 = 4;
const IS_ENDED: u8 = 8;

/// A chunk, told apart from its repeats: the sequence of its append, and its number in that.
pub type Place = (u64, u32);

/// What one chunk says of its producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The producer.
    pub producer: Arc<str>,
    /// The chunk; none where repeats are no concern.
    pub place: Option<Place>,
    /// How far the producer's event time is behind the chunk.
    pub watermark: Option<Watermark>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Said {
    place: Option<Place>,
    time_us: Option<i64>,
    is_idle: bool,
    is_ended: bool,
}

/// What was heard, by producer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    said: BTreeMap<Arc<str>, Said>,
    reached_us: Option<i64>,
}

impl Heard {
    /// Takes what a chunk says; false where it is a repeat, which says nothing.
    pub fn take(&mut self, word: &Word) -> bool {
        if let Some(said) = self.said.get_mut(&word.producer) {
            return said.take(word);
        }
        let mut said = Said::default();
        said.take(word);
        self.said.insert(word.producer.clone(), said);
        true
    }

    /// Takes what several chunks say, none of them a repeat.
    pub fn take_all(&mut self, words: &[Word]) {
        for word in words {
            self.take(word);
        }
    }

    /// Drops the rows of chunks that were taken before, or come twice here. The chunks are taken when what became of
    /// them is committed.
    pub fn drop_repeats(&self, batches: &mut [StreamBatch]) {
        if batches.iter().flat_map(|batch| &batch.words).all(|word| word.place.is_none()) {
            return;
        }
        let mut ahead = self.clone();
        for batch in batches {
            // Each is one chunk as it was read.
            if !batch.words.iter().all(|word| ahead.take(word)) {
                batch.repeated();
            }
        }
    }

    /// The watermark of who waits for these producers; none where one of them has not said any, or nobody is waited
    /// for.
    pub fn watermark(&mut self, producers: &BTreeSet<Arc<str>>) -> Option<Watermark> {
        let (mut lowest, mut ended) = (None::<i64>, false);
        for producer in producers {
            let said = self.said.get(producer).filter(|said| said.time_us.is_some() || said.holds_nothing_back())?;
            match said.time_us.filter(|_| !said.holds_nothing_back()) {
                Some(time) => lowest = Some(lowest.map_or(time, |lowest| lowest.min(time))),
                None => ended |= said.is_ended,
            }
        }
        match lowest {
            Some(lowest) => {
                let reached = self.reached_us.map_or(lowest, |reached| reached.max(lowest));
                self.reached_us = Some(reached);
                Some(Watermark::At(reached))
            }
            None if ended => Some(Watermark::End),
            None if producers.is_empty() => None,
            None => Some(Watermark::Idle),
        }
    }

    /// The event time that all was behind once, microseconds since the epoch.
    pub fn reached_us(&self) -> Option<i64> {
        self.reached_us
    }

    /// As bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes);
        bytes.to_vec()
    }

    /// Puts it behind `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i64_le(self.reached_us.unwrap_or(i64::MIN));
        out.put_u32_le(self.said.len() as u32);
        for (producer, said) in &self.said {
            put_name(out, producer);
            let flag = |flag: u8, is_set: bool| if is_set { flag } else { 0 };
            out.put_u8(
                flag(HAS_SEQUENCE, said.place.is_some())
                    | flag(HAS_TIME, said.time_us.is_some())
                    | flag(IS_IDLE, said.is_idle)
                    | flag(IS_ENDED, said.is_ended),
            );
            let (sequence, number) = said.place.unwrap_or_default();
            out.put_u64_le(sequence);
            out.put_u32_le(number);
            out.put_i64_le(said.time_us.unwrap_or_default());
        }
    }

    /// From the bytes that [`Heard::encode`] made, which it takes away.
    ///
    /// # Errors
    /// `Corruption`.
    pub fn decode(bytes: &mut Bytes) -> Result<Self> {
        let mut head = take(bytes, 12)?;
        let (reached, producers) = (head.get_i64_le(), head.get_u32_le());
        let mut said = BTreeMap::new();
        for _ in 0..producers {
            let name = take_name(bytes)?;
            let mut rest = take(bytes, 21)?;
            let flags = rest.get_u8();
            let place = (rest.get_u64_le(), rest.get_u32_le());
            let time_us = rest.get_i64_le();
            let has = |flag: u8| flags & flag != 0;
            said.insert(
                name,
                Said {
                    place: has(HAS_SEQUENCE).then_some(place),
                    time_us: has(HAS_TIME).then_some(time_us),
                    is_idle: has(IS_IDLE),
                    is_ended: has(IS_ENDED),
                },
            );
        }
        Ok(Self { said, reached_us: (reached != i64::MIN).then_some(reached) })
    }
}

impl Said {
    fn holds_nothing_back(&self) -> bool {
        self.is_idle || self.is_ended
    }

    fn take(&mut self, word: &Word) -> bool {
        if word.place.is_some_and(|place| self.place.is_some_and(|last| last >= place)) {
            return false;
        }
        self.place = word.place.or(self.place);
        match word.watermark {
            Some(Watermark::At(time)) => {
                let time_us = Some(self.time_us.map_or(time, |last| last.max(time)));
                *self = Self { place: self.place, time_us, is_idle: false, is_ended: false };
            }
            Some(Watermark::Idle) => self.is_idle = true,
            Some(Watermark::End) => self.is_ended = true,
            None => {}
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(producer: &str, place: Option<Place>, watermark: Option<Watermark>) -> Word {
        Word { producer: producer.into(), place, watermark }
    }

    fn names(names: &[&str]) -> BTreeSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    #[test]
    fn a_repeat_is_dropped_and_says_nothing() {
        let mut heard = Heard::default();
        let at = |place, time| word("a", Some(place), Some(Watermark::At(time)));
        assert!(heard.take(&at((1, 0), 10)));
        assert!(heard.take(&at((1, 1), 11)));
        assert!(!heard.take(&at((1, 1), 99)));
        assert!(!heard.take(&at((0, 7), 99)));
        assert_eq!(heard.watermark(&names(&["a"])), Some(Watermark::At(11)));
        assert!(heard.take(&word("a", None, None)), "without a sequence nothing is a repeat");
        assert!(heard.take(&word("b", Some((1, 0)), None)), "each producer counts for itself");
    }

    #[test]
    fn the_watermark_is_the_lowest_of_those_who_are_waited_for() {
        let (mut heard, both) = (Heard::default(), names(&["a", "b"]));
        let mut hear = |producer, watermark| {
            heard.take(&word(producer, None, Some(watermark)));
            heard.watermark(&both)
        };
        assert_eq!(hear("a", Watermark::At(10)), None, "b has not been heard");
        assert_eq!(hear("c", Watermark::At(1)), None, "nobody waits for c");
        assert_eq!(hear("b", Watermark::At(7)), Some(Watermark::At(7)));
        assert_eq!(hear("b", Watermark::At(5)), Some(Watermark::At(7)), "it does not go back");
        assert_eq!(hear("b", Watermark::Idle), Some(Watermark::At(10)));
        assert_eq!(hear("b", Watermark::At(8)), Some(Watermark::At(10)), "nor for one who was idle");
        assert_eq!(hear("a", Watermark::End), Some(Watermark::At(10)));
        assert_eq!(hear("b", Watermark::Idle), Some(Watermark::End));
        assert_eq!(hear("a", Watermark::At(12)), Some(Watermark::At(12)), "it goes on after its end");
        assert_eq!(Heard::default().watermark(&names(&[])), None);
    }

    #[test]
    fn all_who_are_idle_say_so() {
        let mut heard = Heard::default();
        heard.take(&word("a", None, Some(Watermark::Idle)));
        assert_eq!(heard.watermark(&names(&["a"])), Some(Watermark::Idle));
    }

    #[test]
    fn it_reads_back_and_every_cut_is_noticed() {
        let mut heard = Heard::default();
        heard.take(&word("a/0", Some((7, 2)), Some(Watermark::At(-5))));
        heard.take(&word("b", None, Some(Watermark::Idle)));
        heard.take(&word("c", Some((1, 0)), Some(Watermark::End)));
        heard.watermark(&names(&["a/0"]));
        let mut bytes = BytesMut::new();
        heard.encode(&mut bytes);
        let bytes = bytes.freeze();
        assert_eq!(Heard::decode(&mut bytes.clone()).unwrap(), heard);
        assert!((0..bytes.len()).all(|cut| Heard::decode(&mut bytes.slice(..cut)).is_err()));
    }
}
