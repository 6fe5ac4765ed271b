//! Some channels of a state, as vectors: what the forward sweep, the step and the way back share, to the bit.

use crate::Real;
use crate::simd::Simd;
use std::ops::Range;

/// Vectors that pass together, so that one's exponentials hide another's latency.
pub(super) const VECTORS: usize = 2;
/// An exponent below that of any sum.
pub(super) const EMPTY: f64 = -1e38;

/// Channels of one pass: at most [`VECTORS`] vectors, the last of them perhaps short.
#[derive(Clone)]
pub(super) struct Channels(Range<usize>);

/// Vectors of [`Channels`].
pub(super) type Vectors<S> = [<S as Simd>::V; VECTORS];

impl Channels {
    /// All passes over some channels.
    #[inline(always)]
    pub(super) fn all<S: Simd>(channels: Range<usize>) -> impl Iterator<Item = Channels> {
        let step = VECTORS * S::LANES;
        channels.clone().step_by(step).map(move |first| Channels(first..(first + step).min(channels.end)))
    }

    /// These channels of a row that begins at `row`.
    #[inline(always)]
    pub(super) fn range(&self, row: usize) -> Range<usize> {
        row + self.0.start..row + self.0.end
    }

    #[inline(always)]
    pub(super) fn load<S: Simd>(&self, s: S, x: &[S::E], row: usize) -> Vectors<S> {
        load(s, &x[self.range(row)])
    }

    #[inline(always)]
    pub(super) fn store<S: Simd>(&self, s: S, v: Vectors<S>, to: &mut [S::E]) {
        store(s, v, to);
    }
}

/// Vectors of a short row, zeros beyond its end.
#[inline(always)]
pub(super) fn load<S: Simd>(s: S, x: &[S::E]) -> Vectors<S> {
    std::array::from_fn(|j| s.load_any(&x[(j * S::LANES).min(x.len())..]))
}

/// The way back from [`load`].
#[inline(always)]
pub(super) fn store<S: Simd>(s: S, v: Vectors<S>, to: &mut [S::E]) {
    for (j, v) in v.into_iter().enumerate() {
        let at = (j * S::LANES).min(to.len());
        s.store_any(v, &mut to[at..]);
    }
}

/// a, b and p of some channels.
#[derive(Clone, Copy)]
pub(super) struct State<S: Simd> {
    pub a: Vectors<S>,
    pub b: Vectors<S>,
    pub p: Vectors<S>,
}

/// What a token's weights are beside its state's: y = (before · a + own · v) / sum.
pub(super) struct Token<S: Simd> {
    /// q, the common exponent.
    pub exponent: Vectors<S>,
    /// e^{u+k−q}.
    pub own: Vectors<S>,
    /// e^{p−q} a.
    pub before: Vectors<S>,
    /// e^{p−q} b + e^{u+k−q}.
    pub sum: Vectors<S>,
    s: S,
}

impl<S: Simd> State<S> {
    #[inline(always)]
    pub(super) fn load(s: S, rows: &[&mut [S::E]; 3]) -> State<S> {
        let [a, b, p] = [0, 1, 2].map(|i| load(s, rows[i]));
        // A sum of no tokens is 0; of any it is at least e^{k−q} = 1 or what was there before.
        let empty = s.splat(S::E::of(EMPTY));
        let p = std::array::from_fn(|j| s.select(s.lt(s.zero(), b[j]), p[j], empty));
        State { a, b, p }
    }

    #[inline(always)]
    pub(super) fn store(&self, s: S, rows: [&mut [S::E]; 3]) {
        for (v, to) in [self.a, self.b, self.p].into_iter().zip(rows) {
            store(s, v, to);
        }
    }

    /// A token's weights, on the state before it.
    #[inline(always)]
    pub(super) fn token(&self, s: S, u: Vectors<S>, k: Vectors<S>) -> Token<S> {
        let zero = [s.zero(); VECTORS];
        let mut token = Token { exponent: zero, own: zero, before: zero, sum: zero, s };
        for j in 0..VECTORS {
            let own = u[j] + k[j];
            let q = s.max(self.p[j], own);
            let (e1, e2) = (s.exp(self.p[j] - q), s.exp(own - q));
            token.exponent[j] = q;
            token.own[j] = e2;
            token.before[j] = e1 * self.a[j];
            token.sum[j] = s.fma(e1, self.b[j], e2);
        }
        token
    }

    /// Takes a token in.
    #[inline(always)]
    pub(super) fn advance(&mut self, s: S, w: Vectors<S>, k: Vectors<S>, v: Vectors<S>) {
        for j in 0..VECTORS {
            let kept = self.p[j] + w[j];
            let q = s.max(kept, k[j]);
            let (e1, e2) = (s.exp(kept - q), s.exp(k[j] - q));
            self.a[j] = s.fma(e1, self.a[j], e2 * v[j]);
            self.b[j] = s.fma(e1, self.b[j], e2);
            self.p[j] = q;
        }
    }
}

impl<S: Simd> Token<S> {
    /// y.
    #[inline(always)]
    pub(super) fn mean(&self, v: Vectors<S>) -> Vectors<S> {
        std::array::from_fn(|j| self.s.fma(self.own[j], v[j], self.before[j]) / self.sum[j])
    }
}
