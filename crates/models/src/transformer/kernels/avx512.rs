//! Tiles for AVX-512: 14 rows × 32 columns of sums in 28 of the 32 registers.
//!
//! Each step loads two vectors of the panel and one lane of each row, broadcast: 16 loads for 28 multiplications, of which
//! these processors start two a cycle at most. So loads are never the limit.

use std::arch::x86_64::*;

use super::{LANES, PANEL, TileCall};

/// The most rows of a tile.
pub(super) const ROWS_MAX: usize = 14;

/// A tile function, and the function of `$rows` rows behind it. `$step` is `sum + a · b` over the numbers of a lane;
/// `$finish` turns a vector of sums into numbers without bias.
macro_rules! tiles {
    ($(#[$doc:meta])* $name:ident, $rows_name:ident, $features:literal, $sum:ty, $zero:expr, $step:expr, $finish:expr) => {
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
                    // SAFETY: the panel has PANEL lanes at each of its steps, the operand tile ROWS rows of LANES lanes in
                    // each of its blocks; a prefetch may have any address.
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
            for (row, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    // SAFETY: constants are there for each column, scales for each row, and room in the output for both.
                    unsafe {
                        let constants = call.constants.add(half * LANES);
                        let result: __m512 = $finish(sum, call, row, constants);
                        _mm512_storeu_ps(call.output.add(row * call.output_stride + half * LANES), result);
                    }
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
    |sum, _: &TileCall, _: usize, constants| _mm512_add_ps(sum, _mm512_loadu_ps(constants))
);

tiles!(
    /// Two bfloat16 in a lane.
    tile_bf16,
    rows_bf16,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512bf16",
    __m512,
    _mm512_setzero_ps(),
    |sum, a, b| _mm512_dpbf16_ps(sum, as_bf16(a), as_bf16(b)),
    |sum, _: &TileCall, _: usize, constants| _mm512_add_ps(sum, _mm512_loadu_ps(constants))
);

tiles!(
    /// Four integers in a lane, unsigned in the operand, signed in the panel.
    tile_int8,
    rows_int8,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,avx512vnni",
    __m512i,
    _mm512_setzero_si512(),
    |sum, a, b| _mm512_dpbusd_epi32(sum, a, b),
    |sum, call: &TileCall, row: usize, constants: *const f32| {
        let row = *call.scales.add(row);
        let (scale, integers) = (constants.add(PANEL), constants.add(2 * PANEL));
        let sum = _mm512_fnmadd_ps(_mm512_set1_ps(row.zero), _mm512_loadu_ps(integers), _mm512_cvtepi32_ps(sum));
        let sum = _mm512_mul_ps(sum, _mm512_set1_ps(row.scale));
        _mm512_fmadd_ps(sum, _mm512_loadu_ps(scale), _mm512_loadu_ps(constants))
    }
);

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
