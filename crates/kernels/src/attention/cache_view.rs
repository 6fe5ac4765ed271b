//! Keys and values as a cache stores them: rows of all KV heads, in several formats, perhaps in a ring.
//!
//! A tile of one head is decoded to f32 on its way into the first cache level; every format here
//! decodes exactly (Q8_0: 11 bits of scale times 8 of code), so attention over a cache has the bits
//! of attention over its decoded values.

use super::tile::{Source, straight, transposed};
use super::visible::TILE;
#[cfg(target_arch = "x86_64")]
use super::{cache_avx512, direct};
use crate::gemm::{Operand, Plain};
use crate::simd::Simd;
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

impl CacheHead<'_> {
    /// Where the head's part of the rows from `position` on lies.
    #[inline(always)]
    fn at(&self, view: &CacheView, position: usize, width: usize) -> *const u8 {
        let slot = self.sequence * view.seq_stride_bytes + position % view.capacity * view.row_stride_bytes;
        let first = view.dtype.row_bytes(self.head * width).expect("heads begin at blocks");
        view.bytes.as_ptr().wrapping_add(slot + first)
    }
}

impl Source<f32> for CacheHead<'_> {
    #[inline(always)]
    fn keys<S: Simd<E = f32>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        out: &mut [O::Packed],
    ) {
        let out: &mut [f32] = bytemuck::cast_slice_mut(out);
        if keys.len() < TILE {
            out.fill(0.0);
        }
        stretches(&self.k, self.sequence, tile..keys.end, |position, rows, n| {
            let from = Rows { dtype: self.k.dtype, rows, stride: self.k.row_stride_bytes, first: self.head * width };
            // SAFETY: these slots exist: keys before `keys` are older, and what a ring has made of them is not used.
            unsafe { from.transposed(s, n, width, &mut out[position - tile..]) };
        });
    }

    #[inline(always)]
    fn values<S: Simd<E = f32>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        keys: Range<usize>,
        width: usize,
        padded: usize,
        out: &mut [O::Packed],
    ) {
        let out: &mut [f32] = bytemuck::cast_slice_mut(out);
        stretches(&self.v, self.sequence, keys, |position, rows, n| {
            let from = Rows { dtype: self.v.dtype, rows, stride: self.v.row_stride_bytes, first: self.head * width };
            // SAFETY: these slots exist.
            unsafe { from.copied(s, n, width, padded, &mut out[(position - tile) * padded..]) };
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn direct(&self, tile: usize, rows: usize, key_width: usize, value_width: usize) -> bool {
        let together = |view: &CacheView| tile % view.capacity + TILE <= view.capacity;
        let widths = key_width.is_multiple_of(2 * direct::ELEMENTS) && value_width.is_multiple_of(direct::ELEMENTS);
        rows <= direct::ROWS && widths && together(&self.k) && together(&self.v) && crate::isa() == crate::Isa::Avx512
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn direct_scores(&self, tile: usize, rows: usize, width: usize, q: *const f32, scores: *mut f32) {
        let stride = self.k.row_stride_bytes;
        let keys = direct::avx512::Tile { dtype: self.k.dtype, rows: self.at(&self.k, tile, width), stride, width };
        // SAFETY: the caller's.
        unsafe { keys.scores(rows, q, scores) };
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn direct_values(&self, tile: usize, rows: usize, width: usize, weights: *const f32, output: *mut f32) {
        let stride = self.v.row_stride_bytes;
        let values = direct::avx512::Tile { dtype: self.v.dtype, rows: self.at(&self.v, tile, width), stride, width };
        // SAFETY: the caller's.
        unsafe { values.values(rows, weights, output) };
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

    /// All rows as f32, which lie at multiples of 4 bytes.
    ///
    /// # Safety
    /// `n` rows of `width` exist.
    unsafe fn floats<'a>(&self, n: usize, width: usize) -> &'a [f32] {
        // SAFETY: the caller's; `assert_holds` saw to the alignment.
        unsafe {
            let start = self.rows.cast::<f32>().add(self.first);
            std::slice::from_raw_parts(start, (n - 1) * self.stride / 4 + width)
        }
    }

    /// Element d of row j to `out[d·64 + j]`.
    ///
    /// # Safety
    /// `n` rows exist.
    #[inline(always)]
    unsafe fn transposed<S: Simd<E = f32>>(&self, s: S, n: usize, width: usize, out: &mut [f32]) {
        // SAFETY: the caller's; the vector paths run only where the instruction set is there.
        unsafe {
            // This way fills up with zeros to 64 columns, so rows must be the tile's first.
            if self.dtype == Dtype::F32 && out.len() >= width * TILE {
                return transposed::<S, Plain>(s, self.floats(n, width), self.stride / 4, n, width, out);
            }
            assert!(n <= TILE && out.len() > (width - 1) * TILE + n - 1);
            let out = out.as_mut_ptr();
            #[cfg(target_arch = "x86_64")]
            if crate::isa() == crate::Isa::Avx512 {
                let start = self.rows.add(2 * self.first);
                match self.dtype {
                    Dtype::F16 => return cache_avx512::transpose_halves::<true>(start, self.stride, n, width, out),
                    Dtype::BF16 => return cache_avx512::transpose_halves::<false>(start, self.stride, n, width, out),
                    Dtype::Q8_0 if self.first.is_multiple_of(32) && width.is_multiple_of(32) => {
                        let start = self.rows.add(self.first / 32 * 34);
                        return cache_avx512::transpose_q8_0(start, self.stride, n, width, out);
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
    /// `n` rows exist.
    #[inline(always)]
    unsafe fn copied<S: Simd<E = f32>>(&self, s: S, n: usize, width: usize, padded: usize, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe {
            if self.dtype == Dtype::F32 {
                return straight::<S, Plain>(s, self.floats(n, width), self.stride / 4, n, width, padded, out);
            }
            let out = &mut out[..n * padded];
            #[cfg(target_arch = "x86_64")]
            if crate::isa() == crate::Isa::Avx512 {
                let (start, out) = (self.rows.add(2 * self.first), out.as_mut_ptr());
                match self.dtype {
                    Dtype::F16 => return cache_avx512::copy_halves::<true>(start, self.stride, n, width, padded, out),
                    Dtype::BF16 => {
                        return cache_avx512::copy_halves::<false>(start, self.stride, n, width, padded, out);
                    }
                    _ if self.first.is_multiple_of(32) && width.is_multiple_of(32) => {
                        let start = self.rows.add(self.first / 32 * 34);
                        return cache_avx512::copy_q8_0(start, self.stride, n, width, padded, out);
                    }
                    _ => {}
                }
            }
            let mut piece = [0.0; PIECE];
            for (j, row) in out.chunks_exact_mut(padded).enumerate() {
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
