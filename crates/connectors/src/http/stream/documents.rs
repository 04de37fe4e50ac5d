//! JSON documents that go on over several lines of an endless answer.

use bytes::Bytes;

use crate::format::framing::KEPT_BYTES_MAX;
use crate::format::framing::{Framing, frame};

/// A document, without what stands between documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Document {
    Whole(Bytes),
    /// Larger than the limit: its beginning, and how many bytes it had when that was seen.
    TooLarge {
        kept: Bytes,
        size: u64,
    },
}

/// Holds the document that has begun.
#[derive(Debug, Default)]
pub(super) struct Documents {
    pending: Vec<u8>,
    /// How much was pending when its end was looked for last.
    looked_at: usize,
}

impl Documents {
    /// The documents that end with this line, most often one: itself.
    pub(super) fn push_line(&mut self, line: &[u8], max_record: usize) -> Vec<Document> {
        self.pending.extend_from_slice(line);
        self.pending.push(b'\n');
        // A document that is written over several lines ends with one that is not indented. One whose lines are none of
        // them indented is looked at more seldom the longer it grows, so that its length does not count twice.
        let is_indented = line.first().is_some_and(|byte| matches!(byte, b' ' | b'\t'));
        let grown = self.pending.len() >= self.looked_at.saturating_mul(2);
        let is_long = self.looked_at > SHORT_BYTES;
        if self.pending.len() <= max_record + 1 && (is_indented || is_long) && !grown {
            return Vec::new();
        }
        let mut found: Vec<Document> = self.take(false).into_iter().map(Document::Whole).collect();
        self.looked_at = self.pending.len();
        if self.pending.len() > max_record + 1 {
            let size = self.pending.len() as u64 - 1;
            let mut kept = std::mem::take(&mut self.pending);
            kept.truncate(KEPT_BYTES_MAX.min(kept.len() - 1));
            self.looked_at = 0;
            found.push(Document::TooLarge { kept: kept.into(), size });
        }
        found
    }

    /// What has begun, where nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<Bytes> {
        let found = self.take(true);
        *self = Self::default();
        found
    }

    fn take(&mut self, last: bool) -> Vec<Bytes> {
        let mut found = Vec::new();
        loop {
            let frames = frame(Framing::Json, &self.pending, 0, last, usize::MAX);
            found.extend(frames.spans.into_iter().map(|span| Bytes::copy_from_slice(&self.pending[span])));
            self.pending.drain(..frames.consumed);
            if !frames.full {
                return found;
            }
        }
    }
}

/// Below this nothing is lost by looking at every line.
const SHORT_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(lines: &[&str], max_record: usize) -> Vec<Document> {
        let mut documents = Documents::default();
        let mut found: Vec<_> =
            lines.iter().flat_map(|line| documents.push_line(line.as_bytes(), max_record)).collect();
        found.extend(documents.finish().into_iter().map(Document::Whole));
        found
    }

    #[test]
    fn documents_on_one_line_and_on_several_are_found_and_a_broken_one_harms_no_other() {
        let whole = |text: &'static str| Document::Whole(Bytes::from_static(text.as_bytes()));
        assert_eq!(
            documents(&["{\"a\":1}", "{", "  \"b\": 2", "}", "[{\"c\":3},", "{\"d\":4}]", "{\"e\":", "{\"f\":5}"], 100),
            [
                whole("{\"a\":1}"),
                whole("{\n  \"b\": 2\n}"),
                whole("{\"c\":3}"),
                whole("{\"d\":4}"),
                whole("{\"e\":"),
                whole("{\"f\":5}"),
            ]
        );
        let found = documents(&["{", &"x".repeat(200), "}", "{\"a\":1}"], 100);
        assert!(matches!(&found[0], Document::TooLarge { size: 202, .. }), "{found:?}");
        assert_eq!(found.last(), Some(&whole("{\"a\":1}")));
    }
}
