//! Whether AMX can be used: by the processor, by the system, and by its answers.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use super::super::{LANES, PANEL, PANEL_CONSTANTS, RowScale, TileCall, TileFunction, portable};
use super::{ROWS_MAX, tile_bf16, tile_int8};
use crate::transformer::spec::Precision;

/// True where the processor has AMX for `precision`, Linux lets this process use it, and its products are those of
/// plain Rust.
///
/// The caller has made sure of AVX-512.
pub(in super::super) fn is_available(precision: Precision) -> bool {
    // Leaf 7 of `cpuid`, register EDX.
    const TILES: u32 = 1 << 24;
    static AGREES: [OnceLock<bool>; 2] = [const { OnceLock::new() }; 2];
    let (feature, tile, agrees): (u32, TileFunction, _) = match precision {
        Precision::F32 => return false,
        Precision::Bf16 => (1 << 22, tile_bf16, &AGREES[0]),
        Precision::Int8 => (1 << 25, tile_int8, &AGREES[1]),
    };
    let needed = TILES | feature;
    __cpuid_count(7, 0).edx & needed == needed
        && is_permitted()
        && *agrees.get_or_init(|| {
            let agrees = agree(precision, tile);
            if !agrees {
                tracing::warn!("AMX computes other products than plain Rust in {precision:?}; it is not used");
            }
            agrees
        })
}

/// Asks Linux, once for the process, for the use of tile registers, which make every thread's saved state 8 KiB larger.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    /// `asm/prctl.h`.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    /// The state component for the data of tile registers; the one before is for their shapes.
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| {
        let components = 0b11 << (XFEATURE_XTILEDATA - 1);
        // SAFETY: with AVX-512 there is `xgetbv`; the call changes nothing but what this process may use.
        unsafe {
            enabled_components() & components == components
                && libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0
        }
    })
}

/// How other systems are asked is not known here.
#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// The state components that the system saves.
///
/// # Safety
/// The processor has `xgetbv`.
#[cfg(target_os = "linux")]
#[target_feature(enable = "xsave")]
unsafe fn enabled_components() -> u64 {
    // SAFETY: register 0 is always there.
    unsafe { _xgetbv(0) }
}

/// Compares one tile with the portable one: all rows, and a last block that is not full.
///
/// AMX is written without the compiler's help and chosen on processors that its authors never had, so it is asked for a
/// known product before its answers are believed.
fn agree(precision: Precision, tile: TileFunction) -> bool {
    const STEPS: usize = 2 * LANES + 5;
    let lane = |index: usize| match precision {
        // Small bfloat16 in both halves.
        Precision::F32 | Precision::Bf16 => [index * 7, index * 3].iter().enumerate().fold(0, |lane, (half, x)| {
            let number = half::bf16::from_f32((x % 23) as f32 / 8.0 - 1.3);
            lane | u32::from(number.to_bits()) << (16 * half)
        }),
        // All bytes are integers, with and without a sign.
        Precision::Int8 => (index as u32).wrapping_mul(0x9e37_79b9),
    };
    let operand: Vec<u32> = (0..3 * ROWS_MAX * LANES)
        .map(|index| if index / (ROWS_MAX * LANES) * LANES + index % LANES < STEPS { lane(index) } else { 0 })
        .collect();
    let panel: Vec<u32> = (0..STEPS * PANEL).map(|index| lane(index + 1)).collect();
    let constants: Vec<f32> = (0..PANEL_CONSTANTS).map(|index| index as f32 * 0.25).collect();
    let scales = [RowScale { scale: 0.5, zero: 3.0 }; ROWS_MAX];
    let compute = |tile: TileFunction| {
        let mut output = vec![0.0f32; ROWS_MAX * PANEL];
        let call = TileCall {
            rows: ROWS_MAX,
            steps: STEPS,
            operand: operand.as_ptr(),
            panel: panel.as_ptr(),
            panel_stride: PANEL,
            constants: constants.as_ptr(),
            scales: scales.as_ptr(),
            output: output.as_mut_ptr(),
            output_stride: PANEL,
            ahead: panel.as_ptr().cast(),
            ahead_stride: 0,
        };
        // SAFETY: the buffers have these shapes; the processor and the system have what the tile needs.
        unsafe { tile(&call) };
        output
    };
    let (output, plain) = (compute(tile), compute(portable::tile(precision)));
    // SAFETY: as above.
    unsafe { super::release() };
    output.iter().zip(&plain).all(|(x, plain)| (x - plain).abs() <= 1e-5 * (1.0 + plain.abs()))
}
