//! Many rows of x: weights unpacked into a tile that all of them use.

use super::{CHAINS, FloatFormat, SLICE_WORDS, Sink, chain_len, chain_start, term, words};
use crate::linear::lanes::{Lanes, MAX_LANES, Rows};
use crate::linear::prefetch::Pieces;
use crate::linear::tile::VECTORS;
use std::marker::PhantomData;

/// Bytes of the largest tile on any instruction set.
pub(in crate::linear) const TILE_BYTES: usize = SLICE_WORDS * VECTORS * MAX_LANES * 4;

/// Unpacks words `begin..end` of one vector of rows into vector `v` of a tile `[word][vector]`, chain by chain.
///
/// # Safety
/// As [`words`]; the tile has room.
#[inline(always)]
pub(in crate::linear) unsafe fn fill<L: Lanes, F: FloatFormat>(
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
        let mut fill = Fill::<F> { at: tile.add(v * vector), begin, words: end - begin, format: PhantomData };
        words::<L, F>(rows, row_bytes, begin, end, None, &mut fill);
    }
}

/// Where the words from `begin` on go.
struct Fill<F> {
    at: *mut u8,
    begin: usize,
    words: usize,
    format: PhantomData<F>,
}

impl<L: Lanes, F: FloatFormat> Sink<L> for Fill<F> {
    #[inline(always)]
    unsafe fn word(&mut self, k: usize, w: L::V) {
        let k = k - self.begin;
        let k = if F::CHAINS == 1 { k } else { chain_start(self.words, k % CHAINS) + k / CHAINS };
        // SAFETY: the maker of this promises the instruction set and the room.
        unsafe { L::store(w, self.at.add(k * VECTORS * L::LANES * 4)) };
    }
}

/// What a slice of rows needs.
pub(in crate::linear) struct Slice {
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

/// Words between two looks at what to ask for.
pub(in crate::linear) const STRIDE: usize = 8;

/// Adds the slice to `R` rows of y, asking for `lines` lines of the next slice with every 8 words.
///
/// One chain goes on from y; more are summed from 0 and added to y in order.
///
/// # Safety
/// The processor has the instruction set; the slice's pointers hold `R` rows.
#[inline(always)]
pub(in crate::linear) unsafe fn rows<L: Lanes, const PAIRS: bool, const C: usize, const R: usize>(
    slice: &Slice,
    row: usize,
    next: &mut Pieces,
    lines: usize,
) {
    let vector = L::LANES * 4;
    let part = |v: usize| slice.columns.saturating_sub(v * L::LANES).min(L::LANES);
    // SAFETY: as the caller promises.
    unsafe {
        let x = slice.x.add(row * slice.x_stride);
        let y = slice.y.add(row * slice.y_stride);
        let mut sums = [[L::splat_f(0.0); VECTORS]; R];
        if !slice.begin {
            for (r, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load_part(y.add(r * slice.y_stride + v * L::LANES), part(v));
                }
            }
        }
        let mut k = 0;
        for c in 0..C {
            let mut acc = if C == 1 { sums } else { [[L::splat_f(0.0); VECTORS]; R] };
            let end = k + if C == 1 { slice.words } else { chain_len(slice.words, c) };
            while k < end {
                if k % STRIDE == 0 {
                    next.ask::<L>(lines);
                }
                let at = slice.tile.add(k * VECTORS * vector);
                let w: [L::V; VECTORS] = [L::load(at), L::load(at.add(vector))];
                for (r, acc) in acc.iter_mut().enumerate() {
                    let word = L::splat(*x.add(r * slice.x_stride + k) as i32);
                    for v in 0..VECTORS {
                        acc[v] = term::<L, PAIRS>(acc[v], w[v], word);
                    }
                }
                k += 1;
            }
            let fresh = C == 1 || slice.begin && c == 0;
            for (sums, acc) in sums.iter_mut().zip(&acc) {
                for v in 0..VECTORS {
                    sums[v] = if fresh { acc[v] } else { L::add_f(sums[v], acc[v]) };
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                L::store_part(sum, y.add(r * slice.y_stride + v * L::LANES), part(v));
            }
        }
    }
}
