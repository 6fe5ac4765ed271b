//! Inputs of a test, and what each form makes of them.

use crate::delta::*;
use crate::gla::tests::{Fenced, Random, error};

pub const FORMS: [Form; 2] = [Form::Recurrent, Form::Chunked];

/// How strongly a case forgets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// Gates of logsigmoid of a normal number over this.
    Tau(f64),
    /// As tau 1, with one gate in ten −1e30.
    Resets,
}

#[derive(Clone)]
pub struct Case<T> {
    pub delta: Delta,
    pub gate: GateKind,
    pub cu: Vec<i32>,
    pub q: Vec<T>,
    pub k: Vec<T>,
    pub v: Vec<T>,
    pub beta: Vec<T>,
    pub g: Vec<T>,
    pub initial_state: Vec<T>,
    pub d_o: Vec<T>,
    pub d_final_state: Vec<T>,
}

impl<T: Real> Case<T> {
    /// Keys of length 1, β from 0 to `most`.
    pub fn new(delta: Delta, gate: GateKind, lengths: &[usize], strength: Strength, most: f64) -> Case<T> {
        let mut r = Random(lengths.iter().sum::<usize>() as u64 + 1);
        let mut cu = vec![0];
        for length in lengths {
            cu.push(cu[cu.len() - 1] + *length as i32);
        }
        let n = cu[lengths.len()] as usize;
        let gates = match gate {
            GateKind::None => 0,
            GateKind::Head => n * delta.heads,
            GateKind::Channel => n * delta.heads * delta.key_width,
        };
        let state = delta.state_elements(lengths.len());
        // Inputs that f32 holds exactly, so that both element types see the same numbers.
        let exact = |x: f64| T::of(x as f32 as f64);
        let beta = (0..n * delta.heads).map(|_| exact(most * r.uniform())).collect();
        let mut tensor = |n| r.tensor::<f32>(n).iter().map(|x| T::of(*x as f64)).collect::<Vec<T>>();
        let mut case = Case {
            delta,
            gate,
            cu,
            q: tensor(n * delta.key_heads * delta.key_width),
            k: tensor(n * delta.key_heads * delta.key_width),
            v: tensor(n * delta.heads * delta.value_width),
            beta,
            g: tensor(gates),
            initial_state: tensor(state),
            d_o: tensor(n * delta.heads * delta.value_width),
            d_final_state: tensor(state),
        };
        for k in case.k.chunks_exact_mut(delta.key_width) {
            let length = k.iter().map(|k| k.f64() * k.f64()).sum::<f64>().sqrt();
            k.iter_mut().for_each(|k| *k = exact(k.f64() / length));
        }
        let tau = if let Strength::Tau(tau) = strength { tau } else { 1.0 };
        for g in &mut case.g {
            let reset = strength == Strength::Resets && r.uniform() < 0.1;
            *g = if reset { T::of(-1e30) } else { exact(-(-g.f64()).exp().ln_1p() / tau) };
        }
        case
    }

    pub fn gates(&self) -> Gate<'_, T> {
        match self.gate {
            GateKind::None => Gate::None,
            GateKind::Head => Gate::Head(&self.g),
            GateKind::Channel => Gate::Channel(&self.g),
        }
    }

    pub fn inputs(&self) -> DeltaInputs<'_, T> {
        DeltaInputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            beta: &self.beta,
            g: self.gates(),
            cu_seqlens: &self.cu,
            initial_state: Some(&self.initial_state),
        }
    }

    pub fn to<U: Real>(&self) -> Case<U> {
        let to = |x: &[T]| x.iter().map(|x| U::of(x.f64())).collect::<Vec<U>>();
        Case {
            delta: self.delta,
            gate: self.gate,
            cu: self.cu.clone(),
            q: to(&self.q),
            k: to(&self.k),
            v: to(&self.v),
            beta: to(&self.beta),
            g: to(&self.g),
            initial_state: to(&self.initial_state),
            d_o: to(&self.d_o),
            d_final_state: to(&self.d_final_state),
        }
    }

    /// o and the final states.
    pub fn forward(&self, form: Form, threads: usize) -> [Vec<T>; 2] {
        let mut o = Fenced::new(T::of(f64::NAN), self.v.len());
        let mut state = Fenced::new(T::of(f64::NAN), self.initial_state.len());
        let mut scratch = Fenced::new(0xFF, delta_scratch::<T>(&self.delta, form, longest(&self.cu), threads));
        let pool = Pool::new(threads);
        delta_forward(&pool, &self.delta, form, &self.inputs(), o.inside(), state.inside(), scratch.inside());
        scratch.check();
        [o.check(), state.check()]
    }

    pub fn naive_forward(&self) -> [Vec<T>; 2] {
        let mut o = vec![T::ZERO; self.v.len()];
        let mut state = vec![T::ZERO; self.initial_state.len()];
        naive::forward(&self.delta, &self.inputs(), &mut o, &mut state);
        [o, state]
    }

    /// Gradients of q, k, v, β, the gates, the initial states.
    pub fn backward(&self, form: Form, threads: usize) -> [Vec<T>; 6] {
        let nan = |n: usize| Fenced::new(T::of(f64::NAN), n);
        let (mut q, mut k, mut v) = (nan(self.q.len()), nan(self.k.len()), nan(self.v.len()));
        let (mut beta, mut g, mut state) = (nan(self.beta.len()), nan(self.g.len()), nan(self.initial_state.len()));
        let bytes = delta_backward_scratch::<T>(&self.delta, form, longest(&self.cu), threads);
        let mut scratch = Fenced::new(0xFF, bytes);
        let gradients = DeltaGradients {
            q: q.inside(),
            k: k.inside(),
            v: v.inside(),
            beta: beta.inside(),
            g: g.inside(),
            initial_state: Some(state.inside()),
        };
        let (pool, last) = (Pool::new(threads), Some(&self.d_final_state[..]));
        delta_backward(&pool, &self.delta, form, &self.inputs(), &self.d_o, last, gradients, scratch.inside());
        scratch.check();
        [q.check(), k.check(), v.check(), beta.check(), g.check(), state.check()]
    }

    pub fn naive_backward(&self) -> [Vec<T>; 6] {
        let g = naive::backward(&self.delta, &self.inputs(), &self.d_o, Some(&self.d_final_state));
        [g.q, g.k, g.v, g.beta, g.g, g.initial_state]
    }

    /// The scalar whose gradients `backward` gives.
    pub fn loss(&self) -> f64 {
        let [o, state] = self.naive_forward();
        let dot = |a: &[T], b: &[T]| a.iter().zip(b).map(|(a, b)| a.f64() * b.f64()).sum::<f64>();
        dot(&o, &self.d_o) + dot(&state, &self.d_final_state)
    }

    /// Sequence `b` alone.
    pub fn alone(&self, b: usize) -> Case<T> {
        let n = self.cu[self.cu.len() - 1] as usize;
        let rows = |x: &[T]| self.rows(x, n, b);
        let state = |x: &[T]| self.states(x, b);
        Case {
            cu: vec![0, self.cu[b + 1] - self.cu[b]],
            q: rows(&self.q),
            k: rows(&self.k),
            v: rows(&self.v),
            beta: rows(&self.beta),
            g: rows(&self.g),
            d_o: rows(&self.d_o),
            initial_state: state(&self.initial_state),
            d_final_state: state(&self.d_final_state),
            ..*self
        }
    }

    fn rows(&self, x: &[T], n: usize, b: usize) -> Vec<T> {
        let width = x.len() / n;
        x[self.cu[b] as usize * width..self.cu[b + 1] as usize * width].to_vec()
    }

    fn states(&self, x: &[T], b: usize) -> Vec<T> {
        let size = self.delta.state_elements(1);
        x[b * size..(b + 1) * size].to_vec()
    }

    /// Tokens `from..to` of a single sequence, with this state before them.
    pub fn piece(&self, from: usize, to: usize, state: &[T]) -> Case<T> {
        let n = self.cu[1] as usize;
        let rows = |x: &[T]| x[from * (x.len() / n)..to * (x.len() / n)].to_vec();
        Case {
            cu: vec![0, (to - from) as i32],
            q: rows(&self.q),
            k: rows(&self.k),
            v: rows(&self.v),
            beta: rows(&self.beta),
            g: rows(&self.g),
            d_o: rows(&self.d_o),
            initial_state: state.to_vec(),
            d_final_state: self.d_final_state.clone(),
            ..*self
        }
    }

    /// What a packed tensor, by row or by state, holds of sequence `b`.
    pub fn part(&self, x: &[T], b: usize, by_state: bool) -> Vec<T> {
        if by_state { self.states(x, b) } else { self.rows(x, self.cu[self.cu.len() - 1] as usize, b) }
    }
}

/// The error of dg relative to the terms q ⊙ dq that it is a difference of: under strong gates those
/// nearly cancel, and dg is far below them.
pub fn gate_error<T: Real>(dg: &[T], case: &Case<f64>, gradients: &[Vec<f64>; 6]) -> f64 {
    let largest = |x: &[f64]| x.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    let terms: Vec<f64> = case.q.iter().zip(&gradients[0]).map(|(q, dq)| (q * dq).abs()).collect();
    let width = if case.gate == GateKind::Head { case.delta.key_width } else { 1 };
    let terms = terms.chunks(width).map(|c| c.iter().sum()).fold(0.0, f64::max);
    error(dg, &gradients[4]) * largest(&gradients[4]) / terms.max(largest(&gradients[4]))
}

pub fn small(heads: usize, key_heads: usize, key_width: usize, value_width: usize) -> Delta {
    Delta { key_heads, ..Delta::new(heads, key_width, value_width) }
}
