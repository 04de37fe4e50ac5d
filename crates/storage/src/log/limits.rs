//! What an append may hold, whatever log it goes to.

use bytes::Bytes;
use millstream_core::{Error, Result};

use super::Append;
use super::shared::slot;

/// The largest payload of a chunk.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// Payload bytes of the appends that are under way, in KiB.
pub(super) const IN_FLIGHT_KIB_MAX: u32 = 32 << 10;

const CHUNKS_PER_APPEND_MAX: usize = 1 << 16;
const META_BYTES_MAX: usize = 1 << 30;
const TAG_BYTES_MAX: usize = u16::MAX as usize;

/// Checks an append to the log `name`; its size in bytes, roughly.
///
/// # Errors
/// `Input`: larger than the limits. `Bug`: no such partition, or a chunk that is none.
pub(super) fn check_append(name: &str, partitions: u32, append: &Append) -> Result<usize> {
    if append.chunks.len() > CHUNKS_PER_APPEND_MAX || append.producer.len() > TAG_BYTES_MAX {
        return Err(Error::bug(format!("append to `{name}` with too many chunks or too long a producer id")));
    }
    let mut payload = 0;
    let mut meta: usize = append.cursor.iter().map(|(k, v)| 9 + k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
    for chunk in &append.chunks {
        if slot(chunk.partition, partitions).is_none() {
            return Err(no_partition(name, chunk.partition));
        }
        if let Some(fault) = chunk.fault() {
            return Err(Error::bug(format!("append to `{name}` with {fault}")));
        }
        let tag = chunk.target.as_ref().map_or(0, |t| t.len());
        if chunk.payload.len() > PAYLOAD_BYTES_MAX || tag > TAG_BYTES_MAX {
            return Err(Error::input(format!(
                "a batch of {} bytes for stream `{name}` is beyond the limit of {PAYLOAD_BYTES_MAX} bytes",
                chunk.payload.len()
            )));
        }
        meta += tag + 64 + 12 * chunk.late.len();
        payload += chunk.payload.len();
    }
    if meta > META_BYTES_MAX {
        return Err(Error::input(format!("an append to stream `{name}` has a cursor or targets beyond 1 GiB")));
    }
    Ok(meta + payload)
}

pub(super) fn no_partition(name: &str, partition: u32) -> Error {
    Error::bug(format!("stream `{name}` has no partition {partition}"))
}

pub(super) fn beyond_end(name: &str, partition: u32, from: u64, end: u64) -> Error {
    Error::input(format!("stream `{name}`, partition {partition}: offset {from} is beyond the end at {end}"))
}
