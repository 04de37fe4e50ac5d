//! The newest chunks in memory, so that a reader that keeps up reads no file and checks no CRC.

use std::collections::VecDeque;

use super::LogChunk;

/// What a chunk counts on top of its payload.
const CHUNK_BYTES: usize = 128;

/// A bounded number of recent chunks, all partitions together; the oldest goes first.
#[derive(Debug)]
pub(super) struct Tail {
    /// Per slot, without a gap up to the partition's end.
    slots: Vec<VecDeque<LogChunk>>,
    /// The slot of each chunk, oldest first.
    order: VecDeque<usize>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub fn new(slots: usize, bytes_max: usize) -> Self {
        Self { slots: vec![VecDeque::new(); slots], order: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds the next chunk of a partition.
    pub fn push(&mut self, slot: usize, chunk: LogChunk) {
        self.bytes += chunk.payload.len() + CHUNK_BYTES;
        self.slots[slot].push_back(chunk);
        self.order.push_back(slot);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.order.pop_front().and_then(|slot| self.slots[slot].pop_front()) else { break };
            self.bytes -= oldest.payload.len() + CHUNK_BYTES;
        }
    }

    /// The chunks from the one that holds `offset` on, up to about `bytes_max` bytes; none where it is not in memory.
    pub fn read(&self, slot: usize, offset: u64, bytes_max: usize) -> Option<Vec<LogChunk>> {
        let chunks = &self.slots[slot];
        if chunks.front().is_none_or(|first| first.base_offset > offset) {
            return None;
        }
        let first = chunks.partition_point(|c| c.end_offset() <= offset);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for chunk in chunks.range(first..) {
            if !found.is_empty() && bytes + chunk.payload.len() > bytes_max {
                break;
            }
            bytes += chunk.payload.len() + CHUNK_BYTES;
            found.push(chunk.clone());
        }
        (!found.is_empty()).then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn chunk(base_offset: u64, len: usize) -> LogChunk {
        LogChunk {
            partition: 0,
            base_offset,
            count: 2,
            append_time_ms: 0,
            producer: "".into(),
            sequence: None,
            index: 0,
            event_time_max_us: None,
            late: [].into(),
            watermark: None,
            target: None,
            schema: 0,
            payload: Bytes::from(vec![0; len]),
        }
    }

    #[test]
    fn the_tail_stays_within_its_bound_and_has_no_gap() {
        let mut tail = Tail::new(2, 10_000);
        for i in 0..100 {
            tail.push(0, chunk(i * 2, 300));
            tail.push(1, chunk(i * 2, 900));
            assert!(tail.bytes <= 10_000);
        }
        assert!(tail.read(0, 0, 1000).is_none(), "long gone");
        let last = tail.read(0, 199, 1000).unwrap();
        assert_eq!(last.len(), 1);
        assert_eq!(last[0].base_offset, 198);
        let first = tail.slots[0][0].base_offset;
        let all = tail.read(0, first, usize::MAX).unwrap();
        assert!(all.windows(2).all(|w| w[0].end_offset() == w[1].base_offset));
        tail.push(0, chunk(200, 20_000));
        assert!(tail.read(0, 200, 1000).is_none(), "larger than all of the tail");
        assert_eq!(tail.bytes, 0);
    }
}
