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

mod walk;

use super::scratch::{PerWorker, SLACK, Scratch, bytes, span};
use super::visible::TILE;
use super::{Attention, BlockMask};
use crate::disjoint::Disjoint;
use crate::gemm::{Compute, Operand, Pairs, Plain};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use walk::{State, Walk};

/// Tasks that one sequence should give.
const TASKS: usize = 4;
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

struct Task<'a, T> {
    call: &'a Call<'a, T>,
    task: usize,
    worker: usize,
}

impl<T: Real> Kernel<T> for Task<'_, T> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        match self.call.a.compute {
            Compute::F32 => self.walk::<S, Plain>(s),
            Compute::Bf16 => self.walk::<S, Pairs>(s),
        }
    }
}

impl<T: Real> Task<'_, T> {
    #[inline(always)]
    fn walk<S: Simd<E = T>, O: Operand<S>>(self, s: S) {
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
            walk.tile::<S, O>(s, k_start, tile, st);
        }
    }
}
