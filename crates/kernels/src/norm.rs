//! RMSNorm and LayerNorm, forward and backward.
//!
//! x̂ = (x - μ) r over each row of `width` elements, y = x̂ w + b, where r = 1 / √(mean((x - μ)²) + ε)
//! and μ is the row's mean (LayerNorm, Ba et al. 2016) or 0 (RMSNorm, Zhang & Sennrich 2019).
//! With g = dy w: dx = r (g - mean(g) - x̂ mean(g x̂)), without mean(g) for RMSNorm;
//! dw = Σ dy x̂ and db = Σ dy over rows, in ascending order.
//!
//! A norm per head is one whose rows are heads; weights of their own for each head are `groups`.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, for_columns, for_rows, rows_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// What is subtracted before scaling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Nothing: RMSNorm.
    Rms,
    /// The row's mean: LayerNorm.
    Layer,
}

/// A normalization of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// What is subtracted before scaling.
    pub kind: NormKind,
    /// Elements of a row, at least 1.
    pub width: usize,
    /// Weights are [groups, width], at least 1 group, and row i takes those of group i mod groups.
    pub groups: usize,
    /// ε, added to the mean square.
    pub eps: f64,
    /// The weight is stored around 0: rows are scaled by 1 + w.
    pub zero_centred: bool,
}

impl Norm {
    /// RMSNorm of rows of `width`.
    pub fn rms(width: usize, eps: f64) -> Norm {
        Norm { kind: NormKind::Rms, width, groups: 1, eps, zero_centred: false }
    }

    /// LayerNorm of rows of `width`.
    pub fn layer(width: usize, eps: f64) -> Norm {
        Norm { kind: NormKind::Layer, width, groups: 1, eps, zero_centred: false }
    }

    fn check<T>(&self, x: &[T], weight: Option<&[T]>, bias: Option<&[T]>) -> usize {
        assert!(self.width > 0 && self.groups > 0, "a norm of width {} with {} groups", self.width, self.groups);
        let rows = rows_of("x", x.len(), self.width);
        assert!(rows.is_multiple_of(self.groups), "{rows} rows in {} groups", self.groups);
        for (name, parameter) in [("weight", weight), ("bias", bias)] {
            if let Some(parameter) = parameter {
                expect_len(name, parameter.len(), self.groups * self.width);
            }
        }
        rows
    }
}

/// y = x̂ w + b for rows x [rows, width]; `weight` and `bias` [groups, width], 1 and 0 if absent.
///
/// # Panics
/// If a length does not fit.
pub fn norm<T: Real>(pool: &Pool, norm: &Norm, x: &[T], weight: Option<&[T]>, bias: Option<&[T]>, y: &mut [T]) {
    let rows = norm.check(x, weight, bias);
    expect_len("y", y.len(), x.len());
    let y = Disjoint::new(y);
    for_rows(pool, rows, norm.width, |rows| {
        // SAFETY: rows of tasks do not overlap.
        let y = unsafe { y.part(rows.start * norm.width..rows.end * norm.width) };
        T::dispatch(Forward { norm, x, weight, bias, rows, y });
    });
}

/// Elements of scratch that [`norm_backward`] needs for `rows` rows.
pub fn norm_backward_scratch(rows: usize) -> usize {
    2 * rows
}

/// dx, and dw and db [groups, width] if asked for, from x and dy [rows, width].
///
/// With `accumulate`, dw and db are added to: each is its former value + its sum.
///
/// # Panics
/// If a length does not fit, or `scratch` is shorter than [`norm_backward_scratch`] says.
pub fn norm_backward<T: Real>(
    pool: &Pool,
    norm: &Norm,
    x: &[T],
    weight: Option<&[T]>,
    dy: &[T],
    dx: &mut [T],
    dw: Option<&mut [T]>,
    db: Option<&mut [T]>,
    accumulate: bool,
    scratch: &mut [T],
) {
    let rows = norm.check(x, weight, None);
    expect_len("dy", dy.len(), x.len());
    expect_len("dx", dx.len(), x.len());
    let stats = &mut scratch[..2 * rows];
    {
        let (dx, stats) = (Disjoint::new(dx), Disjoint::new(stats));
        for_rows(pool, rows, norm.width, |rows| {
            // SAFETY: rows of tasks do not overlap.
            let (dx, stats) = unsafe {
                (dx.part(rows.start * norm.width..rows.end * norm.width), stats.part(2 * rows.start..2 * rows.end))
            };
            T::dispatch(Backward { norm, x, weight, dy, rows, dx, stats });
        });
    }
    let columns = norm.groups * norm.width;
    for (d, of_weight) in [(dw, true), (db, false)] {
        let Some(d) = d else { continue };
        expect_len(if of_weight { "dw" } else { "db" }, d.len(), columns);
        let (d, stats) = (Disjoint::new(d), &*stats);
        for_columns(pool, columns, |range| {
            // SAFETY: columns of tasks do not overlap.
            let d = unsafe { d.part(range.clone()) };
            T::dispatch(Parameter { norm, x, dy, stats, of_weight, accumulate, columns: range, d });
        });
    }
}

/// Mean that is subtracted, and r.
#[inline(always)]
fn stats<S: Simd>(s: S, norm: &Norm, x: &[S::E]) -> (S::E, S::E) {
    let width = S::E::of(norm.width as f64);
    let mean = match norm.kind {
        NormKind::Rms => S::E::ZERO,
        NormKind::Layer => {
            let mut sum = s.zero();
            for x in x.chunks(S::LANES) {
                sum = sum + s.load_any(x);
            }
            s.sum(sum) / width
        }
    };
    let (mut squares, m) = (s.zero(), s.splat(mean));
    for x in x.chunks(S::LANES) {
        let d = s.select(s.first(x.len()), s.load_any(x) - m, s.zero());
        squares = s.fma(d, d, squares);
    }
    (mean, S::E::ONE / (s.sum(squares) / width + S::E::of(norm.eps)).sqrt())
}

/// Lanes of the weight from `at` on, as a factor.
#[inline(always)]
fn factor<S: Simd>(s: S, norm: &Norm, weight: Option<&[S::E]>, at: usize, len: usize) -> S::V {
    match weight {
        None => s.splat(S::E::ONE),
        Some(w) => {
            let w = s.load_any(&w[at..at + len]);
            if norm.zero_centred { w + s.splat(S::E::ONE) } else { w }
        }
    }
}

struct Forward<'a, T> {
    norm: &'a Norm,
    x: &'a [T],
    weight: Option<&'a [T]>,
    bias: Option<&'a [T]>,
    rows: Range<usize>,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let width = self.norm.width;
        for (row, y) in self.rows.zip(self.y.chunks_exact_mut(width)) {
            let x = &self.x[row * width..][..width];
            let (mean, r) = stats(s, self.norm, x);
            let (mean, r) = (s.splat(mean), s.splat(r));
            let group = row % self.norm.groups * width;
            for (i, (x, y)) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)).enumerate() {
                let at = group + i * S::LANES;
                let scaled = (s.load_any(x) - mean) * r * factor(s, self.norm, self.weight, at, x.len());
                let v = match self.bias {
                    None => scaled,
                    Some(b) => scaled + s.load_any(&b[at..at + x.len()]),
                };
                s.store_any(v, y);
            }
        }
    }
}

struct Backward<'a, T> {
    norm: &'a Norm,
    x: &'a [T],
    weight: Option<&'a [T]>,
    dy: &'a [T],
    rows: Range<usize>,
    dx: &'a mut [T],
    /// Mean and r of each row, for the parameters' gradients.
    stats: &'a mut [T],
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let width = self.norm.width;
        let count = T::of(width as f64);
        let rows = self.rows.zip(self.dx.chunks_exact_mut(width)).zip(self.stats.chunks_exact_mut(2));
        for ((row, dx), keep) in rows {
            let x = &self.x[row * width..][..width];
            let dy = &self.dy[row * width..][..width];
            let (mean, r) = stats(s, self.norm, x);
            keep.copy_from_slice(&[mean, r]);
            let (mean, r) = (s.splat(mean), s.splat(r));
            let group = row % self.norm.groups * width;
            let (mut sum_g, mut sum_gx) = (s.zero(), s.zero());
            for (i, (x, dy)) in x.chunks(S::LANES).zip(dy.chunks(S::LANES)).enumerate() {
                let g = s.load_any(dy) * factor(s, self.norm, self.weight, group + i * S::LANES, x.len());
                // Lanes beyond the row have dy = 0.
                let g = s.select(s.first(x.len()), g, s.zero());
                sum_g = sum_g + g;
                sum_gx = s.fma(g, (s.load_any(x) - mean) * r, sum_gx);
            }
            let mean_g = match self.norm.kind {
                NormKind::Rms => s.zero(),
                NormKind::Layer => s.splat(s.sum(sum_g) / count),
            };
            let mean_gx = s.splat(s.sum(sum_gx) / count);
            for (i, ((x, dy), dx)) in
                x.chunks(S::LANES).zip(dy.chunks(S::LANES)).zip(dx.chunks_mut(S::LANES)).enumerate()
            {
                let g = s.load_any(dy) * factor(s, self.norm, self.weight, group + i * S::LANES, x.len());
                let hat = (s.load_any(x) - mean) * r;
                s.store_any(r * (g - mean_g - hat * mean_gx), dx);
            }
        }
    }
}

struct Parameter<'a, T> {
    norm: &'a Norm,
    x: &'a [T],
    dy: &'a [T],
    stats: &'a [T],
    of_weight: bool,
    accumulate: bool,
    columns: Range<usize>,
    d: &'a mut [T],
}

impl<T: Real> Kernel<T> for Parameter<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let all = self.norm.groups * self.norm.width;
        let rows = self.x.len() / all;
        for (i, d) in self.d.chunks_mut(S::LANES).enumerate() {
            let column = self.columns.start + i * S::LANES;
            // A vector may reach into the next group, whose rows have statistics of their own.
            let (first, last) = (column / self.norm.width, (column + d.len() - 1) / self.norm.width);
            let mut sum = s.zero();
            if !self.of_weight {
                for row in 0..rows {
                    sum = sum + s.load_any(&self.dy[row * all + column..][..d.len()]);
                }
            } else if first == last {
                for row in 0..rows {
                    let at = row * all + column;
                    let [mean, r] = [0, 1].map(|k| s.splat(self.stats[2 * (row * self.norm.groups + first) + k]));
                    let hat = (s.load_any(&self.x[at..][..d.len()]) - mean) * r;
                    sum = s.fma(s.load_any(&self.dy[at..][..d.len()]), hat, sum);
                }
            } else {
                for row in 0..rows {
                    let at = row * all + column;
                    let mut hat = s.zero();
                    for group in first..=last {
                        let [mean, r] = [0, 1].map(|k| s.splat(self.stats[2 * (row * self.norm.groups + group) + k]));
                        let theirs = (s.load_any(&self.x[at..][..d.len()]) - mean) * r;
                        let begins = (group * self.norm.width).saturating_sub(column);
                        hat = s.select(s.first(begins.min(S::LANES)), hat, theirs);
                    }
                    sum = s.fma(s.load_any(&self.dy[at..][..d.len()]), hat, sum);
                }
            }
            s.store_any(if self.accumulate { s.load_any(d) + sum } else { sum }, d);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laws::{cast, close, gradient, values};
    use proptest::prelude::*;

    fn kinds() -> Vec<Norm> {
        let mut norms = Vec::new();
        for (width, groups) in [(1, 1), (7, 3), (16, 1), (70, 2), (130, 1)] {
            for kind in [NormKind::Rms, NormKind::Layer] {
                for zero_centred in [false, true] {
                    norms.push(Norm { kind, width, groups, eps: 1e-3, zero_centred });
                }
            }
        }
        norms
    }

    fn forward<T: Real>(threads: usize, n: &Norm, x: &[T], w: &[T], b: &[T]) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        norm(&Pool::new(threads), n, x, Some(w), Some(b), &mut y);
        y
    }

    fn backward<T: Real>(threads: usize, n: &Norm, x: &[T], w: &[T], dy: &[T]) -> [Vec<T>; 3] {
        let mut scratch = vec![T::ZERO; norm_backward_scratch(x.len() / n.width)];
        let (mut dx, mut dw, mut db) = (vec![T::ZERO; x.len()], vec![T::ZERO; w.len()], vec![T::ZERO; w.len()]);
        let pool = Pool::new(threads);
        norm_backward(&pool, n, x, Some(w), dy, &mut dx, Some(&mut dw), Some(&mut db), false, &mut scratch);
        [dx, dw, db]
    }

    #[test]
    fn rows_are_normalized_as_defined() {
        for n in kinds() {
            let (x, w) = (values::<f64>(6 * n.groups * n.width, 1), values::<f64>(n.groups * n.width, 2));
            let b = values::<f64>(w.len(), 3);
            let y = forward(2, &n, &x, &w, &b);
            for (i, (x, y)) in x.chunks(n.width).zip(y.chunks(n.width)).enumerate() {
                let mean = if n.kind == NormKind::Layer { x.iter().sum::<f64>() / n.width as f64 } else { 0.0 };
                let square = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n.width as f64;
                for (j, (x, y)) in x.iter().zip(y).enumerate() {
                    let at = i % n.groups * n.width + j;
                    let factor = w[at] + n.zero_centred as u8 as f64;
                    let expected = (x - mean) / (square + n.eps).sqrt() * factor + b[at];
                    assert!((y - expected).abs() < 1e-12, "{n:?} row {i} column {j}: {y}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for n in kinds() {
            let (x, w) = (values::<f64>(3 * n.groups * n.width, 4), values::<f64>(n.groups * n.width, 5));
            let (b, dy) = (values::<f64>(w.len(), 6), values::<f64>(x.len(), 7));
            let [dx, dw, db] = backward(2, &n, &x, &w, &dy);
            gradient(&format!("{n:?} dx"), &x, &dy, &dx, |x| forward(1, &n, x, &w, &b));
            gradient(&format!("{n:?} dw"), &w, &dy, &dw, |w| forward(1, &n, &x, w, &b));
            gradient(&format!("{n:?} db"), &b, &dy, &db, |b| forward(1, &n, &x, &w, b));
        }
    }

    #[test]
    fn accumulated_gradients_are_the_former_value_plus_the_sum() {
        let n = Norm::rms(40, 1e-5);
        let (x, w, dy) = (values::<f32>(400, 8), values::<f32>(40, 9), values::<f32>(400, 10));
        let [_, dw, _] = backward(1, &n, &x, &w, &dy);
        let mut twice = dw.clone();
        let mut dx = vec![0.0; 400];
        norm_backward(&Pool::new(1), &n, &x, Some(&w), &dy, &mut dx, Some(&mut twice), None, true, &mut [0.0; 20]);
        let expected: Vec<f32> = dw.iter().map(|x| x + x).collect();
        assert_eq!(twice, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn f32_agrees_with_f64_and_rows_alone_are_rows_of_the_whole(
            rows in 0usize..9, width in 1usize..150, groups in 1usize..4, layer: bool, zero_centred: bool,
        ) {
            let kind = if layer { NormKind::Layer } else { NormKind::Rms };
            let n = Norm { kind, width, groups, eps: 1e-2, zero_centred };
            let all = groups * width;
            let (x, w) = (values::<f32>(rows * all, 11), values::<f32>(all, 12));
            let (b, dy) = (values::<f32>(all, 13), values::<f32>(rows * all, 14));
            let y = forward(2, &n, &x, &w, &b);
            let [dx, dw, db] = backward(2, &n, &x, &w, &dy);
            close("y", &y, &forward::<f64>(1, &n, &cast(&x), &cast(&w), &cast(&b)), 1e-5);
            let [dx64, dw64, db64] = backward::<f64>(1, &n, &cast(&x), &cast(&w), &cast(&dy));
            close("dx", &dx, &dx64, 2e-4);
            close("dw", &dw, &dw64, 2e-5);
            close("db", &db, &db64, 2e-5);
            prop_assert_eq!(&backward(3, &n, &x, &w, &dy), &[dx.clone(), dw, db]);
            for row in 0..rows {
                let range = row * all..(row + 1) * all;
                prop_assert_eq!(&forward(1, &n, &x[range.clone()], &w, &b), &y[range.clone()]);
                let [alone, ..] = backward(1, &n, &x[range.clone()], &w, &dy[range.clone()]);
                prop_assert_eq!(&alone, &dx[range]);
            }
        }
    }
}
