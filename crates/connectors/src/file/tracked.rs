//! One file of a source: where it stands, and what to do with it when its name is gone.

use std::io;
use std::path::PathBuf;

use millstream_core::{Result, ResultExt};

use super::identity::{FileId, Place, Print};
use super::reader::{ReadOptions, Reader, folder_of};
use super::view::find_by_identity;
use crate::format::Framing;

/// How many rounds a file that was renamed or deleted is still watched: its writer may not have noticed yet.
pub(crate) const GONE_ROUNDS_MAX: u32 = 10;

/// A file, and what is known of it.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub path: PathBuf,
    /// What the cursor says, or will say with the changes under way.
    pub place: Place,
    pub reader: Option<Reader>,
    /// Size and time in this round, and in the one before.
    pub stamp: Option<Stamp>,
    stamp_before: Option<Stamp>,
    /// While it is being read: size and time when its turn came.
    pub visit: Option<Stamp>,
    /// Size and time when it was last read to its end, in this run.
    pub read_at: Option<Stamp>,
    /// For how many rounds the source's path has not led to it.
    pub gone_rounds: u32,
    /// Nothing of it has been read, in this run or an earlier one.
    pub is_fresh: bool,
    /// For how many rounds it may have been a copy of another one.
    pub doubt_rounds: u32,
    /// It could not be read when it was tried last.
    pub is_failing: bool,
    /// A quote is open at its end.
    pub open_quote: Option<OpenQuote>,
    /// The row with the open quote ends at its first line end.
    pub end_at_line: bool,
}

/// A quote that is open at the end of a file, with a line end behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenQuote {
    /// Where its row begins.
    pub offset: u64,
    /// Since when, in microseconds since the epoch.
    pub since_us: i64,
    /// A person has been told.
    pub said: bool,
}

/// Size and modification time.
type Stamp = (u64, i64);

/// What to do with a file that the path does not lead to.
pub(crate) enum Gone {
    Read,
    Wait,
    Forget,
}

impl Tracked {
    pub(crate) fn new(path: PathBuf, place: Place) -> Self {
        Self {
            path,
            place,
            reader: None,
            stamp: None,
            stamp_before: None,
            visit: None,
            read_at: None,
            gone_rounds: 0,
            is_fresh: true,
            doubt_rounds: 0,
            is_failing: false,
            open_quote: None,
            end_at_line: false,
        }
    }

    /// A file that an earlier run has read.
    pub(crate) fn known(path: PathBuf, place: Place) -> Self {
        Self { is_fresh: false, ..Self::new(path, place) }
    }

    /// Notes whether a quote is open at the end of what there is.
    pub(crate) fn note_quote(&mut self, now_us: i64) {
        let open = self.reader.as_ref().filter(|reader| reader.open_quote()).map(Reader::offset);
        self.open_quote = open.map(|offset| match self.open_quote {
            Some(quote) if quote.offset == offset => quote,
            _ => OpenQuote { offset, since_us: now_us, said: false },
        });
    }

    /// True where the file is not any more what `print` was taken of.
    pub(crate) fn was_rewritten(&self, id: FileId, print: &Print, options: ReadOptions) -> bool {
        let size = self.stamp.unwrap_or_default().0;
        match Reader::open(&self.path, id, &Place::beginning(&self.path), options) {
            Ok(Some(mut reader)) => !reader.matches(print, size).unwrap_or(true),
            _ => false,
        }
    }

    pub(crate) fn note_stamp(&mut self, stamp: Stamp) {
        self.stamp_before = self.stamp.replace(stamp);
    }

    pub(crate) fn rename(&mut self, path: PathBuf) {
        if let Some(reader) = &mut self.reader {
            reader.renamed(&path);
        }
        self.path = path;
    }

    /// `Some(true)`: there may be something to read. `Some(false)`: not before it stays the same for a round.
    pub(crate) fn wants_turn(&self, waits_until_settled: bool) -> Option<bool> {
        let stamp = self.stamp?;
        if self.read_at == Some(stamp) || self.place.is_done_at(stamp.0, stamp.1) {
            return None;
        }
        Some(!waits_until_settled || self.stamp_before == Some(stamp))
    }

    /// Opens the file by its path. `None`: the path leads to nothing or to another file; the next round will tell.
    pub(crate) fn open(&self, id: FileId, options: ReadOptions) -> Result<Option<Reader>> {
        match Reader::open(&self.path, id, &self.place, options) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.doing(|| format!("open {}", self.path.display())),
        }
    }

    /// One more round in which the path does not lead to the file.
    pub(crate) fn note_gone(&mut self, id: FileId, options: ReadOptions) -> Result<Gone> {
        self.gone_rounds += 1;
        let over = self.gone_rounds > GONE_ROUNDS_MAX;
        if options.framing == Framing::Whole {
            return Ok(if over { Gone::Forget } else { Gone::Wait });
        }
        if self.reader.is_none() && self.gone_rounds == 1 {
            self.find_again(id, options)?;
        }
        let Some(reader) = &self.reader else {
            return Ok(if over { Gone::Forget } else { Gone::Wait });
        };
        let stamp = reader.stat().doing(|| format!("look at {}", self.path.display()))?;
        let grown = self.read_at != Some(stamp);
        if grown {
            self.gone_rounds = 1;
        }
        Ok(if grown || over { Gone::Read } else { Gone::Wait })
    }

    /// Looks for a file that got another name while it was not open, such as by log rotation between two runs.
    fn find_again(&mut self, id: FileId, options: ReadOptions) -> Result<()> {
        let Some(found) = find_by_identity(&folder_of(&self.path), id) else { return Ok(()) };
        let seen_in_this_run = self.stamp.is_some();
        let path = std::mem::replace(&mut self.path, found.path);
        self.reader = self.open(id, options)?.filter(|reader| {
            // Another file may have got the inode: only what begins as this one did is taken for it.
            reader.offset() == self.place.offset && (self.place.offset > 0 || seen_in_this_run)
        });
        if self.reader.is_none() {
            self.path = path;
        }
        Ok(())
    }
}
