//! The forward sweep and the step: per token one pass that reads x = aᵀ S, and one that writes S and reads o.

use super::{MOST_KEYS, Wkv7, Wkv7Inputs};
use crate::disjoint::Disjoint;
use crate::simd::{Kernel, Simd};
use crate::wkv6::lanes::{self, Lanes, Rows, Sweep, decays};
use crate::{Pool, Real};

pub(super) fn sweep<T: Real>(
    pool: &Pool,
    wkv: &Wkv7,
    x: &Wkv7Inputs<'_, T>,
    rows: Rows<'_>,
    states: &mut [T],
    o: &mut [T],
) {
    let sweep = Sweep { heads: wkv.heads, keys: wkv.key_width, values: wkv.value_width, rows };
    let (states, o) = (Disjoint::new(states), Disjoint::new(o));
    sweep.run(pool, |lanes| T::dispatch(Recurrent { wkv, x, lanes, states, o }));
}

/// Some value lanes of a head over some rows.
struct Recurrent<'a, T> {
    wkv: &'a Wkv7,
    x: &'a Wkv7Inputs<'a, T>,
    lanes: Lanes<'a>,
    states: Disjoint<'a, T>,
    o: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Recurrent<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let lanes = &self.lanes;
        let mut decay = [T::ZERO; MOST_KEYS];
        for row in lanes.rows.clone() {
            decays(s, &self.x.log_decay[lanes.keys(row, self.wkv.key_width)], &mut decay);
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
        let n = keys.len();
        let [r, k, a, b] = [x.r, x.k, x.a, x.b].map(|tensor| &tensor[keys.clone()]);
        let decay = &decay[..n];
        let at = (row * self.wkv.heads + lanes.head) * width + first;
        // SAFETY: the caller's.
        unsafe {
            let state = self.states.as_mut_ptr().add(lanes.state(row, n, width) + first);
            let v: [S::V; V] = std::array::from_fn(|j| lanes::load::<S, WHOLE>(s, x.v.as_ptr().add(at), j, count));
            let (mut held, mut o) = ([s.zero(); V], [s.zero(); V]);
            for c in 0..n {
                let (a, row) = (s.splat(a[c]), state.add(c * width));
                for (j, held) in held.iter_mut().enumerate() {
                    *held = s.fma(a, lanes::load::<S, WHOLE>(s, row, j, count), *held);
                }
            }
            for c in 0..n {
                let [r, k, b, decay] = [r[c], k[c], b[c], decay[c]].map(|x| s.splat(x));
                let row = state.add(c * width);
                for j in 0..V {
                    let kept = decay * lanes::load::<S, WHOLE>(s, row, j, count);
                    let new = s.fma(k, v[j], s.fma(b, held[j], kept));
                    o[j] = s.fma(r, new, o[j]);
                    lanes::store::<S, WHOLE>(s, new, row, j, count);
                }
            }
            (0..V).for_each(|j| lanes::store::<S, WHOLE>(s, o[j], self.o.as_mut_ptr().add(at), j, count));
        }
        count
    }
}
