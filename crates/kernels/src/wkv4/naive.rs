//! The definition as sums over all tokens before, for moderate k: the oracle.

use super::Wkv4Inputs;
use crate::Real;

/// y; each token's sums anew, without running exponents.
pub fn forward<T: Real>(x: &Wkv4Inputs<'_, T>, cu_seqlens: &[i32], y: &mut [T]) {
    let d = x.log_decay.len();
    for sequence in cu_seqlens.windows(2) {
        let first = sequence[0] as usize;
        for t in first..sequence[1] as usize {
            for c in 0..d {
                let own = (x.bonus[c] + x.k[t * d + c]).exp();
                let (mut above, mut below) = (own * x.v[t * d + c], own);
                for s in first..t {
                    let weight = (T::of((t - 1 - s) as f64) * x.log_decay[c] + x.k[s * d + c]).exp();
                    above += weight * x.v[s * d + c];
                    below += weight;
                }
                y[t * d + c] = above / below;
            }
        }
    }
}
