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
//! the other by each task, `SLICE` elements of k at a time, or once too if several tasks read the
//! same part and it is small. Tasks are blocks of C.

mod block;
mod pack;
mod tile;

pub use block::{PackedBlock, gemm_block, gemm_block_scratch, pack_columns, pack_rows, packed_bytes};
pub(crate) use pack::{Operand, Pairs, Plain, from_columns, from_rows};
pub use tile::Start;

use crate::disjoint::Disjoint;
use crate::{Pool, Real};
use pack::Pack;
pub(crate) use pack::Source;
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
/// Up to here A is packed once if tasks side by side read the same rows of it.
const SHARED_A_BYTES: usize = 6 << 20;
/// Bytes along k that a task packs at a time, over all columns of a strip: 256 elements of f32.
const SLICE: usize = 256;
/// Rows of C in a task, a multiple of every instruction set's tile rows.
const BLOCK_ROWS: usize = 96;
/// Up to here rows count as few: A is shared, and tasks are blocks of columns.
const FEW_ROWS: usize = 96;
/// Most columns of C in a task of many rows, and of few.
const WIDE: usize = 1024;
const WIDE_FEW: usize = 128;
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
    share_b: bool,
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
        let few = self.m <= FEW_ROWS;
        let all_columns = self.n.next_multiple_of(tile_columns);
        let steps = self.k.div_ceil(depth);
        let group = if few {
            all_columns
        } else {
            (SHARED_BYTES / (steps * bytes) / tile_columns * tile_columns).max(GROUP_COLUMNS).min(all_columns)
        };
        let mut rows = if few { self.m } else { BLOCK_ROWS };
        let mut columns = group.min(if few { WIDE_FEW } else { WIDE });
        let tasks = |rows: usize, columns: usize| self.m.div_ceil(rows) * group.div_ceil(columns);
        let halve = |x: usize, unit: usize| (x / 2).next_multiple_of(unit).max(unit);
        for (fewest_rows, fewest_columns) in [(BLOCK_ROWS, 256), (48, 256), (48, 128), (24, 128), (24, 1)] {
            while tasks(rows, columns) < TASKS && columns > fewest_columns.max(tile_columns) {
                columns = halve(columns, tile_columns);
            }
            while !few && tasks(rows, columns) < TASKS && rows > fewest_rows {
                rows /= 2;
            }
        }
        // Tasks side by side read the same rows of A.
        let again = self.n > columns && steps * self.m.next_multiple_of(tile_rows) * bytes <= SHARED_A_BYTES;
        let (share_a, share_b) = (few || again, !few);
        Cut { tile_rows, tile_columns, bytes, depth, slice, share_a, share_b, rows, columns, group, aside }
    }
}

impl Cut {
    /// Bytes of A packed for all tasks.
    fn shared_a(&self, g: &Gemm) -> usize {
        if self.share_a { self.packed(g.k, g.m.next_multiple_of(self.tile_rows)) } else { 0 }
    }

    /// Bytes of a group of columns of B packed for all tasks.
    fn shared_b(&self, g: &Gemm) -> usize {
        if self.share_b { self.packed(g.k, self.group) } else { 0 }
    }

    /// Bytes of `width` packed columns of `k` elements.
    fn packed(&self, k: usize, width: usize) -> usize {
        (k.div_ceil(self.depth) * width * self.bytes).next_multiple_of(ALIGN)
    }

    /// The strips of slice `k` from column `first` on, in a shared operand of `columns` columns.
    fn strips<'a>(&self, shared: &'a [u8], k: &Range<usize>, columns: usize, first: usize, width: usize) -> &'a [u8] {
        let at = self.slice_start(k, columns, width) + first * k.len().div_ceil(self.depth);
        &shared[at * self.bytes..]
    }

    /// Where a slice of k starts in the shared operand of `columns` columns, in operands.
    fn slice_start(&self, k: &Range<usize>, columns: usize, width: usize) -> usize {
        k.start / self.depth * columns.next_multiple_of(width)
    }

    /// Bytes of the operand that a thread packs for itself.
    fn own(&self, g: &Gemm) -> usize {
        match (self.share_a, self.share_b) {
            (true, true) => 0,
            (true, false) => self.packed(g.k.min(self.slice), self.columns),
            (false, _) => self.packed(g.k.min(self.slice), self.rows.next_multiple_of(self.tile_rows)),
        }
    }

    /// Bytes of a block of C that is summed aside.
    fn chain(&self, elem_bytes: usize) -> usize {
        if self.aside { (self.rows * self.columns * elem_bytes).next_multiple_of(ALIGN) } else { 0 }
    }
}

fn tile_shape(elem_bytes: usize) -> (usize, usize) {
    if elem_bytes == 4 { f32::dispatch(TileShape) } else { f64::dispatch(TileShape) }
}

/// Columns of a strip of the packed second operand in [`Compute::F32`]: rows of so many elements, as they lie, are one.
pub(crate) fn strip_columns<T: Real>() -> usize {
    tile_shape(size_of::<T>()).1
}

/// Bytes of scratch that [`gemm`] needs for elements of `elem_bytes` (4 or 8) on `threads` threads, for `g` and for every
/// product that differs from it by fewer rows `m` or a shorter sum `k`: run-time dimensions are planned by their maximum.
pub fn gemm_scratch(g: &Gemm, elem_bytes: usize, threads: usize) -> usize {
    if g.m == 0 || g.n == 0 || g.k == 0 {
        return 0;
    }
    let (tile_rows, tile_columns) = tile_shape(elem_bytes);
    let cut = g.cut(tile_rows, tile_columns, elem_bytes);
    // How a smaller product is cut is no function of how this one is: the bounds are those of `cut`, each at its largest.
    let few = cut.packed(g.k, g.m.min(FEW_ROWS).next_multiple_of(tile_rows));
    let shared_a = few.max(cut.packed(g.k, g.m.next_multiple_of(tile_rows)).min(SHARED_A_BYTES));
    let columns = g.n.next_multiple_of(tile_columns);
    let group = cut.packed(g.k, GROUP_COLUMNS.next_multiple_of(tile_columns)).max(SHARED_BYTES);
    let shared_b = if g.m > FEW_ROWS { cut.packed(g.k, columns).min(group) } else { 0 };
    let rows = g.m.min(BLOCK_ROWS.max(FEW_ROWS)).next_multiple_of(tile_rows);
    let own = cut.packed(g.k.min(cut.slice), columns.min(WIDE_FEW.next_multiple_of(tile_columns)).max(rows));
    let chain = if cut.aside { rows * columns.min(WIDE.next_multiple_of(tile_columns)) * elem_bytes } else { 0 };
    ALIGN + shared_a + shared_b + threads * (own + chain.next_multiple_of(ALIGN))
}

impl Cut {
    /// Bytes of scratch of the product `g`, which is cut like this, beside those of alignment.
    fn scratch(&self, g: &Gemm, elem_bytes: usize, threads: usize) -> usize {
        self.shared_a(g) + self.shared_b(g) + threads * (self.own(g) + self.chain(elem_bytes))
    }
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
    let (tile_rows, tile_columns) = tile_shape(size_of::<T>());
    let cut = g.cut(tile_rows, tile_columns, size_of::<T>());
    let needed = ALIGN + cut.scratch(&g, size_of::<T>(), pool.threads());
    assert!(scratch.len() >= needed, "scratch of {} bytes, the product needs {needed}", scratch.len());
    let scratch = aligned(scratch);
    let (shared_a, rest) = scratch.split_at_mut(cut.shared_a(&g));
    let (shared_b, own) = rest.split_at_mut(cut.shared_b(&g));
    let product = Product {
        g,
        cut,
        a: Source { data: a, ld: lda, k_neighbours: !g.a_trans },
        b: Source { data: b, ld: ldb, k_neighbours: g.b_trans },
        c: Disjoint::new(c),
        ldc,
    };
    product.run(pool, shared_a, shared_b, Disjoint::new(own));
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
    fn run(&self, pool: &Pool, shared_a: &mut [u8], shared_b: &mut [u8], own: Disjoint<u8>) {
        let Product { g, cut, .. } = self;
        if cut.share_a {
            self.pack_shared(pool, self.a, cut.tile_rows, 0..g.m, shared_a);
        }
        for first in (0..g.n).step_by(cut.group) {
            let group = first..(first + cut.group).min(g.n);
            if cut.share_b {
                self.pack_shared(pool, self.b, cut.tile_columns, group.clone(), shared_b);
            }
            let (shared_a, shared_b) = (&*shared_a, &*shared_b);
            let across = group.len().div_ceil(cut.columns);
            self.tasks(pool, g.m.div_ceil(cut.rows) * across, |task, worker| {
                let row = task / across * cut.rows;
                let column = group.start + task % across * cut.columns;
                let bytes = cut.own(g) + cut.chain(size_of::<T>());
                // SAFETY: each thread has a part of its own.
                let own = unsafe { own.part(worker * bytes..(worker + 1) * bytes) };
                let rows = row..(row + cut.rows).min(g.m);
                let columns = column..(column + cut.columns).min(group.end);
                self.block(rows, columns, &group, shared_a, shared_b, own);
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

    /// Packs `columns` of an operand, strip by strip.
    fn pack_shared(&self, pool: &Pool, source: Source<T>, width: usize, columns: Range<usize>, shared: &mut [u8]) {
        let Product { g, cut, .. } = self;
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

    /// One block of C; `group` are the columns in the shared part of B.
    fn block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        group: &Range<usize>,
        shared_a: &[u8],
        shared_b: &[u8],
        own: &mut [u8],
    ) {
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
            let (a_stride, b_stride) = (steps * cut.tile_rows, steps * cut.tile_columns);
            let packed = match (cut.share_a, cut.share_b) {
                (true, true) => None,
                (true, false) => Some((self.b, columns.clone(), cut.tile_columns)),
                (false, _) => Some((self.a, rows.clone(), cut.tile_rows)),
            };
            if let Some((source, columns, width)) = packed {
                let (k, stride) = (k.clone(), steps * width);
                T::dispatch(Pack { source, columns, k, width, stride, bf16, out: &mut *own });
            }
            let own = &*own;
            let a = if cut.share_a { cut.strips(shared_a, &k, g.m, rows.start, cut.tile_rows) } else { own };
            let b = match cut.share_b {
                true => cut.strips(shared_b, &k, group.len(), columns.start - group.start, cut.tile_columns),
                false => own,
            };
            let start = match () {
                _ if k.start > 0 => Start::Continue,
                _ if g.accumulate && !cut.aside => Start::Add,
                _ => Start::Zero,
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
