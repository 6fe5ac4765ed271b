//! The gradients, from the last token to the first, states recomputed in segments.
//!
//! With G the gradient of h_t through everything from t on, G = C_t dy_t + exp(Δ_{t+1} A) ⊙ G_{t+1}:
//! - dC_t = Σ_d dy_t h_t, dB_t = Σ_d Δ_t x_t G, sums over channels,
//! - dx_t = Δ_t (B_t · G) + D dy_t, dD = Σ_t x_t dy_t,
//! - dΔ_t = G · (A ⊙ exp(Δ_t A) ⊙ h_{t−1} + x_t B_t), dA = Σ_t Δ_t exp(Δ_t A) ⊙ h_{t−1} ⊙ G.
//!
//! Sums over channels are made of those of fixed groups of [`CHANNELS`], in order, so that no number depends on threads.

use super::{SelectiveScanInputs, tokens};
use crate::disjoint::Disjoint;
use crate::gla::{longest, scratch_bytes, workers};
use crate::rows::{expect_len, for_rows};
use crate::simd::{Kernel, Simd};
use crate::transpose::transpose;
use crate::{Pool, Real};
use std::ops::Range;

/// Channels of a task.
const CHANNELS: usize = 128;
/// Tokens whose states are kept together.
const SEGMENT: usize = 16;
/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

/// Gradients of the inputs, all overwritten.
pub struct SelectiveScanGradients<'a, T> {
    /// As x.
    pub x: &'a mut [T],
    /// As Δ.
    pub delta: &'a mut [T],
    /// As A.
    pub a: &'a mut [T],
    /// As B.
    pub b: &'a mut [T],
    /// As C.
    pub c: &'a mut [T],
    /// As the skip.
    pub skip: &'a mut [T],
}

/// Elements of scratch of a worker: states of [S, lanes].
fn worker_elements(states: usize, longest: usize) -> usize {
    (longest.div_ceil(SEGMENT).max(1) + SEGMENT + 3) * states * MOST_LANES
}

/// Elements that all workers share: A and its gradient by states, and sums of B's and C's by group.
fn shared_elements(channels: usize, states: usize, tokens: usize) -> usize {
    2 * channels * states + 2 * channels.div_ceil(CHANNELS) * tokens * states
}

/// Bytes of scratch for [`selective_scan_backward`] of `tokens` tokens, the longest sequence having `longest`.
pub fn selective_scan_backward_scratch<T: Real>(
    channels: usize,
    states: usize,
    tokens: usize,
    longest: usize,
    threads: usize,
) -> usize {
    scratch_bytes::<T>(shared_elements(channels, states, tokens), 1)
        + scratch_bytes::<T>(worker_elements(states, longest), threads)
}

/// Gradients of all inputs from that of y, for sequences that begin with states of zero.
///
/// # Panics
/// If a length does not fit, or scratch is smaller than [`selective_scan_backward_scratch`] says.
pub fn selective_scan_backward<T: Real>(
    pool: &Pool,
    x: &SelectiveScanInputs<'_, T>,
    cu_seqlens: &[i32],
    dy: &[T],
    d: SelectiveScanGradients<'_, T>,
    scratch: &mut [u8],
) {
    let ((channels, states), tokens) = (x.sizes(), tokens(cu_seqlens));
    x.check(tokens);
    for (name, found, wanted) in [
        ("dy", dy.len(), x.x.len()),
        ("dx", d.x.len(), x.x.len()),
        ("d_delta", d.delta.len(), x.x.len()),
        ("da", d.a.len(), x.a.len()),
        ("db", d.b.len(), x.b.len()),
        ("dc", d.c.len(), x.c.len()),
        ("d_skip", d.skip.len(), channels),
    ] {
        expect_len(name, found, wanted);
    }
    let (all, per_worker) = (shared_elements(channels, states, tokens), worker_elements(states, longest(cu_seqlens)));
    let (shared, own) = scratch.split_at_mut(scratch_bytes::<T>(all, 1));
    // SAFETY: `workers` checked that so many aligned elements are there; they are plain numbers.
    let (shared, own) = unsafe {
        let own = workers::<T>(own, per_worker, pool.threads());
        let own = std::slice::from_raw_parts_mut(own, per_worker * pool.threads());
        (std::slice::from_raw_parts_mut(workers::<T>(shared, all, 1), all), own)
    };
    let (a, rest) = shared.split_at_mut(x.a.len());
    let (da, sums) = rest.split_at_mut(x.a.len());
    transpose(pool, 1, channels, states, x.a, a);
    let groups = channels.div_ceil(CHANNELS);
    {
        let (own, sums, da, skip) = (Disjoint::new(own), Disjoint::new(sums), Disjoint::new(da), Disjoint::new(d.skip));
        let (dx, delta) = (Disjoint::new(d.x), Disjoint::new(d.delta));
        let group = 2 * tokens * states;
        pool.run(groups, |task, worker| {
            // SAFETY: scratch is a worker's own, sums are a group's own.
            let (own, sums) = unsafe {
                let own = own.part(worker * per_worker..(worker + 1) * per_worker);
                (own, sums.part(task * group..(task + 1) * group))
            };
            let channels = task * CHANNELS..((task + 1) * CHANNELS).min(channels);
            T::dispatch(Back { x: *x, a, cu_seqlens, channels, dy, own, sums, da, skip, dx, delta });
        });
    }
    transpose(pool, 1, states, channels, da, d.a);
    let (db, dc) = (Disjoint::new(d.b), Disjoint::new(d.c));
    for_rows(pool, tokens, states * groups, |rows| {
        for (half, to) in [db, dc].into_iter().enumerate() {
            // SAFETY: rows are one task's own.
            let to = unsafe { to.part(rows.start * states..rows.end * states) };
            to.fill(T::ZERO);
            for group in 0..groups {
                let from = &sums[(2 * group + half) * tokens * states..][rows.start * states..rows.end * states];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            }
        }
    });
}

/// A group of channels over all sequences.
struct Back<'a, T> {
    x: SelectiveScanInputs<'a, T>,
    /// [S, D].
    a: &'a [T],
    cu_seqlens: &'a [i32],
    channels: Range<usize>,
    dy: &'a [T],
    own: &'a mut [T],
    /// Of B, then of C, [N, S] each.
    sums: &'a mut [T],
    /// [S, D].
    da: Disjoint<'a, T>,
    skip: Disjoint<'a, T>,
    dx: Disjoint<'a, T>,
    delta: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Back<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(mut self, s: S) {
        self.sums.fill(T::ZERO);
        for first in self.channels.clone().step_by(S::LANES) {
            self.lanes(s, first..(first + S::LANES).min(self.channels.end));
        }
    }
}

impl<T: Real> Back<'_, T> {
    /// One token: from the state before it to that after it, in place.
    #[inline(always)]
    fn advance<S: Simd<E = T>>(&self, s: S, lanes: &Range<usize>, h: &mut [T], row: usize) {
        let (x, (width, states)) = (&self.x, self.x.sizes());
        let at = |row: usize| row * width + lanes.start..row * width + lanes.end;
        let (value, delta) = (s.load_any(&x.x[at(row)]), s.load_any(&x.delta[at(row)]));
        for n in 0..states {
            let decay = s.exp(delta * s.load_any(&self.a[at(n)]));
            let old = &mut h[n * S::LANES..(n + 1) * S::LANES];
            let new = s.fma(decay, s.load(old), delta * value * s.splat(x.b[row * states + n]));
            s.store(new, old);
        }
    }

    /// One vector of channels.
    #[inline(always)]
    fn lanes<S: Simd<E = T>>(&mut self, s: S, lanes: Range<usize>) {
        let (x, (width, states)) = (self.x, self.x.sizes());
        let size = states * S::LANES;
        let own = std::mem::take(&mut self.own);
        let (h, rest) = own.split_at_mut(size);
        let (g, rest) = rest.split_at_mut(size);
        let (da, rest) = rest.split_at_mut(size);
        let (before, kept) = rest.split_at_mut(SEGMENT * size);
        da.fill(T::ZERO);
        let (mut d_skip, skip) = (s.zero(), s.load_any(&x.skip[lanes.clone()]));
        let at = |row: usize| row * width + lanes.start..row * width + lanes.end;
        for sequence in self.cu_seqlens.windows(2) {
            let (start, end) = (sequence[0] as usize, sequence[1] as usize);
            let segments = (end - start).div_ceil(SEGMENT);
            let rows = |i: usize| start + i * SEGMENT..(start + (i + 1) * SEGMENT).min(end);
            h.fill(T::ZERO);
            g.fill(T::ZERO);
            for i in 0..segments {
                kept[i * size..(i + 1) * size].copy_from_slice(h);
                if i + 1 < segments {
                    for row in rows(i) {
                        self.advance(s, &lanes, h, row);
                    }
                }
            }
            for i in (0..segments).rev() {
                h.copy_from_slice(&kept[i * size..(i + 1) * size]);
                for (j, row) in rows(i).enumerate() {
                    before[j * size..(j + 1) * size].copy_from_slice(h);
                    self.advance(s, &lanes, h, row);
                }
                for (j, row) in rows(i).enumerate().rev() {
                    let before = &before[j * size..(j + 1) * size];
                    let [value, delta, dy] = [x.x, x.delta, self.dy].map(|tensor| s.load_any(&tensor[at(row)]));
                    let (mut through, mut d_delta) = (s.zero(), s.zero());
                    let (of_b, of_c) = self.sums.split_at_mut(self.sums.len() / 2);
                    for n in 0..states {
                        let part = n * S::LANES..(n + 1) * S::LANES;
                        let (b, c) = (s.splat(x.b[row * states + n]), s.splat(x.c[row * states + n]));
                        let a = s.load_any(&self.a[at(n)]);
                        let decay = s.exp(delta * a);
                        let held = decay * s.load(&before[part.clone()]);
                        let now = s.fma(b, delta * value, held);
                        of_c[row * states + n] += s.sum(dy * now);
                        let grad = s.fma(c, dy, s.load(&g[part.clone()]));
                        of_b[row * states + n] += s.sum(delta * value * grad);
                        through = s.fma(b, grad, through);
                        d_delta = s.fma(grad * a, held, d_delta);
                        s.store(s.fma(grad * delta, held, s.load(&da[part.clone()])), &mut da[part.clone()]);
                        s.store(decay * grad, &mut g[part]);
                    }
                    d_skip = s.fma(value, dy, d_skip);
                    // SAFETY: channels are this task's own.
                    unsafe {
                        s.store_any(s.fma(delta, through, skip * dy), self.dx.part(at(row)));
                        s.store_any(s.fma(value, through, d_delta), self.delta.part(at(row)));
                    }
                }
            }
        }
        // SAFETY: channels are this task's own.
        unsafe {
            s.store_any(d_skip, self.skip.part(lanes.clone()));
            for n in 0..states {
                s.store_any(s.load(&da[n * S::LANES..(n + 1) * S::LANES]), self.da.part(at(n)));
            }
        }
        self.own = own;
    }
}
