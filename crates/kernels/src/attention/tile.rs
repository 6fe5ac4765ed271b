//! Bringing a tile of 64 keys close: keys transposed, values in rows padded with zeros.

use super::visible::TILE;
use crate::Real;
use std::ops::Range;

/// Where the keys and values of one sequence and KV head lie.
pub(super) trait Source<T>: Copy + Send + Sync {
    /// Keys `keys` (a part of the tile that begins at `tile`) to columns of `out` `[K, 64]`.
    ///
    /// # Safety
    /// `keys` exist and lie inside the tile; `out` holds K·64 elements.
    unsafe fn keys_transposed(&self, tile: usize, keys: Range<usize>, width: usize, out: *mut T);
    /// Values `keys` to rows of `out` `[64, padded]`, zeros behind `width`.
    ///
    /// # Safety
    /// As above; `out` holds 64·`padded` elements.
    unsafe fn values(&self, tile: usize, keys: Range<usize>, width: usize, padded: usize, out: *mut T);
}

/// Packed tokens: row j of the sequence's keys is at `k + j·k_row`.
#[derive(Clone, Copy)]
pub(super) struct Rows<T> {
    pub k: *const T,
    pub k_row: usize,
    pub v: *const T,
    pub v_row: usize,
}

// SAFETY: the pointers come from shared slices that outlive the call.
unsafe impl<T: Sync> Sync for Rows<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Send for Rows<T> {}

impl<T: Real> Source<T> for Rows<T> {
    #[inline(always)]
    unsafe fn keys_transposed(&self, tile: usize, keys: Range<usize>, width: usize, out: *mut T) {
        // SAFETY: the caller's.
        unsafe {
            let (from, at) = (self.k.add(keys.start * self.k_row), out.add(keys.start - tile));
            transpose(from, self.k_row, keys.len(), width, at);
        }
    }

    #[inline(always)]
    unsafe fn values(&self, tile: usize, keys: Range<usize>, width: usize, padded: usize, out: *mut T) {
        // SAFETY: the caller's.
        unsafe {
            let (from, at) = (self.v.add(keys.start * self.v_row), out.add((keys.start - tile) * padded));
            copy_rows(from, self.v_row, keys.len(), width, at, padded);
        }
    }
}

/// `rows` rows of `width` elements to rows of `padded`, zeros behind.
///
/// # Safety
/// All rows are in bounds on both sides.
#[inline(always)]
pub(super) unsafe fn copy_rows<T: Real>(
    from: *const T,
    from_row: usize,
    rows: usize,
    width: usize,
    to: *mut T,
    padded: usize,
) {
    for j in 0..rows {
        // SAFETY: the caller's.
        unsafe {
            let (source, target) = (from.add(j * from_row), to.add(j * padded));
            std::ptr::copy_nonoverlapping(source, target, width);
            for d in width..padded {
                *target.add(d) = T::ZERO;
            }
        }
    }
}

/// Row j, element d of `from` to `to[d·64 + j]`, for `rows` ≤ 64 rows.
///
/// # Safety
/// All rows are in bounds on both sides.
#[inline(always)]
pub(super) unsafe fn transpose<T: Real>(from: *const T, from_row: usize, rows: usize, width: usize, to: *mut T) {
    #[cfg(target_arch = "x86_64")]
    if size_of::<T>() == 4 && crate::isa() == crate::Isa::Avx512 {
        // SAFETY: the instruction set is there, T is f32, and bounds are the caller's.
        unsafe { avx512::transpose(from.cast(), from_row, rows, width, to.cast()) };
        return;
    }
    for j in 0..rows {
        for d in 0..width {
            // SAFETY: the caller's.
            unsafe { *to.add(d * TILE + j) = *from.add(j * from_row + d) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512 {
    use super::TILE;
    use std::arch::x86_64::*;

    /// 16 × 16 elements of 32 bits, transposed.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(in super::super) fn transpose_16(r: [__m512i; 16]) -> [__m512i; 16] {
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

    /// As [`super::transpose`]; columns up to the next multiple of 16 are written.
    ///
    /// # Safety
    /// All rows are in bounds; `to` holds `width` rows of 64.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(from: *const f32, from_row: usize, rows: usize, width: usize, to: *mut f32) {
        for j in (0..rows).step_by(16) {
            let part = (rows - j).min(16);
            let columns: __mmask16 = if part == 16 { !0 } else { (1 << part) - 1 };
            for d in (0..width).step_by(16) {
                let left = (width - d).min(16);
                let present: __mmask16 = if left == 16 { !0 } else { (1 << left) - 1 };
                let mut block = [_mm512_setzero_si512(); 16];
                for (i, row) in block.iter_mut().enumerate().take(part) {
                    // SAFETY: row j + i exists, and the mask ends at its width.
                    *row = unsafe { _mm512_maskz_loadu_epi32(present, from.add((j + i) * from_row + d).cast()) };
                }
                let block = transpose_16(block);
                for (i, &row) in block.iter().enumerate().take(left) {
                    // SAFETY: row d + i of 64 columns exists, and the mask ends at the last row of the source.
                    unsafe { _mm512_mask_storeu_epi32(to.add((d + i) * TILE + j).cast(), columns, row) };
                }
            }
        }
    }
}
