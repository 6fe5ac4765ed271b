//! Many products at once, each with rows of x of its own: what a mixture of experts needs.
//!
//! y[r] = W_e x[r] for the rows r of each group, W_e the group's matrix of a stack [E, n, k] in any storage format. Rows are
//! prepared group by group, so that each product reads them as [`super::linear`] does, and the tasks of all products are
//! shared out together: a group of one row wakes nobody for itself. Each element is the sum that `linear` computes for it,
//! bit for bit, whatever else is in the call.

use super::leaf::{Columns, Job};
use super::{KINDS, PARALLEL_PREPARE, PARALLEL_PRODUCT, Prepared, Scales, Weights};
use super::{dispatch, prepare_row, prepared, row_layout, task_columns, tile_bytes};
use crate::disjoint::Disjoint;
use crate::scratch::{self, Scratch};
use crate::{Isa, Pool, isa};
use bytemuck::{Pod, Zeroable};
use memwall_formats::Dtype;

/// Matrices of one shape and format, one after another: [matrices, n, k].
#[derive(Clone, Copy, Debug)]
pub struct Stack<'a> {
    /// Storage format.
    pub dtype: Dtype,
    /// The matrices as they lie in a file; any alignment.
    pub bytes: &'a [u8],
    /// How many.
    pub matrices: usize,
    /// Rows of each: outputs.
    pub n: usize,
    /// Values in a row: inputs.
    pub k: usize,
}

impl<'a> Stack<'a> {
    fn check(&self) {
        let Stack { dtype, bytes, matrices, n, k } = *self;
        assert!(!matches!(dtype, Dtype::F64 | Dtype::I32), "grouped: no product with {dtype} weights");
        let row = dtype.row_bytes(k).unwrap_or_else(|| panic!("grouped: rows of {k} are no whole blocks of {dtype}"));
        assert_eq!(bytes.len(), matrices * n * row, "grouped: bytes of [{matrices}, {n}, {k}] weights in {dtype}");
    }

    /// Matrix `i` of a stack that [`Stack::check`] passed.
    fn matrix(&self, i: usize) -> Weights<'a> {
        let each = self.bytes.len() / self.matrices;
        Weights { dtype: self.dtype, bytes: &self.bytes[i * each..(i + 1) * each], n: self.n, k: self.k }
    }
}

/// Rows of a call that go through one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Group {
    /// The matrix, by its place in the stack.
    pub matrix: u32,
    /// First row.
    pub begin: u32,
    /// One past the last row.
    pub end: u32,
}

impl Group {
    /// Its rows.
    pub fn rows(&self) -> usize {
        (self.end - self.begin) as usize
    }
}

/// Bytes of scratch that [`linear_grouped`] needs for up to `rows` rows in up to `groups` groups. For several stacks: the
/// largest over them.
pub fn grouped_scratch(dtype: Dtype, rows: usize, k: usize, groups: usize, threads: usize) -> usize {
    let kind = prepared(dtype);
    let (row_words, _) = row_layout(kind, k);
    scratch::SLACK
        + scratch::bytes::<u32>(rows * row_words)
        + scratch::bytes::<u32>(groups + 1)
        + threads.max(1) * tile_bytes(kind, rows)
}

/// `y_i[r] = W_i,e x[row_of(r)]` for each stack i and each row r of the groups, which follow each other from row 0 on.
///
/// # Panics
/// If a slice has the wrong length, groups do not follow each other or name no matrix, rows of a matrix are no whole blocks,
/// the stacks' `k` differ, or scratch is smaller than [`grouped_scratch`] says.
pub fn linear_grouped(
    pool: &Pool,
    stacks: &[Stack<'_>],
    x: &[f32],
    row_of: impl Fn(usize) -> usize + Sync,
    groups: &[Group],
    ys: &mut [&mut [f32]],
    scratch: &mut [u8],
) {
    run(isa(), pool, stacks, x, &row_of, groups, ys, scratch);
}

/// [`linear_grouped`] on an instruction set that the processor has.
pub(super) fn run(
    isa: Isa,
    pool: &Pool,
    stacks: &[Stack<'_>],
    x: &[f32],
    row_of: &(impl Fn(usize) -> usize + Sync),
    groups: &[Group],
    ys: &mut [&mut [f32]],
    scratch: &mut [u8],
) {
    assert_eq!(stacks.len(), ys.len(), "grouped: {} stacks, {} outputs", stacks.len(), ys.len());
    let rows = groups.last().map_or(0, |g| g.end as usize);
    let follow = groups.iter().try_fold(0, |end, g| (g.begin == end && g.end >= end).then_some(g.end));
    assert!(follow.is_some(), "grouped: groups do not follow each other");
    for (stack, y) in stacks.iter().zip(ys.iter()) {
        assert_eq!(stack.k, stacks[0].k, "grouped: stacks of other widths");
        assert_eq!(y.len(), rows * stack.n, "grouped: values of y [{rows}, {}]", stack.n);
        stack.check();
        let last = groups.iter().map(|g| g.matrix as usize + 1).max().unwrap_or(0);
        assert!(last <= stack.matrices, "grouped: matrix {} of {}", last.saturating_sub(1), stack.matrices);
    }
    for kind in KINDS {
        if stacks.iter().any(|s| prepared(s.dtype) == kind) {
            run_kind(isa, pool, kind, stacks, x, row_of, groups, ys, scratch);
        }
    }
}

fn run_kind(
    isa: Isa,
    pool: &Pool,
    kind: Prepared,
    stacks: &[Stack<'_>],
    x: &[f32],
    row_of: &(impl Fn(usize) -> usize + Sync),
    groups: &[Group],
    ys: &mut [&mut [f32]],
    scratch: &mut [u8],
) {
    let rows = groups.last().map_or(0, |g| g.end as usize);
    let k = stacks[0].k;
    let is_ours = |s: &Stack<'_>| prepared(s.dtype) == kind && s.n > 0;
    let (row_words, terms) = row_layout(kind, k);
    let mut scratch = Scratch::new(scratch);
    let room = scratch.take::<u32>(rows * row_words);
    let starts = scratch.take::<u32>(groups.len() + 1);
    let tile = tile_bytes(kind, rows);
    let tiles = Disjoint::new(scratch.take::<u8>(pool.threads() * tile));

    let words = Disjoint::new(&mut *room);
    let prepare = |g: &Group| {
        for i in 0..g.rows() {
            let from = row_of(g.begin as usize + i) * k;
            // SAFETY: rows of a group are disjoint, and so are groups.
            unsafe {
                prepare_row(
                    isa,
                    kind,
                    &x[from..from + k],
                    Scales::OfBlocks,
                    g.rows(),
                    i,
                    &words,
                    g.begin as usize * row_words,
                )
            };
        }
    };
    if k == 0 {
    } else if rows * k < PARALLEL_PREPARE {
        groups.iter().for_each(prepare);
    } else {
        pool.run(groups.len(), |g, _| prepare(&groups[g]));
    }

    starts[0] = 0;
    for (g, group) in groups.iter().enumerate() {
        let tasks = |s: &Stack<'_>| s.n.div_ceil(task_columns(s.n, group.rows())) as u32;
        let own = if group.rows() == 0 { 0 } else { stacks.iter().filter(|s| is_ours(s)).map(tasks).sum() };
        starts[g + 1] = starts[g] + own;
    }
    let tasks = starts[groups.len()] as usize;
    let starts = &*starts;
    let outputs = super::Outputs(ys.as_mut_ptr().cast());
    let threads = pool.threads();
    let task = |task: usize, worker: usize| {
        let g = starts.partition_point(|&start| start as usize <= task) - 1;
        let group = &groups[g];
        let mut first = task - starts[g] as usize;
        for (i, stack) in stacks.iter().enumerate().filter(|(_, s)| is_ours(s)) {
            let width = task_columns(stack.n, group.rows());
            let tasks = stack.n.div_ceil(width);
            if first >= tasks {
                first -= tasks;
                continue;
            }
            let w = stack.matrix(group.matrix as usize);
            let begin_row = group.begin as usize;
            // SAFETY: i is below the number of outputs; the rows of the group are inside it.
            let y = unsafe { outputs.at(i).add(begin_row * w.n) };
            let job = Job {
                w: w.bytes.as_ptr(),
                row_bytes: w.bytes.len() / w.n,
                n: w.n,
                m: group.rows(),
                terms,
                x: words.as_mut_ptr().wrapping_add(begin_row * row_words).cast::<u8>().cast_const(),
                y,
            };
            let begin = first * width;
            let columns = Columns { begin, end: w.n.min(begin + width), next: begin + threads * width };
            // SAFETY: lengths were checked, columns of tasks are disjoint, every worker has a tile of its own.
            return unsafe { dispatch(isa, w.dtype, &job, columns, tiles.as_mut_ptr().wrapping_add(worker * tile)) };
        }
    };
    let work: usize = stacks.iter().filter(|s| is_ours(s)).map(|s| rows * s.n * k).sum();
    if work < PARALLEL_PRODUCT {
        (0..tasks).for_each(|t| task(t, 0));
    } else {
        pool.run(tasks, task);
    }
}
