//! The gated delta rule: a matrix state per head that forgets by a gate and overwrites by key.
//!
//! S_t = (I − β_t k_t k_tᵀ) diag(exp(g_t)) S_{t−1} + β_t k_t v_tᵀ,  o_t = scale · S_tᵀ q_t:
//! the state decays, then what it holds under k_t is moved towards v_t by the share β_t. Without
//! gates this is DeltaNet, with one gate a head Gated DeltaNet, with one a key channel KDA.
//!
//! Two forms of one function: [`Form::Recurrent`] carries a state from token to token,
//! [`Form::Chunked`] works on chunks by matrix products and a triangular solve. The plain definition
//! is in [`naive`].
//!
//! Layout: tokens of all sequences in one dimension N, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`. q and k [N, Hk, K]; v [N, H, V]; β [N, H]; log-gates
//! [N, H, K], [N, H] or none; o [N, H, V]; states [B, H, K, V]. Head h uses key head h / (H / Hk).
//! Keys are taken as they are: the rule is stable where β |k|² is at most 2.
//!
//! **Which form for what.** Forward the recurrent form is the faster; [`delta_step`] has its bits, so inference has
//! them whatever pieces a prompt comes in. Backward passes take what [`delta_backward_form`] says.
//!
//! Source: "Parallelizing Linear Transformers with the Delta Rule over Sequence Length" (2024),
//! arXiv 2406.06484; "Gated Delta Networks" (2024), arXiv 2412.06464; "Kimi Linear" (2025), arXiv 2510.26692.

mod check;
mod chunk;
mod chunk_gradients;
pub(crate) mod chunked;
mod lanes;
pub mod naive;
mod recurrent;
mod recurrent_backward;
mod scores;
mod solve;
mod step;
#[cfg(test)]
mod tests;

pub use crate::gla::Gate;
pub use check::MOST_KEYS;
pub(crate) use chunk::SUB;
pub use step::delta_step;

use crate::gla::pack::Rows;
use crate::gla::{ALIGNMENT, GateKind, Pointer, longest, rows, scratch_bytes, workers};
use crate::{Pool, Real};
use chunked::Sizes;

/// Shape and options of the gated delta rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delta {
    /// Heads H of values, β, gates and states.
    pub heads: usize,
    /// Heads Hk of queries and keys; divides `heads`.
    pub key_heads: usize,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// Factor of the output; K^-1/2 by default.
    pub scale: f64,
    /// Tokens C of a chunk in the chunked form: a multiple of 16.
    pub chunk: usize,
}

impl Delta {
    /// `heads` heads of K and V, scale K^-1/2, chunks of 32 tokens.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> Delta {
        let scale = (key_width as f64).powf(-0.5);
        Delta { heads, key_heads: heads, key_width, value_width, scale, chunk: 32 }
    }
}

impl Default for Delta {
    /// One head, K = V = 64.
    fn default() -> Delta {
        Delta::new(1, 64, 64)
    }
}

/// How the function is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Chunks by matrix products, states between chunks.
    Chunked,
    /// Token by token: the bits do not depend on how a sequence is cut.
    Recurrent,
}

/// The form of a backward pass, by the tokens of the sequences: [`Form::Chunked`] if one is longer than a block of 16.
pub fn delta_backward_form(longest: usize) -> Form {
    if longest > SUB { Form::Chunked } else { Form::Recurrent }
}

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct DeltaInputs<'a, T> {
    /// Queries [N, Hk, K].
    pub q: &'a [T],
    /// Keys [N, Hk, K].
    pub k: &'a [T],
    /// Values [N, H, V].
    pub v: &'a [T],
    /// Which share of what a key holds is replaced, [N, H], 0 to 2.
    pub beta: &'a [T],
    /// Log-gates.
    pub g: Gate<'a, T>,
    /// Where each sequence begins, and the end, [B + 1].
    pub cu_seqlens: &'a [i32],
    /// States before the first tokens, [B, H, K, V]; zero if none.
    pub initial_state: Option<&'a [T]>,
}

/// Gradients of the inputs, all overwritten.
pub struct DeltaGradients<'a, T> {
    /// As q.
    pub q: &'a mut [T],
    /// As k.
    pub k: &'a mut [T],
    /// As v.
    pub v: &'a mut [T],
    /// As β.
    pub beta: &'a mut [T],
    /// As the gates; empty without.
    pub g: &'a mut [T],
    /// As the initial states, if wanted.
    pub initial_state: Option<&'a mut [T]>,
}

/// Shapes and inputs by pointer, for tasks.
pub(crate) struct Inputs<T> {
    pub sequences: usize,
    pub cu: *const i32,
    pub heads: usize,
    pub key_heads: usize,
    pub key_width: usize,
    pub value_width: usize,
    pub scale: f64,
    pub gate: GateKind,
    pub q: *const T,
    pub k: *const T,
    pub v: *const T,
    /// Null in the generalized rule.
    pub beta: *const T,
    pub g: *const T,
    /// Of the generalized rule, which only the chunked form computes.
    pub general: Option<General<*const T>>,
    /// Null if there is none.
    pub initial_state: *const T,
}

/// What the generalized rule has in the place of β, both [N, H, K]: S_t = diag(exp(g)) S_{t−1} + b (aᵀ S_{t−1}) + k vᵀ.
pub(crate) struct General<P> {
    /// Reads the state before its token.
    pub a: P,
    /// Writes what a has read.
    pub b: P,
}

/// Pointers of a forward call.
pub(crate) struct Forward<T> {
    pub x: Inputs<T>,
    pub o: *mut T,
    pub final_state: *mut T,
    pub scratch: *mut T,
    /// Elements of `scratch` for each worker.
    pub scratch_elements: usize,
}

/// Pointers of a backward call; null where an option is none.
pub(crate) struct Backward<T> {
    pub x: Inputs<T>,
    pub d_o: *const T,
    pub d_final_state: *const T,
    pub dq: *mut T,
    pub dk: *mut T,
    pub dv: *mut T,
    pub d_beta: *mut T,
    pub dg: *mut T,
    pub general: Option<General<*mut T>>,
    pub d_initial_state: *mut T,
    pub scratch: *mut T,
    /// Elements of `scratch` for each worker.
    pub scratch_elements: usize,
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

    /// Key rows of a token.
    #[inline(always)]
    fn writes(&self) -> usize {
        if self.general.is_some() { 2 } else { 1 }
    }

    /// Heads that share a key head.
    #[inline(always)]
    fn repeat(&self) -> usize {
        self.heads / self.key_heads
    }

    /// Where the state of a head begins.
    #[inline(always)]
    fn state(&self, sequence: usize, head: usize) -> usize {
        (sequence * self.heads + head) * self.key_width * self.value_width
    }

    /// Rows of queries or keys of the key head that `head` uses.
    #[inline(always)]
    fn key_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head / self.repeat(), self.key_heads, self.key_width)
    }

    /// Rows of gates by channel.
    #[inline(always)]
    fn gate_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.heads, self.key_width)
    }

    /// Rows of values or outputs.
    #[inline(always)]
    fn value_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.heads, self.value_width)
    }
}

impl Delta {
    fn inputs<T: Real>(&self, x: &DeltaInputs<'_, T>) -> Inputs<T> {
        if let Err(error) = self.check_shapes(x) {
            panic!("delta: {error}");
        }
        Inputs {
            sequences: x.cu_seqlens.len() - 1,
            cu: x.cu_seqlens.as_ptr(),
            heads: self.heads,
            key_heads: self.key_heads,
            key_width: self.key_width,
            value_width: self.value_width,
            scale: self.scale,
            gate: x.g.kind(),
            q: x.q.as_ptr(),
            k: x.k.as_ptr(),
            v: x.v.as_ptr(),
            beta: x.beta.as_ptr(),
            g: x.g.values().as_ptr(),
            general: None,
            initial_state: x.initial_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        }
    }

    /// Elements of the states of so many sequences: H · K · V each.
    pub fn state_elements(&self, sequences: usize) -> usize {
        sequences * self.heads * self.key_width * self.value_width
    }
}

/// Elements of scratch of a thread, a multiple of the alignment.
fn forward_elements<T: Real>(delta: &Delta, form: Form, longest: usize) -> usize {
    let elements = match form {
        Form::Recurrent => recurrent::scratch_elements(delta),
        Form::Chunked => chunked::forward_elements::<T>(&Sizes::of(delta), longest),
    };
    elements.next_multiple_of(ALIGNMENT)
}

fn backward_elements<T: Real>(delta: &Delta, form: Form, longest: usize) -> usize {
    let elements = match form {
        Form::Recurrent => recurrent_backward::scratch_elements(delta, longest),
        Form::Chunked => chunked::backward_elements::<T>(&Sizes::of(delta), longest),
    };
    elements.next_multiple_of(ALIGNMENT)
}

/// Bytes of scratch for [`delta_forward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn delta_scratch<T: Real>(delta: &Delta, form: Form, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(forward_elements::<T>(delta, form, longest), threads)
}

/// Bytes of scratch for [`delta_backward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn delta_backward_scratch<T: Real>(delta: &Delta, form: Form, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(backward_elements::<T>(delta, form, longest), threads)
}

/// Outputs o [N, H, V] and the states after each sequence, [B, H, K, V].
///
/// # Panics
/// If a shape is not as [`Delta::check`] wants it, or scratch is smaller than [`delta_scratch`] says.
pub fn delta_forward<T: Real>(
    pool: &Pool,
    delta: &Delta,
    form: Form,
    x: &DeltaInputs<'_, T>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let inputs = delta.inputs(x);
    assert_eq!(o.len(), x.v.len(), "delta: o is [N, H, V]");
    assert_eq!(final_state.len(), delta.state_elements(inputs.sequences), "delta: final_state is [B, H, K, V]");
    let longest = longest(x.cu_seqlens);
    let scratch_elements = forward_elements::<T>(delta, form, longest);
    let f = Forward {
        x: inputs,
        o: o.as_mut_ptr(),
        final_state: final_state.as_mut_ptr(),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    match form {
        Form::Recurrent => recurrent::forward(pool, delta, &f),
        Form::Chunked => chunked::forward(pool, &Sizes::of(delta), &f, longest),
    }
}

/// Gradients of all inputs; states are recomputed, so the outputs of [`delta_forward`] are not needed.
///
/// A missing gradient of the final states is zero.
///
/// # Panics
/// As [`delta_forward`].
pub fn delta_backward<T: Real>(
    pool: &Pool,
    delta: &Delta,
    form: Form,
    x: &DeltaInputs<'_, T>,
    d_o: &[T],
    d_final_state: Option<&[T]>,
    d: DeltaGradients<'_, T>,
    scratch: &mut [u8],
) {
    let inputs = delta.inputs(x);
    let state = delta.state_elements(inputs.sequences);
    assert_eq!(d_o.len(), x.v.len(), "delta: d_o is [N, H, V]");
    assert_eq!(d.q.len(), x.q.len(), "delta: dq is as q");
    assert_eq!(d.k.len(), x.k.len(), "delta: dk is as k");
    assert_eq!(d.v.len(), x.v.len(), "delta: dv is as v");
    assert_eq!(d.beta.len(), x.beta.len(), "delta: d_beta is as beta");
    assert_eq!(d.g.len(), x.g.values().len(), "delta: dg is as the gates");
    assert!(d_final_state.is_none_or(|s| s.len() == state), "delta: d_final_state is [B, H, K, V]");
    assert!(d.initial_state.as_ref().is_none_or(|s| s.len() == state), "delta: d_initial_state is [B, H, K, V]");
    let longest = longest(x.cu_seqlens);
    let scratch_elements = backward_elements::<T>(delta, form, longest);
    let b = Backward {
        x: inputs,
        d_o: d_o.as_ptr(),
        d_final_state: d_final_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        dq: d.q.as_mut_ptr(),
        dk: d.k.as_mut_ptr(),
        dv: d.v.as_mut_ptr(),
        d_beta: d.beta.as_mut_ptr(),
        dg: d.g.as_mut_ptr(),
        general: None,
        d_initial_state: d.initial_state.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    match form {
        Form::Recurrent => recurrent_backward::backward(pool, delta, &b),
        Form::Chunked => chunked::backward(pool, &Sizes::of(delta), &b, longest),
    }
}
