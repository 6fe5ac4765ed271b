//! The chunked and parallel forms, and the gradients: gated linear attention of the sequence shifted by one token.
//!
//! With k′_t = k_{t−1}, v′_t = v_{t−1}, g′_t = g_{t−1} (nothing, and no decay, at a sequence's first token) the state of
//! gated linear attention at t is S_{t−1}, which is what the output reads; what the current token adds is
//! (Σ_c r_c u_c k_c) v. Nothing is divided by a decay, so any gate is as safe as there.

use super::{Form, Wkv6, Wkv6Gradients, Wkv6Inputs};
use crate::disjoint::Disjoint;
use crate::gla::{Gate, gla_backward, gla_backward_scratch, gla_forward, gla_scratch, scratch_bytes, workers};
use crate::rows::for_rows;
use crate::simd::{Kernel, Simd};
use crate::wkv6::lanes::{axpy, dot};
use crate::{Pool, Real};
use std::ops::Range;

/// Elements of a token's key, value and gate.
fn row(wkv: &Wkv6) -> usize {
    wkv.heads * (2 * wkv.key_width + wkv.value_width)
}

pub(super) fn forward_scratch<T: Real>(wkv: &Wkv6, form: Form, tokens: usize, threads: usize) -> usize {
    scratch_bytes::<T>(tokens * row(wkv), 1) + gla_scratch::<T>(&wkv.gla(), form, tokens, threads)
}

pub(super) fn backward_scratch<T: Real>(wkv: &Wkv6, form: Form, tokens: usize, threads: usize) -> usize {
    scratch_bytes::<T>(2 * tokens * row(wkv), 1) + gla_backward_scratch::<T>(&wkv.gla(), form, tokens, threads)
}

/// `copies` times room for the keys, values and gates of all tokens, and the scratch that is left.
fn split<'a, T: Real>(wkv: &Wkv6, tokens: usize, copies: usize, scratch: &'a mut [u8]) -> (&'a mut [T], &'a mut [u8]) {
    let elements = copies * tokens * row(wkv);
    let (own, rest) = scratch.split_at_mut(scratch_bytes::<T>(elements, 1));
    // SAFETY: `workers` checked that so many aligned elements are there; they are plain numbers, borrowed with `own`.
    (unsafe { std::slice::from_raw_parts_mut(workers::<T>(own, elements, 1), elements) }, rest)
}

/// Keys, values and gates of all tokens.
struct Shifted<'a, T> {
    k: &'a mut [T],
    v: &'a mut [T],
    g: &'a mut [T],
}

impl<'a, T: Real> Shifted<'a, T> {
    fn of(wkv: &Wkv6, tokens: usize, from: &'a mut [T]) -> Shifted<'a, T> {
        let (k, rest) = from.split_at_mut(tokens * wkv.heads * wkv.key_width);
        let (v, g) = rest.split_at_mut(tokens * wkv.heads * wkv.value_width);
        Shifted { k, v, g }
    }

    /// Fills them with the inputs, one token later.
    fn fill(&mut self, x: &Wkv6Inputs<'_, T>) {
        let tokens = x.cu_seqlens[x.cu_seqlens.len() - 1] as usize;
        for (to, from) in [(&mut *self.k, x.k), (self.v, x.v), (self.g, x.log_decay)] {
            let width = from.len() / tokens.max(1);
            for sequence in x.cu_seqlens.windows(2).filter(|s| s[0] < s[1]) {
                let (first, end) = (sequence[0] as usize * width, sequence[1] as usize * width);
                to[first..first + width].fill(T::ZERO);
                to[first + width..end].copy_from_slice(&from[first..end - width]);
            }
        }
    }
}

/// A tensor one token earlier: the way back of [`Shifted::fill`] for its gradient.
fn unshift<T: Real>(cu_seqlens: &[i32], from: &[T], to: &mut [T]) {
    let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
    let width = from.len() / tokens.max(1);
    for sequence in cu_seqlens.windows(2).filter(|s| s[0] < s[1]) {
        let (first, end) = (sequence[0] as usize * width, sequence[1] as usize * width);
        to[first..end - width].copy_from_slice(&from[first + width..end]);
        to[end - width..end].fill(T::ZERO);
    }
}

pub(super) fn forward<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    form: Form,
    x: &Wkv6Inputs<'_, T>,
    o: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let tokens = x.cu_seqlens[x.cu_seqlens.len() - 1] as usize;
    let (own, rest) = split::<T>(wkv, tokens, 1, scratch);
    let mut s = Shifted::of(wkv, tokens, own);
    s.fill(x);
    let (gla, gate) = (wkv.gla(), Gate::Channel(&*s.g));
    gla_forward(pool, &gla, form, x.r, s.k, s.v, gate, x.cu_seqlens, x.initial_state, o, final_state, rest);
    last_tokens(wkv, x, final_state);
    let o = Disjoint::new(o);
    for_rows(pool, tokens * wkv.heads, wkv.key_width + wkv.value_width, |rows| {
        T::dispatch(Own { wkv, x, rows, o });
    });
}

/// Adds to o what the current tokens give, of some heads of all tokens.
struct Own<'a, T> {
    wkv: &'a Wkv6,
    x: &'a Wkv6Inputs<'a, T>,
    rows: Range<usize>,
    o: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Own<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let values = self.wkv.value_width;
        for i in self.rows {
            let own = weight(s, self.wkv, self.x, i);
            // SAFETY: rows are one task's own.
            axpy(unsafe { self.o.part(i * values..(i + 1) * values) }, own, &self.x.v[i * values..]);
        }
    }
}

/// Σ_c r_c u_c k_c of a token's head; `i` counts heads of all tokens.
#[inline(always)]
fn weight<S: Simd>(s: S, wkv: &Wkv6, x: &Wkv6Inputs<'_, S::E>, i: usize) -> S::E {
    let (keys, head) = (wkv.key_width, i % wkv.heads);
    let (r, k, u) = (&x.r[i * keys..(i + 1) * keys], &x.k[i * keys..(i + 1) * keys], &x.bonus[head * keys..][..keys]);
    let mut sum = s.zero();
    for at in (0..keys).step_by(S::LANES) {
        let at = at..(at + S::LANES).min(keys);
        sum = s.fma(s.load_any(&r[at.clone()]) * s.load_any(&u[at.clone()]), s.load_any(&k[at]), sum);
    }
    s.sum(sum)
}

/// From the states before the last tokens to those after them.
fn last_tokens<T: Real>(wkv: &Wkv6, x: &Wkv6Inputs<'_, T>, states: &mut [T]) {
    let (heads, keys, values) = (wkv.heads, wkv.key_width, wkv.value_width);
    for (b, sequence) in x.cu_seqlens.windows(2).enumerate().filter(|(_, s)| s[0] < s[1]) {
        let last = sequence[1] as usize - 1;
        for head in 0..heads {
            let i = last * heads + head;
            let v = &x.v[i * values..(i + 1) * values];
            for c in 0..keys {
                let (k, decay) = (x.k[i * keys + c], x.log_decay[i * keys + c].exp());
                let row = &mut states[((b * heads + head) * keys + c) * values..][..values];
                row.iter_mut().zip(v).for_each(|(s, v)| *s = decay.mul_add(*s, k * *v));
            }
        }
    }
}

pub(super) fn backward<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    form: Form,
    x: &Wkv6Inputs<'_, T>,
    d_o: &[T],
    d: Wkv6Gradients<'_, T>,
    scratch: &mut [u8],
) {
    let tokens = x.cu_seqlens[x.cu_seqlens.len() - 1] as usize;
    let (own, rest) = split::<T>(wkv, tokens, 2, scratch);
    let (inputs, gradients) = own.split_at_mut(tokens * row(wkv));
    let mut s = Shifted::of(wkv, tokens, inputs);
    s.fill(x);
    let ds = Shifted::of(wkv, tokens, gradients);
    let (gla, gate, cu) = (wkv.gla(), Gate::Channel(&*s.g), x.cu_seqlens);
    let (initial, d_initial) = (x.initial_state, d.initial_state);
    gla_backward(pool, &gla, form, x.r, s.k, s.v, gate, cu, initial, d_o, None, d.r, ds.k, ds.v, ds.g, d_initial, rest);
    unshift(cu, ds.k, d.k);
    unshift(cu, ds.v, d.v);
    unshift(cu, ds.g, d.log_decay);
    bonus(pool, wkv, x, d_o, d.r, d.k, d.v, d.bonus);
}

/// Adds what goes through the current token: a head is a task, as its bonus is summed over all tokens.
fn bonus<T: Real>(
    pool: &Pool,
    wkv: &Wkv6,
    x: &Wkv6Inputs<'_, T>,
    d_o: &[T],
    dr: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    du: &mut [T],
) {
    let (heads, keys) = (wkv.heads, wkv.key_width);
    let [dr, dk, dv, du] = [dr, dk, dv, du].map(Disjoint::new);
    pool.run(heads, |head, _| {
        // SAFETY: a head's bonus is one task's own.
        let du = unsafe { du.part(head * keys..(head + 1) * keys) };
        T::dispatch(OwnBack { wkv, x, d_o, head, dr, dk, dv, du });
    });
}

/// The gradients of [`Own`] of one head.
struct OwnBack<'a, T> {
    wkv: &'a Wkv6,
    x: &'a Wkv6Inputs<'a, T>,
    d_o: &'a [T],
    head: usize,
    dr: Disjoint<'a, T>,
    dk: Disjoint<'a, T>,
    dv: Disjoint<'a, T>,
    du: &'a mut [T],
}

impl<T: Real> Kernel<T> for OwnBack<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let OwnBack { wkv, x, d_o, head, du, .. } = self;
        let (heads, keys, values) = (wkv.heads, wkv.key_width, wkv.value_width);
        let tokens = x.cu_seqlens[x.cu_seqlens.len() - 1] as usize;
        let u = &x.bonus[head * keys..(head + 1) * keys];
        du.fill(T::ZERO);
        for i in (0..tokens).map(|t| t * heads + head) {
            let (at, of) = (i * keys..(i + 1) * keys, i * values..(i + 1) * values);
            // SAFETY: heads are one task's own.
            let (dr, dk, dv) =
                unsafe { (self.dr.part(at.clone()), self.dk.part(at.clone()), self.dv.part(of.clone())) };
            let (d_o, v) = (&d_o[of.clone()], &x.v[of]);
            axpy(dv, weight(s, wkv, x, i), d_o);
            let d_own = dot(s, d_o, v);
            let (r, k) = (&x.r[at.clone()], &x.k[at]);
            for c in 0..keys {
                dr[c] = (d_own * u[c]).mul_add(k[c], dr[c]);
                dk[c] = (d_own * u[c]).mul_add(r[c], dk[c]);
                du[c] = (d_own * r[c]).mul_add(k[c], du[c]);
            }
        }
    }
}
