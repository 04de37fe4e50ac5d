//! The log: a durable, partitioned, replayable stream of batches of records.
//!
//! # Promises
//!
//! * [`Log::append`] answers when everything in the [`Append`] (chunks of any partitions, dead letters, the
//!   producer's sequence and cursor) is durable and visible; after a crash all of it is there or none of it.
//! * Offsets of a partition are dense and start at 0: the next chunk begins where the last one ended. A record takes
//!   one offset, and so does a control chunk, which has no records (see [`Chunk`]).
//! * Every chunk names its producer, sequence and number in its append, so that readers can drop repeats themselves.
//! * An append whose sequence is not above its producer's last one is dropped and answered as a duplicate.
//! * Bytes that do not read back as written are an error that names file and position, never silence and never wrong
//!   data. The one exception is the end of the newest segment: a frame there that is not whole was never acknowledged
//!   (or can't be told from one that was not) and is cut off when the log is opened, with a warning.
//! * After a failed write or sync the log takes no more appends; nothing is tried again on the same file.
//!
//! # Limits
//!
//! One process at a time. A chunk holds up to 1 GiB and 2^32 - 1 records, an append up to 65,536 chunks, a target or
//! producer id up to 65,535 bytes, the cursors of all producers of a stream together about 1 GiB. Appends in flight are
//! bounded by 32 MiB, or one append where that is larger; recent chunks kept for readers by 8 MiB.
//!
//! # Files
//!
//! ```text
//! {dir}/format                     text: "millstream log format 3\n"
//! {dir}/{base_group:020}.seg       frames, one after another; only the last segment grows
//! {dir}/{base_group:020}.idx       where what is in a sealed segment; rebuilt from it when missing or damaged
//! {dir}/*.tmp                      left by a crash, removed at open
//! ```
//!
//! A segment is shared by all partitions, so that one sync makes a group of appends durable, whatever partitions they
//! touch. The unit of writing is a **frame**: one group commit. Frames are numbered (*groups*) without a gap across the
//! segments of a stream; a segment is named by its first. That first frame is a *snapshot*: every producer's sequence
//! and cursor, and every partition's next offset. Hence only the last segment is read through at open, and old segments
//! can be deleted without losing state.
//!
//! # Bytes of a frame (little-endian)
//!
//! ```text
//! header, 64 bytes
//!    0  4  magic "MSLF"
//!    4  2  format version, 3
//!    6  2  kind: 0 data, 1 snapshot
//!    8  8  group
//!   16  8  position of this header in the segment
//!   24  8  append time, ms since the epoch; never decreases
//!   32  4  meta length            36  4  CRC32C of meta
//!   40  8  frame length: header + meta + payloads + zeros up to a multiple of 8
//!   48  4  chunks (data) or partitions (snapshot) in meta
//!   52  4  producers in meta      56  4  partitions of the stream      60  4  CRC32C of bytes 0..60
//! meta
//!   per append (data) or producer (snapshot): id length u16, id, flags u8 (1 sequence, 2 cursor), [sequence u64]
//!   data, per chunk: append u32, partition u32, records u32, first offset u64, schema u64, payload length u32,
//!                    payload CRC32C u32, flags u8 (1 event time, 2 target, 4 watermark, 8 idle, 12 end, 16 late),
//!                    [event time µs i64], [target length u16, target], [watermark µs i64],
//!                    [late records u32, per record: number u32, watermark µs i64]
//!   snapshot, per partition: partition u32, next offset u64
//!   per append or producer with a cursor: entries u32, and per entry:
//!                 key length u32, key, flag u8 (0 removed, 1 set), [value length u32, value]
//! payloads, in the order of the chunks
//! ```
//!
//! One chain of CRCs covers a frame: the header's covers the meta's, which covers the payloads'. A reader of one
//! partition can so skip the payloads of others without reading them. A header is believed only at the position that it
//! names, so that a payload that contains a frame is not taken for one.
//!
//! # Recovery
//!
//! A frame is written only after the one before it is durable. So when the last segment ends in something that is not a
//! whole frame, and nothing behind it shows that it once was (a later header, bytes beyond its end), then it was never
//! acknowledged and is cut off. Everything else that does not check is corruption. The last good frame is written and
//! synced once more, since a crash between write and sync may have left it in the page cache only.

mod api;
mod check;
mod disk;
mod frame;
mod group;
mod index;
mod limits;
mod memory;
mod meta;
mod reader;
mod recovery;
mod retention;
mod segment;
mod shared;
mod tail;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use self::api::{Log, LogReader};
pub use self::check::damage;
pub use self::disk::DiskLog;
pub use self::limits::PAYLOAD_BYTES_MAX;
pub use self::memory::MemoryLog;
pub use self::retention::RetainReport;
pub use self::types::{Append, Appended, Chunk, Late, LogChunk, LogOptions, ProducerState, Retention, Watermark};

/// The partition that holds a stream's dead letters.
pub const DEAD_LETTERS: u32 = u32::MAX;
