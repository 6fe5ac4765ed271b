//! One token for each of many sequences: decay, read, overwrite and output, a block of lanes at a time.

use super::check::MOST_KEYS;
use super::lanes::{finish, load, read, store, write};
use super::recurrent::token;
use super::{Delta, DeltaInputs, Gate, Inputs};
use crate::simd::{Kernel, Simd};
use crate::slots::{expect_slots, split};
use crate::{Pool, Real};

struct Step<'a, T> {
    x: Inputs<T>,
    slots: &'a [i32],
    state: *mut T,
    o: *mut T,
}

// SAFETY: the pointers come from slices that outlive the call; tasks write disjoint parts.
unsafe impl<T: Sync> Sync for Step<'_, T> {}

/// Decodes one token for each row: updates the row's state and writes its output.
///
/// q and k [N, Hk, K]; v [N, H, V]; β and gates of N tokens; `slots` `[N]`: which state of
/// [slots, H, K, V] a row updates. Rows that name the same slot are done in order. Bit for bit what
/// the recurrent form gives for the same token.
///
/// # Panics
/// If a shape is wrong or a slot is outside `state`.
pub fn delta_step<T: Real>(
    pool: &Pool,
    delta: &Delta,
    q: &[T],
    k: &[T],
    v: &[T],
    beta: &[T],
    g: Gate<'_, T>,
    slots: &[i32],
    state: &mut [T],
    o: &mut [T],
) {
    let (rows, heads, elements) = (slots.len(), delta.heads, delta.state_elements(1));
    let x = delta.inputs(&DeltaInputs { q, k, v, beta, g, cu_seqlens: &[0, rows as i32], initial_state: None });
    assert_eq!(o.len(), v.len(), "delta_step: o is [N, H, V]");
    expect_slots("delta_step", slots, state.len(), elements);
    let step = Step { x, slots, state: state.as_mut_ptr(), o: o.as_mut_ptr() };
    split(pool, slots, heads, rows * elements, |rows, heads| T::dispatch(Rows { step: &step, rows, heads }));
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
        let width = self.step.x.value_width;
        for row in self.rows {
            for head in self.heads.clone() {
                let mut first = 0;
                while first < width {
                    // SAFETY: the shapes were checked; (row, head) is this task's own.
                    first += unsafe {
                        match (width - first) / S::LANES {
                            4.. => self.step.lanes::<S, 4, true>(s, row, head, first),
                            2 | 3 => self.step.lanes::<S, 2, true>(s, row, head, first),
                            1 => self.step.lanes::<S, 1, true>(s, row, head, first),
                            0 => self.step.lanes::<S, 1, false>(s, row, head, first),
                        }
                    };
                }
            }
        }
    }
}

impl<T: Real> Step<'_, T> {
    /// The value lanes from `first` on, at most `V` vectors of them; how many there were.
    ///
    /// # Safety
    /// Nothing else touches this row's state and output of this head.
    #[inline(always)]
    unsafe fn lanes<S: Simd<E = T>, const V: usize, const WHOLE: bool>(
        &self,
        s: S,
        row: usize,
        head: usize,
        first: usize,
    ) -> usize {
        let (x, width) = (&self.x, self.x.value_width);
        let lanes = (V * S::LANES).min(width - first);
        let mut decays = [T::ZERO; MOST_KEYS];
        // SAFETY: the shapes were checked at the call; the rest is the caller's.
        unsafe {
            let token = token(s, x, row, head, &mut decays[..x.key_width]);
            let state = self.state.add(x.state(self.slots[row] as usize, head) + first);
            let value = x.value_rows(x.v, row, 1, head).at.add(first);
            let out = x.value_rows(self.o, row, 1, head).at.add(first);
            let v = std::array::from_fn(|j| load::<S, WHOLE>(s, value, j, lanes));
            let reads = read::<S, V, WHOLE>(s, state, width, lanes, &token, None);
            let [u, o] = finish(s, &token, reads, v);
            write::<S, V, WHOLE>(s, state, width, lanes, token.k, token.decay, u);
            (0..V).for_each(|j| store::<S, WHOLE>(s, o[j], out, j, lanes));
        }
        lanes
    }
}
