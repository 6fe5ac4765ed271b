//! Dense matrix product of activations, weights and gradients in training.
//!
//! `C[m, n] (+)= op(A)[m, k] op(B)[k, n]`. The row law: each element of C is one chain of fused
//! multiply-adds over ascending k (bf16: of two products a step), started from 0; vectors run over
//! columns. In f32 that chain has the same bits on every instruction set, for any number of rows,
//! columns and threads and any transposition. With `accumulate`, C = C + chain: the sum of the
//! chain is rounded before it meets C.
//!
//! How: both operands are packed into strips that the inner kernel reads in order (`pack`); the
//! one that all tasks read is packed once into shared scratch, at most `SHARED_BYTES` at a time,
//! the other by each task, `SLICE` elements of k at a time. Tasks are blocks of C.

mod block;
mod pack;
mod tile;

pub use block::{PackedBlock, gemm_block, gemm_block_scratch, pack_columns, pack_rows, packed_bytes};
pub use tile::Start;

use crate::disjoint::Disjoint;
use crate::{Pool, Real};
use pack::{Pack, Source};
use std::ops::Range;
use tile::{TileShape, Tiles};

/// The type in which operands meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// Operands as they are, in f32 (f64 in f64).
    F32,
    /// Operands rounded to the nearest bf16, ties to even; accumulation in the element type.
    ///
    /// AVX-512 takes denormal operands and results as 0, the other instruction sets do not.
    Bf16,
}

/// A matrix product `C[m, n] (+)= op(A)[m, k] op(B)[k, n]`.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the reduction.
    pub k: usize,
    /// A lies as [k, m] rather than [m, k].
    pub a_trans: bool,
    /// B lies as [n, k] rather than [k, n].
    pub b_trans: bool,
    /// C = C + product, each rounded; otherwise C = product.
    pub accumulate: bool,
    /// The type in which operands meet.
    pub compute: Compute,
}

/// Bytes of packed operand that all tasks share at a time,
const SHARED_BYTES: usize = 4 << 20;
/// or this many columns of it: with fewer, packing the other operand once for each group takes too long.
const GROUP_COLUMNS: usize = 512;
/// Bytes along k that a task packs at a time, over all columns of a strip: 256 elements of f32.
const SLICE: usize = 256;
/// Rows of C in a task, a multiple of every instruction set's tile rows.
const BLOCK_ROWS: usize = 96;
/// Up to here rows count as few: A is shared, and tasks are blocks of columns.
const FEW_ROWS: usize = 96;
/// Tasks are made smaller until there are this many, or they are too small to be worth it.
const TASKS: usize = 16;
/// Below this many multiply-adds a product is not worth waking other threads.
const SERIAL: usize = 1 << 18;
/// Alignment of everything in scratch.
const ALIGN: usize = 64;

/// How a product is cut up: a function of its shape and the instruction set only.
#[derive(Clone, Copy, Debug)]
struct Cut {
    tile_rows: usize,
    tile_columns: usize,
    /// Bytes of a packed operand, and elements of k that it holds.
    bytes: usize,
    depth: usize,
    /// Elements of k in one pass over a block.
    slice: usize,
    share_a: bool,
    /// Rows and columns of C in a task.
    rows: usize,
    columns: usize,
    /// Columns of C between two packings of the shared operand (all, if that is A).
    group: usize,
    /// The chain of several slices cannot live in C, which holds what it is added to.
    aside: bool,
}

impl Gemm {
    fn cut(&self, tile_rows: usize, tile_columns: usize, elem_bytes: usize) -> Cut {
        let (bytes, depth) = match self.compute {
            Compute::F32 => (elem_bytes, 1),
            Compute::Bf16 => (4, 2),
        };
        let slice = SLICE * depth;
        let aside = self.accumulate && self.k > slice;
        let share_a = self.m <= FEW_ROWS;
        let all_columns = self.n.next_multiple_of(tile_columns);
        let steps = self.k.div_ceil(depth);
        let group = if share_a {
            all_columns
        } else {
            (SHARED_BYTES / (steps * bytes) / tile_columns * tile_columns).max(GROUP_COLUMNS).min(all_columns)
        };
        let mut rows = if share_a { self.m } else { BLOCK_ROWS };
        let mut columns = group.min(if share_a { 128 } else { 1024 });
        let tasks = |rows: usize, columns: usize| self.m.div_ceil(rows) * group.div_ceil(columns);
        let halve = |x: usize, unit: usize| (x / 2).next_multiple_of(unit).max(unit);
        for (fewest_rows, fewest_columns) in [(BLOCK_ROWS, 256), (48, 256), (48, 128), (24, 128), (24, 1)] {
            while tasks(rows, columns) < TASKS && columns > fewest_columns.max(tile_columns) {
                columns = halve(columns, tile_columns);
            }
            while !share_a && tasks(rows, columns) < TASKS && rows > fewest_rows {
                rows /= 2;
            }
        }
        Cut { tile_rows, tile_columns, bytes, depth, slice, share_a, rows, columns, group, aside }
    }
}

impl Cut {
    /// Bytes of the shared packed operand.
    fn shared(&self, g: &Gemm) -> usize {
        let width = if self.share_a { g.m.next_multiple_of(self.tile_rows) } else { self.group };
        (g.k.div_ceil(self.depth) * width * self.bytes).next_multiple_of(ALIGN)
    }

    /// Where a slice of k starts in the shared operand of `columns` columns, in operands.
    fn slice_start(&self, k: &Range<usize>, columns: usize, width: usize) -> usize {
        k.start / self.depth * columns.next_multiple_of(width)
    }

    /// Bytes of the operand that a thread packs for itself.
    fn own(&self, g: &Gemm) -> usize {
        let width = if self.share_a { self.columns } else { self.rows.next_multiple_of(self.tile_rows) };
        (g.k.min(self.slice).div_ceil(self.depth) * width * self.bytes).next_multiple_of(ALIGN)
    }

    /// Bytes of a block of C that is summed aside.
    fn chain(&self, elem_bytes: usize) -> usize {
        if self.aside { (self.rows * self.columns * elem_bytes).next_multiple_of(ALIGN) } else { 0 }
    }
}

fn tile_shape(elem_bytes: usize) -> (usize, usize) {
    if elem_bytes == 4 { f32::dispatch(TileShape) } else { f64::dispatch(TileShape) }
}

/// Bytes of scratch that [`gemm`] needs for elements of `elem_bytes` (4 or 8) on `threads` threads.
pub fn gemm_scratch(g: &Gemm, elem_bytes: usize, threads: usize) -> usize {
    if g.m == 0 || g.n == 0 || g.k == 0 {
        return 0;
    }
    let (rows, columns) = tile_shape(elem_bytes);
    let cut = g.cut(rows, columns, elem_bytes);
    ALIGN + cut.shared(g) + threads * (cut.own(g) + cut.chain(elem_bytes))
}

/// The matrix product `g` of contiguous matrices.
///
/// # Panics
/// If a slice is shorter than its matrix, or `scratch` than [`gemm_scratch`] says.
pub fn gemm<T: Real>(pool: &Pool, g: Gemm, a: &[T], b: &[T], c: &mut [T], scratch: &mut [u8]) {
    let lda = if g.a_trans { g.m } else { g.k };
    let ldb = if g.b_trans { g.k } else { g.n };
    gemm_strided(pool, g, a, lda, b, ldb, c, g.n, scratch);
}

/// As [`gemm`], with rows of A, B and C (as they lie in memory) `lda`, `ldb` and `ldc` elements apart.
pub fn gemm_strided<T: Real>(
    pool: &Pool,
    g: Gemm,
    a: &[T],
    lda: usize,
    b: &[T],
    ldb: usize,
    c: &mut [T],
    ldc: usize,
    scratch: &mut [u8],
) {
    if g.m == 0 || g.n == 0 {
        return;
    }
    let (a_rows, a_columns) = if g.a_trans { (g.k, g.m) } else { (g.m, g.k) };
    let (b_rows, b_columns) = if g.b_trans { (g.n, g.k) } else { (g.k, g.n) };
    check("A", a.len(), a_rows, a_columns, lda);
    check("B", b.len(), b_rows, b_columns, ldb);
    check("C", c.len(), g.m, g.n, ldc);
    if g.k == 0 {
        if !g.accumulate {
            for row in c.chunks_mut(ldc).take(g.m) {
                row[..g.n].fill(T::ZERO);
            }
        }
        return;
    }
    let needed = gemm_scratch(&g, size_of::<T>(), pool.threads());
    assert!(scratch.len() >= needed, "scratch of {} bytes, the product needs {needed}", scratch.len());
    let (tile_rows, tile_columns) = tile_shape(size_of::<T>());
    let cut = g.cut(tile_rows, tile_columns, size_of::<T>());
    let scratch = aligned(scratch);
    let (shared, own) = scratch.split_at_mut(cut.shared(&g));
    let product = Product {
        g,
        cut,
        a: Source { data: a, ld: lda, k_neighbours: !g.a_trans },
        b: Source { data: b, ld: ldb, k_neighbours: g.b_trans },
        c: Disjoint::new(c),
        ldc,
    };
    product.run(pool, shared, Disjoint::new(own));
}

fn check(name: &str, len: usize, rows: usize, columns: usize, ld: usize) {
    assert!(columns <= ld || rows <= 1, "rows of {name} are {columns} long but {ld} apart");
    let needed = if rows == 0 { 0 } else { (rows - 1) * ld + columns };
    assert!(len >= needed, "{name} has {len} elements, [{rows}, {columns}] with rows {ld} apart needs {needed}");
}

/// The part of `scratch` from the first aligned address on.
fn aligned(scratch: &mut [u8]) -> &mut [u8] {
    let skip = scratch.as_ptr().align_offset(ALIGN);
    &mut scratch[skip..]
}

struct Product<'a, T> {
    g: Gemm,
    cut: Cut,
    a: Source<'a, T>,
    b: Source<'a, T>,
    c: Disjoint<'a, T>,
    ldc: usize,
}

impl<T: Real> Product<'_, T> {
    fn run(&self, pool: &Pool, shared: &mut [u8], own: Disjoint<u8>) {
        let Product { g, cut, .. } = self;
        for first in (0..g.n).step_by(cut.group) {
            let group = first..(first + cut.group).min(g.n);
            self.pack_shared(pool, shared, &group);
            let shared = &*shared;
            let across = group.len().div_ceil(cut.columns);
            self.tasks(pool, g.m.div_ceil(cut.rows) * across, |task, worker| {
                let row = task / across * cut.rows;
                let column = group.start + task % across * cut.columns;
                let bytes = cut.own(g) + cut.chain(size_of::<T>());
                // SAFETY: each thread has a part of its own.
                let own = unsafe { own.part(worker * bytes..(worker + 1) * bytes) };
                let rows = row..(row + cut.rows).min(g.m);
                let columns = column..(column + cut.columns).min(group.end);
                self.block(rows, columns, &group, shared, own);
            });
        }
    }

    /// Runs tasks on the pool, or here if they are not worth waking other threads.
    fn tasks(&self, pool: &Pool, tasks: usize, f: impl Fn(usize, usize) + Sync) {
        if self.g.m * self.g.n * self.g.k <= SERIAL {
            (0..tasks).for_each(|task| f(task, 0));
        } else {
            pool.run(tasks, f);
        }
    }

    /// Packs A, or the columns of B in `group`, strip by strip.
    fn pack_shared(&self, pool: &Pool, shared: &mut [u8], group: &Range<usize>) {
        let Product { g, cut, .. } = self;
        let (source, width, columns) =
            if cut.share_a { (self.a, cut.tile_rows, 0..g.m) } else { (self.b, cut.tile_columns, group.clone()) };
        let shared = Disjoint::new(shared);
        // A slice of k and eight strips a task: rows of the source are read in long pieces.
        let strips = 8;
        let across = columns.len().div_ceil(strips * width);
        self.tasks(pool, g.k.div_ceil(cut.slice) * across, |task, _| {
            let (k, first) = (task / across * cut.slice, task % across * strips);
            let k = k..(k + cut.slice).min(g.k);
            let stride = k.len().div_ceil(cut.depth) * width;
            let at = cut.slice_start(&k, columns.len(), width) + first * stride;
            let columns = columns.start + first * width..(columns.start + (first + strips) * width).min(columns.end);
            let len = columns.len().div_ceil(width) * stride;
            // SAFETY: the strips of a slice lie one after the other, and each belongs to one task.
            let out = unsafe { shared.part(at * cut.bytes..(at + len) * cut.bytes) };
            T::dispatch(Pack { source, columns, k, width, stride, bf16: g.compute == Compute::Bf16, out });
        });
    }

    /// One block of C; `group` are the columns in the shared operand.
    fn block(&self, rows: Range<usize>, columns: Range<usize>, group: &Range<usize>, shared: &[u8], own: &mut [u8]) {
        let Product { g, cut, .. } = self;
        let bf16 = g.compute == Compute::Bf16;
        let (own, chain) = own.split_at_mut(cut.own(g));
        let chain: &mut [T] = bytemuck::cast_slice_mut(chain);
        let at = rows.start * self.ldc + columns.start;
        // SAFETY: the block lies inside C, as `check` saw, and is this task's alone.
        let c = unsafe { self.c.as_mut_ptr().add(at) };
        let (target, ld) = if cut.aside { (chain.as_mut_ptr(), columns.len()) } else { (c, self.ldc) };
        for k in (0..g.k).step_by(cut.slice) {
            let k = k..(k + cut.slice).min(g.k);
            let steps = k.len().div_ceil(cut.depth);
            let (source, width, packed) = if cut.share_a {
                (self.b, cut.tile_columns, columns.clone())
            } else {
                (self.a, cut.tile_rows, rows.clone())
            };
            let own_stride = steps * width;
            T::dispatch(Pack { source, columns: packed, k: k.clone(), width, stride: own_stride, bf16, out: own });
            let (shared_width, all, first_strip) = if cut.share_a {
                (cut.tile_rows, g.m, 0)
            } else {
                (cut.tile_columns, group.len(), (columns.start - group.start) / cut.tile_columns)
            };
            let shared_stride = steps * shared_width;
            let at = cut.slice_start(&k, all, shared_width) + first_strip * shared_stride;
            let shared = &shared[at * cut.bytes..];
            let start = match () {
                _ if k.start > 0 => Start::Continue,
                _ if g.accumulate && !cut.aside => Start::Add,
                _ => Start::Zero,
            };
            let (a, a_stride, b, b_stride) = if cut.share_a {
                (shared, shared_stride, &*own, own_stride)
            } else {
                (&*own, own_stride, shared, shared_stride)
            };
            let (m, n) = (rows.len(), columns.len());
            T::dispatch(Tiles { m, n, steps, a, a_stride, b, b_stride, bf16, start, c: target, ldc: ld });
        }
        if cut.aside {
            for (i, chain) in chain.chunks_exact(columns.len()).take(rows.len()).enumerate() {
                // SAFETY: a row of the block, this task's alone.
                let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * self.ldc), columns.len()) };
                c.iter_mut().zip(chain).for_each(|(c, &x)| *c += x);
            }
        }
    }
}

#[cfg(test)]
mod tests;
