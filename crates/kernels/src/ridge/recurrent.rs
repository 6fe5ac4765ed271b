//! The recurrent form: H moves on by a token, then Chebyshev's iteration by products with H.
//!
//! A sequence given in pieces, alone or beside others, on any number of threads, gives the same bits:
//! inference uses this form.

use super::chebyshev::Chebyshev;
use super::chunked::first_state;
use super::{Forward, LEAST_NORM, MOST_WIDTH, Ridge};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Vectors of columns of H that a product sums at once, twice each: even and odd rows apart.
const VECTORS: usize = 4;

pub(super) fn forward<T: Real>(pool: &Pool, ridge: &Ridge, f: &Forward<T>) {
    pool.run(f.x.sequences * f.x.heads, |task, _| T::dispatch(Task { f, ridge, task }));
}

struct Task<'a, T> {
    f: &'a Forward<T>,
    ridge: &'a Ridge,
    task: usize,
}

impl<T: Real> Kernel<T> for Task<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (f, x) = (self.f, &self.f.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let at = x.state(sequence, head);
        let (start, end) = x.range(sequence);
        // SAFETY: the tensors have the stated shapes; state and outputs of this head of this sequence are this task's own.
        unsafe {
            let state = std::slice::from_raw_parts_mut(f.final_state.add(at), x.width * x.width);
            first_state(x.initial_state, at, state);
            for t in start..end {
                let row = |p: *const T| std::slice::from_raw_parts(x.rows(p, t, 1, head).at, x.width);
                let gate = (!x.g.is_null()).then(|| *x.g.add(t * x.heads + head));
                let out = std::slice::from_raw_parts_mut(x.rows(f.out, t, 1, head).at, x.width);
                token(s, self.ridge, row(x.q), row(x.k), gate, state, out);
            }
        }
    }
}

/// Moves the state of a head on by a token and solves for it.
#[inline(always)]
pub(super) fn token<S: Simd>(
    s: S,
    ridge: &Ridge,
    q: &[S::E],
    k: &[S::E],
    gate: Option<S::E>,
    state: &mut [S::E],
    out: &mut [S::E],
) {
    let zero = S::E::ZERO;
    let coefficients = Chebyshev::new(ridge.ridge_strength);
    let norm = write(s, k, gate, state);
    let tau = S::E::of(coefficients.tau);
    let width = q.len();
    let (mut first, mut before, mut of_h) = ([zero; MOST_WIDTH], [zero; MOST_WIDTH], [zero; MOST_WIDTH]);
    let first = &mut first[..width];
    first.iter_mut().zip(q).for_each(|(x, q)| *x = *q * tau);
    out.copy_from_slice(first);
    let (before, of_h) = (&mut before[..width], &mut of_h[..width]);
    let (least, by) = (s.splat(S::E::of(coefficients.least)), s.splat(tau / norm));
    for omega in coefficients.omegas().take(ridge.num_iter) {
        multiply(s, state, out, of_h);
        let (ahead, momentum) = (s.splat(S::E::of(omega)), s.splat(S::E::of(omega - 1.0)));
        for i in (0..width).step_by(S::LANES) {
            let at = i..(i + S::LANES).min(width);
            let now = s.load_any(&out[at.clone()]);
            let residual = s.load_any(&first[at.clone()]) - s.fma(by, s.load_any(&of_h[at.clone()]), least * now);
            let next = now + s.fma(ahead, residual, momentum * (now - s.load_any(&before[at.clone()])));
            s.store_any(now, &mut before[at.clone()]);
            s.store_any(next, &mut out[at]);
        }
    }
    out.iter_mut().for_each(|x| *x = *x / norm);
}

/// H = exp(g) H + k kᵀ; its Frobenius norm, at least [`LEAST_NORM`].
#[inline(always)]
fn write<S: Simd>(s: S, k: &[S::E], gate: Option<S::E>, state: &mut [S::E]) -> S::E {
    let width = k.len();
    let mut decay = [S::E::ONE; 1];
    if let Some(g) = gate {
        s.store_any(s.exp(s.splat(g)), &mut decay);
    }
    let decay = s.splat(decay[0]);
    let mut squares = s.zero();
    for (row, x) in state.chunks_exact_mut(width).zip(k) {
        let x = s.splat(*x);
        for i in (0..width).step_by(S::LANES) {
            let at = i..(i + S::LANES).min(width);
            let h = s.fma(x, s.load_any(&k[at.clone()]), decay * s.load_any(&row[at.clone()]));
            squares = s.fma(h, h, squares);
            s.store_any(h, &mut row[at]);
        }
    }
    let (norm, least) = (s.sum(squares).sqrt(), S::E::of(LEAST_NORM));
    if norm > least { norm } else { least }
}

/// y = H x, as the sum of H's rows, which are its columns too, by x.
#[inline(always)]
fn multiply<S: Simd>(s: S, h: &[S::E], x: &[S::E], y: &mut [S::E]) {
    let width = x.len();
    let whole = width / (VECTORS * S::LANES) * (VECTORS * S::LANES);
    for first in (0..whole).step_by(VECTORS * S::LANES) {
        columns::<S, VECTORS>(s, h, x, y, first);
    }
    for first in (whole..width).step_by(S::LANES) {
        columns::<S, 1>(s, h, x, y, first);
    }
}

/// The `V` vectors of y from `first` on; the last may be cut.
#[inline(always)]
fn columns<S: Simd, const V: usize>(s: S, h: &[S::E], x: &[S::E], y: &mut [S::E], first: usize) {
    let width = x.len();
    let part = |i: usize| first + i * S::LANES..(first + (i + 1) * S::LANES).min(width);
    let (mut even, mut odd) = ([s.zero(); V], [s.zero(); V]);
    let mut rows = h.chunks_exact(2 * width);
    for (rows, x) in (&mut rows).zip(x.chunks_exact(2)) {
        let (a, b) = (s.splat(x[0]), s.splat(x[1]));
        let (top, bottom) = rows.split_at(width);
        for i in 0..V {
            even[i] = s.fma(a, s.load_any(&top[part(i)]), even[i]);
            odd[i] = s.fma(b, s.load_any(&bottom[part(i)]), odd[i]);
        }
    }
    let last = rows.remainder();
    for i in 0..V {
        if !last.is_empty() {
            even[i] = s.fma(s.splat(x[width - 1]), s.load_any(&last[part(i)]), even[i]);
        }
        s.store_any(even[i] + odd[i], &mut y[part(i)]);
    }
}
