//! Attention of a row to the few tokens of the eidetic buffer.

use super::Bmojo;
use super::lists::Lists;
use crate::disjoint::Disjoint;
use crate::scratch::{PerWorker, span};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Rows of a task.
const ROWS: usize = 16;

/// Σ a b, lanes first.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[S::E], b: &[S::E]) -> S::E {
    let parts = a.chunks(S::LANES).zip(b.chunks(S::LANES));
    s.sum(parts.fold(s.zero(), |sum, (a, b)| s.fma(s.load_any(a), s.load_any(b), sum)))
}

/// y += c x.
#[inline(always)]
fn add_scaled<S: Simd>(s: S, c: S::E, x: &[S::E], y: &mut [S::E]) {
    for (x, y) in x.chunks(S::LANES).zip(y.chunks_mut(S::LANES)) {
        s.store_any(s.fma(s.splat(c), s.load_any(x), s.load_any(y)), y);
    }
}

/// One query over keys and values that are given one by one, in an order that is theirs alone.
pub(super) struct Row<'a, T, F> {
    pub scale: f64,
    pub q: &'a [T],
    /// Key and value of token i of the buffer.
    pub pair: F,
    /// Room for a score of each token.
    pub scores: &'a mut [T],
    pub o: &'a mut [T],
}

impl<'k, T: Real, F: Fn(usize) -> (&'k [T], &'k [T])> Kernel<T> for Row<'_, T, F> {
    /// The log-sum-exp; −∞ of no token.
    type Out = T;

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) -> T {
        let Row { scale, q, pair, scores, o } = self;
        o.fill(T::ZERO);
        if scores.is_empty() {
            return T::NEG_INFINITY;
        }
        let mut top = T::NEG_INFINITY;
        for (i, score) in scores.iter_mut().enumerate() {
            *score = dot(s, q, pair(i).0) * T::of(scale);
            top = if *score > top { *score } else { top };
        }
        for part in scores.chunks_mut(S::LANES) {
            s.store_any(s.exp(s.load_any(part) - s.splat(top)), part);
        }
        let sum = scores.iter().fold(T::ZERO, |sum, &p| sum + p);
        for (i, &p) in scores.iter().enumerate() {
            add_scaled(s, p, pair(i).1, o);
        }
        o.iter_mut().for_each(|o| *o = *o / sum);
        top + sum.ln()
    }
}

/// Tensors of the eidetic path over whole sequences.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a, T> {
    pub a: &'a Bmojo,
    /// [N, H, K].
    pub q: &'a [T],
    /// [N, G, K].
    pub k: &'a [T],
    /// [N, G, V].
    pub v: &'a [T],
    pub cu_seqlens: &'a [i32],
    pub lists: Lists<'a>,
}

impl<'a, T: Real> Whole<'a, T> {
    fn tokens(&self) -> usize {
        self.cu_seqlens[self.cu_seqlens.len() - 1] as usize
    }

    fn key(&self, row: usize, head: usize) -> &'a [T] {
        &self.k[(row * self.a.kv_heads + head) * self.a.key_width..][..self.a.key_width]
    }

    fn value(&self, row: usize, head: usize) -> &'a [T] {
        &self.v[(row * self.a.kv_heads + head) * self.a.value_width..][..self.a.value_width]
    }

    fn query(&self, row: usize, head: usize) -> &'a [T] {
        &self.q[(row * self.a.heads + head) * self.a.key_width..][..self.a.key_width]
    }

    /// o [N, H, V] and log-sum-exps [H, N]; `scores` holds E elements for each worker.
    pub fn forward(&self, pool: &Pool, o: &mut [T], lse: &mut [T], scores: PerWorker) {
        let (a, tokens) = (self.a, self.tokens());
        let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
        pool.run(tokens.div_ceil(ROWS), |task, worker| {
            // SAFETY: the pool runs one task at a time on each worker.
            let scores = unsafe { scores.of(worker) }.take::<T>(a.slots);
            for row in task * ROWS..((task + 1) * ROWS).min(tokens) {
                let sequence = self.cu_seqlens.partition_point(|&start| start as usize <= row) - 1;
                let start = self.cu_seqlens[sequence] as usize;
                let seen = self.lists.seen(a, sequence, start, row - start);
                for head in 0..a.heads {
                    let of = head / a.group();
                    // SAFETY: rows of tasks do not overlap.
                    let (o, lse) = unsafe {
                        let at = (row * a.heads + head) * a.value_width;
                        (o.part(span(at, a.value_width)), lse.part(span(head * tokens + row, 1)))
                    };
                    lse[0] = T::dispatch(Row {
                        scale: a.scale,
                        q: self.query(row, head),
                        pair: |i: usize| (self.key(seen[i] as usize, of), self.value(seen[i] as usize, of)),
                        scores: &mut scores[..seen.len()],
                        o,
                    });
                }
            }
        });
    }

    /// Writes dq [N, H, K] and dk [N, G, K], and adds to dv [N, G, V], from the joint o, log-sum-exps and d_o.
    pub fn backward(&self, pool: &Pool, [o, lse, d_o]: [&[T]; 3], [dq, dk, dv]: [&mut [T]; 3]) {
        let a = self.a;
        let [dq, dk, dv] = [dq, dk, dv].map(Disjoint::new);
        pool.run((self.cu_seqlens.len() - 1) * a.kv_heads, |task, _| {
            let (sequence, kv_head) = (task / a.kv_heads, task % a.kv_heads);
            T::dispatch(Backward { x: self, sequence, kv_head, o, lse, d_o, dq, dk, dv });
        });
    }
}

/// The gradients of one KV head of one sequence.
struct Backward<'a, T> {
    x: &'a Whole<'a, T>,
    sequence: usize,
    kv_head: usize,
    o: &'a [T],
    lse: &'a [T],
    d_o: &'a [T],
    dq: Disjoint<'a, T>,
    dk: Disjoint<'a, T>,
    dv: Disjoint<'a, T>,
}

impl<T: Real> Kernel<T> for Backward<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (x, a, of) = (self.x, self.x.a, self.kv_head);
        let rows = x.cu_seqlens[self.sequence] as usize..x.cu_seqlens[self.sequence + 1] as usize;
        let (tokens, scale) = (x.tokens(), T::of(a.scale));
        let key = |row: usize| span((row * a.kv_heads + of) * a.key_width, a.key_width);
        let value = |row: usize| span((row * a.kv_heads + of) * a.value_width, a.value_width);
        for row in rows.clone() {
            // SAFETY: a KV head of a sequence, and its query heads, belong to one task; so below.
            unsafe { self.dk.part(key(row)) }.fill(T::ZERO);
        }
        for row in rows.clone() {
            let seen = x.lists.seen(a, self.sequence, rows.start, row - rows.start);
            for head in of * a.group()..(of + 1) * a.group() {
                let at = row * a.heads + head;
                // SAFETY: as above.
                let dq = unsafe { self.dq.part(span(at * a.key_width, a.key_width)) };
                dq.fill(T::ZERO);
                let q = x.query(row, head);
                let d_o = &self.d_o[at * a.value_width..][..a.value_width];
                let joint = dot(s, d_o, &self.o[at * a.value_width..][..a.value_width]);
                for token in seen.iter().map(|&row| row as usize) {
                    let (k, v) = (x.key(token, of), x.value(token, of));
                    let p = (dot(s, q, k) * scale - self.lse[head * tokens + row]).exp();
                    let ds = scale * p * (dot(s, d_o, v) - joint);
                    // SAFETY: as above.
                    let (dk, dv) = unsafe { (self.dk.part(key(token)), self.dv.part(value(token))) };
                    add_scaled(s, p, d_o, dv);
                    add_scaled(s, ds, k, dq);
                    add_scaled(s, ds, q, dk);
                }
            }
        }
    }
}
