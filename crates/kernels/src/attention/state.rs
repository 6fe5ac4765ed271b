//! What a block of query rows keeps while keys pass by, in scratch memory.

use super::Attention;
use super::block::tokens_per_block;
use super::direct;
use super::scratch::{Scratch, bytes};
use super::visible::TILE;
use crate::Real;

/// Rows whose scores are computed together.
pub(super) const STRIP: usize = 12;
/// Widest vector of any instruction set, in elements.
const WIDEST: usize = 16;

/// A width rounded up to whole vectors.
pub(super) fn padded(width: usize) -> usize {
    width.next_multiple_of(WIDEST)
}

/// Rows that a [`State`] has room for: those of a block, or all heads of one token.
pub(super) fn most_rows(a: &Attention) -> usize {
    (tokens_per_block(a.group()) * a.group()).max(a.heads)
}

/// The state of each row of a block, and the tiles that it works on.
///
/// Queries, keys, values and weights are operands of products: elements, or pairs of bf16, which need half of the room.
pub(super) struct State<'a, T> {
    pub q: &'a mut [T],
    pub keys: &'a mut [T],
    pub values: &'a mut [T],
    pub scores: &'a mut [T],
    /// Weights of a strip as operands, where they are not scores of their own.
    pub weights: &'a mut [T],
    /// Values of a pair of keys of which a row sees one.
    pub half: &'a mut [T],
    /// Of the group: maximum, sum by lanes, output.
    pub top: &'a mut [T],
    pub lanes: &'a mut [T],
    pub output: &'a mut [T],
    /// Of the row: maximum, sum, output.
    pub row_top: &'a mut [T],
    pub row_sum: &'a mut [T],
    pub row_output: &'a mut [T],
}

impl<'a, T: Real> State<'a, T> {
    fn sizes(a: &Attention) -> [usize; 12] {
        let rows = most_rows(a);
        let (k, v) = (a.key_width, padded(a.value_width));
        let scores = STRIP.max(direct::ROWS) * TILE;
        let tiles = [rows * k, k * TILE, TILE * v, scores, STRIP * TILE, v];
        let states = [rows, rows * WIDEST, rows * v, rows, rows, rows * v];
        std::array::from_fn(|i| if i < 6 { tiles[i] } else { states[i - 6] })
    }

    pub(super) fn bytes(a: &Attention) -> usize {
        Self::sizes(a).map(bytes::<T>).iter().sum()
    }

    pub(super) fn cut(a: &Attention, scratch: &mut Scratch<'a>) -> State<'a, T> {
        let [q, keys, values, scores, weights, half, top, lanes, output, row_top, row_sum, row_output] =
            Self::sizes(a).map(|n| scratch.take(n));
        State { q, keys, values, scores, weights, half, top, lanes, output, row_top, row_sum, row_output }
    }
}
