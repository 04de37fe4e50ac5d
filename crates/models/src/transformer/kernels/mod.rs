//! The inner loops, one set for each kind of processor, chosen when the program runs.
//!
//! All matrix products share one shape, whatever the numbers are. Numbers travel in *lanes* of four bytes: one `f32`,
//! two bfloat16 or four 8-bit integers that are neighbours along the summed dimension. A *step* multiplies one lane of
//! an operand row with one lane of each of the [`PANEL`] columns of a weight panel:
//!
//! ```text
//! operand tile, rows × lanes          [block of 16 lanes][row][16 lanes]     rows of one tile side by side
//! weight panel, lanes × 32 columns    [step][32 columns]                     128 bytes a step, read in order
//! tile of the result, rows × 32       f32, row-major with a stride           written once, with scale and bias applied
//! ```
//!
//! A tile's sums stay in registers; its operand is read from the first cache and its panel from the second. Work on
//! single rows (layer norm, softmax, activation, rounding) is plain Rust in `rows`, compiled once for each instruction
//! set.
//!
//! To add an instruction set: a variant of [`Path`], its line in [`Path::choices`], and a tile function in
//! [`Kernels::new`].

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod layout;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod peak;
mod portable;
mod rows;
#[cfg(test)]
mod tests;

use super::spec::{Activation, Precision};
use rows::RowKernels;

/// Lanes of a block of an operand.
pub const LANES: usize = 16;
/// Columns of a weight panel.
pub const PANEL: usize = 32;
/// Numbers that go with a panel: for each column its bias, its scale, and the sum of its integers.
pub const PANEL_CONSTANTS: usize = 3 * PANEL;

/// The instructions that a set of kernels uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// What every processor has.
    Portable,
    /// AVX2 and FMA (x86-64 since 2013).
    Avx2,
    /// AVX2 with 8-bit dot products (AVX-VNNI).
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with bfloat16 dot products.
    Avx512Bf16,
    /// AVX-512 with 8-bit dot products.
    Avx512Vnni,
    /// AMX in bfloat16, beside AVX-512.
    AmxBf16,
    /// AMX in 8-bit integers, beside AVX-512.
    AmxInt8,
    /// NEON (every 64-bit ARM processor).
    Neon,
    /// NEON with bfloat16 dot products.
    NeonBf16,
    /// NEON with 8-bit dot products.
    NeonDot,
    /// NEON with 8-bit dot products of signed and unsigned numbers.
    NeonI8mm,
}

impl Path {
    /// The name in benchmarks and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avx_vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512_bf16",
            Self::Avx512Vnni => "avx512_vnni",
            Self::AmxBf16 => "amx_bf16",
            Self::AmxInt8 => "amx_int8",
            Self::Neon => "neon",
            Self::NeonBf16 => "neon_bf16",
            Self::NeonDot => "neon_dot",
            Self::NeonI8mm => "neon_i8mm",
        }
    }

    /// The paths that this processor has for `precision`, fastest first; the last one is always [`Path::Portable`].
    pub fn choices(precision: Precision) -> Vec<Self> {
        let all: &[Self] = match precision {
            Precision::F32 => &[Self::Avx512, Self::Avx2, Self::Neon, Self::Portable],
            Precision::Bf16 => {
                &[Self::AmxBf16, Self::Avx512Bf16, Self::Avx2, Self::NeonBf16, Self::Neon, Self::Portable]
            }
            Precision::Int8 => &[
                Self::AmxInt8,
                Self::Avx512Vnni,
                Self::AvxVnni,
                Self::Avx2,
                Self::NeonI8mm,
                Self::NeonDot,
                Self::Neon,
                Self::Portable,
            ],
        };
        all.iter().copied().filter(|path| path.is_available()).collect()
    }

    /// True where this processor has the instructions.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => avx512(),
            Self::Avx512Bf16 => avx512() && is_x86_feature_detected!("avx512bf16"),
            Self::Avx512Vnni => avx512() && is_x86_feature_detected!("avx512vnni"),
            Self::AmxBf16 => avx512() && amx::is_available(Precision::Bf16),
            Self::AmxInt8 => avx512() && amx::is_available(Precision::Int8),
            Self::Neon | Self::NeonBf16 | Self::NeonDot | Self::NeonI8mm => false,
        }
    }

    /// True where this processor has the instructions.
    #[cfg(target_arch = "aarch64")]
    pub fn is_available(self) -> bool {
        use std::arch::is_aarch64_feature_detected as has;
        match self {
            Self::Portable => true,
            Self::Neon => has!("neon"),
            Self::NeonBf16 => has!("neon") && has!("bf16"),
            Self::NeonDot => has!("neon") && has!("dotprod"),
            Self::NeonI8mm => has!("neon") && has!("i8mm"),
            _ => false,
        }
    }

    /// True where this processor has the instructions.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn is_available(self) -> bool {
        self == Self::Portable
    }
}

/// How a row of an operand was rounded: `x ≈ (integer − zero) · scale`. Where rows are not integers, it is not read.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct RowScale {
    /// The distance of neighbours.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero: f32,
}

/// One tile of a matrix product; see the head of this module for the layouts.
#[derive(Debug, Clone, Copy)]
pub struct TileCall {
    /// Rows of the tile, from 1 to [`Kernels::rows_max`].
    pub rows: usize,
    /// Lanes to sum over.
    pub steps: usize,
    /// The operand tile.
    pub operand: *const u32,
    /// The first step of the weight panel.
    pub panel: *const u32,
    /// Lanes from one step of the panel to the next.
    pub panel_stride: usize,
    /// [`PANEL_CONSTANTS`] numbers; the last two thirds are read where numbers are integers only.
    pub constants: *const f32,
    /// One for each row, read where numbers are integers only.
    pub scales: *const RowScale,
    /// The tile of the result.
    pub output: *mut f32,
    /// Numbers from one row of the result to the next.
    pub output_stride: usize,
    /// Memory that is needed soon; it is only ever prefetched.
    pub ahead: *const u8,
    /// Bytes by which `ahead` moves at each step.
    pub ahead_stride: usize,
}

type TileFunction = unsafe fn(&TileCall);

/// The inner loops for one precision on one path.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    path: Path,
    precision: Precision,
    rows_max: usize,
    tile: TileFunction,
    rows: &'static RowKernels,
}

impl Kernels {
    /// The fastest that this processor has for `precision`.
    pub fn fastest(precision: Precision) -> Self {
        Path::choices(precision).into_iter().find_map(|path| Self::new(path, precision)).unwrap_or(Self {
            path: Path::Portable,
            precision,
            rows_max: portable::ROWS_MAX,
            tile: portable::tile(precision),
            rows: &rows::PORTABLE,
        })
    }

    /// Those of `path`; `None` where this processor or the path lacks the instructions for `precision`.
    pub fn new(path: Path, precision: Precision) -> Option<Self> {
        if !Path::choices(precision).contains(&path) {
            return None;
        }
        let (rows_max, tile, rows): (_, TileFunction, _) = match (path, precision) {
            (Path::Portable, _) => (portable::ROWS_MAX, portable::tile(precision), &rows::PORTABLE),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2, Precision::F32) => (avx2::ROWS_MAX, avx2::tile_f32, &rows::AVX2),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2, Precision::Bf16) => (avx2::ROWS_MAX, avx2::tile_bf16, &rows::AVX2),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx2, Precision::Int8) => (avx2::ROWS_MAX, avx2::tile_int8, &rows::AVX2),
            #[cfg(target_arch = "x86_64")]
            (Path::AvxVnni, Precision::Int8) => (avx2::ROWS_MAX, avx2::tile_int8_vnni, &rows::AVX2),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512, Precision::F32) => (avx512::ROWS_MAX, avx512::tile_f32, &rows::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512Bf16, Precision::Bf16) => (avx512::ROWS_MAX, avx512::tile_bf16, &rows::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Path::Avx512Vnni, Precision::Int8) => (avx512::ROWS_MAX, avx512::tile_int8, &rows::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Path::AmxBf16, Precision::Bf16) => (amx::ROWS_MAX, amx::tile_bf16, &rows::AVX512),
            #[cfg(target_arch = "x86_64")]
            (Path::AmxInt8, Precision::Int8) => (amx::ROWS_MAX, amx::tile_int8, &rows::AVX512),
            #[cfg(target_arch = "aarch64")]
            (Path::Neon | Path::NeonBf16 | Path::NeonDot | Path::NeonI8mm, _) => {
                let (rows_max, tile) = neon::tile(path, precision)?;
                (rows_max, tile, &rows::PORTABLE)
            }
            _ => return None,
        };
        Some(Self { path, precision, rows_max, tile, rows })
    }

    /// Kernels in single precision for the same processor, for what is never rounded.
    pub fn single_precision(&self) -> Self {
        let path = match self.path {
            Path::Portable => Path::Portable,
            Path::Avx2 | Path::AvxVnni => Path::Avx2,
            Path::Avx512 | Path::Avx512Bf16 | Path::Avx512Vnni | Path::AmxBf16 | Path::AmxInt8 => Path::Avx512,
            Path::Neon | Path::NeonBf16 | Path::NeonDot | Path::NeonI8mm => Path::Neon,
        };
        Self::new(path, Precision::F32).unwrap_or_else(|| Self::fastest(Precision::F32))
    }

    /// The instructions that are used.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The numbers that are multiplied.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The most rows of a tile.
    pub fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// Tokens that are best taken through a layer together.
    ///
    /// The fewer, the more of what lies between two products stays in the second cache; the more, the more seldom
    /// weights are read. Measured where vectors multiply. Where AMX does, reading BERT-base's 7 MB a layer for each 96
    /// tokens would take longer than multiplying them (by calculation: no such processor was at hand).
    pub fn chunk_tokens(&self) -> usize {
        match self.path {
            Path::AmxBf16 | Path::AmxInt8 => 10 * self.rows_max,
            _ => 96,
        }
    }

    /// Computes one tile.
    ///
    /// # Safety
    /// The pointers of `call` are valid for the shapes that it states (`ahead` may be anything), the output overlaps
    /// nothing else, and `rows` is in 1..=[`Kernels::rows_max`].
    pub unsafe fn tile(&self, call: &TileCall) {
        debug_assert!(call.rows >= 1 && call.rows <= self.rows_max);
        // SAFETY: the caller vouches for the pointers; `new` made sure that the processor has the instructions.
        unsafe { (self.tile)(call) }
    }

    /// To be called by each thread behind its last tile: frees registers that the system would otherwise save with the
    /// thread.
    pub fn release(&self) {
        #[cfg(target_arch = "x86_64")]
        if matches!(self.path, Path::AmxBf16 | Path::AmxInt8) {
            // SAFETY: `new` made sure that the processor has the instructions.
            unsafe { amx::release() }
        }
    }

    /// Rounds a row to lanes; lanes behind the row become zero.
    pub fn lower(&self, row: &[f32], lanes: &mut [u32]) -> RowScale {
        let lower = match self.precision {
            Precision::F32 => self.rows.lower_f32,
            Precision::Bf16 => self.rows.lower_bf16,
            Precision::Int8 => self.rows.lower_int8,
        };
        // SAFETY: `new` made sure that the processor has the instructions.
        unsafe { lower(row, lanes) }
    }

    /// `row = norm(row + added) · scale + shift`, all of one length.
    pub fn add_and_normalise(&self, row: &mut [f32], added: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) {
        // SAFETY: `new` made sure that the processor has the instructions.
        unsafe { (self.rows.add_and_normalise)(row, added, scale, shift, epsilon) }
    }

    /// The activation function of each number: within 1e-6 (1 + |x|) where the kernels work in single precision,
    /// otherwise within 1.2e-4 + 1e-5 |x|, which is far less than what rounding does to the result.
    pub fn activate(&self, row: &mut [f32], activation: Activation) {
        let activate = match (activation, self.precision) {
            (Activation::Relu, _) => self.rows.relu,
            (Activation::GeluTanh, _) => self.rows.gelu_tanh,
            (Activation::Gelu, Precision::F32) => self.rows.gelu,
            (Activation::Gelu, Precision::Bf16 | Precision::Int8) => self.rows.gelu_rough,
        };
        // SAFETY: `new` made sure that the processor has the instructions.
        unsafe { activate(row) }
    }

    /// The softmax of a tile of scores as an operand tile in single precision. Each row is the softmax of its first
    /// `count` numbers, behind which there are zeros up to a whole block.
    ///
    /// `tile` has rows of so many whole blocks, and `scores` has as many rows, of any one length that is a multiple of
    /// 16; what they hold is lost.
    pub fn softmax(&self, scores: &mut [f32], count: usize, tile: &mut [u32]) {
        // SAFETY: `new` made sure that the processor has the instructions.
        unsafe { (self.rows.softmax)(scores, count, tile) }
    }

    /// Rows of single precision as an operand tile: one row begins every `stride` numbers, and the last may end early.
    /// A row of the tile is as many whole blocks as fit.
    pub fn place(&self, numbers: &[f32], stride: usize, tile: &mut [u32]) {
        // SAFETY: `new` made sure that the processor has the instructions.
        unsafe { (self.rows.place)(numbers, stride, tile) }
    }
}
