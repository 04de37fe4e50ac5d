//! The ids of dead letters that somebody has named: found in no time, however many there are.

use std::collections::{BTreeSet, HashMap};

/// Ids such as `wire/12`; none named means all.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    of_streams: HashMap<String, BTreeSet<u64>>,
    named: usize,
}

impl Ids {
    /// Those of a list. What is no id takes no dead letter.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        for id in ids {
            all.named += 1;
            if let Some((stream, offset)) = id.rsplit_once('/')
                && let Ok(offset) = offset.parse()
            {
                all.of_streams.entry(stream.to_owned()).or_default().insert(offset);
            }
        }
        all
    }

    /// True where none was named.
    pub fn is_empty(&self) -> bool {
        self.named == 0
    }

    /// True where it was named, or none was.
    pub fn take(&self, stream: &str, offset: u64) -> bool {
        self.is_empty() || self.of_streams.get(stream).is_some_and(|offsets| offsets.contains(&offset))
    }

    /// The offsets of a stream between which all lie that were named: the first, and the one behind the last.
    pub fn bounds(&self, stream: &str) -> (u64, u64) {
        let offsets = self.of_streams.get(stream);
        match (self.is_empty(), offsets.and_then(BTreeSet::first), offsets.and_then(BTreeSet::last)) {
            (true, ..) => (0, u64::MAX),
            (false, Some(first), Some(last)) => (*first, last.saturating_add(1)),
            _ => (0, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_by_stream_and_offset() {
        let ids = Ids::of(["wire/12", "wire/3", "posts/7", "nonsense", "wire/x"]);
        assert!(ids.take("wire", 12) && ids.take("wire", 3) && ids.take("posts", 7));
        assert!(!ids.take("wire", 7) && !ids.take("other", 3));
        assert_eq!((ids.bounds("wire"), ids.bounds("posts"), ids.bounds("other")), ((3, 13), (7, 8), (0, 0)));
        let nonsense = Ids::of(["nonsense"]);
        assert!(!nonsense.is_empty() && !nonsense.take("wire", 1));
        assert!(Ids::default().take("wire", 1));
        assert_eq!(Ids::default().bounds("wire"), (0, u64::MAX));
    }
}
