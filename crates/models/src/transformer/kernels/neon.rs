//! Tiles for NEON: at most 6 rows × 16 columns of sums in 24 of the 32 registers, twice for a panel.
//!
//! An instruction multiplies a vector of the panel with one lane of a vector of the operand. So one load of each row is
//! enough for four steps, and nothing is broadcast. One row or two are worked on in more columns at once, so that there
//! are enough sums that don't wait for each other.
//!
//! Instructions whose intrinsics are not stable in Rust (`bfdot`, `sdot`, `sudot`, `prfm`) are written out.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{LANES, PANEL, Path, RowScale, TileCall, TileFunction};
use crate::transformer::spec::Precision;

/// The most rows of a tile and the tile function; `None` where `path` has none for `precision`.
pub(super) fn tile(path: Path, precision: Precision) -> Option<(usize, TileFunction)> {
    match (path, precision) {
        (Path::Neon, Precision::F32) => Some((F32::ROWS_MAX, tile_f32)),
        (Path::Neon, Precision::Bf16) => Some((Bf16::ROWS_MAX, tile_bf16)),
        (Path::Neon, Precision::Int8) => Some((Int8::ROWS_MAX, tile_int8)),
        (Path::NeonBf16, Precision::Bf16) => Some((Bf16Dot::ROWS_MAX, tile_bf16_dot)),
        (Path::NeonDot, Precision::Int8) => Some((Int8Dot::ROWS_MAX, tile_int8_dot)),
        (Path::NeonI8mm, Precision::Int8) => Some((Int8Mixed::ROWS_MAX, tile_int8_mixed)),
        _ => None,
    }
}

/// The most rows of a tile whose steps need no registers of their own.
const ROWS_MAX: usize = 6;
/// As above where a step needs a register for a constant.
const ROWS_MAX_MOVED: usize = 5;
/// As above where a step needs registers for what it computes on the way.
const ROWS_MAX_WIDENED: usize = 2;

/// Lanes in a register, and steps that one register of an operand is for.
const WIDTH: usize = 4;

/// What a step does with its lanes.
trait Numbers {
    /// The most rows of a tile.
    const ROWS_MAX: usize;
    /// By how much `step` lowers the operand's integers; `None` where the numbers are no integers.
    const MOVED: Option<f32>;

    /// `sum + a · b` over the numbers of lane `LANE` of `a` and of each lane of `b`. Sums of integers are `i32`, others
    /// `f32`.
    ///
    /// # Safety
    /// The processor has the features of the implementation.
    unsafe fn step<const LANE: i32>(sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t;
}

/// A tile function, and the numbers behind it with their `$step`.
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $numbers:ident, $features:literal, $rows_max:expr, $moved:expr, $step:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`super::Kernels::tile`], on a processor with the features.
        #[target_feature(enable = $features)]
        unsafe fn $name(call: &TileCall) {
            // SAFETY: handed on.
            unsafe { compute::<$numbers>(call) }
        }

        struct $numbers;

        impl Numbers for $numbers {
            const ROWS_MAX: usize = $rows_max;
            const MOVED: Option<f32> = $moved;

            #[target_feature(enable = $features)]
            #[inline]
            unsafe fn step<const LANE: i32>(sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
                $step::<LANE>(sum, a, b)
            }
        }
    };
}

tile!(
    /// One `f32` in a lane.
    tile_f32,
    F32,
    "neon",
    ROWS_MAX,
    None,
    multiply
);

tile!(
    /// Two bfloat16 in a lane, widened to `f32`.
    tile_bf16,
    Bf16,
    "neon",
    ROWS_MAX_WIDENED,
    None,
    multiply_widened
);

tile!(
    /// Two bfloat16 in a lane, by the instruction for it.
    tile_bf16_dot,
    Bf16Dot,
    "neon,bf16",
    ROWS_MAX,
    None,
    bfdot
);

tile!(
    /// Four integers in a lane, by 16-bit products.
    tile_int8,
    Int8,
    "neon",
    ROWS_MAX_WIDENED,
    Some(128.0),
    dot_by_words
);

tile!(
    /// Four integers in a lane, by the instruction for signed ones.
    tile_int8_dot,
    Int8Dot,
    "neon,dotprod",
    ROWS_MAX_MOVED,
    Some(128.0),
    sdot
);

tile!(
    /// Four integers in a lane, by the instruction for signed and unsigned ones.
    tile_int8_mixed,
    Int8Mixed,
    "neon,i8mm",
    ROWS_MAX,
    Some(0.0),
    sudot
);

/// # Safety
/// As [`super::Kernels::tile`], inlined into a function with the features of `N`.
#[inline(always)]
unsafe fn compute<N: Numbers>(call: &TileCall) {
    // SAFETY: handed on; integers are summed up where their scales are read.
    unsafe {
        match call.rows {
            1 => sum_up::<N, 1, 8>(call),
            2 if N::ROWS_MAX == ROWS_MAX_WIDENED => sum_up::<N, 2, 4>(call),
            2 => sum_up::<N, 2, 8>(call),
            3 if N::ROWS_MAX >= 3 => sum_up::<N, 3, 4>(call),
            4 if N::ROWS_MAX >= 4 => sum_up::<N, 4, 4>(call),
            5 if N::ROWS_MAX >= 5 => sum_up::<N, 5, 4>(call),
            6 if N::ROWS_MAX >= 6 => sum_up::<N, 6, 4>(call),
            rows => unreachable!("a tile of {rows} rows"),
        }
        if let Some(moved) = N::MOVED {
            scale_integers(call, moved);
        }
    }
}

/// Writes bias and products, or the products alone as `i32` where they are integers.
///
/// # Safety
/// As [`compute`], for a call of `ROWS` rows.
#[inline(always)]
unsafe fn sum_up<N: Numbers, const ROWS: usize, const VECTORS: usize>(call: &TileCall) {
    for first in (0..PANEL).step_by(VECTORS * WIDTH) {
        // SAFETY: each step of the panel and the constants have PANEL columns.
        let mut panel = unsafe { Cursor { panel: call.panel.add(first), ahead: call.ahead, call } };
        // SAFETY: as above; this processor has NEON.
        let start: [_; VECTORS] = std::array::from_fn(|vector| unsafe {
            let bias = vld1q_u32(call.constants.add(first + vector * WIDTH).cast());
            if N::MOVED.is_none() { bias } else { vdupq_n_u32(0) }
        });
        let mut sums = [start; ROWS];
        for step in (0..call.steps).step_by(WIDTH) {
            let left = call.steps - step;
            // SAFETY: the operand tile has ROWS rows of LANES lanes in each of its blocks, the panel `left` more steps.
            unsafe {
                let operand = call.operand.add(step / LANES * ROWS * LANES + step % LANES);
                let a: [_; ROWS] = std::array::from_fn(|row| vld1q_u32(operand.add(row * LANES)));
                panel.add::<N, 0, ROWS, VECTORS>(&mut sums, &a);
                if left >= WIDTH {
                    panel.add::<N, 1, ROWS, VECTORS>(&mut sums, &a);
                    panel.add::<N, 2, ROWS, VECTORS>(&mut sums, &a);
                    panel.add::<N, 3, ROWS, VECTORS>(&mut sums, &a);
                    continue;
                }
                if left > 1 {
                    panel.add::<N, 1, ROWS, VECTORS>(&mut sums, &a);
                }
                if left > 2 {
                    panel.add::<N, 2, ROWS, VECTORS>(&mut sums, &a);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                // SAFETY: the output has room for ROWS rows of PANEL columns.
                unsafe {
                    let place = call.output.add(row * call.output_stride + first + vector * WIDTH);
                    vst1q_u32(place.cast(), sum);
                }
            }
        }
    }
}

/// Where the next step of a panel is, and what is to be prefetched with it.
struct Cursor<'a> {
    panel: *const u32,
    ahead: *const u8,
    call: &'a TileCall,
}

impl Cursor<'_> {
    /// Adds the products of the next step, which is lane `LANE` of the operand `a`.
    ///
    /// # Safety
    /// As [`compute`], where the panel has one more step.
    #[inline(always)]
    unsafe fn add<N: Numbers, const LANE: i32, const ROWS: usize, const VECTORS: usize>(
        &mut self,
        sums: &mut [[uint32x4_t; VECTORS]; ROWS],
        a: &[uint32x4_t; ROWS],
    ) {
        for vector in 0..VECTORS {
            // SAFETY: the caller vouches for the panel and for the features.
            unsafe {
                let b = vld1q_u32(self.panel.add(vector * WIDTH));
                for (sums, &a) in sums.iter_mut().zip(a) {
                    sums[vector] = N::step::<LANE>(sums[vector], a, b);
                }
            }
        }
        // SAFETY: a prefetch may have any address.
        unsafe {
            asm!("prfm pldl2keep, [{ahead}]", ahead = in(reg) self.ahead, options(readonly, nostack, preserves_flags));
        }
        self.panel = self.panel.wrapping_add(self.call.panel_stride);
        self.ahead = self.ahead.wrapping_add(self.call.ahead_stride);
    }
}

/// Turns sums of integers into what is stored: `(sum − (zero − moved) · Σ weights) · scales + bias`.
///
/// Only once they are stored: with more to do for each sum, the compiler keeps them in memory all the time.
///
/// # Safety
/// As [`super::Kernels::tile`], where the output holds the sums.
#[target_feature(enable = "neon")]
unsafe fn scale_integers(call: &TileCall, moved: f32) {
    for row in 0..call.rows {
        for column in (0..PANEL).step_by(WIDTH) {
            // SAFETY: constants are there for each column, a scale and PANEL columns of the output for each row.
            unsafe {
                let RowScale { scale, zero } = *call.scales.add(row);
                let output = call.output.add(row * call.output_stride + column);
                let [bias, scales, integers] =
                    [0, PANEL, 2 * PANEL].map(|at| vld1q_f32(call.constants.add(at + column)));
                let sum = vfmsq_n_f32(vcvtq_f32_s32(vld1q_s32(output.cast())), integers, zero - moved);
                vst1q_f32(output, vfmaq_f32(bias, vmulq_n_f32(sum, scale), scales));
            }
        }
    }
}

/// `f32` times `f32`.
#[target_feature(enable = "neon")]
#[inline]
pub(super) fn multiply<const LANE: i32>(sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    let (sum, a, b) = (vreinterpretq_f32_u32(sum), vreinterpretq_f32_u32(a), vreinterpretq_f32_u32(b));
    vreinterpretq_u32_f32(vfmaq_laneq_f32::<LANE>(sum, b, a))
}

/// Two bfloat16 times two: each is the upper half of an `f32`.
#[target_feature(enable = "neon")]
#[inline]
fn multiply_widened<const LANE: i32>(sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    let upper = vdupq_n_u32(0xffff_0000);
    let sum = multiply::<LANE>(sum, vshlq_n_u32::<16>(a), vshlq_n_u32::<16>(b));
    multiply::<LANE>(sum, vandq_u32(a, upper), vandq_u32(b, upper))
}

/// Four signed integers times four. Two products have room in 16 bits, because weights are never −128.
#[target_feature(enable = "neon")]
#[inline]
fn dot_by_words<const LANE: i32>(sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
    let a = vreinterpretq_s8_u32(vdupq_laneq_u32::<LANE>(signed(a)));
    let b = vreinterpretq_s8_u32(b);
    let pairs = vpaddq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)), vmull_high_s8(a, b));
    vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), pairs))
}

/// Lowers unsigned integers by 128. The compiler takes it out of the loops over columns and steps.
#[target_feature(enable = "neon")]
#[inline]
fn signed(a: uint32x4_t) -> uint32x4_t {
    veorq_u32(a, vdupq_n_u32(0x8080_8080))
}

/// A step by one instruction on what `$prepare` makes of the operand.
macro_rules! dot {
    ($(#[$doc:meta])* $name:ident, $features:literal, $prepare:expr, $instruction:literal) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        #[inline]
        pub(super) fn $name<const LANE: i32>(mut sum: uint32x4_t, a: uint32x4_t, b: uint32x4_t) -> uint32x4_t {
            let a = $prepare(a);
            // SAFETY: the processor has the features; registers are all that is read and written.
            unsafe {
                asm!($instruction, sum = inout(vreg) sum, a = in(vreg) a, b = in(vreg) b, lane = const LANE,
                    options(pure, nomem, nostack, preserves_flags));
            }
            sum
        }
    };
}

dot!(
    /// Two bfloat16 times two.
    bfdot,
    "neon,bf16",
    |a| a,
    "bfdot {sum:v}.4s, {b:v}.8h, {a:v}.2h[{lane}]"
);

dot!(
    /// Four integers times four.
    sdot,
    "neon,dotprod",
    |a| signed(a),
    "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]"
);

dot!(
    /// Four integers times four; those of the operand are unsigned.
    sudot,
    "neon,i8mm",
    |a| a,
    "sudot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]"
);
