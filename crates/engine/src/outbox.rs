//! What a task has committed but perhaps not yet appended to its output logs.
//!
//! The outbox of a commit is stored in the same atomic write as the state changes and the next input offset, under one
//! key that the next commit overwrites. After the commit it is appended to each log with the commit's sequence number,
//! which the logs use to drop what they already have. So a crash between the two is repaired at the next start by
//! appending the stored outbox again.
//!
//! ```text
//! key  m/commit: format u8 | sequence u64 | next input offset u64 | entries u32 | entry…        (little-endian)
//! entry: stream name (u16 length) | chunks u32 | chunk…
//! chunk: partition u32 | count u32 | event time i64 (MIN = none) | watermark i64 (MIN = none, MAX = idle) |
//!        schema u64 | payload (u32 length)
//! ```

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use millstream_core::{Error, Result};
use millstream_storage::log::{Append, Chunk, Watermark};

use crate::streams::Streams;

/// The key of the commit record in a task's state.
pub const COMMIT_KEY: &[u8] = b"m/commit";

const FORMAT: u8 = 2;
/// Bytes of a chunk before its payload.
const HEAD_BYTES: usize = 36;

/// A task's last commit: where it is, and what it owes its output logs.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Number of the commit; the producer's sequence in the output logs.
    pub sequence: u64,
    /// The next offset to read from the input log.
    pub next_offset: u64,
    /// Chunks by output stream.
    pub outbox: Vec<(Arc<str>, Vec<Chunk>)>,
}

impl Commit {
    /// As bytes.
    pub fn encode(&self) -> Bytes {
        let payload: usize =
            self.outbox.iter().flat_map(|(_, chunks)| chunks).map(|c| c.payload.len() + HEAD_BYTES).sum();
        let mut out = BytesMut::with_capacity(64 + payload);
        out.put_u8(FORMAT);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.next_offset);
        out.put_u32_le(self.outbox.len() as u32);
        for (stream, chunks) in &self.outbox {
            out.put_u16_le(stream.len() as u16);
            out.put_slice(stream.as_bytes());
            out.put_u32_le(chunks.len() as u32);
            for chunk in chunks {
                out.put_u32_le(chunk.partition);
                out.put_u32_le(chunk.count);
                out.put_i64_le(chunk.event_time_max_us.unwrap_or(i64::MIN));
                out.put_i64_le(match chunk.watermark {
                    None => i64::MIN,
                    Some(Watermark::At(time)) => time.clamp(i64::MIN + 1, i64::MAX - 1),
                    Some(Watermark::Idle) => i64::MAX,
                });
                out.put_u64_le(chunk.schema);
                out.put_u32_le(chunk.payload.len() as u32);
                out.put_slice(&chunk.payload);
            }
        }
        out.freeze()
    }

    /// From the bytes that [`Commit::encode`] made.
    ///
    /// # Errors
    /// `Corruption`; `Environment` for a format of a newer version.
    pub fn decode(mut bytes: Bytes) -> Result<Self> {
        let format = take(&mut bytes, 1)?.get_u8();
        if format != FORMAT {
            return Err(Error::environment(format!(
                "this state was written by another version of Millstream (commit format {format}, this program knows {FORMAT})"
            )));
        }
        let mut head = take(&mut bytes, 20)?;
        let (sequence, next_offset, streams) = (head.get_u64_le(), head.get_u64_le(), head.get_u32_le());
        let mut outbox = Vec::new();
        for _ in 0..streams {
            let name_length = take(&mut bytes, 2)?.get_u16_le();
            let name = take(&mut bytes, name_length as usize)?;
            let name = std::str::from_utf8(&name).map_err(|_| broken())?.into();
            let count = take(&mut bytes, 4)?.get_u32_le();
            let chunks = (0..count).map(|_| decode_chunk(&mut bytes)).collect::<Result<_>>()?;
            outbox.push((name, chunks));
        }
        Ok(Self { sequence, next_offset, outbox })
    }
}

fn decode_chunk(bytes: &mut Bytes) -> Result<Chunk> {
    let mut head = take(bytes, HEAD_BYTES)?;
    let (partition, count) = (head.get_u32_le(), head.get_u32_le());
    let (event_time, watermark) = (head.get_i64_le(), head.get_i64_le());
    let (schema, length) = (head.get_u64_le(), head.get_u32_le());
    let payload = take(bytes, length as usize)?;
    let event_time_max_us = (event_time != i64::MIN).then_some(event_time);
    let watermark = match watermark {
        i64::MIN => None,
        i64::MAX => Some(Watermark::Idle),
        time => Some(Watermark::At(time)),
    };
    Ok(Chunk { event_time_max_us, watermark, ..Chunk::rows(partition, count, schema, payload) })
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes> {
    if bytes.len() < length {
        return Err(broken());
    }
    Ok(bytes.split_to(length))
}

fn broken() -> Error {
    Error::corruption("the commit record of a task does not read back as it was written")
}

/// Appends an outbox to its logs and waits until it is durable there. Appending it again does no harm.
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
    use super::*;

    #[test]
    fn a_commit_record_reads_back_and_every_cut_is_noticed() {
        let rows = Chunk::rows(3, 2, 9, Bytes::from_static(b"xyz"));
        let timed = Chunk { event_time_max_us: Some(-4), watermark: Some(Watermark::At(-5)), ..rows.clone() };
        let chunks = vec![rows, timed, Chunk::control(1, Watermark::Idle)];
        let commit = Commit { sequence: 7, next_offset: 11, outbox: vec![("news.changes".into(), chunks)] };
        let bytes = commit.encode();
        let back = Commit::decode(bytes.clone()).unwrap();
        assert_eq!((back.sequence, back.next_offset), (7, 11));
        assert_eq!(format!("{:?}", back.outbox), format!("{:?}", commit.outbox));
        for cut in 0..bytes.len() {
            assert!(Commit::decode(bytes.slice(..cut)).is_err(), "cut at {cut}");
        }
    }
}
