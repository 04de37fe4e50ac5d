//! The files of a source: which there are, which have something to read, and when one may be forgotten.
//!
//! Blocking; the source calls it on a thread that may block. The work goes in rounds: [`Tracker::scan`] lists the files
//! and queues those with something to read, [`Tracker::next_batch`] reads the queue empty. In a round each file is read
//! up to the size it had when its turn came, so that one that grows without end does not keep the others waiting.
//!
//! A file that can't be read is left out and tried again in the next round; one that is followed for as long as it
//! takes, else once more when the others have been read. What can't be read at all, because nothing of it can, is an
//! error.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Clock, Cursor, CursorDelta, Error, RawBatch, Result, ResultExt, SourceBatch};

use super::config::{FileSourceSpec, Identity, StartAt};
use super::content::Broken;
use super::copies::{COPY_BYTES_MIN, Heads};
use super::handles;
use super::identity::{FileId, Place, Print, places};
use super::reader::{ReadOptions, Reader, folder_of};
use super::tracked::{GONE_ROUNDS_MAX, Gone, Tracked};
use super::troubles::Troubles;
use super::view::{Found, Listing, View, find_by_identity};
use crate::context::SourceContext;
use crate::format::Framing;

/// How many files that do not exist any more are remembered, should they come back.
const VANISHED_FILES_MAX: usize = 4096;

/// For how many rounds a new file that begins as another one is looked at twice: log rotation copies a file, and cuts
/// the one it has copied a moment later.
const DOUBT_ROUNDS_MAX: u32 = 2;

/// Cursor key that says that files which were there at the first start have been passed over.
const STARTED_KEY: &str = "started";

/// All that a file source knows.
#[derive(Debug)]
pub(crate) struct Tracker {
    follow: bool,
    start_at_end: bool,
    identity: Identity,
    quote_timeout_us: i64,
    path: String,
    view: View,
    options: ReadOptions,
    clock: Arc<dyn Clock>,
    troubles: Troubles,
    files: HashMap<FileId, Tracked>,
    heads: Heads,
    /// The files that the path led to in this round.
    in_view: HashSet<FileId>,
    /// Those that are open, in the order in which they were opened. An open file can be read to its end whatever
    /// happens to its name.
    opened: VecDeque<FileId>,
    queue: VecDeque<FileId>,
    /// Those of the queue that could not be read, to be tried once more; none where that has been done.
    again: Option<Vec<FileId>>,
    /// The path names one file.
    is_one_file: bool,
    /// Something could be read, or there was nothing to read.
    any_readable: bool,
    /// Cursor changes that go with the next batch.
    changes: CursorDelta,
}

/// What a round has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Round {
    /// How many files may have something to read.
    pub queued: usize,
    /// Files are being written, and are looked at again in the next round.
    pub unsettled: bool,
    /// The path leads to nothing, or to what can't be looked at.
    pub missing: bool,
}

/// What a turn of one file gave.
enum Turn {
    /// Records; there may be more.
    More(RawBatch),
    /// Nothing more in this round.
    Done(Option<RawBatch>),
}

/// Whether a new file is one that is known already.
enum Known {
    No,
    /// It may be: the next rounds will tell.
    Perhaps,
    /// It is, and has been read so far.
    ReadUpTo(Print, PathBuf),
}

impl Tracker {
    /// Goes on behind the cursor.
    ///
    /// # Errors
    /// `Corruption`: the cursor can't be read.
    pub(crate) fn new(spec: &FileSourceSpec, options: ReadOptions, context: &SourceContext) -> Result<Self> {
        let config = &spec.config;
        let cursor: &Cursor = &context.cursor;
        let files: HashMap<_, _> = places(cursor)?
            .into_iter()
            .map(|(id, place)| (id, Tracked::known(PathBuf::from(&place.path), place)))
            .collect();
        let first_start = files.is_empty() && !cursor.contains_key(STARTED_KEY);
        let mut heads = Heads::default();
        files.iter().for_each(|(id, file)| heads.insert(*id, &file.place));
        Ok(Self {
            follow: config.follow,
            start_at_end: first_start && config.start == StartAt::End,
            identity: config.identity,
            quote_timeout_us: i64::try_from(config.quote_timeout.0.as_micros()).unwrap_or(i64::MAX),
            path: config.path.clone(),
            view: View::new(spec),
            options,
            clock: context.clock.clone(),
            troubles: Troubles::new(context.name.clone(), context.status.clone()),
            files,
            heads,
            in_view: HashSet::new(),
            opened: VecDeque::new(),
            queue: VecDeque::new(),
            again: Some(Vec::new()),
            is_one_file: false,
            any_readable: false,
            changes: CursorDelta::new(),
        })
    }

    /// Begins a round.
    ///
    /// # Errors
    /// `Config`: the path leads to nothing, and nothing is waited for. `Environment`: it can't be looked at.
    pub(crate) fn scan(&mut self) -> Result<Round> {
        self.troubles.begin_round();
        let listing = match self.view.list() {
            Ok(listing) => listing,
            Err(e) if self.follow => {
                self.troubles.say(Path::new(&self.path), &e.to_string());
                return Ok(Round { queued: 0, unsettled: false, missing: true });
            }
            Err(e) => return Err(e),
        };
        let Listing { files: found, troubles, missing, is_one_file } = listing;
        if missing && !self.follow {
            return Err(Error::config(format!(
                "{} does not exist: correct `path`, or set `follow: true` to wait for it",
                self.path
            )));
        }
        troubles.iter().for_each(|(path, why)| self.troubles.say(path, why));
        self.any_readable |= found.is_empty() && troubles.is_empty();
        self.is_one_file = is_one_file;
        if self.start_at_end {
            self.changes.push((STARTED_KEY.into(), Some(Bytes::from_static(b"end"))));
        }
        self.in_view = found.iter().map(|file| file.id).collect();
        let noted: Vec<(FileId, PathBuf, bool)> =
            found.into_iter().map(|file| (file.id, file.path.clone(), self.note(file))).collect();
        self.start_at_end = false;
        let (mut queued, mut unsettled, mut failing) = (Vec::new(), false, 0);
        for (id, path, renamed) in noted {
            let copied = match self.known_by_content(id) {
                Known::Perhaps => {
                    unsettled = true;
                    continue;
                }
                Known::ReadUpTo(print, of) => self.adopt(id, print, &of),
                Known::No => false,
            };
            self.look_at_quote(id);
            let Some(file) = self.files.get(&id) else { continue };
            match file.wants_turn(self.waits_until_settled()) {
                Some(true) => {
                    failing += usize::from(file.is_failing);
                    queued.push((!copied, !renamed, path, id));
                }
                Some(false) => unsettled = true,
                None => {}
            }
        }
        for id in self.note_gone(missing)? {
            queued.push((false, false, self.files[&id].path.clone(), id));
        }
        // What was rotated away is older than what took its name.
        queued.sort();
        self.queue = queued.into_iter().map(|(.., id)| id).collect();
        Ok(Round { queued: self.queue.len() - failing, unsettled, missing })
    }

    /// The next batch of this round; `None` where everything has been read. A batch without records moves the cursor.
    ///
    /// # Errors
    /// `Environment`: nothing of what there is can be read.
    pub(crate) fn next_batch(&mut self) -> Result<Option<SourceBatch>> {
        loop {
            while let Some(&id) = self.queue.front() {
                let turn = match self.options.framing {
                    Framing::Whole => self.read_whole(id),
                    Framing::Lines | Framing::Csv(_) | Framing::Json => self.read_records(id),
                };
                let raw = match turn {
                    Ok(Turn::More(raw)) => Some(raw),
                    Ok(Turn::Done(raw)) => {
                        self.queue.pop_front();
                        raw
                    }
                    Err(e) => {
                        self.queue.pop_front();
                        self.could_not_read(id, e)?;
                        continue;
                    }
                };
                if let Some(file) = self.files.get_mut(&id) {
                    file.is_failing = false;
                }
                self.any_readable = true;
                if let Some(raw) = raw {
                    return Ok(Some(self.batch(raw)));
                }
            }
            match self.again.as_mut().filter(|again| !self.follow && !again.is_empty()) {
                Some(again) => self.queue = std::mem::take(again).into(),
                None => break,
            }
            self.again = None;
        }
        self.troubles.end_round();
        self.opened.retain(|id| self.files.get(id).is_some_and(|file| file.reader.is_some()));
        Ok(if self.changes.is_empty() { None } else { Some(self.batch(RawBatch::default())) })
    }

    /// A file can't be read: the others are.
    fn could_not_read(&mut self, id: FileId, error: Error) -> Result<()> {
        let is_last_try = self.again.is_none();
        if !self.follow && (self.is_one_file || (is_last_try && !self.any_readable && self.queue.is_empty())) {
            return Err(error);
        }
        if let Some(file) = self.files.get_mut(&id) {
            (file.reader, file.visit, file.is_failing) = (None, None, true);
            self.troubles.say(&file.path, &error.to_string());
        }
        if let Some(again) = &mut self.again {
            again.push(id);
        }
        if self.follow {
            self.again = Some(Vec::new());
        }
        Ok(())
    }

    fn batch(&mut self, raw: RawBatch) -> SourceBatch {
        SourceBatch { raw, cursor: std::mem::take(&mut self.changes), ack: None }
    }

    /// A file that is one record has no end to be seen; it is taken for whole when it stays the same for a round.
    fn waits_until_settled(&self) -> bool {
        self.follow && self.options.framing == Framing::Whole
    }

    /// Takes over what the round has found of a file. True where the file had another name before.
    fn note(&mut self, found: Found) -> bool {
        let stamp = (found.size, found.mtime_ns);
        if let Some(file) = self.files.get_mut(&found.id) {
            file.gone_rounds = 0;
            file.note_stamp(stamp);
            let renamed = file.path != found.path;
            if renamed {
                file.rename(found.path);
            }
            return renamed;
        }
        let mut file = Tracked::new(found.path.clone(), Place::beginning(&found.path));
        file.note_stamp(stamp);
        if self.start_at_end
            && let Err(e) = self.pass_over(&mut file, found.id)
        {
            self.troubles.say(&found.path, &e.to_string());
        }
        self.files.insert(found.id, file);
        false
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
        file.is_fresh = false;
        self.heads.insert(id, &file.place);
        self.changes.push((id.key(), Some(file.place.to_value())));
        Ok(())
    }

    /// Whether a file that has never been read is one that has, under another identity.
    fn known_by_content(&mut self, id: FileId) -> Known {
        let Some(file) = self.files.get(&id) else { return Known::No };
        let stamp = file.stamp.unwrap_or_default();
        if !file.is_fresh || self.identity == Identity::Inode || self.heads.is_empty(1) || stamp.0 == 0 {
            return Known::No;
        }
        if self.options.framing == Framing::Whole {
            return Known::No;
        }
        // What can't be read now says so when its turn comes.
        let Ok(Some(mut reader)) = file.open(id, self.options) else { return Known::No };
        let Ok(head) = reader.head() else { return Known::No };
        let mut best: Option<(Print, PathBuf)> = None;
        let mut perhaps = false;
        for other in self.heads.like(&head, 1) {
            let Some(known) = self.files.get(&other).filter(|_| other != id) else { continue };
            let print = known.place.print();
            if print.offset == 0 || !reader.matches(&print, stamp.0).unwrap_or(false) {
                continue;
            }
            if !self.is_copy(id, other, &print) {
                perhaps = true;
            } else if best.as_ref().is_none_or(|(found, _)| found.offset < print.offset) {
                best = Some((print, known.path.clone()));
            }
        }
        if let Some((print, of)) = best {
            return Known::ReadUpTo(print, of);
        }
        let Some(file) = self.files.get_mut(&id) else { return Known::No };
        file.doubt_rounds += 1;
        if perhaps && self.follow && file.doubt_rounds <= DOUBT_ROUNDS_MAX { Known::Perhaps } else { Known::No }
    }

    /// Whether that `id` begins with all that was read of `other` is enough to take it for a copy.
    fn is_copy(&self, id: FileId, other: FileId, print: &Print) -> bool {
        if self.identity == Identity::Content || print.offset >= COPY_BYTES_MIN {
            return true;
        }
        let (Some(file), Some(known)) = (self.files.get(&id), self.files.get(&other)) else { return false };
        if self.in_view.contains(&other) {
            return known.was_rewritten(other, print, self.options);
        }
        let took_its_name = known.path == file.path;
        took_its_name && find_by_identity(&folder_of(&known.path), other).is_none()
    }

    /// Goes on in a copy where the original was left. True, as it is one.
    fn adopt(&mut self, id: FileId, print: Print, of: &Path) -> bool {
        let Some(file) = self.files.get_mut(&id) else { return true };
        file.is_fresh = false;
        let place = Place::behind(&file.path, print);
        let what = format!("it begins with all that was read of {}: it is read on from there", of.display());
        tracing::info!(path = %file.path.display(), "{what}");
        if let Some(reader) = &mut file.reader {
            reader.go_on_behind(&print);
        }
        self.note_place(id, place);
        true
    }

    /// Says that a quote is open and rows wait behind it, and after a while ends the row that it stands in.
    fn look_at_quote(&mut self, id: FileId) {
        let now_us = self.clock.now_us();
        let Some(file) = self.files.get_mut(&id) else { return };
        let Some(quote) = &mut file.open_quote else { return };
        let waited_us = now_us.saturating_sub(quote.since_us);
        if waited_us >= self.quote_timeout_us {
            (file.open_quote, file.read_at, file.end_at_line) = (None, None, true);
            self.troubles
                .note(&file.path, "a quote was opened and not closed in time: its row ends at its first line end");
        } else if waited_us >= self.quote_timeout_us / 3 && !std::mem::replace(&mut quote.said, true) {
            self.troubles.note(&file.path, "a quote is opened and not closed: rows wait behind it");
        }
    }

    /// Looks after the files that the path does not lead to (any more); returns those with something to read.
    fn note_gone(&mut self, missing: bool) -> Result<Vec<FileId>> {
        let mut gone: Vec<FileId> = self.files.keys().filter(|id| !self.in_view.contains(id)).copied().collect();
        gone.retain(|id| !self.files.get(id).is_some_and(|file| self.troubles.hides(&file.path)));
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
            if missing && !folder_of(&file.path).exists() {
                if file.reader.is_none() {
                    continue;
                }
                file.gone_rounds = 0;
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
        let (mut raw, place) =
            reader.read_whole(&file.place, &file.path).doing(|| format!("read {}", file.path.display()))?;
        file.read_at = place.mtime_ns.map(|mtime_ns| (place.disk_size.unwrap_or(place.offset), mtime_ns));
        let is_fresh = std::mem::replace(&mut file.is_fresh, false);
        if is_fresh && raw.is_some() && self.is_copy_of_whole(id, &place) {
            raw = None;
            self.note_place(id, place);
        } else if raw.is_some() || !self.follow {
            // Touched but not changed: worth a write only where the next run would have to read it again.
            self.note_place(id, place);
        }
        Ok(Turn::Done(raw))
    }

    /// True where a new file holds what another one holds that has been read.
    fn is_copy_of_whole(&self, id: FileId, place: &Place) -> bool {
        if self.identity == Identity::Inode {
            return false;
        }
        let original = self.heads.exactly(place).into_iter().find(|other| {
            let known = self.files.get(other).filter(|_| *other != id);
            known.is_some_and(|known| known.place.offset == place.offset) && self.is_copy(id, *other, &place.print())
        });
        if let Some(known) = original.and_then(|other| self.files.get(&other)) {
            tracing::info!(path = %place.path, "it holds what {} holds, which was read", known.path.display());
        }
        original.is_some()
    }

    /// Reads on in a file of many records.
    fn read_records(&mut self, id: FileId) -> Result<Turn> {
        if self.files.get(&id).is_some_and(|file| file.is_fresh && file.doubt_rounds == 0)
            && let Known::ReadUpTo(print, of) = self.known_by_content(id)
        {
            self.adopt(id, print, &of);
        }
        if self.files.get(&id).is_some_and(|file| file.reader.is_none()) {
            self.close_surplus();
            self.opened.retain(|opened| *opened != id);
            self.opened.push_back(id);
        }
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
                if reader.check_rewritten(visit).doing(doing)? {
                    tracing::info!(path = %file.path.display(), "the file was cut or rewritten: it is read from its beginning");
                }
                file.visit = Some(visit);
                visit
            }
        };
        if std::mem::take(&mut file.end_at_line) {
            reader.end_at_line();
        }
        let last_turn = file.gone_rounds > GONE_ROUNDS_MAX;
        let last = !self.follow || last_turn;
        let raw = reader.read(visit.0, last).doing(doing)?;
        let mut place = reader.place(&file.path).doing(doing)?;
        let ended = raw.is_none() || reader.has_reached(visit.0);
        if raw.is_some() {
            file.is_fresh = false;
        }
        if ended {
            (file.visit, file.read_at) = (None, Some(visit));
            file.note_quote(self.clock.now_us());
            if !self.follow {
                place.mtime_ns = Some(visit.1);
                if file.reader.as_ref().is_some_and(Reader::is_compressed) {
                    place = place.of_disk_size(visit.0);
                }
            }
        }
        if raw.is_some() || (!self.follow && place != file.place) {
            self.note_place(id, place);
        }
        if ended {
            self.say_how_it_ended(id, last);
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

    /// Says what a person should know of a file that has been read as far as it goes.
    fn say_how_it_ended(&mut self, id: FileId, last: bool) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let Some(reader) = &file.reader else { return };
        let what = match reader.broken() {
            Some(Broken::CutOff) if last => "the gzip file is cut off: what was left is a dead letter",
            Some(Broken::CutOff) => "the gzip file is cut off so far: it is read on when it has grown",
            Some(Broken::Damaged) => "the gzip file is damaged: what was left is a dead letter",
            None if last && reader.has_no_rows() => "there is no row behind its header",
            None => return,
        };
        self.troubles.note(&file.path, what);
    }

    fn note_place(&mut self, id: FileId, place: Place) {
        self.changes.push((id.key(), Some(place.to_value())));
        if let Some(file) = self.files.get_mut(&id) {
            self.heads.remove(id, &file.place);
            self.heads.insert(id, &place);
            file.place = place;
        }
    }

    fn forget(&mut self, id: FileId) {
        if let Some(file) = self.files.remove(&id) {
            tracing::debug!(path = %file.path.display(), "the file is gone, and forgotten");
            self.heads.remove(id, &file.place);
            // A file that never gave a record has no entry; removing what is not there does no harm.
            self.changes.push((id.key(), None));
        }
    }

    /// Closes the files that were opened longest ago, where too many are open. One whose name is gone stays: there
    /// would be no way back to it.
    fn close_surplus(&mut self) {
        for _ in 0..self.opened.len() {
            if !handles::are_used_up() {
                return;
            }
            let Some(id) = self.opened.pop_front() else { return };
            let Some(file) = self.files.get_mut(&id).filter(|file| file.reader.is_some()) else { continue };
            if file.gone_rounds == 0 {
                file.reader = None;
            } else {
                self.opened.push_back(id);
            }
        }
    }
}
