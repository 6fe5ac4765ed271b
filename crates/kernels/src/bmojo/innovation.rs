//! How badly the next output of a fading memory was predicted from those before it.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_columns};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// What a mean square keeps of itself a token.
const KEPT: f64 = 0.99;
/// Keeps channels that have been 0 so far from dividing by 0.
const EPS: f64 = 1e-12;

/// Sizes of a predictor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Innovation {
    /// Channels D.
    pub channels: usize,
    /// Outputs l that a prediction is made of, at least 1.
    pub taps: usize,
}

impl Innovation {
    /// Elements of a sequence's state: its last l outputs, the latest first, and the mean square of each channel.
    pub fn state(&self) -> usize {
        (self.taps + 1) * self.channels
    }
}

/// 1 − 0.99^{t + 1}: by what a weighted mean of t + 1 tokens falls short.
fn weight_so_far(position: usize) -> f64 {
    1.0 - KEPT.powi(position.saturating_add(1).min(i32::MAX as usize) as i32)
}

/// Scores `[N]` of f [N, D] under weights [l, D], of whole sequences.
///
/// # Panics
/// If a length does not fit.
pub fn innovation<T: Real>(pool: &Pool, a: &Innovation, f: &[T], weight: &[T], cu_seqlens: &[i32], scores: &mut [T]) {
    let tokens = cu_seqlens.last().map_or(0, |&n| n as usize);
    expect_len("f", f.len(), tokens * a.channels);
    expect_len("weight", weight.len(), a.taps * a.channels);
    expect_len("scores", scores.len(), tokens);
    let scores = Disjoint::new(scores);
    pool.run(cu_seqlens.len() - 1, |sequence, _| {
        let rows = cu_seqlens[sequence] as usize..cu_seqlens[sequence + 1] as usize;
        // SAFETY: sequences do not overlap.
        let scores = unsafe { scores.part(rows.clone()) };
        let f = &f[rows.start * a.channels..rows.end * a.channels];
        T::dispatch(Whole { a, f, weight, scores });
    });
}

/// Channels that go on together, so that their mean squares stay in registers.
const BLOCK: usize = 64;

/// One sequence.
struct Whole<'a, T> {
    a: &'a Innovation,
    f: &'a [T],
    weight: &'a [T],
    scores: &'a mut [T],
}

impl<T: Real> Kernel<T> for Whole<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _: S) {
        let (d, taps) = (self.a.channels, self.a.taps);
        self.scores.fill(T::ZERO);
        for first in (0..d).step_by(BLOCK) {
            let channels = first..(first + BLOCK).min(d);
            let mut squares = [T::ZERO; BLOCK];
            for (t, score) in self.scores.iter_mut().enumerate() {
                let row = |back: usize| &self.f[(t - back) * d..][channels.clone()];
                let lags = |s: usize| (s <= t).then(|| row(s));
                *score = errors(row(0), lags, self.weight, d, taps, &channels, t, &mut squares, *score);
            }
        }
        self.scores.iter_mut().for_each(|score| *score = *score / T::of(d as f64));
    }
}

/// `sum` and the normalized squared errors of some channels of token t; `lag(s)` is f_{t−s} there, if it has one.
#[inline(always)]
fn errors<'f, T: Real>(
    now: &[T],
    lag: impl Fn(usize) -> Option<&'f [T]>,
    weight: &[T],
    d: usize,
    taps: usize,
    channels: &Range<usize>,
    t: usize,
    squares: &mut [T],
    sum: T,
) -> T {
    let mut error = [T::ZERO; BLOCK];
    let error = &mut error[..now.len()];
    error.copy_from_slice(now);
    for s in 1..=taps {
        let Some(then) = lag(s) else { break };
        let w = &weight[(s - 1) * d..][channels.clone()];
        error.iter_mut().zip(w).zip(then).for_each(|((e, &w), &y)| *e = (-w).mul_add(y, *e));
    }
    let (kept, new, so_far) = (T::of(KEPT), T::of(1.0 - KEPT), T::of(weight_so_far(t)));
    let mut sum = sum;
    for ((e, &y), m) in error.iter_mut().zip(now).zip(squares) {
        *m = kept.mul_add(*m, new * y * y);
        *e = *e * *e / (*m / so_far + T::of(EPS));
    }
    for &mut e in error {
        sum += e;
    }
    sum
}

/// Scores `[N]` of rows that continue sequences, with the bits of [`innovation`]; states [slots, l + 1, D] move on.
///
/// Row i is of slot `rows[2 i]` at position `rows[2 i + 1]`; rows of a slot come in order. At position 0 a state begins.
///
/// # Panics
/// If a length does not fit, or a slot is none of those of `states`.
pub fn innovation_step<T: Real>(
    a: &Innovation,
    f: &[T],
    weight: &[T],
    rows: &[i32],
    states: &mut [T],
    scores: &mut [T],
) {
    expect_len("f", f.len(), scores.len() * a.channels);
    expect_len("weight", weight.len(), a.taps * a.channels);
    expect_len("rows", rows.len(), 2 * scores.len());
    for (i, (row, score)) in rows.chunks_exact(2).zip(scores).enumerate() {
        let state = &mut states[row[0] as usize * a.state()..][..a.state()];
        let f = &f[i * a.channels..][..a.channels];
        *score = T::dispatch(Step { a, f, weight, position: row[1] as usize, state });
    }
}

/// One row.
struct Step<'a, T> {
    a: &'a Innovation,
    f: &'a [T],
    weight: &'a [T],
    position: usize,
    state: &'a mut [T],
}

impl<T: Real> Kernel<T> for Step<'_, T> {
    type Out = T;

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _: S) -> T {
        let Step { a, f, weight, position: t, state } = self;
        let (d, taps) = (a.channels, a.taps);
        if t == 0 {
            state.fill(T::ZERO);
        }
        let (last, squares) = state.split_at_mut(taps * d);
        let mut sum = T::ZERO;
        for first in (0..d).step_by(BLOCK) {
            let channels = first..(first + BLOCK).min(d);
            let lags = |s: usize| (s <= t).then(|| &last[(s - 1) * d..][channels.clone()]);
            let squares = &mut squares[channels.clone()];
            sum = errors(&f[channels.clone()], lags, weight, d, taps, &channels, t, squares, sum);
        }
        last.copy_within(..(taps - 1) * d, d);
        last[..d].copy_from_slice(f);
        sum / T::of(d as f64)
    }
}

/// The gradient of the weights [l, D] from `d_score`, which is that of each score; f is taken as given.
///
/// # Panics
/// If a length does not fit.
pub fn innovation_gradient<T: Real>(
    pool: &Pool,
    a: &Innovation,
    f: &[T],
    weight: &[T],
    cu_seqlens: &[i32],
    d_score: T,
    d_weight: &mut [T],
) {
    expect_len("f", f.len(), cu_seqlens.last().map_or(0, |&n| n as usize) * a.channels);
    expect_len("weight", weight.len(), a.taps * a.channels);
    expect_len("d_weight", d_weight.len(), weight.len());
    d_weight.fill(T::ZERO);
    let d_weight = Disjoint::new(d_weight);
    let d = a.channels;
    for_columns(pool, d, |channels| {
        for channel in channels {
            for ends in cu_seqlens.windows(2) {
                let f = &f[ends[0] as usize * d..ends[1] as usize * d];
                let y = |t: usize| f[t * d + channel];
                let mut square = T::ZERO;
                for t in 0..(ends[1] - ends[0]) as usize {
                    let seen = a.taps.min(t);
                    let error = (1..=seen).fold(y(t), |e, s| (-weight[(s - 1) * d + channel]).mul_add(y(t - s), e));
                    square = T::of(KEPT).mul_add(square, T::of(1.0 - KEPT) * y(t) * y(t));
                    let by = square / T::of(weight_so_far(t)) + T::of(EPS);
                    let slope = T::of(-2.0 / d as f64) * d_score * error / by;
                    for s in 1..=seen {
                        let at = (s - 1) * d + channel;
                        // SAFETY: a channel belongs to one task.
                        let to = unsafe { d_weight.part(at..at + 1) };
                        to[0] = slope.mul_add(y(t - s), to[0]);
                    }
                }
            }
        }
    });
}
