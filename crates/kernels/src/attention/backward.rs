//! The backward pass: tiles of scores are computed again from `L`.
//!
//! `D = rowsum(dO ∘ O)`; then for each tile of keys and block of rows `P = e^(S − L)`,
//! `dV += Pᵀ·dO`, `dP = dO·Vᵀ`, `dS = P ∘ (dP − D)`, `dQ += τ·dS·K`, `dK += τ·dSᵀ·Q`; with dropout
//! Z, `P ∘ Z` and `dP ∘ Z`; with a softcap, dS times `1 − (S/c)²`.
//!
//! One task walks all keys (of its share) of one KV head of one sequence: dK and dV of a tile stay
//! in the cache while all rows pass by, and dQ grows by one tile after the other. So the order of
//! every sum is fixed: dK and dV by ascending row, dQ by ascending key within a share, then by
//! share; shares are a function of the number of KV heads only.

use super::block::{TOKENS, drop_weights, padded, tokens_per_block};
use super::dropout::RowDropout;
use super::product::{Left, Out, Right, product};
use super::rounding::round_operands;
use super::scratch::{PerWorker, SLACK, Scratch, bytes, span};
use super::tile::{copy_rows, transpose};
use super::visible::{TILE, Token};
use super::{Attention, BlockMask};
use crate::disjoint::Disjoint;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Tasks that one sequence should give.
const TASKS: usize = 4;
/// Rows whose scores are computed together.
const STRIP: usize = 6;
/// Elements of dQ that one task sums over shares.
const SUM: usize = 1 << 14;

/// Shares into which the tiles of keys of a KV head are dealt, so that few heads still occupy many threads.
fn shares(a: &Attention) -> usize {
    TASKS.div_ceil(a.kv_heads)
}

/// Bytes of scratch that [`attention_backward`] needs for `queries` in all and `threads`.
pub fn attention_backward_scratch<T: Real>(a: &Attention, queries: usize, threads: usize) -> usize {
    let dq = (shares(a) - 1) * queries * a.heads * a.key_width;
    SLACK + bytes::<T>(queries * a.heads) + bytes::<T>(dq) + threads * State::<T>::bytes(a)
}

/// Gradients `dq`, `dk` and `dv` of q, k and v from `d_o`, with `o` and `lse` of the forward pass.
///
/// The bits do not depend on the number of threads, nor on the other sequences of the batch (with
/// dropout: on the number of the sequence). Gradients are written, not added to.
///
/// # Panics
/// If slices do not have the lengths that [`Attention::check`] accepts, or scratch is too small.
pub fn attention_backward<T: Real>(
    pool: &Pool,
    a: &Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    cu_seqlens_q: &[i32],
    cu_seqlens_k: &[i32],
    alibi_slopes: Option<&[T]>,
    block_mask: Option<&BlockMask>,
    o: &[T],
    lse: &[T],
    d_o: &[T],
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
    scratch: &mut [u8],
) {
    let nq = *cu_seqlens_q.last().expect("offsets have at least one entry") as usize;
    let nk = *cu_seqlens_k.last().expect("offsets have at least one entry") as usize;
    assert_eq!((q.len(), dq.len()), (nq * a.heads * a.key_width, q.len()), "q, dq");
    assert_eq!((k.len(), dk.len()), (nk * a.kv_heads * a.key_width, k.len()), "k, dk");
    assert_eq!((v.len(), dv.len()), (nk * a.kv_heads * a.value_width, v.len()), "v, dv");
    assert_eq!((o.len(), d_o.len()), (nq * a.heads * a.value_width, o.len()), "o, d_o");
    assert_eq!(lse.len(), nq * a.heads, "lse");
    assert_eq!(cu_seqlens_q.len(), cu_seqlens_k.len(), "offsets");

    let mut scratch = Scratch::new(scratch);
    let dots = scratch.take::<T>(nq * a.heads);
    let others = scratch.take::<T>((shares(a) - 1) * dq.len());
    let states = scratch.per_worker(pool.threads(), State::<T>::bytes(a));

    let rows_each = SUM.div_ceil(a.value_width);
    let dots_shared = Disjoint::new(dots);
    pool.run((nq * a.heads).div_ceil(rows_each), |task, _| {
        let first = task * rows_each;
        let count = rows_each.min(nq * a.heads - first);
        // SAFETY: tasks take rows behind each other.
        let dots = unsafe { dots_shared.part(span(first, count)) };
        let range = span(first * a.value_width, count * a.value_width);
        T::dispatch(Dots { width: a.value_width, x: &o[range.clone()], y: &d_o[range], dots });
    });

    let sequences = cu_seqlens_q.len() - 1;
    let call = &Call {
        a,
        q,
        k,
        v,
        cu: (cu_seqlens_q, cu_seqlens_k),
        slopes: alibi_slopes,
        mask: block_mask,
        lse,
        d_o,
        dots,
        dq: Disjoint::new(&mut *dq),
        others: Disjoint::new(&mut *others),
        dk: Disjoint::new(dk),
        dv: Disjoint::new(dv),
        states,
    };
    let tasks = sequences * a.kv_heads * shares(a);
    pool.run(tasks, |task, worker| T::dispatch(Task { call, task, worker }));

    if shares(a) > 1 {
        let others: &[T] = others;
        let dq_shared = Disjoint::new(&mut *dq);
        let len = q.len();
        pool.run(len.div_ceil(SUM), |task, _| {
            let at = span(task * SUM, SUM.min(len - task * SUM));
            // SAFETY: tasks take elements behind each other.
            let dq = unsafe { dq_shared.part(at.clone()) };
            for other in others.chunks_exact(len) {
                dq.iter_mut().zip(&other[at.clone()]).for_each(|(dq, &x)| *dq += x);
            }
        });
    }
}

/// `D[row] = Σ x ∘ y`.
struct Dots<'a, T> {
    width: usize,
    x: &'a [T],
    y: &'a [T],
    dots: &'a mut [T],
}

impl<T: Real> Kernel<T> for Dots<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, _: S) {
        // One chain, as dP is: where a row sees one key only, both are equal and dS is 0.
        let rows = self.x.chunks_exact(self.width).zip(self.y.chunks_exact(self.width));
        for ((x, y), dot) in rows.zip(self.dots) {
            *dot = x.iter().zip(y).fold(T::ZERO, |sum, (&x, &y)| x.mul_add(y, sum));
        }
    }
}

struct Call<'a, T> {
    a: &'a Attention,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    cu: (&'a [i32], &'a [i32]),
    slopes: Option<&'a [T]>,
    mask: Option<&'a BlockMask>,
    lse: &'a [T],
    d_o: &'a [T],
    /// D `[Nq, H]`.
    dots: &'a [T],
    dq: Disjoint<'a, T>,
    /// dQ of the second share and those after it.
    others: Disjoint<'a, T>,
    dk: Disjoint<'a, T>,
    dv: Disjoint<'a, T>,
    states: PerWorker,
}

/// The tiles of a task, in scratch memory; widths are padded to whole vectors.
struct State<'a, T> {
    /// Of the keys: Kᵀ, K, Vᵀ, dK, dV.
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
}

impl<'a, T: Real> State<'a, T> {
    fn sizes(a: &Attention) -> [usize; 10] {
        let rows = tokens_per_block(a.group()) * a.group();
        let (k, v) = (padded(a.key_width), padded(a.value_width));
        [TILE * k, TILE * k, TILE * v, TILE * k, TILE * v, rows * k, rows * v, rows * k, rows * TILE, rows * TILE]
    }

    fn bytes(a: &Attention) -> usize {
        Self::sizes(a).map(bytes::<T>).iter().sum()
    }

    fn cut(a: &Attention, scratch: &mut Scratch<'a>) -> State<'a, T> {
        let [keys_transposed, keys, values_transposed, dk, dv, q, d_o, dq, p, ds] =
            Self::sizes(a).map(|n| scratch.take(n));
        State { keys_transposed, keys, values_transposed, dk, dv, q, d_o, dq, p, ds }
    }
}

struct Task<'a, T> {
    call: &'a Call<'a, T>,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for Task<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let c = self.call;
        let a = c.a;
        let share = self.task % shares(a);
        let (sequence, kv_head) = (self.task / shares(a) / a.kv_heads, self.task / shares(a) % a.kv_heads);
        let within = |cu: &[i32]| (cu[sequence] as usize, (cu[sequence + 1] - cu[sequence]) as usize);
        let ((q_start, n), (k_start, m)) = (within(c.cu.0), within(c.cu.1));
        let walk = Walk { call: c, share, sequence, kv_head, q_start, n, m };
        // SAFETY: the pool runs one task at a time on each worker.
        let mut scratch = unsafe { c.states.of(self.worker) };
        let st = &mut State::cut(a, &mut scratch);
        walk.clear_dq();
        for tile in (share * TILE..m).step_by(shares(a) * TILE) {
            walk.tile(s, k_start, tile, st);
        }
    }
}

/// One KV head of one sequence, and a share of its tiles of keys.
struct Walk<'a, T> {
    call: &'a Call<'a, T>,
    share: usize,
    sequence: usize,
    kv_head: usize,
    q_start: usize,
    n: usize,
    m: usize,
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

    fn clear_dq(&self) {
        for token in 0..self.n {
            // SAFETY: one slice at a time.
            unsafe { self.dq(token) }.fill(T::ZERO);
        }
    }

    /// dK and dV of one tile of keys, and what it adds to dQ.
    #[inline(always)]
    fn tile<S: Simd<E = T>>(&self, s: S, k_start: usize, tile: usize, st: &mut State<T>) {
        let (c, a) = (self.call, self.call.a);
        let keys = TILE.min(self.m - tile);
        let (k_padded, v_padded) = (padded(a.key_width), padded(a.value_width));
        let (k_row, v_row) = (a.kv_heads * a.key_width, a.kv_heads * a.value_width);
        let k = &c.k[(k_start + tile) * k_row + self.kv_head * a.key_width..];
        let v = &c.v[(k_start + tile) * v_row + self.kv_head * a.value_width..];
        if keys < TILE {
            st.keys_transposed.fill(T::ZERO);
            st.keys.fill(T::ZERO);
            st.values_transposed.fill(T::ZERO);
        }
        // SAFETY: these keys exist; the scratch was cut for these widths.
        unsafe {
            transpose(k.as_ptr(), k_row, keys, a.key_width, st.keys_transposed.as_mut_ptr());
            copy_rows(k.as_ptr(), k_row, keys, a.key_width, st.keys.as_mut_ptr(), k_padded);
            transpose(v.as_ptr(), v_row, keys, a.value_width, st.values_transposed.as_mut_ptr());
        }
        for operand in [&mut *st.keys_transposed, &mut *st.keys, &mut *st.values_transposed] {
            round_operands(a, operand);
        }
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
                self.block(s, tile, first, (&tokens[..count], &bits[..count]), st);
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
    fn block<S: Simd<E = T>>(
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
            let token = self.q_start + first + i;
            let row = token * a.heads + self.kv_head * group;
            // SAFETY: the token's heads exist, and scratch rows are as wide as they say.
            unsafe {
                let q = c.q[row * a.key_width..].as_ptr();
                let to = st.q.as_mut_ptr().add(i * group * k_padded);
                copy_rows(q, a.key_width, group, a.key_width, to, k_padded);
                let d_o = c.d_o[row * a.value_width..].as_ptr();
                let to = st.d_o.as_mut_ptr().add(i * group * v_padded);
                copy_rows(d_o, a.value_width, group, a.value_width, to, v_padded);
                let to = st.dq.as_mut_ptr().add(i * group * k_padded);
                copy_rows(self.dq(first + i).as_ptr(), a.key_width, group, a.key_width, to, k_padded);
            }
        }
        round_operands(a, &mut st.q[..rows * k_padded]);
        round_operands(a, &mut st.d_o[..rows * v_padded]);
        let (q, d_o) = (st.q.as_ptr(), st.d_o.as_ptr());
        let (p, ds) = (st.p.as_mut_ptr(), st.ds.as_mut_ptr());
        for row in (0..rows).step_by(STRIP) {
            let count = STRIP.min(rows - row);
            let k = (q, k_padded, st.keys_transposed.as_ptr(), a.key_width, p);
            let v = (d_o, v_padded, st.values_transposed.as_ptr(), a.value_width, ds);
            for (left, padded, right, width, out) in [k, v] {
                // SAFETY: Q, dO, P and dS hold these rows, Kᵀ and Vᵀ their widths of 64.
                unsafe {
                    let left = Left { at: left.add(row * padded), row: padded, step: 1 };
                    let out = Out { at: out.add(row * TILE), row: TILE };
                    product(s, (count, TILE), width, left, Right { at: right, step: TILE }, out, false);
                }
            }
            for row in row..row + count {
                self.row(s, tile, row, &tokens[row / group], bits[row / group], st);
            }
        }
        let (transposed, straight) = ((1, TILE), (TILE, 1));
        let dv = (TILE, rows, p, transposed, d_o, v_padded, st.dv.as_mut_ptr());
        let dk = (TILE, rows, ds, transposed, q, k_padded, st.dk.as_mut_ptr());
        let dq = (rows, TILE, ds, straight, st.keys.as_ptr(), k_padded, st.dq.as_mut_ptr());
        for (rows, length, left, (row, step), right, padded, out) in [dv, dk, dq] {
            // SAFETY: as above; dK, dV and dQ are as wide as K, V and Q.
            unsafe {
                let left = Left { at: left.cast_const(), row, step };
                let right = Right { at: right, step: padded };
                product(s, (rows, padded), length, left, right, Out { at: out, row: padded }, true);
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

    /// One row of products Q·Kᵀ and dO·Vᵀ to P and τ·dS.
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
        let dot = s.splat(c.dots[query * a.heads + head]);
        if a.dropout > 0.0 {
            let drop = RowDropout::new(a.dropout, a.seed, self.sequence, head, token.query);
            let keep = T::of(1.0 / (1.0 - a.dropout));
            drop_weights(drop, keep, tile, ds);
            self.gradient(s, p, ds, dot);
            drop_weights(drop, keep, tile, p);
        } else {
            self.gradient(s, p, ds, dot);
        }
        if a.softcap.is_some() {
            for (x, slope) in ds.chunks_exact_mut(S::LANES).zip(slope_of_cap.chunks_exact(S::LANES)) {
                s.store(s.load(x) * s.load(slope), x);
            }
        }
        if bits != !0 {
            for j in (0..TILE).filter(|j| bits >> j & 1 == 0) {
                (p[j], ds[j]) = (T::ZERO, T::ZERO);
            }
        }
        round_operands(a, p);
        round_operands(a, ds);
    }

    /// `dS = τ·P ∘ (dP − D)`.
    #[inline(always)]
    fn gradient<S: Simd<E = T>>(&self, s: S, p: &[T], ds: &mut [T], dot: S::V) {
        let scale = s.splat(T::of(self.call.a.scale));
        for (x, p) in ds.chunks_exact_mut(S::LANES).zip(p.chunks_exact(S::LANES)) {
            s.store((s.load(x) - dot) * s.load(p) * scale, x);
        }
    }
}
