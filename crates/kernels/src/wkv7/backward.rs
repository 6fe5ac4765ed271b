//! The gradients: from the last token to the first, states recomputed in segments.
//!
//! With x_t = a_tᵀ S_{t−1} and dS the gradient of the state after t, dS += r_t do_tᵀ first, then
//! - dr_t = S_t do_t, dk_t = dS v_t, dv_t = dSᵀ k_t,
//! - db_t = dS x_t, dx_t = dSᵀ b_t, da_t = S_{t−1} dx_t,
//! - dg_t = exp(g_t) ⊙ rowsum(S_{t−1} ⊙ dS), dS_{t−1} = diag(exp(g_t)) dS + a_t dx_tᵀ.
//!
//! A first pass keeps the state before every [`SEGMENT`] tokens; each segment's states are then built
//! again, the last segment first. A task is a head of a sequence.

use super::{MOST_KEYS, Wkv7, Wkv7Gradients, Wkv7Inputs};
use crate::disjoint::Disjoint;
use crate::gla::workers;
use crate::simd::{Kernel, Simd};
use crate::wkv6::lanes::{axpy, decays, dot};
use crate::{Pool, Real};
use std::ops::Range;

/// Tokens whose states are kept together.
const SEGMENT: usize = 16;

/// Elements of scratch of a thread.
pub(super) fn elements(wkv: &Wkv7, longest: usize) -> usize {
    let size = wkv.key_width * wkv.value_width;
    (longest.div_ceil(SEGMENT).max(1) + SEGMENT + 2) * size + (SEGMENT + 1) * wkv.value_width
}

pub(super) fn backward<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    x: &Wkv7Inputs<'_, T>,
    d_o: &[T],
    d: Wkv7Gradients<'_, T>,
    longest: usize,
    scratch: &mut [u8],
) {
    let per_thread = elements(wkv, longest);
    let start = workers::<T>(scratch, per_thread, pool.threads());
    // SAFETY: `workers` checked that so many elements follow; they are plain numbers.
    let scratch = Disjoint::new(unsafe { std::slice::from_raw_parts_mut(start, per_thread * pool.threads()) });
    let out = Out {
        by_key: [d.r, d.k, d.a, d.b, d.log_decay].map(Disjoint::new),
        v: Disjoint::new(d.v),
        initial_state: d.initial_state.map(Disjoint::new),
    };
    pool.run((x.cu_seqlens.len() - 1) * wkv.heads, |task, worker| {
        // SAFETY: scratch is a worker's own.
        let scratch = unsafe { scratch.part(worker * per_thread..(worker + 1) * per_thread) };
        T::dispatch(Head { wkv, x, d_o, out: &out, scratch, sequence: task / wkv.heads, head: task % wkv.heads });
    });
}

/// Where gradients go.
struct Out<'a, T> {
    /// Of r, k, a, b, the log-decays.
    by_key: [Disjoint<'a, T>; 5],
    v: Disjoint<'a, T>,
    initial_state: Option<Disjoint<'a, T>>,
}

struct Head<'a, T> {
    wkv: &'a Wkv7,
    x: &'a Wkv7Inputs<'a, T>,
    d_o: &'a [T],
    out: &'a Out<'a, T>,
    scratch: &'a mut [T],
    sequence: usize,
    head: usize,
}

/// What a worker's scratch holds.
struct Arrays<'a, T> {
    state: &'a mut [T],
    d_state: &'a mut [T],
    /// The state before each token of a segment.
    states: &'a mut [T],
    /// x of each token of a segment.
    held: &'a mut [T],
    dx: &'a mut [T],
    /// The state before each segment.
    kept: &'a mut [T],
}

impl<'a, T: Real> Arrays<'a, T> {
    fn of(wkv: &Wkv7, mut rest: &'a mut [T]) -> Arrays<'a, T> {
        let (size, values) = (wkv.key_width * wkv.value_width, wkv.value_width);
        let mut take = |n: usize| {
            let (taken, left) = std::mem::take(&mut rest).split_at_mut(n);
            rest = left;
            taken
        };
        let [state, d_state, states, held, dx] = [size, size, SEGMENT * size, SEGMENT * values, values].map(&mut take);
        Arrays { state, d_state, states, held, dx, kept: rest }
    }
}

impl<T: Real> Kernel<T> for Head<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(mut self, s: S) {
        let (size, head) = (self.wkv.key_width * self.wkv.value_width, self.head);
        let a = &mut Arrays::of(self.wkv, std::mem::take(&mut self.scratch));
        let at = (self.sequence * self.wkv.heads + head) * size;
        match self.x.initial_state {
            Some(states) => a.state.copy_from_slice(&states[at..at + size]),
            None => a.state.fill(T::ZERO),
        }
        a.d_state.fill(T::ZERO);
        let (start, end) = (self.x.cu_seqlens[self.sequence] as usize, self.x.cu_seqlens[self.sequence + 1] as usize);
        let segments = (end - start).div_ceil(SEGMENT);
        let tokens = |i: usize| start + i * SEGMENT..(start + (i + 1) * SEGMENT).min(end);
        for i in 0..segments {
            a.kept[i * size..(i + 1) * size].copy_from_slice(a.state);
            // The last segment is built again at once.
            if i + 1 < segments {
                // Loops, because a closure is compiled without the instruction set that the task runs with.
                for t in tokens(i) {
                    self.advance(s, a, t, 0);
                }
            }
        }
        for i in (0..segments).rev() {
            a.state.copy_from_slice(&a.kept[i * size..(i + 1) * size]);
            for (i, t) in tokens(i).enumerate() {
                self.advance(s, a, t, i);
            }
            for (i, t) in tokens(i).enumerate().rev() {
                self.back(s, a, t, i);
                a.state.copy_from_slice(&a.states[i * size..(i + 1) * size]);
            }
        }
        if let Some(to) = &self.out.initial_state {
            // SAFETY: the state's gradient is this task's own.
            unsafe { to.part(at..at + size) }.copy_from_slice(a.d_state);
        }
    }
}

impl<T: Real> Head<'_, T> {
    fn keys(&self, t: usize) -> Range<usize> {
        let at = (t * self.wkv.heads + self.head) * self.wkv.key_width;
        at..at + self.wkv.key_width
    }

    fn values(&self, t: usize) -> Range<usize> {
        let at = (t * self.wkv.heads + self.head) * self.wkv.value_width;
        at..at + self.wkv.value_width
    }

    /// Takes the state over a token, the `i`-th of its segment, and keeps what the way back needs.
    #[inline(always)]
    fn advance<S: Simd<E = T>>(&self, s: S, arrays: &mut Arrays<'_, T>, t: usize, i: usize) {
        let (keys, width, size) = (self.keys(t), self.wkv.value_width, arrays.state.len());
        let [k, a, b] = [self.x.k, self.x.a, self.x.b].map(|x| &x[keys.clone()]);
        let v = &self.x.v[self.values(t)];
        let mut decay = [T::ZERO; MOST_KEYS];
        decays(s, &self.x.log_decay[keys], &mut decay);
        arrays.states[i * size..(i + 1) * size].copy_from_slice(arrays.state);
        let held = &mut arrays.held[i * width..(i + 1) * width];
        held.fill(T::ZERO);
        for (row, a) in arrays.state.chunks_exact(width).zip(a) {
            axpy(held, *a, row);
        }
        for (c, row) in arrays.state.chunks_exact_mut(width).enumerate() {
            for ((state, held), v) in row.iter_mut().zip(&*held).zip(v) {
                *state = k[c].mul_add(*v, b[c].mul_add(*held, decay[c] * *state));
            }
        }
    }

    /// The gradients of a token, the `i`-th of its segment; `state` is that after it.
    #[inline(always)]
    fn back<S: Simd<E = T>>(&self, s: S, arrays: &mut Arrays<'_, T>, t: usize, i: usize) {
        let (keys, values, width, size) = (self.keys(t), self.values(t), self.wkv.value_width, arrays.state.len());
        let [r, k, a, b] = [self.x.r, self.x.k, self.x.a, self.x.b].map(|x| &x[keys.clone()]);
        let (v, d_o) = (&self.x.v[values.clone()], &self.d_o[values.clone()]);
        let mut decay = [T::ZERO; MOST_KEYS];
        decays(s, &self.x.log_decay[keys.clone()], &mut decay);
        let before = &arrays.states[i * size..(i + 1) * size];
        let (held, dx) = (&arrays.held[i * width..(i + 1) * width], &mut *arrays.dx);
        // SAFETY: a head's tokens are this task's own.
        let ([dr, dk, da, db, dg], dv) =
            unsafe { (self.out.by_key.each_ref().map(|d| d.part(keys.clone())), self.out.v.part(values)) };
        dx.fill(T::ZERO);
        dv.fill(T::ZERO);
        let rows = arrays.d_state.chunks_exact_mut(width).zip(arrays.state.chunks_exact(width));
        for (c, (d_state, after)) in rows.enumerate() {
            dr[c] = dot(s, after, d_o);
            axpy(d_state, r[c], d_o);
            dk[c] = dot(s, d_state, v);
            db[c] = dot(s, d_state, held);
            axpy(dv, k[c], d_state);
            axpy(dx, b[c], d_state);
        }
        let rows = arrays.d_state.chunks_exact_mut(width).zip(before.chunks_exact(width));
        for (c, (d_state, before)) in rows.enumerate() {
            da[c] = dot(s, before, dx);
            dg[c] = decay[c] * dot(s, before, d_state);
            d_state.iter_mut().for_each(|d| *d *= decay[c]);
            axpy(d_state, a[c], dx);
        }
    }
}
