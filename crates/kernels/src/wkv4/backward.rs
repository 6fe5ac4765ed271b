//! The gradients, from the last token to the first, with a running exponent of their own.
//!
//! With numerator N_t and denominator D_t of y_t, dN_t = dy_t / D_t and dD_t = −y_t dN_t. The gradients
//! A_t, B_t of the two sums after token t obey A_{t−1} = e^w A_t + dN_t, B_{t−1} = e^w B_t + dD_t; both are kept as
//! multiples of e^g, g the running maximum of the terms' exponents. With the sums a e^p, b e^p before t:
//! - dv_t = e^{k_t} A_t + e^{u+k_t} dN_t,
//! - dk_t = e^{k_t} (v_t A_t + B_t) + du_t, du_t = e^{u+k_t} (v_t − y_t) dN_t,
//! - dw = Σ_t e^{w+p} (a A_t + b B_t).
//!
//! All exponents that meet here are at most 0. The states before each token are built in a first pass and kept.

use super::lanes::{Channels, EMPTY, State, VECTORS, load, store};
use super::{LANES, STATE_ROWS, Wkv4Inputs, tokens};
use crate::disjoint::Disjoint;
use crate::gla::{longest, scratch_bytes, workers};
use crate::rows::expect_len;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// Gradients of the inputs, all overwritten.
pub struct Wkv4Gradients<'a, T> {
    /// As the log-decays.
    pub log_decay: &'a mut [T],
    /// As the bonus.
    pub bonus: &'a mut [T],
    /// As k.
    pub k: &'a mut [T],
    /// As v.
    pub v: &'a mut [T],
}

/// Elements of scratch of a thread: the states before each token of a pass.
fn elements(longest: usize) -> usize {
    longest * STATE_ROWS * LANES
}

/// Bytes of scratch for [`wkv4_backward`] on `threads` threads, the longest sequence having `longest` tokens.
pub fn wkv4_backward_scratch<T: Real>(longest: usize, threads: usize) -> usize {
    scratch_bytes::<T>(elements(longest), threads)
}

/// Gradients of all inputs from that of y, for sequences that begin with empty states.
///
/// # Panics
/// If a length does not fit, or scratch is smaller than [`wkv4_backward_scratch`] says.
pub fn wkv4_backward<T: Real>(
    pool: &Pool,
    x: &Wkv4Inputs<'_, T>,
    cu_seqlens: &[i32],
    dy: &[T],
    d: Wkv4Gradients<'_, T>,
    scratch: &mut [u8],
) {
    let width = x.channels();
    x.check(tokens(cu_seqlens));
    for (name, found, wanted) in [
        ("dy", dy.len(), x.v.len()),
        ("dk", d.k.len(), x.k.len()),
        ("dv", d.v.len(), x.v.len()),
        ("d_log_decay", d.log_decay.len(), width),
        ("d_bonus", d.bonus.len(), width),
    ] {
        expect_len(name, found, wanted);
    }
    let per_thread = elements(longest(cu_seqlens));
    let start = workers::<T>(scratch, per_thread, pool.threads());
    // SAFETY: `workers` checked that so many elements follow; they are plain numbers.
    let all = unsafe { std::slice::from_raw_parts_mut(start, per_thread * pool.threads()) };
    let [kept, log_decay, bonus, k, v] = [all, d.log_decay, d.bonus, d.k, d.v].map(Disjoint::new);
    pool.run(width.div_ceil(LANES), |task, worker| {
        let channels = task * LANES..((task + 1) * LANES).min(width);
        // SAFETY: scratch is a worker's own.
        let kept = unsafe { kept.part(worker * per_thread..(worker + 1) * per_thread) };
        T::dispatch(Back { x: *x, cu_seqlens, channels, dy, kept, log_decay, bonus, k, v });
    });
}

/// Some channels of all sequences: their log-decays' gradients are sums over them.
struct Back<'a, T> {
    x: Wkv4Inputs<'a, T>,
    cu_seqlens: &'a [i32],
    channels: Range<usize>,
    dy: &'a [T],
    kept: &'a mut [T],
    log_decay: Disjoint<'a, T>,
    bonus: Disjoint<'a, T>,
    k: Disjoint<'a, T>,
    v: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Back<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Back { x, cu_seqlens, dy, kept, .. } = self;
        let (d, stride) = (x.channels(), VECTORS * S::LANES);
        let zero = [s.zero(); VECTORS];
        for channels in Channels::all::<S>(self.channels.clone()) {
            let [w, u] = [x.log_decay, x.bonus].map(|row| channels.load(s, row, 0));
            let (mut dw, mut du) = (zero, zero);
            for sequence in cu_seqlens.windows(2) {
                let rows = sequence[0] as usize..sequence[1] as usize;
                let mut state = State::<S> { a: zero, b: zero, p: [s.splat(T::of(EMPTY)); VECTORS] };
                for (i, row) in rows.clone().enumerate() {
                    for (part, v) in [state.a, state.b, state.p].into_iter().enumerate() {
                        store(s, v, &mut kept[(i * STATE_ROWS + part) * stride..][..stride]);
                    }
                    let [k, v] = [x.k, x.v].map(|x| channels.load(s, x, row * d));
                    state.advance(s, w, k, v);
                }
                let (mut ga, mut gb, mut g) = (zero, zero, [s.splat(T::of(EMPTY)); VECTORS]);
                for (i, row) in rows.enumerate().rev() {
                    let [a, b, p] = [0, 1, 2].map(|part| load(s, &kept[(i * STATE_ROWS + part) * stride..][..stride]));
                    let state = State::<S> { a, b, p };
                    let [k, v, dy] = [x.k, x.v, dy].map(|x| channels.load(s, x, row * d));
                    let token = state.token(s, u, k);
                    let y = token.mean(v);
                    let (mut dk, mut dv) = (zero, zero);
                    for j in 0..VECTORS {
                        let n = dy[j] / token.sum[j];
                        let own = token.own[j] * n;
                        let later = s.exp(k[j] + g[j]);
                        let bonus = own * (v[j] - y[j]);
                        dv[j] = s.fma(later, ga[j], own);
                        dk[j] = s.fma(later, s.fma(v[j], ga[j], gb[j]), bonus);
                        du[j] = du[j] + bonus;
                        let before = s.exp(w[j] + p[j] + g[j]);
                        dw[j] = s.fma(before, s.fma(a[j], ga[j], b[j] * gb[j]), dw[j]);
                        let (kept, new) = (w[j] + g[j], -token.exponent[j]);
                        let most = s.max(kept, new);
                        let (e1, e2) = (s.exp(kept - most), s.exp(new - most));
                        ga[j] = s.fma(e1, ga[j], e2 * n);
                        gb[j] = s.fma(e1, gb[j], -(e2 * n * y[j]));
                        g[j] = most;
                    }
                    // SAFETY: channels are this task's own.
                    unsafe {
                        store(s, dk, self.k.part(channels.range(row * d)));
                        store(s, dv, self.v.part(channels.range(row * d)));
                    }
                }
            }
            // SAFETY: as above.
            unsafe {
                store(s, dw, self.log_decay.part(channels.range(0)));
                store(s, du, self.bonus.part(channels.range(0)));
            }
        }
    }
}
