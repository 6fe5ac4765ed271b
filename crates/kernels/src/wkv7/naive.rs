//! The definition, token by token in plain loops with the transition as a whole matrix: the oracle.

use super::{Wkv7, Wkv7Inputs};
use crate::Real;

/// diag(exp(g)) + b aᵀ of a token's head, [K, K].
fn transition<T: Real>(wkv: &Wkv7, x: &Wkv7Inputs<'_, T>, i: usize) -> Vec<T> {
    let keys = wkv.key_width;
    let at = i * keys;
    let element = |c: usize, d: usize| {
        let kept = if c == d { x.log_decay[at + c].exp() } else { T::ZERO };
        kept + x.b[at + c] * x.a[at + d]
    };
    (0..keys * keys).map(|e| element(e / keys, e % keys)).collect()
}

/// o and the final states; see [`wkv7_forward`](super::wkv7_forward).
pub fn forward<T: Real>(wkv: &Wkv7, x: &Wkv7Inputs<'_, T>, o: &mut [T], final_state: &mut [T]) {
    let (heads, keys, values) = (wkv.heads, wkv.key_width, wkv.value_width);
    match x.initial_state {
        Some(s) => final_state.copy_from_slice(s),
        None => final_state.fill(T::ZERO),
    }
    for (b, sequence) in x.cu_seqlens.windows(2).enumerate() {
        for (t, h) in (sequence[0] as usize..sequence[1] as usize).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let i = t * heads + h;
            let state = &mut final_state[(b * heads + h) * keys * values..][..keys * values];
            let (by, before) = (transition(wkv, x, i), state.to_vec());
            for (c, j) in (0..keys).flat_map(|c| (0..values).map(move |j| (c, j))) {
                let mut sum = x.k[i * keys + c] * x.v[i * values + j];
                (0..keys).for_each(|d| sum += by[c * keys + d] * before[d * values + j]);
                state[c * values + j] = sum;
            }
            for j in 0..values {
                let mut sum = T::ZERO;
                (0..keys).for_each(|c| sum += x.r[i * keys + c] * state[c * values + j]);
                o[i * values + j] = sum;
            }
        }
    }
}
