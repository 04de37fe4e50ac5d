//! One open file: reads blocks behind its offset and cuts them into batches.
//!
//! Blocking; the source calls it on a thread that may block. What it holds is bounded by one block of
//! [`BLOCK_BYTES`], or one record of at most `max_record` bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{RawBatch, RowFailure};

use super::framing::{Frames, KEPT_BYTES_MAX, RecordScan, frame, too_large};
use super::identity::{FileId, HEAD_BYTES_MAX, Place, head_hash};
use super::view::mtime_ns;
use crate::format::Framing;

/// How much is read at once; also about the size of a batch.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;

const UTF8_BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadOptions {
    pub framing: Framing,
    pub max_record: usize,
}

/// A file, and how far it has been read.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    options: ReadOptions,
    origin: Arc<str>,
    /// The first byte that has not been handed out; a record begins there.
    offset: u64,
    /// The first bytes, at most [`HEAD_BYTES_MAX`], as far as they were there when last looked at.
    head: Vec<u8>,
    /// The header row of a CSV file that has one, once it has been read.
    header: Option<Bytes>,
    /// Bytes from `offset` on that have been read already: more records than one batch may have.
    rest: Bytes,
    /// The record at `offset` is larger than may be held: how much of it has been looked through for its end.
    oversize: Option<(u64, RecordScan)>,
}

impl Reader {
    /// Opens the file at `path` behind `place`, or at its beginning where the content is not what `place` speaks of: it
    /// was cut, or another file has got its inode. `None`: the path leads to another file by now.
    pub(crate) fn open(path: &Path, id: FileId, place: &Place, options: ReadOptions) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        if (meta.dev(), meta.ino()) != (id.dev, id.inode) {
            return Ok(None);
        }
        let mut reader = Self {
            file,
            options,
            origin: path.to_string_lossy().into(),
            offset: place.offset,
            head: Vec::new(),
            header: None,
            rest: Bytes::new(),
            oversize: None,
        };
        if options.framing == Framing::Whole {
            reader.offset = 0;
        } else if !reader.is_still(meta.len(), place.head_len, place.head_hash)? {
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
        let meta = self.file.metadata()?;
        Ok((meta.len(), mtime_ns(&meta)))
    }

    /// Goes back to the beginning where the file was cut, or cut and rewritten, since it was last read. True if so.
    pub(crate) fn check_rewritten(&mut self, size: u64) -> io::Result<bool> {
        let (len, hash) = self.head()?;
        let rewritten = !self.is_still(size, len, hash)?;
        if rewritten {
            self.start_over();
        }
        Ok(rewritten)
    }

    /// The first byte that has not been handed out.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Where a later reader goes on.
    pub(crate) fn place(&mut self, path: &Path) -> io::Result<Place> {
        let (head_len, head_hash) = self.head()?;
        Ok(Place { path: path.to_string_lossy().into(), offset: self.offset, head_len, head_hash, mtime_ns: None })
    }

    /// Goes behind the last whole record, so that only what is added is read. One that is being written is read whole.
    pub(crate) fn seek_to_end(&mut self) -> io::Result<()> {
        let mut end = self.file.metadata()?.len();
        if matches!(self.options.framing, Framing::CsvRecords { .. }) {
            // Whether a line end is inside of quotes can be told only from the beginning.
            while self.read(end, false)?.is_some() {}
            return Ok(());
        }
        while end > 0 {
            let start = end.saturating_sub(BLOCK_BYTES as u64);
            let block = self.read_at(start, (end - start) as usize)?;
            if let Some(i) = memchr::memrchr(b'\n', &block) {
                self.offset = start + i as u64 + 1;
                return Ok(());
            }
            end = start;
        }
        self.offset = 0;
        Ok(())
    }

    /// The next records, from the bytes before `until`. `last`: the input ends there, so that a line without a line end
    /// is a record. `None`: no whole record is left.
    pub(crate) fn read(&mut self, until: u64, last: bool) -> io::Result<Option<RawBatch>> {
        if self.offset == 0 {
            self.skip_byte_order_mark(until)?;
        }
        if matches!(self.options.framing, Framing::CsvRecords { header: true, .. })
            && self.header.is_none()
            && !self.read_header(until, last)?
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
            let buffer = self.read_at(self.offset, block_bytes.min(usize_of(until.saturating_sub(self.offset))))?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let reached = self.offset + buffer.len() as u64 >= until;
            let frames = self.frame(&buffer, last && reached);
            if frames.consumed > 0 {
                // Nothing but blank lines is no batch, but is passed.
                if let Some(batch) = self.take(Bytes::from(buffer), frames) {
                    return Ok(Some(batch));
                }
            } else if buffer.len() > self.options.max_record + 1 {
                // One more, for the carriage return of a line end that is still to come.
                let mut scan = RecordScan::new(self.options.framing);
                scan.find_end(&buffer);
                self.oversize = Some((buffer.len() as u64, scan));
            } else if reached || buffer.len() < block_bytes {
                return Ok(None);
            } else {
                block_bytes = (block_bytes * 2).min(self.options.max_record + 2).max(BLOCK_BYTES);
            }
        }
    }

    /// The whole file as one record, and the place behind it. `None`: it is what `known` speaks of, byte by byte.
    pub(crate) fn read_whole(&mut self, known: &Place, path: &Path) -> io::Result<(Option<RawBatch>, Place)> {
        let (size, mtime_ns) = self.stat()?;
        let refused = size > self.options.max_record as u64;
        let data = self.read_at(0, if refused { KEPT_BYTES_MAX } else { size as usize })?;
        let place = Place {
            path: path.to_string_lossy().into(),
            offset: size,
            head_len: data.len() as u64,
            head_hash: head_hash(&data),
            mtime_ns: Some(mtime_ns),
        };
        let same = known.mtime_ns.is_some()
            && (known.offset, known.head_len, known.head_hash) == (place.offset, place.head_len, place.head_hash);
        if same {
            return Ok((None, place));
        }
        let mut batch = RawBatch::single(Bytes::from(data), self.origin.clone());
        batch.positions.push(0);
        if refused {
            batch.refused.push(RowFailure { row: 0, failure: too_large(size, self.options.max_record) });
        }
        Ok((Some(batch), place))
    }

    fn start_over(&mut self) {
        self.offset = 0;
        self.head.clear();
        self.header = None;
        self.rest = Bytes::new();
        self.oversize = None;
    }

    /// True where the file is at least as long as it has been read, and begins as it did.
    fn is_still(&mut self, size: u64, head_len: u64, hash: u64) -> io::Result<bool> {
        if size < self.offset {
            return Ok(false);
        }
        let head = self.read_at(0, HEAD_BYTES_MAX)?;
        let len = usize_of(head_len).min(HEAD_BYTES_MAX);
        let still = head.get(..len).is_some_and(|bytes| head_hash(bytes) == hash);
        self.head = head;
        Ok(still)
    }

    /// Length and hash of the first bytes, none of them behind the offset.
    fn head(&mut self) -> io::Result<(u64, u64)> {
        let len = HEAD_BYTES_MAX.min(usize_of(self.offset));
        if self.head.len() < len {
            self.head = self.read_at(0, HEAD_BYTES_MAX)?;
        }
        let bytes = &self.head[..len.min(self.head.len())];
        Ok((bytes.len() as u64, head_hash(bytes)))
    }

    fn skip_byte_order_mark(&mut self, until: u64) -> io::Result<()> {
        let mark = UTF8_BYTE_ORDER_MARK.len();
        if until >= mark as u64 && self.read_at(0, mark)? == UTF8_BYTE_ORDER_MARK {
            self.offset = mark as u64;
        }
        Ok(())
    }

    /// Reads the header row, and goes behind it where the offset is not there yet. False: it is not whole yet.
    fn read_header(&mut self, until: u64, last: bool) -> io::Result<bool> {
        let mark = self.read_at(0, UTF8_BYTE_ORDER_MARK.len())? == UTF8_BYTE_ORDER_MARK;
        let mut start = if mark { UTF8_BYTE_ORDER_MARK.len() as u64 } else { 0 };
        let mut block_bytes = HEAD_BYTES_MAX * 4;
        loop {
            let buffer = self.read_at(start, block_bytes.min(usize_of(until.saturating_sub(start))))?;
            let reached = buffer.len() < block_bytes;
            // The limit is checked below, so that a header is never cut.
            let frames = frame(self.options.framing, &buffer, start, last && reached, usize::MAX);
            match frames.spans.first() {
                Some(span) if span.len() <= self.options.max_record => {
                    let line_end =
                        memchr::memchr(b'\n', &buffer[span.end..]).map_or(buffer.len(), |i| span.end + i + 1);
                    self.header = Some(Bytes::copy_from_slice(&buffer[span.clone()]));
                    self.offset = self.offset.max(start + line_end as u64);
                    return Ok(true);
                }
                Some(_) => break,
                None if frames.consumed > 0 => start += frames.consumed as u64,
                None if buffer.len() > self.options.max_record => break,
                None if reached => return Ok(false),
                None => block_bytes = (block_bytes * 2).min(self.options.max_record + 2),
            }
        }
        // No header of this size can be one: the row is refused as a record, and the rows fail for want of a header.
        self.header = Some(Bytes::new());
        Ok(true)
    }

    fn frame_rest(&mut self, until: u64, last: bool) -> Option<RawBatch> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let reached = self.offset + rest.len() as u64 >= until;
        let frames = self.frame(&rest, last && reached);
        self.take(rest, frames)
    }

    fn frame(&self, buffer: &[u8], last: bool) -> Frames {
        frame(self.options.framing, buffer, self.offset, last, self.options.max_record)
    }

    /// Makes a batch of what was found in `buffer`, and goes behind it. `None`: there was no record.
    fn take(&mut self, buffer: Bytes, frames: Frames) -> Option<RawBatch> {
        self.offset += frames.consumed as u64;
        if frames.full {
            self.rest = buffer.slice(frames.consumed..);
        }
        (!frames.spans.is_empty()).then(|| RawBatch {
            data: buffer.slice(..frames.consumed),
            spans: frames.spans,
            positions: frames.positions,
            origin: self.origin.clone(),
            header: self.header.clone(),
            refused: frames.refused,
            ..RawBatch::default()
        })
    }

    /// Looks for the end of a record that is too large to be held, one block at a time, and hands out its beginning.
    fn pass_oversize(&mut self, until: u64, last: bool) -> io::Result<Option<RawBatch>> {
        let Some((mut scanned, mut scan)) = self.oversize.take() else { return Ok(None) };
        let (size, line_end) = loop {
            let left = usize_of(until.saturating_sub(self.offset + scanned));
            let block = self.read_at(self.offset + scanned, BLOCK_BYTES.min(left))?;
            if block.is_empty() {
                if last {
                    break (scanned, 0);
                }
                self.oversize = Some((scanned, scan));
                return Ok(None);
            }
            match scan.find_end(&block) {
                Some(end) => break (scanned + end as u64, 1),
                None => scanned += block.len() as u64,
            }
        };
        let record_bytes = size - line_end;
        let kept = self.read_at(self.offset, KEPT_BYTES_MAX.min(usize_of(record_bytes)))?;
        let mut batch = RawBatch::single(Bytes::from(kept), self.origin.clone());
        batch.positions.push(self.offset);
        batch.header.clone_from(&self.header);
        batch.refused.push(RowFailure { row: 0, failure: too_large(record_bytes, self.options.max_record) });
        self.offset += size;
        Ok(Some(batch))
    }

    /// Up to `len` bytes from `offset` on; fewer only where the file ends.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buffer.truncate(filled);
        Ok(buffer)
    }
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
