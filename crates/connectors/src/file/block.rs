//! A piece of a file as text, and the way back to where it lay in the file.

use bytes::Bytes;
use millstream_core::{RawBatch, RowFailure};

use crate::format::TextEncoding;
use crate::format::encoding::invalid;
use crate::format::framing::Frames;

/// A piece of a file.
#[derive(Debug)]
pub(crate) struct Block {
    /// As UTF-8, or as it is where it is read as UTF-8.
    pub text: Bytes,
    /// Where it begins in the file.
    pub base: u64,
    /// How many bytes of the file it is made of.
    pub used: usize,
    /// Nothing comes behind it.
    pub ends: bool,
    /// What it was made of, where it had another encoding.
    source: Option<Source>,
}

#[derive(Debug)]
struct Source {
    bytes: Vec<u8>,
    encoding: TextEncoding,
    had_errors: bool,
}

impl Block {
    /// The text of `source`, which lies at `base` in the file.
    pub(crate) fn new(source: Vec<u8>, base: u64, encoding: Option<TextEncoding>, ends: bool) -> Self {
        let Some(encoding) = encoding else { return Self::of_text(source.into(), base, ends) };
        let piece = encoding.decode(&source, ends);
        let source = Source { bytes: source, encoding, had_errors: piece.had_errors };
        Self { text: piece.text.into(), base, used: piece.used, ends, source: Some(source) }
    }

    /// Text that is UTF-8 in the file.
    pub(crate) fn of_text(text: Bytes, base: u64, ends: bool) -> Self {
        Self { base, used: text.len(), text, ends, source: None }
    }

    /// Where in the block's bytes the text at `at` came from.
    pub(crate) fn source_offset(&self, at: usize) -> usize {
        match &self.source {
            None => at,
            Some(source) => source.encoding.source_offsets(&source.bytes, &self.text, &[at])[0],
        }
    }

    /// A batch of the records found, if any; the offset behind them; and what is left where there are more.
    pub(crate) fn into_batch(self, frames: Frames) -> (Option<RawBatch>, u64, Bytes) {
        let consumed = frames.consumed;
        let Some(source) = self.source else {
            let rest = if frames.full { self.text.slice(consumed..) } else { Bytes::new() };
            let batch = (!frames.spans.is_empty()).then(|| RawBatch {
                data: self.text.slice(..consumed),
                positions: frames.positions.into_iter().map(|at| self.base + at).collect(),
                spans: frames.spans,
                refused: frames.refused,
                ..RawBatch::default()
            });
            return (batch, self.base + consumed as u64, rest);
        };
        let (batch, used) = source.into_batch(&self.text, self.base, frames);
        (batch, self.base + used as u64, Bytes::new())
    }
}

impl Source {
    fn into_batch(self, text: &Bytes, base: u64, frames: Frames) -> (Option<RawBatch>, usize) {
        let ends = |span: &std::ops::Range<usize>| [span.start, span.end];
        let marks: Vec<usize> = frames.spans.iter().flat_map(ends).chain([frames.consumed]).collect();
        let mut offsets = self.encoding.source_offsets(&self.bytes, text, &marks);
        let used = offsets.pop().unwrap_or(0);
        if frames.spans.is_empty() {
            return (None, used);
        }
        let mut batch = RawBatch {
            data: text.slice(..frames.consumed),
            positions: offsets.chunks_exact(2).map(|span| base + span[0] as u64).collect(),
            spans: frames.spans,
            refused: frames.refused,
            ..RawBatch::default()
        };
        if self.had_errors {
            self.refuse_invalid(&mut batch, &offsets);
        }
        (Some(batch), used)
    }

    /// Refuses the records that hold bytes that are nothing, and puts these bytes in their place.
    fn refuse_invalid(&self, batch: &mut RawBatch, offsets: &[usize]) {
        let mut data = batch.data.to_vec();
        for (row, span) in offsets.chunks_exact(2).enumerate() {
            let bytes = &self.bytes[span[0]..span[1].max(span[0])];
            if self.encoding.is_valid(bytes) {
                continue;
            }
            batch.spans[row] = data.len()..data.len() + bytes.len();
            data.extend_from_slice(bytes);
            batch.refused.push(RowFailure { row: row as u32, failure: invalid(self.encoding) });
        }
        batch.data = data.into();
    }
}
