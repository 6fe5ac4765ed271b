//! Vectors of an instruction set behind one trait, so that a kernel's body is written once.
//!
//! A kernel is a struct with its arguments that implements [`Kernel`]; `T::dispatch(kernel)` (of
//! [`Real`](crate::Real)) picks the instruction set and calls `run` inside a function compiled for
//! it. The token `S` that `run` receives proves that the processor has the instruction set: only
//! this module makes one, and vectors come only from tokens, so all operations on vectors are
//! safe. Bodies and everything that they call with a token must be `#[inline(always)]`, or their
//! intrinsics become calls.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod math;
mod portable;

pub use portable::Portable;

use crate::{Isa, Real, isa};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// One vector of elements.
pub trait Vector:
    Copy
    + Send
    + Sync
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
}

/// An instruction set, as a token: having one proves that the processor can run it.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Element type.
    type E: Real;
    /// A vector of [`Simd::LANES`] elements.
    type V: Vector;
    /// One truth value a lane.
    type M: Copy;
    /// A pair of bf16 a lane, the first in the lower half of 32 bits.
    type P: Copy;
    /// Elements in a vector.
    const LANES: usize;
    /// Rows of the tile of a matrix product that fits the registers, with two vectors of columns.
    const TILE_ROWS: usize;

    /// All lanes `x`.
    fn splat(self, x: Self::E) -> Self::V;
    /// The first lanes of `x`, which has at least [`Simd::LANES`] elements.
    fn load(self, x: &[Self::E]) -> Self::V;
    /// All of `x`, which has at most [`Simd::LANES`] elements; lanes beyond are 0.
    fn load_part(self, x: &[Self::E]) -> Self::V;
    /// Stores all lanes to the start of `x`.
    fn store(self, v: Self::V, x: &mut [Self::E]);
    /// Stores the first `x.len()` lanes, at most all.
    fn store_part(self, v: Self::V, x: &mut [Self::E]);
    /// As [`Simd::load`], from a pointer of any alignment.
    ///
    /// # Safety
    /// `x` is valid for reading [`Simd::LANES`] elements.
    unsafe fn load_ptr(self, x: *const Self::E) -> Self::V;
    /// As [`Simd::store`], to a pointer of any alignment.
    ///
    /// # Safety
    /// `x` is valid for writing [`Simd::LANES`] elements.
    unsafe fn store_ptr(self, v: Self::V, x: *mut Self::E);
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root, correctly rounded.
    fn sqrt(self, v: Self::V) -> Self::V;
    /// Absolute value.
    fn abs(self, v: Self::V) -> Self::V;
    /// `a < b`.
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a` where the mask is true, else `b`.
    fn select(self, m: Self::M, a: Self::V, b: Self::V) -> Self::V;
    /// Mask of the lanes below `n`.
    fn first(self, n: usize) -> Self::M;
    /// Sum of all lanes, halves added to each other until one is left.
    fn sum(self, v: Self::V) -> Self::E;
    /// Greatest lane.
    fn reduce_max(self, v: Self::V) -> Self::E;
    /// e to the power of each lane; error at most 2 units in the last place, denormal results included.
    fn exp(self, v: Self::V) -> Self::V;
    /// Natural logarithm; error at most 2 units in the last place.
    fn ln(self, v: Self::V) -> Self::V;
    /// `ln(1 + x)` for x ≥ 0, exact for small x.
    fn ln_1p(self, v: Self::V) -> Self::V;
    /// Hyperbolic tangent.
    fn tanh(self, v: Self::V) -> Self::V;
    /// Error function.
    fn erf(self, v: Self::V) -> Self::V;
    /// Transposes the square block whose rows are the first [`Simd::LANES`] of `v`.
    fn transpose(self, v: &mut [Self::V; 16]);
    /// As [`Simd::transpose`], of pairs.
    fn transpose_pairs(self, v: &mut [Self::P; 16]);
    /// No pair but zeros.
    fn zero_pairs(self) -> Self::P;
    /// The same pair in all lanes.
    fn splat_pair(self, x: u32) -> Self::P;
    /// [`Simd::LANES`] pairs from memory of any alignment.
    ///
    /// # Safety
    /// `x` is valid for reading them.
    unsafe fn load_pairs(self, x: *const u32) -> Self::P;
    /// Stores the first `x.len()` pairs, at most all.
    fn store_pairs(self, v: Self::P, x: &mut [u32]);
    /// Lane i is (`even[i]`, `odd[i]`), each rounded to the nearest bf16, ties to even.
    fn round_pairs(self, even: Self::V, odd: Self::V) -> Self::P;
    /// The elements of `first`, then those of `second`, rounded as in [`Simd::round_pairs`], two neighbours a lane.
    fn round_neighbours(self, first: Self::V, second: Self::V) -> Self::P;
    /// `c + a[0] b[0] + a[1] b[1]` a lane, accumulated in the element type.
    fn dot_pairs(self, a: Self::P, b: Self::P, c: Self::V) -> Self::V;
    /// A lane's `c` plus the products of its four bytes, unsigned in `a`, signed in `b`.
    ///
    /// AVX2 saturates the sum of two products to 16 bits: `a` below 128 keeps clear of it.
    fn dot_bytes(self, a: Self::P, b: Self::P, c: Self::P) -> Self::P;
    /// 1 / (1 + e^-x).
    #[inline(always)]
    fn sigmoid(self, v: Self::V) -> Self::V {
        let one = self.splat(Self::E::ONE);
        one / (one + self.exp(-v))
    }
    /// All lanes 0.
    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(Self::E::ZERO)
    }
    /// `x.len()` elements at `x`, padded with 0: [`Simd::load`] or [`Simd::load_part`].
    #[inline(always)]
    fn load_any(self, x: &[Self::E]) -> Self::V {
        if x.len() >= Self::LANES { self.load(x) } else { self.load_part(x) }
    }
    /// Stores as many lanes as `x` has room for.
    #[inline(always)]
    fn store_any(self, v: Self::V, x: &mut [Self::E]) {
        if x.len() >= Self::LANES { self.store(v, x) } else { self.store_part(v, x) }
    }
}

/// Asks the processor to bring the cache line of element `at` of `x` into its second-level cache.
#[inline(always)]
pub fn prefetch<T>(x: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless, and its instruction is in every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(x.as_ptr().wrapping_add(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, at);
}

/// A kernel with its arguments: one body for every instruction set.
pub trait Kernel<T: Real> {
    /// What the kernel returns.
    type Out;
    /// The body; mark it `#[inline(always)]`.
    fn run<S: Simd<E = T>>(self, s: S) -> Self::Out;
}

/// Runs an f32 kernel with the instruction set in use.
#[inline(always)]
pub fn dispatch_f32<K: Kernel<f32>>(kernel: K) -> K::Out {
    match isa() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is at most what it found.
        Isa::Avx512 => unsafe { avx512::run(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `isa` is at most what it found.
        Isa::Avx2 => unsafe { avx2::run(kernel) },
        _ => kernel.run(Portable::new()),
    }
}

/// Runs an f32 kernel with `isa`, for tests; it must not be stronger than what the processor has.
///
/// # Panics
/// If the processor lacks the instruction set.
#[cfg(test)]
pub fn dispatch_f32_with<K: Kernel<f32>>(isa: Isa, kernel: K) -> K::Out {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => {
            assert!(Isa::detect() >= Isa::Avx512, "this processor has no AVX-512 with VNNI and BF16");
            // SAFETY: checked above.
            unsafe { avx512::run(kernel) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            assert!(Isa::detect() >= Isa::Avx2, "this processor has no AVX2 with FMA");
            // SAFETY: checked above.
            unsafe { avx2::run(kernel) }
        }
        _ => kernel.run(Portable::new()),
    }
}

/// Runs an f64 kernel: the portable body, compiled for the processor's fused multiply-add if it has one.
#[inline(always)]
pub fn dispatch_f64<K: Kernel<f64>>(kernel: K) -> K::Out {
    #[cfg(target_arch = "x86_64")]
    if isa() >= Isa::Avx2 {
        // SAFETY: `isa` found AVX2 and FMA.
        return unsafe { avx2::run_f64(kernel) };
    }
    kernel.run(Portable::new())
}

#[cfg(test)]
mod tests;
