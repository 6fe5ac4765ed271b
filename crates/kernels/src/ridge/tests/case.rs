//! Inputs of a test, and what each form makes of them.

use crate::gla::longest;
use crate::gla::tests::{Fenced, Random};
use crate::ridge::*;

pub const FORMS: [Form; 2] = [Form::Recurrent, Form::Chunked];

/// How strongly a case forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// Nothing is forgotten.
    None,
    /// Gates of logsigmoid of a normal number over this.
    Tau(f64),
    /// As tau 1, with one gate in ten −1e30.
    Resets,
}

#[derive(Clone)]
pub struct Case<T> {
    pub ridge: Ridge,
    pub cu: Vec<i32>,
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub g: Option<Vec<T>>,
    pub initial_state: Vec<T>,
    pub d_out: Vec<T>,
    pub d_final_state: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Queries of length 1, keys of lengths from 0 to 1 (β), initial states of a few such keys.
    pub fn new(ridge: Ridge, lengths: &[usize], strength: Strength) -> Case<T> {
        let mut r = Random(lengths.iter().sum::<usize>() as u64 + 1);
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + *length as i32);
        }
        let n = cu[lengths.len()] as usize * ridge.heads;
        // Inputs that f32 holds exactly, so that both element types see the same numbers.
        let exact = |x: f64| T::of(x as f32 as f64);
        let mut rows = |n: usize, scaled: bool| -> Vec<T> {
            let mut all = vec![];
            for _ in 0..n {
                let row: Vec<f64> = r.tensor(ridge.width);
                let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
                let by = if scaled { r.uniform() } else { 1.0 };
                all.extend(row.iter().map(|x| exact(by * x / length)));
            }
            all
        };
        let (q, k, d_out) = (rows(n, false), rows(n, true), rows(n, false));
        let states = lengths.len() * ridge.heads;
        let keys = rows(3 * states, true);
        let d_final_state = rows(states * ridge.width, false);
        let g = (strength != Strength::None).then(|| {
            let tau = if let Strength::Tau(tau) = strength { tau } else { 1.0 };
            let gate = |x: f64| exact(-(-x).exp().ln_1p() / tau);
            let gates: Vec<f64> = r.tensor(n);
            let reset = |r: &mut Random| strength == Strength::Resets && r.uniform() < 0.1;
            gates.into_iter().map(|x| if reset(&mut r) { T::of(-1e30) } else { gate(x) }).collect()
        });
        let mut initial_state = vec![T::ZERO; ridge.state_elements(lengths.len())];
        let size = ridge.width * ridge.width;
        for (h, keys) in initial_state.chunks_exact_mut(size).zip(keys.chunks_exact(3 * ridge.width)) {
            for (i, h) in h.iter_mut().enumerate() {
                let (row, column) = (i / ridge.width, i % ridge.width);
                *h = exact(keys.chunks_exact(ridge.width).map(|k| k[row].f64() * k[column].f64()).sum());
            }
        }
        Case { ridge, cu, q, k, g, initial_state, d_out, d_final_state }
    }

    pub fn inputs(&self) -> RidgeInputs<'_, T> {
        RidgeInputs {
            q: &self.q,
            k: &self.k,
            g: self.g.as_deref(),
            cu_seqlens: &self.cu,
            initial_state: Some(&self.initial_state),
        }
    }

    pub fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        Case {
            ridge: self.ridge,
            cu: self.cu.clone(),
            q: to(&self.q),
            k: to(&self.k),
            g: self.g.as_deref().map(to),
            initial_state: to(&self.initial_state),
            d_out: to(&self.d_out),
            d_final_state: to(&self.d_final_state),
        }
    }

    /// x and the final states.
    pub fn forward(&self, form: Form, threads: usize) -> [Vec<T>; 2] {
        let mut out = Fenced::new(T::of(f64::NAN), self.q.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial_state.len());
        let bytes = ridge_scratch::<T>(&self.ridge, form, longest(&self.cu), threads);
        let mut scratch = Fenced::new(0xFF, bytes);
        let pool = Pool::new(threads);
        ridge_forward(&pool, &self.ridge, form, &self.inputs(), out.inside(), state.inside(), scratch.inside());
        scratch.check();
        [out.check(), state.check()]
    }

    pub fn naive_forward(&self) -> [Vec<T>; 2] {
        let (mut out, mut state) = (vec![T::ZERO; self.q.len()], vec![T::ZERO; self.initial_state.len()]);
        naive::forward(&self.ridge, &self.inputs(), &mut out, &mut state);
        [out, state]
    }

    /// Gradients of q, k, the gates, the initial states, at the solutions of `form`.
    pub fn backward(&self, form: Form, threads: usize) -> [Vec<T>; 4] {
        let out = &self.forward(form, threads)[0];
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut q, mut k) = (nan(self.q.len()), nan(self.k.len()));
        let (mut g, mut state) = (nan(self.g.as_ref().map_or(0, Vec::len)), nan(self.initial_state.len()));
        let mut scratch = Fenced::new(0xFF, ridge_backward_scratch::<T>(&self.ridge, longest(&self.cu), threads));
        let gradients =
            RidgeGradients { q: q.inside(), k: k.inside(), g: g.inside(), initial_state: Some(state.inside()) };
        let (pool, last) = (Pool::new(threads), Some(&self.d_final_state[..]));
        let (ridge, x) = (&self.ridge, self.inputs());
        ridge_backward(&pool, ridge, &x, out, &self.d_out, last, gradients, scratch.inside());
        scratch.check();
        [q.check(), k.check(), g.check(), state.check()]
    }

    pub fn naive_backward(&self) -> [Vec<T>; 4] {
        let g = naive::backward(&self.ridge, &self.inputs(), &self.d_out, Some(&self.d_final_state));
        [g.q, g.k, g.g, g.initial_state]
    }

    /// The scalar whose gradients `backward` gives.
    pub fn loss(&self) -> f64 {
        let [out, state] = self.naive_forward();
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum::<f64>();
        dot(&out, &self.d_out) + dot(&state, &self.d_final_state)
    }

    fn rows(&self, x: &[T], from: usize, to: usize) -> Vec<T> {
        let width = x.len() / self.cu[self.cu.len() - 1] as usize;
        x[from * width..to * width].to_vec()
    }

    /// Sequence `b` alone.
    pub fn alone(&self, b: usize) -> Case<T> {
        let (from, to) = (self.cu[b] as usize, self.cu[b + 1] as usize);
        let state = |x: &[T]| self.part(x, b, true);
        Case {
            cu: vec![0, self.cu[b + 1] - self.cu[b]],
            d_final_state: state(&self.d_final_state),
            ..self.tokens(from, to, state(&self.initial_state))
        }
    }

    fn tokens(&self, from: usize, to: usize, initial_state: Vec<T>) -> Case<T> {
        let rows = |x: &[T]| self.rows(x, from, to);
        Case {
            ridge: self.ridge,
            cu: vec![0, (to - from) as i32],
            q: rows(&self.q),
            k: rows(&self.k),
            g: self.g.as_deref().map(rows),
            d_out: rows(&self.d_out),
            initial_state,
            d_final_state: self.d_final_state.clone(),
        }
    }

    /// Tokens `from..to` of a single sequence, with this state before them.
    pub fn piece(&self, from: usize, to: usize, state: &[T]) -> Case<T> {
        self.tokens(from, to, state.to_vec())
    }

    /// What a packed tensor, by row or by state, holds of sequence `b`.
    pub fn part(&self, x: &[T], b: usize, by_state: bool) -> Vec<T> {
        let size = self.ridge.state_elements(1);
        if by_state {
            return x[b * size..(b + 1) * size].to_vec();
        }
        self.rows(x, self.cu[b] as usize, self.cu[b + 1] as usize)
    }
}

/// So many heads of this width, iterated until f64 is exact.
pub fn exact(heads: usize, width: usize) -> Ridge {
    Ridge { num_iter: 140, ..Ridge::new(heads, width) }
}
