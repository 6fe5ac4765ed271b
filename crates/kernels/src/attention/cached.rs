//! Attention over a cache: decoding and prefill, rows of any mixture of sequences and positions.

use super::Attention;
use super::block::{Block, TOKENS, tokens_per_block};
use super::cache_view::{CacheHead, CacheView};
use super::row::{Partial, finish_row, fold_row};
use super::scratch::{PerWorker, SLACK, Scratch, bytes, span};
use super::state::{State, most_rows, padded};
use super::visible::{GROUP, TILE, Token};
use crate::disjoint::Disjoint;
use crate::gemm::Plain;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// Where a query row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct CacheRow {
    /// Sequence of the cache.
    pub sequence: usize,
    /// Absolute position; the row sees keys up to this one.
    pub position: usize,
}

/// With no more rows than this, threads share the keys of a row, group by group.
const FEW_ROWS: usize = 8;
/// Tasks that each thread should get, where there is a choice.
const TASKS_PER_THREAD: usize = 2;

/// The groups that a row sees.
fn groups(a: &Attention, row: &CacheRow) -> Range<usize> {
    let token = Token::new(a, row.position, row.position + 1, row.position + 1);
    token.lo / GROUP..token.hi.div_ceil(GROUP)
}

/// Elements of the states of `rows` (output, maximum, sum): of the row, and of each of `groups` of its keys.
fn partial_elements(a: &Attention, rows: usize, groups: usize) -> usize {
    rows * a.heads * (1 + groups) * (padded(a.value_width) + 2)
}

/// Bytes of scratch that [`attention_cached`] needs for up to `rows` rows that see up to `context`
/// keys each, on `threads`.
pub fn attention_cached_scratch(a: &Attention, rows: usize, context: usize, threads: usize) -> usize {
    let partials = partial_elements(a, rows.min(FEW_ROWS), context.div_ceil(GROUP) + 1);
    SLACK + bytes::<u32>(rows + 1) + bytes::<f32>(partials) + threads * State::<f32>::bytes(a)
}

/// Attention of query rows over a cache that already holds their own keys: `o` `[N, H, V]` and `lse`
/// `[H, N]` from q `[N, H, K]`.
///
/// Row i sees positions up to `rows[i].position` (less the lag), from `position − window.0` on if there is a
/// window. The bits of a row depend on its query and the keys that it sees only, and are those of
/// [`attention_forward`](super::attention_forward) over the same keys. Rows of one sequence that
/// follow each other share the reading of keys.
///
/// # Panics
/// If slices do not have these lengths, positions lie beyond the cache (a ring may be lapped by
/// positions, but must hold every key that is seen), [`Attention::check_cached`] refuses, or
/// scratch is too small.
pub fn attention_cached(
    pool: &Pool,
    a: &Attention,
    q: &[f32],
    rows: &[CacheRow],
    k: CacheView<'_>,
    v: CacheView<'_>,
    alibi_slopes: Option<&[f32]>,
    o: &mut [f32],
    lse: &mut [f32],
    scratch: &mut [u8],
) {
    let n = rows.len();
    debug_assert_eq!(a.check_cached(), Ok(()));
    assert_eq!(q.len(), n * a.heads * a.key_width, "q");
    assert_eq!(o.len(), n * a.heads * a.value_width, "o");
    assert_eq!(lse.len(), n * a.heads, "lse");
    assert_eq!(alibi_slopes.map_or(a.heads, <[f32]>::len), a.heads, "alibi_slopes");
    for row in rows {
        let all = row.position + 1;
        // With a lag, all positions back to the last one that is seen lie in the ring.
        let seen = a.window.0.map_or(all, |left| all.min(left.saturating_add(a.lag).saturating_add(1)));
        for (view, width) in [(&k, a.key_width), (&v, a.value_width)] {
            assert!(seen <= view.capacity, "a row sees {seen} keys, the cache holds {}", view.capacity);
            view.assert_holds(row.sequence, view.capacity.min(row.position + 1), a.kv_heads * width);
        }
    }

    let mut scratch = Scratch::new(scratch);
    let (blocks, starts) = cut_blocks(rows, tokens_per_block(a.group()), &mut scratch);
    let slots = rows.iter().map(|row| groups(a, row).len()).max().unwrap_or(0);
    let shared = n <= FEW_ROWS && slots > 1 && pool.threads() > 1;
    // Heads that a state has room for, and that leave a few tasks for each thread.
    let longest = starts.windows(2).map(|s| (s[1] - s[0]) as usize).max().unwrap_or(1);
    let room = (most_rows(a) / (longest * a.group())).max(1);
    // Rows of the cache hold all heads: a task takes as many of them as leave enough tasks.
    let units = blocks * if shared { slots } else { 1 };
    let parts = if pool.threads() == 1 { 1 } else { (TASKS_PER_THREAD * pool.threads()).div_ceil(units.max(1)) };
    let heads_each = a.kv_heads.div_ceil(parts.min(a.kv_heads)).min(room);
    let partials = scratch.take::<f32>(if shared { partial_elements(a, n, slots) } else { 0 });
    let states = scratch.per_worker(pool.threads(), State::<f32>::bytes(a));
    let call = &Call {
        a,
        q,
        rows,
        k,
        v,
        slopes: alibi_slopes,
        starts,
        slots,
        heads_each,
        partials: Disjoint::new(partials),
        o: Disjoint::new(o),
        lse: Disjoint::new(lse),
        states,
    };
    if shared {
        let groups = (0..blocks).map(|block| call.block_groups(block).len()).max().unwrap_or(0);
        let tasks = blocks * groups * a.kv_heads.div_ceil(heads_each);
        pool.run(tasks, |task, worker| f32::dispatch(GroupTask { call, groups, task, worker }));
        // A few microseconds, for which no other thread is worth waking.
        (0..n * a.kv_heads).for_each(|task| f32::dispatch(FoldTask { call, task }));
    } else {
        pool.run(blocks * a.kv_heads.div_ceil(heads_each), |task, worker| {
            f32::dispatch(BlockTask { call, task, worker })
        });
    }
}

/// Cuts rows into blocks of one sequence; returns their number, and where each begins.
fn cut_blocks<'a>(rows: &[CacheRow], tokens: usize, scratch: &mut Scratch<'a>) -> (usize, &'a [u32]) {
    let starts = scratch.take::<u32>(rows.len() + 1);
    let mut blocks = 0;
    for (i, row) in rows.iter().enumerate() {
        let start = if blocks == 0 { 0 } else { starts[blocks - 1] as usize };
        if i == 0 || i - start == tokens || rows[i - 1].sequence != row.sequence {
            starts[blocks] = i as u32;
            blocks += 1;
        }
    }
    starts[blocks] = rows.len() as u32;
    (blocks, &starts[..=blocks])
}

struct Call<'a> {
    a: &'a Attention,
    q: &'a [f32],
    rows: &'a [CacheRow],
    k: CacheView<'a>,
    v: CacheView<'a>,
    slopes: Option<&'a [f32]>,
    starts: &'a [u32],
    /// Most groups that a row sees.
    slots: usize,
    /// KV heads of a task.
    heads_each: usize,
    partials: Disjoint<'a, f32>,
    o: Disjoint<'a, f32>,
    lse: Disjoint<'a, f32>,
    states: PerWorker,
}

impl<'a> Call<'a> {
    #[inline(always)]
    fn block<'t>(&self, part: &Part, kv_head: usize, tokens: &'t [Token; TOKENS]) -> Block<'t, f32, CacheHead<'a>>
    where
        'a: 't,
    {
        let (a, first, rows) = (self.a, part.first, self.rows_of(part.block));
        let head = kv_head * a.group();
        Block {
            attention: a,
            head,
            q: &self.q[(first * a.heads + head) * a.key_width..],
            tokens: &tokens[..rows.len()],
            keys: CacheHead { k: self.k, v: self.v, sequence: rows[0].sequence, head: kv_head },
            slopes: self.slopes,
            mask: None,
            sequence: rows[0].sequence,
            slot: kv_head - part.heads.start,
        }
    }

    fn rows_of(&self, block: usize) -> &'a [CacheRow] {
        &self.rows[self.starts[block] as usize..self.starts[block + 1] as usize]
    }

    /// Number `part` of the heads of `block`, and the tokens of that block.
    fn part(&self, block: usize, part: usize, tokens: &mut [Token; TOKENS]) -> Part {
        for (token, row) in tokens.iter_mut().zip(self.rows_of(block)) {
            *token = Token::new(self.a, row.position, row.position + 1, row.position + 1);
        }
        let heads = part * self.heads_each..((part + 1) * self.heads_each).min(self.a.kv_heads);
        Part { block, first: self.starts[block] as usize, heads }
    }

    /// The groups that some row of a block sees.
    fn block_groups(&self, block: usize) -> Range<usize> {
        let (rows, of) = (self.rows_of(block), |row| groups(self.a, row));
        let start = rows.iter().map(|row| of(row).start).min().unwrap_or(0);
        start..rows.iter().map(|row| of(row).end).max().unwrap_or(0)
    }

    /// Reads a little of every line of these keys and values, for the heads of the part.
    ///
    /// Heads take their columns out of the rows of a tile in large steps, which the processor does not foresee.
    #[inline(always)]
    fn touch(&self, part: &Part, keys: Range<usize>) {
        if self.rows_of(part.block).len() <= FEW_ROWS {
            let sequence = self.rows_of(part.block)[0].sequence;
            self.k.touch(sequence, keys.clone(), &part.heads, self.a.kv_heads);
            self.v.touch(sequence, keys, &part.heads, self.a.kv_heads);
        }
    }

    /// Attends to a group of keys, all heads of the part tile by tile.
    #[inline(always)]
    fn attend<S: Simd<E = f32>>(&self, s: S, part: &Part, tokens: &[Token; TOKENS], group: usize, st: &mut State<f32>) {
        for head in part.heads.clone() {
            self.block(part, head, tokens).begin_group(s, st);
        }
        let tiles = self.block(part, part.heads.start, tokens).tiles(group);
        let end = self.rows_of(part.block).iter().map(|row| row.position + 1).max().unwrap_or(0);
        for (i, tile) in tiles.enumerate() {
            // Attending without a copy asks for the next tile while it is at this one.
            if i == 0 || !self.block(part, part.heads.start, tokens).is_direct(tile) {
                self.touch(part, tile..(tile + TILE).min(end));
            }
            for head in part.heads.clone() {
                self.block(part, head, tokens).attend::<S, Plain>(s, tile, st);
            }
        }
    }

    /// A state of row `row` and query head `head`: slot 0 its own, then one for each group that it sees.
    ///
    /// # Safety
    /// One task at a time uses it.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn partial(&self, row: usize, head: usize, slot: usize) -> Partial<'_, f32> {
        let each = padded(self.a.value_width) + 2;
        let at = (row * self.a.heads + head) * (1 + self.slots) + slot;
        // SAFETY: the caller's.
        let piece = unsafe { self.partials.part(span(at * each, each)) };
        let (output, rest) = piece.split_at_mut(each - 2);
        let (top, sum) = rest.split_at_mut(1);
        Partial { top: &mut top[0], sum: &mut sum[0], output }
    }

    /// Where O and L of a row go.
    ///
    /// # Safety
    /// One task at a time uses it.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    unsafe fn out(&self, row: usize, head: usize) -> (&mut [f32], &mut f32) {
        let a = self.a;
        // SAFETY: the caller's.
        unsafe {
            let o = self.o.part(span((row * a.heads + head) * a.value_width, a.value_width));
            (o, &mut self.lse.part(span(head * self.rows.len() + row, 1))[0])
        }
    }
}

/// Some KV heads of a block.
struct Part {
    block: usize,
    /// First row of the block.
    first: usize,
    heads: Range<usize>,
}

/// All keys of a block, for some KV heads.
struct BlockTask<'a> {
    call: &'a Call<'a>,
    task: usize,
    worker: usize,
}

impl Kernel<f32> for BlockTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let c = self.call;
        let parts = c.a.kv_heads.div_ceil(c.heads_each);
        let mut tokens = [Token::default(); TOKENS];
        let part = c.part(self.task / parts, self.task % parts, &mut tokens);
        // SAFETY: the pool runs one task at a time on each worker.
        let mut scratch = unsafe { c.states.of(self.worker) };
        let st = &mut State::cut(c.a, &mut scratch);
        for head in part.heads.clone() {
            c.block(&part, head, &tokens).begin::<S, Plain>(s, st);
        }
        for group in c.block_groups(part.block) {
            c.attend(s, &part, &tokens, group, st);
            for head in part.heads.clone() {
                c.block(&part, head, &tokens).fold(s, st);
            }
        }
        for head in part.heads.clone() {
            // SAFETY: the rows and heads of a part belong to one task.
            let out = |token, head| unsafe { c.out(part.first + token, head) };
            c.block(&part, head, &tokens).finish(s, st, out);
        }
    }
}

/// One group of keys of a block, for some KV heads.
struct GroupTask<'a> {
    call: &'a Call<'a>,
    /// Most groups of a block.
    groups: usize,
    task: usize,
    worker: usize,
}

impl Kernel<f32> for GroupTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let c = self.call;
        let parts = c.a.kv_heads.div_ceil(c.heads_each);
        // Heads innermost: tasks that follow each other read the same stretch of the cache.
        let (block, part) = (self.task / parts / self.groups, self.task % parts);
        let seen = c.block_groups(block);
        let group = seen.start + self.task / parts % self.groups;
        if group >= seen.end {
            return;
        }
        let mut tokens = [Token::default(); TOKENS];
        let part = c.part(block, part, &mut tokens);
        // SAFETY: the pool runs one task at a time on each worker.
        let mut scratch = unsafe { c.states.of(self.worker) };
        let st = &mut State::cut(c.a, &mut scratch);
        for head in part.heads.clone() {
            c.block(&part, head, &tokens).begin::<S, Plain>(s, st);
        }
        c.attend(s, &part, &tokens, group, st);
        let per_token = c.a.group();
        for head in part.heads.clone() {
            let block = c.block(&part, head, &tokens);
            block.hand_over(s, st, |row| {
                let (row, head) = (part.first + row / per_token, block.head + row % per_token);
                let seen = groups(c.a, &c.rows[row]);
                // SAFETY: a group of keys of a part belongs to one task.
                seen.contains(&group).then(|| unsafe { c.partial(row, head, 1 + group - seen.start) })
            });
        }
    }
}

/// Folds the groups of one row, for the query heads of one KV head.
struct FoldTask<'a> {
    call: &'a Call<'a>,
    task: usize,
}

impl Kernel<f32> for FoldTask<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd<E = f32>>(self, s: S) {
        let c = self.call;
        let a = c.a;
        let (row, kv_head) = (self.task / a.kv_heads, self.task % a.kv_heads);
        let groups = groups(a, &c.rows[row]).len();
        for head in kv_head * a.group()..(kv_head + 1) * a.group() {
            // SAFETY: the states of a row and head belong to one task, and differ from each other.
            unsafe {
                let Partial { top, sum, output } = c.partial(row, head, 0);
                (*top, *sum) = (f32::NEG_INFINITY, 0.0);
                output.fill(0.0);
                for slot in 1..=groups {
                    let group = c.partial(row, head, slot);
                    fold_row(s, (*group.top, *group.sum, group.output), Partial { top, sum, output });
                }
                let (o, lse) = c.out(row, head);
                finish_row(s, (*top, *sum, output), o, lse);
            }
        }
    }
}
