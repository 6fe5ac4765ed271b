//! One token for each of many sequences.

use super::recurrent::token;
use super::{Inputs, Ridge, RidgeInputs};
use crate::simd::{Kernel, Simd};
use crate::slots::{expect_slots, split};
use crate::{Pool, Real};

struct Step<'a, T> {
    ridge: &'a Ridge,
    x: Inputs<T>,
    slots: &'a [i32],
    state: *mut T,
    out: *mut T,
}

// SAFETY: the pointers come from slices that outlive the call; tasks write disjoint parts.
unsafe impl<T: Sync> Sync for Step<'_, T> {}

/// Decodes one token for each row: updates the row's state H and solves for its query.
///
/// q, k and x [N, H, D]; log-gates [N, H] or none; `slots` `[N]`: which state of [slots, H, D, D] a row
/// updates. Rows that name the same slot are done in order. Bit for bit what the recurrent form gives
/// for the same token.
///
/// # Panics
/// If a shape is wrong or a slot is outside `state`.
pub fn ridge_step<T: Real>(
    pool: &Pool,
    ridge: &Ridge,
    q: &[T],
    k: &[T],
    g: Option<&[T]>,
    slots: &[i32],
    state: &mut [T],
    out: &mut [T],
) {
    let (rows, heads, elements) = (slots.len(), ridge.heads, ridge.state_elements(1));
    let x = ridge.inputs(&RidgeInputs { q, k, g, cu_seqlens: &[0, rows as i32], initial_state: None });
    assert_eq!(out.len(), q.len(), "ridge_step: x is [N, H, D]");
    expect_slots("ridge_step", slots, state.len(), elements);
    let step = Step { ridge, x, slots, state: state.as_mut_ptr(), out: out.as_mut_ptr() };
    let work = rows * elements * (ridge.num_iter + 1);
    split(pool, slots, heads, work, |rows, heads| T::dispatch(Rows { step: &step, rows, heads }));
}

struct Rows<'a, T> {
    step: &'a Step<'a, T>,
    rows: std::ops::Range<usize>,
    heads: std::ops::Range<usize>,
}

impl<T: Real> Kernel<T> for Rows<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Step { ridge, ref x, slots, state, out } = *self.step;
        let width = x.width;
        for t in self.rows {
            for head in self.heads.clone() {
                // SAFETY: the shapes were checked at the call; (row, head) is this task's own.
                unsafe {
                    let row = |p: *const T| std::slice::from_raw_parts(x.rows(p, t, 1, head).at, width);
                    let gate = (!x.g.is_null()).then(|| *x.g.add(t * x.heads + head));
                    let at = x.state(slots[t] as usize, head);
                    let state = std::slice::from_raw_parts_mut(state.add(at), width * width);
                    let out = std::slice::from_raw_parts_mut(x.rows(out, t, 1, head).at, width);
                    token(s, ridge, row(x.q), row(x.k), gate, state, out);
                }
            }
        }
    }
}
