//! One open file: reads blocks behind its offset and cuts them into batches.
//!
//! Blocking; the source calls it on a thread that may block. What it holds is bounded by one block of
//! [`BLOCK_BYTES`], or one record of at most `max_record` bytes; for text in another encoding than UTF-8 by both forms
//! of it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::descriptors::wait_for_one;
use millstream_core::{Failure, FailureKind, RawBatch, RowFailure};

use super::block::Block;
use super::config::Compression;
use super::content::{Broken, Content};
use super::handles::Handle;
use super::identity::{FileId, HEAD_BYTES_MAX, Place, Print, head_hash};
use super::view::mtime_ns;
use crate::format::framing::{Frames, Framing, KEPT_BYTES_MAX, RecordScan, frame, next_line, too_large};
use crate::format::{CsvDialect, TextEncoding, framing};

/// How much is read at once; also about the size of a batch.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadOptions {
    pub framing: Framing,
    pub encoding: Option<TextEncoding>,
    pub compression: Compression,
    pub max_record: usize,
}

/// A file, and how far it has been read.
#[derive(Debug)]
pub(crate) struct Reader {
    content: Content,
    _handle: Handle,
    options: ReadOptions,
    origin: Arc<str>,
    /// The first byte that has not been handed out; a record begins there.
    offset: u64,
    /// What the file has been known by, up to the offset.
    print: Print,
    /// Size and time when the content was last looked at from its beginning.
    stamp: Option<(u64, i64)>,
    /// None where it is UTF-8. Known once something has been read.
    encoding: Option<TextEncoding>,
    /// Where the rows of a CSV file begin, once the lines before them have been read.
    rows_begin: Option<u64>,
    /// The header row of a CSV file that has one.
    header: Option<Bytes>,
    /// Bytes from `offset` on that have been read already: more records than one batch may have.
    rest: Bytes,
    /// The record at `offset` is larger than may be held: how much of it has been looked through for its end.
    oversize: Option<(u64, RecordScan)>,
    /// A quote is open at the end of what there is, and rows may wait behind it.
    open_quote: bool,
    /// The row at `offset` ends at its first line end, whatever its quotes say.
    end_at_line: bool,
    /// What was left where the data breaks off has been handed out.
    broken_told: bool,
}

/// Opens a file for reading. Does not wait where it has become a named pipe since it was listed.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    wait_for_one(|| OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path))
}

impl Reader {
    /// Opens the file at `path` behind `place`, or at its beginning where the content is not what `place` speaks of: it
    /// was cut, or another file has got its inode. `None`: the path leads to another file by now.
    pub(crate) fn open(path: &Path, id: FileId, place: &Place, options: ReadOptions) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) != (id.dev, id.inode) || !meta.is_file() {
            return Ok(None);
        }
        let mut reader = Self {
            content: Content::new(file, options.compression)?,
            _handle: Handle::new(),
            options,
            origin: path.to_string_lossy().into(),
            offset: place.offset,
            print: place.print(),
            stamp: None,
            encoding: None,
            rows_begin: None,
            header: None,
            rest: Bytes::new(),
            oversize: None,
            open_quote: false,
            end_at_line: false,
            broken_told: false,
        };
        if options.framing == Framing::Whole {
            reader.offset = 0;
        } else if !reader.matches(&place.print(), meta.len())? {
            reader.start_over();
        }
        Ok(Some(reader))
    }

    /// The file has another name now.
    pub(crate) fn renamed(&mut self, path: &Path) {
        self.origin = path.to_string_lossy().into();
    }

    /// Size and modification time.
    pub(crate) fn stat(&self) -> io::Result<(u64, i64)> {
        let meta = self.content.file().metadata()?;
        Ok((meta.len(), mtime_ns(&meta)))
    }

    /// Goes back to the beginning where the file was cut, or cut and rewritten, since it was last read. True if so.
    pub(crate) fn check_rewritten(&mut self, stamp: (u64, i64)) -> io::Result<bool> {
        if self.content.is_compressed() && self.stamp.is_some_and(|before| before != stamp) {
            self.content.look_again()?;
        }
        self.stamp = Some(stamp);
        let print = self.print;
        let rewritten = !self.matches(&print, stamp.0)?;
        if rewritten {
            self.start_over();
        }
        Ok(rewritten)
    }

    /// True where the file begins with what `print` was taken of.
    pub(crate) fn matches(&mut self, print: &Print, size: u64) -> io::Result<bool> {
        if !self.content.is_compressed() && size < print.offset {
            return Ok(false);
        }
        let head = self.content.read_at(0, usize_of(print.head_len).min(HEAD_BYTES_MAX))?;
        let tail = self.content.read_at(print.offset.saturating_sub(print.tail_len), usize_of(print.tail_len))?;
        Ok(print.is_of(&head, &tail))
    }

    /// The first bytes, by which a file is looked for among the known ones.
    pub(crate) fn head(&mut self) -> io::Result<Vec<u8>> {
        self.content.read_at(0, HEAD_BYTES_MAX)
    }

    /// The first byte that has not been handed out.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Begins behind what another file has been read up to, which this one is a copy of.
    pub(crate) fn go_on_behind(&mut self, print: &Print) {
        self.start_over();
        (self.offset, self.print) = (print.offset, *print);
    }

    /// True where everything before `size` has been read, as far as that can be told without reading.
    pub(crate) fn has_reached(&self, size: u64) -> bool {
        !self.content.is_compressed() && self.offset >= size
    }

    /// Why the content ended where it did, where that is not the end of the data.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.content.broken()
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.content.is_compressed()
    }

    /// A quote is open at the end of what there is, and rows may wait behind it.
    pub(crate) fn open_quote(&self) -> bool {
        self.open_quote
    }

    /// The row at the offset ends at its first line end, whatever its quotes say.
    pub(crate) fn end_at_line(&mut self) {
        self.end_at_line = true;
    }

    /// True for a CSV file that was read to its end and holds nothing but a header, or lines to be skipped.
    pub(crate) fn has_no_rows(&self) -> bool {
        self.rows_begin.is_some_and(|begin| begin > 0 && self.offset <= begin)
    }

    /// Where a later reader goes on.
    pub(crate) fn place(&mut self, path: &Path) -> io::Result<Place> {
        if self.print.offset != self.offset {
            let len = usize_of(self.offset).min(HEAD_BYTES_MAX);
            let head = self.content.read_at(0, len)?;
            let tail = self.content.read_at(self.offset - len as u64, len)?;
            self.print = Print::of(self.offset, &head, &tail);
        }
        Ok(Place::behind(path, self.print))
    }

    /// Goes behind the last whole record, so that only what is added is read. One that is being written is read whole.
    pub(crate) fn seek_to_end(&mut self) -> io::Result<()> {
        let (end, _) = self.stat()?;
        let mark = self.content.read_at(0, 3)?;
        let plain = !self.content.is_compressed() && self.options.encoding.is_none_or(TextEncoding::is_utf8);
        if plain && TextEncoding::of_mark(&mark).is_none_or(|(encoding, _)| encoding.is_utf8()) {
            let found = match self.options.framing {
                Framing::Lines => self.last_border(end, |_, _| true)?,
                // A line that begins with a brace behind one that ends with one begins a document.
                Framing::Json => self.last_border(end, |before, behind| {
                    behind.first() == Some(&b'{') && before.trim_ascii_end().last() == Some(&b'}')
                })?,
                Framing::Csv(_) | Framing::Whole => None,
            };
            if let Some(offset) = found {
                self.offset = offset;
            }
        }
        // Whether a line end is inside of quotes, say, can be told only from the beginning.
        while self.read(end, false)?.is_some() {}
        Ok(())
    }

    /// The last line begin, in the last blocks of the file, that is the border of a record.
    fn last_border(&mut self, end: u64, is_border: impl Fn(&[u8], &[u8]) -> bool) -> io::Result<Option<u64>> {
        let start = end.saturating_sub(BLOCK_BYTES as u64 * 4);
        let block = self.content.read_at(start, usize_of(end - start))?;
        let found = memchr::memrchr2_iter(b'\n', b'\r', &block).find(|at| is_border(&block[..*at], &block[at + 1..]));
        Ok(found.map(|at| start + at as u64 + 1))
    }

    /// The next records, from the bytes before `until`. `last`: the input ends there, so that a line without a line end
    /// is a record. `None`: no whole record is left.
    pub(crate) fn read(&mut self, until: u64, last: bool) -> io::Result<Option<RawBatch>> {
        let until = if self.content.is_compressed() { u64::MAX } else { until };
        self.open_quote = false;
        if self.offset == 0 || self.encoding.is_none() {
            self.find_encoding()?;
        }
        if let Framing::Csv(dialect) = self.options.framing
            && self.rows_begin.is_none()
            && !self.read_before_rows(dialect, until, last)?
        {
            return Ok(None);
        }
        if let Some(batch) = self.frame_rest(until, last) {
            return Ok(Some(batch));
        }
        let mut block_bytes = BLOCK_BYTES;
        loop {
            if self.oversize.is_some() {
                return self.pass_oversize(until, last);
            }
            let (block, reached) = self.block_at(self.offset, block_bytes, until, last)?;
            if self.end_at_line && next_line(&block.text, 0).is_some() {
                return Ok(self.take_line(block));
            }
            let frames = self.frame(&block);
            let grows = (block_bytes * 2).min(self.options.max_record + 2).max(BLOCK_BYTES);
            if frames.consumed > 0 {
                // Nothing but blank lines is no batch, but is passed.
                if let Some(batch) = self.take(block, frames) {
                    return Ok(Some(batch));
                }
            } else if block.text.len() > self.options.max_record + 1 {
                if self.waits_for_quote(&block) {
                    return Ok(self.take_line(block));
                }
                // What stands before the record belongs to none.
                let begin = framing::before_record(self.options.framing, &block.text);
                let mut scan = RecordScan::new(self.options.framing, block.text[begin]);
                scan.find_end(&block.text[begin..]);
                let skipped = block.source_offset(begin) as u64;
                self.offset += skipped;
                self.oversize = Some((block.used as u64 - skipped, scan));
            } else if reached {
                self.open_quote = self.waits_for_quote(&block);
                return Ok(self.broken_rest(&block, last));
            } else {
                block_bytes = if grows > block_bytes { grows } else { block_bytes * 2 };
            }
        }
    }

    /// The whole file as one record, and the place behind it. `None`: it is what `known` speaks of, byte by byte.
    pub(crate) fn read_whole(&mut self, known: &Place, path: &Path) -> io::Result<(Option<RawBatch>, Place)> {
        let (disk_size, mtime_ns) = self.stat()?;
        if self.stamp.replace((disk_size, mtime_ns)).is_some_and(|before| before != (disk_size, mtime_ns)) {
            self.content.look_again()?;
        }
        let mut size = disk_size;
        let mut data = if self.content.is_compressed() {
            let data = self.content.read_at(0, self.options.max_record + 1)?;
            size = data.len() as u64;
            data
        } else {
            let refused = size > self.options.max_record as u64;
            self.content.read_at(0, if refused { KEPT_BYTES_MAX } else { usize_of(size) })?
        };
        let refused = size > self.options.max_record as u64;
        if refused {
            data.truncate(KEPT_BYTES_MAX);
        }
        let print =
            Print { offset: size, head_len: data.len() as u64, head_hash: head_hash(&data), ..Print::default() };
        let place = Place { mtime_ns: Some(mtime_ns), ..Place::behind(path, print) }.of_disk_size(disk_size);
        let same = known.mtime_ns.is_some()
            && (known.offset, known.head_len, known.head_hash) == (place.offset, place.head_len, place.head_hash);
        if same {
            return Ok((None, place));
        }
        let mut batch = RawBatch::single(Bytes::from(data), self.origin.clone());
        batch.positions.push(0);
        let failure = match self.content.broken() {
            Some(broken) => Some(damaged(broken)),
            None => refused.then(|| too_large(size, self.options.max_record)),
        };
        batch.refused.extend(failure.map(|failure| RowFailure { row: 0, failure }));
        Ok((Some(batch), place))
    }

    fn start_over(&mut self) {
        self.offset = 0;
        self.print = Print::default();
        self.encoding = None;
        self.rows_begin = None;
        self.header = None;
        self.rest = Bytes::new();
        self.oversize = None;
        self.end_at_line = false;
        self.broken_told = false;
    }

    /// Takes the encoding from the byte order mark, if there is one, and goes behind it.
    fn find_encoding(&mut self) -> io::Result<()> {
        if self.offset == 0 {
            self.content.look_again()?;
        }
        let mark = TextEncoding::of_mark(&self.content.read_at(0, 3)?);
        let encoding = mark.map(|(encoding, _)| encoding).or(self.options.encoding);
        self.encoding = encoding.filter(|encoding| !encoding.is_utf8());
        self.offset = self.offset.max(mark.map_or(0, |(_, len)| len as u64));
        Ok(())
    }

    /// A block of text from `from` on, and whether the content ends with it.
    fn block_at(&mut self, from: u64, len: usize, until: u64, last: bool) -> io::Result<(Block, bool)> {
        let len = len.min(usize_of(until.saturating_sub(from)));
        let source = self.content.read_at(from, len)?;
        let reached = source.len() < len || from + source.len() as u64 >= until;
        let ends = last && reached && self.content.broken().is_none();
        Ok((Block::new(source, from, self.encoding, ends), reached))
    }

    /// Reads what stands before the rows: lines to be skipped and the header. Goes behind it where the offset is not
    /// there yet. False: it is not whole yet.
    fn read_before_rows(&mut self, dialect: CsvDialect, until: u64, last: bool) -> io::Result<bool> {
        let start = TextEncoding::of_mark(&self.content.read_at(0, 3)?).map_or(0, |(_, len)| len as u64);
        let mut block_bytes = HEAD_BYTES_MAX * 4;
        loop {
            let (block, reached) = self.block_at(start, block_bytes, until, last)?;
            let ends = block.ends || self.end_at_line;
            let mut at = 0;
            let skipped = (0..dialect.skip_lines).all(|_| match next_line(&block.text, at) {
                Some(next) => {
                    at = next;
                    true
                }
                None => std::mem::replace(&mut at, block.text.len()) < block.text.len() && ends,
            });
            let frames = frame(self.options.framing, &block.text[at..], 0, ends, usize::MAX);
            let header = frames.spans.first().map(|span| at + span.start..at + span.end);
            let too_large = block.text.len() > self.options.max_record;
            let behind = match header {
                _ if !skipped => None,
                _ if !dialect.header => Some(at),
                Some(span) if span.len() <= self.options.max_record => {
                    self.header = Some(Bytes::copy_from_slice(&block.text[span.clone()]));
                    Some(next_line(&block.text, span.end).unwrap_or(block.text.len()))
                }
                Some(_) => Some(at),
                None => None,
            };
            if let Some(at) = behind.or_else(|| too_large.then_some(at)) {
                if dialect.header && self.header.is_none() {
                    // No header of this size can be one: the row is refused as a record, and the rows fail for want of
                    // one.
                    self.header = Some(Bytes::new());
                }
                let begin = start + block.source_offset(at) as u64;
                self.rows_begin = Some(begin);
                self.offset = self.offset.max(begin);
                self.end_at_line = false;
                return Ok(true);
            }
            if reached {
                self.open_quote = skipped && next_line(&block.text[at..], 0).is_some() && frames.consumed == 0;
                return Ok(false);
            }
            block_bytes *= 2;
        }
    }

    fn frame_rest(&mut self, until: u64, last: bool) -> Option<RawBatch> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let reached = self.offset + rest.len() as u64 >= until;
        let block = Block::of_text(rest, self.offset, last && reached);
        let frames = self.frame(&block);
        self.take(block, frames)
    }

    fn frame(&self, block: &Block) -> Frames {
        frame(self.options.framing, &block.text, 0, block.ends, self.options.max_record)
    }

    /// True where a row has begun, and only an open quote keeps it from ending.
    fn waits_for_quote(&self, block: &Block) -> bool {
        matches!(self.options.framing, Framing::Csv(_)) && next_line(&block.text, 0).is_some()
    }

    /// Takes the first line as a record, whatever its quotes say.
    fn take_line(&mut self, block: Block) -> Option<RawBatch> {
        self.end_at_line = false;
        let consumed = next_line(&block.text, 0)?;
        let frames = Frames {
            spans: std::iter::once(0..block.text[..consumed].trim_ascii_end().len()).collect(),
            positions: vec![0],
            consumed,
            ..Frames::default()
        };
        self.take(block, frames)
    }

    /// Makes a batch of what was found in `block`, and goes behind it. `None`: there was no record.
    fn take(&mut self, block: Block, frames: Frames) -> Option<RawBatch> {
        let (batch, behind, rest) = block.into_batch(frames);
        self.offset = behind;
        self.rest = rest;
        batch.map(|batch| RawBatch { origin: self.origin.clone(), header: self.header.clone(), ..batch })
    }

    /// What is left where the data breaks off: no record, since nobody knows how it goes on.
    fn broken_rest(&mut self, block: &Block, last: bool) -> Option<RawBatch> {
        let broken = self.content.broken().filter(|broken| last || *broken == Broken::Damaged)?;
        if std::mem::replace(&mut self.broken_told, true) {
            return None;
        }
        let mut batch = RawBatch::single(block.text.clone(), self.origin.clone());
        batch.positions.push(self.offset);
        batch.header.clone_from(&self.header);
        batch.refused.push(RowFailure { row: 0, failure: damaged(broken) });
        self.offset += block.used as u64;
        Some(batch)
    }

    /// Looks for the end of a record that is too large to be held, one block at a time, and hands out its beginning.
    fn pass_oversize(&mut self, until: u64, last: bool) -> io::Result<Option<RawBatch>> {
        let Some((mut scanned, mut scan)) = self.oversize.take() else { return Ok(None) };
        let (size, line_end) = loop {
            let (block, reached) = self.block_at(self.offset + scanned, BLOCK_BYTES, until, last)?;
            if let Some((end, line_end)) = scan.find_end_in(&block.text) {
                let end = block.source_offset(end);
                let behind = block.source_offset(end + line_end);
                break (scanned + behind as u64, (behind - end) as u64);
            }
            scanned += block.used as u64;
            if reached {
                if last {
                    break (scanned, 0);
                }
                self.oversize = Some((scanned, scan));
                return Ok(None);
            }
        };
        let record_bytes = size - line_end;
        let kept = self.content.read_at(self.offset, KEPT_BYTES_MAX.min(usize_of(record_bytes)))?;
        let mut batch = RawBatch::single(Bytes::from(kept), self.origin.clone());
        batch.positions.push(self.offset);
        batch.header.clone_from(&self.header);
        batch.refused.push(RowFailure { row: 0, failure: too_large(record_bytes, self.options.max_record) });
        self.offset += size;
        Ok(Some(batch))
    }
}

/// Why what is left of a compressed file is no record.
fn damaged(broken: Broken) -> Failure {
    let message = match broken {
        Broken::CutOff => "the gzip file is cut off: it ends in the middle of its data; this is what was left",
        Broken::Damaged => "the gzip file is damaged, or something stands behind its data; this is what was left",
    };
    Failure::new(FailureKind::Malformed, message)
}

/// A length on disk as one in memory, for a minimum with something that fits.
fn usize_of(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// The folder that a file lies in.
pub(crate) fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
