//! Keys and values as a cache stores them: rows of all KV heads, in several formats, perhaps in a ring.
//!
//! A tile of one head is decoded to f32 on its way into the first cache level; every format here
//! decodes exactly (Q8_0: 11 bits of scale times 8 of code), so attention over a cache has the bits
//! of attention over its decoded values.

use super::tile::{Source, copy_rows, transpose};
use super::visible::TILE;
use half::{bf16, f16};
use memwall_formats::Dtype;
use std::ops::Range;

/// The keys or the values of a cache, of all sequences of a batch.
#[derive(Clone, Copy)]
pub struct CacheView<'a> {
    /// F32, F16, BF16 or Q8_0.
    pub dtype: Dtype,
    /// From the first sequence's slot 0 on.
    pub bytes: &'a [u8],
    /// Bytes from one sequence to the next.
    pub seq_stride_bytes: usize,
    /// Bytes from one slot to the next; a row holds all KV heads, one behind the other.
    pub row_stride_bytes: usize,
    /// Slots of a sequence: the key of position p is in slot p % capacity.
    pub capacity: usize,
}

impl CacheView<'_> {
    /// The formats that can be read.
    pub const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::Q8_0];

    /// Reads a word of every line of rows `keys` that KV heads `heads` of `all` occupy.
    #[inline(always)]
    pub(super) fn touch(&self, sequence: usize, keys: Range<usize>, heads: &Range<usize>, all: usize) {
        let bytes = self.row_stride_bytes;
        let (first, last) = (bytes * heads.start / all, bytes * heads.end / all);
        stretches(self, sequence, keys, |_, rows, n| {
            for j in 0..n {
                for line in (j * bytes + first..j * bytes + last).step_by(64) {
                    // SAFETY: seen keys have slots, and `last` ends at most at the next slot's start.
                    unsafe { rows.add(line).read_volatile() };
                }
            }
        });
    }

    /// Panics unless slots `slots` of `sequence` lie inside, with rows of `row` elements.
    pub(super) fn assert_holds(&self, sequence: usize, slots: usize, row: usize) {
        assert!(Self::DTYPES.contains(&self.dtype), "a cache of {} cannot be read", self.dtype);
        let Some(row_bytes) = self.dtype.row_bytes(row) else {
            panic!("a cache row of {row} values is no whole number of {} blocks", self.dtype);
        };
        let end = sequence * self.seq_stride_bytes + slots.saturating_sub(1) * self.row_stride_bytes + row_bytes;
        assert!(slots <= self.capacity, "{slots} slots of {}", self.capacity);
        assert!(slots == 0 || end <= self.bytes.len(), "sequence {sequence} ends beyond the cache");
        let align = if self.dtype == Dtype::F32 { 4 } else { 2 };
        let places = [self.bytes.as_ptr().addr(), self.seq_stride_bytes, self.row_stride_bytes];
        assert!(places.iter().all(|x| x.is_multiple_of(align)), "a cache of {} must lie at {align} bytes", self.dtype);
    }
}

/// One sequence and KV head of a cache.
#[derive(Clone, Copy)]
pub(super) struct CacheHead<'a> {
    pub k: CacheView<'a>,
    pub v: CacheView<'a>,
    pub sequence: usize,
    pub head: usize,
}

/// Calls `f(first position, row pointer, rows)` for each stretch of `keys` that lies in consecutive slots.
#[inline(always)]
fn stretches(view: &CacheView, sequence: usize, keys: Range<usize>, mut f: impl FnMut(usize, *const u8, usize)) {
    let mut position = keys.start;
    while position < keys.end {
        let slot = position % view.capacity;
        let rows = (view.capacity - slot).min(keys.end - position);
        let at = sequence * view.seq_stride_bytes + slot * view.row_stride_bytes;
        f(position, view.bytes.as_ptr().wrapping_add(at), rows);
        position += rows;
    }
}

impl Source<f32> for CacheHead<'_> {
    #[inline(always)]
    unsafe fn keys_transposed(&self, tile: usize, keys: Range<usize>, width: usize, out: *mut f32) {
        stretches(&self.k, self.sequence, keys, |position, rows, n| {
            let from = Rows { dtype: self.k.dtype, rows, stride: self.k.row_stride_bytes, first: self.head * width };
            // SAFETY: these slots exist, and `out` holds a tile of this width.
            unsafe { from.transposed(n, width, out.add(position - tile)) };
        });
    }

    #[inline(always)]
    unsafe fn values(&self, tile: usize, keys: Range<usize>, width: usize, padded: usize, out: *mut f32) {
        stretches(&self.v, self.sequence, keys, |position, rows, n| {
            let from = Rows { dtype: self.v.dtype, rows, stride: self.v.row_stride_bytes, first: self.head * width };
            // SAFETY: these slots exist, and `out` holds a tile of this padded width.
            unsafe { from.copied(n, width, padded, out.add((position - tile) * padded)) };
        });
    }
}

/// Rows in consecutive slots, of which the elements from `first` on are wanted.
#[derive(Clone, Copy)]
struct Rows {
    dtype: Dtype,
    rows: *const u8,
    stride: usize,
    first: usize,
}

/// Elements decoded at a time.
const PIECE: usize = 32;

impl Rows {
    /// Elements `from` to `from + n` (n ≤ 32) of row `j`.
    ///
    /// # Safety
    /// The row holds them.
    unsafe fn decode(&self, j: usize, from: usize, n: usize, out: &mut [f32; PIECE]) {
        let from = self.first + from;
        // SAFETY: the caller's.
        unsafe {
            let row = self.rows.add(j * self.stride);
            for (i, out) in out.iter_mut().enumerate().take(n) {
                let e = from + i;
                *out = match self.dtype {
                    Dtype::F32 => row.cast::<f32>().add(e).read_unaligned(),
                    Dtype::F16 => f16::from_bits(row.cast::<u16>().add(e).read_unaligned()).to_f32(),
                    Dtype::BF16 => bf16::from_bits(row.cast::<u16>().add(e).read_unaligned()).to_f32(),
                    _ => {
                        let block = row.add(e / 32 * 34);
                        let scale = f16::from_bits(block.cast::<u16>().read_unaligned()).to_f32();
                        scale * f32::from(block.add(2 + e % 32).cast::<i8>().read())
                    }
                };
            }
        }
    }

    /// Element d of row j to `out[d·64 + j]`.
    ///
    /// # Safety
    /// `n` rows exist; `out` holds `width` rows of a tile.
    #[inline(always)]
    unsafe fn transposed(&self, n: usize, width: usize, out: *mut f32) {
        // SAFETY: the caller's; the vector paths run only where the instruction set is there.
        unsafe {
            if self.dtype == Dtype::F32 {
                return transpose(self.rows.cast::<f32>().add(self.first), self.stride / 4, n, width, out);
            }
            #[cfg(target_arch = "x86_64")]
            if crate::isa() == crate::Isa::Avx512 {
                let start = self.rows.add(2 * self.first);
                match self.dtype {
                    Dtype::F16 => return avx512::transpose_halves::<true>(start, self.stride, n, width, out),
                    Dtype::BF16 => return avx512::transpose_halves::<false>(start, self.stride, n, width, out),
                    _ if self.first.is_multiple_of(32) && width.is_multiple_of(32) => {
                        let start = self.rows.add(self.first / 32 * 34);
                        return avx512::transpose_q8_0(start, self.stride, n, width, out);
                    }
                    _ => {}
                }
            }
            let mut piece = [0.0; PIECE];
            for j in 0..n {
                for d in (0..width).step_by(PIECE) {
                    let left = (width - d).min(PIECE);
                    self.decode(j, d, left, &mut piece);
                    for (i, &x) in piece[..left].iter().enumerate() {
                        *out.add((d + i) * TILE + j) = x;
                    }
                }
            }
        }
    }

    /// Row j to `out[j·padded ..]`, zeros behind `width`.
    ///
    /// # Safety
    /// `n` rows exist; `out` holds as many of `padded`.
    #[inline(always)]
    unsafe fn copied(&self, n: usize, width: usize, padded: usize, out: *mut f32) {
        // SAFETY: as above.
        unsafe {
            if self.dtype == Dtype::F32 {
                return copy_rows(self.rows.cast::<f32>().add(self.first), self.stride / 4, n, width, out, padded);
            }
            #[cfg(target_arch = "x86_64")]
            if crate::isa() == crate::Isa::Avx512 {
                let start = self.rows.add(2 * self.first);
                match self.dtype {
                    Dtype::F16 => return avx512::copy_halves::<true>(start, self.stride, n, width, padded, out),
                    Dtype::BF16 => return avx512::copy_halves::<false>(start, self.stride, n, width, padded, out),
                    _ if self.first.is_multiple_of(32) && width.is_multiple_of(32) => {
                        let start = self.rows.add(self.first / 32 * 34);
                        return avx512::copy_q8_0(start, self.stride, n, width, padded, out);
                    }
                    _ => {}
                }
            }
            let mut piece = [0.0; PIECE];
            for j in 0..n {
                let row = std::slice::from_raw_parts_mut(out.add(j * padded), padded);
                for d in (0..width).step_by(PIECE) {
                    let left = (width - d).min(PIECE);
                    self.decode(j, d, left, &mut piece);
                    row[d..d + left].copy_from_slice(&piece[..left]);
                }
                row[width..].fill(0.0);
            }
        }
    }
}

/// Decoding whole tiles.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::super::tile::avx512::transpose_16;
    use super::TILE;
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
        let mut order = [0u16; 32];
        for (i, order) in order.iter_mut().enumerate() {
            *order = if i < 16 { 2 * i as u16 } else { 2 * (i as u16 - 16) + 1 };
        }
        // SAFETY: masks end at the last row and element; `out` is as large as the caller says.
        unsafe {
            let order = _mm512_loadu_si512(order.as_ptr().cast());
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
                        let (low, high) = if F16 {
                            let halves = _mm512_permutexvar_epi16(order, pair);
                            (
                                _mm512_cvtph_ps(_mm512_castsi512_si256(halves)),
                                _mm512_cvtph_ps(_mm512_extracti64x4_epi64::<1>(halves)),
                            )
                        } else {
                            let high = _mm512_and_si512(pair, _mm512_set1_epi32(0xffff_0000u32 as i32));
                            (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair)), _mm512_castsi512_ps(high))
                        };
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
    /// Code c becomes the float 32768 + 128 + c by placing its bits, and `fma` takes the offset off
    /// again; both products are exact, and so is the result.
    ///
    /// # Safety
    /// `n` rows of `width` (a multiple of 32) exist; `out` holds `width` rows of 64.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn transpose_q8_0(from: *const u8, stride: usize, n: usize, width: usize, out: *mut f32) {
        // SAFETY: rows from n on are not read, and their columns not written.
        unsafe {
            let (byte, bias) = (_mm512_set1_epi32(0xff00), _mm512_set1_epi32(0x4700_8000));
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
                        let offset = _mm512_mul_ps(scale, _mm512_set1_ps(-32896.0));
                        for (i, &four) in codes[8 * b..8 * b + 8].iter().enumerate() {
                            let places = [
                                _mm512_slli_epi32::<8>(four),
                                four,
                                _mm512_srli_epi32::<8>(four),
                                _mm512_srli_epi32::<16>(four),
                            ];
                            for (c, place) in places.into_iter().enumerate() {
                                // bias ^ (place & byte)
                                let x = _mm512_castsi512_ps(_mm512_ternarylogic_epi32::<0x78>(bias, place, byte));
                                let to = out.add((d + 32 * b + 4 * i + c) * TILE + j);
                                _mm512_mask_storeu_ps(to, columns, _mm512_fmadd_ps(x, scale, offset));
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
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn copy_q8_0(
        from: *const u8,
        stride: usize,
        n: usize,
        width: usize,
        padded: usize,
        out: *mut f32,
    ) {
        for j in 0..n {
            let row = from.wrapping_add(j * stride);
            for d in (0..width).step_by(32) {
                // SAFETY: whole blocks exist; `padded` is not below `width`.
                unsafe {
                    let block = row.add(d / 32 * 34);
                    let scale =
                        _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(block.cast::<u16>().read_unaligned()))));
                    let scale = _mm512_set1_ps(scale);
                    for half in 0..2 {
                        let codes = _mm_loadu_si128(block.add(2 + 16 * half).cast());
                        let x = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
                        _mm512_storeu_ps(out.add(j * padded + d + 16 * half), _mm512_mul_ps(x, scale));
                    }
                }
            }
        }
    }
}
