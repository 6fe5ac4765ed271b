//! Ridge regression at every token: what Gated KalmaNet reads its memory with.
//!
//! H_t = exp(g_t) H_{t−1} + k_t k_tᵀ,  F_t = ‖H_t‖_F,  λ_t = a F_t,  x_t = (H_t + λ_t I)⁻¹ q_t:
//! with U_t the memory of values under the same keys and gates, U_t x_t is what the linear map that fits
//! all pairs so far best (in the ridge sense) gives for q_t. Eigenvalues of H_t + λ_t I lie in
//! [a F_t, (1 + a) F_t], so its condition number is at most 1 + 1/a whatever the data, and Chebyshev's
//! iteration, which needs no inner products, converges at a known rate ([`chebyshev`]).
//!
//! Two forms of one function: [`Form::Recurrent`] carries H from token to token, [`Form::Chunked`]
//! solves for all tokens of a chunk at once by matrix products. The plain definition, with a direct
//! solver, is in [`naive`]. Backward is another solve with the same matrix, always by chunks.
//!
//! Layout: tokens of all sequences in one dimension N, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`. q, k and x [N, H, D]; log-gates [N, H] or none; states H, which
//! are symmetric, [B, H, D, D].
//!
//! **Which form for what.** Inference takes the recurrent form (and [`ridge_step`], which has the same
//! bits), whatever pieces a prompt comes in; training takes what [`ridge_form`] says.
//!
//! Source: "Gated KalmaNet: A Fading Memory Layer Through Test-Time Ridge Regression" (2025), arXiv 2511.21016.

pub mod chebyshev;
mod check;
mod chunk;
mod chunked;
mod gradients;
pub mod naive;
mod recurrent;
mod solve;
mod step;
#[cfg(test)]
mod tests;

pub use check::{MOST_WIDTH, RidgeError};
pub use step::ridge_step;

use crate::gla::pack::Rows;
use crate::gla::{ALIGNMENT, Pointer, longest, rows, scratch_bytes, workers};
use crate::{Pool, Real};

/// Shape and options of the regression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ridge {
    /// Heads H of queries, keys, gates and states.
    pub heads: usize,
    /// Width D of a head's queries and keys.
    pub width: usize,
    /// Steps of Chebyshev's iteration: 30 as published; with 0 the solution is 2 / (λ + λ + F) q.
    pub num_iter: usize,
    /// a, the share of ‖H‖_F that is added to every eigenvalue: above 0, 0.02 as published.
    pub ridge_strength: f64,
    /// Gradients pass through λ; otherwise it counts as a constant.
    pub bp_lambda: bool,
    /// Tokens C of a chunk in the chunked form: a multiple of 16.
    pub chunk: usize,
}

impl Ridge {
    /// `heads` heads of D, all else as published: 30 iterations, a = 0.02, chunks of 64 tokens.
    pub fn new(heads: usize, width: usize) -> Ridge {
        Ridge { heads, width, num_iter: 30, ridge_strength: 0.02, bp_lambda: true, chunk: 64 }
    }

    /// Elements of the states of so many sequences: H · D · D each.
    pub fn state_elements(&self, sequences: usize) -> usize {
        sequences * self.heads * self.width * self.width
    }
}

impl Default for Ridge {
    /// One head of 64.
    fn default() -> Ridge {
        Ridge::new(1, 64)
    }
}

/// The least ‖H‖_F that is divided by: that of a state without keys.
pub const LEAST_NORM: f64 = 1e-12;

/// How the function is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chunks by matrix products, states between chunks.
    Chunked,
    /// Token by token: the bits do not depend on how a sequence is cut.
    Recurrent,
}

/// The form to train with: [`Form::Chunked`] if a sequence has more tokens than the vectors of a
/// matrix product, else [`Form::Recurrent`].
pub fn ridge_form(lengths: &[usize]) -> Form {
    if lengths.iter().any(|&length| length > 16) { Form::Chunked } else { Form::Recurrent }
}

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct RidgeInputs<'a, T> {
    /// Queries [N, H, D].
    pub q: &'a [T],
    /// Keys [N, H, D].
    pub k: &'a [T],
    /// Log-gates [N, H], at most 0; nothing is forgotten if none.
    pub g: Option<&'a [T]>,
    /// Where each sequence begins, and the end, [B + 1].
    pub cu_seqlens: &'a [i32],
    /// States before the first tokens, symmetric, [B, H, D, D]; zero if none.
    pub initial_state: Option<&'a [T]>,
}

/// Gradients of the inputs, all overwritten.
pub struct RidgeGradients<'a, T> {
    /// As q.
    pub q: &'a mut [T],
    /// As k.
    pub k: &'a mut [T],
    /// As the gates; empty without.
    pub g: &'a mut [T],
    /// As the initial states, if wanted: symmetric.
    pub initial_state: Option<&'a mut [T]>,
}

/// Shapes and inputs by pointer, for tasks.
struct Inputs<T> {
    sequences: usize,
    cu: *const i32,
    heads: usize,
    width: usize,
    q: *const T,
    k: *const T,
    /// Null if there are none.
    g: *const T,
    /// Null if there is none.
    initial_state: *const T,
}

/// Pointers of a forward call.
struct Forward<T> {
    x: Inputs<T>,
    out: *mut T,
    final_state: *mut T,
    scratch: *mut T,
    /// Elements of `scratch` for each worker.
    scratch_elements: usize,
}

/// Pointers of a backward call; null where an option is none.
struct Backward<T> {
    x: Inputs<T>,
    out: *const T,
    d_out: *const T,
    d_final_state: *const T,
    dq: *mut T,
    dk: *mut T,
    dg: *mut T,
    d_initial_state: *mut T,
    scratch: *mut T,
    /// Elements of `scratch` for each worker.
    scratch_elements: usize,
}

// SAFETY: the pointers come from slices that outlive the call; tasks read inputs and write disjoint outputs.
unsafe impl<T: Sync> Sync for Forward<T> {}
// SAFETY: as for `Forward`.
unsafe impl<T: Sync> Sync for Backward<T> {}

impl<T> Inputs<T> {
    /// Tokens of a sequence.
    #[inline(always)]
    fn range(&self, sequence: usize) -> (usize, usize) {
        // SAFETY: `cu` has one more entry than there are sequences; none is negative (checked at the call).
        unsafe { (*self.cu.add(sequence) as usize, *self.cu.add(sequence + 1) as usize) }
    }

    /// Where the state of a head begins.
    #[inline(always)]
    fn state(&self, sequence: usize, head: usize) -> usize {
        (sequence * self.heads + head) * self.width * self.width
    }

    /// Rows of q, k, x or their gradients.
    #[inline(always)]
    fn rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.heads, self.width)
    }
}

impl Ridge {
    fn inputs<T: Real>(&self, x: &RidgeInputs<'_, T>) -> Inputs<T> {
        if let Err(error) = self.check_shapes(x) {
            panic!("ridge: {error}");
        }
        Inputs {
            sequences: x.cu_seqlens.len() - 1,
            cu: x.cu_seqlens.as_ptr(),
            heads: self.heads,
            width: self.width,
            q: x.q.as_ptr(),
            k: x.k.as_ptr(),
            g: x.g.map_or(std::ptr::null(), <[T]>::as_ptr),
            initial_state: x.initial_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        }
    }
}

/// Elements of scratch of a thread, a multiple of the alignment.
fn forward_elements<T: Real>(ridge: &Ridge, form: Form, longest: usize) -> usize {
    let elements = match form {
        Form::Recurrent => 0,
        Form::Chunked => chunked::forward_elements::<T>(ridge, longest),
    };
    elements.next_multiple_of(ALIGNMENT)
}

fn backward_elements<T: Real>(ridge: &Ridge, longest: usize) -> usize {
    gradients::backward_elements::<T>(ridge, longest).next_multiple_of(ALIGNMENT)
}

/// Bytes of scratch for [`ridge_forward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn ridge_scratch<T: Real>(ridge: &Ridge, form: Form, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(forward_elements::<T>(ridge, form, longest), threads)
}

/// Bytes of scratch for [`ridge_backward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn ridge_backward_scratch<T: Real>(ridge: &Ridge, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(backward_elements::<T>(ridge, longest), threads)
}

/// Solutions x [N, H, D] and the states after each sequence, [B, H, D, D].
///
/// # Panics
/// If a shape is not as [`Ridge::check`] wants it, or scratch is smaller than [`ridge_scratch`] says.
pub fn ridge_forward<T: Real>(
    pool: &Pool,
    ridge: &Ridge,
    form: Form,
    x: &RidgeInputs<'_, T>,
    out: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let inputs = ridge.inputs(x);
    assert_eq!(out.len(), x.q.len(), "ridge: x is [N, H, D]");
    assert_eq!(final_state.len(), ridge.state_elements(inputs.sequences), "ridge: final_state is [B, H, D, D]");
    let longest = longest(x.cu_seqlens);
    let scratch_elements = forward_elements::<T>(ridge, form, longest);
    let f = Forward {
        x: inputs,
        out: out.as_mut_ptr(),
        final_state: final_state.as_mut_ptr(),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    match form {
        Form::Recurrent => recurrent::forward(pool, ridge, &f),
        Form::Chunked => chunked::forward(pool, ridge, &f, longest),
    }
}

/// Gradients of all inputs from those of x: the implicit ones, of the exact solution, taken at `out`,
/// the solutions that [`ridge_forward`] gave.
///
/// With dq = (H + λ I)⁻¹ dx: dH = −dq xᵀ − a (dq · x) H / F. A missing gradient of the final states is zero.
///
/// # Panics
/// As [`ridge_forward`].
pub fn ridge_backward<T: Real>(
    pool: &Pool,
    ridge: &Ridge,
    x: &RidgeInputs<'_, T>,
    out: &[T],
    d_out: &[T],
    d_final_state: Option<&[T]>,
    d: RidgeGradients<'_, T>,
    scratch: &mut [u8],
) {
    let inputs = ridge.inputs(x);
    let state = ridge.state_elements(inputs.sequences);
    assert_eq!(out.len(), x.q.len(), "ridge: x is [N, H, D]");
    assert_eq!(d_out.len(), x.q.len(), "ridge: dx is [N, H, D]");
    assert_eq!(d.q.len(), x.q.len(), "ridge: dq is as q");
    assert_eq!(d.k.len(), x.k.len(), "ridge: dk is as k");
    assert_eq!(d.g.len(), x.g.map_or(0, <[T]>::len), "ridge: dg is as the gates");
    assert!(d_final_state.is_none_or(|s| s.len() == state), "ridge: d_final_state is [B, H, D, D]");
    assert!(d.initial_state.as_ref().is_none_or(|s| s.len() == state), "ridge: d_initial_state is [B, H, D, D]");
    let longest = longest(x.cu_seqlens);
    let scratch_elements = backward_elements::<T>(ridge, longest);
    let b = Backward {
        x: inputs,
        out: out.as_ptr(),
        d_out: d_out.as_ptr(),
        d_final_state: d_final_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        dq: d.q.as_mut_ptr(),
        dk: d.k.as_mut_ptr(),
        dg: d.g.as_mut_ptr(),
        d_initial_state: d.initial_state.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    gradients::backward(pool, ridge, &b, longest);
}
