//! The generic linear recurrence with a pluggable transition, of which every matrix memory is an instance.
//!
//! S_t = T_t S_{t−1} + k_t v_tᵀ, o_t = scale · S_tᵀ q_t, S [K, V]. What a model is lies in T_t:
//!
//! | model | T_t (columns of S) | key written |
//! |---|---|---|
//! | linear attention | I | k |
//! | RetNet | γ_h I, fixed | k |
//! | Mamba-2 | e^{Δ_t A_h} I | B, with values Δ x |
//! | GLA, HGRN2 | diag(α_t); HGRN2 writes k = 1 − α | k |
//! | DeltaNet | I − β k kᵀ | β k |
//! | Gated DeltaNet | (I − β k kᵀ) α_t | β k |
//! | Gated DeltaProduct | Π_j (I − β_j k_j k_jᵀ) α_t | a write a factor |
//! | KDA | (I − β k kᵀ) diag(α_t) | β k |
//!
//! This is a definition in plain loops: an oracle for kernels, and a place to try a transition that has none.
//!
//! Source: the taxonomy of "Dissecting Linear Recurrent Models" (2026), arXiv 2601.12598.

use crate::Real;

/// A linear map of the keys' space, in place.
pub trait Transition<T> {
    /// x = T x, x `[K]`.
    fn apply(&self, x: &mut [T]);
}

/// T = I: nothing is forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Identity;

/// T = a I: all is forgotten alike.
#[derive(Clone, Copy, Debug)]
pub struct Scalar<T>(pub T);

/// T = diag(a): each channel forgets at its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Diagonal<'a, T>(pub &'a [T]);

/// T = I − β k kᵀ: what is held under k is removed, by the share β where |k| = 1.
#[derive(Clone, Copy, Debug)]
pub struct Householder<'a, T> {
    /// β; eigenvalue 1 − β |k|² along k, 1 elsewhere.
    pub beta: T,
    /// k `[K]`.
    pub key: &'a [T],
}

/// T = `outer` · `inner`: the second acts first.
#[derive(Clone, Copy, Debug)]
pub struct Product<A, B> {
    /// Acts last.
    pub outer: A,
    /// Acts first.
    pub inner: B,
}

impl<T> Transition<T> for Identity {
    fn apply(&self, _: &mut [T]) {}
}

impl<T: Real> Transition<T> for Scalar<T> {
    fn apply(&self, x: &mut [T]) {
        x.iter_mut().for_each(|x| *x *= self.0);
    }
}

impl<T: Real> Transition<T> for Diagonal<'_, T> {
    fn apply(&self, x: &mut [T]) {
        assert_eq!(x.len(), self.0.len(), "a rate for each channel");
        x.iter_mut().zip(self.0).for_each(|(x, a)| *x *= *a);
    }
}

impl<T: Real> Transition<T> for Householder<'_, T> {
    fn apply(&self, x: &mut [T]) {
        assert_eq!(x.len(), self.key.len(), "a key channel for each of x");
        let held = x.iter().zip(self.key).fold(T::ZERO, |sum, (x, k)| k.mul_add(*x, sum));
        let removed = self.beta * held;
        x.iter_mut().zip(self.key).for_each(|(x, k)| *x -= removed * *k);
    }
}

impl<T, A: Transition<T>, B: Transition<T>> Transition<T> for Product<A, B> {
    fn apply(&self, x: &mut [T]) {
        self.inner.apply(x);
        self.outer.apply(x);
    }
}

/// The state of a head, [K, V].
#[derive(Clone, Debug, PartialEq)]
pub struct Memory<T> {
    key_width: usize,
    value_width: usize,
    state: Vec<T>,
}

impl<T: Real> Memory<T> {
    /// A state of zeros.
    pub fn new(key_width: usize, value_width: usize) -> Memory<T> {
        Memory { key_width, value_width, state: vec![T::ZERO; key_width * value_width] }
    }

    /// A state that is given, [K, V].
    ///
    /// # Panics
    /// If it is not rows of `value_width`.
    pub fn from_state(value_width: usize, state: Vec<T>) -> Memory<T> {
        let key_width = crate::rows::rows_of("state", state.len(), value_width);
        Memory { key_width, value_width, state }
    }

    /// The state [K, V].
    pub fn state(&self) -> &[T] {
        &self.state
    }

    /// S = T S.
    pub fn forget(&mut self, transition: &impl Transition<T>) {
        let mut column = vec![T::ZERO; self.key_width];
        for v in 0..self.value_width {
            for (c, x) in column.iter_mut().enumerate() {
                *x = self.state[c * self.value_width + v];
            }
            transition.apply(&mut column);
            for (c, x) in column.iter().enumerate() {
                self.state[c * self.value_width + v] = *x;
            }
        }
    }

    /// S += k vᵀ.
    ///
    /// # Panics
    /// If the widths are not those of the state.
    pub fn write(&mut self, key: &[T], value: &[T]) {
        assert_eq!([key.len(), value.len()], [self.key_width, self.value_width], "key and value fit the state");
        for (row, k) in self.state.chunks_exact_mut(self.value_width).zip(key) {
            row.iter_mut().zip(value).for_each(|(s, v)| *s = k.mul_add(*v, *s));
        }
    }

    /// o = scale · Sᵀ q.
    ///
    /// # Panics
    /// If the widths are not those of the state.
    pub fn read(&self, query: &[T], scale: T, o: &mut [T]) {
        assert_eq!([query.len(), o.len()], [self.key_width, self.value_width], "query and output fit the state");
        o.fill(T::ZERO);
        for (row, q) in self.state.chunks_exact(self.value_width).zip(query) {
            o.iter_mut().zip(row).for_each(|(o, s)| *o = (scale * *q).mul_add(*s, *o));
        }
    }
}

#[cfg(test)]
mod tests;
