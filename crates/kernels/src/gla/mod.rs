//! Gated linear attention: a matrix state per head, forgotten by a gate per key channel.
//!
//! S_t = diag(exp(g_t)) S_{t−1} + k_t v_tᵀ,  o_t = scale · S_tᵀ q_t  (the current token included).
//!
//! Three forms of one function: [`Form::Recurrent`] sweeps a state held in registers over the
//! tokens, [`Form::Chunked`] works on chunks by matrix products in the two-level scheme that stays
//! finite under strong gates, [`Form::Parallel`] is one chunk of the whole sequence. The plain
//! definition is in [`naive`].
//!
//! Layout: tokens of all sequences in one dimension N, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`. q [N, H, K]; k [N, Hk, K]; v [N, Hk, V]; log-gates
//! [N, Hk, K], [N, Hk] or none; o [N, H, V]; states [B, H, K, V]. Query head h uses key head
//! h / (H / Hk).
//!
//! **Which form for what.** Inference takes the recurrent form (and [`gla_step`], which has the
//! same bits): a prompt given in pieces of any lengths, alone or beside others, on any number of
//! threads, gives the same bits, because the order of every sum is the order of tokens and key
//! channels. The chunked and parallel forms regroup sums by position in the sequence.
//!
//! Source: "Gated Linear Attention Transformers with Hardware-Efficient Training" (2023),
//! arXiv 2312.06635, section 4.

mod check;
mod chunked;
pub mod naive;
pub(crate) mod pack;
pub(crate) mod products;
mod recurrent;
mod step;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;

pub use step::gla_step;

use crate::gemm::Compute;
use crate::{Pool, Real};
use pack::Rows;

/// Shape and options of gated linear attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gla {
    /// Query heads H.
    pub heads: usize,
    /// Key, value and gate heads Hk; divides `heads`.
    pub kv_heads: usize,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// Factor of the output; K^-1/2 by default.
    pub scale: f64,
    /// Tokens C of a chunk in the chunked form: a multiple of 16.
    pub chunk: usize,
    /// Operands of the chunked and parallel forms; the recurrent form has no matrix products.
    pub compute: Compute,
    /// Lets log-gates above 0 (a state that grows) pass [`Gla::check`].
    pub growing_gates: bool,
}

impl Gla {
    /// `heads` heads of K and V, scale K^-1/2, chunks of 64 tokens, f32.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> Gla {
        Gla {
            heads,
            kv_heads: heads,
            key_width,
            value_width,
            scale: (key_width as f64).powf(-0.5),
            chunk: 64,
            compute: Compute::F32,
            growing_gates: false,
        }
    }
}

impl Default for Gla {
    /// One head, K = V = 64.
    fn default() -> Gla {
        Gla::new(1, 64, 64)
    }
}

/// Log-gates (natural logarithms of what a step keeps of the state); Hk are the heads that have gates.
#[derive(Clone, Copy, Debug)]
pub enum Gate<'a, T> {
    /// Nothing is forgotten: linear attention.
    None,
    /// One a head, [N, Hk]: as Mamba-2, RetNet.
    Head(&'a [T]),
    /// One a key channel, [N, Hk, K]: as GLA, HGRN2.
    Channel(&'a [T]),
}

/// How the function is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All pairs of tokens: O(T²).
    Parallel,
    /// Chunks by matrix products, states between chunks.
    Chunked,
    /// Token by token: the bits do not depend on how a sequence is cut.
    Recurrent,
}

/// The form to train with: [`Form::Chunked`] for operands in bf16, states of more than 2^16 elements
/// (K · V) and a sequence of more than one chunk; else [`Form::Recurrent`].
///
/// On a processor whose vectors are all it has for matrix products, both forms do about the same
/// arithmetic (5 K V operations a token against 4 K V + 1.25 C (K + V)), and the recurrent one neither
/// packs nor stores states. The chunked one gains where its products run at the double rate of bf16
/// and packing is small beside them. `lengths` are the sequences' tokens.
pub fn gla_form(gla: &Gla, lengths: &[usize]) -> Form {
    let long = lengths.iter().any(|&length| length > gla.chunk);
    if long && gla_forms(gla).contains(&Form::Chunked) { Form::Chunked } else { Form::Recurrent }
}

/// The forms that [`gla_form`] may choose, whatever the lengths: those to plan scratch for.
pub fn gla_forms(gla: &Gla) -> &'static [Form] {
    let large = gla.key_width * gla.value_width > 1 << 16;
    if gla.compute == Compute::Bf16 && large { &[Form::Recurrent, Form::Chunked] } else { &[Form::Recurrent] }
}

/// Which gates there are, without the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GateKind {
    None,
    Head,
    Channel,
}

/// Shapes and inputs that every kernel here reads.
struct Inputs<T> {
    sequences: usize,
    cu: *const i32,
    heads: usize,
    kv_heads: usize,
    key_width: usize,
    value_width: usize,
    scale: f64,
    gate: GateKind,
    q: *const T,
    k: *const T,
    v: *const T,
    g: *const T,
}

/// Pointers of a forward call; null where an option is none.
struct Forward<T> {
    x: Inputs<T>,
    initial_state: *const T,
    o: *mut T,
    final_state: *mut T,
    scratch: *mut T,
    /// Elements of `scratch` for each worker.
    scratch_elements: usize,
}

/// Pointers of a backward call; null where an option is none.
struct Backward<T> {
    x: Inputs<T>,
    initial_state: *const T,
    d_o: *const T,
    d_final_state: *const T,
    dq: *mut T,
    dk: *mut T,
    dv: *mut T,
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

    /// The key head of a query head.
    #[inline(always)]
    fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// Where the state of a head begins.
    #[inline(always)]
    fn state(&self, sequence: usize, head: usize) -> usize {
        (sequence * self.heads + head) * self.key_width * self.value_width
    }

    #[inline(always)]
    fn query_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.heads, self.key_width)
    }

    #[inline(always)]
    fn key_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.kv_heads, self.key_width)
    }

    #[inline(always)]
    fn value_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.kv_heads, self.value_width)
    }

    #[inline(always)]
    fn output_rows<P: Pointer>(&self, at: P, token: usize, tokens: usize, head: usize) -> Rows<P> {
        rows(at, token, tokens, head, self.heads, self.value_width)
    }
}

/// A pointer to const or to mut.
pub(crate) trait Pointer: Copy {
    fn offset(self, n: usize) -> Self;
}

impl<T> Pointer for *const T {
    #[inline(always)]
    fn offset(self, n: usize) -> Self {
        self.wrapping_add(n)
    }
}

impl<T> Pointer for *mut T {
    #[inline(always)]
    fn offset(self, n: usize) -> Self {
        self.wrapping_add(n)
    }
}

/// Rows of one head in [N, heads, width].
#[inline(always)]
pub(crate) fn rows<P: Pointer>(at: P, token: usize, tokens: usize, head: usize, heads: usize, width: usize) -> Rows<P> {
    Rows { at: Pointer::offset(at, (token * heads + head) * width), stride: heads * width, tokens, width }
}

impl<'a, T: Real> Gate<'a, T> {
    pub(crate) fn kind(&self) -> GateKind {
        match self {
            Gate::None => GateKind::None,
            Gate::Head(_) => GateKind::Head,
            Gate::Channel(_) => GateKind::Channel,
        }
    }

    pub(crate) fn values(&self) -> &'a [T] {
        match *self {
            Gate::None => &[],
            Gate::Head(g) | Gate::Channel(g) => g,
        }
    }
}

impl Gla {
    fn inputs<T: Real>(&self, q: &[T], k: &[T], v: &[T], g: Gate<'_, T>, cu: &[i32]) -> Inputs<T> {
        if let Err(error) = self.check_shapes(q, k, v, g, cu, None) {
            panic!("gla: {error}");
        }
        Inputs {
            sequences: cu.len() - 1,
            cu: cu.as_ptr(),
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_width: self.key_width,
            value_width: self.value_width,
            scale: self.scale,
            gate: g.kind(),
            q: q.as_ptr(),
            k: k.as_ptr(),
            v: v.as_ptr(),
            g: g.values().as_ptr(),
        }
    }

    /// Elements of the states of so many sequences: H · K · V each.
    pub fn state_elements(&self, sequences: usize) -> usize {
        sequences * self.heads * self.key_width * self.value_width
    }
}

/// Bytes to which scratch buffers are aligned.
pub(crate) const ALIGNMENT: usize = 64;

/// The part of `scratch` that starts at a multiple of [`ALIGNMENT`], as `elements` elements for each thread.
pub(crate) fn workers<T: Real>(scratch: &mut [u8], elements: usize, threads: usize) -> *mut T {
    let skip = scratch.as_ptr().align_offset(ALIGNMENT);
    let needed = skip + elements * threads * size_of::<T>();
    assert!(scratch.len() >= needed, "{} bytes of scratch, {needed} needed", scratch.len());
    scratch[skip..].as_mut_ptr().cast()
}

pub(crate) fn scratch_bytes<T>(elements: usize, threads: usize) -> usize {
    elements * threads * size_of::<T>() + ALIGNMENT
}

/// Elements of scratch of a thread, a multiple of the alignment.
fn forward_elements<T: Real>(gla: &Gla, form: Form, longest: usize) -> usize {
    let elements = match form {
        Form::Recurrent => recurrent::scratch_elements(gla.key_width, gla.value_width),
        Form::Chunked | Form::Parallel => {
            chunked::forward_elements::<T>(gla, chunked::chunk_tokens(gla, form, longest))
        }
    };
    elements.next_multiple_of(ALIGNMENT)
}

fn backward_elements<T: Real>(gla: &Gla, form: Form, longest: usize) -> usize {
    let elements = match form {
        Form::Recurrent => recurrent::scratch_elements(gla.key_width, gla.value_width),
        Form::Chunked | Form::Parallel => {
            chunked::backward_elements::<T>(gla, chunked::chunk_tokens(gla, form, longest), longest)
        }
    };
    elements.next_multiple_of(ALIGNMENT)
}

/// The state at element `at`, if there are states.
///
/// # Safety
/// `states` is null or has `size` elements from `at` on, for as long as they are used.
pub(crate) unsafe fn state_of<'a, T>(states: *const T, at: usize, size: usize) -> Option<&'a [T]> {
    // SAFETY: the caller's.
    (!states.is_null()).then(|| unsafe { std::slice::from_raw_parts(states.add(at), size) })
}

/// Bytes of scratch for [`gla_forward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn gla_scratch<T: Real>(gla: &Gla, form: Form, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(forward_elements::<T>(gla, form, longest), threads)
}

/// Bytes of scratch for [`gla_backward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn gla_backward_scratch<T: Real>(gla: &Gla, form: Form, longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(backward_elements::<T>(gla, form, longest), threads)
}

pub(crate) fn longest(cu: &[i32]) -> usize {
    cu.windows(2).map(|w| (w[1] - w[0]) as usize).max().unwrap_or(0)
}

/// Outputs o [N, H, V] and the states after each sequence, [B, H, K, V]; a missing initial state is zero.
///
/// # Panics
/// If a shape is not as [`Gla::check`] wants it, or scratch is smaller than [`gla_scratch`] says.
pub fn gla_forward<T: Real>(
    pool: &Pool,
    gla: &Gla,
    form: Form,
    q: &[T],
    k: &[T],
    v: &[T],
    g: Gate<'_, T>,
    cu: &[i32],
    initial_state: Option<&[T]>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let x = gla.inputs(q, k, v, g, cu);
    let tokens = q.len() / (gla.heads * gla.key_width);
    let state = gla.state_elements(x.sequences);
    assert_eq!(o.len(), tokens * gla.heads * gla.value_width, "gla: o is [N, H, V]");
    assert_eq!(final_state.len(), state, "gla: final_state is [B, H, K, V]");
    assert!(initial_state.is_none_or(|s| s.len() == state), "gla: initial_state is [B, H, K, V]");
    let scratch_elements = forward_elements::<T>(gla, form, longest(cu));
    let f = Forward {
        x,
        initial_state: initial_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        o: o.as_mut_ptr(),
        final_state: final_state.as_mut_ptr(),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    match form {
        Form::Recurrent => recurrent::forward(pool, &f),
        Form::Chunked | Form::Parallel => {
            chunked::forward(pool, gla, &f, chunked::chunk_tokens(gla, form, longest(cu)))
        }
    }
}

/// Gradients of all inputs; states are recomputed, so the outputs of [`gla_forward`] are not needed.
///
/// dq [N, H, K], dk [N, Hk, K], dv [N, Hk, V], dg as the gates (empty without), d_initial_state
/// [B, H, K, V]; all are overwritten. A missing gradient of the final state is zero.
///
/// # Panics
/// As [`gla_forward`].
pub fn gla_backward<T: Real>(
    pool: &Pool,
    gla: &Gla,
    form: Form,
    q: &[T],
    k: &[T],
    v: &[T],
    g: Gate<'_, T>,
    cu: &[i32],
    initial_state: Option<&[T]>,
    d_o: &[T],
    d_final_state: Option<&[T]>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    dg: &mut [T],
    d_initial_state: Option<&mut [T]>,
    scratch: &mut [u8],
) {
    let x = gla.inputs(q, k, v, g, cu);
    let tokens = q.len() / (gla.heads * gla.key_width);
    let state = gla.state_elements(x.sequences);
    assert_eq!(d_o.len(), tokens * gla.heads * gla.value_width, "gla: d_o is [N, H, V]");
    assert_eq!(dq.len(), q.len(), "gla: dq is as q");
    assert_eq!(dk.len(), k.len(), "gla: dk is as k");
    assert_eq!(dv.len(), v.len(), "gla: dv is as v");
    assert_eq!(dg.len(), g.values().len(), "gla: dg is as the gates");
    assert!(initial_state.is_none_or(|s| s.len() == state), "gla: initial_state is [B, H, K, V]");
    assert!(d_final_state.is_none_or(|s| s.len() == state), "gla: d_final_state is [B, H, K, V]");
    assert!(d_initial_state.as_ref().is_none_or(|s| s.len() == state), "gla: d_initial_state is [B, H, K, V]");
    let scratch_elements = backward_elements::<T>(gla, form, longest(cu));
    let b = Backward {
        x,
        initial_state: initial_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        d_o: d_o.as_ptr(),
        d_final_state: d_final_state.map_or(std::ptr::null(), <[T]>::as_ptr),
        dq: dq.as_mut_ptr(),
        dk: dk.as_mut_ptr(),
        dv: dv.as_mut_ptr(),
        dg: dg.as_mut_ptr(),
        d_initial_state: d_initial_state.map_or(std::ptr::null_mut(), <[T]>::as_mut_ptr),
        scratch: workers(scratch, scratch_elements, pool.threads()),
        scratch_elements,
    };
    match form {
        Form::Recurrent => recurrent::backward(pool, &b),
        Form::Chunked | Form::Parallel => {
            chunked::backward(pool, gla, &b, chunked::chunk_tokens(gla, form, longest(cu)))
        }
    }
}
