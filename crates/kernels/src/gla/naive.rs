//! The definition, token by token in plain loops, with gradients by its own recurrences: the oracle.

use super::{Gate, Gla};
use crate::Real;

/// exp(g) of a token, key head and key channel.
fn decay<T: Real>(gla: &Gla, g: Gate<'_, T>, token: usize, kv_head: usize, channel: usize) -> T {
    match g {
        Gate::None => T::ONE,
        Gate::Head(g) => g[token * gla.kv_heads + kv_head].exp(),
        Gate::Channel(g) => g[(token * gla.kv_heads + kv_head) * gla.key_width + channel].exp(),
    }
}

/// o and the final states; see [`gla_forward`](super::gla_forward).
pub fn forward<T: Real>(
    gla: &Gla,
    q: &[T],
    k: &[T],
    v: &[T],
    g: Gate<'_, T>,
    cu: &[i32],
    initial_state: Option<&[T]>,
    o: &mut [T],
    final_state: &mut [T],
) {
    let (kw, vw) = (gla.key_width, gla.value_width);
    match initial_state {
        Some(s) => final_state.copy_from_slice(s),
        None => final_state.fill(T::ZERO),
    }
    for b in 0..cu.len() - 1 {
        for h in 0..gla.heads {
            let kh = h / (gla.heads / gla.kv_heads);
            let state = &mut final_state[(b * gla.heads + h) * kw * vw..][..kw * vw];
            for t in cu[b] as usize..cu[b + 1] as usize {
                let q = &q[(t * gla.heads + h) * kw..][..kw];
                let k = &k[(t * gla.kv_heads + kh) * kw..][..kw];
                let v = &v[(t * gla.kv_heads + kh) * vw..][..vw];
                let o = &mut o[(t * gla.heads + h) * vw..][..vw];
                o.fill(T::ZERO);
                for c in 0..kw {
                    let a = decay(gla, g, t, kh, c);
                    for j in 0..vw {
                        let s = &mut state[c * vw + j];
                        *s = *s * a + k[c] * v[j];
                        o[j] += q[c] * T::of(gla.scale) * *s;
                    }
                }
            }
        }
    }
}

/// Gradients of all inputs.
pub struct Gradients<T> {
    /// [N, H, K].
    pub dq: Vec<T>,
    /// [N, Hk, K].
    pub dk: Vec<T>,
    /// [N, Hk, V].
    pub dv: Vec<T>,
    /// As the gates.
    pub dg: Vec<T>,
    /// [B, H, K, V].
    pub d_initial_state: Vec<T>,
}

/// All gradients; the gate's by its definition exp(g) ∂/∂exp(g), with every state kept.
pub fn backward<T: Real>(
    gla: &Gla,
    q: &[T],
    k: &[T],
    v: &[T],
    g: Gate<'_, T>,
    cu: &[i32],
    initial_state: Option<&[T]>,
    d_o: &[T],
    d_final_state: Option<&[T]>,
) -> Gradients<T> {
    let (kw, vw) = (gla.key_width, gla.value_width);
    let zeros = |n| vec![T::ZERO; n];
    let mut r = Gradients {
        dq: zeros(q.len()),
        dk: zeros(k.len()),
        dv: zeros(v.len()),
        dg: zeros(g.values().len()),
        d_initial_state: zeros((cu.len() - 1) * gla.heads * kw * vw),
    };
    for b in 0..cu.len() - 1 {
        let tokens = cu[b] as usize..cu[b + 1] as usize;
        for h in 0..gla.heads {
            let kh = h / (gla.heads / gla.kv_heads);
            let at = (b * gla.heads + h) * kw * vw;
            let mut states = vec![initial_state.map_or(zeros(kw * vw), |s| s[at..at + kw * vw].to_vec())];
            for t in tokens.clone() {
                let mut state = states[states.len() - 1].clone();
                for c in 0..kw {
                    let a = decay(gla, g, t, kh, c);
                    for j in 0..vw {
                        let s = &mut state[c * vw + j];
                        *s = *s * a + k[(t * gla.kv_heads + kh) * kw + c] * v[(t * gla.kv_heads + kh) * vw + j];
                    }
                }
                states.push(state);
            }
            let mut ds = d_final_state.map_or(zeros(kw * vw), |s| s[at..at + kw * vw].to_vec());
            for t in tokens.clone().rev() {
                let (before, state) = (&states[t - tokens.start], &states[t - tokens.start + 1]);
                let (row_q, row_k, row_v) =
                    ((t * gla.heads + h) * kw, (t * gla.kv_heads + kh) * kw, { (t * gla.kv_heads + kh) * vw });
                for c in 0..kw {
                    let a = decay(gla, g, t, kh, c);
                    let mut d_decay = T::ZERO;
                    for j in 0..vw {
                        let d_o = d_o[(t * gla.heads + h) * vw + j] * T::of(gla.scale);
                        let d = &mut ds[c * vw + j];
                        *d += q[row_q + c] * d_o;
                        r.dq[row_q + c] += state[c * vw + j] * d_o;
                        r.dk[row_k + c] += *d * v[row_v + j];
                        r.dv[row_v + j] += *d * k[row_k + c];
                        d_decay += *d * before[c * vw + j];
                        *d *= a;
                    }
                    match g {
                        Gate::None => {}
                        Gate::Head(_) => r.dg[t * gla.kv_heads + kh] += a * d_decay,
                        Gate::Channel(_) => r.dg[row_k + c] += a * d_decay,
                    }
                }
            }
            r.d_initial_state[at..at + kw * vw].copy_from_slice(&ds);
        }
    }
    r
}
