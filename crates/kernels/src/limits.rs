//! What this machine can do: bytes read and operations done a second, the denominators of every
//! other figure.
//!
//! Reading: each thread sums its own share of a buffer far above the last-level cache. Operations:
//! independent accumulators in registers, no loads. One operation is a multiplication or an
//! addition. Each figure is the best of several, of all threads together.

use crate::simd::{Kernel, Simd};
use crate::{Isa, Pool, Real, isa};
use std::hint::black_box;
use std::time::Instant;

/// Limits of this machine with some number of threads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Threads that work together.
    pub threads: usize,
    /// 10⁹ bytes read from memory a second.
    pub read_gbps: f64,
    /// 10⁹ f32 operations a second, by fused multiply-adds.
    pub f32_gflops: f64,
    /// 10⁹ operations on bf16 a second, accumulated in f32.
    pub bf16_gflops: f64,
    /// 10⁹ operations on 8-bit integers a second, accumulated in 32 bits.
    pub int8_gops: f64,
}

/// Bytes that are read, far above any last-level cache of a machine of this kind.
pub const READ_BYTES: usize = 1 << 30;
/// How often each figure is taken.
const REPEATS: usize = 7;
/// Rounds of a measurement of arithmetic, some 10 ms.
const ROUNDS: usize = 2_000_000;
/// Independent accumulators: as many as hide the latency of two pipes.
const CHAINS: usize = 16;

impl Limits {
    /// Measures the limits with the threads of `pool`; `memory` is what is read, of [`READ_BYTES`] for
    /// a figure of memory rather than of a cache.
    ///
    /// Takes about a second. The instruction set is the one in use, so `MEMWALL_ISA` changes the figures.
    pub fn measure(pool: &Pool, memory: &[u64]) -> Limits {
        Limits {
            threads: pool.threads(),
            read_gbps: best(|| read(pool, memory)),
            f32_gflops: best(|| arithmetic(pool, Unit::F32)),
            bf16_gflops: best(|| arithmetic(pool, Unit::Bf16)),
            int8_gops: best(|| arithmetic(pool, Unit::Int8)),
        }
    }
}

/// The greatest of [`REPEATS`] rates, in 10⁹ a second.
fn best(rate: impl Fn() -> f64) -> f64 {
    (0..REPEATS).map(|_| rate()).fold(0.0, f64::max) * 1e-9
}

/// Bytes a second.
fn read(pool: &Pool, memory: &[u64]) -> f64 {
    // Pieces of 4 MiB, so that threads that others slow down do less; each from end to end, as the processor foresees.
    let piece = 1 << 19;
    let start = Instant::now();
    pool.run(memory.len().div_ceil(piece), |task, _| {
        let words = &memory[task * piece..((task + 1) * piece).min(memory.len())];
        f32::dispatch(Read(words));
    });
    size_of_val(memory) as f64 / start.elapsed().as_secs_f64()
}

struct Read<'a>(&'a [u64]);

impl Kernel<f32> for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        // Four sums, so that loads set the pace and not one chain; what is added does not matter.
        let mut sums = [s.zero(); 4];
        for vectors in bytemuck::cast_slice::<u64, f32>(self.0).chunks_exact(4 * S::LANES) {
            for (sum, vector) in sums.iter_mut().zip(vectors.chunks_exact(S::LANES)) {
                *sum = *sum + s.load(vector);
            }
        }
        black_box(sums.map(|sum| s.sum(sum)));
    }
}

#[derive(Clone, Copy)]
enum Unit {
    F32,
    Bf16,
    Int8,
}

/// Operations a second.
fn arithmetic(pool: &Pool, unit: Unit) -> f64 {
    let threads = pool.threads();
    let operations = std::sync::atomic::AtomicUsize::new(0);
    let start = Instant::now();
    // More tasks than threads, so that none waits long for another that was slowed down.
    pool.run(4 * threads, |_, _| {
        let done = f32::dispatch(Chains { unit, rounds: ROUNDS / 4 });
        operations.fetch_add(done, std::sync::atomic::Ordering::Relaxed);
    });
    operations.into_inner() as f64 / start.elapsed().as_secs_f64()
}

struct Chains {
    unit: Unit,
    rounds: usize,
}

impl Kernel<f32> for Chains {
    type Out = usize;
    /// Returns how many operations it did.
    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) -> usize {
        let rounds = if isa() == Isa::Portable { self.rounds / 64 } else { self.rounds };
        let operations = match self.unit {
            Unit::F32 => {
                let (a, b) = (s.splat(black_box(0.999)), s.splat(black_box(1e-3)));
                let mut chains = [s.zero(); CHAINS];
                for _ in 0..rounds {
                    for chain in &mut chains {
                        *chain = s.fma(*chain, a, b);
                    }
                }
                black_box(chains.map(|c| s.sum(c)));
                2 * S::LANES
            }
            Unit::Bf16 => {
                let (a, b) = (s.splat_pair(black_box(0x3a83_3a83)), s.splat_pair(black_box(0x3f7f_3f7f)));
                let mut chains = [s.zero(); CHAINS];
                for _ in 0..rounds {
                    for chain in &mut chains {
                        *chain = s.dot_pairs(a, b, *chain);
                    }
                }
                black_box(chains.map(|c| s.sum(c)));
                4 * S::LANES
            }
            Unit::Int8 => {
                let (a, b) = (s.splat_pair(black_box(0x0102_0304)), s.splat_pair(black_box(0x0101_0101)));
                let mut chains = [s.zero_pairs(); CHAINS];
                for _ in 0..rounds {
                    for chain in &mut chains {
                        *chain = s.dot_bytes(a, b, *chain);
                    }
                }
                black_box(chains);
                8 * S::LANES
            }
        };
        operations * CHAINS * rounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_positive_and_ordered_as_widths_are() {
        let memory = vec![1u64; 1 << 20];
        let limits = Limits::measure(&Pool::new(2), &memory);
        assert_eq!(limits.threads, 2);
        for (name, rate) in [
            ("read_gbps", limits.read_gbps),
            ("f32_gflops", limits.f32_gflops),
            ("bf16_gflops", limits.bf16_gflops),
            ("int8_gops", limits.int8_gops),
        ] {
            assert!(rate > 0.01 && rate < 1e6, "{name} {rate}");
        }
        if isa() == Isa::Avx512 {
            assert!(limits.bf16_gflops > limits.f32_gflops && limits.int8_gops > limits.bf16_gflops, "{limits:?}");
        }
    }
}
