//! Attention that keeps its scores, by dense matrix products: the baseline that tiling is measured against.
//!
//! `P = softmax(τ·Q·Kᵀ)`, `O = P·V`; P `[H, N, M]` is kept for the backward pass, as frameworks do:
//! `dV = Pᵀ·dO`, `dS = P ∘ (dO·Vᵀ − D)`, `dQ = τ·dS·K`, `dK = τ·dSᵀ·Q`. One sequence, causal or not,
//! as many KV heads as heads.

use super::Attention;
use crate::disjoint::Disjoint;
use crate::gemm::{Gemm, gemm_scratch, gemm_strided};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Rows of softmax in a task.
const ROWS: usize = 16;

/// Bytes of scratch that [`forward`] and [`backward`] need beside the scores, for `n` queries and `m` keys.
pub fn scratch<T: Real>(a: &Attention, n: usize, m: usize, threads: usize) -> usize {
    products(a, n, m).iter().map(|g| gemm_scratch(g, size_of::<T>(), threads)).max().unwrap_or(0)
}

/// Q·Kᵀ (or dO·Vᵀ), P·V (or dS·K), Pᵀ·dO (or dSᵀ·Q).
fn products(a: &Attention, n: usize, m: usize) -> [Gemm; 3] {
    let g = Gemm { m: n, n: m, k: a.key_width, a_trans: false, b_trans: true, accumulate: false, compute: a.compute };
    let straight = Gemm { n: a.key_width, k: m, b_trans: false, ..g };
    [g, straight, Gemm { m, k: n, a_trans: true, ..straight }]
}

fn supported(a: &Attention) -> bool {
    let plain = a.window == (None, None) && a.softcap.is_none() && !a.alibi && a.dropout == 0.0;
    plain && a.heads == a.kv_heads && a.key_width == a.value_width
}

/// O `[N, H, V]`, and P `[H, N, M]` into `p`.
///
/// # Panics
/// If lengths do not fit each other, or `a` asks for more than a causal mask.
pub fn forward<T: Real>(
    pool: &Pool,
    a: &Attention,
    (n, m): (usize, usize),
    q: &[T],
    k: &[T],
    v: &[T],
    p: &mut [T],
    o: &mut [T],
    scratch: &mut [u8],
) {
    assert!(supported(a), "{a:?}");
    let [scores, outputs, _] = products(a, n, m);
    let row = a.heads * a.key_width;
    for head in 0..a.heads {
        let p = &mut p[head * n * m..][..n * m];
        let at = head * a.key_width;
        gemm_strided(pool, scores, &q[at..], row, &k[at..], row, p, m, scratch);
        let rows = Disjoint::new(&mut *p);
        pool.run(n.div_ceil(ROWS), |task, _| {
            let first = task * ROWS;
            // SAFETY: tasks take rows behind each other.
            let p = unsafe { rows.part(first * m..(first + ROWS).min(n) * m) };
            T::dispatch(Softmax { a, first, n, m, p });
        });
        gemm_strided(pool, outputs, p, m, &v[at..], row, &mut o[at..], row, scratch);
    }
}

/// dq, dk and dv; `ds` `[N, M]` is scratch, `dots` is D `[N, H]`.
///
/// # Panics
/// As [`forward`].
pub fn backward<T: Real>(
    pool: &Pool,
    a: &Attention,
    (n, m): (usize, usize),
    [q, k, v, p, o, d_o]: [&[T]; 6],
    [dq, dk, dv, ds, dots]: [&mut [T]; 5],
    scratch: &mut [u8],
) {
    assert!(supported(a), "{a:?}");
    let [scores, straight, transposed] = products(a, n, m);
    let row = a.heads * a.key_width;
    for ((dot, o), d_o) in dots.iter_mut().zip(o.chunks_exact(a.key_width)).zip(d_o.chunks_exact(a.key_width)) {
        *dot = o.iter().zip(d_o).fold(T::ZERO, |sum, (&x, &y)| sum + x * y);
    }
    for head in 0..a.heads {
        let p = &p[head * n * m..][..n * m];
        let at = head * a.key_width;
        gemm_strided(pool, transposed, p, m, &d_o[at..], row, &mut dv[at..], row, scratch);
        gemm_strided(pool, scores, &d_o[at..], row, &v[at..], row, ds, m, scratch);
        let rows = Disjoint::new(&mut *ds);
        pool.run(n.div_ceil(ROWS), |task, _| {
            let first = task * ROWS;
            let range = first * m..(first + ROWS).min(n) * m;
            // SAFETY: tasks take rows behind each other.
            let ds = unsafe { rows.part(range.clone()) };
            T::dispatch(Gradient { a, first, head, m, p: &p[range], ds, dots });
        });
        gemm_strided(pool, straight, ds, m, &k[at..], row, &mut dq[at..], row, scratch);
        gemm_strided(pool, transposed, ds, m, &q[at..], row, &mut dk[at..], row, scratch);
    }
}

struct Softmax<'a, T> {
    a: &'a Attention,
    first: usize,
    n: usize,
    m: usize,
    p: &'a mut [T],
}

impl<T: Real> Kernel<T> for Softmax<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let scale = s.splat(T::of(self.a.scale));
        for (i, row) in self.p.chunks_exact_mut(self.m).enumerate() {
            let seen = if self.a.causal { (self.first + i + 1 + self.m).saturating_sub(self.n) } else { self.m };
            let (row, hidden) = row.split_at_mut(seen);
            hidden.fill(T::ZERO);
            let mut top = s.splat(T::NEG_INFINITY);
            let (whole, rest) = row.split_at_mut(seen / S::LANES * S::LANES);
            for x in whole.chunks_exact(S::LANES) {
                top = s.max(s.load(x) * scale, top);
            }
            let mut top = s.reduce_max(top);
            for &x in &*rest {
                let x = x * T::of(self.a.scale);
                top = if x > top { x } else { top };
            }
            let top = s.splat(top);
            let mut sum = s.zero();
            for x in whole.chunks_exact_mut(S::LANES) {
                let p = s.exp(s.load(x) * scale - top);
                sum = sum + p;
                s.store(p, x);
            }
            let p = s.select(s.first(rest.len()), s.exp(s.load_part(rest) * scale - top), s.zero());
            s.store_part(p, rest);
            let sum = s.splat(T::ONE / s.sum(sum + p));
            for x in whole.chunks_exact_mut(S::LANES) {
                s.store(s.load(x) * sum, x);
            }
            s.store_part(p * sum, rest);
        }
    }
}

/// `dS = τ·P ∘ (dP − D)`, in place of dP.
struct Gradient<'a, T> {
    a: &'a Attention,
    first: usize,
    head: usize,
    m: usize,
    p: &'a [T],
    ds: &'a mut [T],
    dots: &'a [T],
}

impl<T: Real> Kernel<T> for Gradient<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let scale = s.splat(T::of(self.a.scale));
        for (i, (ds, p)) in self.ds.chunks_exact_mut(self.m).zip(self.p.chunks_exact(self.m)).enumerate() {
            let dot = s.splat(self.dots[(self.first + i) * self.a.heads + self.head]);
            for (x, p) in ds.chunks_mut(S::LANES).zip(p.chunks(S::LANES)) {
                s.store_any((s.load_any(x) - dot) * s.load_any(p) * scale, x);
            }
        }
    }
}
