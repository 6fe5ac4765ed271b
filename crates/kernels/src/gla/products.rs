//! What the chunked forms work with: the arrays of a chunk, cut from a worker's scratch, and products of them.

use super::pack::Rows;
use crate::Real;
use crate::gemm::{Compute, PackedBlock, Start, gemm_block, gemm_block_scratch};
use crate::simd::Simd;

/// Elements beyond each array, for whole vectors.
const SLACK: usize = 16;

/// A matrix as it lies: elements, elements between rows, whether it is meant transposed.
pub(crate) type Operand<'a, T> = (&'a [T], usize, bool);

/// The matrix products of a task.
pub(crate) struct Products<'a> {
    pub compute: Compute,
    pub scratch: &'a mut [u8],
}

impl Products<'_> {
    /// Bytes for products of these shapes (m, n, k) in turn.
    pub(crate) fn scratch<T: Real>(shapes: &[(usize, usize, usize)], compute: Compute) -> usize {
        let bytes = |&(m, n, k): &(usize, usize, usize)| {
            gemm_block_scratch::<T>(&PackedBlock { m, n, k, compute, start: Start::Zero })
        };
        shapes.iter().map(bytes).max().unwrap_or(0)
    }

    /// c [m, n] = (or +=) a [m, k] b [k, n].
    pub(crate) fn product<T: Real>(
        &mut self,
        (m, n, k): (usize, usize, usize),
        a: Operand<'_, T>,
        b: Operand<'_, T>,
        c: &mut [T],
        ldc: usize,
        start: Start,
    ) {
        if m > 0 && n > 0 && k > 0 {
            gemm_block(&PackedBlock { m, n, k, compute: self.compute, start }, a, b, c, ldc, self.scratch);
        }
    }
}

/// Cuts arrays from a worker's scratch.
pub(crate) struct Arrays<'a, T>(&'a mut [T]);

impl<'a, T> Arrays<'a, T> {
    pub(crate) fn take(&mut self, n: usize) -> &'a mut [T] {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(n + SLACK);
        self.0 = rest;
        taken
    }
}

/// Elements that [`Arrays`] needs for arrays of these sizes.
pub(crate) fn elements(sizes: &[usize]) -> usize {
    sizes.iter().map(|n| n + SLACK).sum()
}

/// The sum of products of two rows.
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[S::E], b: &[S::E]) -> S::E {
    let mut sum = s.zero();
    for i in (0..a.len()).step_by(S::LANES) {
        let at = i..(i + S::LANES).min(a.len());
        sum = s.fma(s.load_any(&a[at.clone()]), s.load_any(&b[at]), sum);
    }
    s.sum(sum)
}

/// Copies rows of the tensors into an array.
///
/// # Safety
/// The rows are readable.
pub(crate) unsafe fn read<T: Real>(from: Rows<*const T>, to: &mut [T]) {
    for (t, row) in to.chunks_exact_mut(from.width).take(from.tokens).enumerate() {
        // SAFETY: the caller's.
        row.copy_from_slice(unsafe { std::slice::from_raw_parts(from.at.add(t * from.stride), from.width) });
    }
}

/// Copies an array into rows of the tensors, or adds it.
///
/// # Safety
/// The rows are the task's own.
pub(crate) unsafe fn write<T: Real>(from: &[T], to: Rows<*mut T>, add: bool) {
    for (t, row) in from.chunks_exact(to.width).take(to.tokens).enumerate() {
        // SAFETY: the caller's.
        let target = unsafe { std::slice::from_raw_parts_mut(to.at.add(t * to.stride), to.width) };
        if add {
            target.iter_mut().zip(row).for_each(|(y, x)| *y += *x);
        } else {
            target.copy_from_slice(row);
        }
    }
}

/// A worker's scratch: arrays of elements, then room for products.
///
/// # Safety
/// `scratch` has `elements` for each worker, and no other task has this worker's.
pub(crate) unsafe fn worker_scratch<'a, T: Real>(
    scratch: *mut T,
    elements: usize,
    worker: usize,
    products: usize,
    compute: Compute,
) -> (Arrays<'a, T>, Products<'a>) {
    // SAFETY: the caller's.
    let all = unsafe { std::slice::from_raw_parts_mut(scratch.add(worker * elements), elements) };
    let (arrays, rest) = all.split_at_mut(elements - products.div_ceil(size_of::<T>()));
    (Arrays(arrays), Products { compute, scratch: bytemuck::cast_slice_mut(rest) })
}
