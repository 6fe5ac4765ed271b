//! One KV head of one sequence: tiles of keys outside, blocks of rows inside.

use super::super::Attention;
use super::super::block::{TOKENS, tokens_per_block};
use super::super::dropout::RowDropout;
use super::super::product::{Left, Out, Right, product};
use super::super::row::drop_weights;
use super::super::scratch::{Scratch, bytes, span};
use super::super::state::{STRIP, padded};
use super::super::tile::{left_row, straight, transposed};
use super::super::visible::{TILE, Token};
use super::Call;
use crate::Real;
use crate::gemm::{Compute, Operand, Plain};
use crate::simd::Simd;
use bytemuck::cast_slice_mut;

/// The tiles of a task, in scratch memory; widths are padded to whole vectors.
///
/// Factors are operands of products: elements, or pairs of bf16 along the reduction.
pub(super) struct State<'a, T> {
    /// Of the keys: Kᵀ, K and Vᵀ as right factors; dK, dV.
    keys_transposed: &'a mut [T],
    keys: &'a mut [T],
    values_transposed: &'a mut [T],
    dk: &'a mut [T],
    dv: &'a mut [T],
    /// Of the rows: Q, dO, dQ.
    q: &'a mut [T],
    d_o: &'a mut [T],
    dq: &'a mut [T],
    /// Of both: P (with dropout: P ∘ Z) and dS.
    p: &'a mut [T],
    ds: &'a mut [T],
    pairs: Factors<'a, T>,
}

/// What is made of Q, dO, P and dS where they are no factors as they are: pairs of bf16.
struct Factors<'a, T> {
    /// Along the width, left.
    q: &'a mut [T],
    d_o: &'a mut [T],
    /// Along the rows, right.
    q_below: &'a mut [T],
    d_o_below: &'a mut [T],
    /// Along the rows, left.
    p_below: &'a mut [T],
    ds_below: &'a mut [T],
    /// Along the keys, left.
    ds: &'a mut [T],
}

impl<'a, T: Real> State<'a, T> {
    fn sizes(a: &Attention) -> [usize; 17] {
        let rows = tokens_per_block(a.group()) * a.group();
        let (k, v) = (padded(a.key_width), padded(a.value_width));
        let pairs = if a.compute == Compute::Bf16 { rows.div_ceil(2) } else { 0 };
        [
            TILE * k,
            TILE * k,
            TILE * v,
            TILE * k,
            TILE * v,
            rows * k,
            rows * v,
            rows * k,
            rows * TILE,
            rows * TILE,
            pairs * k,
            pairs * v,
            pairs * k,
            pairs * v,
            pairs * TILE,
            pairs * TILE,
            pairs * TILE,
        ]
    }

    pub(super) fn bytes(a: &Attention) -> usize {
        Self::sizes(a).map(bytes::<T>).iter().sum()
    }

    pub(super) fn cut(a: &Attention, scratch: &mut Scratch<'a>) -> State<'a, T> {
        let [keys_transposed, keys, values_transposed, dk, dv, q, d_o, dq, p, ds, rest @ ..] =
            Self::sizes(a).map(|n| scratch.take(n));
        let [q_pairs, d_o_pairs, q_below, d_o_below, p_below, ds_below, ds_pairs] = rest;
        let pairs = Factors { q: q_pairs, d_o: d_o_pairs, q_below, d_o_below, p_below, ds_below, ds: ds_pairs };
        State { keys_transposed, keys, values_transposed, dk, dv, q, d_o, dq, p, ds, pairs }
    }
}

/// The factors of the products that add to dK, dV and dQ.
struct Below<P> {
    p_below: Left<P>,
    ds_below: Left<P>,
    ds: Left<P>,
    q: Right<P>,
    d_o: Right<P>,
}

impl<T: Real> State<'_, T> {
    /// Q and dO as left factors of S and dP.
    #[inline(always)]
    fn lefts<S: Simd<E = T>, O: Operand<S>>(
        &mut self,
        s: S,
        rows: usize,
        (k, v): (usize, usize),
    ) -> (Left<O::Packed>, Left<O::Packed>) {
        let q = left::<S, O>(s, rows, k, self.q, self.pairs.q);
        (q, left::<S, O>(s, rows, v, self.d_o, self.pairs.d_o))
    }

    /// Pᵀ and dSᵀ with dO and Q, reduced over rows, and dS, reduced over keys.
    #[inline(always)]
    fn factors<S: Simd<E = T>, O: Operand<S>>(
        &mut self,
        s: S,
        rows: usize,
        (k, v): (usize, usize),
    ) -> Below<O::Packed> {
        let f = &mut self.pairs;
        let q = Right { at: below::<S, O>(s, rows, k, self.q, f.q_below), step: k };
        let d_o = Right { at: below::<S, O>(s, rows, v, self.d_o, f.d_o_below), step: v };
        let p_below = Left { at: below::<S, O>(s, rows, TILE, self.p, f.p_below), row: 1, step: TILE };
        let ds_below = Left { at: below::<S, O>(s, rows, TILE, self.ds, f.ds_below), row: 1, step: TILE };
        Below { p_below, ds_below, ds: left::<S, O>(s, rows, TILE, self.ds, f.ds), q, d_o }
    }
}

/// Rows as a left factor that is reduced over the width.
#[inline(always)]
fn left<S: Simd, O: Operand<S>>(s: S, rows: usize, width: usize, x: &[S::E], pairs: &mut [S::E]) -> Left<O::Packed> {
    let steps = width / O::DEPTH;
    if O::DEPTH == 1 {
        return Left { at: x.as_ptr().cast(), row: steps, step: 1 };
    }
    let pairs = cast_slice_mut::<S::E, O::Packed>(pairs);
    for (x, pairs) in x.chunks_exact(width).zip(pairs.chunks_exact_mut(steps)).take(rows) {
        left_row::<S, O>(s, x, pairs);
    }
    Left { at: pairs.as_ptr(), row: steps, step: 1 }
}

/// Rows as a factor that is reduced over them.
#[inline(always)]
fn below<S: Simd, O: Operand<S>>(s: S, rows: usize, width: usize, x: &[S::E], pairs: &mut [S::E]) -> *const O::Packed {
    if O::DEPTH == 1 {
        return x.as_ptr().cast();
    }
    straight::<S, O>(s, x, width, rows, width, width, cast_slice_mut(pairs));
    pairs.as_ptr().cast()
}

/// One KV head of one sequence, and a share of its tiles of keys.
pub(super) struct Walk<'a, T> {
    pub call: &'a Call<'a, T>,
    pub share: usize,
    pub sequence: usize,
    pub kv_head: usize,
    pub q_start: usize,
    pub n: usize,
    pub m: usize,
}

impl<T: Real> Walk<'_, T> {
    /// dQ of token `token` of the sequence, for the heads of the group.
    ///
    /// # Safety
    /// Only this task, once at a time.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn dq(&self, token: usize) -> &mut [T] {
        let (c, a) = (self.call, self.call.a);
        let width = a.group() * a.key_width;
        let at = (self.q_start + token) * a.heads * a.key_width + self.kv_head * width;
        // SAFETY: tokens and heads belong to one task of each share, and shares have memory of their own.
        unsafe {
            match self.share {
                0 => c.dq.part(span(at, width)),
                other => c.others.part(span((other - 1) * c.q.len() + at, width)),
            }
        }
    }

    pub(super) fn clear_dq(&self) {
        for token in 0..self.n {
            // SAFETY: one slice at a time.
            unsafe { self.dq(token) }.fill(T::ZERO);
        }
    }

    /// dK and dV of one tile of keys, and what it adds to dQ.
    #[inline(always)]
    pub(super) fn tile<S: Simd<E = T>, O: Operand<S>>(&self, s: S, k_start: usize, tile: usize, st: &mut State<T>) {
        let (c, a) = (self.call, self.call.a);
        let keys = TILE.min(self.m - tile);
        let (k_padded, v_padded) = (padded(a.key_width), padded(a.value_width));
        let (k_row, v_row) = (a.kv_heads * a.key_width, a.kv_heads * a.value_width);
        let k = &c.k[(k_start + tile) * k_row + self.kv_head * a.key_width..];
        let v = &c.v[(k_start + tile) * v_row + self.kv_head * a.value_width..];
        transposed::<S, O>(s, k, k_row, keys, a.key_width, cast_slice_mut(st.keys_transposed));
        transposed::<S, O>(s, v, v_row, keys, a.value_width, cast_slice_mut(st.values_transposed));
        if keys < TILE {
            st.keys.fill(T::ZERO);
        }
        straight::<S, O>(s, k, k_row, keys, a.key_width, k_padded, cast_slice_mut(st.keys));
        st.dk.fill(T::ZERO);
        st.dv.fill(T::ZERO);
        let mut tokens = [Token::default(); TOKENS];
        let mut bits = [0u64; TOKENS];
        for first in (0..self.n).step_by(tokens_per_block(a.group())) {
            let count = tokens_per_block(a.group()).min(self.n - first);
            let last = Token::new(a, first + count - 1, self.n, self.m);
            // Ranges move with the rows: what the first begins and the last ends holds all of them.
            if Token::new(a, first, self.n, self.m).lo >= tile + keys || last.hi <= tile {
                continue;
            }
            let mut any = 0;
            for i in 0..count {
                tokens[i] = Token::new(a, first + i, self.n, self.m);
                bits[i] = tokens[i].bits(tile, c.mask);
                any |= bits[i];
            }
            if any != 0 {
                self.block::<S, O>(s, tile, first, (&tokens[..count], &bits[..count]), st);
            }
        }
        for j in 0..keys {
            // SAFETY: a key and head belong to one task.
            unsafe {
                let at = (k_start + tile + j) * k_row + self.kv_head * a.key_width;
                c.dk.part(span(at, a.key_width)).copy_from_slice(&st.dk[j * k_padded..][..a.key_width]);
                let at = (k_start + tile + j) * v_row + self.kv_head * a.value_width;
                c.dv.part(span(at, a.value_width)).copy_from_slice(&st.dv[j * v_padded..][..a.value_width]);
            }
        }
    }

    /// One block of rows against the tile in scratch memory.
    #[inline(always)]
    fn block<S: Simd<E = T>, O: Operand<S>>(
        &self,
        s: S,
        tile: usize,
        first: usize,
        (tokens, bits): (&[Token], &[u64]),
        st: &mut State<T>,
    ) {
        let (c, a) = (self.call, self.call.a);
        let group = a.group();
        let rows = tokens.len() * group;
        let (k_padded, v_padded) = (padded(a.key_width), padded(a.value_width));
        for i in 0..tokens.len() {
            // SAFETY: one slice at a time.
            let dq = unsafe { self.dq(first + i) };
            for head in 0..group {
                let (row, query) =
                    (i * group + head, (self.q_start + first + i) * a.heads + self.kv_head * group + head);
                let q = &c.q[query * a.key_width..][..a.key_width];
                left_row::<S, Plain>(s, q, &mut st.q[row * k_padded..][..k_padded]);
                let d_o = &c.d_o[query * a.value_width..][..a.value_width];
                left_row::<S, Plain>(s, d_o, &mut st.d_o[row * v_padded..][..v_padded]);
                let dq = &dq[head * a.key_width..][..a.key_width];
                left_row::<S, Plain>(s, dq, &mut st.dq[row * k_padded..][..k_padded]);
            }
        }
        let lefts = st.lefts::<S, O>(s, rows, (k_padded, v_padded));
        let (p, ds) = (st.p.as_mut_ptr(), st.ds.as_mut_ptr());
        for row in (0..rows).step_by(STRIP) {
            let count = STRIP.min(rows - row);
            let k = (lefts.0, st.keys_transposed.as_ptr(), a.key_width, p);
            let v = (lefts.1, st.values_transposed.as_ptr(), a.value_width, ds);
            for (left, right, width, out) in [k, v] {
                // SAFETY: Q, dO, P and dS hold these rows, Kᵀ and Vᵀ the steps of their widths of 64.
                unsafe {
                    let left = Left { at: left.at.add(row * left.row), ..left };
                    let right = Right { at: right.cast(), step: TILE };
                    let out = Out { at: out.add(row * TILE), row: TILE };
                    product::<S, O>(s, (count, TILE), width.div_ceil(O::DEPTH), left, right, out, false);
                }
            }
            for row in row..row + count {
                self.row(s, tile, row, &tokens[row / group], bits[row / group], st);
            }
        }
        let f = st.factors::<S, O>(s, rows, (k_padded, v_padded));
        let keys = Right { at: st.keys.as_ptr().cast(), step: k_padded };
        let (below, across) = (rows.div_ceil(O::DEPTH), TILE / O::DEPTH);
        let dv = (TILE, below, f.p_below, f.d_o, v_padded, st.dv.as_mut_ptr());
        let dk = (TILE, below, f.ds_below, f.q, k_padded, st.dk.as_mut_ptr());
        let dq = (rows, across, f.ds, keys, k_padded, st.dq.as_mut_ptr());
        for (rows, steps, left, right, padded, out) in [dv, dk, dq] {
            // SAFETY: the factors hold these rows and steps; dK, dV and dQ are as wide as K, V and Q.
            unsafe {
                product::<S, O>(s, (rows, padded), steps, left, right, Out { at: out, row: padded }, true);
            }
        }
        for i in 0..tokens.len() {
            // SAFETY: one slice at a time.
            let dq = unsafe { self.dq(first + i) };
            for (head, dq) in dq.chunks_exact_mut(a.key_width).enumerate() {
                dq.copy_from_slice(&st.dq[(i * group + head) * k_padded..][..a.key_width]);
            }
        }
    }

    /// One row of products Q·Kᵀ and dO·Vᵀ to P and `τ·dS = τ·P ∘ (dP − D)`.
    #[inline(always)]
    fn row<S: Simd<E = T>>(&self, s: S, tile: usize, row: usize, token: &Token, bits: u64, st: &mut State<T>) {
        let (c, a) = (self.call, self.call.a);
        let head = self.kv_head * a.group() + row % a.group();
        let (p, ds) = (&mut st.p[row * TILE..][..TILE], &mut st.ds[row * TILE..][..TILE]);
        let query = self.q_start + token.query;
        let lse = c.lse[head * (c.dots.len() / a.heads) + query];
        if bits == 0 || lse == T::NEG_INFINITY {
            p.fill(T::ZERO);
            ds.fill(T::ZERO);
            return;
        }
        let scale = s.splat(T::of(a.scale));
        // What the softcap makes of a gradient.
        let mut slope_of_cap = [T::ONE; TILE];
        for x in p.chunks_exact_mut(S::LANES) {
            s.store(s.load(x) * scale, x);
        }
        if let Some(cap) = a.softcap {
            let (cap, one) = (s.splat(T::of(cap)), s.splat(T::ONE));
            for (x, slope) in p.chunks_exact_mut(S::LANES).zip(slope_of_cap.chunks_exact_mut(S::LANES)) {
                let t = s.tanh(s.load(x) / cap);
                s.store(t * cap, x);
                s.store(one - t * t, slope);
            }
        }
        if let Some(slopes) = c.slopes {
            for (j, x) in p.iter_mut().enumerate() {
                *x -= slopes[head] * T::of((token.position - (tile + j) as i64).unsigned_abs() as f64);
            }
        }
        let lse = s.splat(lse);
        for x in p.chunks_exact_mut(S::LANES) {
            s.store(s.exp(s.load(x) - lse), x);
        }
        let hide = |p: &mut [T], ds: &mut [T]| {
            for j in (0..TILE).filter(|j| bits >> j & 1 == 0) {
                (p[j], ds[j]) = (T::ZERO, T::ZERO);
            }
        };
        if bits != !0 {
            hide(p, ds);
        }
        let drop = (a.dropout > 0.0).then(|| RowDropout::new(a.dropout, a.seed, self.sequence, head, token.query));
        let keep = T::of(1.0 / (1.0 - a.dropout));
        if let Some(drop) = drop {
            drop_weights(drop, keep, tile, ds);
        }
        // Of a row whose keys are all here, P and D come from what is here: the sum of P is 1 whatever the rounding of L,
        // and D is summed from the products that it is taken off. Where few keys share the weight, that cancels their errors.
        let dot = if !a.partial && tile <= token.lo && token.hi <= tile + TILE {
            let mut whole = s.zero();
            for p in p.chunks_exact(S::LANES) {
                whole = whole + s.load(p);
            }
            let whole = s.splat(s.sum(whole));
            let mut sum = s.zero();
            for (p, dp) in p.chunks_exact_mut(S::LANES).zip(ds.chunks_exact(S::LANES)) {
                let weight = s.load(p) / whole;
                s.store(weight, p);
                sum = s.fma(weight, s.load(dp), sum);
            }
            s.splat(s.sum(sum))
        } else {
            s.splat(c.dots[query * a.heads + head])
        };
        for (x, p) in ds.chunks_exact_mut(S::LANES).zip(p.chunks_exact(S::LANES)) {
            s.store((s.load(x) - dot) * s.load(p) * scale, x);
        }
        if let Some(drop) = drop {
            drop_weights(drop, keep, tile, p);
        }
        if a.softcap.is_some() {
            for (x, slope) in ds.chunks_exact_mut(S::LANES).zip(slope_of_cap.chunks_exact(S::LANES)) {
                s.store(s.load(x) * s.load(slope), x);
            }
        }
        if bits != !0 {
            hide(p, ds);
        }
    }
}
