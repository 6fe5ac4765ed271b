//! The chunked form: the tokens of a chunk solved together, states handed from chunk to chunk.
//!
//! A task is a head of a sequence.

use super::chunk::{Chunk, chunk_tokens, product_bytes, sizes};
use super::solve::{Solver, solver_elements};
use super::{Forward, Ridge};
use crate::gemm::Compute;
use crate::gla::products::{elements, read, worker_scratch, write};
use crate::gla::state_of;
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};

pub(super) fn forward_elements<T: Real>(ridge: &Ridge, longest: usize) -> usize {
    let (width, chunk) = (ridge.width, chunk_tokens(ridge, longest));
    elements(&sizes(chunk, width))
        + solver_elements::<T>(width, chunk)
        + elements(&[width * width, chunk * width])
        + product_bytes::<T>(width, chunk).div_ceil(size_of::<T>())
}

pub(super) fn forward<T: Real>(pool: &Pool, ridge: &Ridge, f: &Forward<T>, longest: usize) {
    let chunk = chunk_tokens(ridge, longest);
    pool.run(f.x.sequences * f.x.heads, |task, worker| T::dispatch(Task { f, ridge, chunk, task, worker }));
}

struct Task<'a, T> {
    f: &'a Forward<T>,
    ridge: &'a Ridge,
    chunk: usize,
    task: usize,
    worker: usize,
}

/// Copies the state before a sequence, zero if there is none.
///
/// # Safety
/// The state lies there.
pub(super) unsafe fn first_state<T: Real>(states: *const T, at: usize, to: &mut [T]) {
    // SAFETY: the caller's.
    match unsafe { state_of(states, at, to.len()) } {
        Some(state) => to.copy_from_slice(state),
        None => to.fill(T::ZERO),
    }
}

impl<T: Real> Kernel<T> for Task<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let (f, x) = (self.f, &self.f.x);
        let (sequence, head) = (self.task / x.heads, self.task % x.heads);
        let size = x.width * x.width;
        let bytes = product_bytes::<T>(x.width, self.chunk);
        // SAFETY: the scratch has `forward_elements` for each worker.
        let (mut arrays, mut products) =
            unsafe { worker_scratch(f.scratch, f.scratch_elements, self.worker, bytes, Compute::F32) };
        let mut chunk = Chunk::new(x, self.chunk, &mut arrays);
        let mut solver = Solver::new(self.ridge, self.chunk, &mut arrays);
        let state = &mut arrays.take(size)[..size];
        let rows = arrays.take(self.chunk * x.width);
        let state_at = x.state(sequence, head);
        // SAFETY: the state of this head of this sequence.
        unsafe { first_state(x.initial_state, state_at, state) };
        let (start, end) = x.range(sequence);
        for at in (start..end).step_by(self.chunk) {
            let n = self.chunk.min(end - at);
            // SAFETY: the sequence has these tokens.
            unsafe {
                chunk.read(s, x, at, n, head);
                read(x.rows(x.q, at, n, head), rows);
            }
            chunk.norms(s, &mut products, state);
            solver.solve(s, &chunk, state, rows);
            chunk.advance(&mut products, state);
            // SAFETY: the outputs of this head of this sequence are this task's own.
            unsafe { write(rows, x.rows(f.out, at, n, head), false) };
        }
        // SAFETY: as above.
        unsafe { f.final_state.add(state_at).copy_from_nonoverlapping(state.as_ptr(), size) };
    }
}
