//! 8 lanes: AVX2, FMA and F16C.

use super::lanes::{HalfTable, Lanes, Rows};
use std::arch::x86_64::*;

/// 8 weight rows at a time.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Transposes four rows of four words in each half.
#[inline(always)]
unsafe fn transpose_4(r: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let (a, b) = (_mm256_unpacklo_epi32(r[0], r[1]), _mm256_unpackhi_epi32(r[0], r[1]));
        let (c, d) = (_mm256_unpacklo_epi32(r[2], r[3]), _mm256_unpackhi_epi32(r[2], r[3]));
        [
            _mm256_unpacklo_epi64(a, c),
            _mm256_unpackhi_epi64(a, c),
            _mm256_unpacklo_epi64(b, d),
            _mm256_unpackhi_epi64(b, d),
        ]
    }
}

/// Denormals become zero of the same sign.
#[inline(always)]
unsafe fn flush(v: __m256) -> __m256 {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        let exponent = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7f80_0000));
        let small = _mm256_castsi256_ps(_mm256_cmpeq_epi32(exponent, _mm256_setzero_si256()));
        _mm256_blendv_ps(v, _mm256_and_ps(v, _mm256_set1_ps(-0.0)), small)
    }
}

/// The lanes below `n`.
#[inline(always)]
unsafe fn mask(n: usize) -> __m256i {
    // SAFETY: the caller promises the instruction set.
    unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
}

impl Lanes for Avx2 {
    type V = __m256i;
    type F = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(x: i32) -> __m256i {
        // SAFETY: as the trait's; so for all functions here.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn times(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_mullo_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_xor_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn select<const MASK: i32>(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let mask = _mm256_set1_epi32(MASK);
            _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b))
        }
    }
    #[inline(always)]
    unsafe fn shl<const BITS: u32>(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(BITS as i32)) }
    }
    #[inline(always)]
    unsafe fn shr<const BITS: u32>(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(BITS as i32)) }
    }
    #[inline(always)]
    unsafe fn sar<const BITS: u32>(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_sra_epi32(a, _mm_cvtsi32_si128(BITS as i32)) }
    }
    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], a: __m256i) -> __m256i {
        // SAFETY: as above; the table has the 16 bytes read.
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), a) }
    }
    #[inline(always)]
    unsafe fn lookup_halves(table: &HalfTable, a: __m256i) -> __m256i {
        // SAFETY: as above; the tables have the 16 bytes read.
        unsafe {
            // The index in both bytes of a half: one looks up the low byte, the other the high one.
            let (low, high) = (0x0606_0404_0202_0000, 0x0e0e_0c0c_0a0a_0808);
            let index = _mm256_shuffle_epi8(a, _mm256_set_epi64x(high, low, high, low));
            let entry = _mm256_and_si256(index, _mm256_set1_epi8(15));
            let bytes = |t: &[u8; 16]| {
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(t.as_ptr().cast())), entry)
            };
            let odd_bytes = _mm256_set1_epi16(-256);
            let sixteen = |i: usize| _mm256_blendv_epi8(bytes(&table.low[i]), bytes(&table.high[i]), odd_bytes);
            // Bits 4 and 5 of the index, each where a blend looks for it: on top of a byte.
            let (bit_4, bit_5) = (_mm256_slli_epi16::<3>(index), _mm256_slli_epi16::<2>(index));
            let below = _mm256_blendv_epi8(sixteen(0), sixteen(1), bit_4);
            let above = _mm256_blendv_epi8(sixteen(2), sixteen(3), bit_4);
            _mm256_blendv_epi8(below, above, bit_5)
        }
    }
    #[inline(always)]
    unsafe fn spread_to_bit_4(a: __m256i) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let bit = |v: __m256i, mask: i32| _mm256_and_si256(v, _mm256_set1_epi32(mask));
            let low = _mm256_or_si256(bit(_mm256_slli_epi32::<4>(a), 0x10), bit(_mm256_slli_epi32::<11>(a), 0x1000));
            let high = _mm256_or_si256(
                bit(_mm256_slli_epi32::<18>(a), 0x10_0000),
                bit(_mm256_slli_epi32::<25>(a), 0x1000_0000),
            );
            _mm256_or_si256(low, high)
        }
    }
    #[inline(always)]
    unsafe fn dot<const WIDE: bool>(acc: __m256i, codes: __m256i, x: i32) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let x = _mm256_set1_epi32(x);
            if WIDE {
                // Pairs of products of 8-bit codes overflow 16 bits: even and odd bytes are widened apart.
                let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                let odd = _mm256_srai_epi16::<8>(x);
                let codes_even = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
                let codes_odd = _mm256_srli_epi16::<8>(codes);
                let sum = _mm256_add_epi32(_mm256_madd_epi16(codes_even, even), _mm256_madd_epi16(codes_odd, odd));
                _mm256_add_epi32(acc, sum)
            } else {
                // 2 · 127 · 127 fits 16 bits.
                let pairs = _mm256_maddubs_epi16(codes, x);
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
    }
    #[inline(always)]
    unsafe fn dot_halves(acc: __m256i, w: __m256i, x: i32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(w, _mm256_set1_epi32(x))) }
    }
    #[inline(always)]
    unsafe fn dot_bf16(acc: __m256, w: __m256i, x: i32) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let low = |v: __m256i| flush(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)));
            let high =
                |v: __m256i| flush(_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000_u32 as i32))));
            let x = _mm256_set1_epi32(x);
            let odd = flush(_mm256_fmadd_ps(high(w), high(x), flush(acc)));
            flush(_mm256_fmadd_ps(low(w), low(x), odd))
        }
    }
    #[inline(always)]
    unsafe fn to_f(a: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_cvtepi32_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_f(a: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_castsi256_ps(a) }
    }
    #[inline(always)]
    unsafe fn as_v(a: __m256) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_castps_si256(a) }
    }
    #[inline(always)]
    unsafe fn low_half(a: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let a = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256::<1>(a));
            _mm256_cvtph_ps(packed)
        }
    }
    #[inline(always)]
    unsafe fn high_half(a: __m256i) -> __m256 {
        // SAFETY: as above.
        unsafe { Self::low_half(_mm256_srli_epi32::<16>(a)) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(v: __m256i, p: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_si256(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_f(p: *const u8) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_f(v: __m256, p: *mut u8) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize) -> __m256 {
        // SAFETY: as above; lanes that the mask leaves out are not read.
        unsafe { if n >= 8 { _mm256_loadu_ps(p) } else { _mm256_maskload_ps(p, mask(n)) } }
    }
    #[inline(always)]
    unsafe fn store_part(v: __m256, p: *mut f32, n: usize) {
        // SAFETY: as above; lanes that the mask leaves out are not written.
        unsafe { if n >= 8 { _mm256_storeu_ps(p, v) } else { _mm256_maskstore_ps(p, mask(n), v) } }
    }
    #[inline(always)]
    unsafe fn gather2(rows: &Rows, at: usize) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let h = |i: usize| rows.0[i].add(at).cast::<i16>().read_unaligned();
            _mm256_cvtepu16_epi32(_mm_set_epi16(h(7), h(6), h(5), h(4), h(3), h(2), h(1), h(0)))
        }
    }
    #[inline(always)]
    unsafe fn gather4(rows: &Rows, at: usize) -> __m256i {
        // SAFETY: as above.
        unsafe {
            let w = |i: usize| rows.0[i].add(at).cast::<i32>().read_unaligned();
            _mm256_set_epi32(w(7), w(6), w(5), w(4), w(3), w(2), w(1), w(0))
        }
    }
    #[inline(always)]
    unsafe fn gather16(rows: &Rows, at: usize) -> [__m256i; 4] {
        // SAFETY: as above.
        unsafe {
            let row = |i: usize| _mm_loadu_si128(rows.0[i].add(at).cast());
            let halves = |i: usize| _mm256_set_m128i(row(i + 4), row(i));
            transpose_4([halves(0), halves(1), halves(2), halves(3)])
        }
    }
    #[inline(always)]
    unsafe fn gather32(rows: &Rows, at: usize) -> [__m256i; 8] {
        // SAFETY: as above.
        unsafe {
            let [a, b, c, d] = Self::gather16(rows, at);
            let [e, f, g, h] = Self::gather16(rows, at + 16);
            [a, b, c, d, e, f, g, h]
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
