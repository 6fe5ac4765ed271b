//! Many rows of x: a slice of two vectors of columns is unpacked once into a tile that the cache
//! keeps, then used by all rows.
//!
//! Tile, a block of 32 after the other: codes `[group of 4][vector]`, scales `[sub-block][vector]`,
//! minima likewise; every item one vector of [`Lanes::LANES`] words. The arithmetic is that of
//! `columns`, in the same order.

use super::activations::Activations;
use super::block::{BlockFormat, Sink, Unpacked, dot_codes, times_zero};
use super::lanes::{Lanes, Rows};
use super::prefetch::Pieces;
use std::marker::PhantomData;

/// Vectors of columns side by side.
pub(super) const VECTORS: usize = 2;

/// Blocks of 32 in a slice of the reduction: tile and activations of a few rows stay in the first cache level.
pub(super) const SLICE_BLOCKS: usize = 16;

/// Bytes of the largest tile on any instruction set.
pub(super) const TILE_BYTES: usize = SLICE_BLOCKS * VECTORS * (8 + 4) * super::lanes::MAX_LANES * 4;

/// Bytes of a block in the tile.
#[inline(always)]
const fn block_bytes<L: Lanes>(sub: usize, min: bool) -> usize {
    VECTORS * (8 + sub + if min { sub } else { 0 }) * L::LANES * 4
}

/// Unpacks `blocks` blocks from block `first` of one vector of rows into vector `v` of the tile.
///
/// # Safety
/// The processor has the instruction set, the rows hold the blocks, the tile has room for them.
#[inline(always)]
pub(super) unsafe fn fill<L: Lanes, F: BlockFormat>(rows: &Rows, first: usize, blocks: usize, tile: *mut u8, v: usize) {
    let size = block_bytes::<L>(F::SUB, F::MIN);
    for b in (0..blocks).step_by(F::STEP) {
        // SAFETY: as the caller promises.
        unsafe {
            let at = tile.add(b * size + v * L::LANES * 4);
            F::unpack::<L>(rows, first + b, &mut Fill::<F> { at, format: PhantomData });
        }
    }
}

/// Where the first item of a stored block goes.
struct Fill<F> {
    at: *mut u8,
    format: PhantomData<F>,
}

impl<L: Lanes, F: BlockFormat> Sink<L> for Fill<F> {
    #[inline(always)]
    unsafe fn block(&mut self, i: usize, w: Unpacked<L>) {
        // SAFETY: the maker of this promises the instruction set and the room.
        unsafe {
            let block = self.at.add(i * block_bytes::<L>(F::SUB, F::MIN));
            let item = |n: usize| block.add(n * VECTORS * L::LANES * 4);
            for (g, codes) in w.codes.into_iter().enumerate() {
                L::store(codes, item(g));
            }
            for s in 0..F::SUB {
                L::store_f(w.scale[s], item(8 + s));
                if F::MIN {
                    L::store_f(w.minus_min[s], item(8 + F::SUB + s));
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

/// Adds the slice to `R` rows of y, asking for `lines` lines of the next slice with each block.
///
/// # Safety
/// The processor has the instruction set; the slice's pointers hold `R` rows.
#[inline(always)]
pub(super) unsafe fn rows<L: Lanes, const SUB: usize, const MIN: bool, const ZERO: i32, const R: usize>(
    slice: &Slice,
    row: usize,
    next: &mut Pieces,
    lines: usize,
) {
    let vector = L::LANES * 4;
    let size = block_bytes::<L>(SUB, MIN);
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
        for b in 0..slice.blocks {
            next.ask::<L>(lines);
            // The outputs of the next rows, which lie far apart, come into the cache meanwhile.
            if b < R && !slice.begin {
                let ahead = y.wrapping_add((R + b) * slice.y_stride);
                for v in 0..=VECTORS {
                    L::prefetch_near(ahead.wrapping_add(v * L::LANES - v / VECTORS).cast());
                }
            }
            let block = slice.tile.add(b * size);
            let item = |n: usize, v: usize| block.add((n * VECTORS + v) * vector);
            let mut sums = [[L::splat_f(0.0); VECTORS]; R];
            for s in 0..SUB {
                let mut dot = [[L::splat(0); VECTORS]; R];
                for (r, dot) in dot.iter_mut().enumerate() {
                    let x = &*x.add(r * slice.x_stride + b);
                    let minus = match (SUB, s) {
                        (1, _) => x.minus_sum,
                        (_, 0) => x.minus_first,
                        _ => x.minus_second,
                    };
                    *dot = [times_zero::<L, ZERO>(L::splat(minus)); VECTORS];
                }
                let groups = 8 / SUB;
                for g in s * groups..(s + 1) * groups {
                    let w: [L::V; VECTORS] = [L::load(item(g, 0)), L::load(item(g, 1))];
                    for (r, dot) in dot.iter_mut().enumerate() {
                        let codes = &(*x.add(r * slice.x_stride + b)).codes;
                        let word = codes.as_ptr().add(4 * g).cast::<i32>().read();
                        for (dot, w) in dot.iter_mut().zip(w) {
                            *dot = dot_codes::<L, ZERO>(*dot, w, word);
                        }
                    }
                }
                for (sums, dot) in sums.iter_mut().zip(dot) {
                    for v in 0..VECTORS {
                        let scale = L::load_f(item(8 + s, v));
                        let dot = L::to_f(dot[v]);
                        sums[v] = if s == 0 { L::mul(dot, scale) } else { L::fma(dot, scale, sums[v]) };
                    }
                }
            }
            for (r, (acc, sums)) in acc.iter_mut().zip(&mut sums).enumerate() {
                let x = &*x.add(r * slice.x_stride + b);
                for v in 0..VECTORS {
                    if MIN && SUB == 1 {
                        sums[v] = L::fma(L::load_f(item(8 + SUB, v)), L::to_f(L::splat(x.minus_sum)), sums[v]);
                    } else if MIN {
                        sums[v] = L::fma(L::load_f(item(8 + SUB, v)), L::to_f(L::splat(x.minus_first)), sums[v]);
                        sums[v] = L::fma(L::load_f(item(9 + SUB, v)), L::to_f(L::splat(x.minus_second)), sums[v]);
                    }
                    acc[v] = L::fma(sums[v], L::splat_f(x.scale), acc[v]);
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
