//! Opening a log: what is there, what a crash left behind, what is damaged. The rules are in the parent module.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use millstream_core::disk::{Disk, OpenMode, read_all, write_atomic};
use millstream_core::{Clock, Error, Result, ResultExt};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::frame::{self, FrameKind, apply_cursor};
use super::index::SegmentIndex;
use super::segment::{BadFrame, CheckedRead, SegmentReader, corrupt, index_path, other_version, segment_path};
use super::shared::{Progress, Segment, Shared, State, Stopped, partition_of_slot};
use super::tail::Tail;
use super::writer::{self, Active};
use super::{LogOptions, ProducerState, Retention};

const FORMAT_FILE: &str = "format";
const FORMAT_LINE: &str = "millstream log format ";
/// Little in tests, so that most of what they read comes from files.
const TAIL_BYTES_MAX: usize = if cfg!(test) { 2 << 10 } else { 8 << 20 };

/// Opens to write.
pub(super) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    name: &str,
    options: &LogOptions,
    clock: &dyn Clock,
) -> Result<(Shared, Active)> {
    if options.partitions == 0 || options.partitions == super::DEAD_LETTERS {
        return Err(Error::config(format!(
            "stream `{name}` has {} partitions: at least 1 is needed",
            options.partitions
        )));
    }
    disk.create_dir_all(dir)?;
    dir.parent().map_or(Ok(()), |parent| disk.sync_dir(parent))?;
    let has_format = check_format(disk.as_ref(), dir)?;
    let mut bases = segments(disk.as_ref(), dir)?;
    remove_leftovers(disk.as_ref(), dir, &bases)?;
    if !has_format {
        write_atomic(disk.as_ref(), &dir.join(FORMAT_FILE), format!("{FORMAT_LINE}{}\n", frame::VERSION).as_bytes())?;
    }
    let last = scan_last(disk.as_ref(), dir, &mut bases)?;
    let stored = last.as_ref().map_or(0, |last| last.partitions);
    if stored > options.partitions {
        return Err(Error::config(format!(
            "stream `{name}` has {stored} partitions, but {} are asked for: partitions can't be taken away; write \
             `partitions: {stored}` or more, or give the stream another name",
            options.partitions
        )));
    }
    let mut state = assemble(disk.as_ref(), dir, &bases, last.as_ref(), options.partitions, true)?;
    let repaired = match &last {
        Some(last) if last.is_newest => Some(repair(disk.as_ref(), dir, name, last)?),
        Some(last) => remove_segment(disk.as_ref(), dir, last.index.last_group + 1).map(|()| None)?,
        None => None,
    };
    let active = match repaired {
        Some(active) if stored == options.partitions => active,
        // The first segment of all, or one for more partitions, or in place of one whose first frame was torn.
        _ => begin_segment(disk.as_ref(), dir, &mut state, options.partitions, last.as_ref(), clock.now_ms())?,
    };
    // Names too may have been in memory only.
    disk.sync_dir(dir)?;
    Ok((share(disk, dir, name, options.partitions, options.retention, state), active))
}

/// Opens to read; changes nothing.
pub(super) fn open_read_only(disk: Arc<dyn Disk>, dir: &Path, name: &str) -> Result<Shared> {
    let nothing = || Error::input(format!("there is no stream in {}", dir.display()));
    if !disk.exists(dir)? {
        return Err(nothing());
    }
    check_format(disk.as_ref(), dir)?;
    let mut bases = segments(disk.as_ref(), dir)?;
    let last = scan_last(disk.as_ref(), dir, &mut bases)?.ok_or_else(nothing)?;
    let mut state = assemble(disk.as_ref(), dir, &bases, Some(&last), last.partitions, false)?;
    state.stopped = Some(Stopped::Closed);
    Ok(share(disk, dir, name, last.partitions, Retention::default(), state))
}

fn share(disk: Arc<dyn Disk>, dir: &Path, name: &str, partitions: u32, retention: Retention, state: State) -> Shared {
    let stopped = state.stopped.is_some();
    Shared {
        disk,
        dir: dir.to_path_buf(),
        name: name.to_owned(),
        partitions,
        retention,
        read_only: stopped,
        progress: state.ends.iter().map(|&end| watch::channel(Progress { end, stopped }).0).collect(),
        state: RwLock::new(state),
        doomed: Mutex::new(VecDeque::new()),
    }
}

/// True where the folder says its format and this program knows it; false where it says none.
fn check_format(disk: &dyn Disk, dir: &Path) -> Result<bool> {
    let path = dir.join(FORMAT_FILE);
    if !disk.exists(&path)? {
        return Ok(false);
    }
    let bytes = read_all(disk, &path).doing(|| format!("read {}", path.display()))?;
    let line = std::str::from_utf8(&bytes).ok();
    let version = line.and_then(|l| l.strip_prefix(FORMAT_LINE)?.strip_suffix('\n')?.parse::<u32>().ok());
    match version {
        Some(version) if version == u32::from(frame::VERSION) => Ok(true),
        Some(version @ 1..) => Err(other_version(&path, version)),
        _ => Err(corrupt(&path, 0, &format!("not `{FORMAT_LINE}{}`", frame::VERSION))),
    }
}

/// The first groups of all segments in the folder, in order.
pub(super) fn segments(disk: &dyn Disk, dir: &Path) -> Result<Vec<u64>> {
    let names = disk.list(dir).doing(|| format!("list {}", dir.display()))?;
    let mut bases: Vec<u64> = names.iter().filter_map(|name| base_group(name, ".seg")).collect();
    bases.sort_unstable();
    Ok(bases)
}

fn base_group(name: &str, extension: &str) -> Option<u64> {
    let digits = name.strip_suffix(extension)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Removes temporary files, and indexes without their segment.
fn remove_leftovers(disk: &dyn Disk, dir: &Path, bases: &[u64]) -> Result<()> {
    for name in disk.list(dir)? {
        let orphan = base_group(&name, ".idx").is_some_and(|base| bases.binary_search(&base).is_err());
        if orphan || name.ends_with(".tmp") {
            let path = dir.join(name);
            disk.remove(&path).doing(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// A segment that has been read through.
pub(super) struct Scanned {
    pub(super) index: SegmentIndex,
    producers: HashMap<Arc<str>, ProducerState>,
    partitions: u32,
    snapshot_len: u64,
    begun_ms: i64,
    /// Where its last whole frame begins.
    last_frame: u64,
    /// What follows on it.
    torn: Option<BadFrame>,
    /// False where a newer segment was begun, but not one frame of it was durable.
    is_newest: bool,
}

/// Reads the newest segment that has a whole frame; `bases` then ends with it. None where there is none.
fn scan_last(disk: &dyn Disk, dir: &Path, bases: &mut Vec<u64>) -> Result<Option<Scanned>> {
    let Some(&base) = bases.last() else { return Ok(None) };
    let mut segment = SegmentReader::open(disk, segment_path(dir, base), None)?;
    let (scanned, bad) = scan(&mut segment, base)?;
    if let Some(bad) = &bad {
        let group = scanned.as_ref().map_or(base, |s| s.index.last_group + 1);
        check_is_torn(&mut segment, bad, group)?;
    }
    if let Some(scanned) = scanned {
        return Ok(Some(Scanned { torn: bad, ..scanned }));
    }
    // Begun, but its first frame was never durable: so nothing else in it was, and all before it is sealed.
    bases.pop();
    match bases.last() {
        Some(&previous) => {
            let scanned = scan_sealed(disk, dir, previous, None)?;
            if scanned.index.last_group + 1 != base {
                return Err(corrupt(
                    &segment_path(dir, base),
                    0,
                    "no whole frame, and the segment before it is missing",
                ));
            }
            Ok(Some(Scanned { is_newest: false, ..scanned }))
        }
        None if base == 0 => {
            // The very first, torn as the stream was created.
            Ok(None)
        }
        None => Err(corrupt(&segment_path(dir, base), 0, "no whole frame, and no segment before it")),
    }
}

/// Reads a segment up to its end or the first thing that is no whole frame.
pub(super) fn scan(segment: &mut SegmentReader, base: u64) -> Result<(Option<Scanned>, Option<BadFrame>)> {
    let mut scanned: Option<Scanned> = None;
    loop {
        let (position, group) = scanned.as_ref().map_or((0, base), |s| (s.index.len, s.index.last_group + 1));
        let (header, content) = match segment.checked_frame_at(position)? {
            CheckedRead::Frame(header, content) => (header, content),
            CheckedRead::Bad(bad) => return Ok((scanned, Some(bad))),
            // A segment without its snapshot is not whole either.
            CheckedRead::End if scanned.is_none() => {
                return Ok((None, Some(BadFrame { position, reason: "the file is empty", end: None })));
            }
            CheckedRead::End => return Ok((scanned, None)),
        };
        if header.group != group || (header.kind == FrameKind::Snapshot) != scanned.is_none() {
            let what = format!("a frame of group {} where group {group} should be", header.group);
            return Err(segment.corrupt(position, &what));
        }
        let now = scanned.get_or_insert_with(|| Scanned {
            index: SegmentIndex::new(&header, content.partitions.iter().copied()),
            producers: HashMap::new(),
            partitions: header.partitions,
            snapshot_len: header.frame_len,
            begun_ms: header.append_time_ms,
            last_frame: 0,
            torn: None,
            is_newest: true,
        });
        if !now.index.add(&header, &content.chunks) {
            return Err(segment.corrupt(position, "the offsets of a frame do not follow on those before"));
        }
        now.last_frame = position;
        // Of an append with neither sequence nor cursor, nothing is kept.
        for update in content.producers.into_iter().filter(|u| u.sequence.is_some() || u.cursor.is_some()) {
            let producer = now.producers.entry(update.id).or_default();
            producer.sequence = update.sequence.or(producer.sequence);
            apply_cursor(&mut producer.cursor, update.cursor.unwrap_or_default());
        }
    }
}

/// Fails where what is no whole frame had been one: then it is damage, not the trace of a crash.
pub(super) fn check_is_torn(segment: &mut SegmentReader, bad: &BadFrame, group: u64) -> Result<()> {
    let later = match bad.end {
        // The header checks, so the end is known; anything behind it was written after all of this was durable.
        Some(end) => (segment.limit() > end).then_some(end),
        None => segment.later_header(bad.position, group)?,
    };
    match later {
        Some(later) => {
            Err(segment.corrupt(bad.position, &format!("{}, though more follows at byte {later}", bad.reason)))
        }
        None => Ok(()),
    }
}

/// Reads through a sealed segment, of `len` bytes if that is known; nothing in it may be less than whole.
pub(super) fn scan_sealed(disk: &dyn Disk, dir: &Path, base: u64, len: Option<u64>) -> Result<Scanned> {
    let mut segment = SegmentReader::open(disk, segment_path(dir, base), len)?;
    match scan(&mut segment, base)? {
        (_, Some(bad)) => Err(segment.corrupt(bad.position, bad.reason)),
        (Some(scanned), None) => Ok(scanned),
        (None, None) => Err(segment.corrupt(0, "no whole frame")),
    }
}

/// The index of a sealed segment, made from the segment itself.
pub(super) fn index_of(disk: &dyn Disk, dir: &Path, base: u64, len: u64) -> Result<SegmentIndex> {
    scan_sealed(disk, dir, base, Some(len)).map(|scanned| scanned.index)
}

/// The index of a sealed segment, from its file where that is sound.
fn sealed_index(disk: &dyn Disk, dir: &Path, base: u64, write: bool) -> Result<SegmentIndex> {
    let path = segment_path(dir, base);
    let len = disk.file_len(&path).doing(|| format!("look at {}", path.display()))?;
    if let Some(index) = SegmentIndex::load(disk, dir, base)? {
        if index.len != len {
            let what = format!("the file has {len} bytes, but was sealed with {}", index.len);
            return Err(corrupt(&path, len.min(index.len), &what));
        }
        return Ok(index);
    }
    tracing::info!(segment = %path.display(), "make the index of a segment again");
    let index = index_of(disk, dir, base, len)?;
    if write {
        index.store(disk, dir).doing(|| format!("write {}", index_path(dir, base).display()))?;
    }
    Ok(index)
}

/// Puts the segments together and checks that each follows on the one before.
fn assemble(
    disk: &dyn Disk,
    dir: &Path,
    bases: &[u64],
    last: Option<&Scanned>,
    partitions: u32,
    write: bool,
) -> Result<State> {
    let slots = partitions as usize + 1;
    let mut state = State {
        segments: VecDeque::new(),
        active: SegmentIndex::default(),
        ends: vec![0; slots],
        payload_bytes: vec![0; slots],
        producers: HashMap::new(),
        tail: Tail::new(slots, TAIL_BYTES_MAX),
        stopped: None,
    };
    let Some(last) = last else { return Ok(state) };
    for (i, &base) in bases.iter().enumerate() {
        let index = if i + 1 == bases.len() { last.index.clone() } else { sealed_index(disk, dir, base, write)? };
        let previous = (i > 0).then_some(&state.active);
        check_follows(dir, previous, &index, partitions)?;
        for (slot, partition) in partition_of_slot(partitions).enumerate() {
            state.ends[slot] = index.partitions.get(&partition).map_or(0, |p| p.start);
        }
        state.segments.push_back(Segment {
            base_group: base,
            len: index.len,
            last_time_ms: index.last_time_ms,
            starts: state.ends.clone(),
            payload_bytes_before: state.payload_bytes.clone(),
        });
        for (slot, partition) in partition_of_slot(partitions).enumerate() {
            state.ends[slot] = index.end(partition);
            state.payload_bytes[slot] += index.partitions.get(&partition).map_or(0, |p| p.payload_bytes);
        }
        state.active = index;
    }
    state.producers.clone_from(&last.producers);
    Ok(state)
}

fn check_follows(dir: &Path, previous: Option<&SegmentIndex>, next: &SegmentIndex, partitions: u32) -> Result<()> {
    let Some(previous) = previous else { return Ok(()) };
    let path = segment_path(dir, next.base_group);
    if previous.last_group + 1 != next.base_group {
        let what = format!("the segment before it ends with group {}: a segment is missing", previous.last_group);
        return Err(corrupt(&path, 0, &what));
    }
    for partition in partition_of_slot(partitions) {
        let start = next.partitions.get(&partition).map_or(0, |p| p.start);
        if start != previous.end(partition) {
            let what = format!("partition {partition} goes on at offset {start}, not at {}", previous.end(partition));
            return Err(corrupt(&path, 0, &what));
        }
    }
    Ok(())
}

/// Makes the newest segment fit to go on writing: cuts off what was torn, and makes its last frame durable.
fn repair(disk: &dyn Disk, dir: &Path, name: &str, last: &Scanned) -> Result<Active> {
    let path = segment_path(dir, last.index.base_group);
    let len = last.index.len;
    let repair = || {
        let file = disk.open(&path, OpenMode::Write)?;
        if let Some(bad) = &last.torn {
            let bytes = file.file_len()? - len;
            tracing::warn!(
                stream = name,
                segment = %path.display(),
                position = len,
                bytes,
                reason = bad.reason,
                "cut off the end of the log, which was never acknowledged"
            );
            file.truncate(len)?;
        }
        // Written again, not only synced: after a sync that failed the system may take the pages for clean.
        copy_onto_itself(file.as_ref(), last.last_frame, len)?;
        file.sync()?;
        Ok::<_, std::io::Error>(file)
    };
    let file = repair().doing(|| format!("repair segment {}", path.display()))?;
    Ok(Active {
        file,
        next_group: last.index.last_group + 1,
        position: len,
        snapshot_len: last.snapshot_len,
        begun_ms: last.begun_ms,
        last_time_ms: last.index.last_time_ms,
    })
}

fn copy_onto_itself(file: &dyn millstream_core::disk::DiskFile, from: u64, to: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; (to - from).min(1 << 20) as usize];
    let mut position = from;
    while position < to {
        let part = &mut buffer[..(to - position).min(1 << 20) as usize];
        file.read_exact_at(part, position)?;
        file.write_all_at(part, position)?;
        position += part.len() as u64;
    }
    Ok(())
}

fn remove_segment(disk: &dyn Disk, dir: &Path, base: u64) -> Result<()> {
    let path = segment_path(dir, base);
    tracing::warn!(segment = %path.display(), "remove a segment that was being created when the process stopped");
    disk.remove(&path)?;
    Ok(disk.sync_dir(dir)?)
}

/// Begins a segment behind all others.
fn begin_segment(
    disk: &dyn Disk,
    dir: &Path,
    state: &mut State,
    partitions: u32,
    last: Option<&Scanned>,
    now_ms: i64,
) -> Result<Active> {
    let group = last.map_or(0, |last| last.index.last_group + 1);
    let now_ms = now_ms.max(last.map_or(i64::MIN, |last| last.index.last_time_ms));
    let torn_first = segment_path(dir, 0);
    if group == 0 && disk.exists(&torn_first)? {
        remove_segment(disk, dir, 0)?;
    }
    let (header, meta) = writer::snapshot(state, partitions, group, now_ms)?;
    let active = writer::create(disk, dir, &header, &meta)?;
    let index = SegmentIndex::new(&header, partition_of_slot(partitions).zip(state.ends.iter().copied()));
    let sealed = state.push_segment(index);
    if last.is_some() {
        sealed.store(disk, dir)?;
    }
    Ok(active)
}
