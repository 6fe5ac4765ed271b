//! Attention over packed tokens: the forward pass of training and of prefill without a cache.

use super::block::{Block, TOKENS, tokens_per_block};
use super::scratch::{PerWorker, SLACK, Scratch, bytes, span};
use super::state::State;
use super::tile::Rows;
use super::visible::Token;
use super::{Attention, BlockMask};
use crate::disjoint::Disjoint;
use crate::gemm::{Compute, Operand, Pairs, Plain};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

/// Bytes of scratch that [`attention_forward`] needs for `sequences` and `threads`.
pub fn attention_scratch<T: Real>(a: &Attention, sequences: usize, threads: usize) -> usize {
    SLACK + bytes::<u32>(sequences + 1) + threads * State::<T>::bytes(a)
}

/// Attention of packed sequences: `o` `[Nq, H, V]` and `lse` `[H, Nq]` from q, k and v.
///
/// Rows that see no key get O = 0 and L = −∞. NaN in a visible key or value, or in the query, makes
/// the row NaN; what a row does not see never reaches it. `alibi_slopes` has one slope a head.
///
/// # Panics
/// If slices do not have the lengths that [`Attention::check`] accepts, or scratch is too small.
pub fn attention_forward<T: Real>(
    pool: &Pool,
    a: &Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    cu_seqlens_q: &[i32],
    cu_seqlens_k: &[i32],
    alibi_slopes: Option<&[T]>,
    block_mask: Option<&BlockMask>,
    o: &mut [T],
    lse: &mut [T],
    scratch: &mut [u8],
) {
    let nq = *cu_seqlens_q.last().expect("offsets have at least one entry") as usize;
    let nk = *cu_seqlens_k.last().expect("offsets have at least one entry") as usize;
    assert_eq!(q.len(), nq * a.heads * a.key_width, "q");
    assert_eq!(k.len(), nk * a.kv_heads * a.key_width, "k");
    assert_eq!(v.len(), nk * a.kv_heads * a.value_width, "v");
    assert_eq!(o.len(), nq * a.heads * a.value_width, "o");
    assert_eq!(lse.len(), nq * a.heads, "lse");
    assert_eq!(cu_seqlens_q.len(), cu_seqlens_k.len(), "offsets");

    let mut scratch = Scratch::new(scratch);
    let starts = block_starts(cu_seqlens_q, tokens_per_block(a.group()), &mut scratch);
    let states = scratch.per_worker(pool.threads(), State::<T>::bytes(a));
    let call = Call {
        a,
        q,
        k,
        v,
        cu: (cu_seqlens_q, cu_seqlens_k),
        slopes: alibi_slopes,
        mask: block_mask,
        starts,
        o: Disjoint::new(o),
        lse: Disjoint::new(lse),
        states,
    };
    let tasks = starts[starts.len() - 1] as usize * a.kv_heads;
    pool.run(tasks, |task, worker| T::dispatch(Task { call: &call, task, worker }));
}

/// Number of the first block of each sequence, and of all blocks.
pub(super) fn block_starts<'a>(cu: &[i32], tokens: usize, scratch: &mut Scratch<'a>) -> &'a [u32] {
    let starts = scratch.take::<u32>(cu.len());
    starts[0] = 0;
    for (i, ends) in cu.windows(2).enumerate() {
        starts[i + 1] = starts[i] + ((ends[1] - ends[0]) as usize).div_ceil(tokens) as u32;
    }
    starts
}

struct Call<'a, T> {
    a: &'a Attention,
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    cu: (&'a [i32], &'a [i32]),
    slopes: Option<&'a [T]>,
    mask: Option<&'a BlockMask>,
    starts: &'a [u32],
    o: Disjoint<'a, T>,
    lse: Disjoint<'a, T>,
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
            Compute::F32 => self.block::<S, Plain>(s),
            Compute::Bf16 => self.block::<S, Pairs>(s),
        }
    }
}

impl<T: Real> Task<'_, T> {
    #[inline(always)]
    fn block<S: Simd<E = T>, O: Operand<S>>(self, s: S) {
        let c = self.call;
        let a = c.a;
        let (blocks, nq) = (c.starts[c.starts.len() - 1] as usize, c.cu.0[c.cu.0.len() - 1] as usize);
        // The last blocks of a causal sequence are the longest: they go first.
        let (kv_head, block) = (self.task / blocks, blocks - 1 - self.task % blocks);
        let sequence = c.starts.partition_point(|&start| start as usize <= block) - 1;
        let within = |cu: &[i32]| (cu[sequence] as usize, (cu[sequence + 1] - cu[sequence]) as usize);
        let ((q_start, n), (k_start, m)) = (within(c.cu.0), within(c.cu.1));
        let first = (block - c.starts[sequence] as usize) * tokens_per_block(a.group());
        let count = tokens_per_block(a.group()).min(n - first);
        let mut tokens = [Token::default(); TOKENS];
        for (i, token) in tokens.iter_mut().enumerate().take(count) {
            *token = Token::new(a, first + i, n, m);
        }

        let head = kv_head * a.group();
        let (k_row, v_row) = (a.kv_heads * a.key_width, a.kv_heads * a.value_width);
        let keys = Rows {
            k: rest(c.k, k_start * k_row + kv_head * a.key_width),
            k_row,
            v: rest(c.v, k_start * v_row + kv_head * a.value_width),
            v_row,
        };
        let block = Block {
            attention: a,
            head,
            q: &c.q[((q_start + first) * a.heads + head) * a.key_width..],
            tokens: &tokens[..count],
            keys,
            slopes: c.slopes,
            mask: c.mask,
            sequence,
            slot: 0,
        };
        // SAFETY: the pool runs one task at a time on each worker.
        let mut scratch = unsafe { c.states.of(self.worker) };
        let st = &mut State::cut(a, &mut scratch);
        block.begin::<S, O>(s, st);
        for group in block.groups() {
            block.begin_group(s, st);
            for tile in block.tiles(group) {
                block.attend::<S, O>(s, tile, st);
            }
            block.fold(s, st);
        }
        block.finish(s, st, |token, head| {
            let token = q_start + first + token;
            // SAFETY: the rows of a block belong to one task.
            unsafe {
                let o = c.o.part(span((token * a.heads + head) * a.value_width, a.value_width));
                (o, &mut c.lse.part(span(head * nq + token, 1))[0])
            }
        });
    }
}

/// What is behind `at`; nothing if there are no keys.
fn rest<T>(x: &[T], at: usize) -> &[T] {
    x.get(at..).unwrap_or(&[])
}
