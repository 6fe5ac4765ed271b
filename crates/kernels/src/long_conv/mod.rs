//! Depthwise causal convolution with a filter as long as the sequence, forward, backward and step by step.
//!
//! `y[t, d] = Σ_{s ≤ t} h[t - s, d] x[s, d]` for channel d of each sequence; the filter h [L, D] is given by time, and no
//! sequence is longer than L. Within aligned blocks of 64 tokens the sum is one chain. Beyond them time is halved again
//! and again: tokens of the odd block of each pair of S tokens receive from the even one through a Fourier transform of
//! 2 S points, for S = 64, 128, … (Hockney 1965; in this order "relaxed multiplication", van der Hoeven 2002). That takes
//! O(T log² T) operations, and unlike one transform of the whole sequence it keeps the row law: which blocks meet depends on
//! positions only, so no bit of y at t depends on what comes after t, on other sequences, or on the sequence's length.
//! Lanes are channels: transforms run down time, and so have the same bits on every instruction set.

mod direct;
mod fourier;
mod step;
#[cfg(test)]
mod tests;
mod tiles;

pub use step::long_conv_step;

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, rows_of};
use crate::scratch::{SLACK, Scratch, bytes};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// Tokens of a block within which sums are direct.
const BLOCK: usize = 64;
/// Columns of a task: the lanes of the widest vector.
const COLUMNS: usize = 16;

/// Sequences and their filter.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    channels: usize,
    x: &'a [T],
    filter: &'a [T],
    cu_seqlens: &'a [i32],
    /// e^(-2πi n / N) for n < N / 2, real and imaginary parts in turn.
    turns: &'a [T],
}

/// The points of the largest transform of sequences of up to `longest` tokens; 0 if none is needed.
fn points(longest: usize) -> usize {
    if longest > BLOCK { longest.next_power_of_two() } else { 0 }
}

/// The most tokens of a sequence.
fn longest(cu_seqlens: &[i32]) -> usize {
    cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}

/// Bytes of scratch of [`long_conv`] for sequences of up to `longest` tokens.
pub fn long_conv_scratch<T: Real>(longest: usize, threads: usize) -> usize {
    SLACK + bytes::<T>(points(longest)) + threads * worker_bytes::<T>(points(longest), 2, 3)
}

/// Bytes of scratch of [`long_conv_backward`] for sequences of up to `longest` tokens.
pub fn long_conv_backward_scratch<T: Real>(longest: usize, threads: usize) -> usize {
    SLACK + bytes::<T>(points(longest)) + threads * worker_bytes::<T>(points(longest), 4, 4)
}

/// Bytes of a worker with so many spectra and blocks.
fn worker_bytes<T: Real>(points: usize, spectra: usize, blocks: usize) -> usize {
    bytes::<T>((2 * spectra * points + blocks * BLOCK) * COLUMNS)
}

fn check<T>(channels: usize, x: &[T], filter: &[T], cu_seqlens: &[i32]) {
    let ascending = cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted();
    assert!(ascending, "cu_seqlens must start at 0 and not descend: {cu_seqlens:?}");
    expect_len("x", x.len(), cu_seqlens[cu_seqlens.len() - 1] as usize * channels);
    let (length, longest) = (rows_of("filter", filter.len(), channels), longest(cu_seqlens));
    assert!(longest <= length, "a sequence of {longest} tokens, the filter has {length}");
}

/// y [N, D] from x [N, D] and the filter [L, D], for sequences that start at `cu_seqlens` [S + 1].
///
/// # Panics
/// If a length does not fit, a sequence is longer than the filter, or scratch is smaller than [`long_conv_scratch`] says.
pub fn long_conv<T: Real>(
    pool: &Pool,
    channels: usize,
    x: &[T],
    filter: &[T],
    cu_seqlens: &[i32],
    y: &mut [T],
    scratch: &mut [u8],
) {
    check(channels, x, filter, cu_seqlens);
    expect_len("y", y.len(), x.len());
    let points = points(longest(cu_seqlens));
    let mut scratch = Scratch::new(scratch);
    let turns = fourier::turns::<T>(points, scratch.take(points));
    let workers = scratch.per_worker(pool.threads(), worker_bytes::<T>(points, 2, 3));
    let input = Input { channels, x, filter, cu_seqlens, turns };
    let y = Disjoint::new(y);
    pool.run(channels.div_ceil(COLUMNS), |task, worker| {
        // SAFETY: this worker's own, for this task.
        let mut own = unsafe { workers.of(worker) };
        let memory = own.take((4 * points + 3 * BLOCK) * COLUMNS);
        T::dispatch(Forward { input, columns: columns(task, channels), y, points, memory });
    });
}

/// Gradients of [`long_conv`]: dx [N, D] and df [L, D] from dy [N, D].
///
/// # Panics
/// If a length does not fit, or scratch is smaller than [`long_conv_backward_scratch`] says.
pub fn long_conv_backward<T: Real>(
    pool: &Pool,
    channels: usize,
    x: &[T],
    filter: &[T],
    cu_seqlens: &[i32],
    dy: &[T],
    dx: &mut [T],
    df: &mut [T],
    scratch: &mut [u8],
) {
    check(channels, x, filter, cu_seqlens);
    for (name, len, expected) in [("dy", dy.len(), x.len()), ("dx", dx.len(), x.len()), ("df", df.len(), filter.len())]
    {
        expect_len(name, len, expected);
    }
    let points = points(longest(cu_seqlens));
    let mut scratch = Scratch::new(scratch);
    let turns = fourier::turns::<T>(points, scratch.take(points));
    let workers = scratch.per_worker(pool.threads(), worker_bytes::<T>(points, 4, 4));
    let input = Input { channels, x, filter, cu_seqlens, turns };
    let (dx, df) = (Disjoint::new(dx), Disjoint::new(df));
    pool.run(channels.div_ceil(COLUMNS), |task, worker| {
        // SAFETY: this worker's own, for this task.
        let mut own = unsafe { workers.of(worker) };
        let memory = own.take((8 * points + 4 * BLOCK) * COLUMNS);
        T::dispatch(Backward { input, dy, columns: columns(task, channels), dx, df, points, memory });
    });
}

/// The columns of a task.
fn columns(task: usize, channels: usize) -> Range<usize> {
    task * COLUMNS..((task + 1) * COLUMNS).min(channels)
}

struct Forward<'a, T> {
    input: Input<'a, T>,
    columns: Range<usize>,
    y: Disjoint<'a, T>,
    points: usize,
    memory: &'a mut [T],
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Forward { input, columns, y, points, memory } = self;
        for column in columns.clone().step_by(S::LANES) {
            let columns = column..(column + S::LANES).min(columns.end);
            let (spectra, blocks) = memory.split_at_mut(4 * points * COLUMNS);
            direct::forward(s, &input, &columns, &y, blocks);
            tiles::forward(s, &input, &columns, &y, points, spectra);
        }
    }
}

struct Backward<'a, T> {
    input: Input<'a, T>,
    dy: &'a [T],
    columns: Range<usize>,
    dx: Disjoint<'a, T>,
    df: Disjoint<'a, T>,
    points: usize,
    memory: &'a mut [T],
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Backward { input, dy, columns, dx, df, points, memory } = self;
        for column in columns.clone().step_by(S::LANES) {
            let columns = column..(column + S::LANES).min(columns.end);
            let (spectra, blocks) = memory.split_at_mut(8 * points * COLUMNS);
            direct::backward(s, &input, &columns, dy, &dx, &df, blocks);
            tiles::backward(s, &input, &columns, dy, &dx, &df, points, spectra);
        }
    }
}

/// Copies `rows` of `columns` of x [_, `width`] to lanes, and fills what is left of `to` with 0.
#[inline(always)]
fn gather<S: Simd>(s: S, x: &[S::E], width: usize, columns: &Range<usize>, rows: Range<usize>, to: &mut [S::E]) {
    let mut to = to.chunks_exact_mut(S::LANES);
    for (row, to) in rows.zip(&mut to) {
        s.store(s.load_any(&x[row * width..][columns.clone()]), to);
    }
    to.for_each(|to| s.store(s.zero(), to));
}

/// Adds lanes to `rows` of `columns` of y [_, `width`].
///
/// # Safety
/// No other part of those columns of y is in use.
#[inline(always)]
unsafe fn add<S: Simd>(
    s: S,
    y: &Disjoint<'_, S::E>,
    width: usize,
    columns: &Range<usize>,
    rows: Range<usize>,
    from: &[S::E],
) {
    for (row, from) in rows.zip(from.chunks_exact(S::LANES)) {
        // SAFETY: the caller's promise.
        let y = unsafe { y.part(row * width + columns.start..row * width + columns.end) };
        s.store_any(s.load_any(y) + s.load(from), y);
    }
}
