//! Where a CSV row ends. A row that opens a quote and does not close it takes no other row with it: it ends at its
//! first line end, as soon as it is known that the quote stays open.

use memchr::{memchr, memchr2};

use super::scan::{CsvScan, Scanned};
use super::{BATCH_RECORDS_MAX, CsvDialect, Frames};

/// Cuts `buffer` into rows; see [`super::frame`].
pub(super) fn frame(frames: &mut Frames, buffer: &[u8], base: u64, dialect: CsvDialect, last: bool, max_record: usize) {
    let mut start = 0;
    while start < buffer.len() {
        if frames.spans.len() == BATCH_RECORDS_MAX {
            frames.full = true;
            break;
        }
        let line_end = match memchr2(b'\n', b'\r', &buffer[start..]) {
            Some(end) => start + end,
            None if last => buffer.len(),
            None => break,
        };
        if dialect.comment.is_some_and(|comment| buffer[start] == comment) {
            start = buffer.len().min(line_end + 1);
            continue;
        }
        let Some(end) = row_end(buffer, start, line_end, dialect, last) else { break };
        // White space is a value: only nothing at all is no row.
        if end > start {
            frames.push(start..end, base, max_record);
        }
        start = buffer.len().min(end + 1);
    }
    frames.consumed = start;
}

/// The line end of the row at `start`, whose first line ends at `line_end`. `None`: it lies behind the buffer.
fn row_end(buffer: &[u8], start: usize, line_end: usize, dialect: CsvDialect, last: bool) -> Option<usize> {
    let line = &buffer[start..line_end];
    // Most rows hold neither, and then the first line end is the end of the row.
    let special = |byte: Option<u8>| byte.is_some_and(|byte| memchr(byte, line).is_some());
    if line_end == buffer.len() || (!special(dialect.quote) && !special(dialect.escape)) {
        return Some(line_end);
    }
    match CsvScan::new(dialect).find_end(&buffer[start..]) {
        Scanned::End(past) => Some(start + past - 1),
        Scanned::TooManyLines(_) => Some(line_end),
        Scanned::Open if last => {
            // The last row may end without a line end.
            let closed = CsvScan::new(dialect).ends_closed(&buffer[start..]);
            Some(if closed { buffer.len() } else { line_end })
        }
        Scanned::Open => None,
    }
}
