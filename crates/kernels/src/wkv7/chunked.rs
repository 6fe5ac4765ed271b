//! The chunked form: the gated delta rule's chunks by matrix products, in the generalized rule.
//!
//! With S the state that enters, P_t the decay from the chunk's start to token t and D_ts that from s to t, a chunk's
//! tokens read
//! - u_t = (P_{t−1} ⊙ a_t)ᵀ S + Σ_{s<t} (a_tᵀ D_{t−1,s} b_s) u_s + Σ_{s<t} (a_tᵀ D_{t−1,s} k_s) v_s: a triangular system,
//! - o_t = (P_t ⊙ r_t)ᵀ S + Σ_{s≤t} (r_tᵀ D_ts b_s) u_s + Σ_{s≤t} (r_tᵀ D_ts k_s) v_s,
//! - S_next = diag(P_C) S + Σ_t (D_Ct ⊙ b_t) u_tᵀ + (D_Ct ⊙ k_t) v_tᵀ.
//!
//! A chunk of which every channel keeps e^−44 or more has its scores in one product, of what is decayed from its start
//! and what is divided by that; RWKV-7's own decays, above e^−0.61, always do. Another goes in blocks of 16 tokens as
//! the delta rule with gates by channel does, and divides by nothing.

use super::{Wkv7, Wkv7Gradients, Wkv7Inputs};
use crate::delta::chunked::{self, Sizes};
use crate::delta::{Backward, Forward, General, Inputs};
use crate::gla::{ALIGNMENT, GateKind, longest, scratch_bytes, workers};
use crate::{Pool, Real};

fn sizes(wkv: &Wkv7) -> Sizes {
    Sizes { keys: wkv.key_width, values: wkv.value_width, chunk: wkv.chunk, writes: 2 }
}

fn forward_elements<T: Real>(wkv: &Wkv7, longest: usize) -> usize {
    chunked::forward_elements::<T>(&sizes(wkv), longest).next_multiple_of(ALIGNMENT)
}

fn backward_elements<T: Real>(wkv: &Wkv7, longest: usize) -> usize {
    chunked::backward_elements::<T>(&sizes(wkv), longest).next_multiple_of(ALIGNMENT)
}

pub(super) fn forward_scratch<T: Real>(wkv: &Wkv7, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(forward_elements::<T>(wkv, longest), threads)
}

pub(super) fn backward_scratch<T: Real>(wkv: &Wkv7, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(backward_elements::<T>(wkv, longest), threads)
}

fn inputs<T: Real>(wkv: &Wkv7, x: &Wkv7Inputs<'_, T>) -> Inputs<T> {
    Inputs {
        sequences: x.cu_seqlens.len() - 1,
        cu: x.cu_seqlens.as_ptr(),
        heads: wkv.heads,
        key_heads: wkv.heads,
        key_width: wkv.key_width,
        value_width: wkv.value_width,
        scale: 1.0,
        gate: GateKind::Channel,
        q: x.r.as_ptr(),
        k: x.k.as_ptr(),
        v: x.v.as_ptr(),
        beta: std::ptr::null(),
        g: x.log_decay.as_ptr(),
        general: Some(General { a: x.a.as_ptr(), b: x.b.as_ptr() }),
        initial_state: x.initial_state.map_or(std::ptr::null(), <[T]>::as_ptr),
    }
}

pub(super) fn forward<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    x: &Wkv7Inputs<'_, T>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let longest = longest(x.cu_seqlens);
    let scratch_elements = forward_elements::<T>(wkv, longest);
    let f = Forward {
        x: inputs(wkv, x),
        o: o.as_mut_ptr(),
        final_state: final_state.as_mut_ptr(),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    chunked::forward(pool, &sizes(wkv), &f, longest);
}

pub(super) fn backward<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    x: &Wkv7Inputs<'_, T>,
    d_o: &[T],
    d: Wkv7Gradients<'_, T>,
    scratch: &mut [u8],
) {
    let longest = longest(x.cu_seqlens);
    let scratch_elements = backward_elements::<T>(wkv, longest);
    let b = Backward {
        x: inputs(wkv, x),
        d_o: d_o.as_ptr(),
        d_final_state: std::ptr::null(),
        dq: d.r.as_mut_ptr(),
        dk: d.k.as_mut_ptr(),
        dv: d.v.as_mut_ptr(),
        d_beta: std::ptr::null_mut(),
        dg: d.log_decay.as_mut_ptr(),
        general: Some(General { a: d.a.as_mut_ptr(), b: d.b.as_mut_ptr() }),
        d_initial_state: d.initial_state.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    chunked::backward(pool, &sizes(wkv), &b, longest);
}
