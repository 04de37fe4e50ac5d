//! How weights are laid out for the kernels: panels of [`PANEL`] columns, in the lanes of the precision.

use super::{LANES, PANEL, PANEL_CONSTANTS};
use crate::transformer::spec::Precision;

/// Numbers in a lane.
pub fn numbers_per_lane(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 1,
        Precision::Bf16 => 2,
        Precision::Int8 => 4,
    }
}

/// Lanes of `count` numbers.
pub fn lanes(precision: Precision, count: usize) -> usize {
    count.div_ceil(numbers_per_lane(precision))
}

/// Lanes of an operand row of `count` numbers: whole blocks.
pub fn operand_lanes(precision: Precision, count: usize) -> usize {
    lanes(precision, count).next_multiple_of(LANES)
}

/// Lanes of a panel that sums over `count` numbers.
pub fn panel_lanes(precision: Precision, count: usize) -> usize {
    lanes(precision, count) * PANEL
}

/// How the rows of an operand are cut into tiles: as few as possible, as even as possible.
#[derive(Debug, Clone, Copy)]
pub struct Tiles {
    count: usize,
    small: usize,
    /// The first so many tiles have one row more.
    larger: usize,
}

impl Tiles {
    /// The tiles of `rows` rows, each at most `rows_max` high.
    pub fn new(rows: usize, rows_max: usize) -> Self {
        let count = rows.div_ceil(rows_max).max(1);
        Self { count, small: rows / count, larger: rows % count }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first row and the height of tile `index`.
    pub fn tile(&self, index: usize) -> (usize, usize) {
        let first = index * self.small + index.min(self.larger);
        (first, self.small + usize::from(index < self.larger))
    }

    /// The first row and the height of the tile that `row` is in.
    pub fn tile_of(&self, row: usize) -> (usize, usize) {
        let in_larger = self.larger * (self.small + 1);
        let index = if row < in_larger { row / (self.small + 1) } else { self.larger + (row - in_larger) / self.small };
        self.tile(index)
    }
}

/// One column of a panel: the weights of one output, and its bias.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// As many as there are inputs.
    pub weights: &'a [f32],
    /// Added to the sum.
    pub bias: f32,
}

/// Packs at most [`PANEL`] columns into a panel of [`panel_lanes`] lanes and its [`PANEL_CONSTANTS`]; missing columns
/// become zero.
pub fn pack_panel(precision: Precision, columns: &[Column<'_>], panel: &mut [u32], constants: &mut [f32]) {
    debug_assert!(columns.len() <= PANEL && constants.len() == PANEL_CONSTANTS);
    panel.fill(0);
    constants.fill(0.0);
    for (index, column) in columns.iter().enumerate() {
        constants[index] = column.bias;
        let lanes = panel.iter_mut().skip(index).step_by(PANEL);
        match precision {
            Precision::F32 => lanes.zip(column.weights).for_each(|(lane, weight)| *lane = weight.to_bits()),
            Precision::Bf16 => lanes.zip(column.weights.chunks(2)).for_each(|(lane, pair)| {
                let bits = |i: usize| u32::from(pair.get(i).map_or(0, |&x| half::bf16::from_f32(x).to_bits()));
                *lane = bits(0) | bits(1) << 16;
            }),
            Precision::Int8 => {
                let (scale, sum) = pack_integers(column.weights, lanes);
                constants[PANEL + index] = scale;
                constants[2 * PANEL + index] = sum;
            }
        }
    }
}

/// Rounds the weights of one output to −127..=127 times one scale; weights that come from such integers find them
/// again.
fn pack_integers<'a>(weights: &[f32], lanes: impl Iterator<Item = &'a mut u32>) -> (f32, f32) {
    let largest = weights.iter().fold(0.0f32, |largest, weight| largest.max(weight.abs()));
    let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
    let mut sum = 0i32;
    for (lane, four) in lanes.zip(weights.chunks(4)) {
        let mut bytes = [0u8; 4];
        for (byte, weight) in bytes.iter_mut().zip(four) {
            let integer = (weight / scale).round().clamp(-127.0, 127.0) as i8;
            sum += i32::from(integer);
            *byte = integer.cast_unsigned();
        }
        *lane = u32::from_le_bytes(bytes);
    }
    (scale, sum as f32)
}
