//! What one thread does in one call: its part of every phase, with a barrier wherever a phase reads what others wrote.
//!
//! ```text
//! per layer and chunk of texts            split by      reads                     writes
//! 1 round the states                      rows          states                    narrow
//! 2 queries, keys, values; attention      heads         narrow                    context
//! 3 round the context                     rows          context                   narrow
//! 4 attention output                      panels        narrow                    sums
//! 5 add, norm, round                      rows          sums, states              states, narrow
//! 6 first dense layer                     panels        narrow                    wide
//! 7 activation, round                     rows          wide                      wide, wide operand
//! 8 second dense layer                    panels        wide operand              sums
//! 9 add, norm                             rows          sums, states              states
//! ```
//!
//! There is a barrier behind each phase but the last: phase 1 of the next layer has the same rows on the same thread. A
//! member writes only its own rows, heads or panels, and reads what others wrote only behind a barrier: this is what
//! every `SAFETY` comment below that speaks of "the phases" relies on.

use std::ops::Range;

use super::super::kernels::layout::{self, Tiles};
use super::super::kernels::{LANES, PANEL, TileCall};
use super::super::spec::{EmbeddingWeights, NormWeights, Tokens};
use super::arena::{Operand, Shared, Table};
use super::attention::{AttentionScratch, Head};
use super::packed::{PackedEncoder, PackedLayer, Panels, head_width};
use super::plan::{Share, Text, part};
use super::team::Barrier;

/// What the threads of a group share during a call.
#[derive(Debug, Default)]
pub(super) struct GroupBuffers {
    pub(super) barrier: Barrier,
    /// Rows of the width of the hidden states as an operand.
    narrow: Operand,
    /// Rows of the width between the dense layers as an operand.
    wide_operand: Operand,
    /// What attention gives, all heads side by side, each in whole panels.
    context: Table,
    /// What a product gives that is added to the states.
    sums: Table,
    /// What the first dense layer gives.
    wide: Table,
}

impl GroupBuffers {
    /// Makes room for chunks of `rows` tokens.
    pub(super) fn reserve(&mut self, model: &PackedEncoder, rows: usize) {
        let (spec, precision) = (&model.spec, model.kernels.precision());
        let context = spec.heads * head_width(spec);
        // An odd number of lines, or the same column of all rows would compete for few places in the cache.
        let odd = |width: usize| width.next_multiple_of(PANEL) + LANES;
        self.narrow.reserve(rows, layout::operand_lanes(precision, spec.hidden.max(context)));
        self.wide_operand.reserve(rows, layout::operand_lanes(precision, spec.intermediate));
        self.context.reserve(rows, odd(context));
        self.sums.reserve(rows, odd(spec.hidden));
        self.wide.reserve(rows, odd(spec.intermediate));
    }
}

/// What one thread has to itself.
#[derive(Debug, Default)]
pub(super) struct ThreadBuffers {
    lanes: Vec<u32>,
    rows: Vec<usize>,
    attention: AttentionScratch,
}

impl ThreadBuffers {
    /// Makes room for chunks of `rows` tokens and texts of `length` tokens.
    pub(super) fn reserve(&mut self, model: &PackedEncoder, rows: usize, length: usize) {
        let width = model.spec.intermediate.max(model.spec.heads * head_width(&model.spec));
        self.lanes.resize(layout::operand_lanes(model.kernels.precision(), width), 0);
        self.rows.reserve(rows);
        self.attention.reserve(rows, length, head_width(&model.spec), model.exact.rows_max());
    }
}

/// One thread's view of a call.
#[derive(Debug)]
pub(super) struct Member<'a> {
    pub(super) model: &'a PackedEncoder,
    pub(super) tokens: &'a Tokens,
    /// `tokens × hidden`, for all groups.
    pub(super) states: &'a Shared<f32>,
    pub(super) share: &'a Share,
    pub(super) group: &'a GroupBuffers,
    pub(super) own: &'a mut ThreadBuffers,
    /// Its place in the group.
    pub(super) index: usize,
    /// Threads of the group.
    pub(super) members: usize,
    /// Behind the last layer's attention only the first token of each text counts.
    pub(super) first_only: bool,
}

impl Member<'_> {
    /// Takes the share's texts from token ids to hidden states.
    pub(super) fn run(&mut self) {
        let (model, share) = (self.model, self.share);
        for chunk in &share.chunks {
            self.embed(&share.texts[chunk.clone()]);
        }
        for (index, layer) in model.layers.iter().enumerate() {
            let first_only = self.first_only && index + 1 == model.layers.len();
            for chunk in &share.chunks {
                self.layer(layer, &share.texts[chunk.clone()], first_only);
            }
        }
        model.kernels.release();
    }

    fn embed(&mut self, texts: &[Text]) {
        let (model, width) = (self.model, self.model.spec.hidden);
        let EmbeddingWeights { token_table, position_table, type_table, norm } = &model.embeddings;
        let mut rows = std::mem::take(&mut self.own.rows);
        list_rows(texts, false, &mut rows);
        let mut text = texts.iter();
        let mut current = text.next();
        let own = part(rows.len(), self.index, self.members);
        for (index, &row) in rows.iter().enumerate().take(own.end) {
            while current.is_some_and(|text| !(text.first..text.first + text.length).contains(&row)) {
                current = text.next();
            }
            if index < own.start {
                continue;
            }
            let position = model.spec.first_position + row - current.map_or(row, |text| text.first);
            // SAFETY: the phases: a member has its own rows.
            let state = unsafe { self.states.get_mut(row * width, width) };
            state.copy_from_slice(&token_table[self.tokens.ids[row] as usize * width..][..width]);
            let place = &position_table[position * width..][..width];
            if model.spec.token_types > 0 {
                let kind = &type_table[self.tokens.types[row] as usize * width..][..width];
                state.iter_mut().zip(kind).for_each(|(x, kind)| *x += kind);
            }
            model.kernels.add_and_normalise(state, place, &norm.scale, &norm.shift, model.spec.norm_epsilon);
        }
        self.own.rows = rows;
    }

    fn layer(&mut self, layer: &PackedLayer, texts: &[Text], first_only: bool) {
        let spec = &self.model.spec;
        let context = spec.heads * head_width(spec);
        let mut rows = std::mem::take(&mut self.own.rows);

        list_rows(texts, false, &mut rows);
        self.round_states(&rows);
        self.group.barrier.wait();
        self.attention(layer, texts, rows.len(), first_only);
        self.group.barrier.wait();

        list_rows(texts, first_only, &mut rows);
        let tiles = self.tiles(rows.len());
        for row in part(rows.len(), self.index, self.members) {
            // SAFETY: the phases: heads were written before the barrier, rows are this member's.
            let numbers = unsafe { self.group.context.row(row, context) };
            let scale = self.model.kernels.lower(numbers, &mut self.own.lanes[..self.group.narrow.width()]);
            // SAFETY: as above.
            unsafe { self.group.narrow.put(&tiles, row, &self.own.lanes, scale) };
        }
        self.group.barrier.wait();
        self.product(&self.group.narrow, &tiles, &layer.attention_output, &self.group.sums);
        self.group.barrier.wait();
        self.add_and_normalise(&rows, &layer.attention_norm);
        self.round_states(&rows);
        self.group.barrier.wait();
        self.product(&self.group.narrow, &tiles, &layer.expand, &self.group.wide);
        self.group.barrier.wait();
        for row in part(rows.len(), self.index, self.members) {
            // SAFETY: the phases: panels were written before the barrier, rows are this member's.
            let numbers = unsafe { self.group.wide.row_mut(row, spec.intermediate) };
            self.model.kernels.activate(numbers, spec.activation);
            let scale = self.model.kernels.lower(numbers, &mut self.own.lanes[..self.group.wide_operand.width()]);
            // SAFETY: as above.
            unsafe { self.group.wide_operand.put(&tiles, row, &self.own.lanes, scale) };
        }
        self.group.barrier.wait();
        self.product(&self.group.wide_operand, &tiles, &layer.contract, &self.group.sums);
        self.group.barrier.wait();
        self.add_and_normalise(&rows, &layer.output_norm);
        self.own.rows = rows;
    }

    fn tiles(&self, rows: usize) -> Tiles {
        Tiles::new(rows, self.model.kernels.rows_max())
    }

    /// The states of this member's part of `rows` become rows of the narrow operand.
    fn round_states(&mut self, rows: &[usize]) {
        let (tiles, width) = (self.tiles(rows.len()), self.model.spec.hidden);
        for index in part(rows.len(), self.index, self.members) {
            // SAFETY: the phases: a member has its own rows.
            let state = unsafe { self.states.get(rows[index] * width, width) };
            let scale = self.model.kernels.lower(state, &mut self.own.lanes[..self.group.narrow.width()]);
            // SAFETY: as above.
            unsafe { self.group.narrow.put(&tiles, index, &self.own.lanes, scale) };
        }
    }

    fn add_and_normalise(&mut self, rows: &[usize], norm: &NormWeights) {
        let (model, width) = (self.model, self.model.spec.hidden);
        for index in part(rows.len(), self.index, self.members) {
            // SAFETY: the phases: panels were written before the barrier, rows are this member's.
            let (state, sums) =
                unsafe { (self.states.get_mut(rows[index] * width, width), self.group.sums.row(index, width)) };
            model.kernels.add_and_normalise(state, sums, &norm.scale, &norm.shift, model.spec.norm_epsilon);
        }
    }

    /// Queries, keys and values of this member's heads, and what attention makes of them.
    fn attention(&mut self, layer: &PackedLayer, texts: &[Text], rows: usize, first_only: bool) {
        let spec = &self.model.spec;
        let (width, depth) = (head_width(spec), spec.hidden / spec.heads);
        let panels = 3 * width / PANEL;
        let tiles = self.tiles(rows);
        for head in part(spec.heads, self.index, self.members) {
            let range = head * panels..(head + 1) * panels;
            self.multiply(&self.group.narrow, &tiles, &layer.heads, range, &self.own.attention.heads, 0);
            let mut first = 0;
            for (index, text) in texts.iter().enumerate() {
                let head = Head {
                    first,
                    length: text.length,
                    queries: if first_only { 1 } else { text.length },
                    depth,
                    width,
                    context_row: if first_only { index } else { first },
                    context_column: head * width,
                };
                // SAFETY: the phases: a member has its own heads, and its own scratch.
                unsafe { head.attend(&self.model.exact, &self.own.attention, &self.group.context) };
                first += text.length;
            }
        }
    }

    /// This member's panels of a product.
    fn product(&self, operand: &Operand, tiles: &Tiles, panels: &Panels, output: &Table) {
        let range = part(panels.count, self.index, self.members);
        let column = range.start * PANEL;
        self.multiply(operand, tiles, panels, range, output, column);
    }

    /// The given panels of a product, into the columns of `output` from `column` on.
    fn multiply(
        &self,
        operand: &Operand,
        tiles: &Tiles,
        panels: &Panels,
        range: Range<usize>,
        output: &Table,
        column: usize,
    ) {
        let (kernels, end) = (&self.model.kernels, range.end);
        let steps = layout::lanes(kernels.precision(), panels.inputs);
        for (place, index) in range.enumerate() {
            let (panel, constants) = self.model.panel(panels, index);
            // The next panel comes to the second cache while this one is multiplied, a half of it with each of two
            // tiles.
            let next = (index + 1 < end).then(|| self.model.panel(panels, index + 1).0.as_ptr());
            for tile in 0..tiles.count() {
                let (first, rows) = tiles.tile(tile);
                let (lanes, scales) = operand.tile(first, rows);
                let (ahead, ahead_stride) = match next {
                    Some(next) if tiles.count() == 1 => (next, 128),
                    Some(next) if tile < 2 => (next.wrapping_add(tile * steps * LANES), 64),
                    _ => (panel.as_ptr(), 0),
                };
                let call = TileCall {
                    rows,
                    steps,
                    operand: lanes,
                    panel: panel.as_ptr(),
                    panel_stride: PANEL,
                    constants: constants.as_ptr(),
                    scales,
                    output: output.pointer(first, column + place * PANEL, rows, PANEL),
                    output_stride: output.width(),
                    ahead: ahead.cast(),
                    ahead_stride,
                };
                // SAFETY: the phases: a member has its own panels; the buffers were made for these shapes.
                unsafe { kernels.tile(&call) };
            }
        }
    }
}

/// The rows of the states that a chunk's rows are: all tokens of its texts, or the first of each.
fn list_rows(texts: &[Text], first_only: bool, rows: &mut Vec<usize>) {
    rows.clear();
    for text in texts {
        let count = if first_only { 1 } else { text.length };
        rows.extend(text.first..text.first + count);
    }
}
