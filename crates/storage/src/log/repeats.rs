//! Repeats, dropped by whoever reads: a log that delivers at least once is then enough.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::LogChunk;

/// The last chunk of every producer that a reader of one partition has taken: its sequence, and its number in that
/// append. Whoever reads stores it in the same write as the effects of what it has read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken(BTreeMap<Arc<str>, (u64, u32)>);

impl Taken {
    /// Takes a chunk; false where it is a repeat. A chunk without a sequence is never one.
    pub fn take(&mut self, chunk: &LogChunk) -> bool {
        let Some(sequence) = chunk.sequence else { return true };
        let place = (sequence, chunk.index);
        match self.0.get_mut(&*chunk.producer) {
            Some(last) if *last >= place => false,
            Some(last) => {
                *last = place;
                true
            }
            None => {
                self.0.insert(chunk.producer.clone(), place);
                true
            }
        }
    }

    /// Producer, sequence and number of each.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u64, u32)> {
        self.0.iter().map(|(producer, &(sequence, index))| (producer, sequence, index))
    }
}

impl FromIterator<(Arc<str>, u64, u32)> for Taken {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, u64, u32)>>(taken: I) -> Self {
        Self(taken.into_iter().map(|(producer, sequence, index)| (producer, (sequence, index))).collect())
    }
}
