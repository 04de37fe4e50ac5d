//! Tiles for AVX-512: 14 rows × 32 columns of sums in 28 of the 32 registers.
//!
//! Each step loads two vectors of the panel and one lane of each row, broadcast: 16 loads for 28 multiplications, of
//! which these processors start two a cycle at most. So loads are never the limit.

use std::arch::x86_64::*;

use super::{LANES, PANEL, TileCall};

/// The most rows of a tile.
pub(super) const ROWS_MAX: usize = 14;

/// A tile function, and the function of `$rows` rows behind it. `$step` is `sum + a · b` over the numbers of a lane;
/// `$finish` turns a vector of sums into what is stored, and `$scale` finishes what was stored.
///
/// Sums of integers are finished only once they are stored: with more to do for each of them, the compiler no longer
/// unrolls the loop over rows, and then keeps the sums in memory all the time.
macro_rules! tiles {
    (
        $(#[$doc:meta])* $name:ident, $rows_name:ident, $features:literal, $sum:ty, $zero:expr, $step:expr,
        $constants:expr, $finish:expr
    ) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`super::Kernels::tile`], on a processor with the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(call: &TileCall) {
            // SAFETY: handed on.
            unsafe {
                match call.rows {
                    1 => $rows_name::<1>(call),
                    2 => $rows_name::<2>(call),
                    3 => $rows_name::<3>(call),
                    4 => $rows_name::<4>(call),
                    5 => $rows_name::<5>(call),
                    6 => $rows_name::<6>(call),
                    7 => $rows_name::<7>(call),
                    8 => $rows_name::<8>(call),
                    9 => $rows_name::<9>(call),
                    10 => $rows_name::<10>(call),
                    11 => $rows_name::<11>(call),
                    12 => $rows_name::<12>(call),
                    13 => $rows_name::<13>(call),
                    _ => $rows_name::<14>(call),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $rows_name<const ROWS: usize>(call: &TileCall) {
            let mut sums: [[$sum; 2]; ROWS] = [[$zero; 2]; ROWS];
            let (mut operand, mut panel, mut ahead) = (call.operand, call.panel, call.ahead);
            let mut left = call.steps;
            while left > 0 {
                let steps = left.min(LANES);
                for step in 0..steps {
                    // SAFETY: the panel has PANEL lanes at each of its steps, the operand tile ROWS rows of LANES lanes
                    // in each of its blocks; a prefetch may have any address.
                    unsafe {
                        let b = [load(panel), load(panel.add(LANES))];
                        _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let a = _mm512_set1_epi32((*operand.add(row * LANES + step)).cast_signed());
                            sums[0] = $step(sums[0], a, b[0]);
                            sums[1] = $step(sums[1], a, b[1]);
                        }
                    }
                    panel = panel.wrapping_add(call.panel_stride);
                    ahead = ahead.wrapping_add(call.ahead_stride);
                }
                operand = operand.wrapping_add(ROWS * LANES);
                left -= steps;
            }
            // SAFETY: constants are there for each column, scales and room in the output for each row.
            unsafe {
                let constants = $constants(call);
                for (row, sums) in sums.iter().enumerate() {
                    let [low, high]: [__m512; 2] = $finish(*sums, call, row, &constants);
                    let place = call.output.add(row * call.output_stride);
                    _mm512_storeu_ps(place, low);
                    _mm512_storeu_ps(place.add(LANES), high);
                }
            }
        }
    };
}

tiles!(
    /// One `f32` in a lane.
    tile_f32,
    rows_f32,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma",
    __m512,
    _mm512_setzero_ps(),
    |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum),
    bias,
    add_bias
);

tiles!(
    /// Two bfloat16 in a lane.
    tile_bf16,
    rows_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16",
    __m512,
    _mm512_setzero_ps(),
    |sum, a, b| _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b)),
    bias,
    add_bias
);

tiles!(
    /// Four integers in a lane, unsigned in the operand, signed in the panel.
    tile_int8,
    rows_int8,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512vnni",
    __m512i,
    _mm512_setzero_si512(),
    |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
    integer_constants,
    scale_integers
);

/// # Safety
/// `call` has constants.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn bias(call: &TileCall) -> [__m512; 2] {
    // SAFETY: the caller vouches for it.
    unsafe { [_mm512_loadu_ps(call.constants), _mm512_loadu_ps(call.constants.add(LANES))] }
}

/// # Safety
/// On a processor with the features.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn add_bias(sums: [__m512; 2], _: &TileCall, _: usize, bias: &[__m512; 2]) -> [__m512; 2] {
    [_mm512_add_ps(sums[0], bias[0]), _mm512_add_ps(sums[1], bias[1])]
}

/// Bias, scale and sum of integers.
///
/// # Safety
/// `call` has constants.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn integer_constants(call: &TileCall) -> [[__m512; 2]; 3] {
    // SAFETY: the caller vouches for it.
    let pair = |start| unsafe {
        [_mm512_loadu_ps(call.constants.add(start)), _mm512_loadu_ps(call.constants.add(start + LANES))]
    };
    [pair(0), pair(PANEL), pair(2 * PANEL)]
}

/// `(sum − zero · Σ weights) · scales + bias`.
///
/// # Safety
/// `call` has a scale for `row`.
#[target_feature(enable = "avx512f")]
#[inline]
pub(super) unsafe fn scale_integers(
    sums: [__m512i; 2],
    call: &TileCall,
    row: usize,
    constants: &[[__m512; 2]; 3],
) -> [__m512; 2] {
    // SAFETY: the caller vouches for it.
    let row = unsafe { *call.scales.add(row) };
    let (zero, factor) = (_mm512_set1_ps(row.zero), _mm512_set1_ps(row.scale));
    let [bias, scale, integers] = constants;
    let finish = |half: usize| {
        let sum = _mm512_fnmadd_ps(zero, integers[half], _mm512_cvtepi32_ps(sums[half]));
        _mm512_fmadd_ps(_mm512_mul_ps(sum, factor), scale[half], bias[half])
    };
    [finish(0), finish(1)]
}

/// # Safety
/// 64 bytes can be read at `lanes`.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(lanes: *const u32) -> __m512i {
    // SAFETY: the caller vouches for it.
    unsafe { _mm512_loadu_si512(lanes.cast()) }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn as_bf16(lanes: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and each pattern of them is a value of both.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(lanes) }
}
