//! Tiles in plain Rust, for processors without a path of their own; the measure for the other paths.

use super::{LANES, PANEL, TileCall, TileFunction};
use crate::transformer::spec::Precision;

/// The most rows of a tile: 4 × 8 sums fit into sixteen registers of four numbers.
pub(super) const ROWS_MAX: usize = 4;

/// The tile function for `precision`.
pub(super) fn tile(precision: Precision) -> TileFunction {
    match precision {
        Precision::F32 => tile_rows::<F32, 8>,
        Precision::Bf16 => tile_rows::<Bf16, 8>,
        Precision::Int8 => tile_rows::<Int8, 8>,
    }
}

/// What a step does with its lanes.
pub(super) trait Numbers {
    type Sum: Copy + Default;
    /// `sum + a · b`, over the numbers of a lane.
    fn step(sum: Self::Sum, a: u32, b: u32) -> Self::Sum;
    /// The sum as a number, before the bias.
    fn finish(sum: Self::Sum, call: &TileCall, row: usize, column: usize) -> f32;
}

/// One `f32` in a lane.
pub(super) struct F32;

impl Numbers for F32 {
    type Sum = f32;

    #[inline(always)]
    fn step(sum: f32, a: u32, b: u32) -> f32 {
        sum + f32::from_bits(a) * f32::from_bits(b)
    }

    #[inline(always)]
    fn finish(sum: f32, _: &TileCall, _: usize, _: usize) -> f32 {
        sum
    }
}

/// Two bfloat16 in a lane: the upper halves of `f32`.
pub(super) struct Bf16;

impl Numbers for Bf16 {
    type Sum = f32;

    #[inline(always)]
    fn step(sum: f32, a: u32, b: u32) -> f32 {
        let low = f32::from_bits(a << 16) * f32::from_bits(b << 16);
        let high = f32::from_bits(a & 0xffff_0000) * f32::from_bits(b & 0xffff_0000);
        sum + low + high
    }

    #[inline(always)]
    fn finish(sum: f32, _: &TileCall, _: usize, _: usize) -> f32 {
        sum
    }
}

/// Four integers in a lane, unsigned in the operand, signed in the panel.
pub(super) struct Int8;

impl Numbers for Int8 {
    type Sum = i32;

    #[inline(always)]
    fn step(sum: i32, a: u32, b: u32) -> i32 {
        let product = |shift: u32| i32::from((a >> shift) as u8) * i32::from((b >> shift) as i8);
        sum + product(0) + product(8) + product(16) + product(24)
    }

    #[inline(always)]
    fn finish(sum: i32, call: &TileCall, row: usize, column: usize) -> f32 {
        // SAFETY: the caller of `tile_rows` vouches for scales of all rows and constants of all columns.
        unsafe {
            let row = *call.scales.add(row);
            let (scale, integers) = (*call.constants.add(PANEL + column), *call.constants.add(2 * PANEL + column));
            (sum as f32 - row.zero * integers) * row.scale * scale
        }
    }
}

/// A tile, [`ROWS_MAX`] rows and `WIDTH` columns at a time.
///
/// # Safety
/// As [`super::Kernels::tile`].
#[inline(always)]
pub(super) unsafe fn tile_rows<N: Numbers, const WIDTH: usize>(call: &TileCall) {
    for first in (0..call.rows).step_by(ROWS_MAX) {
        // SAFETY: handed on; the rows are rows of the tile.
        unsafe {
            match call.rows - first {
                1 => tile_of::<N, WIDTH, 1>(call, first),
                2 => tile_of::<N, WIDTH, 2>(call, first),
                3 => tile_of::<N, WIDTH, 3>(call, first),
                _ => tile_of::<N, WIDTH, ROWS_MAX>(call, first),
            }
        }
    }
}

/// Rows `first..first + ROWS` of a tile.
///
/// # Safety
/// As [`super::Kernels::tile`].
#[inline(always)]
pub(super) unsafe fn tile_of<N: Numbers, const WIDTH: usize, const ROWS: usize>(call: &TileCall, first: usize) {
    for column in (0..PANEL).step_by(WIDTH) {
        let mut sums = [[N::Sum::default(); WIDTH]; ROWS];
        for step in 0..call.steps {
            // SAFETY: the panel has PANEL columns at each of its steps.
            let b = unsafe { *call.panel.add(step * call.panel_stride + column).cast::<[u32; WIDTH]>() };
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = (step / LANES * call.rows + first + row) * LANES + step % LANES;
                // SAFETY: the operand tile has `rows` rows in each of its blocks of lanes.
                let a = unsafe { *call.operand.add(at) };
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = N::step(*sum, a, b);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (i, &sum) in sums.iter().enumerate() {
                let result = N::finish(sum, call, first + row, column + i);
                // SAFETY: the output has `rows` rows of PANEL columns, the constants start with a bias for each column.
                unsafe {
                    let output = call.output.add((first + row) * call.output_stride + column + i);
                    *output = result + *call.constants.add(column + i);
                }
            }
        }
    }
}
