//! Cuts a stream of chunks into lines, holding no more than one line of limited size.

use bytes::{Buf, Bytes};

use crate::format::framing::KEPT_BYTES_MAX;

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A line without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Whole(Bytes),
    /// Larger than the limit: its beginning, and how many bytes it had.
    TooLarge {
        kept: Bytes,
        size: u64,
    },
}

/// Holds the part of a line that has come so far.
#[derive(Debug)]
pub(crate) struct Lines {
    max_line: usize,
    /// Server-sent events end lines with CR too (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
    carriage_return_ends: bool,
    partial: Vec<u8>,
    /// How many bytes the line has so far, where it is too large to be held: more than `partial` then.
    size: u64,
    /// The last line ended with CR: a LF that comes next belongs to it.
    skip_line_feed: bool,
    /// The next line is the first of its stream: a byte order mark before it is no part of it.
    at_start: bool,
}

impl Lines {
    pub(crate) fn new(max_line: usize, carriage_return_ends: bool) -> Self {
        Self { max_line, carriage_return_ends, partial: Vec::new(), size: 0, skip_line_feed: false, at_start: true }
    }

    /// The largest line that is held.
    pub(crate) fn max_line(&self) -> usize {
        self.max_line
    }

    /// The next line that ends in `chunk`, which is moved behind it. `None`: the chunk is used up.
    pub(crate) fn next(&mut self, chunk: &mut Bytes) -> Option<Line> {
        let line = self.next_marked(chunk)?;
        Some(self.without_mark(line))
    }

    fn next_marked(&mut self, chunk: &mut Bytes) -> Option<Line> {
        if chunk.is_empty() {
            return None;
        }
        if std::mem::take(&mut self.skip_line_feed) && chunk.first() == Some(&b'\n') {
            chunk.advance(1);
        }
        let end =
            if self.carriage_return_ends { memchr::memchr2(b'\n', b'\r', chunk) } else { memchr::memchr(b'\n', chunk) };
        let Some(end) = end else {
            self.keep(chunk);
            chunk.clear();
            return None;
        };
        let last = chunk.split_to(end);
        self.skip_line_feed = chunk.first() == Some(&b'\r');
        chunk.advance(1);
        if self.size == 0 && last.len() <= self.max_line {
            return Some(Line::Whole(self.without_carriage_return(last)));
        }
        self.keep(&last);
        Some(self.finish())
    }

    /// The line that had no end when the stream ended.
    pub(crate) fn last(&mut self) -> Option<Line> {
        (self.size > 0).then(|| {
            let line = self.finish();
            self.without_mark(line)
        })
    }

    fn without_mark(&mut self, line: Line) -> Line {
        if !std::mem::take(&mut self.at_start) {
            return line;
        }
        match line {
            Line::Whole(line) if line.starts_with(BYTE_ORDER_MARK) => Line::Whole(line.slice(BYTE_ORDER_MARK.len()..)),
            other => other,
        }
    }

    /// Forgets the line that has begun: the stream broke.
    pub(crate) fn clear(&mut self) {
        (self.partial, self.size, self.skip_line_feed, self.at_start) = (Vec::new(), 0, false, true);
    }

    fn keep(&mut self, piece: &[u8]) {
        self.size += piece.len() as u64;
        // One more, for the carriage return of a line end that is still to come.
        if self.size <= self.max_line as u64 + 1 {
            self.partial.extend_from_slice(piece);
            return;
        }
        if self.partial.len() < KEPT_BYTES_MAX {
            let room = KEPT_BYTES_MAX - self.partial.len();
            self.partial.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        if self.partial.len() > KEPT_BYTES_MAX {
            self.partial.truncate(KEPT_BYTES_MAX);
            self.partial.shrink_to_fit();
        }
    }

    fn finish(&mut self) -> Line {
        let (partial, size) = (Bytes::from(std::mem::take(&mut self.partial)), std::mem::take(&mut self.size));
        let line = if partial.len() as u64 == size { self.without_carriage_return(partial) } else { partial };
        if size <= self.max_line as u64 || line.len() <= self.max_line && line.len() as u64 + 1 == size {
            Line::Whole(line)
        } else {
            Line::TooLarge { kept: line, size }
        }
    }

    fn without_carriage_return(&self, line: Bytes) -> Bytes {
        if !self.carriage_return_ends && line.last() == Some(&b'\r') { line.slice(..line.len() - 1) } else { line }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(chunks: &[&[u8]], max_line: usize, carriage_return_ends: bool) -> Vec<Line> {
        let mut lines = Lines::new(max_line, carriage_return_ends);
        let mut found = Vec::new();
        for chunk in chunks {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(line) = lines.next(&mut chunk) {
                found.push(line);
            }
        }
        found.extend(lines.last());
        found
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(text in "[ab\r\n]{0,40}", cuts in proptest::collection::vec(0_usize..40, 0..5), any_end: bool, max_line in 1_usize..6) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|w| &text.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(lines(&chunks, max_line, any_end), lines(&[text.as_bytes()], max_line, any_end));
        }
    }

    #[test]
    fn a_byte_order_mark_is_dropped_at_the_start_of_a_stream_only() {
        let marked: &[&[u8]] = &[b"\xef", b"\xbb", b"\xbfa\n\xef\xbb\xbfb\n"];
        let found = lines(marked, 10, false);
        let wanted: [&[u8]; 2] = [b"a", b"\xef\xbb\xbfb"];
        assert_eq!(found, wanted.map(|line| Line::Whole(Bytes::copy_from_slice(line))));
        assert_eq!(lines(&[b"\xef\xbb\xbfa"], 10, true), [Line::Whole(Bytes::from_static(b"a"))]);
        let mut lines = Lines::new(10, true);
        for _ in 0..2 {
            let mut chunk = Bytes::from_static(b"\xef\xbb\xbfa\r\nb");
            assert_eq!(lines.next(&mut chunk), Some(Line::Whole(Bytes::from_static(b"a"))), "of each stream");
            lines.clear();
        }
    }

    #[test]
    fn a_line_over_the_limit_keeps_its_beginning_and_its_neighbours_pass() {
        let piece = vec![b'x'; 900_000];
        let found = lines(&[b"a\r\n", &piece, &piece, &piece, b"\nb\n"], 2_000_000, false);
        assert_eq!(found[0], Line::Whole(Bytes::from_static(b"a")));
        let Line::TooLarge { kept, size } = &found[1] else { panic!("{found:?}") };
        assert_eq!((kept.len(), *size), (KEPT_BYTES_MAX, 2_700_000));
        assert_eq!(found[2], Line::Whole(Bytes::from_static(b"b")));
    }
}
