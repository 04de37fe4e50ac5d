//! The writer: one thread per stream that turns whatever appends are waiting into one frame, writes and syncs it, then
//! publishes and answers.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use millstream_core::disk::{Disk, DiskFile, OpenMode};
use millstream_core::{Clock, Error, ErrorKind, Result, ResultExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::frame::{FrameKind, Header, apply_cursor};
use super::group::Group;
use super::index::SegmentIndex;
use super::meta::{ChunkMeta, Meta};
use super::segment::segment_path;
use super::shared::{Segment, Shared, State, Stopped, partition_of_slot};
use super::{Append, Appended, LogChunk, LogOptions};

const GROUP_BYTES_MAX: usize = 4 << 20;
const GROUP_APPENDS_MAX: usize = 256;
/// Bytes are collected up to this before they go to the file; a larger payload goes there by itself.
const BUFFER_BYTES: usize = 1 << 20;

/// What the thread is asked to do.
pub(super) enum Request {
    Append {
        append: Append,
        reply: oneshot::Sender<Result<Appended>>,
        /// Given back when the append is answered.
        _permit: OwnedSemaphorePermit,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub file: Box<dyn DiskFile>,
    pub next_group: u64,
    pub position: u64,
    /// The length of the snapshot at its front.
    pub snapshot_len: u64,
    /// When its first frame was appended.
    pub begun_ms: i64,
    pub last_time_ms: i64,
}

/// Starts the thread.
pub(super) fn start(
    shared: Arc<Shared>,
    active: Active,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    requests: mpsc::Receiver<Request>,
) -> Result<()> {
    let name = format!("log-{}", shared.name);
    let mut inbox = Inbox { shared: shared.clone(), requests };
    let mut writer = Writer { shared, active, options, clock, buffer: Vec::new(), is_gone: false };
    let run = move || {
        let close = writer.run(&mut inbox.requests);
        // The files are let go before `close` is answered: the log can then be opened again.
        drop(writer);
        drop(inbox);
        if let Some(reply) = close {
            // A caller who no longer waits needs no answer.
            let _ = reply.send(());
        }
    };
    std::thread::Builder::new().name(name).spawn(run).doing(|| "start a thread".into())?;
    Ok(())
}

/// What became of a group.
enum Written {
    Stored,
    /// The file of that name is not the log's any more.
    Gone(PathBuf),
}

struct Writer {
    shared: Arc<Shared>,
    active: Active,
    options: LogOptions,
    clock: Arc<dyn Clock>,
    buffer: Vec<u8>,
    /// The file was not there when the last group was written.
    is_gone: bool,
}

/// The requests that wait, and the end of waiting: however the writer ends, a panic included, everyone is told.
struct Inbox {
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // The reason comes first: who finds the channel closed, or a request dropped, looks for it.
        self.shared.stop(if std::thread::panicking() {
            Stopped::Failed(ErrorKind::Bug, "the writer thread panicked".into())
        } else {
            Stopped::Closed
        });
        // Dropping the receiver alone would leave a request that is being sent right now in the channel for as long as
        // there are senders, and its caller without an answer. Receiving until `None` waits for it.
        self.requests.close();
        while let Some(request) = self.requests.blocking_recv() {
            drop(request);
        }
    }
}

struct Waiting {
    append: Append,
    reply: oneshot::Sender<Result<Appended>>,
    _permit: OwnedSemaphorePermit,
}

impl Writer {
    /// Works until the log is closed, fails, or is no longer used; gives back who asked to close it.
    fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Option<oneshot::Sender<()>> {
        loop {
            let (waiting, close) = gather(requests.blocking_recv()?, requests);
            let works = waiting.is_empty() || self.commit(waiting);
            if close.is_some() || !works {
                return close;
            }
        }
    }

    /// Writes one group and answers it; false where the log is no longer fit for writing.
    fn commit(&mut self, waiting: Vec<Waiting>) -> bool {
        let appends: Vec<&Append> = waiting.iter().map(|waiting| &waiting.append).collect();
        let group = Group::plan(&self.shared, &appends);
        if !group.meta.bytes.is_empty() {
            match self.write(&group, &waiting) {
                Ok(Written::Stored) => self.is_gone = false,
                Ok(Written::Gone(path)) => {
                    self.refuse(&path, waiting);
                    return true;
                }
                Err(error) => {
                    tracing::error!(stream = self.shared.name, %error, "write to the log failed");
                    self.fail(&error, waiting);
                    return false;
                }
            }
        }
        for (waiting, answer) in waiting.into_iter().zip(group.answers) {
            // A caller who no longer waits needs no answer.
            let _ = waiting.reply.send(Ok(answer));
        }
        true
    }

    /// Nothing is stored while the file is not where it should be. Its folder may be put back: the log goes on then.
    fn refuse(&mut self, path: &Path, waiting: Vec<Waiting>) {
        let message = format!(
            "{} was removed, moved or replaced while this process writes to it: nothing is stored there. Put the folder \
             back, or start again (what was in it is lost)",
            path.display()
        );
        if !std::mem::replace(&mut self.is_gone, true) {
            tracing::error!(stream = self.shared.name, "{message}");
        }
        for waiting in waiting {
            let _ = waiting.reply.send(Err(Error::environment(message.clone())));
        }
    }

    fn fail(&self, error: &Error, waiting: Vec<Waiting>) {
        // Whether it would work again is not for a caller to try: this log object is done for.
        let kind = if error.is_retry() { ErrorKind::Environment } else { error.kind() };
        self.shared.stop(Stopped::Failed(kind, error.to_string()));
        for waiting in waiting {
            let _ = waiting.reply.send(Err(self.shared.stopped()));
        }
    }

    fn write(&mut self, group: &Group, waiting: &[Waiting]) -> Result<Written> {
        let path = |writer: &Self| {
            let base_group = writer.shared.state.read().active.base_group;
            segment_path(&writer.shared.dir, base_group)
        };
        // Before a segment is created where no folder is.
        if !self.active.file.is_at(&path(self)).doing(|| "look for the log's file".into())? {
            return Ok(Written::Gone(path(self)));
        }
        let now_ms = self.clock.now_ms().max(self.active.last_time_ms);
        let payload_bytes: u64 = group.payloads.iter().map(|p| p.len() as u64).sum();
        if self.is_full(group.meta.bytes.len() as u64 + payload_bytes, now_ms) {
            self.roll(now_ms)?;
        }
        let Active { next_group, position, .. } = self.active;
        let header = Header::new(FrameKind::Data, next_group, position, now_ms, &group.meta, payload_bytes);
        self.write_frame(&header, group).doing(|| format!("write to {}", path(self).display()))?;
        if !self.active.file.is_at(&path(self)).doing(|| "look for the log's file".into())? {
            // Nobody is told that it is stored: should the file come back, it is not.
            self.active.file.truncate(position).doing(|| format!("cut {}", path(self).display()))?;
            return Ok(Written::Gone(path(self)));
        }
        self.active.next_group += 1;
        self.active.position = header.end();
        self.active.last_time_ms = now_ms;
        self.publish(&header, group, waiting);
        Ok(Written::Stored)
    }

    fn write_frame(&mut self, header: &Header, group: &Group) -> io::Result<()> {
        let file = &self.active.file;
        let mut position = header.position;
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(&group.meta.bytes);
        for payload in &group.payloads {
            if self.buffer.len() + payload.len() > BUFFER_BYTES {
                flush(file.as_ref(), &mut self.buffer, &mut position)?;
            }
            if payload.len() > BUFFER_BYTES {
                file.write_all_at(payload, position)?;
                position += payload.len() as u64;
            } else {
                self.buffer.extend_from_slice(payload);
            }
        }
        let padding = header.end() - position - self.buffer.len() as u64;
        self.buffer.resize(self.buffer.len() + padding as usize, 0);
        flush(file.as_ref(), &mut self.buffer, &mut position)?;
        self.buffer.shrink_to(2 * BUFFER_BYTES);
        if self.options.sync { file.sync() } else { Ok(()) }
    }

    fn publish(&self, header: &Header, group: &Group, waiting: &[Waiting]) {
        let mut state = self.shared.state.write();
        let follows = state.active.add(header, &group.chunks);
        debug_assert!(follows, "offsets are given by this thread alone");
        state.ends.clone_from(&group.ends);
        for (chunk, payload) in group.chunks.iter().zip(&group.payloads) {
            let Ok(slot) = self.shared.slot(chunk.partition) else { continue };
            state.payload_bytes[slot] += u64::from(chunk.payload_len);
            state.tail.push(slot, log_chunk(chunk, header.append_time_ms, payload.clone()));
        }
        for (Waiting { append, .. }, answer) in waiting.iter().zip(&group.answers) {
            if !answer.duplicate {
                apply_append(&mut state, append);
            }
        }
        drop(state);
        for &slot in &group.touched {
            self.shared.progress[slot].send_modify(|progress| progress.end = group.ends[slot]);
        }
    }

    /// True where the next frame belongs into a new segment: this one is full, or so old that retention would wait for
    /// it. A segment is at least as long as its snapshot, so that large cursors do not double more than once.
    fn is_full(&self, frame_bytes: u64, now_ms: i64) -> bool {
        let data_bytes = self.active.position - self.active.snapshot_len;
        let too_large = data_bytes + frame_bytes > self.options.segment_bytes_max;
        let too_old =
            self.options.retention.age_ms.is_some_and(|age| now_ms.saturating_sub(self.active.begun_ms) > age);
        data_bytes > 0 && (too_old || (too_large && data_bytes >= self.active.snapshot_len))
    }

    /// Begins the next segment.
    fn roll(&mut self, now_ms: i64) -> Result<()> {
        let group = self.active.next_group;
        let shared = &self.shared;
        let (active, index) = {
            let (header, meta) = snapshot(&shared.state.read(), shared.partitions, group, now_ms)?;
            let active = create(shared.disk.as_ref(), &shared.dir, &header, &meta)?;
            let ends = shared.state.read().ends.clone();
            (active, SegmentIndex::new(&header, partition_of_slot(shared.partitions).zip(ends)))
        };
        self.active = active;
        let sealed = shared.state.write().push_segment(index);
        // Without its file the index is made again when it is needed.
        if let Err(error) = sealed.store(shared.disk.as_ref(), &shared.dir) {
            tracing::warn!(stream = shared.name, %error, "write the index of a segment failed");
        }
        Ok(())
    }
}

impl State {
    /// Makes `index` the active segment; gives back the one before, now sealed.
    pub fn push_segment(&mut self, index: SegmentIndex) -> SegmentIndex {
        if let Some(last) = self.segments.back_mut() {
            last.len = self.active.len;
            last.last_time_ms = self.active.last_time_ms;
        }
        self.segments.push_back(Segment {
            base_group: index.base_group,
            len: 0,
            last_time_ms: 0,
            starts: self.ends.clone(),
            payload_bytes_before: self.payload_bytes.clone(),
        });
        std::mem::replace(&mut self.active, index)
    }
}

/// A chunk as readers get it.
pub(super) fn log_chunk(chunk: &ChunkMeta, append_time_ms: i64, payload: Bytes) -> LogChunk {
    LogChunk {
        partition: chunk.partition,
        base_offset: chunk.base_offset,
        count: chunk.count,
        append_time_ms,
        producer: chunk.producer.clone(),
        sequence: chunk.sequence,
        index: chunk.index,
        event_time_max_us: chunk.event_time_max_us,
        late: chunk.late.clone(),
        watermark: chunk.watermark,
        target: chunk.target.clone(),
        schema: chunk.schema,
        payload,
    }
}

/// The frame that a segment begins with.
pub(super) fn snapshot(state: &State, partitions: u32, group: u64, now_ms: i64) -> Result<(Header, Meta)> {
    let mut meta = Meta::new(partitions);
    for (id, producer) in &state.producers {
        meta.producer(id, producer.sequence, true);
    }
    for (partition, &end) in partition_of_slot(partitions).zip(&state.ends) {
        meta.partition(partition, end);
    }
    for producer in state.producers.values() {
        meta.cursor_snapshot(producer);
    }
    if u32::try_from(meta.bytes.len()).is_err() {
        return Err(Error::input("the cursors of this stream's producers are beyond 4 GiB together"));
    }
    Ok((Header::new(FrameKind::Snapshot, group, 0, now_ms, &meta, 0), meta))
}

/// Creates a segment with its first frame, durably.
pub(super) fn create(disk: &dyn Disk, dir: &Path, header: &Header, meta: &Meta) -> Result<Active> {
    let path = segment_path(dir, header.group);
    let write = || {
        let file = disk.open(&path, OpenMode::CreateNew)?;
        let mut bytes = header.encode().to_vec();
        bytes.extend_from_slice(&meta.bytes);
        bytes.resize(header.frame_len as usize, 0);
        file.write_all_at(&bytes, 0)?;
        file.sync()?;
        disk.sync_dir(dir)?;
        Ok::<_, io::Error>(file)
    };
    let file = write().doing(|| format!("create segment {}", path.display()))?;
    Ok(Active {
        file,
        next_group: header.group + 1,
        position: header.end(),
        snapshot_len: header.frame_len,
        begun_ms: header.append_time_ms,
        last_time_ms: header.append_time_ms,
    })
}

fn flush(file: &dyn DiskFile, buffer: &mut Vec<u8>, position: &mut u64) -> io::Result<()> {
    if !buffer.is_empty() {
        file.write_all_at(buffer, *position)?;
        *position += buffer.len() as u64;
        buffer.clear();
    }
    Ok(())
}

/// Takes what waits, up to a frame's worth; also the request to close, if that came.
fn gather(first: Request, requests: &mut mpsc::Receiver<Request>) -> (Vec<Waiting>, Option<oneshot::Sender<()>>) {
    let (mut waiting, mut bytes) = (Vec::new(), 0);
    let mut next = Some(first);
    while let Some(request) = next {
        match request {
            Request::Close { reply } => return (waiting, Some(reply)),
            Request::Append { append, reply, _permit } => {
                bytes += append.chunks.iter().map(|c| c.payload.len()).sum::<usize>();
                waiting.push(Waiting { append, reply, _permit });
            }
        }
        let full = bytes >= GROUP_BYTES_MAX || waiting.len() >= GROUP_APPENDS_MAX;
        next = if full { None } else { requests.try_recv().ok() };
    }
    (waiting, None)
}

fn apply_append(state: &mut State, append: &Append) {
    if append.sequence.is_none() && append.cursor.is_empty() {
        return;
    }
    let producer = state.producers.entry(append.producer.clone()).or_default();
    producer.sequence = append.sequence.or(producer.sequence);
    apply_cursor(&mut producer.cursor, append.cursor.clone());
}
