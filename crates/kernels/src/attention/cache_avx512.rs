//! Decoding tiles of a cache with AVX-512.

use super::visible::TILE;
use std::arch::x86_64::*;

#[inline(always)]
fn first(n: usize) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

/// f16 (or bf16) rows transposed to f32: pairs of elements first, as if they were 32 bits wide.
///
/// # Safety
/// `n` rows of `width` exist; `out` holds `width` rows of 64.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn transpose_halves<const F16: bool>(
    from: *const u8,
    stride: usize,
    n: usize,
    width: usize,
    out: *mut f32,
) {
    // SAFETY: masks end at the last row and element; `out` is as large as the caller says.
    unsafe {
        for j in (0..n).step_by(16) {
            let part = (n - j).min(16);
            let columns = first(part) as __mmask16;
            for d in (0..width).step_by(32) {
                let left = (width - d).min(32);
                let mut pairs = [_mm512_setzero_si512(); 16];
                for (i, pairs) in pairs.iter_mut().enumerate().take(part) {
                    let row = from.add((j + i) * stride + 2 * d);
                    *pairs = _mm512_maskz_loadu_epi16(first(left) as __mmask32, row.cast());
                }
                for (i, &pair) in transpose_16(pairs).iter().enumerate().take(left.div_ceil(2)) {
                    let [low, high] = if F16 { halves_to_floats(pair) } else { brains_to_floats(pair) };
                    let to = out.add((d + 2 * i) * TILE + j);
                    _mm512_mask_storeu_ps(to, columns, low);
                    if 2 * i + 1 < left {
                        _mm512_mask_storeu_ps(to.add(TILE), columns, high);
                    }
                }
            }
        }
    }
}

/// f16 (or bf16) rows to f32.
///
/// # Safety
/// `n` rows of `width` exist; `out` holds as many of `padded`, a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn copy_halves<const F16: bool>(
    from: *const u8,
    stride: usize,
    n: usize,
    width: usize,
    padded: usize,
    out: *mut f32,
) {
    for j in 0..n {
        let row = from.wrapping_add(j * stride);
        for d in (0..padded).step_by(16) {
            let mask = first(width.saturating_sub(d).min(16)) as __mmask16;
            // SAFETY: the mask ends at the row's end; `padded` is a multiple of 16.
            unsafe {
                let halves = _mm256_maskz_loadu_epi16(mask, row.add(2 * d).cast());
                let x = if F16 {
                    _mm512_cvtph_ps(halves)
                } else {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
                };
                _mm512_storeu_ps(out.add(j * padded + d), x);
            }
        }
    }
}

/// Q8_0 rows transposed to f32: four codes at a time, as if they were 32 bits wide.
///
/// # Safety
/// `n` rows of `width` (a multiple of 32) exist; `out` holds `width` rows of 64.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn transpose_q8_0(from: *const u8, stride: usize, n: usize, width: usize, out: *mut f32) {
    // SAFETY: rows from n on are not read, and their columns not written.
    unsafe {
        for j in (0..n).step_by(16) {
            let part = (n - j).min(16);
            let columns = first(part) as __mmask16;
            for d in (0..width).step_by(64) {
                let blocks = (width - d).min(64) / 32;
                let mut codes = [_mm512_setzero_si512(); 16];
                let mut scales = [[0u16; 16]; 2];
                for (i, codes) in codes.iter_mut().enumerate().take(part) {
                    let block = from.add((j + i) * stride + d / 32 * 34);
                    scales[0][i] = block.cast::<u16>().read_unaligned();
                    *codes = _mm512_castsi256_si512(_mm256_loadu_si256(block.add(2).cast()));
                    if blocks == 2 {
                        scales[1][i] = block.add(34).cast::<u16>().read_unaligned();
                        *codes = _mm512_inserti64x4::<1>(*codes, _mm256_loadu_si256(block.add(36).cast()));
                    }
                }
                let codes = transpose_16(codes);
                for b in 0..blocks {
                    let scale = _mm512_cvtph_ps(_mm256_loadu_si256(scales[b].as_ptr().cast()));
                    let bias = bias_of(scale);
                    for (i, &four) in codes[8 * b..8 * b + 8].iter().enumerate() {
                        for (c, x) in codes_to_floats(four, scale, bias).into_iter().enumerate() {
                            let to = out.add((d + 32 * b + 4 * i + c) * TILE + j);
                            _mm512_mask_storeu_ps(to, columns, x);
                        }
                    }
                }
            }
        }
    }
}

/// Q8_0 rows to f32.
///
/// # Safety
/// `n` rows of `width` (a multiple of 32) exist; `out` holds as many of `padded`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) unsafe fn copy_q8_0(from: *const u8, stride: usize, n: usize, width: usize, padded: usize, out: *mut f32) {
    for j in 0..n {
        let row = from.wrapping_add(j * stride);
        for d in (0..width).step_by(32) {
            // SAFETY: whole blocks exist; `padded` is not below `width`.
            unsafe {
                let [low, high] = block_to_floats(row.add(d / 32 * 34));
                _mm512_storeu_ps(out.add(j * padded + d), low);
                _mm512_storeu_ps(out.add(j * padded + d + 16), high);
            }
        }
    }
}

/// 16 × 16 elements of 32 bits, transposed.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_16(r: [__m512i; 16]) -> [__m512i; 16] {
    let mut a = r;
    // Pairs of rows, then fours: within each 128 bits.
    for i in 0..8 {
        a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..4 {
        for h in 0..2 {
            b[4 * i + 2 * h] = _mm512_unpacklo_epi64(a[4 * i + h], a[4 * i + h + 2]);
            b[4 * i + 2 * h + 1] = _mm512_unpackhi_epi64(a[4 * i + h], a[4 * i + h + 2]);
        }
    }
    // b[4i + c] holds column 4l + c of rows 4i .. 4i + 4 in its 128-bit lane l.
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(b[c], b[4 + c]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(b[c], b[4 + c]);
        let low_2 = _mm512_shuffle_i32x4::<0x88>(b[8 + c], b[12 + c]);
        let odd_2 = _mm512_shuffle_i32x4::<0xdd>(b[8 + c], b[12 + c]);
        a[c] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
        a[8 + c] = _mm512_shuffle_i32x4::<0xdd>(low, low_2);
        a[4 + c] = _mm512_shuffle_i32x4::<0x88>(odd, odd_2);
        a[12 + c] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_2);
    }
    a
}

/// The first and the second of 16 pairs of f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn halves_to_floats(pairs: __m512i) -> [__m512; 2] {
    let order = _mm512_set_epi16(
        31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4,
        2, 0,
    );
    let halves = _mm512_permutexvar_epi16(order, pairs);
    [_mm512_cvtph_ps(_mm512_castsi512_si256(halves)), _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves))]
}

/// The first and the second of 16 pairs of bf16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn brains_to_floats(pairs: __m512i) -> [__m512; 2] {
    let high = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(high)]
}

/// What [`codes_to_floats`] adds for a scale.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn bias_of(scale: __m512) -> __m512 {
    _mm512_mul_ps(scale, _mm512_set1_ps(-32896.0))
}

/// Four signed bytes of each lane times its scale.
///
/// Code c becomes the float 32768 + 128 + c by placing its bits, and `fma` takes the offset off
/// again; both products are exact, and so is the result.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn codes_to_floats(codes: __m512i, scale: __m512, bias: __m512) -> [__m512; 4] {
    let (byte, offset) = (_mm512_set1_epi32(0xff00), _mm512_set1_epi32(0x4700_8000));
    let places = [_mm512_slli_epi32::<8>(codes), codes, _mm512_srli_epi32::<8>(codes), _mm512_srli_epi32::<16>(codes)];
    let mut values = [bias; 4];
    for (value, place) in values.iter_mut().zip(places) {
        // offset ^ (place & byte)
        let x = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(offset, place, byte));
        *value = _mm512_fmadd_ps(x, scale, bias);
    }
    values
}

/// The 32 values of a block of Q8_0.
///
/// # Safety
/// It is 34 bytes long.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
pub(super) unsafe fn block_to_floats(block: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's.
    unsafe {
        let scale = _mm_cvtsi32_si128(i32::from(block.cast::<u16>().read_unaligned()));
        let scale = _mm512_broadcastss_ps(_mm_cvtph_ps(scale));
        let codes = [_mm_loadu_si128(block.add(2).cast()), _mm_loadu_si128(block.add(18).cast())];
        [
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes[0])), scale),
            _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes[1])), scale),
        ]
    }
}
