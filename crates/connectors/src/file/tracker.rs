//! The files of a source: which there are, which have something to read, and when one may be forgotten.
//!
//! Blocking; the source calls it on a thread that may block. The work goes in rounds: [`Tracker::scan`] lists the files
//! and queues those with something to read, [`Tracker::next_batch`] reads the queue empty. In a round each file is read
//! up to the size it had when its turn came, so that one that grows without end does not keep the others waiting.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use millstream_core::{Cursor, CursorDelta, Error, RawBatch, Result, ResultExt, SourceBatch};

use super::config::{FileSourceConfig, StartAt};
use super::identity::{FileId, Place, places};
use super::reader::{ReadOptions, Reader, folder_of};
use super::view::{Found, View, find_by_identity};
use crate::format::Framing;

/// How many rounds a file that was renamed or deleted is still watched: its writer may not have noticed yet.
const GONE_ROUNDS_MAX: u32 = 10;

/// How many files are kept open between rounds. An open file can be read to its end whatever happens to its name.
const OPEN_FILES_MAX: usize = 256;

/// How many files that do not exist any more are remembered, should they come back.
const VANISHED_FILES_MAX: usize = 4096;

/// Cursor key that says that files which were there at the first start have been passed over.
const STARTED_KEY: &str = "started";

/// All that a file source knows.
#[derive(Debug)]
pub(crate) struct Tracker {
    follow: bool,
    start_at_end: bool,
    path: String,
    view: View,
    options: ReadOptions,
    files: HashMap<FileId, Tracked>,
    queue: VecDeque<FileId>,
    /// Cursor changes that go with the next batch.
    changes: CursorDelta,
}

#[derive(Debug)]
struct Tracked {
    path: PathBuf,
    /// What the cursor says, or will say with the changes under way.
    place: Place,
    reader: Option<Reader>,
    /// Size and time in this round, and in the one before.
    stamp: Option<Stamp>,
    stamp_before: Option<Stamp>,
    /// While it is being read: size and time when its turn came.
    visit: Option<Stamp>,
    /// Size and time when it was last read to its end, in this run.
    read_at: Option<Stamp>,
    /// For how many rounds the source's path has not led to it.
    gone_rounds: u32,
}

/// Size and modification time.
type Stamp = (u64, i64);

/// What a round has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// How many files may have something to read.
    pub queued: usize,
    /// Files are being written, and are looked at again in the next round.
    pub unsettled: bool,
    /// The path leads to nothing.
    pub missing: bool,
}

/// What a turn of one file gave.
enum Turn {
    /// Records; there may be more.
    More(RawBatch),
    /// Nothing more in this round.
    Done(Option<RawBatch>),
}

impl Tracker {
    /// Goes on behind `cursor`.
    ///
    /// # Errors
    /// `Config`: a glob can't be read. `Corruption`: the cursor can't.
    pub(crate) fn new(config: &FileSourceConfig, options: ReadOptions, cursor: &Cursor) -> Result<Self> {
        let files: HashMap<_, _> = places(cursor)?
            .into_iter()
            .map(|(id, place)| (id, Tracked::new(PathBuf::from(&place.path), place)))
            .collect();
        let first_start = files.is_empty() && !cursor.contains_key(STARTED_KEY);
        Ok(Self {
            follow: config.follow,
            start_at_end: first_start && config.start == StartAt::End,
            path: config.path.clone(),
            view: View::new(config)?,
            options,
            files,
            queue: VecDeque::new(),
            changes: CursorDelta::new(),
        })
    }

    /// Begins a round.
    ///
    /// # Errors
    /// `Config`: the path leads to nothing, and nothing is waited for. `Environment`: a folder can't be listed.
    pub(crate) fn scan(&mut self) -> Result<Round> {
        let listed = self.view.list()?;
        let missing = listed.is_none();
        if missing && !self.follow {
            return Err(Error::config(format!(
                "{} does not exist: correct `path`, or set `follow: true` to wait for it",
                self.path
            )));
        }
        if self.start_at_end {
            self.changes.push((STARTED_KEY.into(), Some(Bytes::from_static(b"end"))));
        }
        let found = listed.unwrap_or_default();
        let in_view: HashSet<FileId> = found.iter().map(|file| file.id).collect();
        let mut queued = Vec::new();
        let mut unsettled = false;
        for file in found {
            let (id, path) = (file.id, file.path.clone());
            let renamed = self.note(file)?;
            match self.files.get(&id).and_then(|file| file.wants_turn(self.waits_until_settled())) {
                Some(true) => queued.push((true, !renamed, path, id)),
                Some(false) => unsettled = true,
                None => {}
            }
        }
        self.start_at_end = false;
        for id in self.note_gone(&in_view, missing)? {
            queued.push((false, false, self.files[&id].path.clone(), id));
        }
        // What was rotated away is older than what took its name.
        queued.sort();
        self.queue = queued.into_iter().map(|(.., id)| id).collect();
        Ok(Round { queued: self.queue.len(), unsettled, missing })
    }

    /// The next batch of this round; `None` where everything has been read. A batch without records moves the cursor.
    ///
    /// # Errors
    /// `Environment`: a file can't be read.
    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        while let Some(&id) = self.queue.front() {
            let turn = match self.options.framing {
                Framing::Whole => self.read_whole(id)?,
                Framing::Lines | Framing::CsvRecords { .. } => self.read_records(id)?,
            };
            let raw = match turn {
                Turn::More(raw) => Some(raw),
                Turn::Done(raw) => {
                    self.queue.pop_front();
                    raw
                }
            };
            if let Some(raw) = raw {
                return Ok(Some(self.batch(raw)));
            }
        }
        self.close_surplus();
        Ok(if self.changes.is_empty() { None } else { Some(self.batch(RawBatch::default())) })
    }

    fn batch(&mut self, raw: RawBatch) -> SourceBatch {
        SourceBatch { raw, cursor: std::mem::take(&mut self.changes), ack: None }
    }

    /// A file that is one record has no end to be seen; it is taken for whole when it stays the same for a round.
    fn waits_until_settled(&self) -> bool {
        self.follow && self.options.framing == Framing::Whole
    }

    /// Takes over what the round has found of a file. True where the file had another name before.
    fn note(&mut self, found: Found) -> Result<bool> {
        let stamp = (found.size, found.mtime_ns);
        if let Some(file) = self.files.get_mut(&found.id) {
            file.gone_rounds = 0;
            file.note_stamp(stamp);
            let renamed = file.path != found.path;
            if renamed {
                file.rename(found.path);
            }
            return Ok(renamed);
        }
        let mut file = Tracked::new(found.path.clone(), Place::beginning(&found.path));
        file.note_stamp(stamp);
        if self.start_at_end {
            self.pass_over(&mut file, found.id)?;
        }
        self.files.insert(found.id, file);
        Ok(false)
    }

    /// Goes to the end of a file that was there at the first start, and remembers that.
    fn pass_over(&mut self, file: &mut Tracked, id: FileId) -> Result<()> {
        let Some(mut reader) = file.open(id, self.options)? else { return Ok(()) };
        let doing = || format!("read {}", file.path.display());
        file.place = if self.options.framing == Framing::Whole {
            reader.read_whole(&file.place, &file.path).doing(doing)?.1
        } else {
            reader.seek_to_end().doing(doing)?;
            reader.place(&file.path).doing(doing)?
        };
        self.changes.push((id.key(), Some(file.place.to_value())));
        Ok(())
    }

    /// Looks after the files that the path does not lead to (any more); returns those with something to read.
    fn note_gone(&mut self, in_view: &HashSet<FileId>, missing: bool) -> Result<Vec<FileId>> {
        let mut gone: Vec<FileId> = self.files.keys().filter(|id| !in_view.contains(id)).copied().collect();
        gone.sort();
        if !self.follow {
            for id in gone.into_iter().skip(VANISHED_FILES_MAX) {
                self.forget(id);
            }
            return Ok(Vec::new());
        }
        let mut queued = Vec::new();
        for id in gone {
            let Some(file) = self.files.get_mut(&id) else { continue };
            // Where the whole folder is away (a disk is not mounted, say), nothing is known about its files.
            if missing && file.reader.is_none() && !folder_of(&file.path).exists() {
                continue;
            }
            match file.note_gone(id, self.options)? {
                Gone::Read => queued.push(id),
                Gone::Wait => {}
                Gone::Forget => self.forget(id),
            }
        }
        Ok(queued)
    }

    /// Reads a file that is one record.
    fn read_whole(&mut self, id: FileId) -> Result<Turn> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(Turn::Done(None)) };
        let Some(mut reader) = file.open(id, self.options)? else { return Ok(Turn::Done(None)) };
        let (raw, place) =
            reader.read_whole(&file.place, &file.path).doing(|| format!("read {}", file.path.display()))?;
        file.read_at = place.mtime_ns.map(|mtime_ns| (place.offset, mtime_ns));
        // Touched but not changed: worth a write only where the next run would have to read it again.
        if raw.is_some() || !self.follow {
            self.note_place(id, place);
        }
        Ok(Turn::Done(raw))
    }

    /// Reads on in a file of many records.
    fn read_records(&mut self, id: FileId) -> Result<Turn> {
        let Some(file) = self.files.get_mut(&id) else { return Ok(Turn::Done(None)) };
        if file.reader.is_none() {
            file.reader = file.open(id, self.options)?;
        }
        let Some(reader) = &mut file.reader else { return Ok(Turn::Done(None)) };
        let doing = || format!("read {}", file.path.display());
        let visit = match file.visit {
            Some(visit) => visit,
            None => {
                let visit = reader.stat().doing(doing)?;
                if reader.check_rewritten(visit.0).doing(doing)? {
                    tracing::info!(path = %file.path.display(), "the file was cut or rewritten: it is read from its beginning");
                }
                file.visit = Some(visit);
                visit
            }
        };
        let last_turn = file.gone_rounds > GONE_ROUNDS_MAX;
        let raw = reader.read(visit.0, !self.follow || last_turn).doing(doing)?;
        let mut place = reader.place(&file.path).doing(doing)?;
        let ended = raw.is_none() || reader.offset() >= visit.0;
        if ended && !self.follow {
            place.mtime_ns = Some(visit.1);
        }
        if ended {
            (file.visit, file.read_at) = (None, Some(visit));
        }
        if raw.is_some() || (!self.follow && place != file.place) {
            self.note_place(id, place);
        }
        if ended && last_turn {
            self.forget(id);
        } else if let Some(file) = self.files.get_mut(&id).filter(|_| ended && !self.follow) {
            file.reader = None;
        }
        Ok(match raw {
            Some(raw) if !ended => Turn::More(raw),
            raw => Turn::Done(raw),
        })
    }

    fn note_place(&mut self, id: FileId, place: Place) {
        self.changes.push((id.key(), Some(place.to_value())));
        if let Some(file) = self.files.get_mut(&id) {
            file.place = place;
        }
    }

    fn forget(&mut self, id: FileId) {
        if let Some(file) = self.files.remove(&id) {
            tracing::debug!(path = %file.path.display(), "the file is gone, and forgotten");
            // A file that never gave a record has no entry; removing what is not there does no harm.
            self.changes.push((id.key(), None));
        }
    }

    /// Closes the files that have been quiet for longest, where too many are open.
    fn close_surplus(&mut self) {
        let mut open: Vec<&mut Tracked> =
            self.files.values_mut().filter(|file| file.reader.is_some() && file.gone_rounds == 0).collect();
        if open.len() <= OPEN_FILES_MAX {
            return;
        }
        open.sort_by_key(|file| std::cmp::Reverse(file.stamp.map(|(_, mtime_ns)| mtime_ns)));
        for file in open.into_iter().skip(OPEN_FILES_MAX) {
            file.reader = None;
        }
    }
}

/// What to do with a file that the path does not lead to.
enum Gone {
    Read,
    Wait,
    Forget,
}

impl Tracked {
    fn new(path: PathBuf, place: Place) -> Self {
        Self { path, place, reader: None, stamp: None, stamp_before: None, visit: None, read_at: None, gone_rounds: 0 }
    }

    fn note_stamp(&mut self, stamp: Stamp) {
        self.stamp_before = self.stamp.replace(stamp);
    }

    fn rename(&mut self, path: PathBuf) {
        if let Some(reader) = &mut self.reader {
            reader.renamed(&path);
        }
        self.path = path;
    }

    /// `Some(true)`: there may be something to read. `Some(false)`: not before it stays the same for a round.
    fn wants_turn(&self, waits_until_settled: bool) -> Option<bool> {
        let stamp = self.stamp?;
        if self.read_at == Some(stamp) || self.place.is_done_at(stamp.0, stamp.1) {
            return None;
        }
        Some(!waits_until_settled || self.stamp_before == Some(stamp))
    }

    /// Opens the file by its path. `None`: the path leads to nothing or to another file; the next round will tell.
    fn open(&self, id: FileId, options: ReadOptions) -> Result<Option<Reader>> {
        match Reader::open(&self.path, id, &self.place, options) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.doing(|| format!("open {}", self.path.display())),
        }
    }

    /// One more round in which the path does not lead to the file.
    fn note_gone(&mut self, id: FileId, options: ReadOptions) -> Result<Gone> {
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
