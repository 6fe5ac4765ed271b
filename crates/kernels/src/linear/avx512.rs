//! 16 lanes: AVX-512 F, BW, DQ, VL, VNNI and BF16.

use super::lanes::{HalfTable, Lanes, Rows};
use std::arch::x86_64::*;

/// 16 weight rows at a time.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Transposes four rows of four words in each quarter.
#[inline(always)]
unsafe fn transpose_4(r: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let (a, b) = (_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]));
        let (c, d) = (_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3]));
        [
            _mm512_unpacklo_epi64(a, c),
            _mm512_unpackhi_epi64(a, c),
            _mm512_unpacklo_epi64(b, d),
            _mm512_unpackhi_epi64(b, d),
        ]
    }
}

impl Lanes for Avx512 {
    type V = __m512i;
    type F = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: i32) -> __m512i {
        // SAFETY: as the trait's; so for all functions here.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn times(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn select<const MASK: i32>(a: __m512i, b: __m512i) -> __m512i {
        // The truth table of `mask ? a : b`.
        const CHOOSE: i32 = 0b1100_1010;
        // SAFETY: as above.
        unsafe { _mm512_ternarylogic_epi32::<CHOOSE>(_mm512_set1_epi32(MASK), a, b) }
    }
    #[inline(always)]
    unsafe fn shl<const BITS: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_slli_epi32::<BITS>(a) }
    }
    #[inline(always)]
    unsafe fn shr<const BITS: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi32::<BITS>(a) }
    }
    #[inline(always)]
    unsafe fn sar<const BITS: u32>(a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srai_epi32::<BITS>(a) }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: __m512i) -> __m512i {
        // SAFETY: as above; the table has the 16 bytes read.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), a) }
    }
    #[inline(always)]
    unsafe fn lookup_halves(table: &HalfTable, a: __m512i) -> __m512i {
        // SAFETY: as above; the table has twice the 64 bytes read.
        unsafe {
            let half = |i: usize| _mm512_loadu_si512(table.halves[32 * i..].as_ptr().cast());
            _mm512_permutex2var_epi16(half(0), a, half(1))
        }
    }
    #[inline(always)]
    unsafe fn spread_to_bit_4(a: __m512i) -> __m512i {
        const SPREAD: [u32; 16] = {
            let mut t = [0; 16];
            let mut i = 0u32;
            while i < 16 {
                t[i as usize] = ((i & 1) << 4) | ((i & 2) << 11) | ((i & 4) << 18) | ((i & 8) << 25);
                i += 1;
            }
            t
        };
        // SAFETY: as above; the table has the 64 bytes read.
        unsafe { _mm512_permutexvar_epi32(a, _mm512_loadu_si512(SPREAD.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m512i, codes: __m512i, x: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn dot_halves(acc: __m512i, w: __m512i, x: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: __m512, w: __m512i, x: i32) -> __m512 {
        // SAFETY: as above; the transmutes are between types of 64 bytes without invalid values.
        unsafe {
            let bf16 = |v| std::mem::transmute::<__m512i, __m512bh>(v);
            _mm512_dpbf16_ps(acc, bf16(w), bf16(_mm512_set1_epi32(x)))
        }
    }
    #[inline(always)]
    unsafe fn to_f(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_castsi512_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_v(a: __m512) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_castps_si512(a) }
    }
    #[inline(always)]
    unsafe fn low_half(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a)) }
    }
    #[inline(always)]
    unsafe fn high_half(a: __m512i) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(a))) }
    }
    #[inline(always)]
    unsafe fn halves(a: __m512i) -> (__m512, __m512) {
        const LOW_THEN_HIGH: [u16; 32] = {
            let mut t = [0; 32];
            let mut i = 0;
            while i < 16 {
                t[i] = 2 * i as u16;
                t[i + 16] = 2 * i as u16 + 1;
                i += 1;
            }
            t
        };
        // SAFETY: as above; the table has the 64 bytes read.
        unsafe {
            let both = _mm512_permutexvar_epi16(_mm512_loadu_si512(LOW_THEN_HIGH.as_ptr().cast()), a);
            (_mm512_cvtph_ps(_mm512_castsi512_si256(both)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(both)))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(v: __m512i, p: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_f(p: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_f(v: __m512, p: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m512 {
        // SAFETY: as above; lanes that the mask leaves out are not read.
        unsafe { if n >= 16 { _mm512_loadu_ps(p) } else { _mm512_maskz_loadu_ps((1 << n) - 1, p) } }
    }
    #[inline(always)]
    unsafe fn store_part(v: __m512, p: *mut f32, n: usize) {
        // SAFETY: as above; lanes that the mask leaves out are not written.
        unsafe { if n >= 16 { _mm512_storeu_ps(p, v) } else { _mm512_mask_storeu_ps(p, (1 << n) - 1, v) } }
    }
    #[inline(always)]
    unsafe fn gather2(rows: &Rows, at: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let h = |i: usize| rows.0[i].add(at).cast::<i16>().read_unaligned();
            let low = _mm_set_epi16(h(7), h(6), h(5), h(4), h(3), h(2), h(1), h(0));
            let high = _mm_set_epi16(h(15), h(14), h(13), h(12), h(11), h(10), h(9), h(8));
            _mm512_cvtepu16_epi32(_mm256_set_m128i(high, low))
        }
    }
    #[inline(always)]
    unsafe fn gather4(rows: &Rows, at: usize) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let w = |i: usize| rows.0[i].add(at).cast::<i32>().read_unaligned();
            let quad = |i: usize| _mm_set_epi32(w(i + 3), w(i + 2), w(i + 1), w(i));
            let low = _mm256_set_m128i(quad(4), quad(0));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), _mm256_set_m128i(quad(12), quad(8)))
        }
    }
    #[inline(always)]
    unsafe fn gather16(rows: &Rows, at: usize) -> [__m512i; 4] {
        // SAFETY: as above.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(rows.0[i].add(at).cast());
            // Quarter l of vector j is row 4l + j, so that the transposed lanes are in order.
            let quarters = |j: usize| {
                let v = _mm512_castsi128_si512(row(j));
                let v = _mm512_inserti32x4::<1>(v, row(4 + j));
                let v = _mm512_inserti32x4::<2>(v, row(8 + j));
                _mm512_inserti32x4::<3>(v, row(12 + j))
            };
            transpose_4([quarters(0), quarters(1), quarters(2), quarters(3)])
        }
    }
    #[inline(always)]
    unsafe fn gather32(rows: &Rows, at: usize) -> [__m512i; 8] {
        // SAFETY: as above.
        unsafe {
            let row = |i: usize| _mm256_loadu_si256(rows.0[i].add(at).cast());
            // The low half is a row of the first or third four, the high half one of the four after it.
            let halves = |i: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(row(i)), row(i + 4));
            let a = transpose_4([halves(0), halves(1), halves(2), halves(3)]);
            let b = transpose_4([halves(8), halves(9), halves(10), halves(11)]);
            let low = |i: usize| _mm512_shuffle_i32x4::<0b10_00_10_00>(a[i], b[i]);
            let high = |i: usize| _mm512_shuffle_i32x4::<0b11_01_11_01>(a[i], b[i]);
            [low(0), low(1), low(2), low(3), high(0), high(1), high(2), high(3)]
        }
    }
    #[inline(always)]
    unsafe fn prefetch_near(p: *const u8) {
        // SAFETY: as above; a prefetch reads nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: as above; a prefetch reads nothing that a program can see.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
}
