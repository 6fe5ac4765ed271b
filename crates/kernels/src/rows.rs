//! How row kernels split their work: fixed tiles of rows, or of columns where rows are summed.

use crate::Pool;
use std::ops::Range;

/// Elements of a task; a few microseconds of work.
const TASK_ELEMENTS: usize = 1 << 14;
/// Columns of a task that runs down all rows: four cache lines of f32.
const TASK_COLUMNS: usize = 64;

/// Calls `f` with ranges that cover `0..rows`, each of about [`TASK_ELEMENTS`] elements.
pub(crate) fn for_rows(pool: &Pool, rows: usize, width: usize, f: impl Fn(Range<usize>) + Sync) {
    let per_task = (TASK_ELEMENTS / width.max(1)).max(1);
    pool.run(rows.div_ceil(per_task), |task, _| f(task * per_task..((task + 1) * per_task).min(rows)));
}

/// Calls `f` with ranges that cover `0..columns`, each of at most [`TASK_COLUMNS`].
pub(crate) fn for_columns(pool: &Pool, columns: usize, f: impl Fn(Range<usize>) + Sync) {
    pool.run(columns.div_ceil(TASK_COLUMNS), |task, _| {
        f(task * TASK_COLUMNS..((task + 1) * TASK_COLUMNS).min(columns));
    });
}

/// Rows of `width` elements in a slice of `len`.
///
/// # Panics
/// If `len` is not a multiple of `width`.
pub(crate) fn rows_of(name: &str, len: usize, width: usize) -> usize {
    let rows = len.checked_div(width).unwrap_or(0);
    assert!(rows * width == len, "{name} has {len} elements, not rows of {width}");
    rows
}

/// Checks the length of an argument.
///
/// # Panics
/// If it is not `expected`.
pub(crate) fn expect_len(name: &str, len: usize, expected: usize) {
    assert!(len == expected, "{name} has {len} elements, not {expected}");
}
