//! One token for each of many sequences: which state a row is on, and how rows and heads are shared among threads.

use std::ops::Range;

use crate::Pool;

/// Work of all rows together (elements of states, or multiply-adds) that is not worth a second thread.
const SMALL: usize = 1 << 15;

/// Panics unless `kept`, the length of states of `elements` each, is whole states and every slot is one of them.
pub(crate) fn expect_slots(step: &str, slots: &[i32], kept: usize, elements: usize) {
    assert!(kept.is_multiple_of(elements), "{step}: states have {kept} elements, not a multiple of {elements}");
    let count = kept.checked_div(elements).unwrap_or(0);
    assert!(slots.iter().all(|&s| (s as usize) < count), "{step}: slots {slots:?} of {count}");
}

/// Calls `task` on ranges of rows and heads that cover all of them once; rows of one slot in order.
pub(crate) fn split(
    pool: &Pool,
    slots: &[i32],
    heads: usize,
    work: usize,
    task: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let rows = slots.len();
    if work < SMALL {
        task(0..rows, 0..heads);
    } else if slots.windows(2).all(|w| w[0] < w[1]) {
        // Rows whose slots rise are independent.
        pool.run(rows * heads, |i, _| {
            let (row, head) = (i / heads, i % heads);
            task(row..row + 1, head..head + 1);
        });
    } else {
        pool.run(heads, |head, _| task(0..rows, head..head + 1));
    }
}
