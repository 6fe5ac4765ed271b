//! Which keys a query row sees: a range from causal mask and window, less the blocks that are masked.

use super::{Attention, BlockMask};
use std::ops::Range;

/// Keys of a tile; tiles lie at multiples of this absolute position.
pub(super) const TILE: usize = 64;
/// Keys of a group of tiles, which has a running maximum, sum and output of its own.
pub(super) const GROUP: usize = 512;

/// A query token of a block: its place, and the range of keys that it may see.
#[derive(Clone, Copy, Default)]
pub(super) struct Token {
    /// First visible key.
    pub lo: usize,
    /// One past the last visible key; at least `lo`.
    pub hi: usize,
    /// Position on the axis of keys that it looks from; negative if the sequence has fewer keys than queries, or it lags.
    pub position: i64,
    /// Index of the query in its sequence.
    pub query: usize,
}

impl Token {
    /// Query `query` of `n` over `m` keys.
    pub(super) fn new(a: &Attention, query: usize, n: usize, m: usize) -> Token {
        let position = query as i64 + m as i64 - n as i64 - a.lag as i64;
        let mut hi = m as i64;
        if a.causal {
            hi = hi.min(position + 1);
        }
        if let Some(right) = a.window.1 {
            hi = hi.min(position.saturating_add(right as i64).saturating_add(1));
        }
        let lo = a.window.0.map_or(0, |left| position.saturating_sub(left as i64).max(0));
        let lo = lo.min(m as i64);
        Token { lo: lo as usize, hi: hi.max(lo) as usize, position, query }
    }

    /// Bit j: key `tile + j` is visible.
    #[inline(always)]
    pub(super) fn bits(&self, tile: usize, mask: Option<&BlockMask>) -> u64 {
        let lo = self.lo.saturating_sub(tile).min(TILE);
        let hi = self.hi.saturating_sub(tile).min(TILE);
        let range = below(hi) & !below(lo);
        match mask {
            Some(mask) if range != 0 => range & mask_bits(mask, self.query, tile),
            _ => range,
        }
    }
}

/// The lowest `n` bits.
#[inline(always)]
pub(super) fn below(n: usize) -> u64 {
    if n >= 64 { !0 } else { (1 << n) - 1 }
}

fn mask_bits(mask: &BlockMask, query: usize, tile: usize) -> u64 {
    let row = &mask.visible[query / mask.rows * mask.col_blocks..][..mask.col_blocks];
    let mut bits = 0;
    let mut block = tile / mask.cols;
    while block < row.len() && block * mask.cols < tile + TILE {
        if row[block] {
            let lo = (block * mask.cols).saturating_sub(tile);
            let hi = ((block + 1) * mask.cols - tile).min(TILE);
            bits |= below(hi) & !below(lo);
        }
        block += 1;
    }
    bits
}

/// The keys that any of `tokens` sees lie in this range.
pub(super) fn union(tokens: &[Token]) -> Range<usize> {
    let seeing = tokens.iter().filter(|t| t.lo < t.hi);
    let lo = seeing.clone().map(|t| t.lo).min().unwrap_or(0);
    lo..seeing.map(|t| t.hi).max().unwrap_or(0)
}
