//! Mamba's selective scan: per channel a state of S numbers that decays and takes in by what the token says.
//!
//! h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t x_t B_t,  y_t = C_t · h_t + D x_t, channel by channel: Δ_t and x_t are numbers, A a row
//! of S numbers at most 0, and B_t and C_t rows of S that all channels share.
//!
//! Layout: x, Δ and y [N, D], tokens of all sequences in one dimension, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`; A [D, S]; B and C [N, S]; the skip D `[D]`; states [B, S, D], so that channels lie
//! side by side and fill vectors. Channels are independent and tokens pass in order: bits depend neither on threads nor on
//! how a sequence is cut, and [`selective_scan_step`] has those of [`selective_scan`].
//!
//! Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), arXiv 2312.00752, section 3.

mod backward;
pub mod naive;
#[cfg(test)]
mod tests;

pub use backward::{SelectiveScanGradients, selective_scan_backward, selective_scan_backward_scratch};

use crate::disjoint::Disjoint;
use crate::gla::{scratch_bytes, workers};
use crate::rows::{expect_len, for_columns};
use crate::simd::{Kernel, Simd};
use crate::slots::expect_slots;
use crate::transpose::transpose;
use crate::{Pool, Real};
use std::ops::Range;

/// Channels of a task.
const LANES: usize = 64;

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct SelectiveScanInputs<'a, T> {
    /// [N, D].
    pub x: &'a [T],
    /// Time steps Δ [N, D], at least 0.
    pub delta: &'a [T],
    /// A [D, S], at most 0.
    pub a: &'a [T],
    /// What a token writes to a state, [N, S].
    pub b: &'a [T],
    /// What a token reads of a state, [N, S].
    pub c: &'a [T],
    /// What passes by the state, `[D]`.
    pub skip: &'a [T],
}

impl<T: Real> SelectiveScanInputs<'_, T> {
    /// D and S.
    fn sizes(&self) -> (usize, usize) {
        (self.skip.len(), self.a.len().checked_div(self.skip.len()).unwrap_or(0))
    }

    /// Panics if a length does not fit.
    fn check(&self, tokens: usize) {
        let (channels, states) = self.sizes();
        expect_len("x", self.x.len(), tokens * channels);
        expect_len("delta", self.delta.len(), tokens * channels);
        expect_len("a", self.a.len(), channels * states);
        expect_len("b", self.b.len(), tokens * states);
        expect_len("c", self.c.len(), tokens * states);
    }

    /// A by states, [S, D], in scratch.
    fn a_by_state<'s>(&self, pool: &Pool, scratch: &'s mut [u8]) -> &'s [T] {
        let (channels, states) = self.sizes();
        // SAFETY: `workers` checked that so many aligned elements are there; they are plain numbers.
        let to = unsafe { std::slice::from_raw_parts_mut(workers::<T>(scratch, self.a.len(), 1), self.a.len()) };
        transpose(pool, 1, channels, states, self.a, to);
        to
    }
}

/// Tokens of all sequences; panics if the offsets do not rise from 0.
fn tokens(cu_seqlens: &[i32]) -> usize {
    let rising = cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted();
    assert!(rising, "selective_scan: cu_seqlens {cu_seqlens:?} must rise from 0");
    cu_seqlens[cu_seqlens.len() - 1] as usize
}

/// Bytes of scratch for [`selective_scan`] and [`selective_scan_step`] of D channels with S states each.
pub fn selective_scan_scratch<T: Real>(channels: usize, states: usize) -> usize {
    scratch_bytes::<T>(channels * states, 1)
}

/// y [N, D] and the states after each sequence, [B, S, D]; a missing initial state is zero.
///
/// # Panics
/// If a length does not fit, or scratch is smaller than [`selective_scan_scratch`] says.
pub fn selective_scan<T: Real>(
    pool: &Pool,
    x: &SelectiveScanInputs<'_, T>,
    cu_seqlens: &[i32],
    initial_state: Option<&[T]>,
    y: &mut [T],
    final_state: &mut [T],
    scratch: &mut [u8],
) {
    let ((channels, states), sequences) = (x.sizes(), cu_seqlens.len() - 1);
    x.check(tokens(cu_seqlens));
    expect_len("y", y.len(), x.x.len());
    expect_len("final_state", final_state.len(), sequences * states * channels);
    match initial_state {
        Some(state) => final_state.copy_from_slice(state),
        None => final_state.fill(T::ZERO),
    }
    let a = x.a_by_state(pool, scratch);
    let (kept, y) = (Disjoint::new(final_state), Disjoint::new(y));
    let groups = channels.div_ceil(LANES);
    pool.run(sequences * groups, |task, _| {
        let (sequence, first) = (task / groups, task % groups * LANES);
        let rows = cu_seqlens[sequence] as usize..cu_seqlens[sequence + 1] as usize;
        let channels = first..(first + LANES).min(channels);
        T::dispatch(Sweep { x: *x, a, rows, channels, slot: &|_| sequence, kept, y });
    });
}

/// One token for each of many sequences: y [N, D], states [slots, S, D] moved on.
///
/// Row i belongs to the sequence whose state is in `slots[i]`; rows of one slot follow each other in order.
///
/// # Panics
/// If a length does not fit, a slot is not in `kept`, or scratch is smaller than [`selective_scan_scratch`] says.
pub fn selective_scan_step<T: Real>(
    pool: &Pool,
    x: &SelectiveScanInputs<'_, T>,
    slots: &[i32],
    kept: &mut [T],
    y: &mut [T],
    scratch: &mut [u8],
) {
    let (channels, states) = x.sizes();
    x.check(slots.len());
    expect_len("y", y.len(), x.x.len());
    expect_slots("selective_scan_step", slots, kept.len(), states * channels);
    let a = x.a_by_state(pool, scratch);
    let (kept, y) = (Disjoint::new(kept), Disjoint::new(y));
    for_columns(pool, channels, |channels| {
        let slot = |row: usize| slots[row] as usize;
        T::dispatch(Sweep { x: *x, a, rows: 0..slots.len(), channels, slot: &slot, kept, y });
    });
}

/// Some channels over some rows, in order.
struct Sweep<'a, T> {
    x: SelectiveScanInputs<'a, T>,
    /// [S, D].
    a: &'a [T],
    rows: Range<usize>,
    channels: Range<usize>,
    slot: &'a (dyn Fn(usize) -> usize + Sync),
    kept: Disjoint<'a, T>,
    y: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Sweep<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (x, (width, states)) = (&self.x, self.x.sizes());
        for first in self.channels.clone().step_by(S::LANES) {
            let lanes = first..(first + S::LANES).min(self.channels.end);
            let at = |row: usize| row * width + lanes.start..row * width + lanes.end;
            let skip = s.load_any(&x.skip[lanes.clone()]);
            for row in self.rows.clone() {
                let (value, delta) = (s.load_any(&x.x[at(row)]), s.load_any(&x.delta[at(row)]));
                let (b, c) = (&x.b[row * states..][..states], &x.c[row * states..][..states]);
                let (add, mut y) = (delta * value, skip * value);
                let slot = (self.slot)(row) * states;
                for n in 0..states {
                    // SAFETY: channels are this task's own in every state and row.
                    let kept = unsafe { self.kept.part(at(slot + n)) };
                    let decay = s.exp(delta * s.load_any(&self.a[at(n)]));
                    let h = s.fma(decay, s.load_any(kept), add * s.splat(b[n]));
                    y = s.fma(s.splat(c[n]), h, y);
                    s.store_any(h, kept);
                }
                // SAFETY: as above.
                s.store_any(y, unsafe { self.y.part(at(row)) });
            }
        }
    }
}
