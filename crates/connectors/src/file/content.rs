//! The bytes of a file, by their offset: as they lie on the disk, or what a gzip file holds.
//!
//! A gzip file is read from front to back and holds one window of what was read last. Going back means beginning again,
//! and so does a restart: offsets count the bytes that it holds, not those on the disk.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

use super::config::Compression;
use super::identity::HEAD_BYTES_MAX;

/// How much is unpacked at once.
const CHUNK_BYTES: usize = 128 << 10;

/// What every gzip file begins with (RFC 1952): two fixed bytes, and the one method there is.
const GZIP_MAGIC: &[u8] = b"\x1f\x8b\x08";

/// A file's bytes.
#[derive(Debug)]
pub(crate) struct Content {
    file: Arc<File>,
    compression: Compression,
    gzip: Option<Gzip>,
}

/// Why a gzip file can't be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It ends in the middle: the rest may still be to come.
    CutOff,
    /// It holds something that is no gzip, or not what its checksum says.
    Damaged,
}

#[derive(Debug)]
struct Gzip {
    stream: Box<MultiGzDecoder<BufReader<FileFrom>>>,
    /// The first bytes, for fingerprints; kept so that looking at them is no way back.
    head: Vec<u8>,
    /// Bytes from `start` on.
    window: Vec<u8>,
    start: u64,
    ended: bool,
    broken: Option<Broken>,
}

/// Reads a file from an offset on, without the position that all handles of a file share.
#[derive(Debug)]
struct FileFrom {
    file: Arc<File>,
    at: u64,
}

impl Read for FileFrom {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Content {
    /// Looks at the first bytes of `file`, to see whether it is compressed.
    pub(crate) fn new(file: File, compression: Compression) -> io::Result<Self> {
        let mut content = Self { file: Arc::new(file), compression, gzip: None };
        content.look_again()?;
        Ok(content)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Begins anew: the file has changed, and may be another than it was.
    pub(crate) fn look_again(&mut self) -> io::Result<()> {
        let is_gzip = match self.compression {
            Compression::None => false,
            Compression::Gzip => true,
            Compression::Auto => read_file_at(&self.file, 0, GZIP_MAGIC.len())? == GZIP_MAGIC,
        };
        self.gzip = is_gzip.then(|| Gzip::new(self.file.clone()));
        Ok(())
    }

    pub(crate) fn is_compressed(&self) -> bool {
        self.gzip.is_some()
    }

    /// Why what was read last ended where it did, where that is not the end of the data.
    pub(crate) fn broken(&self) -> Option<Broken> {
        self.gzip.as_ref().and_then(|gzip| gzip.broken)
    }

    /// Up to `len` bytes from `offset` on; fewer only where the content ends.
    pub(crate) fn read_at(&mut self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        match &mut self.gzip {
            None => read_file_at(&self.file, offset, len),
            Some(gzip) => gzip.read_at(&self.file, offset, len),
        }
    }
}

impl Gzip {
    fn new(file: Arc<File>) -> Self {
        let stream = MultiGzDecoder::new(BufReader::with_capacity(64 << 10, FileFrom { file, at: 0 }));
        Self { stream: Box::new(stream), head: Vec::new(), window: Vec::new(), start: 0, ended: false, broken: None }
    }

    fn read_at(&mut self, file: &Arc<File>, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = offset.saturating_add(len as u64);
        if end <= self.head.len() as u64 {
            return Ok(self.head[offset as usize..end as usize].to_vec());
        }
        if offset < self.start {
            *self = Self::new(file.clone());
        }
        while !self.ended && self.start + (self.window.len() as u64) < end {
            self.forget_before(offset.saturating_sub(HEAD_BYTES_MAX as u64));
            self.unpack()?;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX).min(self.window.len());
        let to = from.saturating_add(len).min(self.window.len());
        Ok(self.window[from..to].to_vec())
    }

    /// Drops what is not needed, where that is worth moving the rest.
    fn forget_before(&mut self, offset: u64) {
        let unneeded = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX).min(self.window.len());
        if unneeded >= CHUNK_BYTES {
            self.window.drain(..unneeded);
            self.start += unneeded as u64;
        }
    }

    fn unpack(&mut self) -> io::Result<()> {
        let filled = self.window.len();
        self.window.resize(filled + CHUNK_BYTES, 0);
        let read = self.stream.read(&mut self.window[filled..]);
        self.window.truncate(filled + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => {
                self.broken = Some(match e.kind() {
                    io::ErrorKind::UnexpectedEof => Broken::CutOff,
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Broken::Damaged,
                    _ => return Err(e),
                });
                self.ended = true;
            }
        }
        if self.start == 0 && self.head.len() < HEAD_BYTES_MAX {
            self.head = self.window[..self.window.len().min(HEAD_BYTES_MAX)].to_vec();
        }
        Ok(())
    }
}

fn read_file_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
