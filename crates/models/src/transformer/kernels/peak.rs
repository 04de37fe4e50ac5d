//! What the processor can do at most: the instruction in the middle of a path's tiles, alone in a loop.

use std::hint::black_box;
use std::time::Instant;

use super::Path;
#[cfg(target_arch = "x86_64")]
use super::amx;

/// Multiplications (each with its addition) a second that `threads` threads reach together with nothing but the
/// instruction that the tiles of `path` are made of; the best of several short runs. `None` where the path has no such
/// loop: its tiles are left to the compiler.
pub fn multiplications_per_second(path: Path, threads: usize) -> Option<f64> {
    /// Long enough to make starting the threads not count, a few milliseconds.
    const ROUNDS: usize = 400_000;
    let (burst, per_round) = burst(path)?;
    let mut best = 0.0f64;
    for _ in 0..8 {
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                // SAFETY: `burst` returns functions only for paths that this processor has.
                scope.spawn(|| unsafe { burst(black_box(ROUNDS)) });
            }
        });
        best = best.max((ROUNDS * per_round * threads) as f64 / started.elapsed().as_secs_f64());
    }
    Some(best)
}

type Burst = unsafe fn(usize);

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn burst(_: Path) -> Option<(Burst, usize)> {
    None
}

/// The loop for `path`, and the multiplications of one of its rounds.
#[cfg(target_arch = "x86_64")]
fn burst(path: Path) -> Option<(Burst, usize)> {
    if !path.is_available() {
        return None;
    }
    match path {
        Path::Portable => None,
        Path::Avx2 => Some((x86::avx2, 8 * x86::SUMS_AVX2)),
        Path::AvxVnni => Some((x86::avx_vnni, 32 * x86::SUMS_AVX2)),
        Path::Avx512 => Some((x86::avx512, 16 * x86::SUMS_AVX512)),
        Path::Avx512Bf16 => Some((x86::avx512_bf16, 32 * x86::SUMS_AVX512)),
        Path::Avx512Vnni => Some((x86::avx512_vnni, 64 * x86::SUMS_AVX512)),
        Path::AmxBf16 => Some((amx::burst_bf16, amx::BURST_BF16)),
        Path::AmxInt8 => Some((amx::burst_int8, amx::BURST_INT8)),
        Path::Neon | Path::NeonBf16 | Path::NeonDot | Path::NeonI8mm => None,
    }
}

/// The loop for `path`, and the multiplications of one of its rounds.
#[cfg(target_arch = "aarch64")]
fn burst(path: Path) -> Option<(Burst, usize)> {
    if !path.is_available() {
        return None;
    }
    match path {
        Path::Neon => Some((arm::neon, 4 * arm::SUMS)),
        Path::NeonBf16 => Some((arm::neon_bf16, 8 * arm::SUMS)),
        Path::NeonDot => Some((arm::neon_dot, 16 * arm::SUMS)),
        Path::NeonI8mm => Some((arm::neon_i8mm, 16 * arm::SUMS)),
        _ => None,
    }
}

macro_rules! burst {
    ($name:ident, $features:literal, $sums:ident, $value:expr, $step:expr) => {
        /// # Safety
        /// The processor has the features.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(rounds: usize) {
            // Values that the compiler can't know, or it would work the sums out itself.
            let (a, b) = (black_box($value), black_box($value));
            let mut sums = [$value; $sums];
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = $step(*sum, a, b);
                }
            }
            black_box(sums);
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Independent sums: more than an instruction's latency times the instructions begun in a cycle.
    pub(super) const SUMS_AVX2: usize = 12;
    /// As above; there are twice as many registers.
    pub(super) const SUMS_AVX512: usize = 24;

    burst!(avx2, "avx2,fma", SUMS_AVX2, _mm256_set1_ps(1e-9), |sum, a, b| _mm256_fmadd_ps(a, b, sum));
    burst!(avx_vnni, "avx2,avxvnni", SUMS_AVX2, _mm256_set1_epi8(1), |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b));
    burst!(avx512, "avx512f", SUMS_AVX512, _mm512_set1_ps(1e-9), |sum, a, b| _mm512_fmadd_ps(a, b, sum));
    burst!(avx512_bf16, "avx512f,avx512bf16", SUMS_AVX512, _mm512_set1_ps(1e-9), |sum, a, b| {
        // SAFETY: both are 64 bytes, and each pattern of them is a value of both.
        let (a, b) =
            unsafe { (std::mem::transmute::<__m512, __m512bh>(a), std::mem::transmute::<__m512, __m512bh>(b)) };
        _mm512_dpbf16_ps(sum, a, b)
    });
    burst!(avx512_vnni, "avx512f,avx512vnni", SUMS_AVX512, _mm512_set1_epi8(1), |sum, a, b| {
        _mm512_dpbusd_epi32(sum, a, b)
    });
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;
    use std::hint::black_box;

    use super::super::neon::{bfdot, multiply, sdot, sudot};

    /// Independent sums: at least an instruction's latency times the instructions begun in a cycle.
    pub(super) const SUMS: usize = 24;

    burst!(neon, "neon", SUMS, vdupq_n_u32(0x3080_0000), |sum, a, b| multiply::<0>(sum, a, b));
    burst!(neon_bf16, "neon,bf16", SUMS, vdupq_n_u32(0x3080_3080), |sum, a, b| bfdot::<0>(sum, a, b));
    burst!(neon_dot, "neon,dotprod", SUMS, vdupq_n_u32(0x0101_0101), |sum, a, b| sdot::<0>(sum, a, b));
    burst!(neon_i8mm, "neon,i8mm", SUMS, vdupq_n_u32(0x0101_0101), |sum, a, b| sudot::<0>(sum, a, b));
}
