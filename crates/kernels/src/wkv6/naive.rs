//! The definition, token by token in plain loops, with gradients by its own recurrence: the oracle.

use super::{Wkv6, Wkv6Inputs};
use crate::Real;

/// o and the final states; see [`wkv6_forward`](super::wkv6_forward).
pub fn forward<T: Real>(wkv: &Wkv6, x: &Wkv6Inputs<'_, T>, o: &mut [T], final_state: &mut [T]) {
    let (heads, keys, values) = (wkv.heads, wkv.key_width, wkv.value_width);
    match x.initial_state {
        Some(s) => final_state.copy_from_slice(s),
        None => final_state.fill(T::ZERO),
    }
    for (b, sequence) in x.cu_seqlens.windows(2).enumerate() {
        for (t, h) in (sequence[0] as usize..sequence[1] as usize).flat_map(|t| (0..heads).map(move |h| (t, h))) {
            let i = t * heads + h;
            for j in 0..values {
                let mut sum = T::ZERO;
                for c in 0..keys {
                    let state = &mut final_state[((b * heads + h) * keys + c) * values + j];
                    let new = x.k[i * keys + c] * x.v[i * values + j];
                    sum += x.r[i * keys + c] * (*state + x.bonus[h * keys + c] * new);
                    *state = x.log_decay[i * keys + c].exp() * *state + new;
                }
                o[i * values + j] = sum;
            }
        }
    }
}

/// Gradients of all inputs.
pub struct Gradients<T> {
    /// [N, H, K].
    pub r: Vec<T>,
    /// [N, H, K].
    pub k: Vec<T>,
    /// [N, H, V].
    pub v: Vec<T>,
    /// [N, H, K].
    pub log_decay: Vec<T>,
    /// [H, K].
    pub bonus: Vec<T>,
    /// [B, H, K, V].
    pub initial_state: Vec<T>,
}

/// All gradients; the log-decay's by its definition exp(g) ∂/∂exp(g), with every state kept.
pub fn backward<T: Real>(wkv: &Wkv6, x: &Wkv6Inputs<'_, T>, d_o: &[T]) -> Gradients<T> {
    let (heads, keys, values) = (wkv.heads, wkv.key_width, wkv.value_width);
    let zeros = |n| vec![T::ZERO; n];
    let mut d = Gradients {
        r: zeros(x.r.len()),
        k: zeros(x.k.len()),
        v: zeros(x.v.len()),
        log_decay: zeros(x.log_decay.len()),
        bonus: zeros(x.bonus.len()),
        initial_state: zeros(wkv.state_elements(x.cu_seqlens.len() - 1)),
    };
    for (b, sequence) in x.cu_seqlens.windows(2).enumerate() {
        let tokens = sequence[0] as usize..sequence[1] as usize;
        for (h, c, j) in (0..heads).flat_map(|h| (0..keys).flat_map(move |c| (0..values).map(move |j| (h, c, j)))) {
            // One element of a state after another: nothing mixes them.
            let at = ((b * heads + h) * keys + c) * values + j;
            let mut states = vec![x.initial_state.map_or(T::ZERO, |s| s[at])];
            let of = |t: usize| ((t * heads + h) * keys + c, (t * heads + h) * values + j);
            for t in tokens.clone() {
                let (ck, cv) = of(t);
                states.push(x.log_decay[ck].exp() * states[states.len() - 1] + x.k[ck] * x.v[cv]);
            }
            let (u, mut ds) = (x.bonus[h * keys + c], T::ZERO);
            for t in tokens.clone().rev() {
                let (ck, cv) = of(t);
                let (before, new, decay) = (states[t - tokens.start], x.k[ck] * x.v[cv], x.log_decay[ck].exp());
                d.r[ck] += d_o[cv] * (before + u * new);
                d.bonus[h * keys + c] += d_o[cv] * x.r[ck] * new;
                let d_new = ds + d_o[cv] * x.r[ck] * u;
                d.k[ck] += d_new * x.v[cv];
                d.v[cv] += d_new * x.k[ck];
                d.log_decay[ck] += ds * decay * before;
                ds = ds * decay + d_o[cv] * x.r[ck];
            }
            d.initial_state[at] = ds;
        }
    }
    d
}
