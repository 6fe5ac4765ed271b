//! Attention that materializes its scores: the oracle of the tiled form, in any precision.

use super::{Attention, BlockMask, dropout_keeps};
use crate::Real;

/// A call: tensors laid out as in [`attention_forward`](super::attention_forward).
#[derive(Clone, Copy)]
pub struct Inputs<'a, T> {
    /// What kind of attention.
    pub attention: &'a Attention,
    /// `[Nq, H, K]`.
    pub q: &'a [T],
    /// `[Nk, G, K]`.
    pub k: &'a [T],
    /// `[Nk, G, V]`.
    pub v: &'a [T],
    /// Where the queries of each sequence begin, and the end.
    pub cu_seqlens_q: &'a [i32],
    /// Where the keys of each sequence begin, and the end.
    pub cu_seqlens_k: &'a [i32],
    /// One slope a head.
    pub alibi_slopes: Option<&'a [T]>,
    /// Block-sparse mask.
    pub block_mask: Option<&'a BlockMask>,
}

/// One sequence and head: scores after softcap and mask, and the probabilities.
struct Head<T> {
    sequence: usize,
    head: usize,
    first_query: usize,
    first_key: usize,
    n: usize,
    m: usize,
    scores: Vec<T>,
    probabilities: Vec<T>,
    lse: Vec<T>,
}

impl<T: Real> Inputs<'_, T> {
    fn sees(&self, i: usize, j: usize, n: usize, m: usize) -> bool {
        let a = self.attention;
        let (p, j) = (i as i64 + m as i64 - n as i64 - a.lag as i64, j as i64);
        let causal = !a.causal || j <= p;
        let left = a.window.0.is_none_or(|l| j >= p - l as i64);
        let right = a.window.1.is_none_or(|r| j <= p + r as i64);
        causal && left && right && self.block_mask.is_none_or(|mask| mask.shows(i, j as usize))
    }

    fn heads(&self) -> impl Iterator<Item = Head<T>> + '_ {
        let sequences = self.cu_seqlens_q.len() - 1;
        (0..sequences).flat_map(move |b| (0..self.attention.heads).map(move |h| self.head(b, h)))
    }

    fn head(&self, sequence: usize, head: usize) -> Head<T> {
        let a = self.attention;
        let (first_query, first_key) = (self.cu_seqlens_q[sequence] as usize, self.cu_seqlens_k[sequence] as usize);
        let n = self.cu_seqlens_q[sequence + 1] as usize - first_query;
        let m = self.cu_seqlens_k[sequence + 1] as usize - first_key;
        let kv_head = head / a.group();
        let mut scores = vec![T::NEG_INFINITY; n * m];
        let mut probabilities = vec![T::ZERO; n * m];
        let mut lse = vec![T::NEG_INFINITY; n];
        for i in 0..n {
            let q = &self.q[((first_query + i) * a.heads + head) * a.key_width..][..a.key_width];
            let row = &mut scores[i * m..][..m];
            for (j, score) in row.iter_mut().enumerate().filter(|&(j, _)| self.sees(i, j, n, m)) {
                let k = &self.k[((first_key + j) * a.kv_heads + kv_head) * a.key_width..][..a.key_width];
                let dot = q.iter().zip(k).fold(T::ZERO, |sum, (&q, &k)| sum + q * k);
                *score = dot * T::of(a.scale);
                if let Some(c) = a.softcap {
                    *score = (*score / T::of(c)).tanh() * T::of(c);
                }
                if let Some(slopes) = self.alibi_slopes {
                    let distance = (i as i64 + m as i64 - n as i64 - a.lag as i64 - j as i64).unsigned_abs();
                    *score -= slopes[head] * T::of(distance as f64);
                }
            }
            let top = row.iter().fold(T::NEG_INFINITY, |top, &x| if x > top { x } else { top });
            let base = if top == T::NEG_INFINITY { T::ZERO } else { top };
            let p = &mut probabilities[i * m..][..m];
            let mut sum = T::ZERO;
            for (p, &x) in p.iter_mut().zip(&*row) {
                *p = (x - base).exp();
                sum += *p;
            }
            if sum == T::ZERO {
                continue;
            }
            lse[i] = base + sum.ln();
            p.iter_mut().for_each(|p| *p = *p / sum);
        }
        Head { sequence, head, first_query, first_key, n, m, scores, probabilities, lse }
    }

    /// What dropout makes of weight (i, j): 0 or 1/(1 − rate).
    fn kept(&self, at: &Head<T>, i: usize, j: usize) -> T {
        let a = self.attention;
        match a.dropout {
            0.0 => T::ONE,
            rate if dropout_keeps(rate, a.seed, at.sequence, at.head, i, j) => T::of(1.0 / (1.0 - rate)),
            _ => T::ZERO,
        }
    }

    /// O `[Nq, H, V]` and L `[H, Nq]`.
    pub fn forward(&self) -> (Vec<T>, Vec<T>) {
        let a = self.attention;
        let nq = *self.cu_seqlens_q.last().expect("offsets have at least one entry") as usize;
        let mut o = vec![T::ZERO; nq * a.heads * a.value_width];
        let mut lse = vec![T::NEG_INFINITY; a.heads * nq];
        for at in self.heads() {
            let kv_head = at.head / a.group();
            for i in 0..at.n {
                lse[at.head * nq + at.first_query + i] = at.lse[i];
                let o = &mut o[((at.first_query + i) * a.heads + at.head) * a.value_width..][..a.value_width];
                for j in (0..at.m).filter(|&j| at.scores[i * at.m + j] != T::NEG_INFINITY) {
                    let p = at.probabilities[i * at.m + j] * self.kept(&at, i, j);
                    let v = &self.v[((at.first_key + j) * a.kv_heads + kv_head) * a.value_width..][..a.value_width];
                    o.iter_mut().zip(v).for_each(|(o, &v)| *o += p * v);
                }
            }
        }
        (o, lse)
    }

    /// dq, dk and dv from `d_o` `[Nq, H, V]`, by the Jacobian of softmax as it stands:
    /// `dS = P ∘ (dP − Σ P ∘ dP)`.
    pub fn backward(&self, d_o: &[T]) -> (Vec<T>, Vec<T>, Vec<T>) {
        let a = self.attention;
        let (mut dq, mut dk, mut dv) =
            (vec![T::ZERO; self.q.len()], vec![T::ZERO; self.k.len()], vec![T::ZERO; self.v.len()]);
        let mut dp = Vec::new();
        for at in self.heads() {
            let kv_head = at.head / a.group();
            for i in 0..at.n {
                let query = (at.first_query + i) * a.heads + at.head;
                let row_o = &d_o[query * a.value_width..][..a.value_width];
                let p = &at.probabilities[i * at.m..][..at.m];
                let visible = |j: &usize| at.scores[i * at.m + j] != T::NEG_INFINITY;
                dp.clear();
                dp.resize(at.m, T::ZERO);
                for j in (0..at.m).filter(visible) {
                    let key = (at.first_key + j) * a.kv_heads + kv_head;
                    let kept = self.kept(&at, i, j);
                    let v = &self.v[key * a.value_width..][..a.value_width];
                    dp[j] = kept * row_o.iter().zip(v).fold(T::ZERO, |sum, (&x, &v)| sum + x * v);
                    let dv = &mut dv[key * a.value_width..][..a.value_width];
                    dv.iter_mut().zip(row_o).for_each(|(dv, &x)| *dv += p[j] * kept * x);
                }
                let mean = p.iter().zip(&dp).fold(T::ZERO, |sum, (&p, &dp)| sum + p * dp);
                for j in (0..at.m).filter(visible) {
                    let key = (at.first_key + j) * a.kv_heads + kv_head;
                    let mut ds = p[j] * (dp[j] - mean) * T::of(a.scale);
                    if let Some(c) = a.softcap {
                        let mut score = at.scores[i * at.m + j];
                        if let Some(slopes) = self.alibi_slopes {
                            let distance = (i as i64 + at.m as i64 - at.n as i64 - j as i64).unsigned_abs();
                            score += slopes[at.head] * T::of(distance as f64);
                        }
                        let t = score / T::of(c);
                        ds *= T::ONE - t * t;
                    }
                    for d in 0..a.key_width {
                        dq[query * a.key_width + d] += ds * self.k[key * a.key_width + d];
                        dk[key * a.key_width + d] += ds * self.q[query * a.key_width + d];
                    }
                }
            }
        }
        (dq, dk, dv)
    }
}
