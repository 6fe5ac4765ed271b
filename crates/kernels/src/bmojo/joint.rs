//! The three sets of keys under one softmax, over whole sequences.

use super::Bmojo;
use super::eidetic::Whole;
use super::lists::Lists;
use crate::attention::{attention_backward, attention_backward_scratch, attention_forward, attention_scratch, merge};
use crate::rows::expect_len;
use crate::scratch::{SLACK, Scratch, bytes};
use crate::{Pool, Real};

/// What the kernels read.
#[derive(Clone, Copy)]
pub struct BmojoInputs<'a, T> {
    /// Of tokens as they are: q [N, H, K], k [N, G, K], v [N, G, V].
    pub recent: [&'a [T]; 3],
    /// Of the fading memory's outputs: the same.
    pub fading: [&'a [T]; 3],
    /// q [N, H, K] and k [N, G, K] of tokens in the buffer; their values are those of `recent`.
    pub eidetic: Option<[&'a [T]; 2]>,
    /// For each token the chunk from which on it is not in the buffer, as [`super::select`] says; empty without one.
    pub until: &'a [i32],
    /// Where sequences begin, and the end.
    pub cu_seqlens: &'a [i32],
}

impl<'a, T: Real> BmojoInputs<'a, T> {
    fn tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&n| n as usize)
    }

    fn check(&self, a: &Bmojo) {
        let n = self.tokens();
        for [q, k, v] in [self.recent, self.fading] {
            expect_len("q", q.len(), n * a.heads * a.key_width);
            expect_len("k", k.len(), n * a.kv_heads * a.key_width);
            expect_len("v", v.len(), n * a.kv_heads * a.value_width);
        }
        if let Some([q, k]) = self.eidetic {
            expect_len("q", q.len(), n * a.heads * a.key_width);
            expect_len("k", k.len(), n * a.kv_heads * a.key_width);
            expect_len("until", self.until.len(), n);
        }
    }

    fn whole(&self, a: &'a Bmojo, [q, k]: [&'a [T]; 2], scratch: &mut Scratch<'a>) -> Whole<'a, T> {
        let lists = Lists::new(a, self.until, self.cu_seqlens, scratch);
        Whole { a, q, k, v: self.recent[2], cu_seqlens: self.cu_seqlens, lists }
    }
}

/// Bytes of scratch that [`bmojo`] needs, with a buffer or without, for so many `tokens` in `sequences`.
pub fn bmojo_scratch<T: Real>(a: &Bmojo, eidetic: bool, tokens: usize, sequences: usize, threads: usize) -> usize {
    let part = bytes::<T>(tokens * a.heads * a.value_width) + bytes::<T>(tokens * a.heads);
    let of_buffer = part + Lists::bytes(a, tokens, sequences) + threads * bytes::<T>(a.slots);
    let attention = [a.recent(), a.fading()].map(|a| attention_scratch::<T>(&a, sequences, threads));
    SLACK + 2 * part + if eidetic { of_buffer } else { 0 } + attention[0].max(attention[1])
}

/// o [N, H, V] and the joint log-sum-exps [H, N].
///
/// # Panics
/// If a length does not fit, more than E tokens are in a buffer, or scratch is too small.
pub fn bmojo<T: Real>(pool: &Pool, a: &Bmojo, x: &BmojoInputs<'_, T>, o: &mut [T], lse: &mut [T], scratch: &mut [u8]) {
    x.check(a);
    let (n, cu) = (x.tokens(), x.cu_seqlens);
    let mut scratch = Scratch::new(scratch);
    let (o_recent, l_recent) = (scratch.take::<T>(n * a.heads * a.value_width), scratch.take::<T>(n * a.heads));
    let (o_fading, l_fading) = (scratch.take::<T>(n * a.heads * a.value_width), scratch.take::<T>(n * a.heads));
    let buffer = x.eidetic.map(|pair| {
        let (o, l) = (scratch.take::<T>(n * a.heads * a.value_width), scratch.take::<T>(n * a.heads));
        let whole = x.whole(a, pair, &mut scratch);
        whole.forward(pool, o, l, scratch.per_worker(pool.threads(), bytes::<T>(a.slots)));
        (&*o, &*l)
    });
    let rest = scratch.rest();
    let [q, k, v] = x.recent;
    attention_forward(pool, &a.recent(), q, k, v, cu, cu, None, None, o_recent, l_recent, rest);
    let [q, k, v] = x.fading;
    attention_forward(pool, &a.fading(), q, k, v, cu, cu, None, None, o_fading, l_fading, rest);
    match buffer {
        Some((o_old, l_old)) => {
            merge(a.heads, a.value_width, &[o_old, o_fading, o_recent], &[l_old, l_fading, l_recent], o, lse)
        }
        None => merge(a.heads, a.value_width, &[o_fading, o_recent], &[l_fading, l_recent], o, lse),
    }
}

/// Where gradients go: the shapes are those of [`BmojoInputs`].
#[derive(Debug)]
pub struct BmojoGradients<'a, T> {
    /// dq, dk, dv.
    pub recent: [&'a mut [T]; 3],
    /// The same of the fading memory.
    pub fading: [&'a mut [T]; 3],
    /// dq and dk of the buffer.
    pub eidetic: Option<[&'a mut [T]; 2]>,
}

/// Bytes of scratch that [`bmojo_backward`] needs.
pub fn bmojo_backward_scratch<T: Real>(
    a: &Bmojo,
    eidetic: bool,
    tokens: usize,
    sequences: usize,
    threads: usize,
) -> usize {
    let attention = [a.recent(), a.fading()].map(|a| attention_backward_scratch::<T>(&a, tokens, threads));
    SLACK + if eidetic { Lists::bytes(a, tokens, sequences) } else { 0 } + attention[0].max(attention[1])
}

/// Gradients from `d_o` [N, H, V], with the joint `o` and `lse` of the forward pass; written, not added to.
///
/// # Panics
/// As [`bmojo`].
pub fn bmojo_backward<T: Real>(
    pool: &Pool,
    a: &Bmojo,
    x: &BmojoInputs<'_, T>,
    [o, lse, d_o]: [&[T]; 3],
    to: BmojoGradients<'_, T>,
    scratch: &mut [u8],
) {
    x.check(a);
    let cu = x.cu_seqlens;
    let mut scratch = Scratch::new(scratch);
    let whole = x.eidetic.map(|pair| x.whole(a, pair, &mut scratch));
    let rest = scratch.rest();
    let sets = [(a.recent(), x.recent, to.recent), (a.fading(), x.fading, to.fading)];
    let mut values = None;
    for (kernel, [q, k, v], [dq, dk, dv]) in sets {
        attention_backward(pool, &kernel, q, k, v, cu, cu, None, None, o, lse, d_o, dq, dk, dv, rest);
        values.get_or_insert(dv);
    }
    if let (Some(whole), Some([dq, dk]), Some(dv)) = (whole, to.eidetic, values) {
        whole.backward(pool, [o, lse, d_o], [dq, dk, dv]);
    }
}
