//! AVX-512: 16 lanes of f32.

use super::math::{self, Exponent};
use super::{Kernel, Simd, Vector};
use std::arch::x86_64::*;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// The token of AVX-512 F, BW, DQ, VL, VNNI and BF16.
#[derive(Clone, Copy)]
pub struct Avx512(());

/// 16 lanes of f32; only an [`Avx512`] token makes one, so the processor has the instructions.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F32x16(pub(crate) __m512);

/// # Safety
/// The processor has the instruction sets named here.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(super) unsafe fn run<K: Kernel<f32>>(kernel: K) -> K::Out {
    kernel.run(Avx512(()))
}

macro_rules! operator {
    ($trait:ident, $method:ident, $intrinsic:ident) => {
        impl $trait for F32x16 {
            type Output = Self;
            #[inline(always)]
            fn $method(self, o: Self) -> Self {
                // SAFETY: the vector came from a token.
                F32x16(unsafe { $intrinsic(self.0, o.0) })
            }
        }
    };
}
operator!(Add, add, _mm512_add_ps);
operator!(Sub, sub, _mm512_sub_ps);
operator!(Mul, mul, _mm512_mul_ps);
operator!(Div, div, _mm512_div_ps);

impl Neg for F32x16 {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        // SAFETY: the vector came from a token.
        F32x16(unsafe { _mm512_xor_ps(self.0, _mm512_set1_ps(-0.0)) })
    }
}

impl Vector for F32x16 {}

#[inline(always)]
fn lanes_below(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1u16 << n) - 1 }
}

// SAFETY of every block below: `self` proves that the processor has AVX-512; memory accesses stay
// inside slices whose length is asserted, or are the caller's promise in the `_ptr` methods.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    type E = f32;
    type V = F32x16;
    type M = __mmask16;
    type P = __m512i;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    fn splat(self, x: f32) -> F32x16 {
        F32x16(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    fn load(self, x: &[f32]) -> F32x16 {
        assert!(x.len() >= 16);
        F32x16(unsafe { _mm512_loadu_ps(x.as_ptr()) })
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> F32x16 {
        assert!(x.len() <= 16);
        F32x16(unsafe { _mm512_maskz_loadu_ps(lanes_below(x.len()), x.as_ptr()) })
    }
    #[inline(always)]
    fn store(self, v: F32x16, x: &mut [f32]) {
        assert!(x.len() >= 16);
        unsafe { _mm512_storeu_ps(x.as_mut_ptr(), v.0) }
    }
    #[inline(always)]
    fn store_part(self, v: F32x16, x: &mut [f32]) {
        assert!(x.len() <= 16);
        unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), lanes_below(x.len()), v.0) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, x: *const f32) -> F32x16 {
        F32x16(unsafe { _mm512_loadu_ps(x) })
    }
    #[inline(always)]
    unsafe fn store_ptr(self, v: F32x16, x: *mut f32) {
        unsafe { _mm512_storeu_ps(x, v.0) }
    }
    #[inline(always)]
    fn fma(self, a: F32x16, b: F32x16, c: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_fmadd_ps(a.0, b.0, c.0) })
    }
    #[inline(always)]
    fn max(self, a: F32x16, b: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_max_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn min(self, a: F32x16, b: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_min_ps(a.0, b.0) })
    }
    #[inline(always)]
    fn sqrt(self, v: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_sqrt_ps(v.0) })
    }
    #[inline(always)]
    fn abs(self, v: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_abs_ps(v.0) })
    }
    #[inline(always)]
    fn lt(self, a: F32x16, b: F32x16) -> __mmask16 {
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a.0, b.0) }
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: F32x16, b: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_mask_blend_ps(m, b.0, a.0) })
    }
    #[inline(always)]
    fn first(self, n: usize) -> __mmask16 {
        lanes_below(n)
    }
    #[inline(always)]
    fn sum(self, v: F32x16) -> f32 {
        unsafe {
            let half = _mm256_add_ps(_mm512_castps512_ps256(v.0), _mm512_extractf32x8_ps::<1>(v.0));
            let quarter = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half));
            let two = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn reduce_max(self, v: F32x16) -> f32 {
        unsafe { _mm512_reduce_max_ps(v.0) }
    }
    #[inline(always)]
    fn exp(self, v: F32x16) -> F32x16 {
        math::exp(self, v)
    }
    #[inline(always)]
    fn ln(self, v: F32x16) -> F32x16 {
        math::ln(self, v)
    }
    #[inline(always)]
    fn ln_1p(self, v: F32x16) -> F32x16 {
        math::ln_1p(self, v)
    }
    #[inline(always)]
    fn tanh(self, v: F32x16) -> F32x16 {
        math::tanh(self, v)
    }
    #[inline(always)]
    fn erf(self, v: F32x16) -> F32x16 {
        math::erf(self, v)
    }
    #[inline(always)]
    fn transpose(self, v: &mut [F32x16; 16]) {
        unsafe {
            let mut t = [_mm512_setzero_ps(); 16];
            for i in 0..8 {
                t[2 * i] = _mm512_unpacklo_ps(v[2 * i].0, v[2 * i + 1].0);
                t[2 * i + 1] = _mm512_unpackhi_ps(v[2 * i].0, v[2 * i + 1].0);
            }
            // u[4 i + j]: in each 128-bit quarter q the elements 4 q + j of rows 4 i .. 4 i + 4.
            let mut u = [_mm512_setzero_ps(); 16];
            for i in 0..4 {
                for j in 0..2 {
                    let (a, b) = (t[4 * i + j], t[4 * i + j + 2]);
                    u[4 * i + 2 * j] = _mm512_shuffle_ps::<0x44>(a, b);
                    u[4 * i + 2 * j + 1] = _mm512_shuffle_ps::<0xee>(a, b);
                }
            }
            for j in 0..4 {
                let (a, b, c, d) = (u[j], u[4 + j], u[8 + j], u[12 + j]);
                let (ab02, ab13) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                let (cd02, cd13) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
                v[j] = F32x16(_mm512_shuffle_f32x4::<0x88>(ab02, cd02));
                v[j + 8] = F32x16(_mm512_shuffle_f32x4::<0xdd>(ab02, cd02));
                v[j + 4] = F32x16(_mm512_shuffle_f32x4::<0x88>(ab13, cd13));
                v[j + 12] = F32x16(_mm512_shuffle_f32x4::<0xdd>(ab13, cd13));
            }
        }
    }
    #[inline(always)]
    fn transpose_pairs(self, v: &mut [__m512i; 16]) {
        // The vector type is transparent over one of the same size; transposing moves bits only.
        unsafe { self.transpose(&mut *(&raw mut *v).cast::<[F32x16; 16]>()) }
    }
    #[inline(always)]
    fn zero_pairs(self) -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn splat_pair(self, x: u32) -> __m512i {
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_pairs(self, x: *const u32) -> __m512i {
        unsafe { _mm512_loadu_si512(x.cast()) }
    }
    #[inline(always)]
    fn store_pairs(self, v: __m512i, x: &mut [u32]) {
        assert!(x.len() <= 16);
        unsafe {
            if x.len() == 16 {
                _mm512_storeu_si512(x.as_mut_ptr().cast(), v);
            } else {
                _mm512_mask_storeu_epi32(x.as_mut_ptr().cast(), lanes_below(x.len()), v);
            }
        }
    }
    #[inline(always)]
    fn round_pairs(self, even: F32x16, odd: F32x16) -> __m512i {
        unsafe {
            let bits = |v| _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v)));
            _mm512_or_si512(bits(even.0), _mm512_slli_epi32::<16>(bits(odd.0)))
        }
    }
    #[inline(always)]
    fn round_neighbours(self, first: F32x16, second: F32x16) -> __m512i {
        unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second.0, first.0)) }
    }
    #[inline(always)]
    fn dot_bytes(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(c, a, b) }
    }
    #[inline(always)]
    fn dot_pairs(self, a: __m512i, b: __m512i, c: F32x16) -> F32x16 {
        unsafe {
            F32x16(_mm512_dpbf16_ps(
                c.0,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            ))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Exponent for Avx512 {
    #[inline(always)]
    fn round(self, v: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(v.0) })
    }
    #[inline(always)]
    fn times_power_of_two(self, v: F32x16, n: F32x16) -> F32x16 {
        F32x16(unsafe { _mm512_scalef_ps(v.0, n.0) })
    }
    #[inline(always)]
    fn split(self, v: F32x16) -> (F32x16, F32x16) {
        unsafe {
            let m = _mm512_getmant_ps::<_MM_MANT_NORM_P75_1P5, _MM_MANT_SIGN_NAN>(v.0);
            // The exponent that belongs to that mantissa: v / m is a power of two.
            let e = _mm512_getexp_ps(v.0);
            let below_one = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(m, _mm512_set1_ps(1.0));
            (F32x16(m), F32x16(_mm512_mask_add_ps(e, below_one, e, _mm512_set1_ps(1.0))))
        }
    }
}
