//! The bodies of this folder compiled once for each instruction set, and the loops around them.

use super::activations::Activations;
use super::block::{BlockFormat, FLOAT, INTEGER, NONE};
use super::float::{self, FloatFormat};
use super::lanes::{Lanes, Rows};
use super::prefetch::{Pieces, Prefetch};
use super::small_float;
use super::tile::{self, SLICE_BLOCKS, VECTORS};

/// Rows of x up to which weights are unpacked in registers for all rows at once.
pub(super) const FEW: usize = 4;

/// Rows of x from which a task goes slice by slice through its columns, not column by column through slices.
const SLICES_OUTSIDE: usize = 64;

/// One weight matrix and its share of the call.
pub(super) struct Job {
    /// First weight row.
    pub w: *const u8,
    /// Bytes of a weight row.
    pub row_bytes: usize,
    /// Weight rows = columns of y.
    pub n: usize,
    /// Rows of x and y.
    pub m: usize,
    /// Blocks (or words) of x in a row.
    pub terms: usize,
    /// Prepared x: [`Activations`] or words.
    pub x: *const u8,
    /// Output of row 0, column 0.
    pub y: *mut f32,
}

// SAFETY: tasks read w and x, and each writes columns of y that no other one writes.
unsafe impl Sync for Job {}

/// Columns of one task, and where the thread will probably go on.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    /// First column.
    pub begin: usize,
    /// One past the last column.
    pub end: usize,
    /// First column of the next task of this thread, probably.
    pub next: usize,
}

impl Job {
    fn row(&self, column: usize) -> *const u8 {
        self.w.wrapping_add(column * self.row_bytes)
    }

    fn rows(&self, column: usize, lanes: usize) -> Rows {
        Rows::new(self.row(column), self.row_bytes, lanes, self.n - column)
    }

    /// The column whose rows follow those in use: in this task, or at the beginning of the next.
    fn after(&self, columns: Columns, column: usize) -> *const u8 {
        self.row(if column < columns.end { column } else { columns.next })
    }
}

/// Bodies compiled for an instruction set.
///
/// # Safety
/// The processor has the instruction set; jobs hold what they say; tiles have room.
pub(super) trait Leaf: Lanes {
    /// All columns of a task for `R` rows, from block formats.
    unsafe fn block_columns<F: BlockFormat, const R: usize>(job: &Job, columns: Columns);
    /// All columns of a task for `R` rows, from float formats.
    unsafe fn float_columns<F: FloatFormat, const R: usize>(job: &Job, columns: Columns);
    /// [`tile::fill`] of all vectors.
    unsafe fn block_fill<F: BlockFormat>(job: &Job, column: usize, first: usize, blocks: usize, tile: *mut u8);
    /// [`float::fill`] of all vectors.
    unsafe fn float_fill<F: FloatFormat>(job: &Job, column: usize, begin: usize, end: usize, tile: *mut u8);
    /// [`tile::rows`] for all rows.
    unsafe fn block_rows<const STEP: usize, const SUB: usize, const SCALES: u8, const MIN: bool, const ZERO: i32>(
        slice: &tile::Slice,
        m: usize,
        next: &mut Pieces,
        lines: usize,
    );
    /// [`float::rows`] for all rows.
    unsafe fn float_rows<const PAIRS: bool, const PART: usize>(
        slice: &float::Slice,
        m: usize,
        next: &mut Pieces,
        lines: usize,
    );
}

macro_rules! leaf {
    ($lanes:ty, $(#[$features:meta])?, block rows $one:literal $many:literal, float rows $float:literal $parts:literal) => {
        impl Leaf for $lanes {
            #[inline(always)]
            unsafe fn block_columns<F: BlockFormat, const R: usize>(job: &Job, columns: Columns) {
                $(#[$features])?
                unsafe fn body<F: BlockFormat, const R: usize>(job: &Job, columns: Columns) {
                    // SAFETY: as the trait's.
                    unsafe { block_columns::<$lanes, F, R>(job, columns) }
                }
                // SAFETY: as the trait's.
                unsafe { body::<F, R>(job, columns) }
            }
            #[inline(always)]
            unsafe fn float_columns<F: FloatFormat, const R: usize>(job: &Job, columns: Columns) {
                $(#[$features])?
                unsafe fn body<F: FloatFormat, const R: usize>(job: &Job, columns: Columns) {
                    // SAFETY: as the trait's.
                    unsafe { float_columns::<$lanes, F, R>(job, columns) }
                }
                // SAFETY: as the trait's.
                unsafe { body::<F, R>(job, columns) }
            }
            #[inline(always)]
            unsafe fn block_fill<F: BlockFormat>(job: &Job, column: usize, first: usize, blocks: usize, tile: *mut u8) {
                $(#[$features])?
                unsafe fn body<F: BlockFormat>(job: &Job, column: usize, first: usize, blocks: usize, tile: *mut u8) {
                    for v in 0..VECTORS {
                        let column = (column + v * <$lanes>::LANES).min(job.n - 1);
                        let rows = job.rows(column, <$lanes>::LANES);
                        // SAFETY: as the trait's.
                        unsafe { tile::fill::<$lanes, F>(&rows, first, blocks, tile, v) };
                    }
                }
                // SAFETY: as the trait's.
                unsafe { body::<F>(job, column, first, blocks, tile) }
            }
            #[inline(always)]
            unsafe fn float_fill<F: FloatFormat>(job: &Job, column: usize, begin: usize, end: usize, tile: *mut u8) {
                $(#[$features])?
                unsafe fn body<F: FloatFormat>(job: &Job, column: usize, begin: usize, end: usize, tile: *mut u8) {
                    for v in 0..VECTORS {
                        let column = (column + v * <$lanes>::LANES).min(job.n - 1);
                        let rows = job.rows(column, <$lanes>::LANES);
                        // SAFETY: as the trait's.
                        unsafe { float::fill::<$lanes, F>(&rows, job.row_bytes, begin, end, tile, v) };
                    }
                }
                // SAFETY: as the trait's.
                unsafe { body::<F>(job, column, begin, end, tile) }
            }
            #[inline(always)]
            unsafe fn block_rows<const STEP: usize, const SUB: usize, const SCALES: u8, const MIN: bool, const ZERO: i32>(
                slice: &tile::Slice,
                m: usize,
                next: &mut Pieces,
                lines: usize,
            ) {
                $(#[$features])?
                unsafe fn body<const STEP: usize, const SUB: usize, const SCALES: u8, const MIN: bool, const ZERO: i32, const R: usize>(
                    slice: &tile::Slice,
                    row: usize,
                    next: &mut Pieces,
                    lines: usize,
                ) {
                    // SAFETY: as the trait's.
                    unsafe { tile::rows::<$lanes, STEP, SUB, SCALES, MIN, ZERO, R>(slice, row, next, lines) }
                }
                let mut row = 0;
                // SAFETY: as the trait's.
                unsafe {
                    if STEP == 1 {
                        while m - row >= $one {
                            body::<STEP, SUB, SCALES, MIN, ZERO, $one>(slice, row, next, lines);
                            row += $one;
                        }
                    } else {
                        while m - row >= $many {
                            body::<STEP, SUB, SCALES, MIN, ZERO, $many>(slice, row, next, lines);
                            row += $many;
                        }
                    }
                    while row < m {
                        match m - row {
                            4.. => body::<STEP, SUB, SCALES, MIN, ZERO, 4>(slice, row, next, lines),
                            2 | 3 => body::<STEP, SUB, SCALES, MIN, ZERO, 2>(slice, row, next, lines),
                            _ => body::<STEP, SUB, SCALES, MIN, ZERO, 1>(slice, row, next, lines),
                        }
                        row += [1, 2, 2, 4][(m - row).min(4) - 1];
                    }
                }
            }
            #[inline(always)]
            unsafe fn float_rows<const PAIRS: bool, const PART: usize>(
                slice: &float::Slice,
                m: usize,
                next: &mut Pieces,
                lines: usize,
            ) {
                $(#[$features])?
                unsafe fn body<const PAIRS: bool, const PART: usize, const R: usize>(
                    slice: &float::Slice,
                    row: usize,
                    next: &mut Pieces,
                    lines: usize,
                ) {
                    // SAFETY: as the trait's.
                    unsafe { float::rows::<$lanes, PAIRS, PART, R>(slice, row, next, lines) }
                }
                let mut row = 0;
                // SAFETY: as the trait's.
                unsafe {
                    while PART == 0 && m - row >= $float {
                        body::<PAIRS, PART, $float>(slice, row, next, lines);
                        row += $float;
                    }
                    // Fewer at a time, for each has sums of its own beside those of the part in work.
                    while PART > 0 && m - row >= $parts {
                        body::<PAIRS, PART, $parts>(slice, row, next, lines);
                        row += $parts;
                    }
                    while row < m {
                        match m - row {
                            4.. => body::<PAIRS, PART, 4>(slice, row, next, lines),
                            2 | 3 => body::<PAIRS, PART, 2>(slice, row, next, lines),
                            _ => body::<PAIRS, PART, 1>(slice, row, next, lines),
                        }
                        row += [1, 2, 2, 4][(m - row).min(4) - 1];
                    }
                }
            }
        }
    };
}

leaf!(super::portable::Portable, , block rows 4 4, float rows 4 4);
#[cfg(target_arch = "x86_64")]
leaf!(super::avx512::Avx512,
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")],
    block rows 8 6, float rows 12 6);
#[cfg(target_arch = "x86_64")]
leaf!(super::avx2::Avx2,
    #[target_feature(enable = "avx2,fma,f16c")],
    block rows 4 2, float rows 4 2);

/// All columns of a task for `R` rows of x.
///
/// # Safety
/// The processor has the instruction set; the job holds what it says.
#[inline(always)]
unsafe fn block_columns<L: Lanes, F: BlockFormat, const R: usize>(job: &Job, columns: Columns) {
    let x = job.x.cast::<Activations>();
    let mut prefetch = Prefetch::from(job.w);
    for column in (columns.begin..columns.end).step_by(L::LANES) {
        prefetch.jump(job.after(columns, column + L::LANES));
        let rows = job.rows(column, L::LANES);
        // SAFETY: as the caller promises.
        unsafe {
            let acc = super::columns::columns::<L, F, R>(&rows, job.terms, x, job.terms, &mut prefetch);
            for (r, acc) in acc.into_iter().enumerate() {
                L::store_part(acc, job.y.add(r * job.n + column), L::LANES.min(columns.end - column));
            }
        }
    }
}

/// All columns of a task for `R` rows of x.
///
/// # Safety
/// The processor has the instruction set; the job holds what it says.
#[inline(always)]
unsafe fn float_columns<L: Lanes, F: FloatFormat, const R: usize>(job: &Job, columns: Columns) {
    let x = job.x.cast::<u32>();
    let mut prefetch = Prefetch::from(job.w);
    for column in (columns.begin..columns.end).step_by(L::LANES) {
        prefetch.jump(job.after(columns, column + L::LANES));
        let rows = job.rows(column, L::LANES);
        // SAFETY: as the caller promises.
        unsafe {
            let acc = float::columns::<L, F, R>(&rows, job.row_bytes, x, job.terms, &mut prefetch);
            for (r, acc) in acc.into_iter().enumerate() {
                L::store_part(acc, job.y.add(r * job.n + column), L::LANES.min(columns.end - column));
            }
        }
    }
}

/// A task of a block format, for any number of rows.
///
/// # Safety
/// As [`Leaf`]; `tile` has [`tile::TILE_BYTES`] bytes, aligned to 64.
pub(super) unsafe fn block_task<L: Leaf, F: BlockFormat>(job: &Job, columns: Columns, tile: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        match job.m {
            1 => return L::block_columns::<F, 1>(job, columns),
            2 => return L::block_columns::<F, 2>(job, columns),
            3 => return L::block_columns::<F, 3>(job, columns),
            FEW => return L::block_columns::<F, 4>(job, columns),
            _ => {}
        }
        let width = VECTORS * L::LANES;
        let tiles = (columns.end - columns.begin).div_ceil(width);
        let slices = job.terms.div_ceil(SLICE_BLOCKS).max(1);
        // With many rows a slice of x stays in the cache for all tiles; with few the weights are read in order.
        let place = |step: usize| {
            let (tile, slice) =
                if job.m >= SLICES_OUTSIDE { (step % tiles, step / tiles) } else { (step / slices, step % slices) };
            (columns.begin + tile * width, slice * SLICE_BLOCKS)
        };
        for step in 0..tiles * slices {
            let (column, first) = place(step);
            let blocks = SLICE_BLOCKS.min(job.terms - first);
            L::block_fill::<F>(job, column, first, blocks, tile);
            let slice = tile::Slice {
                tile,
                blocks,
                x: job.x.cast::<Activations>().add(first * job.m),
                x_stride: blocks,
                y: job.y.add(column),
                y_stride: job.n,
                columns: width.min(columns.end - column),
                begin: first == 0,
            };
            let (next_column, next_first) = if step + 1 < tiles * slices { place(step + 1) } else { (columns.next, 0) };
            let at = job.row(next_column).wrapping_add(next_first / F::STEP * F::DTYPE.block_bytes());
            let bytes = SLICE_BLOCKS.min(job.terms) / F::STEP * F::DTYPE.block_bytes();
            let next = &mut Pieces::new(at, job.row_bytes, bytes, width);
            let lines = next.left().div_ceil((blocks * job.m.div_ceil(8)).max(1));
            let m = job.m;
            match (F::STEP, F::SUB, F::MIN, F::ZERO) {
                (1, _, true, _) => L::block_rows::<1, 1, NONE, true, 0>(&slice, m, next, lines),
                (1, _, _, 8) => L::block_rows::<1, 1, NONE, false, 8>(&slice, m, next, lines),
                (1, _, _, 16) => L::block_rows::<1, 1, NONE, false, 16>(&slice, m, next, lines),
                (1, ..) => L::block_rows::<1, 1, NONE, false, 128>(&slice, m, next, lines),
                (2, 1, ..) => L::block_rows::<2, 1, NONE, false, 1>(&slice, m, next, lines),
                (2, ..) => L::block_rows::<2, 2, FLOAT, false, 16>(&slice, m, next, lines),
                (4, ..) => L::block_rows::<4, 1, NONE, false, 8>(&slice, m, next, lines),
                (_, 1, true, _) => L::block_rows::<8, 1, INTEGER, true, 0>(&slice, m, next, lines),
                (_, 1, _, 1) => L::block_rows::<8, 1, NONE, false, 1>(&slice, m, next, lines),
                (_, 1, ..) => L::block_rows::<8, 1, INTEGER, false, 128>(&slice, m, next, lines),
                (_, _, true, _) => L::block_rows::<8, 2, INTEGER, true, 0>(&slice, m, next, lines),
                (_, _, _, 4) => L::block_rows::<8, 2, INTEGER, false, 4>(&slice, m, next, lines),
                _ => L::block_rows::<8, 2, INTEGER, false, 32>(&slice, m, next, lines),
            }
        }
    }
}

/// A task of a float format, for any number of rows.
///
/// # Safety
/// As [`Leaf`]; `tile` has [`float::TILE_BYTES`] bytes, aligned to 64.
pub(super) unsafe fn float_task<L: Leaf, F: FloatFormat>(job: &Job, columns: Columns, tile: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        match job.m {
            1 => return L::float_columns::<F, 1>(job, columns),
            2 => return L::float_columns::<F, 2>(job, columns),
            3 => return L::float_columns::<F, 3>(job, columns),
            FEW => return L::float_columns::<F, 4>(job, columns),
            _ => {}
        }
        let width = VECTORS * L::LANES;
        let tiles = (columns.end - columns.begin).div_ceil(width);
        let slices = job.terms.div_ceil(F::SLICE_WORDS).max(1);
        let place = |step: usize| (columns.begin + step / slices * width, step % slices * F::SLICE_WORDS);
        for step in 0..tiles * slices {
            let (column, begin) = place(step);
            let end = job.terms.min(begin + F::SLICE_WORDS);
            L::float_fill::<F>(job, column, begin, end, tile);
            let slice = float::Slice {
                tile,
                words: end - begin,
                x: job.x.cast::<u32>().add(begin),
                x_stride: job.terms,
                y: job.y.add(column),
                y_stride: job.n,
                columns: width.min(columns.end - column),
                begin: begin == 0,
            };
            let (next_column, next_begin) = if step + 1 < tiles * slices { place(step + 1) } else { (columns.next, 0) };
            let bytes = |words: usize| words / F::WORDS * F::BYTES;
            let at = job.row(next_column).wrapping_add(bytes(next_begin));
            let next = &mut Pieces::new(at, job.row_bytes, bytes(F::SLICE_WORDS.min(job.terms)), width);
            let looks = (end - begin).div_ceil(float::STRIDE) * job.m.div_ceil(12);
            let lines = next.left().div_ceil(looks.max(1));
            match (F::PAIRS, F::PART) {
                (false, _) => L::float_rows::<false, 0>(&slice, job.m, next, lines),
                (true, 0) => L::float_rows::<true, 0>(&slice, job.m, next, lines),
                (true, _) => L::float_rows::<true, { small_float::PART }>(&slice, job.m, next, lines),
            }
        }
    }
}
