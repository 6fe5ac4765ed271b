//! Float weights: F32 and F16 times f32, BF16 times x rounded to bf16.
//!
//! x is a row of words: f32 bits, or pairs of bf16. Each word is one term of a chain over k in
//! ascending order: a fused multiply-add, or (BF16) what `vdpbf16ps` does with a pair.

use super::lanes::{Lanes, MAX_LANES, Rows};
use super::prefetch::Prefetch;
use super::tile::VECTORS;

/// Words of x in a slice of the reduction: a tile of two vectors stays in the second cache level.
pub(super) const SLICE_WORDS: usize = 2048;

/// Bytes of the largest tile on any instruction set.
pub(super) const TILE_BYTES: usize = SLICE_WORDS * VECTORS * MAX_LANES * 4;

/// A float format as words to multiply with the words of x.
pub(super) trait FloatFormat: 'static {
    /// Whether a word of x is a pair of bf16.
    const PAIRS: bool;
    /// Words of x for 32 bytes of weights.
    const WORDS: usize;

    /// The weights of 32 bytes a row: `emit` gets 0..WORDS in order and the weights' word.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], emit: impl FnMut(usize, L::V));
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

impl FloatFormat for F32 {
    const PAIRS: bool = false;
    const WORDS: usize = 8;

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], mut emit: impl FnMut(usize, L::V)) {
        for (i, w) in stored.into_iter().enumerate() {
            emit(i, w);
        }
    }
}

impl FloatFormat for F16 {
    const PAIRS: bool = false;
    const WORDS: usize = 16;

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], mut emit: impl FnMut(usize, L::V)) {
        for (i, w) in stored.into_iter().enumerate() {
            // SAFETY: the caller promises the instruction set.
            unsafe {
                let (low, high) = L::halves(w);
                emit(2 * i, L::as_v(low));
                emit(2 * i + 1, L::as_v(high));
            }
        }
    }
}

impl FloatFormat for BF16 {
    const PAIRS: bool = true;
    const WORDS: usize = 8;

    #[inline(always)]
    unsafe fn expand<L: Lanes>(stored: [L::V; 8], mut emit: impl FnMut(usize, L::V)) {
        for (i, w) in stored.into_iter().enumerate() {
            emit(i, w);
        }
    }
}

/// `acc` + one term.
///
/// # Safety
/// The processor has the instruction set.
#[inline(always)]
unsafe fn term<L: Lanes, const PAIRS: bool>(acc: L::F, w: L::V, x: u32) -> L::F {
    // SAFETY: the caller promises the instruction set.
    unsafe {
        if PAIRS { L::dot_bf16(acc, w, x as i32) } else { L::fma(L::as_f(w), L::splat_f(f32::from_bits(x)), acc) }
    }
}

/// The words `begin..end` of a vector of rows, in order: `each` gets the word's number and the weights.
///
/// # Safety
/// The processor has the instruction set; the rows hold `row_bytes` bytes; `begin` is a multiple of
/// `WORDS`, `end` too or the last word.
#[inline(always)]
unsafe fn words<L: Lanes, F: FloatFormat>(
    rows: &Rows,
    row_bytes: usize,
    begin: usize,
    end: usize,
    mut prefetch: Option<&mut Prefetch>,
    mut each: impl FnMut(usize, L::V),
) {
    let mut k = begin;
    // SAFETY: as the caller promises; the last, partial 32 bytes are copied out before they are read.
    unsafe {
        while k + F::WORDS <= end && (k / F::WORDS + 1) * 32 <= row_bytes {
            if let Some(prefetch) = &mut prefetch {
                prefetch.bytes::<L>(L::LANES * 32);
            }
            F::expand::<L>(L::gather32(rows, k / F::WORDS * 32), |i, w| each(k + i, w));
            k += F::WORDS;
        }
        if k < end {
            let at = k / F::WORDS * 32;
            let mut tail = [[0u8; 32]; MAX_LANES];
            let mut copies = *rows;
            for (copy, tail) in copies.0.iter_mut().zip(&mut tail).take(L::LANES) {
                std::ptr::copy_nonoverlapping(copy.add(at), tail.as_mut_ptr(), row_bytes - at);
                *copy = tail.as_ptr();
            }
            F::expand::<L>(L::gather32(&copies, 0), |i, w| {
                if k + i < end {
                    each(k + i, w);
                }
            });
        }
    }
}

/// Outputs of `R` rows of x, `words_in_row` words apart, for the weight rows of one vector.
///
/// # Safety
/// The processor has the instruction set; rows and x have the lengths given.
#[inline(always)]
pub(super) unsafe fn columns<L: Lanes, F: FloatFormat, const R: usize>(
    rows: &Rows,
    row_bytes: usize,
    x: *const u32,
    words_in_row: usize,
    prefetch: &mut Prefetch,
) -> [L::F; R] {
    // SAFETY: as the caller promises.
    unsafe {
        let mut acc = [L::splat_f(0.0); R];
        words::<L, F>(rows, row_bytes, 0, words_in_row, Some(prefetch), |k, w| {
            for (r, acc) in acc.iter_mut().enumerate() {
                *acc = term_of::<L, F>(*acc, w, *x.add(r * words_in_row + k));
            }
        });
        acc
    }
}

#[inline(always)]
unsafe fn term_of<L: Lanes, F: FloatFormat>(acc: L::F, w: L::V, x: u32) -> L::F {
    // SAFETY: the caller promises the instruction set.
    unsafe { if F::PAIRS { term::<L, true>(acc, w, x) } else { term::<L, false>(acc, w, x) } }
}

/// Unpacks words `begin..end` of one vector of rows into vector `v` of a tile `[word][vector]`.
///
/// # Safety
/// As [`words`]; the tile has room.
#[inline(always)]
pub(super) unsafe fn fill<L: Lanes, F: FloatFormat>(
    rows: &Rows,
    row_bytes: usize,
    begin: usize,
    end: usize,
    tile: *mut u8,
    v: usize,
) {
    let vector = L::LANES * 4;
    // SAFETY: as the caller promises.
    unsafe {
        words::<L, F>(rows, row_bytes, begin, end, None, |k, w| {
            L::store(w, tile.add(((k - begin) * VECTORS + v) * vector));
        });
    }
}

/// What a slice of rows needs.
pub(super) struct Slice {
    /// The unpacked weights.
    pub tile: *const u8,
    /// Words in the tile.
    pub words: usize,
    /// First word of row 0 in this slice; rows `x_stride` words apart.
    pub x: *const u32,
    /// Words from one row of x to the next.
    pub x_stride: usize,
    /// Output of row 0 in the first column; rows `y_stride` values apart.
    pub y: *mut f32,
    /// Values from one row of y to the next.
    pub y_stride: usize,
    /// Columns that exist.
    pub columns: usize,
    /// True in the first slice, whose sums begin with 0; later ones go on from y.
    pub begin: bool,
}

/// Adds the slice to `R` rows of y.
///
/// # Safety
/// The processor has the instruction set; the slice's pointers hold `R` rows.
#[inline(always)]
pub(super) unsafe fn rows<L: Lanes, const PAIRS: bool, const R: usize>(slice: &Slice, row: usize) {
    let vector = L::LANES * 4;
    let part = |v: usize| slice.columns.saturating_sub(v * L::LANES).min(L::LANES);
    // SAFETY: as the caller promises.
    unsafe {
        let x = slice.x.add(row * slice.x_stride);
        let y = slice.y.add(row * slice.y_stride);
        let mut acc = [[L::splat_f(0.0); VECTORS]; R];
        if !slice.begin {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = L::load_part(y.add(r * slice.y_stride + v * L::LANES), part(v));
                }
            }
        }
        for k in 0..slice.words {
            let at = slice.tile.add(k * VECTORS * vector);
            let w: [L::V; VECTORS] = [L::load(at), L::load(at.add(vector))];
            for (r, acc) in acc.iter_mut().enumerate() {
                let word = *x.add(r * slice.x_stride + k);
                for v in 0..VECTORS {
                    acc[v] = term::<L, PAIRS>(acc[v], w[v], word);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                L::store_part(acc, y.add(r * slice.y_stride + v * L::LANES), part(v));
            }
        }
    }
}
