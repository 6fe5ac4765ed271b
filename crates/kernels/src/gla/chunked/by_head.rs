//! A chunk whose head has one gate, or none: the decay of a pair of tokens is a number.
//!
//! With a_t = exp(g_t), D_ts = a_{s+1} ⋯ a_t and P_t = a_1 ⋯ a_t (n tokens):
//! A = tril(scale · q kᵀ) ⊙ D, o = P ⊙ (scale · q S) + A v, S_next = P_n S + (D_n ⊙ k)ᵀ v. Scores are
//! one product, and no array of decays is as wide as the keys. D is not kept either: a row of it is the
//! row before times a number, made while it is used.
//!
//! This is Mamba-2's state space duality, retention (a fixed gate), mLSTM (its gates stabilized), and
//! without gates linear attention.

use super::super::pack::exp;
use super::super::products::{Arrays, Products, dot, elements, read};
use super::super::{GateKind, Inputs};
use super::{Chunk, Gradients, multiply, times_transposed, times_triangle, triangle};
use crate::Real;
use crate::gemm::Start;
use crate::simd::Simd;

/// A chunk's arrays; rows are tokens.
pub(super) struct ByHead<'a, T> {
    keys: usize,
    values: usize,
    /// Rows that the arrays have.
    capacity: usize,
    /// Rows in use.
    tokens: usize,
    gated: bool,
    /// scale · q [C, K].
    q: &'a mut [T],
    /// [C, K].
    k: &'a mut [T],
    /// [C, V].
    v: &'a mut [T],
    /// a `[C]`.
    decay: &'a mut [T],
    /// P, decay from the start of the chunk to a token, itself included `[C]`.
    from_start: &'a mut [T],
    /// D_n, decay from a token, itself not included, to the end of the chunk `[C]`.
    to_end: &'a mut [T],
    /// A row of D `[C]`.
    row: &'a mut [T],
    /// q or k decayed to an end of the chunk [C, K].
    rolled: &'a mut [T],
    /// A [C, C].
    a: &'a mut [T],
}

/// Sizes of a chunk's arrays in the order in which they are taken.
fn sizes(chunk: usize, keys: usize, values: usize) -> [usize; 9] {
    let by_key = chunk * keys;
    [by_key, by_key, chunk * values, chunk, chunk, chunk, chunk, by_key, chunk * chunk]
}

/// Row t of `x` times `by[t]`.
#[inline(always)]
fn scale_rows<T: Real>(x: &mut [T], width: usize, by: &[T]) {
    x.chunks_exact_mut(width).zip(by).for_each(|(row, by)| row.iter_mut().for_each(|x| *x *= *by));
}

/// Row t of `to` = row t of `x` times `by[t]`.
#[inline(always)]
fn scaled_rows<T: Real>(to: &mut [T], x: &[T], width: usize, by: &[T]) {
    for ((to, x), by) in to.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(by) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = *x * *by);
    }
}

impl<T: Real> ByHead<'_, T> {
    /// Each of these triangles times D, and zeros above the diagonal.
    #[inline(always)]
    fn decay_pairs<const N: usize>(&mut self, mut triangles: [&mut [T]; N]) {
        let (n, ld) = (self.tokens, self.capacity);
        for t in 0..n {
            if self.gated {
                let a = self.decay[t];
                self.row[..t].iter_mut().for_each(|d| *d *= a);
                self.row[t] = T::ONE;
            }
            for triangle in &mut triangles {
                let (seen, future) = triangle[t * ld..t * ld + n].split_at_mut(t + 1);
                if self.gated {
                    multiply(seen, self.row);
                }
                future.fill(T::ZERO);
            }
        }
    }

    /// state = (decay over the chunk) state + `rolled`ᵀ x, x [n, V].
    #[inline(always)]
    fn carry(&self, products: &mut Products, x: &[T], state: &mut [T]) {
        if self.gated {
            let total = self.from_start[self.tokens - 1];
            state.iter_mut().for_each(|s| *s *= total);
        }
        let shape = (self.keys, self.values, self.tokens);
        let rolled = (&*self.rolled, self.keys, true);
        products.product(shape, rolled, (x, self.values, false), state, self.values, Start::Add);
    }

    /// dg from dq / scale, dk, the state after the chunk and its gradient.
    #[inline(always)]
    fn gate_gradients<S: Simd<E = T>>(&self, s: S, after: &[T], d: &mut Gradients<'_, T>) {
        let mut sum = dot(s, after, d.state);
        for t in (0..self.tokens).rev() {
            let row = t * self.keys..(t + 1) * self.keys;
            sum += dot(s, &self.q[row.clone()], &d.q[row.clone()]) - dot(s, &self.k[row.clone()], &d.k[row]);
            d.g[t] = sum;
        }
    }
}

impl<'a, T: Real> Chunk<'a, T> for ByHead<'a, T> {
    fn elements(chunk: usize, keys: usize, values: usize) -> usize {
        elements(&sizes(chunk, keys, values))
    }

    fn new(x: &Inputs<T>, capacity: usize, arrays: &mut Arrays<'a, T>) -> Self {
        let mut sizes = sizes(capacity, x.key_width, x.value_width).into_iter();
        let mut next = || arrays.take(sizes.next().expect("one size an array"));
        ByHead {
            keys: x.key_width,
            values: x.value_width,
            capacity,
            tokens: 0,
            gated: x.gate == GateKind::Head,
            q: next(),
            k: next(),
            v: next(),
            decay: next(),
            from_start: next(),
            to_end: next(),
            row: next(),
            rolled: next(),
            a: next(),
        }
    }

    #[inline(always)]
    unsafe fn read<S: Simd<E = T>>(&mut self, s: S, x: &Inputs<T>, at: usize, tokens: usize, head: usize) {
        let kv_head = x.kv_head(head);
        self.tokens = tokens;
        // SAFETY: the caller's; the arrays have whole vectors more than they hold.
        unsafe {
            read(x.query_rows(x.q, at, tokens, head), self.q);
            read(x.key_rows(x.k, at, tokens, kv_head), self.k);
            read(x.value_rows(x.v, at, tokens, kv_head), self.v);
            if self.gated {
                (0..tokens).for_each(|t| self.decay[t] = *x.g.add((at + t) * x.kv_heads + kv_head));
                exp(s, self.decay.as_mut_ptr(), tokens);
            }
        }
        let scale = T::of(x.scale);
        self.q[..tokens * self.keys].iter_mut().for_each(|q| *q *= scale);
        if self.gated {
            let mut total = T::ONE;
            for (from_start, a) in self.from_start[..tokens].iter_mut().zip(&*self.decay) {
                total *= *a;
                *from_start = total;
            }
            let mut total = T::ONE;
            for (to_end, a) in self.to_end[..tokens].iter_mut().zip(&*self.decay).rev() {
                *to_end = total;
                total *= *a;
            }
        }
    }

    #[inline(always)]
    fn outputs<S: Simd<E = T>>(&mut self, _: S, products: &mut Products, state: &mut [T], o: &mut [T]) {
        let (keys, values, n, ld) = (self.keys, self.values, self.tokens, self.capacity);
        let a = std::mem::take(&mut self.a);
        triangle(products, n, keys, self.q, self.k, (a, ld));
        self.decay_pairs([a]);
        products.product((n, values, keys), (self.q, keys, false), (state, values, false), o, values, Start::Zero);
        if self.gated {
            scale_rows(&mut o[..n * values], values, self.from_start);
        }
        times_triangle(products, (a, ld), n, (self.v, values), o, Start::Add);
        self.a = a;
        self.advance(products, state);
    }

    #[inline(always)]
    fn advance(&mut self, products: &mut Products, state: &mut [T]) {
        let n = self.tokens * self.keys;
        if self.gated {
            scaled_rows(&mut self.rolled[..n], self.k, self.keys, self.to_end);
        } else {
            self.rolled[..n].copy_from_slice(&self.k[..n]);
        }
        self.carry(products, self.v, state);
    }

    #[inline(always)]
    fn gradients<S: Simd<E = T>>(
        &mut self,
        s: S,
        products: &mut Products,
        before: &[T],
        after: &[T],
        d: &mut Gradients<'_, T>,
    ) {
        let (keys, values, n, ld) = (self.keys, self.values, self.tokens, self.capacity);
        let a = std::mem::take(&mut self.a);
        triangle(products, n, keys, self.q, self.k, (a, ld));
        triangle(products, n, values, d.o, self.v, (d.a, ld));
        self.decay_pairs([a, d.a]);

        // Through the state that leaves: dv and dk decay alike.
        let d_state = (&*d.state, values, false);
        products.product((n, values, keys), (self.k, keys, false), d_state, d.v, values, Start::Zero);
        let d_state = (&*d.state, values, true);
        products.product((n, keys, values), (self.v, values, false), d_state, d.k, keys, Start::Zero);
        // Through the state that enters.
        let before = (before, values, true);
        products.product((n, keys, values), (d.o, values, false), before, d.q, keys, Start::Zero);
        if self.gated {
            scale_rows(&mut d.v[..n * values], values, self.to_end);
            scale_rows(&mut d.k[..n * keys], keys, self.to_end);
            scale_rows(&mut d.q[..n * keys], keys, self.from_start);
        }
        // Through the pairs of the chunk.
        times_transposed(products, (a, ld), n, (d.o, values), d.v, Start::Add);
        times_triangle(products, (d.a, ld), n, (self.k, keys), d.q, Start::Add);
        times_transposed(products, (d.a, ld), n, (self.q, keys), d.k, Start::Add);
        self.a = a;

        if self.gated {
            self.gate_gradients(s, after, d);
            scaled_rows(&mut self.rolled[..n * keys], self.q, keys, self.from_start);
        } else {
            self.rolled[..n * keys].copy_from_slice(&self.q[..n * keys]);
        }
        self.carry(products, d.o, d.state);
    }
}
