//! The recurrent form: some value lanes of a state stay in the first-level cache while all tokens pass.
//!
//! A token's k uᵀ is added in the next token's pass, so that each token reads and writes the state
//! once. A sequence given in pieces, alone or beside others, on any number of threads, gives the same
//! bits: inference uses this form.

use super::lanes::{Decay, Pending, Token, exp, exp_one, finish, read, write};
use super::{Delta, Forward, Inputs};
use crate::gla::{GateKind, state_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Value lanes of a task.
const LANES: usize = 64;

/// Vectors of lanes that pass together: as many as the registers hold sums for.
const fn vectors<S: Simd>() -> usize {
    if S::LANES == 16 { 4 } else { 2 }
}

/// Elements of scratch of a task: its lanes of the state and a row of decays.
pub(super) fn scratch_elements(delta: &Delta) -> usize {
    delta.key_width * (LANES + 1)
}

pub(super) fn forward<T: Real>(pool: &Pool, delta: &Delta, f: &Forward<T>) {
    let groups = delta.value_width.div_ceil(LANES);
    let tasks = f.x.sequences * f.x.heads * groups;
    pool.run(tasks, |task, worker| T::dispatch(ForwardTask { f, groups, task, worker }));
}

struct ForwardTask<'a, T> {
    f: &'a Forward<T>,
    groups: usize,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for ForwardTask<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (pair, group) = (self.task / self.groups, self.task % self.groups);
        let (sequence, head) = (pair / self.f.x.heads, pair % self.f.x.heads);
        let end = ((group + 1) * LANES).min(self.f.x.value_width);
        for first in (group * LANES..end).step_by(vectors::<S>() * S::LANES) {
            // SAFETY: tasks are (sequence, head, group of value lanes): what each writes is its own.
            unsafe {
                if vectors::<S>() == 4 {
                    self.sweep::<S, 4>(s, sequence, head, first, end)
                } else {
                    self.sweep::<S, 2>(s, sequence, head, first, end)
                }
            }
        }
    }
}

/// What a token of a head is to a state.
///
/// # Safety
/// The inputs have this token; `row` has K elements.
#[inline(always)]
pub(super) unsafe fn token<'a, S: Simd>(
    s: S,
    x: &Inputs<S::E>,
    t: usize,
    head: usize,
    row: &'a mut [S::E],
) -> Token<'a, S::E> {
    let keys = x.key_width;
    // SAFETY: the caller's.
    unsafe {
        let key_row = |p: *const S::E| std::slice::from_raw_parts(x.key_rows(p, t, 1, head).at, keys);
        let decay = match x.gate {
            GateKind::None => Decay::None,
            GateKind::Head => Decay::All(exp_one(s, *x.g.add(t * x.heads + head))),
            GateKind::Channel => {
                exp(s, std::slice::from_raw_parts(x.gate_rows(x.g, t, 1, head).at, keys), row);
                Decay::Rows(row)
            }
        };
        let (beta, scale) = (*x.beta.add(t * x.heads + head), S::E::of(x.scale));
        Token { q: key_row(x.q), k: key_row(x.k), beta, scale, decay }
    }
}

impl<T: Real> ForwardTask<'_, T> {
    /// The lanes from `first` on, `V` vectors of them, up to `end`.
    ///
    /// # Safety
    /// No other task writes these lanes of this head, or has this worker's scratch.
    #[inline(always)]
    unsafe fn sweep<S: Simd<E = T>, const V: usize>(
        &self,
        s: S,
        sequence: usize,
        head: usize,
        first: usize,
        end: usize,
    ) {
        let (f, x) = (self.f, &self.f.x);
        let (keys, values, stride) = (x.key_width, x.value_width, V * S::LANES);
        let lanes = stride.min(end - first);
        // SAFETY: the worker's scratch has `scratch_elements`, the tensors the stated shapes.
        unsafe {
            let scratch =
                std::slice::from_raw_parts_mut(f.scratch.add(self.worker * f.scratch_elements), f.scratch_elements);
            let (state, decay) = scratch.split_at_mut(keys * LANES);
            let decay = &mut decay[..keys];
            let at = x.state(sequence, head);
            state[..keys * stride].fill(T::ZERO);
            if let Some(initial) = state_of(x.initial_state, at, keys * values) {
                for (to, from) in state.chunks_exact_mut(stride).zip(initial.chunks_exact(values)) {
                    to[..lanes].copy_from_slice(&from[first..first + lanes]);
                }
            }
            let (from, to) = x.range(sequence);
            let mut pending: Option<Pending<'_, T, V, S::V>> = None;
            for t in from..to {
                let token = token(s, x, t, head, decay);
                let value = x.value_rows(x.v, t, 1, head).at.add(first);
                let v = std::array::from_fn(|j| super::lanes::load::<S, false>(s, value, j, lanes));
                let reads = read::<S, V, true>(s, state.as_mut_ptr(), stride, lanes, &token, pending.as_ref());
                if pending.is_none() {
                    // The first token: nothing has decayed the state yet.
                    write::<S, V, true>(s, state.as_mut_ptr(), stride, lanes, token.k, token.decay, [s.zero(); V]);
                }
                let [u, o] = finish(s, &token, reads, v);
                let out = x.value_rows(f.o, t, 1, head).at.add(first);
                (0..V).for_each(|j| super::lanes::store::<S, false>(s, o[j], out, j, lanes));
                let k = std::slice::from_raw_parts(x.key_rows(x.k, t, 1, head).at, keys);
                pending = Some(Pending { k, u });
            }
            if let Some(last) = pending {
                write::<S, V, true>(s, state.as_mut_ptr(), stride, lanes, last.k, Decay::None, last.u);
            }
            for (row, from) in state.chunks_exact(stride).take(keys).enumerate() {
                let to = f.final_state.add(at + row * values + first);
                std::slice::from_raw_parts_mut(to, lanes).copy_from_slice(&from[..lanes]);
            }
        }
    }
}
