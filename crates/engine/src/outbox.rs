//! The commit record of a reader of logs (a task, a sink): where it is, and what it has committed but perhaps not yet
//! appended to its output logs.
//!
//! The record is stored in one atomic write with everything else that the commit changes, under one key that the next
//! commit overwrites. After the commit its outbox is appended to each log with the commit's sequence number, which the
//! logs use to drop what they already have. So a crash between the two is repaired at the next start by appending the
//! stored outbox again.
//!
//! ```text
//! key  m/commit: format u8 | sequence u64 | offsets u32 | offset… | token | entries u32 | entry…
//! offset: stream name (u16 length) | partition u32 | next offset u64 | heard (see `heard.rs`)     (little-endian)
//! token:  length + 1 u32, 0 where there is none | bytes
//! entry:  stream name (u16 length) | chunks u32 | chunk…
//! chunk:  partition u32 | count u32 | event time i64 (MIN = none) | watermark i64 (MIN = none, MAX = idle, MAX - 1 =
//!         end) | late records u32 | schema u64 | payload length u32 | late record… | payload
//! late record: number u32 | watermark i64
//! ```

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_core::{Error, Result};
use millstream_storage::log::{Append, Chunk, Late, Watermark};

use crate::heard::Heard;
use crate::streams::Streams;

/// The key of the commit record in a state.
pub const COMMIT_KEY: &[u8] = b"m/commit";

/// 2: several inputs, and the token of a sink. 3: what was heard of producers, and late records.
const FORMAT: u8 = 3;
/// Bytes of a chunk before its late records and its payload, and of a late record.
const HEAD_BYTES: usize = 40;
const LATE_BYTES: usize = 12;
/// Watermarks that are no times.
const NO_WATERMARK: i64 = i64::MIN;
const IDLE: i64 = i64::MAX;
const END: i64 = i64::MAX - 1;

/// The last commit of a task or sink: where it is, and what it owes its output logs.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Number of the commit; the producer's sequence in the output logs.
    pub sequence: u64,
    /// Where it reads on, in all partitions of all its inputs.
    pub offsets: Vec<Offset>,
    /// What a staged sink has sealed with this commit and publishes after it.
    pub token: Option<Bytes>,
    /// Chunks by output stream.
    pub outbox: Outbox,
}

/// The next offset to read from one partition of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset {
    /// The input stream.
    pub stream: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// The offset.
    pub next: u64,
    /// What was heard of its producers up to there.
    pub heard: Heard,
}

impl Offset {
    /// The place in front of an offset, where nothing was heard yet.
    pub fn at(stream: Arc<str>, partition: u32, next: u64) -> Self {
        Self { stream, partition, next, heard: Heard::default() }
    }
}

/// Chunks by output stream.
pub type Outbox = Vec<(Arc<str>, Vec<Chunk>)>;

impl Commit {
    /// The commit of a reader of one partition, such as a task.
    pub fn of_one(sequence: u64, offset: Offset, outbox: Outbox) -> Self {
        Self { sequence, offsets: vec![offset], token: None, outbox }
    }

    /// Where the reader is in a partition; none where it has not read it.
    pub fn offset(&self, stream: &str, partition: u32) -> Option<&Offset> {
        self.offsets.iter().find(|offset| *offset.stream == *stream && offset.partition == partition)
    }

    /// The next offset to read from a partition; none where the reader has not read it.
    pub fn next_offset(&self, stream: &str, partition: u32) -> Option<u64> {
        self.offset(stream, partition).map(|offset| offset.next)
    }

    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let chunks = self.outbox.iter().flat_map(|(_, chunks)| chunks);
        let length = |chunk: &Chunk| chunk.payload.len() + HEAD_BYTES + chunk.late.len() * LATE_BYTES;
        let payload: usize = chunks.map(length).sum();
        let offsets: usize = self.offsets.iter().map(|offset| offset.stream.len() + 64).sum();
        let token = self.token.as_ref().map_or(0, Bytes::len);
        let mut out = BytesMut::with_capacity(64 + payload + offsets + token);
        out.put_u8(FORMAT);
        out.put_u64_le(self.sequence);
        out.put_u32_le(self.offsets.len() as u32);
        for offset in &self.offsets {
            put_name(&mut out, &offset.stream);
            out.put_u32_le(offset.partition);
            out.put_u64_le(offset.next);
            offset.heard.encode(&mut out);
        }
        out.put_u32_le(self.token.as_ref().map_or(0, |token| token.len() as u32 + 1));
        out.put_slice(self.token.as_deref().unwrap_or_default());
        out.put_u32_le(self.outbox.len() as u32);
        for (stream, chunks) in &self.outbox {
            put_name(&mut out, stream);
            out.put_u32_le(chunks.len() as u32);
            for chunk in chunks {
                out.put_u32_le(chunk.partition);
                out.put_u32_le(chunk.count);
                out.put_i64_le(chunk.event_time_max_us.unwrap_or(i64::MIN));
                out.put_i64_le(match chunk.watermark {
                    None => NO_WATERMARK,
                    Some(Watermark::At(time)) => time.clamp(NO_WATERMARK + 1, END - 1),
                    Some(Watermark::Idle) => IDLE,
                    Some(Watermark::End) => END,
                });
                out.put_u32_le(chunk.late.len() as u32);
                out.put_u64_le(chunk.schema);
                out.put_u32_le(chunk.payload.len() as u32);
                for late in &*chunk.late {
                    out.put_u32_le(late.row);
                    out.put_i64_le(late.watermark_us);
                }
                out.put_slice(&chunk.payload);
            }
        }
        out.freeze()
    }

    /// From the bytes that [`Commit::encode`] made.
    ///
    /// # Errors
    /// `Corruption`; `Environment` for the format of another version.
    pub fn decode(mut bytes: Bytes) -> Result<Self> {
        let format = take(&mut bytes, 1)?.get_u8();
        if format != FORMAT {
            let other = if format < FORMAT { "an earlier" } else { "a newer" };
            return Err(Error::environment(format!(
                "this state was written by {other} version of Millstream (commit format {format}, this program knows \
                 {FORMAT}): use that version, or another folder with --data-dir"
            )));
        }
        let mut head = take(&mut bytes, 12)?;
        let (sequence, offsets) = (head.get_u64_le(), head.get_u32_le());
        let offsets = (0..offsets).map(|_| decode_offset(&mut bytes)).collect::<Result<_>>()?;
        let token = match take(&mut bytes, 4)?.get_u32_le() {
            0 => None,
            length => Some(take(&mut bytes, length as usize - 1)?),
        };
        let streams = take(&mut bytes, 4)?.get_u32_le();
        let mut outbox = Vec::new();
        for _ in 0..streams {
            let name = take_name(&mut bytes)?;
            let count = take(&mut bytes, 4)?.get_u32_le();
            let chunks = (0..count).map(|_| decode_chunk(&mut bytes)).collect::<Result<_>>()?;
            outbox.push((name, chunks));
        }
        match bytes.is_empty() {
            true => Ok(Self { sequence, offsets, token, outbox }),
            false => Err(broken()),
        }
    }
}

fn decode_offset(bytes: &mut Bytes) -> Result<Offset> {
    let stream = take_name(bytes)?;
    let mut rest = take(bytes, 12)?;
    let (partition, next) = (rest.get_u32_le(), rest.get_u64_le());
    Ok(Offset { stream, partition, next, heard: Heard::decode(bytes)? })
}

fn decode_chunk(bytes: &mut Bytes) -> Result<Chunk> {
    let mut head = take(bytes, HEAD_BYTES)?;
    let (partition, count) = (head.get_u32_le(), head.get_u32_le());
    let (event_time, watermark) = (head.get_i64_le(), head.get_i64_le());
    let late = head.get_u32_le() as usize;
    let (schema, length) = (head.get_u64_le(), head.get_u32_le());
    let mut late = take(bytes, late.checked_mul(LATE_BYTES).ok_or_else(broken)?)?;
    let late = (0..late.len() / LATE_BYTES).map(|_| Late { row: late.get_u32_le(), watermark_us: late.get_i64_le() });
    let late = late.collect();
    let payload = take(bytes, length as usize)?;
    let event_time_max_us = (event_time != i64::MIN).then_some(event_time);
    let watermark = match watermark {
        NO_WATERMARK => None,
        IDLE => Some(Watermark::Idle),
        END => Some(Watermark::End),
        time => Some(Watermark::At(time)),
    };
    Ok(Chunk { event_time_max_us, watermark, late, ..Chunk::rows(partition, count, schema, payload) })
}

/// Names of streams are far shorter than a `u16` can say.
pub(crate) fn put_name(out: &mut BytesMut, name: &str) {
    out.put_u16_le(name.len() as u16);
    out.put_slice(name.as_bytes());
}

pub(crate) fn take_name(bytes: &mut Bytes) -> Result<Arc<str>> {
    let length = take(bytes, 2)?.get_u16_le();
    let name = take(bytes, length as usize)?;
    std::str::from_utf8(&name).map(Into::into).map_err(|_| broken())
}

pub(crate) fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes> {
    if bytes.len() < length {
        return Err(broken());
    }
    Ok(bytes.split_to(length))
}

fn broken() -> Error {
    Error::corruption("the commit record does not read back as it was written")
}

/// Appends the outbox of a commit to its logs and waits until it is durable there. Appending it again does no harm.
///
/// An entry for a stream that the pipeline no longer has is dropped, with a warning: nothing reads it.
pub async fn publish(commit: Commit, producer: &Arc<str>, streams: &Streams) -> Result<()> {
    let appends = commit.outbox.into_iter().filter_map(|(name, chunks)| {
        let Some(stream) = streams.get(&name) else {
            tracing::warn!(stream = %name, "the pipeline no longer has this stream; its pending records are dropped");
            return None;
        };
        let append = Append { producer: producer.clone(), sequence: Some(commit.sequence), cursor: Vec::new(), chunks };
        Some(stream.log.append(append))
    });
    futures::future::try_join_all(appends).await.map(drop)
}

#[cfg(test)]
mod tests {
    use millstream_core::ErrorKind;

    use super::*;
    use crate::heard::Word;

    fn commit(token: Option<&'static [u8]>) -> Commit {
        let rows = Chunk::rows(3, 2, 9, Bytes::from_static(b"xyz"));
        let late = [Late { row: 1, watermark_us: -3 }].into();
        let timed = Chunk { event_time_max_us: Some(-4), watermark: Some(Watermark::At(-5)), late, ..rows.clone() };
        let chunks = vec![rows, timed, Chunk::control(1, Watermark::Idle), Chunk::control(0, Watermark::End)];
        let offset = |stream: &str, partition, next| {
            let mut heard = Heard::default();
            let watermark = Some(Watermark::At(5));
            heard.take(&Word { producer: "wire".into(), place: Some((next, 0)), watermark });
            Offset { heard, ..Offset::at(stream.into(), partition, next) }
        };
        Commit {
            sequence: 7,
            offsets: vec![offset("wire", 0, 11), offset("wire", 1, 0), offset("news.changes", 0, 3)],
            token: token.map(Bytes::from_static),
            outbox: vec![("news.changes".into(), chunks), ("wire".into(), Vec::new())],
        }
    }

    #[test]
    fn a_commit_record_reads_back_and_every_cut_is_noticed() {
        for token in [None, Some(&b""[..]), Some(b"sealed")] {
            let commit = commit(token);
            let bytes = commit.encode();
            let back = Commit::decode(bytes.clone()).unwrap();
            assert_eq!((back.sequence, &back.offsets, &back.token), (7, &commit.offsets, &commit.token));
            assert!(back.encode() == bytes, "the outbox too");
            assert_eq!(format!("{:?}", back.outbox), format!("{:?}", commit.outbox));
            let next = |stream, partition| back.next_offset(stream, partition);
            assert_eq!((next("wire", 0), next("wire", 2), next("other", 0)), (Some(11), None, None));
            for cut in 0..bytes.len() {
                assert!(Commit::decode(bytes.slice(..cut)).is_err(), "cut at {cut}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert_eq!(Commit::decode(longer.into()).unwrap_err().kind(), ErrorKind::Corruption);
        }
    }

    #[test]
    fn the_record_of_another_version_is_refused_by_name() {
        for (format, said) in [(2, "an earlier version"), (4, "a newer version")] {
            let mut bytes = commit(None).encode().to_vec();
            bytes[0] = format;
            let refused = Commit::decode(bytes.into()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Environment);
            assert!(refused.to_string().contains(said), "{refused}");
        }
    }
}
