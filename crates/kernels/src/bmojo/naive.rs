//! The definition, key by key, in any precision: the oracle of [`super::bmojo`] and of the selection.

use super::{Bmojo, BmojoInputs};
use crate::Real;
use std::cmp::Ordering;

/// The tokens of the buffer of chunk `chunk` of a sequence, from the scores of all of it, by rising position.
pub fn buffer<T: Real>(window: usize, slots: usize, threshold: Option<f64>, scores: &[T], chunk: usize) -> Vec<usize> {
    let left = |t: &usize| t + window <= chunk * window;
    let high = |t: &usize| threshold.is_none_or(|least| scores[*t] >= T::of(least));
    let mut tokens: Vec<usize> = (0..scores.len()).filter(left).filter(high).collect();
    // −0 is 0 here.
    let higher = |a: &usize, b: &usize| scores[*b].partial_cmp(&scores[*a]).unwrap_or(Ordering::Equal);
    tokens.sort_by(|a, b| higher(a, b).then(b.cmp(a)));
    tokens.truncate(slots);
    tokens.sort_unstable();
    tokens
}

/// One key that a query sees: in which set, and of which token.
#[derive(Clone, Copy)]
struct Seen<T> {
    set: usize,
    token: usize,
    p: T,
}

impl<T: Real> BmojoInputs<'_, T> {
    /// Tensors of a set: recent, fading, eidetic.
    fn set(&self, set: usize) -> [&[T]; 3] {
        match (set, self.eidetic) {
            (0, _) => self.recent,
            (2, Some([q, k])) => [q, k, self.recent[2]],
            _ => self.fading,
        }
    }

    /// What a query of a sequence sees, with its share of the softmax, and the log-sum-exp.
    fn shares(
        &self,
        a: &Bmojo,
        buffer: &dyn Fn(usize) -> Vec<usize>,
        start: usize,
        i: usize,
        head: usize,
    ) -> (Vec<Seen<T>>, T) {
        let (w, i) = (a.window as i64, i as i64);
        let mut seen = Vec::new();
        let mut see = |set, token: usize| seen.push(Seen { set, token: start + token, p: T::ZERO });
        (0.max(i - w + 1)..=i).for_each(|j| see(0, j as usize));
        (0.max(i - 2 * w + 1)..=i - w).for_each(|j| see(1, j as usize));
        if self.eidetic.is_some() {
            buffer(i as usize / a.window).into_iter().filter(|&j| j as i64 <= i - 2 * w).for_each(|j| see(2, j));
        }
        for seen in &mut seen {
            let [q, k, _] = self.set(seen.set);
            let q = &q[((start + i as usize) * a.heads + head) * a.key_width..][..a.key_width];
            let k = &k[(seen.token * a.kv_heads + head / a.group()) * a.key_width..][..a.key_width];
            seen.p = q.iter().zip(k).fold(T::ZERO, |sum, (&q, &k)| sum + q * k) * T::of(a.scale);
        }
        let top = seen.iter().fold(T::NEG_INFINITY, |top, s| if s.p > top { s.p } else { top });
        let sum = seen.iter().fold(T::ZERO, |sum, s| sum + (s.p - top).exp());
        seen.iter_mut().for_each(|s| s.p = (s.p - top).exp() / sum);
        (seen, top + sum.ln())
    }

    /// o [N, H, V] and log-sum-exps [H, N]; `buffers(b, c)` are the tokens of chunk c of sequence b.
    pub fn naive(&self, a: &Bmojo, buffers: &dyn Fn(usize, usize) -> Vec<usize>) -> (Vec<T>, Vec<T>) {
        let n = self.recent[0].len() / (a.heads * a.key_width);
        let (mut o, mut lse) = (vec![T::ZERO; n * a.heads * a.value_width], vec![T::ZERO; a.heads * n]);
        for (b, ends) in self.cu_seqlens.windows(2).enumerate() {
            for row in ends[0] as usize..ends[1] as usize {
                for head in 0..a.heads {
                    let start = ends[0] as usize;
                    let (seen, l) = self.shares(a, &|c| buffers(b, c), start, row - start, head);
                    lse[head * n + row] = l;
                    let o = &mut o[(row * a.heads + head) * a.value_width..][..a.value_width];
                    for s in seen {
                        let v = &self.set(s.set)[2][(s.token * a.kv_heads + head / a.group()) * a.value_width..];
                        o.iter_mut().zip(v).for_each(|(o, &v)| *o += s.p * v);
                    }
                }
            }
        }
        (o, lse)
    }

    /// dq, dk, dv of each set by the Jacobian of the one softmax; dv of the eidetic set is apart.
    pub fn naive_backward(
        &self,
        a: &Bmojo,
        buffers: &dyn Fn(usize, usize) -> Vec<usize>,
        d_o: &[T],
    ) -> [[Vec<T>; 3]; 3] {
        let empty = || self.recent.map(|x| vec![T::ZERO; x.len()]);
        let mut grads = [empty(), empty(), empty()];
        for (b, ends) in self.cu_seqlens.windows(2).enumerate() {
            for row in ends[0] as usize..ends[1] as usize {
                for head in 0..a.heads {
                    let start = ends[0] as usize;
                    let (seen, _) = self.shares(a, &|c| buffers(b, c), start, row - start, head);
                    let d_o = &d_o[(row * a.heads + head) * a.value_width..][..a.value_width];
                    let key = |s: &Seen<T>| (s.token * a.kv_heads + head / a.group()) * a.key_width;
                    let value = |s: &Seen<T>| (s.token * a.kv_heads + head / a.group()) * a.value_width;
                    let dp = |s: &Seen<T>| {
                        let v = &self.set(s.set)[2][value(s)..];
                        d_o.iter().zip(v).fold(T::ZERO, |sum, (&d, &v)| sum + d * v)
                    };
                    let mean = seen.iter().fold(T::ZERO, |sum, s| sum + s.p * dp(s));
                    for s in &seen {
                        let [q, k, _] = self.set(s.set);
                        let ds = s.p * (dp(s) - mean) * T::of(a.scale);
                        let [dq, dk, dv] = &mut grads[s.set];
                        let at = (row * a.heads + head) * a.key_width;
                        for d in 0..a.key_width {
                            dq[at + d] += ds * k[key(s) + d];
                            dk[key(s) + d] += ds * q[at + d];
                        }
                        for (d, &d_o) in d_o.iter().enumerate() {
                            dv[value(s) + d] += s.p * d_o;
                        }
                    }
                }
            }
        }
        grads
    }
}
