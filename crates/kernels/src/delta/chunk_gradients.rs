//! The gradients of a chunk, from those of its outputs and of the state that leaves it.
//!
//! With M the scores of q and L the keys decayed to the chunk's end: du = Mᵀ do + L dS and what the
//! triangular system hands back (`solve_back`) give dw, which is dv. Stacked as the query rows are,
//! G = [dw; do]:
//! - dscores = G uᵀ on and below the diagonal, dy = P ⊙ (G Sᵀ) + what comes through the scores,
//! - dk (as it is written) = D_C ⊙ (u dS_nextᵀ) + what comes through the scores,
//! - dS = diag(P_C) dS_next + (P ⊙ y)ᵀ G, dβ_t = w_t · du_t,
//! - dg is the sum of y ⊙ dy − k ⊙ dk from its token to the end of the chunk, plus rowsum(S_next ⊙ dS_next).
//!
//! In the generalized rule L, u and k have the rows of [b; k], the second half of du is dv, to which Aᵀ dw of the scores of a
//! with k is added, and a ⊙ da of a token comes after its dg.

use super::chunk::{Between, Chunk, multiply, product};
use super::chunked::{ROWS, Sizes};
use super::scores::{clear_future, decay_pairs};
use crate::Real;
use crate::gemm::Start;
use crate::gla::GateKind;
use crate::gla::products::dot;
use crate::gla::products::{Arrays, Products};
use crate::simd::Simd;

/// The gradients of a chunk and what leads to them.
pub(super) struct Gradients<'a, T> {
    /// Of the state after the chunk, then of the one before [K, V].
    pub state: &'a mut [T],
    /// G: dw, then do [2n, V].
    pub seen: &'a mut [T],
    /// Of what tokens write [R n, V].
    pub u: &'a mut [T],
    /// Of y [2n, K].
    pub y: &'a mut [T],
    /// The part of dy through the state that enters, not yet decayed [2n, K].
    through: &'a mut [T],
    /// Of k as it is written [R n, K].
    pub k: &'a mut [T],
    /// `[n]`.
    pub beta: &'a mut [T],
    /// [n, K], or `[n]` if a head has one gate.
    pub g: &'a mut [T],
    /// Of the scores [2n, R C].
    a: &'a mut [T],
}

impl<'a, T: Real> Gradients<'a, T> {
    pub(super) fn sizes(chunk: usize, keys: usize, values: usize, writes: usize) -> [usize; 9] {
        let (by_key, by_value) = (chunk * keys, chunk * values);
        [
            keys * values,
            2 * by_value,
            writes * by_value,
            2 * by_key,
            2 * by_key,
            writes * by_key,
            chunk,
            by_key,
            2 * writes * chunk * chunk,
        ]
    }

    pub(super) fn new(sizes: &Sizes, arrays: &mut Arrays<'a, T>) -> Self {
        let Sizes { keys, values, chunk, writes } = *sizes;
        let mut sizes = Self::sizes(chunk, keys, values, writes).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        Gradients {
            state: &mut next()[..keys * values],
            seen: next(),
            u: next(),
            y: next(),
            through: next(),
            k: next(),
            beta: next(),
            g: next(),
            a: next(),
        }
    }
}

impl<T: Real> Chunk<'_, T> {
    /// All gradients from do (the second half of `d.seen`) and `d.state`, which becomes that of the state before.
    #[inline(always)]
    pub(super) fn gradients<S: Simd<E = T>>(
        &mut self,
        s: S,
        products: &mut Products,
        [before, after]: [&[T]; 2],
        w: &[T],
        u: &[T],
        d: &mut Gradients<'_, T>,
    ) {
        let (keys, values, n, ld) = (self.keys, self.values, self.tokens, self.ld());
        let written = self.writes * n;
        match self.between {
            Between::Pairs => self.scores_by_pair(products, true),
            Between::Quotients => self.scores_by_quotient(products, true),
            // Blocks once more below, where dy is built beside the scores; here they only fill A.
            Between::Blocks => {
                for block in 0..self.blocks() {
                    self.block_scores(s, products, block, true);
                    self.roll(block);
                }
            }
        }

        for write in 0..self.writes {
            self.hand_back(products, 1, write, d, Start::Zero);
        }
        let (rolled, d_state) = ((&*self.rolled, keys, false), (&*d.state, values, false));
        products.product((written, values, keys), rolled, d_state, d.u, values, Start::Add);
        self.solve_back(s, products, d.u, d.seen);
        if self.writes == 2 {
            self.hand_back(products, 0, 1, d, Start::Add);
        } else {
            for t in 0..n {
                d.beta[t] = dot(s, &w[t * values..(t + 1) * values], &d.u[t * values..(t + 1) * values]);
            }
        }

        let (g, u) = ((&*d.seen, values, false), (u, values, true));
        products.product((2 * n, written, values), g, u, d.a, ld, Start::Zero);
        products.product((2 * n, keys, values), g, (before, values, true), d.through, keys, Start::Zero);
        let u = (u.0, values, false);
        products.product((written, keys, values), u, (&*d.state, values, true), d.k, keys, Start::Zero);
        match self.between {
            Between::Pairs => {
                decay_pairs(d.a, self.pairs, n, ld, true);
                self.through_pairs(products, d);
            }
            Between::Quotients => {
                clear_future(d.a, n, ld, self.writes, true);
                self.through_quotients(products, d);
            }
            Between::Blocks => {
                clear_future(d.a, n, ld, self.writes, true);
                self.through_blocks(products, d);
                for write in 0..self.writes {
                    self.inside_blocks(d, write);
                }
            }
        }
        if self.gate != GateKind::None {
            self.gate_gradients(s, after, d);
        }
        if self.between == Between::Blocks {
            self.reach_back();
        }
        self.decay_state(d.state);
        let (inner, g) = ((&*self.inner, keys, true), (&*d.seen, values, false));
        products.product((keys, values, 2 * n), inner, g, d.state, values, Start::Add);
    }

    /// du (its `write`-th part) from the gradients of what the `half`-th query rows have seen.
    #[inline(always)]
    fn hand_back(&self, products: &mut Products, half: usize, write: usize, d: &mut Gradients<'_, T>, start: Start) {
        let (values, n, ld) = (self.values, self.tokens, self.ld());
        for first in (0..n).step_by(ROWS) {
            let end = (first + ROWS).min(n);
            let scores = (&self.a[(half * n + first) * ld + write * n + first..], ld, true);
            let seen = (&d.seen[(half * n + first) * values..], values, false);
            let to = &mut d.u[(write * n + first) * values..];
            products.product((end - first, values, n - first), scores, seen, to, values, start);
        }
    }

    /// By quotients: dy and dk through the scores.
    #[inline(always)]
    fn through_quotients(&mut self, products: &mut Products, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.ld());
        let (written, of_q) = (self.writes * n, n * keys);
        let (a, lifted) = ((&*d.a, ld, false), (&*self.lifted, keys, false));
        products.product((2 * n, keys, written), a, lifted, d.through, keys, Start::Add);
        // The first token reads before any decay, each other after that of the token before it.
        d.y[..keys].copy_from_slice(&d.through[..keys]);
        product(&mut d.y[keys..of_q], &d.through[keys..], &self.within[..]);
        product(&mut d.y[of_q..2 * of_q], &d.through[of_q..], &self.within[..]);

        for row in d.k[..written * keys].chunks_exact_mut(keys) {
            multiply(row, &self.total[..keys]);
        }
        let (a, inner) = ((&*d.a, ld, true), (&*self.inner, keys, false));
        products.product((written, keys, 2 * n), a, inner, d.k, keys, Start::Add);
        for of in (0..self.writes).map(|write| write * of_q) {
            multiply(&mut d.k[of..of + of_q], &self.left[..of_q]);
        }
    }

    /// One gate a head, or none: dy and dk through the scores.
    #[inline(always)]
    fn through_pairs(&mut self, products: &mut Products, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.ld());
        for t in 0..n {
            let from_start = self.pairs[t * ld] * self.decay[0];
            for row in [t, n + t] {
                let row = row * keys..(row + 1) * keys;
                super::chunk::scaled(&mut d.y[row.clone()], &d.through[row], from_start);
            }
            let to_end = self.pairs[(n - 1) * ld + t];
            d.k[t * keys..(t + 1) * keys].iter_mut().for_each(|k| *k *= to_end);
        }
        let (k, y) = ((&*self.k, keys, false), (&*self.y, keys, false));
        products.product((2 * n, keys, n), (&*d.a, ld, false), k, d.y, keys, Start::Add);
        products.product((n, keys, 2 * n), (&*d.a, ld, true), y, d.k, keys, Start::Add);
    }

    /// By channel: dy and dk through pairs of different blocks, each decayed on its way.
    #[inline(always)]
    fn through_blocks(&mut self, products: &mut Products, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.ld());
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            let before = &self.before[block * keys..(block + 1) * keys];
            for half in [0, n] {
                let first = half + rows.start;
                let to = &mut d.y[first * keys..(first + rows.len()) * keys];
                to.fill(T::ZERO);
                let shape = (rows.len(), keys, rows.start);
                for write in 0..self.writes {
                    let start = if write == 0 { Start::Zero } else { Start::Add };
                    let a = (&d.a[first * ld + write * n..], ld, false);
                    let rolled = (&self.rolled[write * n * keys..], keys, false);
                    products.product(shape, a, rolled, to, keys, start);
                }
                for t in rows.clone() {
                    let row = (half + t) * keys..(half + t + 1) * keys;
                    let through = d.through[row.clone()].iter().zip(before);
                    let y = d.y[row].iter_mut().zip(through);
                    if half > 0 || !self.reads_before() {
                        let within = &self.within[t * keys..(t + 1) * keys];
                        y.zip(within).for_each(|((y, (through, before)), w)| *y = *w * (*y + *through * *before));
                    } else if t > rows.start {
                        let within = &self.within[(t - 1) * keys..t * keys];
                        y.zip(within).for_each(|((y, (through, before)), w)| *y = *w * (*y + *through * *before));
                    } else {
                        y.for_each(|(y, (through, before))| *y += *through * *before);
                    }
                }
            }
            self.roll(block);
        }
        for write in 0..self.writes {
            let d_k = &mut d.k[write * n * keys..(write + 1) * n * keys];
            for block in (0..self.blocks()).rev() {
                let rows = self.block_rows(block);
                let decay = &self.block[block * keys..(block + 1) * keys];
                for row in d_k[..rows.start * keys].chunks_exact_mut(keys) {
                    multiply(row, decay);
                }
                for half in [0, n] {
                    let first = half + rows.start;
                    let a = (&d.a[first * ld + write * n..], ld, true);
                    let inner = (&self.inner[first * keys..], keys, false);
                    products.product((rows.start, keys, rows.len()), a, inner, d_k, keys, Start::Add);
                }
            }
            multiply(d_k, &self.left[..n * keys]);
        }
    }

    /// By channel: dy and dk through pairs of the same block, pair by pair.
    #[inline(always)]
    fn inside_blocks(&mut self, d: &mut Gradients<'_, T>, write: usize) {
        let (keys, n, ld, before) = (self.keys, self.tokens, self.ld(), self.reads_before());
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            for column in rows.clone() {
                let of_key = write * n + column;
                let key = &mut self.row[..keys];
                key.copy_from_slice(&self.k[of_key * keys..(of_key + 1) * keys]);
                for t in column..rows.end {
                    // The first row may read before its token decays the key, the second reads after.
                    for (row, decays) in [(t, !before), (n + t, before)] {
                        if t > column && decays {
                            multiply(key, &self.decay[t * keys..(t + 1) * keys]);
                        }
                        let a = d.a[row * ld + of_key];
                        let y = &mut d.y[row * keys..(row + 1) * keys];
                        y.iter_mut().zip(&*key).for_each(|(y, k)| *y = a.mul_add(*k, *y));
                    }
                }
                // The same pairs seen from the key, the last query first (Horner's rule over decays).
                let sum = key;
                sum.fill(T::ZERO);
                for t in (column..rows.end).rev() {
                    if t + 1 < rows.end {
                        multiply(sum, &self.decay[(t + 1) * keys..(t + 2) * keys]);
                    }
                    let first = if before { t + 1 } else { t };
                    for row in [first, n + t].into_iter().skip(usize::from(first == rows.end)) {
                        let a = d.a[row * ld + of_key];
                        let y = &self.y[row * keys..(row + 1) * keys];
                        sum.iter_mut().zip(y).for_each(|(sum, y)| *sum = a.mul_add(*y, *sum));
                    }
                }
                let k = &mut d.k[of_key * keys..(of_key + 1) * keys];
                k.iter_mut().zip(&*sum).for_each(|(k, sum)| *k += *sum);
            }
        }
    }

    /// dg from dy, dk, the state after the chunk and its gradient.
    #[inline(always)]
    fn gate_gradients<S: Simd<E = T>>(&mut self, s: S, after: &[T], d: &mut Gradients<'_, T>) {
        let (keys, n) = (self.keys, self.tokens);
        if self.gate == GateKind::Head {
            let mut sum = dot(s, after, d.state);
            for t in (0..n).rev() {
                let [of_k, of_q] = [t, n + t].map(|row| row * keys..(row + 1) * keys);
                sum += dot(s, &self.y[of_k.clone()], &d.y[of_k.clone()]) + dot(s, &self.y[of_q.clone()], &d.y[of_q]);
                sum -= dot(s, &self.k[of_k.clone()], &d.k[of_k]);
                d.g[t] = sum;
            }
            return;
        }
        if self.reads_before() {
            return self.gate_gradients_before(s, after, d);
        }
        let sum = &mut self.row[..keys];
        let states = after.chunks_exact(self.values).zip(d.state.chunks_exact(self.values));
        for (sum, (state, d_state)) in sum.iter_mut().zip(states) {
            *sum = dot(s, state, d_state);
        }
        for t in (0..n).rev() {
            let [of_k, of_q] = [t, n + t].map(|row| row * keys..(row + 1) * keys);
            let reads = self.y[of_k.clone()].iter().zip(&d.y[of_k.clone()]);
            let reads = reads.zip(self.y[of_q.clone()].iter().zip(&d.y[of_q]));
            let writes = self.k[of_k.clone()].iter().zip(&d.k[of_k.clone()]);
            for (((g, sum), ((y, dy), (q, dq))), (k, dk)) in d.g[of_k].iter_mut().zip(&mut *sum).zip(reads).zip(writes)
            {
                *sum += *y * *dy + *q * *dq - *k * *dk;
                *g = *sum;
            }
        }
    }

    /// dg of the generalized rule: a token's own decay comes after what its a reads.
    #[inline(always)]
    fn gate_gradients_before<S: Simd<E = T>>(&mut self, s: S, after: &[T], d: &mut Gradients<'_, T>) {
        let (keys, n) = (self.keys, self.tokens);
        let sum = &mut self.row[..keys];
        let states = after.chunks_exact(self.values).zip(d.state.chunks_exact(self.values));
        for (sum, (state, d_state)) in sum.iter_mut().zip(states) {
            *sum = dot(s, state, d_state);
        }
        let add = |sum: &mut [T], x: &[T], dx: &[T]| {
            sum.iter_mut().zip(x).zip(dx).for_each(|((sum, x), dx)| *sum = x.mul_add(*dx, *sum));
        };
        for t in (0..n).rev() {
            let [first, second] = [t, n + t].map(|row| row * keys..(row + 1) * keys);
            add(sum, &self.y[second.clone()], &d.y[second.clone()]);
            for row in [first.clone(), second] {
                let written = self.k[row.clone()].iter().zip(&d.k[row]);
                sum.iter_mut().zip(written).for_each(|(sum, (k, dk))| *sum -= *k * *dk);
            }
            d.g[first.clone()].copy_from_slice(sum);
            add(sum, &self.y[first.clone()], &d.y[first]);
        }
    }
}
