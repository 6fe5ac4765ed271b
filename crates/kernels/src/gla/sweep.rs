//! The sweep: a state held in registers is decayed, given an outer product and read, token by token.
//!
//! The four recurrences of gated linear attention differ only in names (rows × lanes, order in time):
//!
//! | result | state | decay | outer product | read | time |
//! |---|---|---|---|---|---|
//! | o | S [K × V] | rows α | k ⊗ v | q | forward: decay, add, read |
//! | dq | Sᵀ [V × K] | lanes α | v ⊗ k | do | forward |
//! | dk | dSᵀ [V × K] | lanes α | do ⊗ q | v | backward: add, read, decay |
//! | dv | dS [K × V] | rows α | q ⊗ do | k | backward |
//!
//! Lanes are independent and rows are reduced one after the other, so the bits of a result depend
//! on the number of rows only: not on how tokens are cut into blocks, rows into slabs or lanes into
//! tiles. This is what lets a prompt arrive in any pieces.

use super::pack::Rows;
use crate::simd::Simd;

/// Vectors side by side in a tile.
pub(super) const VECTORS: usize = 2;
/// Tokens that a tile of state stays in registers for.
pub(super) const TOKENS: usize = 24;

/// How a state forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decay {
    /// It does not.
    None,
    /// Each row by its own factor.
    Rows,
    /// Each lane by its own factor.
    Lanes,
}

/// The operands of a block of tokens, packed; rows are padded with zeros to a stride that is whole
/// slabs of `R`, lanes to tiles of `VECTORS` vectors.
pub(super) struct Block<E> {
    /// Tokens in the block, at most [`TOKENS`].
    pub tokens: usize,
    /// Slabs of rows.
    pub slabs: usize,
    /// Tiles of lanes.
    pub tiles: usize,
    /// Elements between two tokens of rows.
    pub stride: usize,
    /// Row factor of the outer product, [tokens, stride].
    pub add_rows: *const E,
    /// Lane factor of the outer product, [tiles, tokens, lanes of a tile].
    pub add_lanes: *const E,
    /// What reads the state, [tokens, stride].
    pub read_rows: *const E,
    /// Decay: [tokens, stride] or [tiles, tokens, lanes of a tile].
    pub decay: *const E,
    /// The result, [tiles, tokens, lanes of a tile].
    pub out: *mut E,
    /// The state, [tiles, slabs · R, lanes of a tile].
    pub state: *mut E,
}

/// Rows that the next block will need, asked for while this one computes.
///
/// Heads lie apart in memory, where the processor does not look ahead; and asking for all of a block
/// at once would wait for each line. So every step of a tile asks for [`LINES`] of them.
pub(super) struct Ahead<'a, E> {
    /// The rows that this block uses.
    pub rows: &'a [Rows<*const E>],
    /// Tokens from these to the next block's.
    pub distance: isize,
}

/// Cache lines that a step asks for.
const LINES: usize = 2;
/// Bytes of a cache line.
const LINE: usize = 64;

impl<E> Ahead<'_, E> {
    /// The first of the next block's rows at a line, lines counted over all rows; and their stride.
    #[inline(always)]
    fn line(&self, mut line: usize) -> (*const E, usize) {
        for rows in self.rows {
            let lines = (rows.width * size_of::<E>()).div_ceil(LINE);
            if line < lines {
                let at = rows.at.wrapping_add(line * (LINE / size_of::<E>()));
                return (at.wrapping_offset(self.distance * rows.stride as isize), rows.stride);
            }
            line -= lines;
        }
        (std::ptr::null(), 0)
    }
}

#[inline(always)]
fn prefetch<T>(x: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless, and its instruction is in every x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(x.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = x;
}

/// Carries the state over a block and writes what is read from it.
///
/// # Safety
/// The block's pointers have the sizes stated there.
#[inline(always)]
pub(super) unsafe fn sweep<S: Simd, const R: usize, const BACKWARD: bool>(
    s: S,
    b: &Block<S::E>,
    decay: Decay,
    ahead: &Ahead<'_, S::E>,
) {
    let lanes = VECTORS * S::LANES;
    for tile in 0..b.tiles {
        for slab in 0..b.slabs {
            let (rows, columns) = (slab * R, tile * b.tokens * lanes);
            // SAFETY: every offset stays inside the sizes stated at `Block`.
            unsafe {
                let at = Tile {
                    tokens: b.tokens,
                    stride: b.stride,
                    first: slab == 0,
                    add_rows: b.add_rows.add(rows),
                    add_lanes: b.add_lanes.add(columns),
                    read_rows: b.read_rows.add(rows),
                    out: b.out.add(columns),
                    ahead: std::array::from_fn(|i| ahead.line(tile * b.slabs + slab + i * b.tiles * b.slabs)),
                    state: b.state.add((tile * b.slabs + slab) * R * lanes),
                };
                match decay {
                    Decay::None => at.sweep::<S, R, BACKWARD, NONE>(s, b.decay),
                    Decay::Rows => at.sweep::<S, R, BACKWARD, ROWS>(s, b.decay.add(rows)),
                    Decay::Lanes => at.sweep::<S, R, BACKWARD, LANES>(s, b.decay.add(columns)),
                }
            }
        }
    }
}

const NONE: u8 = 0;
const ROWS: u8 = 1;
const LANES: u8 = 2;

struct Tile<E> {
    tokens: usize,
    stride: usize,
    first: bool,
    add_rows: *const E,
    add_lanes: *const E,
    read_rows: *const E,
    out: *mut E,
    state: *mut E,
    ahead: [(*const E, usize); LINES],
}

impl<E: crate::Real> Tile<E> {
    /// # Safety
    /// As [`sweep`].
    #[inline(always)]
    unsafe fn sweep<S: Simd<E = E>, const R: usize, const BACKWARD: bool, const DECAY: u8>(
        &self,
        s: S,
        decay: *const E,
    ) {
        let lanes = VECTORS * S::LANES;
        // SAFETY: the caller's.
        unsafe {
            let zero = s.zero();
            let mut state = [[zero; VECTORS]; R];
            for (r, row) in state.iter_mut().enumerate() {
                for (i, element) in row.iter_mut().enumerate() {
                    *element = s.load_ptr(self.state.add(r * lanes + i * S::LANES));
                }
            }
            for step in 0..self.tokens {
                let t = if BACKWARD { self.tokens - 1 - step } else { step };
                let (x, z) = (self.add_rows.add(t * self.stride), self.read_rows.add(t * self.stride));
                let out = self.out.add(t * lanes);
                for (line, stride) in self.ahead {
                    prefetch(line.wrapping_add(t * stride));
                }
                let mut y = [zero; VECTORS];
                let mut a = [zero; VECTORS];
                let mut sum = [zero; VECTORS];
                for i in 0..VECTORS {
                    y[i] = s.load_ptr(self.add_lanes.add(t * lanes + i * S::LANES));
                    if DECAY == LANES {
                        a[i] = s.load_ptr(decay.add(t * lanes + i * S::LANES));
                    }
                    if !self.first {
                        sum[i] = s.load_ptr(out.add(i * S::LANES));
                    }
                }
                for (r, row) in state.iter_mut().enumerate() {
                    let (x, z) = (s.splat(*x.add(r)), s.splat(*z.add(r)));
                    if DECAY == ROWS {
                        a = [s.splat(*decay.add(t * self.stride + r)); VECTORS];
                    }
                    for i in 0..VECTORS {
                        let mut element = row[i];
                        if DECAY != NONE && !BACKWARD {
                            element = element * a[i];
                        }
                        element = s.fma(x, y[i], element);
                        sum[i] = s.fma(z, element, sum[i]);
                        if DECAY != NONE && BACKWARD {
                            element = element * a[i];
                        }
                        row[i] = element;
                    }
                }
                for (i, sum) in sum.into_iter().enumerate() {
                    s.store_ptr(sum, out.add(i * S::LANES));
                }
            }
            for (r, row) in state.into_iter().enumerate() {
                for (i, element) in row.into_iter().enumerate() {
                    s.store_ptr(element, self.state.add(r * lanes + i * S::LANES));
                }
            }
        }
    }
}
