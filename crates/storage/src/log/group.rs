//! A group commit: the appends that wait, with their offsets, as one frame.

use std::collections::HashMap;

use bytes::Bytes;
use crc32c::crc32c;

use super::meta::{ChunkMeta, Meta};
use super::shared::Shared;
use super::{Append, Appended};

/// A group of appends, made into a frame.
#[derive(Debug)]
pub(super) struct Group {
    pub meta: Meta,
    pub chunks: Vec<ChunkMeta>,
    pub payloads: Vec<Bytes>,
    pub answers: Vec<Appended>,
    /// The slots whose end moved, and the new ends of all.
    pub touched: Vec<usize>,
    pub ends: Vec<u64>,
}

impl Group {
    /// Gives offsets, drops duplicates (within the group too), and describes the frame.
    pub fn plan(shared: &Shared, appends: &[&Append]) -> Self {
        let state = shared.state.read();
        let mut group = Self {
            meta: Meta::new(shared.partitions),
            chunks: Vec::new(),
            payloads: Vec::new(),
            answers: Vec::with_capacity(appends.len()),
            touched: Vec::new(),
            ends: state.ends.clone(),
        };
        let mut sequences: HashMap<&str, u64> = HashMap::new();
        // In the meta, all appends are named before the first chunk.
        for append in appends {
            let known = || state.producers.get(&append.producer).and_then(|p| p.sequence);
            let last = |_: &u64| sequences.get(&*append.producer).copied().or_else(known);
            let last = append.sequence.as_ref().and_then(last);
            let duplicate = append.sequence.zip(last).is_some_and(|(sequence, last)| sequence <= last);
            group.answers.push(Appended { first_offsets: Vec::new(), duplicate });
            if duplicate {
                continue;
            }
            if let Some(sequence) = append.sequence {
                sequences.insert(&append.producer, sequence);
            }
            if says_something(append) {
                group.meta.producer(&append.producer, append.sequence, !append.cursor.is_empty());
            }
        }
        let mut named = 0;
        for (i, append) in appends.iter().enumerate() {
            if !group.answers[i].duplicate && says_something(append) {
                group.answers[i].first_offsets = group.add_chunks(shared, named, append);
                named += 1;
            }
        }
        for (append, answer) in appends.iter().zip(&group.answers) {
            if !answer.duplicate && !append.cursor.is_empty() {
                group.meta.cursor_delta(&append.cursor);
            }
        }
        group
    }

    /// Adds the chunks of the append that the meta names as number `named`; their first offsets.
    fn add_chunks(&mut self, shared: &Shared, named: u32, append: &Append) -> Vec<u64> {
        let mut first_offsets = Vec::with_capacity(append.chunks.len());
        for (index, chunk) in append.chunks.iter().enumerate() {
            // Checked before the append was sent here.
            let Ok(slot) = shared.slot(chunk.partition) else { continue };
            let meta = ChunkMeta {
                partition: chunk.partition,
                count: chunk.count,
                base_offset: self.ends[slot],
                schema: chunk.schema,
                payload_len: chunk.payload.len() as u32,
                payload_crc: crc32c(&chunk.payload),
                producer: append.producer.clone(),
                sequence: append.sequence,
                index: index as u32,
                event_time_max_us: chunk.event_time_max_us,
                late: chunk.late.clone(),
                watermark: chunk.watermark,
                target: chunk.target.clone(),
                payload_position: 0,
            };
            first_offsets.push(meta.base_offset);
            self.ends[slot] = meta.end_offset();
            if !self.touched.contains(&slot) {
                self.touched.push(slot);
            }
            self.meta.chunk(named, &meta);
            self.chunks.push(meta);
            self.payloads.push(chunk.payload.clone());
        }
        first_offsets
    }
}

/// Whether there is anything of it to store.
fn says_something(append: &Append) -> bool {
    !append.chunks.is_empty() || append.sequence.is_some() || !append.cursor.is_empty()
}
