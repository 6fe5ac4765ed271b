//! The recurrent form's gradients: from the last token to the first, states recomputed in segments.
//!
//! With S̃_t the decayed state that token t meets, w_t = v_t − S̃_tᵀ k_t and u_t = β_t w_t, and dS the
//! gradient of the state after t:
//! - dS += scale · q_t do_tᵀ, dq_t = scale · (S̃_t do_t + (u_t · do_t) k_t),
//! - du_t = dSᵀ k_t, dβ_t = w_t · du_t, dv_t = dw_t = β_t du_t,
//! - dk_t = dS u_t − S̃_t dw_t, dS̃ = dS − k_t dw_tᵀ, dg_t = rowsum(S̃_t ⊙ dS̃), dS_prev = diag(exp(g_t)) dS̃.
//!
//! A first pass keeps the state before every [`SEGMENT`] tokens; each segment's states are then built
//! again, the last segment first.

use super::chunk::scaled;
use super::lanes::Decay;
use super::recurrent::token;
use super::{Backward, Delta};
use crate::gla::products::dot;
use crate::gla::{GateKind, state_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Tokens whose states are kept together.
const SEGMENT: usize = 16;

pub(super) fn scratch_elements(delta: &Delta, longest: usize) -> usize {
    let size = delta.key_width * delta.value_width;
    let kept = longest.div_ceil(SEGMENT).max(1);
    (kept + SEGMENT + 2) * size + SEGMENT * (delta.value_width + delta.key_width) + 3 * delta.value_width
}

pub(super) fn backward<T: Real>(pool: &Pool, delta: &Delta, b: &Backward<T>) {
    pool.run(b.x.sequences * delta.key_heads, |task, worker| T::dispatch(BackwardTask { b, task, worker }));
}

struct BackwardTask<'a, T> {
    b: &'a Backward<T>,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for BackwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let x = &self.b.x;
        let (sequence, key_head) = (self.task / x.key_heads, self.task % x.key_heads);
        for i in 0..x.repeat() {
            // SAFETY: tasks are (sequence, key head): what each writes is its own.
            unsafe { self.head(s, sequence, key_head * x.repeat() + i, i > 0) };
        }
    }
}

/// `y += a x`.
#[inline(always)]
fn axpy<T: Real>(y: &mut [T], a: T, x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = a.mul_add(*x, *y));
}

/// What a worker's scratch holds.
struct Arrays<'a, T> {
    /// The state before each segment.
    kept: &'a mut [T],
    /// S̃ of each token of a segment.
    decayed: &'a mut [T],
    /// w of each token of a segment.
    missing: &'a mut [T],
    /// exp(g) of each token of a segment.
    decays: &'a mut [T],
    state: &'a mut [T],
    d_state: &'a mut [T],
    u: &'a mut [T],
    du: &'a mut [T],
    dw: &'a mut [T],
}

impl<T: Real> BackwardTask<'_, T> {
    /// # Safety
    /// The worker's scratch and the gradients of this head are this task's own.
    unsafe fn arrays(&self) -> Arrays<'_, T> {
        let (b, x) = (self.b, &self.b.x);
        let size = x.key_width * x.value_width;
        // SAFETY: the caller's.
        let mut rest = unsafe {
            std::slice::from_raw_parts_mut(b.scratch.add(self.worker * b.scratch_elements), b.scratch_elements)
        };
        let mut take = |n: usize| {
            let (taken, left) = std::mem::take(&mut rest).split_at_mut(n);
            rest = left;
            taken
        };
        let arrays = Arrays {
            decayed: take(SEGMENT * size),
            missing: take(SEGMENT * x.value_width),
            decays: take(SEGMENT * x.key_width),
            state: take(size),
            d_state: take(size),
            u: take(x.value_width),
            du: take(x.value_width),
            dw: take(x.value_width),
            kept: &mut [],
        };
        Arrays { kept: rest, ..arrays }
    }

    /// One head; adds to the gradients of its key head if `add_keys`.
    ///
    /// # Safety
    /// As [`BackwardTask::arrays`].
    #[inline(always)]
    unsafe fn head<S: Simd<E = T>>(&self, s: S, sequence: usize, head: usize, add_keys: bool) {
        let (b, x) = (self.b, &self.b.x);
        let size = x.key_width * x.value_width;
        // SAFETY: the caller's.
        let a = &mut unsafe { self.arrays() };
        let (start, end) = x.range(sequence);
        let at = x.state(sequence, head);
        // SAFETY: the states of this head of this sequence.
        unsafe {
            for (states, to) in [(x.initial_state, &mut *a.state), (b.d_final_state, &mut *a.d_state)] {
                match state_of(states, at, size) {
                    Some(state) => to.copy_from_slice(state),
                    None => to.fill(T::ZERO),
                }
            }
        }
        let segments = (end - start).div_ceil(SEGMENT);
        let tokens = |i: usize| start + i * SEGMENT..(start + (i + 1) * SEGMENT).min(end);
        for i in 0..segments {
            a.kept[i * size..(i + 1) * size].copy_from_slice(a.state);
            // The last segment is built again at once.
            if i + 1 < segments {
                for t in tokens(i) {
                    // SAFETY: the sequence has these tokens.
                    unsafe { self.advance(s, a, t, head, 0) };
                }
            }
        }
        for i in (0..segments).rev() {
            a.state.copy_from_slice(&a.kept[i * size..(i + 1) * size]);
            let tokens = tokens(i);
            // Loops, because a closure is compiled without the instruction set that the task runs with.
            for (i, t) in tokens.clone().enumerate() {
                // SAFETY: the sequence has these tokens.
                unsafe { self.advance(s, a, t, head, i) };
            }
            for (i, t) in tokens.enumerate().rev() {
                // SAFETY: as above, and their gradients are this task's own.
                unsafe { self.back(s, a, t, head, i, add_keys) };
            }
        }
        if !b.d_initial_state.is_null() {
            // SAFETY: the state's gradient is this task's own.
            unsafe { b.d_initial_state.add(at).copy_from_nonoverlapping(a.d_state.as_ptr(), size) };
        }
    }

    /// Takes the state over a token, the `i`-th of its segment, and keeps what the way back needs.
    ///
    /// # Safety
    /// The inputs have this token.
    #[inline(always)]
    unsafe fn advance<S: Simd<E = T>>(&self, s: S, a: &mut Arrays<'_, T>, t: usize, head: usize, i: usize) {
        let x = &self.b.x;
        let (keys, values) = (x.key_width, x.value_width);
        // SAFETY: the caller's.
        let (token, v) = unsafe {
            let row = &mut a.decays[i * keys..(i + 1) * keys];
            (token(s, x, t, head, row), std::slice::from_raw_parts(x.value_rows(x.v, t, 1, head).at, values))
        };
        let w = &mut a.missing[i * values..(i + 1) * values];
        w.copy_from_slice(v);
        let decayed = &mut a.decayed[i * keys * values..(i + 1) * keys * values];
        for (c, (state, kept)) in a.state.chunks_exact(values).zip(decayed.chunks_exact_mut(values)).enumerate() {
            let decay = match token.decay {
                Decay::None => T::ONE,
                Decay::All(a) => a,
                Decay::Rows(a) => a[c],
            };
            scaled(kept, state, decay);
            axpy(w, -token.k[c], kept);
        }
        scaled(a.u, w, token.beta);
        for (c, (state, kept)) in a.state.chunks_exact_mut(values).zip(decayed.chunks_exact(values)).enumerate() {
            state.iter_mut().zip(kept).zip(&*a.u).for_each(|((s, kept), u)| *s = token.k[c].mul_add(*u, *kept));
        }
    }

    /// The gradients of a token, the `i`-th of its segment.
    ///
    /// # Safety
    /// The inputs have this token; its gradients are this task's own.
    #[inline(always)]
    unsafe fn back<S: Simd<E = T>>(
        &self,
        s: S,
        a: &mut Arrays<'_, T>,
        t: usize,
        head: usize,
        i: usize,
        add_keys: bool,
    ) {
        let (b, x) = (self.b, &self.b.x);
        let (keys, values) = (x.key_width, x.value_width);
        // SAFETY: the caller's.
        let (token, d_o, dq, dk, dv, dg) = unsafe {
            let token = token(s, x, t, head, &mut a.decays[i * keys..(i + 1) * keys]);
            let by_key = |p: *mut T| std::slice::from_raw_parts_mut(x.key_rows(p, t, 1, head).at, keys);
            let d_o = std::slice::from_raw_parts(x.value_rows(b.d_o, t, 1, head).at, values);
            let dv = std::slice::from_raw_parts_mut(x.value_rows(b.dv, t, 1, head).at, values);
            let dg: &mut [T] = match x.gate {
                GateKind::None => &mut [],
                GateKind::Head => std::slice::from_raw_parts_mut(b.dg.add(t * x.heads + head), 1),
                GateKind::Channel => std::slice::from_raw_parts_mut(x.gate_rows(b.dg, t, 1, head).at, keys),
            };
            (token, d_o, by_key(b.dq), by_key(b.dk), dv, dg)
        };
        let decayed = &a.decayed[i * keys * values..(i + 1) * keys * values];
        let w = &a.missing[i * values..(i + 1) * values];
        scaled(a.u, w, token.beta);
        let own = dot(s, a.u, d_o);
        let put = |to: &mut T, value: T| *to = if add_keys { *to + value } else { value };
        a.du.fill(T::ZERO);
        for (c, (d_state, state)) in a.d_state.chunks_exact_mut(values).zip(decayed.chunks_exact(values)).enumerate() {
            axpy(d_state, token.scale * token.q[c], d_o);
            axpy(a.du, token.k[c], d_state);
            put(&mut dq[c], token.scale * (dot(s, state, d_o) + own * token.k[c]));
        }
        scaled(a.dw, a.du, token.beta);
        dv.copy_from_slice(a.dw);
        // SAFETY: the caller's.
        unsafe { *b.d_beta.add(t * x.heads + head) = dot(s, w, a.du) };
        dg.fill(T::ZERO);
        for (c, (d_state, state)) in a.d_state.chunks_exact_mut(values).zip(decayed.chunks_exact(values)).enumerate() {
            put(&mut dk[c], dot(s, d_state, a.u) - dot(s, state, a.dw));
            axpy(d_state, -token.k[c], a.dw);
            let decay = match token.decay {
                Decay::None => continue,
                Decay::All(a) => {
                    dg[0] += dot(s, state, d_state);
                    a
                }
                Decay::Rows(a) => {
                    dg[c] = dot(s, state, d_state);
                    a[c]
                }
            };
            d_state.iter_mut().for_each(|d| *d *= decay);
        }
    }
}
