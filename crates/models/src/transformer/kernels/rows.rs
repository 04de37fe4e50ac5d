//! Work on single rows, written once in plain Rust and compiled for each instruction set.
//!
//! Everything here is free of branches inside its loops, so that the compiler turns them into vectors. `FMA` says
//! whether the instruction set multiplies and adds in one instruction; where it doesn't, `f32::mul_add` would be a
//! function call.

use super::{LANES, RowScale};

/// Numbers of a block.
const BLOCK: usize = 16;

type Block = [f32; BLOCK];

/// Adding this to a number below 2²² leaves its rounded value in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

/// The row, what is added to it, scale, shift and epsilon.
type AddAndNormalise = unsafe fn(&mut [f32], &[f32], &[f32], &[f32], f32);

/// The functions of this module for one instruction set.
#[derive(Debug)]
pub(super) struct RowKernels {
    pub(super) lower_f32: unsafe fn(&[f32], &mut [u32]) -> RowScale,
    pub(super) lower_bf16: unsafe fn(&[f32], &mut [u32]) -> RowScale,
    pub(super) lower_int8: unsafe fn(&[f32], &mut [u32]) -> RowScale,
    pub(super) add_and_normalise: AddAndNormalise,
    pub(super) gelu: unsafe fn(&mut [f32]),
    pub(super) gelu_rough: unsafe fn(&mut [f32]),
    pub(super) gelu_tanh: unsafe fn(&mut [f32]),
    pub(super) relu: unsafe fn(&mut [f32]),
    pub(super) softmax: unsafe fn(&mut [f32], usize, &mut [u32]),
    pub(super) place: unsafe fn(&[f32], usize, &mut [u32]),
}

macro_rules! row_kernels {
    ($(#[$doc:meta])* $name:ident, $module:ident, $fma:literal $(, $features:literal)?) => {
        $(#[$doc])*
        pub(super) static $name: RowKernels = RowKernels {
            lower_f32: $module::lower_f32,
            lower_bf16: $module::lower_bf16,
            lower_int8: $module::lower_int8,
            add_and_normalise: $module::add_and_normalise,
            gelu: $module::gelu,
            gelu_rough: $module::gelu_rough,
            gelu_tanh: $module::gelu_tanh,
            relu: $module::relu,
            softmax: $module::softmax,
            place: $module::place,
        };

        /// Each function is safe on a processor with the features.
        mod $module {
            use super::RowScale;

            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn lower_f32(row: &[f32], lanes: &mut [u32]) -> RowScale {
                super::lower_f32(row, lanes)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn lower_bf16(row: &[f32], lanes: &mut [u32]) -> RowScale {
                super::lower_bf16(row, lanes)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn lower_int8(row: &[f32], lanes: &mut [u32]) -> RowScale {
                super::lower_int8::<$fma>(row, lanes)
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn add_and_normalise(
                row: &mut [f32],
                added: &[f32],
                scale: &[f32],
                shift: &[f32],
                epsilon: f32,
            ) {
                super::add_and_normalise::<$fma>(row, added, scale, shift, epsilon);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn gelu(row: &mut [f32]) {
                super::for_each(row, super::gelu::<$fma>);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn gelu_rough(row: &mut [f32]) {
                super::for_each(row, super::gelu_rough::<$fma>);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn gelu_tanh(row: &mut [f32]) {
                super::for_each(row, super::gelu_tanh::<$fma>);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn relu(row: &mut [f32]) {
                super::for_each(row, |x| x.max(0.0));
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn softmax(scores: &mut [f32], count: usize, tile: &mut [u32]) {
                super::softmax::<$fma>(scores, count, tile);
            }
            $(#[target_feature(enable = $features)])?
            pub(super) unsafe fn place(rows: &[f32], stride: usize, tile: &mut [u32]) {
                super::place(rows, stride, tile);
            }
        }
    };
}

row_kernels!(
    /// For every processor. On 64-bit ARM these are the kernels for NEON: all code is compiled for it there.
    PORTABLE,
    portable,
    false
);
#[cfg(target_arch = "x86_64")]
row_kernels!(
    /// For AVX2 and FMA.
    AVX2,
    avx2,
    true,
    "avx2,fma"
);
#[cfg(target_arch = "x86_64")]
row_kernels!(
    /// For AVX-512.
    AVX512,
    avx512,
    true,
    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"
);

#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Processors of 64-bit ARM always have it.
    if FMA || cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
}

/// Applies `function` to each number. A plain loop: with blocks inside it, the compiler takes the same place of sixteen
/// blocks together, which means to gather and to scatter.
#[inline(always)]
fn for_each(row: &mut [f32], function: impl Fn(f32) -> f32) {
    row.iter_mut().for_each(|x| *x = function(*x));
}

/// Folds each of sixteen strands by itself, then the strands; the rest of the row goes to the first ones.
///
/// On ARM a function of its own: inlined into `softmax`, the strands end up in 32 scalar registers.
#[cfg_attr(not(target_arch = "aarch64"), inline(always))]
#[cfg_attr(target_arch = "aarch64", inline(never))]
fn fold(row: &[f32], start: f32, function: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    // Two sets of strands, because an addition takes longer than the time to the next one.
    let mut strands: [Block; 2] = [[start; BLOCK]; 2];
    let (pairs, single) = blocks.as_chunks::<2>();
    for pair in pairs {
        for (strands, block) in strands.iter_mut().zip(pair) {
            for (strand, x) in strands.iter_mut().zip(block) {
                *strand = function(*strand, *x);
            }
        }
    }
    for (strand, x) in strands[0].iter_mut().zip(single.iter().flatten()) {
        *strand = function(*strand, *x);
    }
    for (strand, x) in strands[1].iter_mut().zip(rest) {
        *strand = function(*strand, *x);
    }
    let mut all: Block = strands[0];
    for (a, b) in all.iter_mut().zip(strands[1]) {
        *a = join(*a, b);
    }
    let half = halve::<16, 8>(all, &join);
    let half = halve::<8, 4>(half, &join);
    let half = halve::<4, 2>(half, &join);
    join(half[0], half[1])
}

/// Joins the upper half to the lower.
#[inline(always)]
fn halve<const WIDTH: usize, const HALF: usize>(all: [f32; WIDTH], join: impl Fn(f32, f32) -> f32) -> [f32; HALF] {
    std::array::from_fn(|i| join(all[i], all[i + HALF]))
}

/// One instruction on each processor; which number it returns beside one that is none differs.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        return a.max(b);
    }
    if b > a { b } else { a }
}

#[inline(always)]
fn smaller(a: f32, b: f32) -> f32 {
    if cfg!(target_arch = "aarch64") {
        return a.min(b);
    }
    if b < a { b } else { a }
}

#[inline(always)]
fn lower_f32(row: &[f32], lanes: &mut [u32]) -> RowScale {
    let (used, rest) = lanes.split_at_mut(row.len());
    for (lane, x) in used.iter_mut().zip(row) {
        *lane = x.to_bits();
    }
    rest.fill(0);
    RowScale::default()
}

#[inline(always)]
fn lower_bf16(row: &[f32], lanes: &mut [u32]) -> RowScale {
    let (pairs, rest) = row.as_chunks::<2>();
    let (used, unused) = lanes.split_at_mut(pairs.len());
    for (lane, pair) in used.iter_mut().zip(pairs) {
        *lane = to_bf16(pair[0]) >> 16 | to_bf16(pair[1]) & 0xffff_0000;
    }
    unused.fill(0);
    if let Some(&last) = rest.first() {
        unused[0] = to_bf16(last) >> 16;
    }
    RowScale::default()
}

/// The nearest bfloat16 (ties to even) in the upper half; the lower half is noise. Only for finite numbers.
#[inline(always)]
fn to_bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    bits.wrapping_add(0x7fff).wrapping_add(bits >> 16 & 1)
}

/// Rounds to 0..=255 over the range of the row, 0 included. The range of what GELU returns lies almost wholly above 0:
/// with a zero point, the integers below it are not wasted.
#[inline(always)]
fn lower_int8<const FMA: bool>(row: &[f32], lanes: &mut [u32]) -> RowScale {
    let low = fold(row, 0.0, smaller, smaller);
    let high = fold(row, 0.0, larger, larger);
    let scale = larger((high - low) / 255.0, f32::MIN_POSITIVE);
    let inverse = 1.0 / scale;
    let zero = -low * inverse;
    let integer = |x: f32| (multiply_add::<FMA>(x, inverse, zero) + ROUNDER).to_bits() as u8;

    let (blocks, rest) = row.as_chunks::<{ 4 * BLOCK }>();
    let (used, unused) = lanes.split_at_mut(blocks.len() * BLOCK);
    for (block, lanes) in blocks.iter().zip(used.as_chunks_mut::<BLOCK>().0) {
        let mut bytes = [0u8; 4 * BLOCK];
        for (byte, x) in bytes.iter_mut().zip(block) {
            *byte = integer(*x);
        }
        for (lane, four) in lanes.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *lane = u32::from_le_bytes(*four);
        }
    }
    unused.fill(0);
    for (lane, four) in unused.iter_mut().zip(rest.chunks(4)) {
        for (index, x) in four.iter().enumerate() {
            *lane |= u32::from(integer(*x)) << (8 * index);
        }
    }
    RowScale { scale, zero }
}

#[inline(always)]
fn add_and_normalise<const FMA: bool>(row: &mut [f32], added: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) {
    let count = row.len() as f32;
    for (x, y) in row.iter_mut().zip(added) {
        *x += y;
    }
    let mean = fold(row, 0.0, |sum, x| sum + x, |a, b| a + b) / count;
    let square = |sum: f32, x: f32| multiply_add::<FMA>(x - mean, x - mean, sum);
    let variance = fold(row, 0.0, square, |a, b| a + b) / count;
    let factor = 1.0 / (variance + epsilon).sqrt();
    for ((x, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
        *x = multiply_add::<FMA>((*x - mean) * factor, *scale, *shift);
    }
}

/// `eˣ` for x ≤ 88, within 3e-7 of its size; what is below e⁻⁸⁷ becomes e⁻⁸⁷.
///
/// x = n·ln 2 + r: the Taylor polynomial of eʳ, then n into the exponent.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    /// The upper bits of ln 2, whose product with n is exact, and what is left of it.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    let x = larger(x, -87.0);
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = multiply_add::<FMA>(n, -LN_2.1, multiply_add::<FMA>(n, -LN_2.0, x));
    let mut sum = 1.0 / 720.0;
    for coefficient in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        sum = multiply_add::<FMA>(sum, r, coefficient);
    }
    f32::from_bits(sum.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// GELU within 1e-6; the error function by Abramowitz and Stegun, 7.1.26.
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let size = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FMA>(size, 0.327_591_1, 1.0);
    let mut sum = 0.0;
    for coefficient in COEFFICIENTS {
        sum = multiply_add::<FMA>(sum, t, coefficient);
    }
    // Half of 1 − erf(|x|/√2): the share that is lost above zero, and all that is left below.
    let tail = 0.5 * sum * t * exp::<FMA>(-size * size);
    if x < 0.0 { x * tail } else { x - x * tail }
}

/// GELU within 1.2e-4: Φ as an odd polynomial, fitted on ±4.25 to the least largest error of x·Φ(x) and to exactly 0
/// and 1 at the ends.
#[inline(always)]
fn gelu_rough<const FMA: bool>(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 8] = [
        -8.460_343_5e-10,
        7.570_786e-8,
        -2.938_789e-6,
        6.552_69e-5,
        -9.404_46e-4,
        9.257_817e-3,
        -6.545_348_5e-2,
        3.984_200_4e-1,
    ];
    let limited = smaller(larger(x, -4.25), 4.25);
    let square = limited * limited;
    let mut sum = COEFFICIENTS[0];
    for &coefficient in &COEFFICIENTS[1..] {
        sum = multiply_add::<FMA>(sum, square, coefficient);
    }
    x * multiply_add::<FMA>(limited, sum, 0.5)
}

/// GELU with tanh, by way of x · σ(2u) = ½ x (1 + tanh u).
#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const FACTOR: f32 = 0.797_884_6; // √(2/π)
    let inner = x * FACTOR * multiply_add::<FMA>(x * x, 0.044_715, 1.0);
    x / (1.0 + exp::<FMA>(smaller(-2.0 * inner, 87.0)))
}

/// Each row of `scores` becomes its softmax over the first `count` numbers, and a row of the operand `tile`.
#[inline(always)]
fn softmax<const FMA: bool>(scores: &mut [f32], count: usize, tile: &mut [u32]) {
    let width = count.next_multiple_of(LANES);
    let rows = tile.len() / width;
    let stride = scores.len() / rows;
    for (index, row) in scores.chunks_exact_mut(stride).enumerate() {
        let row = &mut row[..width];
        // A number of the row once more does not change its maximum, and leaves whole blocks.
        let first = row[0];
        row[count..].fill(first);
        let largest = fold(row, f32::NEG_INFINITY, larger, larger);
        for block in row.as_chunks_mut::<LANES>().0 {
            for x in block {
                *x = exp::<FMA>(*x - largest);
            }
        }
        row[count..].fill(0.0);
        let factor = 1.0 / fold(row, 0.0, |sum, x| sum + x, |a, b| a + b);
        for (block, numbers) in row.as_chunks::<LANES>().0.iter().enumerate() {
            let lanes = &mut tile.as_chunks_mut::<LANES>().0[block * rows + index];
            for (lane, x) in lanes.iter_mut().zip(numbers) {
                *lane = (x * factor).to_bits();
            }
        }
    }
}

/// Rows of single precision become an operand tile; `rows` begins with the first and has one every `stride` numbers.
#[inline(always)]
fn place(numbers: &[f32], stride: usize, tile: &mut [u32]) {
    let rows = numbers.len().div_ceil(stride);
    let blocks = tile.as_chunks_mut::<LANES>().0;
    for (index, row) in numbers.chunks(stride).enumerate() {
        for (block, numbers) in row.as_chunks::<LANES>().0.iter().enumerate().take(blocks.len() / rows) {
            for (lane, x) in blocks[block * rows + index].iter_mut().zip(numbers) {
                *lane = x.to_bits();
            }
        }
    }
}
