//! Products inside one task: for kernels such as attention, whose tiles are products of a few
//! dozen rows. No pool, the caller's scratch, the same chains as [`gemm`](super::gemm()).

use super::pack::{Pack, Source};
use super::tile::{Start, Tiles};
use super::{ALIGN, Compute, aligned, tile_shape};
use crate::Real;

/// Bytes of a packed operand of `width` rows of A or columns of B and `k` elements along the reduction.
pub fn packed_bytes<T: Real>(width: usize, k: usize, compute: Compute, rows_of_a: bool) -> usize {
    let (tile_rows, tile_columns) = tile_shape(size_of::<T>());
    let width = width.next_multiple_of(if rows_of_a { tile_rows } else { tile_columns });
    let bytes = match compute {
        Compute::F32 => width * k * size_of::<T>(),
        Compute::Bf16 => width * k.div_ceil(2) * 4,
    };
    bytes.next_multiple_of(ALIGN)
}

fn pack<T: Real>(width: usize, source: Source<T>, columns: usize, k: usize, compute: Compute, out: &mut [u8]) {
    let depth = if compute == Compute::Bf16 { 2 } else { 1 };
    T::dispatch(Pack {
        source,
        columns: 0..columns,
        k: 0..k,
        width,
        stride: k.div_ceil(depth) * width,
        bf16: compute == Compute::Bf16,
        out,
    });
}

/// Packs op(A) [m, k] (in memory [m, k], or [k, m] if `trans`, rows `ld` apart) into `out` of [`packed_bytes`],
/// aligned to 8 bytes.
pub fn pack_rows<T: Real>(a: &[T], ld: usize, trans: bool, m: usize, k: usize, compute: Compute, out: &mut [u8]) {
    let source = Source { data: a, ld, k_neighbours: !trans };
    pack(tile_shape(size_of::<T>()).0, source, m, k, compute, out);
}

/// Packs op(B) [k, n] (in memory [k, n], or [n, k] if `trans`, rows `ld` apart) into `out` of [`packed_bytes`],
/// aligned to 8 bytes.
pub fn pack_columns<T: Real>(b: &[T], ld: usize, trans: bool, k: usize, n: usize, compute: Compute, out: &mut [u8]) {
    let source = Source { data: b, ld, k_neighbours: trans };
    pack(tile_shape(size_of::<T>()).1, source, n, k, compute, out);
}

/// A product of packed operands: `C[m, n]` from op(A) [m, k] and op(B) [k, n].
#[derive(Clone, Copy, Debug)]
pub struct PackedBlock {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the reduction.
    pub k: usize,
    /// The type in which operands meet.
    pub compute: Compute,
    /// Where the chains start and what becomes of C.
    pub start: Start,
}

impl PackedBlock {
    /// Computes C, rows `ldc` apart, from operands of [`pack_rows`] and [`pack_columns`].
    pub fn run<T: Real>(&self, a: &[u8], b: &[u8], c: &mut [T], ldc: usize) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        super::check("C", c.len(), self.m, self.n, ldc);
        let (tile_rows, tile_columns) = tile_shape(size_of::<T>());
        let steps = if self.compute == Compute::Bf16 { self.k.div_ceil(2) } else { self.k };
        T::dispatch(Tiles {
            m: self.m,
            n: self.n,
            steps,
            a,
            a_stride: steps * tile_rows,
            b,
            b_stride: steps * tile_columns,
            bf16: self.compute == Compute::Bf16,
            start: self.start,
            c: c.as_mut_ptr(),
            ldc,
        });
    }
}

/// Bytes of scratch that [`gemm_block`] needs.
pub fn gemm_block_scratch<T: Real>(block: &PackedBlock) -> usize {
    let PackedBlock { m, n, k, compute, .. } = *block;
    ALIGN + packed_bytes::<T>(m, k, compute, true) + packed_bytes::<T>(n, k, compute, false)
}

/// A product of matrices as they lie: packs both into `scratch` of [`gemm_block_scratch`], then multiplies.
pub fn gemm_block<T: Real>(
    block: &PackedBlock,
    (a, lda, a_trans): (&[T], usize, bool),
    (b, ldb, b_trans): (&[T], usize, bool),
    c: &mut [T],
    ldc: usize,
    scratch: &mut [u8],
) {
    let PackedBlock { m, n, k, compute, .. } = *block;
    let scratch = aligned(scratch);
    let (a_packed, rest) = scratch.split_at_mut(packed_bytes::<T>(m, k, compute, true));
    let b_packed = &mut rest[..packed_bytes::<T>(n, k, compute, false)];
    pack_rows(a, lda, a_trans, m, k, compute, a_packed);
    pack_columns(b, ldb, b_trans, k, n, compute, b_packed);
    block.run(a_packed, b_packed, c, ldc);
}
