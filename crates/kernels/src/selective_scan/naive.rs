//! The definition, channel by channel in plain loops: the oracle.

use super::SelectiveScanInputs;
use crate::Real;

/// y and the final states [B, S, D]; see [`selective_scan`](super::selective_scan).
pub fn forward<T: Real>(
    x: &SelectiveScanInputs<'_, T>,
    cu_seqlens: &[i32],
    initial_state: Option<&[T]>,
    y: &mut [T],
    final_state: &mut [T],
) {
    let (channels, states) = (x.skip.len(), x.a.len() / x.skip.len());
    for (b, sequence) in cu_seqlens.windows(2).enumerate() {
        for d in 0..channels {
            let at = |n: usize| (b * states + n) * channels + d;
            let mut h: Vec<T> = (0..states).map(|n| initial_state.map_or(T::ZERO, |s| s[at(n)])).collect();
            for t in sequence[0] as usize..sequence[1] as usize {
                let (value, delta) = (x.x[t * channels + d], x.delta[t * channels + d]);
                let mut sum = x.skip[d] * value;
                for (n, h) in h.iter_mut().enumerate() {
                    *h = (delta * x.a[d * states + n]).exp() * *h + delta * value * x.b[t * states + n];
                    sum += x.c[t * states + n] * *h;
                }
                y[t * channels + d] = sum;
            }
            (0..states).for_each(|n| final_state[at(n)] = h[n]);
        }
    }
}
