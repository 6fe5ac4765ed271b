//! AVX2 and FMA: 8 lanes of f32.

use super::math::{self, Exponent};
use super::{Kernel, Portable, Simd, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The token of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

/// 8 lanes of f32; only an [`Avx2`] token makes one, so the processor has the instructions.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x8(__m256);

/// # Safety
/// The processor has the instruction sets named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel<f32>>(kernel: K) -> K::Out {
    kernel.run(Avx2(()))
}

/// # Safety
/// The processor has the instruction sets named here.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_f64<K: Kernel<f64>>(kernel: K) -> K::Out {
    kernel.run(Portable::new())
}

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F32x8 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, o: Self) -> Self {
                // SAFETY: the vector came from a token.
                F32x8(unsafe { $intrinsic(self.0, o.0) })
            }
        }
    };
}
operator!(Add, add, _mm256_add_ps);
operator!(Sub, sub, _mm256_sub_ps);
operator!(Mul, mul, _mm256_mul_ps);
operator!(Div, div, _mm256_div_ps);

impl Neg for F32x8 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: the vector came from a token.
        F32x8(unsafe { _mm256_xor_ps(self.0, _mm256_set1_ps(-0.0)) })
    }
}

impl Vector for F32x8 {}

/// Sixteen integers of which 8 in a row, from 8 - n on, mark the first n lanes.
static LANES_BELOW: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
unsafe fn lanes_below(n: usize) -> __m256i {
    let n = n.min(8);
    // SAFETY: 8 integers from 8 - n on lie inside the table; the caller has AVX2.
    unsafe { _mm256_loadu_si256(LANES_BELOW.as_ptr().add(8 - n).cast()) }
}

// SAFETY of every block below: `self` proves that the processor has AVX2; memory accesses stay
// inside slices whose length is asserted, or are the caller's promise in the `_ptr` methods.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    type E = f32;
    type V = F32x8;
    type M = __m256;
    type P = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x8 {
        F32x8(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> F32x8 {
        assert!(x.len() >= 8);
        F32x8(unsafe { _mm256_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> F32x8 {
        assert!(x.len() <= 8);
        F32x8(unsafe { _mm256_maskload_ps(x.as_ptr(), lanes_below(x.len())) })
    }
    #[inline(always)]
    fn store(self, v: F32x8, x: &mut [f32]) {
        assert!(x.len() >= 8);
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn store_part(self, v: F32x8, x: &mut [f32]) {
        assert!(x.len() <= 8);
        unsafe { _mm256_maskstore_ps(x.as_mut_ptr(), lanes_below(x.len()), v.0) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> F32x8 {
        F32x8(unsafe { _mm256_loadu_ps(x) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: F32x8, x: *mut f32) {
        unsafe { _mm256_storeu_ps(x, v.0) }
    }
    #[inline(always)]
    fn fma(self, a: F32x8, b: F32x8, c: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_fmadd_ps(a.0, b.0, c.0) })
    }
    #[inline(always)]
    fn max(self, a: F32x8, b: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_max_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn min(self, a: F32x8, b: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_min_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self, v: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_sqrt_ps(v.0) })
    }
    #[inline(always)]
    fn abs(self, v: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), v.0) })
    }
    #[inline(always)]
    fn lt(self, a: F32x8, b: F32x8) -> __m256 {
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a.0, b.0) }
    }
    #[inline(always)]
    fn select(self, m: __m256, a: F32x8, b: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_blendv_ps(b.0, a.0, m) })
    }
    #[inline(always)]
    fn first(self, n: usize) -> __m256 {
        unsafe { _mm256_castsi256_ps(lanes_below(n)) }
    }
    #[inline(always)]
    fn sum(self, v: F32x8) -> f32 {
        unsafe {
            let quarter = _mm_add_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: F32x8) -> f32 {
        unsafe {
            let quarter = _mm_max_ps(_mm256_castps256_ps128(v.0), _mm256_extractf128_ps::<1>(v.0));
            let two = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn exp(self, v: F32x8) -> F32x8 {
        math::exp(self, v)
    }
    #[inline(always)]
    fn ln(self, v: F32x8) -> F32x8 {
        math::ln(self, v)
    }
    #[inline(always)]
    fn ln_1p(self, v: F32x8) -> F32x8 {
        math::ln_1p(self, v)
    }
    #[inline(always)]
    fn tanh(self, v: F32x8) -> F32x8 {
        math::tanh(self, v)
    }
    #[inline(always)]
    fn erf(self, v: F32x8) -> F32x8 {
        math::erf(self, v)
    }
    #[inline(always)]
    fn transpose(self, v: &mut [F32x8; 16]) {
        unsafe {
            let mut t = [_mm256_setzero_ps(); 8];
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(v[2 * i].0, v[2 * i + 1].0);
                t[2 * i + 1] = _mm256_unpackhi_ps(v[2 * i].0, v[2 * i + 1].0);
            }
            let mut u = [_mm256_setzero_ps(); 8];
            for i in 0..2 {
                for j in 0..2 {
                    let (a, b) = (t[4 * i + j], t[4 * i + j + 2]);
                    u[4 * i + 2 * j] = _mm256_shuffle_ps::<0x44>(a, b);
                    u[4 * i + 2 * j + 1] = _mm256_shuffle_ps::<0xee>(a, b);
                }
            }
            for i in 0..4 {
                v[i] = F32x8(_mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]));
                v[i + 4] = F32x8(_mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]));
            }
        }
    }
    #[inline(always)]
    fn transpose_pairs(self, v: &mut [__m256i; 16]) {
        // The vector type is transparent over one of the same size; transposing moves bits only.
        unsafe { self.transpose(&mut *(&raw mut *v).cast::<[F32x8; 16]>()) }
    }
    #[inline(always)]
    fn zero_pairs(self) -> __m256i {
        unsafe { _mm256_setzero_si256() }
    }
    #[inline(always)]
    fn splat_pair(self, x: u32) -> __m256i {
        unsafe { _mm256_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, x: *const u32) -> __m256i {
        unsafe { _mm256_loadu_si256(x.cast()) }
    }
    #[inline(always)]
    fn store_pairs(self, v: __m256i, x: &mut [u32]) {
        assert!(x.len() <= 8);
        unsafe { _mm256_maskstore_epi32(x.as_mut_ptr().cast(), lanes_below(x.len()), v) }
    }
    #[inline(always)]
    fn round_pairs(self, even: F32x8, odd: F32x8) -> __m256i {
        unsafe {
            let low = _mm256_srli_epi32::<16>(round_to_bf16(even.0));
            _mm256_or_si256(low, _mm256_and_si256(round_to_bf16(odd.0), _mm256_set1_epi32(0xffff_0000_u32 as i32)))
        }
    }
    #[inline(always)]
    fn round_neighbours(self, first: F32x8, second: F32x8) -> __m256i {
        unsafe {
            // shuffle takes the even (odd) elements of each 128-bit half; the permutation puts them in order.
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0x88>(first.0, second.0));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0xdd>(first.0, second.0));
            self.round_pairs(
                F32x8(_mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(even))),
                F32x8(_mm256_castpd_ps(_mm256_permute4x64_pd::<0xd8>(odd))),
            )
        }
    }
    #[inline(always)]
    fn dot_bytes(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(c, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1))) }
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m256i, b: __m256i, c: F32x8) -> F32x8 {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let even = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let odd = |x| _mm256_castsi256_ps(_mm256_and_si256(x, high));
            F32x8(_mm256_fmadd_ps(odd(a), odd(b), _mm256_fmadd_ps(even(a), even(b), c.0)))
        }
    }
}

/// The upper half of each lane is the nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
unsafe fn round_to_bf16(v: __m256) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let bits = _mm256_castps_si256(v);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
        _mm256_blendv_epi8(rounded, quiet, nan)
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Exponent for Avx2 {
    #[inline(always)]
    fn round(self, v: F32x8) -> F32x8 {
        F32x8(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v.0) })
    }
    #[inline(always)]
    fn times_power_of_two(self, v: F32x8, n: F32x8) -> F32x8 {
        unsafe {
            // In two steps, so that 2^n is a number for every n down to denormal results: only the
            // second product rounds.
            let n = _mm256_cvtps_epi32(n.0);
            let n1 = _mm256_srai_epi32::<1>(n);
            let n2 = _mm256_sub_epi32(n, n1);
            let power = |n| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))));
            F32x8(_mm256_mul_ps(_mm256_mul_ps(v.0, power(n1)), power(n2)))
        }
    }
    #[inline(always)]
    fn split(self, v: F32x8) -> (F32x8, F32x8) {
        unsafe {
            let normal = _mm256_cmp_ps::<_CMP_GE_OQ>(v.0, _mm256_set1_ps(f32::MIN_POSITIVE));
            let scaled = _mm256_blendv_ps(_mm256_mul_ps(v.0, _mm256_set1_ps(8388608.0)), v.0, normal);
            let bits = _mm256_castps_si256(scaled);
            // Subtracting the bits of 0.75 before taking the exponent rounds it so that the mantissa
            // lies in 0.75 .. 1.5.
            let e = _mm256_srai_epi32::<23>(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f40_0000)));
            let m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(e)));
            let e = _mm256_cvtepi32_ps(e);
            let e = _mm256_blendv_ps(_mm256_sub_ps(e, _mm256_set1_ps(23.0)), e, normal);
            (F32x8(m), F32x8(e))
        }
    }
}
