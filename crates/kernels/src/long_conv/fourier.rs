//! Fourier transforms down time, a channel in each lane.
//!
//! A spectrum of n points is n vectors of real parts, then n of imaginary ones. The forward transform takes points in their
//! order and gives them with the bits of their numbers reversed (decimation in frequency), the inverse one goes back
//! (decimation in time): products of spectra need no order.

use crate::Real;
use crate::simd::Simd;

/// e^(-2πi n / `points`) for n < `points` / 2, real and imaginary parts in turn.
pub(super) fn turns<T: Real>(points: usize, to: &mut [T]) -> &[T] {
    for (n, turn) in to.chunks_exact_mut(2).enumerate() {
        let (sin, cos) = libm::sincos(-std::f64::consts::TAU * n as f64 / points as f64);
        (turn[0], turn[1]) = (T::of(cos), T::of(sin));
    }
    to
}

/// The turns of a butterfly that spans `span` points, by place.
#[derive(Clone, Copy)]
struct Turns<'a, T> {
    all: &'a [T],
    stride: usize,
}

impl<T: Real> Turns<'_, T> {
    #[inline(always)]
    fn at<S: Simd<E = T>>(&self, s: S, j: usize) -> [S::V; 2] {
        let at = 2 * j * self.stride;
        [s.splat(self.all[at]), s.splat(self.all[at + 1])]
    }
}

/// The points `at` and `at + half` of a spectrum's part.
#[inline(always)]
fn pair<S: Simd>(s: S, x: &[S::E], at: usize, half: usize) -> [S::V; 2] {
    [s.load(&x[at * S::LANES..]), s.load(&x[(at + half) * S::LANES..])]
}

#[inline(always)]
fn put<S: Simd>(s: S, x: &mut [S::E], at: usize, v: S::V) {
    s.store(v, &mut x[at * S::LANES..]);
}

/// The transform of `x`, bit-reversed; `turns` are those of at least as many points.
#[inline(always)]
pub(super) fn forward<S: Simd>(s: S, x: &mut [S::E], turns: &[S::E]) {
    let points = x.len() / (2 * S::LANES);
    let (re, im) = x.split_at_mut(points * S::LANES);
    let mut span = points;
    while span > 1 {
        let half = span / 2;
        let turns = Turns { all: turns, stride: turns.len() / span };
        for first in (0..points).step_by(span) {
            for j in 0..half {
                let at = first + j;
                let ([a, b], [ai, bi]) = (pair(s, re, at, half), pair(s, im, at, half));
                let [c, d] = turns.at(s, j);
                let (e, f) = (a - b, ai - bi);
                put(s, re, at, a + b);
                put(s, im, at, ai + bi);
                put(s, re, at + half, s.fma(c, e, -(d * f)));
                put(s, im, at + half, s.fma(c, f, d * e));
            }
        }
        span = half;
    }
}

/// Back from a bit-reversed transform, times the number of points.
#[inline(always)]
pub(super) fn inverse<S: Simd>(s: S, x: &mut [S::E], turns: &[S::E]) {
    let points = x.len() / (2 * S::LANES);
    let (re, im) = x.split_at_mut(points * S::LANES);
    let mut span = 2;
    while span <= points {
        let half = span / 2;
        let turns = Turns { all: turns, stride: turns.len() / span };
        for first in (0..points).step_by(span) {
            for j in 0..half {
                let at = first + j;
                let ([a, b], [ai, bi]) = (pair(s, re, at, half), pair(s, im, at, half));
                let [c, d] = turns.at(s, j);
                // Times the conjugate of the turn.
                let (e, f) = (s.fma(c, b, d * bi), s.fma(c, bi, -(d * b)));
                put(s, re, at, a + e);
                put(s, im, at, ai + f);
                put(s, re, at + half, a - e);
                put(s, im, at + half, ai - f);
            }
        }
        span *= 2;
    }
}

/// `scale` · a · b of two spectra, or · conj(b), to `a`.
#[inline(always)]
pub(super) fn multiply<S: Simd>(s: S, a: &mut [S::E], b: &[S::E], conjugate: bool, scale: S::E) {
    let (half, scale) = (a.len() / 2, s.splat(scale));
    for at in (0..half).step_by(S::LANES) {
        let [p, q] = product(s, a, b, at, conjugate);
        s.store(p * scale, &mut a[at..]);
        s.store(q * scale, &mut a[half + at..]);
    }
}

/// Adds a · conj(b) to `sum`.
#[inline(always)]
pub(super) fn correlate<S: Simd>(s: S, sum: &mut [S::E], a: &[S::E], b: &[S::E]) {
    let half = sum.len() / 2;
    for at in (0..half).step_by(S::LANES) {
        let [p, q] = product(s, a, b, at, true);
        s.store(s.load(&sum[at..]) + p, &mut sum[at..]);
        s.store(s.load(&sum[half + at..]) + q, &mut sum[half + at..]);
    }
}

#[inline(always)]
fn product<S: Simd>(s: S, a: &[S::E], b: &[S::E], at: usize, conjugate: bool) -> [S::V; 2] {
    let half = a.len() / 2;
    let (ar, ai) = (s.load(&a[at..]), s.load(&a[half + at..]));
    let (br, bi) = (s.load(&b[at..]), s.load(&b[half + at..]));
    let bi = if conjugate { -bi } else { bi };
    [s.fma(ar, br, -(ai * bi)), s.fma(ar, bi, ai * br)]
}
