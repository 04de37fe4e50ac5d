//! Tiles for AVX2: 6 rows × 16 columns of sums in 12 of the 16 registers, twice for a panel.

use std::arch::x86_64::*;

use super::portable::{Bf16, tile_of};
use super::{LANES, PANEL, TileCall};

/// The most rows of a tile.
pub(super) const ROWS_MAX: usize = 6;

/// Numbers in a register.
const WIDTH: usize = 8;

/// A tile function, and the function of `$rows` rows behind it; `$step` and `$finish` as in `avx512`.
macro_rules! tiles {
    (
        $(#[$doc:meta])* $name:ident, $rows_name:ident, $features:literal, $sum:ty, $zero:expr, $step:expr, $finish:expr
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
                    _ => $rows_name::<6>(call),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $rows_name<const ROWS: usize>(call: &TileCall) {
            for first in (0..PANEL).step_by(2 * WIDTH) {
                let mut sums: [[$sum; 2]; ROWS] = [[$zero; 2]; ROWS];
                let mut operand = call.operand;
                // SAFETY: the panel has PANEL lanes at each of its steps.
                let mut panel = unsafe { call.panel.add(first) };
                let mut ahead = call.ahead;
                let mut left = call.steps;
                while left > 0 {
                    let steps = left.min(LANES);
                    for step in 0..steps {
                        // SAFETY: as above; the operand tile has ROWS rows of LANES lanes in each of its blocks; a
                        // prefetch may have any address.
                        unsafe {
                            let b = [load(panel), load(panel.add(WIDTH))];
                            _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let a = _mm256_set1_epi32((*operand.add(row * LANES + step)).cast_signed());
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
                        let column = first + half * WIDTH;
                        // SAFETY: constants are there for each column, scales for each row, room in the output for
                        // both.
                        unsafe {
                            let result: __m256 = $finish(sum, call, row, call.constants.add(column));
                            _mm256_storeu_ps(call.output.add(row * call.output_stride + column), result);
                        }
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
    "avx2,fma",
    __m256,
    _mm256_setzero_ps(),
    |sum, a, b| _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum),
    |sum, _: &TileCall, _: usize, constants| _mm256_add_ps(sum, _mm256_loadu_ps(constants))
);

tiles!(
    /// Four integers in a lane, by 16-bit products.
    tile_int8,
    rows_int8,
    "avx2,fma",
    __m256i,
    _mm256_setzero_si256(),
    |sum, a, b| dot_by_words(sum, a, b),
    |sum, call, row, constants| finish(sum, call, row, constants)
);

tiles!(
    /// Four integers in a lane, by the instruction for it.
    tile_int8_vnni,
    rows_int8_vnni,
    "avx2,fma,avxvnni",
    __m256i,
    _mm256_setzero_si256(),
    |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b),
    |sum, call, row, constants| finish(sum, call, row, constants)
);

/// Two bfloat16 in a lane: the plain loop, compiled for these registers.
///
/// # Safety
/// As [`super::Kernels::tile`], on a processor with the features.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile_bf16(call: &TileCall) {
    for row in 0..call.rows {
        // SAFETY: handed on.
        unsafe { tile_of::<Bf16, PANEL, 1>(call, row) };
    }
}

/// `_mm256_maddubs_epi16` would saturate; so the even and the odd bytes are multiplied as 16-bit numbers.
#[target_feature(enable = "avx2")]
#[inline]
fn dot_by_words(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
    let low_bytes = _mm256_set1_epi16(0xff);
    let a_even = _mm256_and_si256(a, low_bytes);
    let a_odd = _mm256_srli_epi16::<8>(a);
    let b_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
    let b_odd = _mm256_srai_epi16::<8>(b);
    let products = _mm256_add_epi32(_mm256_madd_epi16(a_even, b_even), _mm256_madd_epi16(a_odd, b_odd));
    _mm256_add_epi32(sum, products)
}

/// # Safety
/// `call` has a scale for `row`; `constants` are those of eight columns of a panel.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn finish(sum: __m256i, call: &TileCall, row: usize, constants: *const f32) -> __m256 {
    // SAFETY: the caller vouches for it.
    unsafe {
        let row = *call.scales.add(row);
        let (scale, integers) = (constants.add(PANEL), constants.add(2 * PANEL));
        let sum = _mm256_fnmadd_ps(_mm256_set1_ps(row.zero), _mm256_loadu_ps(integers), _mm256_cvtepi32_ps(sum));
        let sum = _mm256_mul_ps(sum, _mm256_set1_ps(row.scale));
        _mm256_fmadd_ps(sum, _mm256_loadu_ps(scale), _mm256_loadu_ps(constants))
    }
}

/// # Safety
/// 32 bytes can be read at `lanes`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load(lanes: *const u32) -> __m256i {
    // SAFETY: the caller vouches for it.
    unsafe { _mm256_loadu_si256(lanes.cast()) }
}
