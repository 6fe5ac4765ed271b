//! RWKV-5's and RWKV-6's recurrence: a matrix state per head, and a bonus for the token that has just come.
//!
//! o_t = (S_{t−1} + diag(u) k_t v_tᵀ)ᵀ r_t,  S_t = diag(exp(g_t)) S_{t−1} + k_t v_tᵀ: the output reads the state *before*
//! the token, and the token itself with weights u. With g the same for every token this is RWKV-5.
//!
//! Three forms of one function: [`Form::Recurrent`] carries the state from token to token; [`Form::Chunked`] and
//! [`Form::Parallel`] are those of gated linear attention ([`gla`](crate::gla)) on keys, values and gates shifted by one
//! token, S_{t−1} being the state of the shifted sequence at t, and the bonus beside it. The plain definition is in
//! [`naive`].
//!
//! Layout: tokens of all sequences in one dimension N, sequence b being tokens `cu_seqlens[b]..cu_seqlens[b + 1]`. r, k and
//! log-decays g [N, H, K]; v and o [N, H, V]; u [H, K]; states [B, H, K, V].
//!
//! **Which form for what.** Inference takes the recurrent form (and [`wkv6_step`], which has the same bits), whatever
//! pieces a prompt comes in; training takes what [`wkv6_form`] says.
//!
//! Source: "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence" (2024), arXiv 2404.05892, section 4.

mod check;
pub(crate) mod lanes;
pub mod naive;
mod shifted;
#[cfg(test)]
mod tests;

pub use crate::gla::Form;
pub use check::MOST_KEYS;

pub(crate) use check::check_widths;

use crate::disjoint::Disjoint;
use crate::gemm::Compute;
use crate::gla::{Gla, gla_form, gla_forms};
use crate::simd::{Kernel, Simd};
use crate::slots::expect_slots;
use crate::{Pool, Real};
use lanes::{Lanes, Rows, Sweep, decays};

/// Shape and options of the recurrence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wkv6 {
    /// Heads H.
    pub heads: usize,
    /// Key width K of a head.
    pub key_width: usize,
    /// Value width V of a head.
    pub value_width: usize,
    /// Tokens C of a chunk in the chunked form: a multiple of 16.
    pub chunk: usize,
    /// Operands of the chunked and parallel forms; the recurrent form has no matrix products.
    pub compute: Compute,
}

impl Wkv6 {
    /// `heads` heads of K and V, chunks of 64 tokens, f32.
    pub fn new(heads: usize, key_width: usize, value_width: usize) -> Wkv6 {
        Wkv6 { heads, key_width, value_width, chunk: 64, compute: Compute::F32 }
    }

    /// The same as gated linear attention.
    fn gla(&self) -> Gla {
        let gla = Gla::new(self.heads, self.key_width, self.value_width);
        Gla { scale: 1.0, chunk: self.chunk, compute: self.compute, ..gla }
    }

    /// Elements of the states of so many sequences: H · K · V each.
    pub fn state_elements(&self, sequences: usize) -> usize {
        sequences * self.heads * self.key_width * self.value_width
    }
}

impl Default for Wkv6 {
    /// One head, K = V = 64.
    fn default() -> Wkv6 {
        Wkv6::new(1, 64, 64)
    }
}

/// The form to train with: as [`gla_form`].
pub fn wkv6_form(wkv: &Wkv6, lengths: &[usize]) -> Form {
    gla_form(&wkv.gla(), lengths)
}

/// The forms that [`wkv6_form`] may choose, whatever the lengths: those to plan scratch for.
pub fn wkv6_forms(wkv: &Wkv6) -> &'static [Form] {
    gla_forms(&wkv.gla())
}

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct Wkv6Inputs<'a, T> {
    /// Receptances [N, H, K]: what reads the state.
    pub r: &'a [T],
    /// Keys [N, H, K].
    pub k: &'a [T],
    /// Values [N, H, V].
    pub v: &'a [T],
    /// Log-decays [N, H, K], at most 0.
    pub log_decay: &'a [T],
    /// What the current token weighs, [H, K].
    pub bonus: &'a [T],
    /// Where each sequence begins, and the end, [B + 1].
    pub cu_seqlens: &'a [i32],
    /// States before the first tokens, [B, H, K, V]; zero if none.
    pub initial_state: Option<&'a [T]>,
}

/// Gradients of the inputs, all overwritten.
pub struct Wkv6Gradients<'a, T> {
    /// As r.
    pub r: &'a mut [T],
    /// As k.
    pub k: &'a mut [T],
    /// As v.
    pub v: &'a mut [T],
    /// As the log-decays.
    pub log_decay: &'a mut [T],
    /// As the bonus.
    pub bonus: &'a mut [T],
    /// As the initial states, if wanted.
    pub initial_state: Option<&'a mut [T]>,
}

/// Bytes of scratch for [`wkv6_forward`] of `tokens` tokens on `threads` threads.
pub fn wkv6_scratch<T: Real>(wkv: &Wkv6, form: Form, tokens: usize, threads: usize) -> usize {
    match form {
        Form::Recurrent => 0,
        Form::Chunked | Form::Parallel => shifted::forward_scratch::<T>(wkv, form, tokens, threads),
    }
}

/// Bytes of scratch for [`wkv6_backward`] of `tokens` tokens on `threads` threads.
pub fn wkv6_backward_scratch<T: Real>(wkv: &Wkv6, form: Form, tokens: usize, threads: usize) -> usize {
    shifted::backward_scratch::<T>(wkv, form, tokens, threads)
}

/// Outputs o [N, H, V] and the states after each sequence, [B, H, K, V].
///
/// # Panics
/// If a shape is not as [`Wkv6::check`] wants it, or scratch is smaller than [`wkv6_scratch`] says.
pub fn wkv6_forward<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    form: Form,
    x: &Wkv6Inputs<'_, T>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    wkv.expect_shapes(x);
    let sequences = x.cu_seqlens.len() - 1;
    assert_eq!(o.len(), x.v.len(), "wkv6: o is [N, H, V]");
    assert_eq!(final_state.len(), wkv.state_elements(sequences), "wkv6: final_state is [B, H, K, V]");
    if form != Form::Recurrent {
        return shifted::forward(pool, wkv, form, x, o, final_state, scratch);
    }
    match x.initial_state {
        Some(state) => final_state.copy_from_slice(state),
        None => final_state.fill(T::ZERO),
    }
    let rows = Rows::Sequences(x.cu_seqlens);
    recurrent(pool, wkv, x, rows, final_state, o);
}

/// Gradients of all inputs from that of o; states are recomputed.
///
/// # Panics
/// As [`wkv6_forward`], with [`wkv6_backward_scratch`].
pub fn wkv6_backward<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    form: Form,
    x: &Wkv6Inputs<'_, T>,
    d_o: &[T],
    d: Wkv6Gradients<'_, T>,
    scratch: &mut [u8],
) {
    wkv.expect_shapes(x);
    assert_eq!(d_o.len(), x.v.len(), "wkv6: d_o is [N, H, V]");
    assert_eq!(d.r.len(), x.r.len(), "wkv6: dr is as r");
    assert_eq!(d.k.len(), x.k.len(), "wkv6: dk is as k");
    assert_eq!(d.v.len(), x.v.len(), "wkv6: dv is as v");
    assert_eq!(d.log_decay.len(), x.log_decay.len(), "wkv6: d_log_decay is as the log-decays");
    assert_eq!(d.bonus.len(), x.bonus.len(), "wkv6: d_bonus is as the bonus");
    shifted::backward(pool, wkv, form, x, d_o, d, scratch);
}

/// Decodes one token for each row: o [N, H, V], and the row's state of [slots, H, K, V] moved on.
///
/// Of `x` the sequences and initial states do not count. Rows that name the same slot are done in order. Bit for bit what
/// the recurrent form gives for the same token.
///
/// # Panics
/// If a shape is wrong or a slot is outside `states`.
pub fn wkv6_step<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    x: &Wkv6Inputs<'_, T>,
    slots: &[i32],
    states: &mut [T],
    o: &mut [T],
) {
    let cu_seqlens = [0, slots.len() as i32];
    let x = Wkv6Inputs { cu_seqlens: &cu_seqlens, initial_state: None, ..*x };
    wkv.expect_shapes(&x);
    assert_eq!(o.len(), x.v.len(), "wkv6_step: o is [N, H, V]");
    expect_slots("wkv6_step", slots, states.len(), wkv.state_elements(1));
    recurrent(pool, wkv, &x, Rows::Slots(slots), states, o);
}

fn recurrent<T: Real>(pool: &Pool, wkv: &Wkv6, x: &Wkv6Inputs<'_, T>, rows: Rows<'_>, states: &mut [T], o: &mut [T]) {
    let sweep = Sweep { heads: wkv.heads, keys: wkv.key_width, values: wkv.value_width, rows };
    let (states, o) = (Disjoint::new(states), Disjoint::new(o));
    sweep.run(pool, |lanes| T::dispatch(Recurrent { wkv, x, lanes, states, o }));
}

/// Some value lanes of a head over some rows.
struct Recurrent<'a, T> {
    wkv: &'a Wkv6,
    x: &'a Wkv6Inputs<'a, T>,
    lanes: Lanes<'a>,
    states: Disjoint<'a, T>,
    o: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Recurrent<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let lanes = self.lanes.clone();
        let mut decay = [T::ZERO; MOST_KEYS];
        for row in lanes.rows.clone() {
            let keys = lanes.keys(row, self.wkv.key_width);
            decays(s, &self.x.log_decay[keys.clone()], &mut decay);
            let mut first = lanes.values.start;
            while first < lanes.values.end {
                // SAFETY: value lanes of a head are a task's own, and lie inside (the shapes were checked).
                first += unsafe {
                    match (lanes.values.end - first) / S::LANES {
                        4.. => self.token::<S, 4, true>(s, row, first, &decay),
                        2 | 3 => self.token::<S, 2, true>(s, row, first, &decay),
                        1 => self.token::<S, 1, true>(s, row, first, &decay),
                        0 => self.token::<S, 1, false>(s, row, first, &decay),
                    }
                };
            }
        }
    }
}

impl<T: Real> Recurrent<'_, T> {
    /// One token on the value lanes from `first` on, at most `V` vectors of them; how many there were.
    ///
    /// # Safety
    /// Nothing else touches these lanes of the row's state and output.
    #[inline(always)]
    unsafe fn token<S: Simd<E = T>, const V: usize, const WHOLE: bool>(
        &self,
        s: S,
        row: usize,
        first: usize,
        decay: &[T],
    ) -> usize {
        let (x, lanes, width) = (self.x, &self.lanes, self.wkv.value_width);
        let count = (V * S::LANES).min(lanes.values.end - first);
        let keys = lanes.keys(row, self.wkv.key_width);
        let (r, k, n) = (&x.r[keys.clone()], &x.k[keys.clone()], keys.len());
        let u = &x.bonus[lanes.head * n..(lanes.head + 1) * n];
        let at = (row * self.wkv.heads + lanes.head) * width + first;
        // SAFETY: the caller's.
        unsafe {
            let state = self.states.as_mut_ptr().add(lanes.state(row, n, width) + first);
            let v: [S::V; V] = std::array::from_fn(|j| lanes::load::<S, WHOLE>(s, x.v.as_ptr().add(at), j, count));
            let mut o = [s.zero(); V];
            for c in 0..n {
                let [r, k, u, decay] = [r[c], k[c], u[c], decay[c]].map(|x| s.splat(x));
                let to = state.add(c * width);
                for j in 0..V {
                    let (old, new) = (lanes::load::<S, WHOLE>(s, to, j, count), k * v[j]);
                    o[j] = s.fma(r, s.fma(u, new, old), o[j]);
                    lanes::store::<S, WHOLE>(s, s.fma(decay, old, new), to, j, count);
                }
            }
            (0..V).for_each(|j| lanes::store::<S, WHOLE>(s, o[j], self.o.as_mut_ptr().add(at), j, count));
        }
        count
    }
}
