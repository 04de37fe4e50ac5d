//! Cuts bytes into records. Pure, and the hot path of reading files: it makes spans into the buffer it is given and
//! copies nothing. Files, request bodies and messages are cut by the same rules.
//!
//! A record begins where the one before it ends, so whoever calls keeps one offset and no other state: what is left
//! behind the last whole record is given again, with more bytes behind it.
//!
//! A line ends with `\n`, `\r\n` or `\r`. The middle one needs no look ahead: it is a line end and a blank line, and
//! blank lines are no records.

mod csv;
mod json;
mod scan;

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr2, memchr2_iter};
use millstream_core::{Failure, FailureKind, RowFailure};

pub(crate) use scan::RecordScan;

/// The most records in one batch.
pub(crate) const BATCH_RECORDS_MAX: usize = 8_192;

/// How much of a record that is too large is kept for the dead letter queue.
pub(crate) const KEPT_BYTES_MAX: usize = 1 << 20;

/// How a file, a body or a message is cut into records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One record per line.
    Lines,
    /// One record per CSV row.
    Csv(CsvDialect),
    /// One record per JSON document: on a line each, over several lines, in a list, or one right behind the other.
    Json,
    /// The whole file is one record.
    Whole,
}

/// What tells where a CSV row ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CsvDialect {
    /// The first row of each file names the columns and is no record: it goes into `RawBatch::header`.
    pub header: bool,
    /// The character between fields.
    pub delimiter: u8,
    /// The quote character, if quotes have a meaning: a quoted field may hold line breaks.
    pub quote: Option<u8>,
    /// The character that takes its meaning from the next one.
    pub escape: Option<u8>,
    /// A line that begins with it is no record.
    pub comment: Option<u8>,
    /// How many lines at the beginning of each file are neither header nor records.
    pub skip_lines: u32,
    /// A row with more line breaks inside its quotes has a quote that is never closed: it ends at its first line end.
    pub record_lines_max: u32,
}

impl Default for CsvDialect {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            comment: None,
            skip_lines: 0,
            record_lines_max: RECORD_LINES_MAX,
        }
    }
}

/// How many line breaks the fields of one CSV row may hold, unless told otherwise.
pub(crate) const RECORD_LINES_MAX: u32 = 1_000;

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
        Framing::Lines => frame_lines(&mut frames, buffer, base, last, max_record),
        Framing::Csv(dialect) => csv::frame(&mut frames, buffer, base, dialect, last, max_record),
        Framing::Json => json::frame(&mut frames, buffer, base, last, max_record),
        Framing::Whole => {}
    }
    frames
}

fn frame_lines(frames: &mut Frames, buffer: &[u8], base: u64, last: bool, max_record: usize) {
    let mut start = 0;
    for end in memchr2_iter(b'\n', b'\r', buffer).chain(last.then_some(buffer.len())) {
        if frames.spans.len() == BATCH_RECORDS_MAX {
            frames.full = true;
            break;
        }
        if !is_blank(&buffer[start..end]) {
            frames.push(start..end, base, max_record);
        }
        start = buffer.len().min(end + 1);
    }
    frames.consumed = start;
}

fn is_blank(line: &[u8]) -> bool {
    line.first().is_none_or(|b| *b <= b' ') && line.trim_ascii().is_empty()
}

/// How many bytes stand before the first record and belong to none.
pub(crate) fn before_record(framing: Framing, buffer: &[u8]) -> usize {
    let count = if framing == Framing::Json { json::separators(buffer) } else { 0 };
    count.min(buffer.len().saturating_sub(1))
}

/// Where the next line begins; `None`: there is no line end.
pub(crate) fn next_line(bytes: &[u8], from: usize) -> Option<usize> {
    let end = from + memchr2(b'\n', b'\r', bytes.get(from..)?)?;
    Some(if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 })
}

/// A body or a message, cut: all of it is there.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    /// The header row of CSV.
    pub header: Option<Range<usize>>,
    /// Where each record lies.
    pub spans: Vec<Range<usize>>,
}

/// Cuts a body or a message. A byte order mark in front belongs to no record.
pub(crate) fn cut(framing: Framing, body: &[u8]) -> Cut {
    let mut at = if body.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let mut found = Cut::default();
    if framing == Framing::Whole {
        found.spans.push(0..body.len());
        return found;
    }
    if let Framing::Csv(dialect) = framing {
        for _ in 0..dialect.skip_lines {
            at = next_line(body, at).unwrap_or(body.len());
        }
    }
    while at < body.len() {
        let frames = frame(framing, &body[at..], 0, true, usize::MAX);
        found.spans.extend(frames.spans.into_iter().map(|span| span.start + at..span.end + at));
        if frames.consumed == 0 {
            break;
        }
        at += frames.consumed;
    }
    if matches!(framing, Framing::Csv(dialect) if dialect.header) && !found.spans.is_empty() {
        found.header = Some(found.spans.remove(0));
    }
    found
}

/// The records of a body.
pub(crate) fn split(framing: Framing, body: Bytes) -> millstream_core::RawBatch {
    let Cut { header, spans } = cut(framing, &body);
    let header = header.map(|span| body.slice(span));
    millstream_core::RawBatch { data: body, spans, header, ..millstream_core::RawBatch::default() }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
