//! Tiles for AMX: 32 rows × 32 columns of sums in four tile registers.
//!
//! A tile register is a table of up to 16 rows of 64 bytes, and one instruction multiplies two of them. The layouts of
//! these kernels are those of AMX as they are: the rows of a block of an operand are its left operand, 16 steps of half
//! a panel its right one.
//!
//! ```text
//!                        columns 0..16    columns 16..32
//!                        tmm6             tmm7
//! rows  0..16   tmm4     tmm0             tmm1
//! rows 16..32   tmm5     tmm2             tmm3
//! ```
//!
//! There are four loads for four products, and a load takes no longer than a product: the multiplier is the limit.
//!
//! Stable Rust has no intrinsics for AMX, so its instructions are written in assembly. The compiler never uses tile
//! registers itself, so they keep what they hold from one `asm!` to the next.

mod available;

pub(super) use available::is_available;

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::mem::MaybeUninit;

use super::{LANES, PANEL, TileCall, avx512};

/// Rows of a tile register.
const TILE_ROWS: usize = 16;
/// Bytes of a row of a tile register.
const TILE_BYTES: usize = 64;
/// Bytes of a step of a panel.
const STEP_BYTES: usize = PANEL * size_of::<u32>();
/// The most rows of a tile.
pub(super) const ROWS_MAX: usize = 2 * TILE_ROWS;
/// Multiplications of a round of the bursts below.
pub(super) const BURST_BF16: usize = 4 * TILE_ROWS * TILE_ROWS * TILE_BYTES / 2;
/// As above.
pub(super) const BURST_INT8: usize = 2 * BURST_BF16;

/// The shapes of the tile registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// The rows that this thread's tile registers are made for; 0 where they are free. Changing shapes costs about as
    /// much as ten products, so they stay from one tile to the next.
    static ROWS: Cell<usize> = const { Cell::new(0) };
}

/// Shapes this thread's tile registers for tiles of `rows` rows.
///
/// # Safety
/// AMX is available, and `rows` is in 1..=[`ROWS_MAX`].
unsafe fn shape(rows: usize) {
    if ROWS.replace(rows) == rows {
        return;
    }
    let (low, high, all) = (rows.min(TILE_ROWS) as u8, rows.saturating_sub(TILE_ROWS) as u8, TILE_ROWS as u8);
    let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
    shapes.rows[..8].copy_from_slice(&[low, low, high, high, low, high, all, all]);
    for (bytes, &rows) in shapes.row_bytes.iter_mut().zip(&shapes.rows) {
        *bytes = if rows > 0 { TILE_BYTES as u16 } else { 0 };
    }
    // SAFETY: AMX is available, and these are shapes that it has.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack, preserves_flags)) }
}

/// Frees this thread's tile registers: while they are in use, the system saves and restores them with the thread.
///
/// # Safety
/// AMX is available.
pub(super) unsafe fn release() {
    if ROWS.replace(0) != 0 {
        // SAFETY: AMX is available.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) }
    }
}

/// The function that adds the products of one block of lanes; the second one where there are more than [`TILE_ROWS`]
/// rows.
///
/// # Safety
/// The tile registers have the shapes for `operand`, behind which there are so many rows of [`LANES`] lanes; `panel`
/// has [`LANES`] steps of [`PANEL`] lanes, `stride` bytes apart.
macro_rules! block {
    ($name:ident, $product:literal) => {
        unsafe fn $name(high: bool, operand: *const u32, panel: *const u32, stride: usize) {
            // SAFETY: the caller vouches for the shapes and the pointers.
            unsafe {
                asm!(
                    "tileloadd tmm6, [{panel} + {stride}]",
                    "tileloadd tmm4, [{operand} + {line}]",
                    concat!($product, " tmm0, tmm4, tmm6"),
                    "tileloadd tmm7, [{panel} + {stride} + 64]",
                    concat!($product, " tmm1, tmm4, tmm7"),
                    panel = in(reg) panel,
                    stride = in(reg) stride,
                    operand = in(reg) operand,
                    line = in(reg) TILE_BYTES,
                    options(readonly, nostack, preserves_flags)
                );
                if high {
                    asm!(
                        "tileloadd tmm5, [{operand} + {line}]",
                        concat!($product, " tmm2, tmm5, tmm6"),
                        concat!($product, " tmm3, tmm5, tmm7"),
                        operand = in(reg) operand.add(TILE_ROWS * LANES),
                        line = in(reg) TILE_BYTES,
                        options(readonly, nostack, preserves_flags)
                    );
                }
            }
        }
    };
}

block!(block_bf16, "tdpbf16ps");
block!(block_int8, "tdpbusd");

type Block = unsafe fn(bool, *const u32, *const u32, usize);

/// The sums of a tile, in whichever numbers they are.
#[repr(C, align(64))]
struct Sums([[u32; PANEL]; ROWS_MAX]);

/// # Safety
/// As [`super::Kernels::tile`]; AMX is available.
#[inline(always)]
unsafe fn multiply(call: &TileCall, block: Block, sums: *mut Sums) {
    let high = call.rows > TILE_ROWS;
    let (mut operand, mut panel, mut ahead) = (call.operand, call.panel, call.ahead);
    // SAFETY: the caller vouches for AMX and for `rows`.
    unsafe {
        shape(call.rows);
        asm!("tilezero tmm0", "tilezero tmm1", options(nomem, nostack, preserves_flags));
        if high {
            asm!("tilezero tmm2", "tilezero tmm3", options(nomem, nostack, preserves_flags));
        }
    }
    for _ in 0..call.steps / LANES {
        for _ in 0..LANES {
            // SAFETY: a prefetch may have any address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(ahead.cast()) };
            ahead = ahead.wrapping_add(call.ahead_stride);
        }
        // SAFETY: the shapes are those of the call, whose operand and panel have so many blocks.
        unsafe { block(high, operand, panel, call.panel_stride * size_of::<u32>()) };
        operand = operand.wrapping_add(call.rows * LANES);
        panel = panel.wrapping_add(LANES * call.panel_stride);
    }
    let rest = call.steps % LANES;
    if rest > 0 {
        // Operands are whole blocks, panels may end early: behind their last step there is nothing to read.
        let mut last = [[0u32; PANEL]; LANES];
        for step in &mut last[..rest] {
            // SAFETY: the panel has so many steps.
            *step = unsafe { panel.cast::<[u32; PANEL]>().read() };
            panel = panel.wrapping_add(call.panel_stride);
        }
        // SAFETY: as above.
        unsafe { block(high, operand, last.as_ptr().cast(), STEP_BYTES) };
    }
    // SAFETY: there is room for the sums of ROWS_MAX rows.
    unsafe {
        let low = sums.cast::<u32>();
        asm!(
            "tilestored [{low} + {stride}], tmm0",
            "tilestored [{low} + {stride} + 64], tmm1",
            low = in(reg) low,
            stride = in(reg) STEP_BYTES,
            options(nostack, preserves_flags)
        );
        if high {
            asm!(
                "tilestored [{high} + {stride}], tmm2",
                "tilestored [{high} + {stride} + 64], tmm3",
                high = in(reg) low.add(TILE_ROWS * PANEL),
                stride = in(reg) STEP_BYTES,
                options(nostack, preserves_flags)
            );
        }
    }
}

/// A tile function: `$load` reads a vector of sums, `$constants` and `$finish` are those of [`avx512`].
macro_rules! tile {
    ($(#[$doc:meta])* $name:ident, $block:ident, $load:expr, $constants:ident, $finish:ident) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`super::Kernels::tile`]; AMX is available.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        pub(super) unsafe fn $name(call: &TileCall) {
            let mut sums = MaybeUninit::<Sums>::uninit();
            // SAFETY: handed on; `multiply` writes the sums of all rows of the call; constants are there for each
            // column, scales and room in the output for each row.
            unsafe {
                multiply(call, $block, sums.as_mut_ptr());
                let constants = avx512::$constants(call);
                for row in 0..call.rows {
                    let sums = sums.as_ptr().cast::<u32>().add(row * PANEL);
                    let [low, high] = avx512::$finish([$load(sums), $load(sums.add(LANES))], call, row, &constants);
                    let place = call.output.add(row * call.output_stride);
                    _mm512_storeu_ps(place, low);
                    _mm512_storeu_ps(place.add(LANES), high);
                }
            }
        }
    };
}

tile!(
    /// Two bfloat16 in a lane.
    tile_bf16,
    block_bf16,
    |sums: *const u32| _mm512_load_ps(sums.cast()),
    bias,
    add_bias
);

tile!(
    /// Four integers in a lane, unsigned in the operand, signed in the panel.
    tile_int8,
    block_int8,
    |sums: *const u32| _mm512_load_si512(sums.cast()),
    integer_constants,
    scale_integers
);

/// Nothing but products, four in each round, for the limit of the processor.
macro_rules! burst {
    ($name:ident, $product:literal) => {
        /// # Safety
        /// AMX is available.
        pub(super) unsafe fn $name(rounds: usize) {
            // SAFETY: AMX is available; new shapes come with zeros in all registers.
            unsafe {
                release();
                shape(ROWS_MAX);
                for _ in 0..rounds {
                    asm!(
                        concat!($product, " tmm0, tmm4, tmm6"),
                        concat!($product, " tmm1, tmm4, tmm7"),
                        concat!($product, " tmm2, tmm5, tmm6"),
                        concat!($product, " tmm3, tmm5, tmm7"),
                        options(nomem, nostack, preserves_flags)
                    );
                }
                release();
            }
        }
    };
}

burst!(burst_bf16, "tdpbf16ps");
burst!(burst_int8, "tdpbusd");
