//! Attention of one head over the tokens of one text, in single precision.
//!
//! The queries, keys and values of the head lie side by side in the rows of `scratch.heads`. Keys are turned into
//! panels, so that the scores of a tile of queries are a product as any other; values are a panel already, one step a
//! row.

use super::super::kernels::layout::Tiles;
use super::super::kernels::{Kernels, LANES, PANEL, PANEL_CONSTANTS, RowScale, TileCall};
use super::arena::{Shared, Table};

/// Attention adds no bias.
static NO_CONSTANTS: [f32; PANEL_CONSTANTS] = [0.0; PANEL_CONSTANTS];

/// What one thread needs for attention.
#[derive(Debug, Default)]
pub(super) struct AttentionScratch {
    /// Queries, keys and values of one head, for each token of a chunk.
    pub(super) heads: Table,
    /// Keys as panels: `[32 tokens][number][token]`.
    keys: Shared<f32>,
    /// A tile of queries, then of scores, as an operand.
    tile: Shared<u32>,
    /// A tile of scores.
    scores: Shared<f32>,
}

impl AttentionScratch {
    /// Makes room for chunks of `rows` tokens, texts of `length` tokens and heads of `width` numbers, whole panels.
    pub(super) fn reserve(&mut self, rows: usize, length: usize, width: usize, rows_max: usize) {
        let padded = length.next_multiple_of(PANEL);
        // An odd number of lines, or the same column of all rows would compete for few places in the cache.
        self.heads.reserve(rows, 3 * width + LANES);
        self.keys.reserve(padded * width);
        self.tile.reserve(rows_max * padded.max(width));
        self.scores.reserve(rows_max * padded);
    }
}

/// One head of one text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The row of the text's first token in `scratch.heads`.
    pub(super) first: usize,
    /// Its tokens.
    pub(super) length: usize,
    /// How many of its tokens, from the first on, the context is wanted for.
    pub(super) queries: usize,
    /// Numbers of the head.
    pub(super) depth: usize,
    /// Numbers of the head in the kernels: whole panels.
    pub(super) width: usize,
    /// Where the context goes: the row for the first query.
    pub(super) context_row: usize,
    /// Where the context goes: the first column.
    pub(super) context_column: usize,
}

impl Head {
    /// Computes softmax(query · keyᵀ) · value into `context`.
    ///
    /// # Safety
    /// Nobody else has access to the head's rows and columns of `context`, nor to `scratch`.
    pub(super) unsafe fn attend(&self, kernels: &Kernels, scratch: &AttentionScratch, context: &Table) {
        // SAFETY: handed on.
        unsafe { self.turn_keys(scratch) };
        let padded = self.length.next_multiple_of(PANEL);
        let tiles = Tiles::new(self.queries, kernels.rows_max());
        for (first, rows) in (0..tiles.count()).map(|index| tiles.tile(index)) {
            // SAFETY: the scratch is this thread's.
            let (operand, queries) = unsafe {
                let operand = scratch.tile.get_mut(0, rows * padded.max(self.width));
                (operand, scratch.heads.rows(self.first + first, rows, self.width))
            };
            kernels.place(queries, scratch.heads.width(), &mut operand[..rows * self.width]);
            let call = TileCall {
                rows,
                steps: self.depth,
                operand: operand.as_ptr(),
                panel: std::ptr::null(),
                panel_stride: PANEL,
                constants: NO_CONSTANTS.as_ptr(),
                scales: std::ptr::null::<RowScale>(),
                output: std::ptr::null_mut(),
                output_stride: padded,
                ahead: std::ptr::null(),
                ahead_stride: 0,
            };
            for column in (0..padded).step_by(PANEL) {
                let panel = scratch.keys.pointer(column * self.depth, PANEL * self.depth).cast();
                let output = scratch.scores.pointer(column, (rows - 1) * padded + PANEL);
                // SAFETY: all pointers are into scratch of the stated shapes; single precision reads no scales.
                unsafe { kernels.tile(&TileCall { panel, output, ..call }) };
            }
            // SAFETY: the scratch is this thread's.
            let scores = unsafe { scratch.scores.get_mut(0, rows * padded) };
            kernels.softmax(scores, self.length, &mut operand[..rows * self.length.next_multiple_of(LANES)]);
            let call = TileCall {
                steps: self.length,
                panel_stride: scratch.heads.width(),
                output_stride: context.width(),
                ..call
            };
            for column in (0..self.width).step_by(PANEL) {
                let panel = scratch.heads.pointer(self.first, 2 * self.width + column, self.length, PANEL).cast();
                let output = context.pointer(self.context_row + first, self.context_column + column, rows, PANEL);
                // SAFETY: values are a panel whose steps are rows of the scratch; the caller vouches for the context.
                unsafe { kernels.tile(&TileCall { panel, output, ..call }) };
            }
        }
    }

    /// Writes the keys as panels. Columns behind the last token keep what they had; softmax does not look at them.
    ///
    /// # Safety
    /// As [`Head::attend`].
    unsafe fn turn_keys(&self, scratch: &AttentionScratch) {
        let padded = self.length.next_multiple_of(PANEL);
        // SAFETY: the scratch is this thread's.
        let panels = unsafe { scratch.keys.get_mut(0, padded * self.depth) };
        for token in 0..self.length {
            // SAFETY: as above.
            let row = unsafe { scratch.heads.row(self.first + token, self.width + self.depth) };
            let panel = &mut panels[token / PANEL * PANEL * self.depth..][..PANEL * self.depth];
            let place = token % PANEL;
            // By eight, so that few instructions are spent on counting.
            let (numbers, rest) = row[self.width..].as_chunks::<8>();
            let (columns, last) = panel.as_chunks_mut::<{ 8 * PANEL }>();
            for (columns, numbers) in columns.iter_mut().zip(numbers) {
                for (index, x) in numbers.iter().enumerate() {
                    columns[index * PANEL + place] = *x;
                }
            }
            for (column, x) in last.chunks_exact_mut(PANEL).zip(rest) {
                column[place] = *x;
            }
        }
    }
}
