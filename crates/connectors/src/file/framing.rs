//! Cuts bytes into records. Pure, and the hot path of reading files: it makes spans into the buffer it is given and
//! copies nothing.
//!
//! A record begins where the one before it ends, so whoever calls keeps one offset and no other state: what is left
//! behind the last whole record is given again, with more bytes behind it.

use std::ops::Range;

use memchr::{memchr, memchr_iter, memchr2};
use millstream_core::{Failure, FailureKind, RowFailure};

use crate::format::Framing;

/// The most records in one batch.
pub(crate) const BATCH_RECORDS_MAX: usize = 8_192;

/// How much of a record that is too large is kept for the dead letter queue.
pub(crate) const KEPT_BYTES_MAX: usize = 1 << 20;

/// Records found in a buffer.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// Where each record lies, without its line end. One that is too large is cut to [`KEPT_BYTES_MAX`].
    pub spans: Vec<Range<usize>>,
    /// Where each began in the file.
    pub positions: Vec<u64>,
    /// Those that are too large.
    pub refused: Vec<RowFailure>,
    /// How many bytes of the buffer lie before the first that belongs to no whole record.
    pub consumed: usize,
    /// True where the batch is full: the rest of the buffer may hold more whole records.
    pub full: bool,
}

impl Frames {
    fn push(&mut self, record: Range<usize>, base: u64, max_record: usize) {
        self.positions.push(base + record.start as u64);
        if record.len() > max_record {
            let row = self.spans.len() as u32;
            self.refused.push(RowFailure { row, failure: too_large(record.len() as u64, max_record) });
            self.spans.push(record.start..record.start + record.len().min(KEPT_BYTES_MAX));
        } else {
            self.spans.push(record);
        }
    }
}

/// Why a record of `size` bytes is refused.
pub(crate) fn too_large(size: u64, max_record: usize) -> Failure {
    Failure::new(
        FailureKind::TooLarge,
        format!(
            "the record has {size} bytes, more than the {max_record} that `max_record` allows; its first {} are kept",
            size.min(KEPT_BYTES_MAX as u64)
        ),
    )
}

/// Cuts `buffer`, whose first byte is at `base` in its file and begins a record. `last`: nothing comes behind the
/// buffer, so that what is left at its end is a record too.
///
/// [`Framing::Whole`] has no records to find; a buffer is then never cut.
pub(crate) fn frame(framing: Framing, buffer: &[u8], base: u64, last: bool, max_record: usize) -> Frames {
    let mut frames = Frames::default();
    match framing {
        Framing::Lines => frame_lines(&mut frames, buffer, base, max_record),
        Framing::CsvRecords { quote, delimiter, .. } => {
            frame_csv(&mut frames, buffer, base, quote, delimiter, max_record)
        }
        Framing::Whole => {}
    }
    if last && !frames.full && frames.consumed < buffer.len() {
        let record = frames.consumed..buffer.len();
        frames.consumed = buffer.len();
        if !is_blank(framing, &buffer[record.clone()]) {
            frames.push(without_carriage_return(buffer, record), base, max_record);
        }
    }
    frames
}

fn frame_lines(frames: &mut Frames, buffer: &[u8], base: u64, max_record: usize) {
    let mut start = 0;
    for end in memchr_iter(b'\n', buffer) {
        if frames.spans.len() == BATCH_RECORDS_MAX {
            frames.full = true;
            break;
        }
        if !is_blank(Framing::Lines, &buffer[start..end]) {
            frames.push(without_carriage_return(buffer, start..end), base, max_record);
        }
        start = end + 1;
    }
    frames.consumed = start;
}

fn frame_csv(frames: &mut Frames, buffer: &[u8], base: u64, quote: u8, delimiter: u8, max_record: usize) {
    let mut start = 0;
    while let Some(line_end) = memchr(b'\n', &buffer[start..]) {
        if frames.spans.len() == BATCH_RECORDS_MAX {
            frames.full = true;
            break;
        }
        // Most rows hold no quote, and then the first line end is the end of the row.
        let end = if memchr(quote, &buffer[start..start + line_end]).is_none() {
            start + line_end
        } else {
            match RecordScan::csv(quote, delimiter).find_end(&buffer[start..]) {
                Some(past) => start + past - 1,
                None => break,
            }
        };
        let record = without_carriage_return(buffer, start..end);
        if !record.is_empty() {
            frames.push(record, base, max_record);
        }
        start = end + 1;
    }
    frames.consumed = start;
}

/// True for what is no record: for lines nothing but white space, for CSV nothing at all (white space is a value there).
fn is_blank(framing: Framing, line: &[u8]) -> bool {
    match framing {
        Framing::Lines => line.first().is_none_or(|b| *b <= b' ') && line.trim_ascii().is_empty(),
        Framing::CsvRecords { .. } => matches!(line, b"" | b"\r"),
        Framing::Whole => false,
    }
}

fn without_carriage_return(buffer: &[u8], record: Range<usize>) -> Range<usize> {
    if buffer[record.clone()].last() == Some(&b'\r') { record.start..record.end - 1 } else { record }
}

/// Looks for the end of one record in pieces, for records that are too large to be held.
#[derive(Debug, Clone)]
pub(crate) struct RecordScan {
    /// Quote and delimiter; none for plain lines.
    csv: Option<(u8, u8)>,
    state: CsvState,
}

/// Where in a CSV row the scan is. A quote has a meaning only at the beginning of a field, or inside a quoted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CsvState {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within a quoted field: its end, or the first half of a doubled quote.
    QuoteInQuoted,
}

impl RecordScan {
    /// The scan for the records of `framing`.
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::CsvRecords { quote, delimiter, .. } => Self::csv(quote, delimiter),
            Framing::Lines | Framing::Whole => Self { csv: None, state: CsvState::FieldStart },
        }
    }

    fn csv(quote: u8, delimiter: u8) -> Self {
        Self { csv: Some((quote, delimiter)), state: CsvState::FieldStart }
    }

    /// The number of bytes up to and with the line end that ends the record; `None`: it goes on behind `piece`.
    pub(crate) fn find_end(&mut self, piece: &[u8]) -> Option<usize> {
        let Some((quote, delimiter)) = self.csv else { return memchr(b'\n', piece).map(|i| i + 1) };
        let mut at = 0;
        while at < piece.len() {
            let skipped = match self.state {
                CsvState::Unquoted => memchr2(delimiter, b'\n', &piece[at..]),
                CsvState::Quoted => memchr(quote, &piece[at..]),
                CsvState::FieldStart | CsvState::QuoteInQuoted => Some(0),
            };
            at += skipped?;
            let byte = piece[at];
            at += 1;
            self.state = match self.state {
                CsvState::Quoted => CsvState::QuoteInQuoted,
                CsvState::FieldStart | CsvState::QuoteInQuoted if byte == quote => CsvState::Quoted,
                _ if byte == b'\n' => return Some(at),
                _ if byte == delimiter => CsvState::FieldStart,
                _ => CsvState::Unquoted,
            };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CSV: Framing = Framing::CsvRecords { header: false, quote: b'"', delimiter: b',' };

    fn records(framing: Framing, text: &str, last: bool) -> Vec<&str> {
        frame(framing, text.as_bytes(), 0, last, 1000).spans.into_iter().map(|span| &text[span]).collect()
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_blank_ones_are_no_records() {
        assert_eq!(records(Framing::Lines, "a\r\n\n \t\r\n b\nc", false), ["a", " b"]);
        assert_eq!(records(Framing::Lines, "a\n\nc\r", true), ["a", "c"]);
        assert_eq!(records(Framing::Lines, "a\n  ", true), ["a"]);
        assert!(records(Framing::Lines, "", true).is_empty());
    }

    #[test]
    fn a_quoted_line_end_does_not_end_a_csv_row_and_a_stray_quote_opens_nothing() {
        assert_eq!(
            records(CSV, "1,\"a\r\nb\"\r\n\n2,\"c\"\"\n\",x\n3,", true),
            ["1,\"a\r\nb\"", "2,\"c\"\"\n\",x", "3,"]
        );
        assert_eq!(records(CSV, "5\" disk,1\n6\" disk,2\n", false), ["5\" disk,1", "6\" disk,2"]);
        assert_eq!(records(CSV, " \n", false), [" "], "white space is a value");
        assert_eq!(records(CSV, "1,\"never closed\n2\n", false), [""; 0]);
    }

    #[test]
    fn a_record_over_the_limit_is_refused_and_its_neighbours_pass() {
        let frames = frame(Framing::Lines, b"aa\nbbbbb\ncc\n", 10, false, 4);
        assert_eq!(frames.spans, [0..2, 3..8, 9..11]);
        assert_eq!(frames.positions, [10, 13, 19]);
        assert_eq!(frames.refused.len(), 1);
        assert_eq!((frames.refused[0].row, frames.refused[0].failure.kind), (1, FailureKind::TooLarge));
    }

    #[test]
    fn a_full_batch_stops_and_says_so() {
        let frames = frame(Framing::Lines, &b"x\n".repeat(BATCH_RECORDS_MAX + 5), 0, true, 4);
        assert!(frames.full);
        assert_eq!((frames.spans.len(), frames.consumed), (BATCH_RECORDS_MAX, BATCH_RECORDS_MAX * 2));
        let frames = frame(CSV, &b"x\n".repeat(BATCH_RECORDS_MAX), 0, true, 4);
        assert!(!frames.full);
    }

    proptest! {
        /// Cutting a text at any border, and giving what was left again, finds the records that one piece gives.
        #[test]
        fn records_do_not_depend_on_where_the_buffer_ends(text in "[ab\",\r\n]{0,60}", cut in 0_usize..60, csv: bool) {
            let framing = if csv { CSV } else { Framing::Lines };
            let cut = cut.min(text.len());
            let first = frame(framing, &text.as_bytes()[..cut], 0, false, 1000);
            let rest = &text.as_bytes()[first.consumed..];
            let second = frame(framing, rest, first.consumed as u64, true, 1000);
            let mut found: Vec<&str> = first.spans.iter().map(|s| &text[s.clone()]).collect();
            found.extend(second.spans.iter().map(|s| &text[first.consumed + s.start..first.consumed + s.end]));
            prop_assert_eq!(found, records(framing, &text, true));
            let positions: Vec<u64> = first.positions.into_iter().chain(second.positions).collect();
            prop_assert_eq!(positions, frame(framing, text.as_bytes(), 0, true, 1000).positions);
        }

        /// The scan in pieces ends where the scan of the whole does.
        #[test]
        fn the_scan_for_a_records_end_goes_on_over_borders(text in "[ab\",\r\n]{0,60}", cut in 0_usize..60) {
            let cut = cut.min(text.len());
            let whole = RecordScan::new(CSV).find_end(text.as_bytes());
            let mut scan = RecordScan::new(CSV);
            let pieces = scan
                .find_end(&text.as_bytes()[..cut])
                .or_else(|| scan.find_end(&text.as_bytes()[cut..]).map(|end| cut + end));
            prop_assert_eq!(pieces, whole);
        }
    }
}
