//! Many rows of x: a slice of two vectors of columns is unpacked once into a tile that the cache
//! keeps, then used by all rows.
//!
//! Tile, a stored block after the other: for each part of 32 codes `[group of 4][vector]` and, where
//! sub-blocks have them, scales `[sub-block][vector]`; then the block's scale and, with minima, their
//! factor and the minima of sub-blocks by two. Every item is one vector of [`Lanes::LANES`] words. The
//! arithmetic is that of `columns`, in the same order.

use super::activations::Activations;
use super::block::{
    BlockFormat, End, NONE, Sink, Unpacked, add_scaled, dot_codes, min_words, minus_sums, sum_of, times_zero,
};
use super::lanes::{Lanes, Rows};
use super::prefetch::Pieces;
use std::marker::PhantomData;

/// Vectors of columns side by side.
pub(super) const VECTORS: usize = 2;

/// Blocks of 32 in a slice of the reduction. The tile is then more than the first cache level: measured, that costs less
/// than reading and writing y once more for every half of it.
pub(super) const SLICE_BLOCKS: usize = 32;

/// Bytes of the largest tile on any instruction set.
pub(super) const TILE_BYTES: usize = SLICE_BLOCKS * VECTORS * (8 + 4 + 1) * super::lanes::MAX_LANES * 4;

/// Items of a part of 32 and of the end of a stored block.
const fn items(step: usize, sub: usize, scales: u8, min: bool) -> (usize, usize) {
    let scales = if scales == NONE { 0 } else { sub };
    (8 + scales, if min { 2 + min_words(step, sub, min) } else { 1 })
}

/// Bytes of a stored block in the tile.
#[inline(always)]
const fn block_bytes<L: Lanes>(step: usize, sub: usize, scales: u8, min: bool) -> usize {
    let (part, end) = items(step, sub, scales, min);
    VECTORS * (step * part + end) * L::LANES * 4
}

/// Unpacks `blocks` blocks from block `first` of one vector of rows into vector `v` of the tile.
///
/// # Safety
/// The processor has the instruction set, the rows hold the blocks, the tile has room for them.
#[inline(always)]
pub(super) unsafe fn fill<L: Lanes, F: BlockFormat>(rows: &Rows, first: usize, blocks: usize, tile: *mut u8, v: usize) {
    let size = block_bytes::<L>(F::STEP, F::SUB, F::SCALES, F::MIN);
    for b in (0..blocks).step_by(F::STEP) {
        // SAFETY: as the caller promises.
        unsafe {
            let at = tile.add(b / F::STEP * size + v * L::LANES * 4);
            F::unpack::<L>(rows, first + b, &mut Fill::<F> { at, format: PhantomData });
        }
    }
}

/// Where the first item of a stored block goes.
struct Fill<F> {
    at: *mut u8,
    format: PhantomData<F>,
}

impl<F: BlockFormat> Fill<F> {
    /// Where item `n` of part `i` goes; behind the last part, the end's.
    ///
    /// # Safety
    /// There is such an item.
    #[inline(always)]
    unsafe fn item<L: Lanes>(&self, i: usize, n: usize) -> *mut u8 {
        let (part, _) = items(F::STEP, F::SUB, F::SCALES, F::MIN);
        // SAFETY: as the caller promises.
        unsafe { self.at.add((i * part + n) * VECTORS * L::LANES * 4) }
    }
}

impl<L: Lanes, F: BlockFormat> Sink<L> for Fill<F> {
    #[inline(always)]
    unsafe fn part(&mut self, i: usize, w: Unpacked<L>) {
        // SAFETY: the maker of this promises the instruction set and the room.
        unsafe {
            for (g, codes) in w.codes.into_iter().enumerate() {
                L::store(codes, self.item::<L>(i, g));
            }
            if F::SCALES != NONE {
                for s in 0..F::SUB {
                    L::store(w.scale[s], self.item::<L>(i, 8 + s));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn end(&mut self, end: End<L>) {
        // SAFETY: the maker of this promises the instruction set and the room.
        unsafe {
            L::store_f(end.d, self.item::<L>(F::STEP, 0));
            if F::MIN {
                L::store_f(end.minus_min, self.item::<L>(F::STEP, 1));
                for j in 0..min_words(F::STEP, F::SUB, F::MIN) {
                    L::store(end.mins[j], self.item::<L>(F::STEP, 2 + j));
                }
            }
        }
    }
}

/// What a slice of rows needs.
pub(super) struct Slice {
    /// The unpacked weights.
    pub tile: *const u8,
    /// Blocks in the tile.
    pub blocks: usize,
    /// First activations of row 0 in this slice; rows `x_stride` blocks apart.
    pub x: *const Activations,
    /// Blocks from one row of x to the next.
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

/// Adds the slice to `R` rows of y, asking for `lines` lines of the next slice with each part of 32.
///
/// # Safety
/// The processor has the instruction set; the slice's pointers hold `R` rows.
#[inline(always)]
pub(super) unsafe fn rows<
    L: Lanes,
    const STEP: usize,
    const SUB: usize,
    const SCALES: u8,
    const MIN: bool,
    const ZERO: i32,
    const R: usize,
>(
    slice: &Slice,
    row: usize,
    next: &mut Pieces,
    lines: usize,
) {
    let vector = L::LANES * 4;
    let size = block_bytes::<L>(STEP, SUB, SCALES, MIN);
    let (part_items, _) = items(STEP, SUB, SCALES, MIN);
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
        for b in (0..slice.blocks).step_by(STEP) {
            let block = slice.tile.add(b / STEP * size);
            let item = |i: usize, n: usize, v: usize| block.add(((i * part_items + n) * VECTORS + v) * vector);
            let x = |r: usize, i: usize| x.add(r * slice.x_stride + b + i);
            let mut sums = [[L::splat(0); VECTORS]; R];
            for i in 0..STEP {
                next.ask::<L>(lines);
                // The outputs of the next rows, which lie far apart, come into the cache meanwhile.
                if b + i < R && !slice.begin {
                    let ahead = y.wrapping_add((R + b + i) * slice.y_stride);
                    for v in 0..=VECTORS {
                        L::prefetch_near(ahead.wrapping_add(v * L::LANES - v / VECTORS).cast());
                    }
                }
                for s in 0..SUB {
                    let mut dot = [[L::splat(0); VECTORS]; R];
                    for (r, dot) in dot.iter_mut().enumerate() {
                        *dot = [times_zero::<L, ZERO>(L::splat(minus_sum::<SUB>(&*x(r, i), s))); VECTORS];
                    }
                    let groups = 8 / SUB;
                    for g in s * groups..(s + 1) * groups {
                        let w: [L::V; VECTORS] = [L::load(item(i, g, 0)), L::load(item(i, g, 1))];
                        for (r, dot) in dot.iter_mut().enumerate() {
                            let word = (&raw const (*x(r, i)).codes).cast::<i8>().add(4 * g).cast::<i32>().read();
                            for (dot, w) in dot.iter_mut().zip(w) {
                                *dot = dot_codes::<L, ZERO>(*dot, w, word);
                            }
                        }
                    }
                    for (sums, dot) in sums.iter_mut().zip(dot) {
                        for v in 0..VECTORS {
                            let scale = if SCALES == NONE { L::splat(0) } else { L::load(item(i, 8 + s, v)) };
                            sums[v] = add_scaled::<L, SCALES>(sums[v], dot[v], scale);
                        }
                    }
                }
            }
            for (r, (acc, sums)) in acc.iter_mut().zip(&sums).enumerate() {
                let scale = L::splat_f((*x(r, 0)).scale);
                for v in 0..VECTORS {
                    let mut sum = L::mul(sum_of::<L, SCALES>(sums[v]), L::load_f(item(STEP, 0, v)));
                    if MIN {
                        let words = min_words(STEP, SUB, MIN);
                        let mut mins = L::splat(if words == 0 { (*x(r, 0)).minus_sum } else { 0 });
                        for j in 0..words {
                            mins = L::dot_halves(mins, L::load(item(STEP, 2 + j, v)), minus_sums::<SUB>(x(r, 0), j));
                        }
                        sum = L::fma(L::to_f(mins), L::load_f(item(STEP, 1, v)), sum);
                    }
                    acc[v] = L::fma(sum, scale, acc[v]);
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

/// Minus the sum of the codes of x that meet sub-block `s` of `SUB`.
#[inline(always)]
fn minus_sum<const SUB: usize>(x: &Activations, s: usize) -> i32 {
    match (SUB, s) {
        (1, _) => x.minus_sum,
        (_, 0) => x.minus_first,
        _ => x.minus_second,
    }
}
