//! y[m, n] = x[m, k] · W[n, k]ᵀ for weights in any storage format, straight from the file's bytes.
//!
//! Block formats: x is quantized to int8 in blocks as long as the format's, with one f32 scale each. For
//! each block of a row of x and a weight row, in ascending order,
//! `y = fma(fma(Σ_s min_s · -sum_s, minus_min, d · Σ_s scale_s · dot_s), x_scale, y)`: `dot_s = Σ (code -
//! zero) · x_code` over sub-block `s`, `sum_s` the sum of x's codes, and both sums over `s` are exact integers,
//! rounded to f32 once. NVFP4, whose scales of sub-blocks are floats: a chain over `s` of `fma(dot_s, scale_s, sum)`. F32,
//! F16: one chain of fused multiply-adds over k. BF16: x is rounded to bf16, a chain over pairs as `vdpbf16ps` computes it. FP6: the
//! same from 0 on in each part of 32, then `y = fma(sum, d, y)`.
//!
//! The **row law** holds by construction: no sum depends on m, n, threads or splits. Every instruction set
//! runs the same operations in the same order on its lanes, so results are bit for bit the same on all.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod columns;
mod embed;
mod float;
mod grouped;
mod int4_fp8;
mod lanes;
mod leaf;
mod portable;
mod prefetch;
mod small_float;
mod tile;

pub use embed::embed;
pub use grouped::{Group, Stack, grouped_scratch, linear_grouped};
pub use int4_fp8::{Int4Fp8, Int4Fp8Error, int4_fp8, int4_fp8_scratch};

use crate::disjoint::Disjoint;
use crate::{Isa, Pool, isa};
use activations::{Activations, PART};
use leaf::{Columns, Job, Leaf};
use memwall_formats::Dtype;

/// A weight matrix: `n` rows of `k` values as they lie in a GGUF or safetensors file.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// Storage format.
    pub dtype: Dtype,
    /// The rows, one after another; any alignment.
    pub bytes: &'a [u8],
    /// Rows: outputs.
    pub n: usize,
    /// Values in a row: inputs.
    pub k: usize,
}

/// How x is prepared for a format.
#[derive(Clone, Copy, PartialEq)]
enum Prepared {
    /// Codes with one scale for so many parts of 32.
    Int8 {
        parts: usize,
    },
    Bf16,
    AsIs,
}

/// All of them.
const KINDS: [Prepared; 6] = [
    Prepared::Int8 { parts: 1 },
    Prepared::Int8 { parts: 2 },
    Prepared::Int8 { parts: 4 },
    Prepared::Int8 { parts: 8 },
    Prepared::Bf16,
    Prepared::AsIs,
];

const ALIGN: usize = 64;

fn prepared(dtype: Dtype) -> Prepared {
    match dtype {
        Dtype::F32 | Dtype::F16 => Prepared::AsIs,
        Dtype::BF16 | Dtype::FP6 => Prepared::Bf16,
        _ => Prepared::Int8 { parts: dtype.block_len() / PART },
    }
}

/// Whether weights of this format are multiplied with integers of eight bits.
pub fn reads_int8(dtype: Dtype) -> bool {
    matches!(prepared(dtype), Prepared::Int8 { .. })
}

/// Bytes of prepared x, a multiple of [`ALIGN`].
fn prepared_bytes(kind: Prepared, m: usize, k: usize) -> usize {
    let bytes = match kind {
        Prepared::Int8 { .. } => m * k / PART * size_of::<Activations>(),
        Prepared::Bf16 => m * k.div_ceil(2) * 4,
        Prepared::AsIs => 0,
    };
    bytes.next_multiple_of(ALIGN)
}

/// Bytes of the tile of one thread, a multiple of [`ALIGN`].
const fn tile_bytes(kind: Prepared, m: usize) -> usize {
    if m <= leaf::FEW {
        return 0;
    }
    match kind {
        Prepared::Int8 { .. } => tile::TILE_BYTES,
        _ => float::TILE_BYTES,
    }
}

/// Bytes of scratch that [`linear`] needs. For [`linear_many`]: the largest over its weights.
pub fn linear_scratch(dtype: Dtype, m: usize, n: usize, k: usize, threads: usize) -> usize {
    let _ = n;
    let kind = prepared(dtype);
    ALIGN + prepared_bytes(kind, m, k) + threads.max(1) * tile_bytes(kind, m)
}

/// y[m, n] = x[m, k] · W[n, k]ᵀ; `scratch` has at least [`linear_scratch`] bytes.
///
/// # Panics
/// If a slice has the wrong length, rows of W are no whole blocks, or W is F64 or I32.
pub fn linear(pool: &Pool, w: Weights<'_>, x: &[f32], m: usize, y: &mut [f32], scratch: &mut [u8]) {
    linear_many(pool, &[w], x, m, &mut [y], scratch);
}

/// Several products with one x: y_i[m, n_i] = x[m, k] · W_i[n_i, k]ᵀ, x prepared once and the threads woken once.
///
/// # Panics
/// As [`linear`]; also if the weights' `k` differ or there are not as many outputs as weights.
pub fn linear_many(pool: &Pool, ws: &[Weights<'_>], x: &[f32], m: usize, ys: &mut [&mut [f32]], scratch: &mut [u8]) {
    run(isa(), pool, ws, x, Scales::OfBlocks, m, ys, scratch);
}

/// As [`linear`], with one scale for all codes of a row of x where the weights are stored in blocks: `code =
/// round_to_even(x · (127 / amax))` over the row. Of rows that are integers up to 127 times a scale and reach 127 of it, the
/// codes are those integers.
///
/// # Panics
/// As [`linear`].
pub fn linear_by_row(pool: &Pool, w: Weights<'_>, x: &[f32], m: usize, y: &mut [f32], scratch: &mut [u8]) {
    run(isa(), pool, &[w], x, Scales::OfRows, m, &mut [y], scratch);
}

/// How much of x shares a scale where weights are stored in blocks.
#[derive(Clone, Copy, PartialEq)]
enum Scales {
    OfBlocks,
    OfRows,
}

/// [`linear_many`] on an instruction set that the processor has.
fn run(
    isa: Isa,
    pool: &Pool,
    ws: &[Weights<'_>],
    x: &[f32],
    scales: Scales,
    m: usize,
    ys: &mut [&mut [f32]],
    scratch: &mut [u8],
) {
    assert_eq!(ws.len(), ys.len(), "linear: {} weights, {} outputs", ws.len(), ys.len());
    for (w, y) in ws.iter().zip(ys.iter()) {
        check(w, x, m, y);
        let need = linear_scratch(w.dtype, m, w.n, w.k, pool.threads());
        assert!(scratch.len() >= need, "linear: {} bytes of scratch, {need} needed", scratch.len());
    }
    if m == 0 {
        return;
    }
    let aligned = scratch.as_ptr().align_offset(ALIGN);
    let scratch = &mut scratch[aligned..];
    for kind in KINDS {
        if ws.iter().any(|w| prepared(w.dtype) == kind) {
            run_kind(isa, pool, kind, ws, x, scales, m, ys, scratch);
        }
    }
}

fn check(w: &Weights<'_>, x: &[f32], m: usize, y: &[f32]) {
    let Weights { dtype, bytes, n, k } = *w;
    assert!(!matches!(dtype, Dtype::F64 | Dtype::I32), "linear: no product with {dtype} weights");
    let row_bytes = dtype.row_bytes(k).unwrap_or_else(|| panic!("linear: rows of {k} are no whole blocks of {dtype}"));
    assert_eq!(bytes.len(), n * row_bytes, "linear: bytes of [{n}, {k}] weights in {dtype}");
    assert_eq!(x.len(), m * k, "linear: values of x [{m}, {k}]");
    assert_eq!(y.len(), m * n, "linear: values of y [{m}, {n}]");
}

/// Values of x that are worth preparing on all threads.
const PARALLEL_PREPARE: usize = 1 << 17;

/// Multiplications (m · n · k) below which one thread is faster than waking the others.
const PARALLEL_PRODUCT: usize = 1 << 16;

fn run_kind(
    isa: Isa,
    pool: &Pool,
    kind: Prepared,
    ws: &[Weights<'_>],
    x: &[f32],
    scales: Scales,
    m: usize,
    ys: &mut [&mut [f32]],
    scratch: &mut [u8],
) {
    let Some(k) = ws.iter().find(|w| prepared(w.dtype) == kind).map(|w| w.k) else { return };
    let (room, tiles) = scratch.split_at_mut(prepared_bytes(kind, m, k));
    let (ready, terms) = prepare(isa, pool, kind, x, scales, m, k, room);

    let is_ours = |w: &Weights<'_>| prepared(w.dtype) == kind && w.n > 0;
    let outputs = Outputs(ys.as_mut_ptr().cast());
    let tasks: usize = ws.iter().filter(|w| is_ours(w)).map(|w| w.n.div_ceil(task_columns(w.n, m))).sum();
    let work: usize = ws.iter().filter(|w| is_ours(w)).map(|w| m * w.n * k).sum();
    let tile = tile_bytes(kind, m);
    let tiles = Disjoint::new(tiles);
    let threads = pool.threads();

    let task = |task: usize, worker: usize| {
        let mut first = task;
        for (i, w) in ws.iter().enumerate().filter(|(_, w)| is_ours(w)) {
            let width = task_columns(w.n, m);
            let tasks = w.n.div_ceil(width);
            if first >= tasks {
                first -= tasks;
                continue;
            }
            // SAFETY: i is below the number of outputs; only the pointer is read, no reference is made.
            let y = unsafe { outputs.at(i) };
            let job =
                Job { w: w.bytes.as_ptr(), row_bytes: w.bytes.len() / w.n, n: w.n, m, terms, x: ready.as_ptr(), y };
            let begin = first * width;
            let columns = Columns { begin, end: w.n.min(begin + width), next: begin + threads * width };
            // SAFETY: lengths were checked, columns of tasks are disjoint, every worker has a tile of its own.
            return unsafe { dispatch(isa, w.dtype, &job, columns, tiles.as_mut_ptr().wrapping_add(worker * tile)) };
        }
    };
    if work < PARALLEL_PRODUCT {
        (0..tasks).for_each(|t| task(t, 0));
    } else {
        pool.run(tasks, task);
    }
}

/// Columns of one task: fixed by the shape, so that splits do not depend on the threads.
fn task_columns(n: usize, m: usize) -> usize {
    if m <= leaf::FEW {
        // Long enough that what is asked for ahead of a task's end is small beside the task.
        if n >= 4096 { 128 } else { 64 }
    } else if m < 64 {
        64
    } else {
        // Wide enough for a slice of x to be used several times, narrow enough to share out.
        (n / 16).next_multiple_of(32).clamp(32, 256)
    }
}

/// x as the kernels of a kind read it, and its terms (blocks or words) in a row.
fn prepare<'a>(
    isa: Isa,
    pool: &Pool,
    kind: Prepared,
    x: &'a [f32],
    scales: Scales,
    m: usize,
    k: usize,
    room: &'a mut [u8],
) -> (&'a [u8], usize) {
    if kind == Prepared::AsIs {
        return (bytemuck::cast_slice(x), k);
    }
    let (row_words, terms) = row_layout(kind, k);
    let room = &mut room[..m * row_words * 4];
    let words = Disjoint::new(bytemuck::cast_slice_mut::<u8, u32>(&mut *room));
    // SAFETY: rows are disjoint.
    let row = |i: usize| unsafe { prepare_row(isa, kind, &x[i * k..(i + 1) * k], scales, m, i, &words, 0) };
    if k == 0 {
    } else if m * k < PARALLEL_PREPARE || m == 1 {
        (0..m).for_each(row);
    } else {
        const ROWS: usize = 16;
        pool.run(m.div_ceil(ROWS), |task, _| (task * ROWS..m.min((task + 1) * ROWS)).for_each(row));
    }
    (room, terms)
}

/// Words of a prepared row, and its terms (blocks or words).
fn row_layout(kind: Prepared, k: usize) -> (usize, usize) {
    match kind {
        Prepared::Int8 { .. } => (k / PART * size_of::<Activations>() / 4, k / PART),
        Prepared::Bf16 => (k.div_ceil(2), k.div_ceil(2)),
        Prepared::AsIs => (k, k),
    }
}

/// Prepares row `i` of `m`, which lie in `words` from `base` on. Many rows are stored slice by slice of the reduction, so that
/// a slice is read from end to end.
///
/// # Safety
/// No two calls at a time write the same row.
unsafe fn prepare_row(
    isa: Isa,
    kind: Prepared,
    x: &[f32],
    scales: Scales,
    m: usize,
    i: usize,
    words: &Disjoint<'_, u32>,
    base: usize,
) {
    let (row_words, terms) = row_layout(kind, x.len());
    let slice = if m <= leaf::FEW { terms } else { tile::SLICE_BLOCKS };
    let part = |begin: usize, len: usize| {
        let at = |term: usize| base + term * row_words / terms;
        // SAFETY: rows are disjoint, and so are the slices of a row.
        unsafe { words.part(at(begin)..at(begin + len)) }
    };
    match kind {
        Prepared::Int8 { parts } => {
            let given = (scales == Scales::OfRows).then(|| activations::greatest(x));
            for (s, x) in x.chunks(slice * PART).enumerate() {
                let len = x.len() / PART;
                let room = part(s * slice * m + i * len, len);
                activations::quantize(isa, x, parts, given, bytemuck::cast_slice_mut(room));
            }
        }
        Prepared::Bf16 => activations::pair_bf16(isa, x, part(i * terms, terms)),
        Prepared::AsIs => part(i * terms, terms).copy_from_slice(bytemuck::cast_slice(x)),
    }
}

/// The outputs, of which tasks write disjoint columns.
struct Outputs<'a>(*mut &'a mut [f32]);
// SAFETY: tasks write disjoint columns.
unsafe impl Sync for Outputs<'_> {}

impl Outputs<'_> {
    /// The first value of output `i`.
    ///
    /// # Safety
    /// `i` is below the number of outputs.
    unsafe fn at(&self, i: usize) -> *mut f32 {
        // SAFETY: as the caller promises; the raw borrow of the place behind the reference makes no reference to it.
        unsafe { (&raw mut **self.0.add(i)).cast() }
    }
}

/// One task on the instruction set in use.
///
/// # Safety
/// The job holds what it says; the tile is large enough.
unsafe fn dispatch(isa: Isa, dtype: Dtype, job: &Job, columns: Columns, tile: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => by_format::<avx512::Avx512>(dtype, job, columns, tile),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => by_format::<avx2::Avx2>(dtype, job, columns, tile),
            _ => by_format::<portable::Portable>(dtype, job, columns, tile),
        }
    }
}

/// One task of a format.
///
/// # Safety
/// As [`dispatch`]; the processor has the instruction set.
unsafe fn by_format<L: Leaf>(dtype: Dtype, job: &Job, columns: Columns, tile: *mut u8) {
    use leaf::{block_task, float_task};
    // SAFETY: as the caller promises.
    unsafe {
        match dtype {
            Dtype::F32 => float_task::<L, float::F32>(job, columns, tile),
            Dtype::F16 => float_task::<L, float::F16>(job, columns, tile),
            Dtype::BF16 => float_task::<L, float::BF16>(job, columns, tile),
            Dtype::FP6 => float_task::<L, small_float::Fp6>(job, columns, tile),
            Dtype::Q8_0 => block_task::<L, block::Q8_0>(job, columns, tile),
            Dtype::Q4_0 => block_task::<L, block::Q4_0>(job, columns, tile),
            Dtype::Q4_1 => block_task::<L, block::Q4_1>(job, columns, tile),
            Dtype::Q5_0 => block_task::<L, block::Q5_0>(job, columns, tile),
            Dtype::Q5_1 => block_task::<L, block::Q5_1>(job, columns, tile),
            Dtype::Q2_K => block_task::<L, block::Q2K>(job, columns, tile),
            Dtype::Q3_K => block_task::<L, block::Q3K>(job, columns, tile),
            Dtype::Q4_K => block_task::<L, block::Q4K>(job, columns, tile),
            Dtype::Q5_K => block_task::<L, block::Q5K>(job, columns, tile),
            Dtype::Q6_K => block_task::<L, block::Q6K>(job, columns, tile),
            Dtype::IQ4_NL => block_task::<L, block::Iq4Nl>(job, columns, tile),
            Dtype::IQ4_XS => block_task::<L, block::Iq4Xs>(job, columns, tile),
            Dtype::TQ1_0 => block_task::<L, block::Tq1_0>(job, columns, tile),
            Dtype::TQ2_0 => block_task::<L, block::Tq2_0>(job, columns, tile),
            Dtype::MXFP4 => block_task::<L, block::Mxfp4>(job, columns, tile),
            Dtype::NVFP4 => block_task::<L, block::Nvfp4>(job, columns, tile),
            Dtype::Q1_0 => block_task::<L, block::Q1_0>(job, columns, tile),
            Dtype::Q2_0 => block_task::<L, block::Q2_0>(job, columns, tile),
            Dtype::F64 | Dtype::I32 => unreachable!("refused by check"),
        }
    }
}

#[cfg(test)]
mod tests;
