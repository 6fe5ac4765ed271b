//! The long convolution for rows that continue kept sequences: one chain over all that is kept.

use crate::disjoint::Disjoint;
use crate::rows::{expect_len, rows_of};
use crate::simd::{Kernel, Simd};
use crate::{Pool, Real};
use std::ops::Range;

/// Vectors whose chains run side by side.
const CHAINS: usize = 4;
/// Columns of a task.
const COLUMNS: usize = 64;

/// y [N, D]: row i is `y_t = Σ_{s ≤ t} h[t - s] x[s]` of the sequence in `rows[i]` = (slot, t), whose inputs up to t, this row's
/// own included, are kept in `past` [slots, capacity, D]; the filter h is [L, D].
///
/// # Panics
/// If a length does not fit, a slot is not there, or t reaches beyond the capacity or the filter.
pub fn long_conv_step<T: Real>(
    pool: &Pool,
    channels: usize,
    capacity: usize,
    past: &[T],
    filter: &[T],
    rows: &[i32],
    y: &mut [T],
) {
    expect_len("y", y.len(), rows.len() / 2 * channels);
    let (kept, length) = (rows_of("past", past.len(), channels), rows_of("filter", filter.len(), channels));
    for row in rows.chunks_exact(2) {
        let [slot, t] = [row[0], row[1]];
        let fits = slot >= 0 && t >= 0 && (t as usize) < capacity.min(length);
        assert!(
            fits && (slot as usize + 1) * capacity <= kept,
            "row at slot {slot}, position {t}: {kept} kept, capacity {capacity}, filter {length}"
        );
    }
    let strips = channels.div_ceil(COLUMNS);
    let y = Disjoint::new(y);
    pool.run(rows.len() / 2 * strips, |task, _| {
        let (row, column) = (task / strips, task % strips * COLUMNS);
        let (slot, t) = (rows[2 * row] as usize, rows[2 * row + 1] as usize);
        let columns = column..(column + COLUMNS).min(channels);
        // SAFETY: each task has a part of its own.
        let y = unsafe { y.part(row * channels + columns.start..row * channels + columns.end) };
        let past = &past[slot * capacity * channels..][..(t + 1) * channels];
        T::dispatch(Step { channels, past, filter: &filter[..(t + 1) * channels], columns, y });
    });
}

struct Step<'a, T> {
    channels: usize,
    past: &'a [T],
    filter: &'a [T],
    columns: Range<usize>,
    y: &'a mut [T],
}

impl<T: Real> Kernel<T> for Step<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd<E = T>>(self, s: S) {
        let Step { channels, past, filter, columns, y } = self;
        for (i, y) in y.chunks_mut(CHAINS * S::LANES).enumerate() {
            let first = columns.start + i * CHAINS * S::LANES;
            let mut sums = [s.zero(); CHAINS];
            for (x, h) in past.chunks_exact(channels).zip(filter.chunks_exact(channels).rev()) {
                let (x, h) = (&x[first..first + y.len()], &h[first..first + y.len()]);
                for ((sum, x), h) in sums.iter_mut().zip(x.chunks(S::LANES)).zip(h.chunks(S::LANES)) {
                    *sum = s.fma(s.load_any(h), s.load_any(x), *sum);
                }
            }
            for (sum, y) in sums.into_iter().zip(y.chunks_mut(S::LANES)) {
                s.store_any(sum, y);
            }
        }
    }
}
