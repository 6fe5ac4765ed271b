//! Rows of experts added to the tokens that they belong to.

use crate::disjoint::Disjoint;
use crate::rows::for_columns;
use crate::{Pool, Real};

/// Elements of rows from which other threads are worth waking.
const PARALLEL: usize = 1 << 15;

/// `y[token_of(i)] += scale(i) · rows[i]` for each row i of `width` elements, in this order.
pub(super) fn add_rows<T: Real>(
    pool: &Pool,
    width: usize,
    rows: &[T],
    token_of: impl Fn(usize) -> usize + Sync,
    scale: impl Fn(usize) -> T + Sync,
    y: &mut [T],
) {
    let y = Disjoint::new(y);
    let columns = |columns: std::ops::Range<usize>| {
        for (i, row) in rows.chunks_exact(width).enumerate() {
            let (at, scale) = (token_of(i) * width, scale(i));
            // SAFETY: tasks have columns of their own.
            let y = unsafe { y.part(at + columns.start..at + columns.end) };
            for (y, &x) in y.iter_mut().zip(&row[columns.clone()]) {
                *y += scale * x;
            }
        }
    };
    if rows.len() < PARALLEL {
        columns(0..width);
    } else {
        for_columns(pool, width, columns);
    }
}
