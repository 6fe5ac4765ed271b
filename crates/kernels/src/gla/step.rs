//! One token for each of many sequences: decay, outer product and read in one pass over the state.

use super::{Gate, GateKind, Gla};
use crate::simd::{Kernel, Simd};
use crate::slots::{expect_slots, split};
use crate::{Pool, Real};

/// Vectors of output held in registers: value widths beyond are done in several passes.
const VECTORS: usize = 8;
/// Key channels whose decays are held at a time.
const CHANNELS: usize = 16;

struct Step<'a, T> {
    gla: &'a Gla,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    g: Gate<'a, T>,
    slots: &'a [i32],
    state: *mut T,
    o: *mut T,
}

// SAFETY: the pointers come from slices that outlive the call; tasks write disjoint parts.
unsafe impl<T: Sync> Sync for Step<'_, T> {}

/// Decodes one token for each row: updates the row's state and writes its output.
///
/// q [N, H, K]; k [N, Hk, K]; v [N, Hk, V]; gates of N tokens; `slots` `[N]`: which state of
/// [slots, H, K, V] a row updates. Rows that name the same slot are done in order. Bit for bit what
/// the recurrent form gives for the same token.
///
/// # Panics
/// If a shape is wrong or a slot is outside `state`.
pub fn gla_step<T: Real>(
    pool: &Pool,
    gla: &Gla,
    q: &[T],
    k: &[T],
    v: &[T],
    g: Gate<'_, T>,
    slots: &[i32],
    state: &mut [T],
    o: &mut [T],
) {
    let rows = slots.len();
    if let Err(error) = gla.check_shapes(q, k, v, g, &[0, rows as i32], None) {
        panic!("gla_step: {error}");
    }
    let elements = gla.state_elements(1);
    assert_eq!(o.len(), rows * gla.heads * gla.value_width, "gla_step: o is [N, H, V]");
    expect_slots("gla_step", slots, state.len(), elements);
    let step = Step { gla, q, k, v, g, slots, state: state.as_mut_ptr(), o: o.as_mut_ptr() };
    split(pool, slots, gla.heads, rows * elements, |rows, heads| T::dispatch(Rows { step: &step, rows, heads }));
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
        for row in self.rows {
            for head in self.heads.clone() {
                let pass = VECTORS * S::LANES;
                let width = self.step.gla.value_width;
                for first in (0..width).step_by(pass) {
                    // SAFETY: the shapes were checked; (row, head) is this task's own.
                    unsafe {
                        match (width - first).min(pass).div_ceil(S::LANES) {
                            1 => self.step.values::<S, 1>(s, row, head, first),
                            2 => self.step.values::<S, 2>(s, row, head, first),
                            3 | 4 => self.step.values::<S, 4>(s, row, head, first),
                            _ => self.step.values::<S, VECTORS>(s, row, head, first),
                        }
                    }
                }
            }
        }
    }
}

impl<T: Real> Step<'_, T> {
    /// The value lanes from `first` on, `V` vectors of them at most.
    ///
    /// # Safety
    /// Nothing else touches this row's state and output of this head.
    #[inline(always)]
    unsafe fn values<S: Simd<E = T>, const V: usize>(&self, s: S, row: usize, head: usize, first: usize) {
        let (keys, width) = (self.gla.key_width, self.gla.value_width);
        let kv_head = head / (self.gla.heads / self.gla.kv_heads);
        let lanes = (width - first).min(V * S::LANES);
        let q = &self.q[(row * self.gla.heads + head) * keys..][..keys];
        let k = &self.k[(row * self.gla.kv_heads + kv_head) * keys..][..keys];
        let v = &self.v[(row * self.gla.kv_heads + kv_head) * width + first..][..lanes];
        let scale = s.splat(T::of(self.gla.scale));
        let slot = (self.slots[row] as usize * self.gla.heads + head) * keys * width + first;
        // Vectors that lie wholly inside, then one that may be cut.
        let part = |i: usize| (i * S::LANES).min(lanes)..((i + 1) * S::LANES).min(lanes);
        let v: [S::V; V] = std::array::from_fn(|i| s.load_any(&v[part(i)]));
        let mut sum = [s.zero(); V];
        let mut decays = [T::ONE; CHANNELS];
        let mut queries = [T::ZERO; CHANNELS];
        for channels in (0..keys).step_by(CHANNELS) {
            let n = CHANNELS.min(keys - channels);
            for i in (0..n).step_by(S::LANES) {
                let inside = i..(i + S::LANES).min(n);
                let at = channels + inside.start..channels + inside.end;
                s.store_any(s.load_any(&q[at.clone()]) * scale, &mut queries[inside.clone()]);
                match self.g {
                    Gate::None => {}
                    Gate::Head(g) => {
                        let g = s.splat(g[row * self.gla.kv_heads + kv_head]);
                        s.store_any(s.exp(g), &mut decays[inside]);
                    }
                    Gate::Channel(g) => {
                        let g = &g[(row * self.gla.kv_heads + kv_head) * keys..][..keys];
                        s.store_any(s.exp(s.load_any(&g[at])), &mut decays[inside]);
                    }
                }
            }
            for i in 0..n {
                let (a, x, z) = (s.splat(decays[i]), s.splat(k[channels + i]), s.splat(queries[i]));
                // SAFETY: row `channels + i` of this head's state, from `first` on, has `lanes` elements there.
                let state =
                    unsafe { std::slice::from_raw_parts_mut(self.state.add(slot + (channels + i) * width), lanes) };
                for j in 0..V {
                    let mut element = s.load_any(&state[part(j)]);
                    if self.g.kind() != GateKind::None {
                        element = element * a;
                    }
                    element = s.fma(x, v[j], element);
                    sum[j] = s.fma(z, element, sum[j]);
                    s.store_any(element, &mut state[part(j)]);
                }
            }
        }
        // SAFETY: this row's output of this head.
        let o =
            unsafe { std::slice::from_raw_parts_mut(self.o.add((row * self.gla.heads + head) * width + first), lanes) };
        for (j, sum) in sum.into_iter().enumerate() {
            s.store_any(sum, &mut o[part(j)]);
        }
    }
}
