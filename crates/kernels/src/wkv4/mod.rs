//! RWKV-4's recurrence: a weighted mean of values per channel, its weights decaying with age.
//!
//! y_t = (Σ_{s<t} e^{(t−1−s) w + k_s} v_s + e^{u + k_t} v_t) / (the same sum without v), channel by channel, with the
//! log-decay w ≤ 0 and the bonus u of the current token. Numerator and denominator are kept as
//! a e^p and b e^p with a running exponent p, so that no k overflows:
//!
//! ```text
//! q = max(p, u + k);  y = (e^{p−q} a + e^{u+k−q} v) / (e^{p−q} b + e^{u+k−q})
//! q = max(p + w, k);  a, b, p = e^{p+w−q} a + e^{k−q} v, e^{p+w−q} b + e^{k−q}, q
//! ```
//!
//! Layout: k, v and y [N, D], tokens of all sequences in one dimension, sequence b being tokens
//! `cu_seqlens[b]..cu_seqlens[b + 1]`; w and u `[D]`; states [B, 3, D] of a, b and p. A state of zeros is the empty one.
//! Channels are independent and tokens pass in order: bits depend neither on threads nor on how a sequence is cut, and
//! [`wkv4_step`] has those of [`wkv4_forward`].
//!
//! Source: "RWKV: Reinventing RNNs for the Transformer Era" (2023), arXiv 2305.13048, appendix D.

mod backward;
mod lanes;
pub mod naive;
#[cfg(test)]
mod tests;

pub use backward::{Wkv4Gradients, wkv4_backward, wkv4_backward_scratch};

use crate::disjoint::Disjoint;
use crate::rows::expect_len;
use crate::simd::{Kernel, Simd};
use crate::slots::expect_slots;
use crate::{Pool, Real};
use lanes::{Channels, State};
use std::ops::Range;

/// Rows of a state: a, b, p.
pub const STATE_ROWS: usize = 3;
/// Channels of a task.
const LANES: usize = 64;

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct Wkv4Inputs<'a, T> {
    /// w, what a token's logarithmic weight loses with each token after it, `[D]`, at most 0.
    pub log_decay: &'a [T],
    /// u, what the current token's logarithmic weight gains, `[D]`.
    pub bonus: &'a [T],
    /// Logarithmic weights [N, D].
    pub k: &'a [T],
    /// Values [N, D].
    pub v: &'a [T],
}

impl<T> Wkv4Inputs<'_, T> {
    fn channels(&self) -> usize {
        self.log_decay.len()
    }

    /// Panics if a length does not fit.
    fn check(&self, tokens: usize) {
        expect_len("bonus", self.bonus.len(), self.channels());
        expect_len("k", self.k.len(), tokens * self.channels());
        expect_len("v", self.v.len(), tokens * self.channels());
    }
}

/// Tokens of all sequences; panics if the offsets do not rise from 0.
fn tokens(cu_seqlens: &[i32]) -> usize {
    assert!(
        cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted(),
        "wkv4: cu_seqlens {cu_seqlens:?} must rise from 0"
    );
    cu_seqlens[cu_seqlens.len() - 1] as usize
}

/// y [N, D] and the states after each sequence, [B, 3, D]; a missing initial state is empty.
///
/// # Panics
/// If a length does not fit.
pub fn wkv4_forward<T: Real>(
    pool: &Pool,
    x: &Wkv4Inputs<'_, T>,
    cu_seqlens: &[i32],
    initial_state: Option<&[T]>,
    y: &mut [T],
    final_state: &mut [T],
) {
    let (d, sequences) = (x.channels(), cu_seqlens.len() - 1);
    x.check(tokens(cu_seqlens));
    expect_len("y", y.len(), x.v.len());
    expect_len("final_state", final_state.len(), sequences * STATE_ROWS * d);
    match initial_state {
        Some(state) => final_state.copy_from_slice(state),
        None => final_state.fill(T::ZERO),
    }
    let (states, y) = (Disjoint::new(final_state), Disjoint::new(y));
    let groups = d.div_ceil(LANES);
    pool.run(sequences * groups, |task, _| {
        let (sequence, first) = (task / groups, task % groups * LANES);
        let rows = cu_seqlens[sequence] as usize..cu_seqlens[sequence + 1] as usize;
        let channels = first..(first + LANES).min(d);
        T::dispatch(Sweep { x: *x, rows, channels, slot: &|_| sequence, states, y });
    });
}

/// One token for each of many sequences: y [N, D] from k and v [N, D], states [slots, 3, D] moved on.
///
/// Row i belongs to the sequence whose state is in `slots[i]`; rows of one slot follow each other in order.
///
/// # Panics
/// If a length does not fit or a slot is not in `states`.
pub fn wkv4_step<T: Real>(pool: &Pool, x: &Wkv4Inputs<'_, T>, slots: &[i32], states: &mut [T], y: &mut [T]) {
    let d = x.channels();
    x.check(slots.len());
    expect_len("y", y.len(), x.v.len());
    expect_slots("wkv4_step", slots, states.len(), STATE_ROWS * d);
    let (states, y) = (Disjoint::new(states), Disjoint::new(y));
    pool.run(d.div_ceil(LANES), |task, _| {
        let channels = task * LANES..((task + 1) * LANES).min(d);
        let slot = |row: usize| slots[row] as usize;
        T::dispatch(Sweep { x: *x, rows: 0..slots.len(), channels, slot: &slot, states, y });
    });
}

/// Some channels of some rows, in order; the state is kept as long as the slot stays.
struct Sweep<'a, T> {
    x: Wkv4Inputs<'a, T>,
    rows: Range<usize>,
    channels: Range<usize>,
    slot: &'a (dyn Fn(usize) -> usize + Sync),
    states: Disjoint<'a, T>,
    y: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Sweep<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let d = self.x.channels();
        for channels in Channels::all::<S>(self.channels.clone()) {
            let [w, u] = [self.x.log_decay, self.x.bonus].map(|row| channels.load(s, row, 0));
            let mut rows = self.rows.clone();
            while let Some(first) = rows.next() {
                let slot = (self.slot)(first);
                // SAFETY: channels are this task's own in every state and row.
                let states =
                    unsafe { std::array::from_fn(|i| self.states.part(channels.range((slot * STATE_ROWS + i) * d))) };
                let mut state = State::load(s, &states);
                let mut row = first;
                loop {
                    let [k, v] = [self.x.k, self.x.v].map(|x| channels.load(s, x, row * d));
                    let token = state.token(s, u, k);
                    let out = token.mean(v);
                    // SAFETY: as above.
                    channels.store(s, out, unsafe { self.y.part(channels.range(row * d)) });
                    state.advance(s, w, k, v);
                    if rows.start >= rows.end || (self.slot)(rows.start) != slot {
                        break;
                    }
                    row = rows.start;
                    rows.start += 1;
                }
                state.store(s, states);
            }
        }
    }
}
