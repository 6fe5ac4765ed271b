//! The definition, token by token in plain loops, with gradients by its own recurrence: the oracle.

use super::{Delta, DeltaInputs, Gate};
use crate::Real;

/// exp(g) of a token, head and key channel.
fn decay<T: Real>(delta: &Delta, g: Gate<'_, T>, token: usize, head: usize, channel: usize) -> T {
    match g {
        Gate::None => T::ONE,
        Gate::Head(g) => g[token * delta.heads + head].exp(),
        Gate::Channel(g) => g[(token * delta.heads + head) * delta.key_width + channel].exp(),
    }
}

/// One token on a head's state [K, V]: decay it, move what it holds under k towards v, and give back what was missing,
/// w = v − (decayed S)ᵀ k.
fn update<T: Real>(delta: &Delta, x: &DeltaInputs<'_, T>, t: usize, h: usize, state: &mut [T]) -> Vec<T> {
    let (kw, vw) = (delta.key_width, delta.value_width);
    let k = &x.k[(t * delta.key_heads + h / (delta.heads / delta.key_heads)) * kw..][..kw];
    let mut w = x.v[(t * delta.heads + h) * vw..][..vw].to_vec();
    for c in 0..kw {
        let a = decay(delta, x.g, t, h, c);
        for j in 0..vw {
            state[c * vw + j] *= a;
            w[j] -= k[c] * state[c * vw + j];
        }
    }
    let beta = x.beta[t * delta.heads + h];
    for c in 0..kw {
        for j in 0..vw {
            state[c * vw + j] += k[c] * beta * w[j];
        }
    }
    w
}

/// o and the final states; see [`delta_forward`](super::delta_forward).
pub fn forward<T: Real>(delta: &Delta, x: &DeltaInputs<'_, T>, o: &mut [T], final_state: &mut [T]) {
    let (kw, vw) = (delta.key_width, delta.value_width);
    match x.initial_state {
        Some(s) => final_state.copy_from_slice(s),
        None => final_state.fill(T::ZERO),
    }
    for b in 0..x.cu_seqlens.len() - 1 {
        for h in 0..delta.heads {
            let state = &mut final_state[(b * delta.heads + h) * kw * vw..][..kw * vw];
            for t in x.cu_seqlens[b] as usize..x.cu_seqlens[b + 1] as usize {
                update(delta, x, t, h, state);
                let q = &x.q[(t * delta.key_heads + h / (delta.heads / delta.key_heads)) * kw..][..kw];
                let o = &mut o[(t * delta.heads + h) * vw..][..vw];
                o.fill(T::ZERO);
                for c in 0..kw {
                    for j in 0..vw {
                        o[j] += q[c] * T::of(delta.scale) * state[c * vw + j];
                    }
                }
            }
        }
    }
}

/// Gradients of all inputs.
pub struct Gradients<T> {
    /// [N, Hk, K].
    pub q: Vec<T>,
    /// [N, Hk, K].
    pub k: Vec<T>,
    /// [N, H, V].
    pub v: Vec<T>,
    /// [N, H].
    pub beta: Vec<T>,
    /// As the gates.
    pub g: Vec<T>,
    /// [B, H, K, V].
    pub initial_state: Vec<T>,
}

/// All gradients; the gate's by its definition exp(g) ∂/∂exp(g), with every state kept.
pub fn backward<T: Real>(
    delta: &Delta,
    x: &DeltaInputs<'_, T>,
    d_o: &[T],
    d_final_state: Option<&[T]>,
) -> Gradients<T> {
    let (kw, vw) = (delta.key_width, delta.value_width);
    let zeros = |n| vec![T::ZERO; n];
    let mut r = Gradients {
        q: zeros(x.q.len()),
        k: zeros(x.k.len()),
        v: zeros(x.v.len()),
        beta: zeros(x.beta.len()),
        g: zeros(x.g.values().len()),
        initial_state: zeros((x.cu_seqlens.len() - 1) * delta.heads * kw * vw),
    };
    for b in 0..x.cu_seqlens.len() - 1 {
        let tokens = x.cu_seqlens[b] as usize..x.cu_seqlens[b + 1] as usize;
        for h in 0..delta.heads {
            let at = (b * delta.heads + h) * kw * vw;
            let mut states = vec![x.initial_state.map_or(zeros(kw * vw), |s| s[at..at + kw * vw].to_vec())];
            let mut missing = vec![];
            for t in tokens.clone() {
                let mut state = states[states.len() - 1].clone();
                missing.push(update(delta, x, t, h, &mut state));
                states.push(state);
            }
            let mut ds = d_final_state.map_or(zeros(kw * vw), |s| s[at..at + kw * vw].to_vec());
            for t in tokens.clone().rev() {
                let (before, after) = (&states[t - tokens.start], &states[t - tokens.start + 1]);
                let (w, beta) = (&missing[t - tokens.start], x.beta[t * delta.heads + h]);
                let row = (t * delta.key_heads + h / (delta.heads / delta.key_heads)) * kw;
                let d_o = &d_o[(t * delta.heads + h) * vw..][..vw];
                // Of β w, which k is the other factor of.
                let mut du = zeros(vw);
                for c in 0..kw {
                    for j in 0..vw {
                        ds[c * vw + j] += x.q[row + c] * T::of(delta.scale) * d_o[j];
                        r.q[row + c] += after[c * vw + j] * T::of(delta.scale) * d_o[j];
                        r.k[row + c] += ds[c * vw + j] * beta * w[j];
                        du[j] += ds[c * vw + j] * x.k[row + c];
                    }
                }
                for j in 0..vw {
                    r.beta[t * delta.heads + h] += du[j] * w[j];
                    r.v[(t * delta.heads + h) * vw + j] = beta * du[j];
                }
                for c in 0..kw {
                    let a = decay(delta, x.g, t, h, c);
                    let mut d_decay = T::ZERO;
                    for j in 0..vw {
                        r.k[row + c] -= a * before[c * vw + j] * beta * du[j];
                        let d = ds[c * vw + j] - x.k[row + c] * beta * du[j];
                        d_decay += d * before[c * vw + j];
                        ds[c * vw + j] = d * a;
                    }
                    match x.g {
                        Gate::None => {}
                        Gate::Head(_) => r.g[t * delta.heads + h] += a * d_decay,
                        Gate::Channel(_) => r.g[(t * delta.heads + h) * kw + c] += a * d_decay,
                    }
                }
            }
            r.initial_state[at..at + kw * vw].copy_from_slice(&ds);
        }
    }
    r
}
