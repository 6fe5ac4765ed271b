//! The gradients of a chunk, from those of its outputs and of the state that leaves it.
//!
//! With M the scores of q and L the keys decayed to the chunk's end: du = Mᵀ do + L dS and what the
//! triangular system hands back (`solve_back`) give dw, which is dv. Stacked as the query rows are,
//! G = [dw; do]:
//! - dscores = G uᵀ on and below the diagonal, dy = P ⊙ (G Sᵀ) + what comes through the scores,
//! - dk (as it is written) = D_C ⊙ (u dS_nextᵀ) + what comes through the scores,
//! - dS = diag(P_C) dS_next + (P ⊙ y)ᵀ G, dβ_t = w_t · du_t,
//! - dg is the sum of y ⊙ dy − k ⊙ dk from its token to the end of the chunk, plus rowsum(S_next ⊙ dS_next).

use super::chunk::{Chunk, multiply};
use super::chunked::ROWS;
use super::scores::decay_pairs;
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
    /// Of what tokens write [n, V].
    u: &'a mut [T],
    /// Of y [2n, K].
    pub y: &'a mut [T],
    /// The part of dy through the state that enters, not yet decayed [2n, K].
    through: &'a mut [T],
    /// Of k as it is written [n, K].
    pub k: &'a mut [T],
    /// `[n]`.
    pub beta: &'a mut [T],
    /// [n, K], or `[n]` if a head has one gate.
    pub g: &'a mut [T],
    /// Of the scores [2n, C].
    a: &'a mut [T],
}

impl<'a, T: Real> Gradients<'a, T> {
    pub(super) fn sizes(chunk: usize, keys: usize, values: usize) -> [usize; 9] {
        let (by_key, by_value) = (chunk * keys, chunk * values);
        [keys * values, 2 * by_value, by_value, 2 * by_key, 2 * by_key, by_key, chunk, by_key, 2 * chunk * chunk]
    }

    pub(super) fn new(chunk: usize, keys: usize, values: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = Self::sizes(chunk, keys, values).into_iter();
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
        let (keys, values, n, ld) = (self.keys, self.values, self.tokens, self.capacity);
        let by_channel = self.gate == GateKind::Channel;
        if by_channel {
            // Blocks once more below, where dy is built beside the scores; here they only fill A.
            for block in 0..self.blocks() {
                self.block_scores(s, products, block, true);
                self.roll(block);
            }
        } else {
            self.scores_by_pair(products, true);
        }

        for first in (0..n).step_by(ROWS) {
            let end = (first + ROWS).min(n);
            let scores = (&self.a[(n + first) * ld + first..], ld, true);
            let d_o = (&d.seen[(n + first) * values..], values, false);
            products.product(
                (end - first, values, n - first),
                scores,
                d_o,
                &mut d.u[first * values..],
                values,
                Start::Zero,
            );
        }
        let (rolled, d_state) = ((&*self.rolled, keys, false), (&*d.state, values, false));
        products.product((n, values, keys), rolled, d_state, d.u, values, Start::Add);
        self.solve_back(s, products, d.u, d.seen);
        for t in 0..n {
            d.beta[t] = dot(s, &w[t * values..(t + 1) * values], &d.u[t * values..(t + 1) * values]);
        }

        let (g, u) = ((&*d.seen, values, false), (u, values, true));
        products.product((2 * n, n, values), g, u, d.a, ld, Start::Zero);
        products.product((2 * n, keys, values), g, (before, values, true), d.through, keys, Start::Zero);
        let u = (u.0, values, false);
        products.product((n, keys, values), u, (&*d.state, values, true), d.k, keys, Start::Zero);
        if by_channel {
            clear_future(d.a, n, ld);
            self.through_blocks(products, d);
            self.inside_blocks(d);
        } else {
            decay_pairs(d.a, self.pairs, n, ld, true);
            self.through_pairs(products, d);
        }
        if self.gate != GateKind::None {
            self.gate_gradients(s, after, d);
        }
        if by_channel {
            self.reach_back();
        }
        self.decay_state(d.state);
        let (inner, g) = ((&*self.inner, keys, true), (&*d.seen, values, false));
        products.product((keys, values, 2 * n), inner, g, d.state, values, Start::Add);
    }

    /// One gate a head, or none: dy and dk through the scores.
    #[inline(always)]
    fn through_pairs(&mut self, products: &mut Products, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.capacity);
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
        let (keys, n, ld) = (self.keys, self.tokens, self.capacity);
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            let before = &self.before[block * keys..(block + 1) * keys];
            for half in [0, n] {
                let first = half + rows.start;
                let to = &mut d.y[first * keys..(first + rows.len()) * keys];
                to.fill(T::ZERO);
                let shape = (rows.len(), keys, rows.start);
                let (a, rolled) = ((&d.a[first * ld..], ld, false), (&*self.rolled, keys, false));
                products.product(shape, a, rolled, to, keys, Start::Zero);
                for t in rows.clone() {
                    let row = (half + t) * keys..(half + t + 1) * keys;
                    let through = d.through[row.clone()].iter().zip(before);
                    let within = &self.within[t * keys..(t + 1) * keys];
                    for ((y, (through, before)), within) in d.y[row].iter_mut().zip(through).zip(within) {
                        *y = *within * (*y + *through * *before);
                    }
                }
            }
            self.roll(block);
        }
        for block in (0..self.blocks()).rev() {
            let rows = self.block_rows(block);
            let decay = &self.block[block * keys..(block + 1) * keys];
            for row in d.k[..rows.start * keys].chunks_exact_mut(keys) {
                multiply(row, decay);
            }
            for half in [0, n] {
                let first = half + rows.start;
                let (a, inner) = ((&d.a[first * ld..], ld, true), (&self.inner[first * keys..], keys, false));
                products.product((rows.start, keys, rows.len()), a, inner, d.k, keys, Start::Add);
            }
        }
        multiply(&mut d.k[..n * keys], &self.left[..n * keys]);
    }

    /// By channel: dy and dk through pairs of the same block, pair by pair.
    #[inline(always)]
    fn inside_blocks(&mut self, d: &mut Gradients<'_, T>) {
        let (keys, n, ld) = (self.keys, self.tokens, self.capacity);
        for block in 0..self.blocks() {
            let rows = self.block_rows(block);
            for column in rows.clone() {
                let key = &mut self.row[..keys];
                key.copy_from_slice(&self.k[column * keys..(column + 1) * keys]);
                for t in column..rows.end {
                    if t > column {
                        multiply(key, &self.decay[t * keys..(t + 1) * keys]);
                    }
                    for row in [t, n + t] {
                        let a = d.a[row * ld + column];
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
                    for row in [t, n + t] {
                        let a = d.a[row * ld + column];
                        let y = &self.y[row * keys..(row + 1) * keys];
                        sum.iter_mut().zip(y).for_each(|(sum, y)| *sum = a.mul_add(*y, *sum));
                    }
                }
                let k = &mut d.k[column * keys..(column + 1) * keys];
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
        let sum = &mut self.row[..keys];
        let states = after.chunks_exact(self.values).zip(d.state.chunks_exact(self.values));
        sum.iter_mut().zip(states).for_each(|(sum, (state, d_state))| *sum = dot(s, state, d_state));
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
}

/// Zeros from the diagonal on in the first n rows, after it in the others.
#[inline(always)]
fn clear_future<T: Real>(a: &mut [T], n: usize, ld: usize) {
    for half in [0, 1] {
        for t in 0..n {
            a[(half * n + t) * ld + t + half..(half * n + t) * ld + n].fill(T::ZERO);
        }
    }
}
