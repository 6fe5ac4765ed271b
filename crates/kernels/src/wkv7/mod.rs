//! RWKV-7's recurrence, the generalized delta rule: a matrix state whose transition is diagonal plus one outer product.
//!
//! S_t = diag(exp(g_t)) S_{t−1} + b_t (a_tᵀ S_{t−1}) + k_t v_tᵀ,  o_t = S_tᵀ r_t: what the state holds under a is added
//! again under b. With a = −κ and b = κ ⊙ η, κ of length 1 and η from 0 to 1, that takes the share η of what is held
//! under κ away before k vᵀ is written.
//!
//! Two forms of one function: [`Form::Recurrent`] goes token by token, a few value lanes at a time; [`Form::Chunked`] works on
//! chunks by matrix products and a triangular solve. The plain definition is in [`naive`].
//!
//! Layout: tokens of all sequences in one dimension N, sequence b being tokens `cu_seqlens[b]..cu_seqlens[b + 1]`. r, k, a, b
//! and log-decays g [N, H, K]; v and o [N, H, V]; states [B, H, K, V]. a and b are taken as they are: the rule is stable
//! where diag(exp(g)) + b aᵀ has no eigenvalue beyond 1.
//!
//! A sequence alone or beside others, on any number of threads, has the same bits; in the recurrent form also in pieces,
//! and [`wkv7_step`] has its bits. That form is the faster forward; backward passes take what
//! [`delta_backward_form`](crate::delta::delta_backward_form) says.
//!
//! Source: "RWKV-7 Goose with Expressive Dynamic State Evolution" (2025), arXiv 2503.14456, section 4.

mod backward;
mod check;
mod chunked;
pub mod naive;
mod recurrent;
#[cfg(test)]
mod tests;

pub use crate::delta::Form;
pub use crate::wkv6::MOST_KEYS;

use crate::gla::{longest, scratch_bytes};
use crate::slots::expect_slots;
use crate::wkv6::lanes::Rows;
use crate::{Pool, Real};

/// Shape and options of the recurrence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wkv7 {
    /// Heads H.
    pub heads: usize,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// Tokens C of a chunk in the chunked form: a multiple of 16.
    pub chunk: usize,
}

impl Wkv7 {
    /// `heads` heads of K and V, chunks of 32 tokens.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> Wkv7 {
        Wkv7 { heads, key_width, value_width, chunk: 32 }
    }

    /// Elements of the states of so many sequences: H · K · V each.
    pub fn state_elements(&self, sequences: usize) -> usize {
        sequences * self.heads * self.key_width * self.value_width
    }
}

impl Default for Wkv7 {
    /// One head, K = V = 64.
    fn default() -> Wkv7 {
        Wkv7::new(1, 64, 64)
    }
}

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct Wkv7Inputs<'a, T> {
    /// Receptances [N, H, K]: what reads the state.
    pub r: &'a [T],
    /// Keys [N, H, K].
    pub k: &'a [T],
    /// Values [N, H, V].
    pub v: &'a [T],
    /// What is read of the state before the token, [N, H, K].
    pub a: &'a [T],
    /// Under which key that is added, [N, H, K].
    pub b: &'a [T],
    /// Log-decays [N, H, K], at most 0.
    pub log_decay: &'a [T],
    /// Where each sequence begins, and the end, [B + 1].
    pub cu_seqlens: &'a [i32],
    /// States before the first tokens, [B, H, K, V]; zero if none.
    pub initial_state: Option<&'a [T]>,
}

/// Gradients of the inputs, all overwritten.
pub struct Wkv7Gradients<'a, T> {
    /// As r.
    pub r: &'a mut [T],
    /// As k.
    pub k: &'a mut [T],
    /// As v.
    pub v: &'a mut [T],
    /// As a.
    pub a: &'a mut [T],
    /// As b.
    pub b: &'a mut [T],
    /// As the log-decays.
    pub log_decay: &'a mut [T],
    /// As the initial states, if wanted.
    pub initial_state: Option<&'a mut [T]>,
}

/// Bytes of scratch for [`wkv7_forward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn wkv7_scratch<T: Real>(wkv: &Wkv7, form: Form, longest: usize, threads: usize) -> usize {
    match form {
        Form::Recurrent => 0,
        Form::Chunked => chunked::forward_scratch::<T>(wkv, longest, threads),
    }
}

/// Bytes of scratch for [`wkv7_backward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn wkv7_backward_scratch<T: Real>(wkv: &Wkv7, form: Form, longest: usize, threads: usize) -> usize {
    match form {
        Form::Recurrent => scratch_bytes::<T>(backward::elements(wkv, longest), threads),
        Form::Chunked => chunked::backward_scratch::<T>(wkv, longest, threads),
    }
}

/// Outputs o [N, H, V] and the states after each sequence, [B, H, K, V].
///
/// # Panics
/// If a shape is not as [`Wkv7::check`] wants it, or scratch is smaller than [`wkv7_scratch`] says.
pub fn wkv7_forward<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    form: Form,
    x: &Wkv7Inputs<'_, T>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    wkv.expect_shapes(x);
    assert_eq!(o.len(), x.v.len(), "wkv7: o is [N, H, V]");
    let state = wkv.state_elements(x.cu_seqlens.len() - 1);
    assert_eq!(final_state.len(), state, "wkv7: final_state is [B, H, K, V]");
    if form == Form::Chunked {
        return chunked::forward(pool, wkv, x, o, final_state, scratch);
    }
    match x.initial_state {
        Some(state) => final_state.copy_from_slice(state),
        None => final_state.fill(T::ZERO),
    }
    recurrent::sweep(pool, wkv, x, Rows::Sequences(x.cu_seqlens), final_state, o);
}

/// Gradients of all inputs from that of o; states are recomputed.
///
/// # Panics
/// As [`wkv7_forward`], or if scratch is smaller than [`wkv7_backward_scratch`] says.
pub fn wkv7_backward<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    form: Form,
    x: &Wkv7Inputs<'_, T>,
    d_o: &[T],
    d: Wkv7Gradients<'_, T>,
    scratch: &mut [u8],
) {
    wkv.expect_shapes(x);
    assert_eq!(d_o.len(), x.v.len(), "wkv7: d_o is [N, H, V]");
    for (name, found) in
        [("dr", d.r.len()), ("dk", d.k.len()), ("da", d.a.len()), ("db", d.b.len()), ("d_log_decay", d.log_decay.len())]
    {
        assert_eq!(found, x.r.len(), "wkv7: {name} is [N, H, K]");
    }
    assert_eq!(d.v.len(), x.v.len(), "wkv7: dv is [N, H, V]");
    let state = wkv.state_elements(x.cu_seqlens.len() - 1);
    assert!(d.initial_state.as_ref().is_none_or(|s| s.len() == state), "wkv7: d_initial_state is [B, H, K, V]");
    match form {
        Form::Recurrent => backward::backward(pool, wkv, x, d_o, d, longest(x.cu_seqlens), scratch),
        Form::Chunked => chunked::backward(pool, wkv, x, d_o, d, scratch),
    }
}

/// Decodes one token for each row: o [N, H, V], and the row's state of [slots, H, K, V] moved on.
///
/// Of `x` the sequences and initial states do not count. Rows that name the same slot are done in order.
///
/// # Panics
/// If a shape is wrong or a slot is outside `states`.
pub fn wkv7_step<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    x: &Wkv7Inputs<'_, T>,
    slots: &[i32],
    states: &mut [T],
    o: &mut [T],
) {
    let cu_seqlens = [0, slots.len() as i32];
    let x = Wkv7Inputs { cu_seqlens: &cu_seqlens, initial_state: None, ..*x };
    wkv.expect_shapes(&x);
    assert_eq!(o.len(), x.v.len(), "wkv7_step: o is [N, H, V]");
    expect_slots("wkv7_step", slots, states.len(), wkv.state_elements(1));
    recurrent::sweep(pool, wkv, &x, Rows::Slots(slots), states, o);
}
