//! Looks for the end of one record in pieces: for CSV rows that hold quotes, and for records that are too large to be
//! held.

use memchr::{memchr2, memchr3};

use super::json::DocumentScan;
use super::{CsvDialect, Framing};

/// Where a record ends that is looked through in pieces.
#[derive(Debug, Clone)]
pub(crate) struct RecordScan {
    scan: Scan,
    /// Bytes of the pieces so far.
    seen: u64,
}

#[derive(Debug, Clone)]
enum Scan {
    Lines,
    Csv(CsvScan),
    Json(DocumentScan),
}

impl RecordScan {
    /// The scan for a record of `framing` that begins with `first`.
    pub(crate) fn new(framing: Framing, first: u8) -> Self {
        let scan = match framing {
            Framing::Csv(dialect) => Scan::Csv(CsvScan::new(dialect)),
            Framing::Json if first == b'{' => Scan::Json(DocumentScan::new(0)),
            Framing::Lines | Framing::Json | Framing::Whole => Scan::Lines,
        };
        Self { scan, seen: 0 }
    }

    /// Where in this piece the record ends, and bytes of the line end behind it. `None`: it goes on behind the piece.
    pub(crate) fn find_end_in(&mut self, piece: &[u8]) -> Option<(usize, usize)> {
        let before = self.seen;
        self.seen += piece.len() as u64;
        match &mut self.scan {
            Scan::Lines => memchr2(b'\n', b'\r', piece).map(|end| (end, 1)),
            Scan::Csv(scan) => match scan.find_end(piece) {
                Scanned::End(past) | Scanned::TooManyLines(past) => Some((past - 1, 1)),
                Scanned::Open => None,
            },
            // A document may turn out to have ended in an earlier piece: what came since belongs to what is refused.
            Scan::Json(scan) => {
                scan.find_end(piece).map(|end| (usize::try_from(end.saturating_sub(before)).unwrap_or_default(), 0))
            }
        }
    }

    /// Goes through a piece that is known not to hold the end.
    pub(crate) fn find_end(&mut self, piece: &[u8]) {
        let _ = self.find_end_in(piece);
    }
}

/// What a piece of a CSV row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    /// The row ends: bytes of the piece up to and with its line end.
    End(usize),
    /// It holds more lines than a row may have: bytes of the piece up to and with the line end that is one too many.
    TooManyLines(usize),
    /// It goes on.
    Open,
}

/// Looks for the end of a CSV row.
#[derive(Debug, Clone)]
pub(super) struct CsvScan {
    dialect: CsvDialect,
    state: State,
    escaped: bool,
    lines: u32,
    after_carriage_return: bool,
}

/// Where in a row the scan is. A quote has a meaning only at the beginning of a field, or inside a quoted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within a quoted field: its end, or the first half of a doubled quote.
    QuoteInQuoted,
}

impl CsvScan {
    pub(super) fn new(dialect: CsvDialect) -> Self {
        Self { dialect, state: State::FieldStart, escaped: false, lines: 0, after_carriage_return: false }
    }

    /// Goes through a piece of the row.
    pub(super) fn find_end(&mut self, piece: &[u8]) -> Scanned {
        let mut at = 0;
        while at < piece.len() {
            let Some(skipped) = self.skip(&piece[at..]) else { break };
            at += skipped + 1;
            let byte = piece[at - 1];
            if std::mem::take(&mut self.escaped) {
                if matches!(self.state, State::FieldStart | State::QuoteInQuoted) {
                    self.state = State::Unquoted;
                }
                continue;
            }
            if Some(byte) == self.dialect.escape && Some(byte) != self.dialect.quote {
                self.escaped = true;
                continue;
            }
            let is_quote = Some(byte) == self.dialect.quote;
            let is_line_end = matches!(byte, b'\n' | b'\r');
            match self.state {
                State::Quoted => {
                    if is_quote {
                        self.state = State::QuoteInQuoted;
                    } else if is_line_end && self.count_line(byte) {
                        return Scanned::TooManyLines(at);
                    }
                }
                State::FieldStart | State::QuoteInQuoted if is_quote => self.state = State::Quoted,
                _ if is_line_end => return Scanned::End(at),
                _ if byte == self.dialect.delimiter => self.state = State::FieldStart,
                _ => self.state = State::Unquoted,
            }
        }
        Scanned::Open
    }

    /// True where the row may end behind `rest`, all that is left of the input.
    pub(super) fn ends_closed(mut self, rest: &[u8]) -> bool {
        self.find_end(rest) != Scanned::Open || self.state != State::Quoted
    }

    /// How many bytes mean nothing in this state; `None`: all of them.
    fn skip(&self, piece: &[u8]) -> Option<usize> {
        if self.escaped || self.dialect.escape.is_some() {
            return Some(0);
        }
        match self.state {
            State::Unquoted => memchr3(self.dialect.delimiter, b'\n', b'\r', piece),
            State::Quoted => memchr3(self.dialect.quote?, b'\n', b'\r', piece),
            State::FieldStart | State::QuoteInQuoted => Some(0),
        }
    }

    /// Counts a line end inside quotes; true where it is one too many.
    fn count_line(&mut self, byte: u8) -> bool {
        let second_half = byte == b'\n' && self.after_carriage_return;
        self.after_carriage_return = byte == b'\r';
        if !second_half {
            self.lines += 1;
        }
        self.lines > self.dialect.record_lines_max
    }
}
