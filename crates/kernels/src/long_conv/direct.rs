//! The part of the sums within aligned blocks: chains in ascending order of what is read.

use super::{BLOCK, Input, gather};
use crate::Real;
use crate::disjoint::Disjoint;
use crate::simd::Simd;
use std::ops::Range;

/// Outputs whose chains run side by side.
const TILE: usize = 8;

/// The blocks of all sequences, as rows.
fn blocks(cu_seqlens: &[i32]) -> impl Iterator<Item = Range<usize>> {
    cu_seqlens.windows(2).flat_map(|w| {
        let (start, end) = (w[0] as usize, w[1] as usize);
        (start..end).step_by(BLOCK).map(move |at| at..(at + BLOCK).min(end))
    })
}

/// The lanes of a block.
#[inline(always)]
fn cut<T>(memory: &mut [T], lanes: usize) -> (&mut [T], &mut [T]) {
    memory.split_at_mut(BLOCK * lanes)
}

/// y = what each block's tokens receive from their own block.
#[inline(always)]
pub(super) fn forward<S: Simd>(
    s: S,
    input: &Input<'_, S::E>,
    columns: &Range<usize>,
    y: &Disjoint<'_, S::E>,
    memory: &mut [S::E],
) {
    let (h, memory) = cut(memory, S::LANES);
    let (x, memory) = cut(memory, S::LANES);
    let (to, _) = cut(memory, S::LANES);
    let width = input.channels;
    gather(s, input.filter, width, columns, 0..BLOCK.min(input.filter.len() / width), h);
    for rows in blocks(input.cu_seqlens) {
        gather(s, input.x, width, columns, rows.clone(), x);
        convolve(s, h, x, to, rows.len());
        write(s, y, width, columns, rows, to);
    }
}

/// dx and df = what comes from within blocks.
#[inline(always)]
pub(super) fn backward<S: Simd>(
    s: S,
    input: &Input<'_, S::E>,
    columns: &Range<usize>,
    dy: &[S::E],
    dx: &Disjoint<'_, S::E>,
    df: &Disjoint<'_, S::E>,
    memory: &mut [S::E],
) {
    let (h, memory) = cut(memory, S::LANES);
    let (x, memory) = cut(memory, S::LANES);
    let (d, memory) = cut(memory, S::LANES);
    let (to, _) = cut(memory, S::LANES);
    let (width, length) = (input.channels, input.filter.len() / input.channels);
    gather(s, input.filter, width, columns, 0..BLOCK.min(length), h);
    for rows in blocks(input.cu_seqlens) {
        gather(s, dy, width, columns, rows.clone(), d);
        reverse(s, d, rows.len());
        convolve(s, h, d, to, rows.len());
        reverse(s, to, rows.len());
        write(s, dx, width, columns, rows, to);
    }
    to.fill(S::E::ZERO);
    for rows in blocks(input.cu_seqlens) {
        gather(s, input.x, width, columns, rows.clone(), x);
        gather(s, dy, width, columns, rows.clone(), d);
        correlate(s, x, d, to, rows.len());
    }
    write(s, df, width, columns, 0..BLOCK.min(length), to);
    for row in BLOCK.min(length)..length {
        // SAFETY: each task has columns of its own.
        unsafe { df.part(row * width + columns.start..row * width + columns.end) }.fill(S::E::ZERO);
    }
}

#[inline(always)]
fn write<S: Simd>(
    s: S,
    y: &Disjoint<'_, S::E>,
    width: usize,
    columns: &Range<usize>,
    rows: Range<usize>,
    from: &[S::E],
) {
    for (row, from) in rows.zip(from.chunks_exact(S::LANES)) {
        // SAFETY: each task has columns of its own.
        let y = unsafe { y.part(row * width + columns.start..row * width + columns.end) };
        s.store_any(s.load(from), y);
    }
}

/// The first `len` vectors of `x` in the opposite order.
#[inline(always)]
fn reverse<S: Simd>(s: S, x: &mut [S::E], len: usize) {
    for i in 0..len / 2 {
        let (a, b) = (i * S::LANES, (len - 1 - i) * S::LANES);
        let (first, last) = (s.load(&x[a..]), s.load(&x[b..]));
        s.store(last, &mut x[a..]);
        s.store(first, &mut x[b..]);
    }
}

/// y_t = Σ_{q ≤ t} h_{t−q} x_q for t < `len`; x is 0 from there on.
#[inline(always)]
fn convolve<S: Simd>(s: S, h: &[S::E], x: &[S::E], y: &mut [S::E], len: usize) {
    let at = |i: usize| i * S::LANES;
    for t in (0..len).step_by(TILE) {
        let mut sums = [s.zero(); TILE];
        for q in 0..t {
            let x = s.load(&x[at(q)..]);
            let h = &h[at(t - q)..at(t - q + TILE)];
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = s.fma(s.load(&h[at(i)..]), x, *sum);
            }
        }
        for q in 0..TILE {
            let x = s.load(&x[at(t + q)..]);
            for (i, sum) in sums.iter_mut().enumerate().skip(q) {
                *sum = s.fma(s.load(&h[at(i - q)..]), x, *sum);
            }
        }
        for (i, sum) in sums.into_iter().enumerate() {
            s.store(sum, &mut y[at(t + i)..]);
        }
    }
}

/// Adds Σ_t d_t x_{t−l} to `sums` for each l < `len`.
#[inline(always)]
fn correlate<S: Simd>(s: S, x: &[S::E], d: &[S::E], sums: &mut [S::E], len: usize) {
    let at = |i: usize| i * S::LANES;
    for l in (0..len).step_by(TILE) {
        let mut all = [s.zero(); TILE];
        for (i, sum) in all.iter_mut().enumerate() {
            *sum = s.load(&sums[at(l + i)..]);
        }
        for t in l..(l + TILE).min(len) {
            let d = s.load(&d[at(t)..]);
            for (i, sum) in all.iter_mut().enumerate().take(t - l + 1) {
                *sum = s.fma(d, s.load(&x[at(t - l - i)..]), *sum);
            }
        }
        for t in l + TILE..len {
            let d = s.load(&d[at(t)..]);
            let x = &x[at(t - l + 1 - TILE)..at(t - l + 1)];
            for (i, sum) in all.iter_mut().enumerate() {
                *sum = s.fma(d, s.load(&x[at(TILE - 1 - i)..]), *sum);
            }
        }
        for (i, sum) in all.into_iter().enumerate() {
            s.store(sum, &mut sums[at(l + i)..]);
        }
    }
}
