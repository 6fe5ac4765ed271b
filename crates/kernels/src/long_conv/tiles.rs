//! The part of the sums between blocks: at each level, the odd block of a pair of S tokens receives from the even one.
//!
//! With u the even block, 0 behind its S tokens, and F the filter's first 2 S taps, token j of the odd block receives point
//! S + j of their circular convolution: the taps from 1 to 2 S − 1, none of them wrapped.

use super::{BLOCK, Input, add, fourier, gather};
use crate::Real;
use crate::disjoint::Disjoint;
use crate::simd::Simd;
use std::ops::Range;

/// Pairs of blocks of `size`: rows of the even one, and of the odd one, which may be shorter.
fn pairs(cu_seqlens: &[i32], size: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    cu_seqlens.windows(2).flat_map(move |w| {
        let (start, end) = (w[0] as usize, w[1] as usize);
        (start..end)
            .step_by(2 * size)
            .filter(move |at| at + size < end)
            .map(move |at| (at..at + size, at + size..(at + 2 * size).min(end)))
    })
}

/// The transform of `rows` of x from point `first` on, 0 elsewhere.
#[inline(always)]
fn spectrum<S: Simd>(
    s: S,
    input: &Input<'_, S::E>,
    x: &[S::E],
    columns: &Range<usize>,
    rows: Range<usize>,
    first: usize,
    to: &mut [S::E],
) {
    let (before, rest) = to.split_at_mut(first * S::LANES);
    before.fill(S::E::ZERO);
    gather(s, x, input.channels, columns, rows, rest);
    fourier::forward(s, to, input.turns);
}

/// Adds to y what tokens receive from blocks before their own.
#[inline(always)]
pub(super) fn forward<S: Simd>(
    s: S,
    input: &Input<'_, S::E>,
    columns: &Range<usize>,
    y: &Disjoint<'_, S::E>,
    points: usize,
    memory: &mut [S::E],
) {
    let length = input.filter.len() / input.channels;
    let mut size = BLOCK;
    while 2 * size <= points {
        let n = 2 * size;
        let (filter, memory) = memory.split_at_mut(2 * n * S::LANES);
        let u = &mut memory[..2 * n * S::LANES];
        spectrum(s, input, input.filter, columns, 0..n.min(length), 0, filter);
        for (even, odd) in pairs(input.cu_seqlens, size) {
            spectrum(s, input, input.x, columns, even, 0, u);
            fourier::multiply(s, u, filter, false, S::E::of(1.0 / n as f64));
            fourier::inverse(s, u, input.turns);
            // SAFETY: each task has columns of its own.
            unsafe { add(s, y, input.channels, columns, odd, &u[size * S::LANES..]) };
        }
        size = n;
    }
}

/// Adds to dx and df what comes from between blocks.
#[inline(always)]
pub(super) fn backward<S: Simd>(
    s: S,
    input: &Input<'_, S::E>,
    columns: &Range<usize>,
    dy: &[S::E],
    dx: &Disjoint<'_, S::E>,
    df: &Disjoint<'_, S::E>,
    points: usize,
    memory: &mut [S::E],
) {
    let length = input.filter.len() / input.channels;
    let mut size = BLOCK;
    while 2 * size <= points {
        let n = 2 * size;
        let scale = S::E::of(1.0 / n as f64);
        let (filter, memory) = memory.split_at_mut(2 * n * S::LANES);
        let (u, memory) = memory.split_at_mut(2 * n * S::LANES);
        let (d, memory) = memory.split_at_mut(2 * n * S::LANES);
        let sum = &mut memory[..2 * n * S::LANES];
        sum.fill(S::E::ZERO);
        spectrum(s, input, input.filter, columns, 0..n.min(length), 0, filter);
        for (even, odd) in pairs(input.cu_seqlens, size) {
            spectrum(s, input, input.x, columns, even.clone(), 0, u);
            spectrum(s, input, dy, columns, odd, size, d);
            fourier::correlate(s, sum, d, u);
            fourier::multiply(s, d, filter, true, scale);
            fourier::inverse(s, d, input.turns);
            // SAFETY: each task has columns of its own.
            unsafe { add(s, dx, input.channels, columns, even, d) };
        }
        fourier::inverse(s, sum, input.turns);
        for point in sum.chunks_exact_mut(S::LANES).take(n) {
            s.store(s.load(point) * s.splat(scale), point);
        }
        // Tap 0 is no part of this level: what stands there is what rounding left.
        // SAFETY: each task has columns of its own.
        unsafe { add(s, df, input.channels, columns, 1..n.min(length), &sum[S::LANES..]) };
        size = n;
    }
}
