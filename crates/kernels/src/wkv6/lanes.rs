//! How matrix states are swept: some value lanes of one head over rows in order, each row on the state of its slot.
//!
//! Lanes are independent and rows of one state pass in order, so bits depend neither on threads nor on how a sequence is
//! cut, and the sweep of whole sequences and the step over kept states are one.

use crate::simd::Simd;
use crate::{Pool, Real};
use std::ops::Range;

/// Value lanes of a task.
const LANES: usize = 64;
/// States smaller than this together (elements) are not worth a second thread.
const SMALL: usize = 1 << 15;

/// Which state each row is on.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// That of its sequence: `cu_seqlens` [B + 1].
    Sequences(&'a [i32]),
    /// That of its slot.
    Slots(&'a [i32]),
}

/// A sweep over matrix states [.., H, K, V].
pub(crate) struct Sweep<'a> {
    pub heads: usize,
    pub keys: usize,
    pub values: usize,
    pub rows: Rows<'a>,
}

/// The part of one task.
#[derive(Clone)]
pub(crate) struct Lanes<'a> {
    pub head: usize,
    heads: usize,
    /// Value lanes of the head.
    pub values: Range<usize>,
    /// Rows, in order.
    pub rows: Range<usize>,
    slots: Slots<'a>,
}

#[derive(Clone, Copy)]
enum Slots<'a> {
    One(usize),
    Each(&'a [i32]),
}

impl Sweep<'_> {
    /// Calls `task` for every part.
    pub(crate) fn run(&self, pool: &Pool, task: impl Fn(Lanes<'_>) + Sync) {
        let groups = self.values.div_ceil(LANES);
        let sequences = match self.rows {
            Rows::Sequences(cu) => cu.len() - 1,
            Rows::Slots(_) => 1,
        };
        let part = |i: usize| {
            let (sequence, rest) = (i / (self.heads * groups), i % (self.heads * groups));
            let (head, first) = (rest / groups, rest % groups * LANES);
            let (rows, slots) = match self.rows {
                Rows::Sequences(cu) => (cu[sequence] as usize..cu[sequence + 1] as usize, Slots::One(sequence)),
                Rows::Slots(slots) => (0..slots.len(), Slots::Each(slots)),
            };
            task(Lanes { head, heads: self.heads, values: first..(first + LANES).min(self.values), rows, slots });
        };
        let rows = match self.rows {
            Rows::Sequences(cu) => cu[sequences] as usize,
            Rows::Slots(slots) => slots.len(),
        };
        let tasks = sequences * self.heads * groups;
        if rows * self.heads * self.keys * self.values < SMALL {
            return (0..tasks).for_each(part);
        }
        pool.run(tasks, |i, _| part(i));
    }
}

impl Lanes<'_> {
    /// Elements of the head's keys of a row in [N, H, K].
    #[inline(always)]
    pub(crate) fn keys(&self, row: usize, width: usize) -> Range<usize> {
        let at = (row * self.heads + self.head) * width;
        at..at + width
    }

    /// Where the head's state of a row begins.
    #[inline(always)]
    pub(crate) fn state(&self, row: usize, keys: usize, values: usize) -> usize {
        let slot = match self.slots {
            Slots::One(slot) => slot,
            Slots::Each(slots) => slots[row] as usize,
        };
        (slot * self.heads + self.head) * keys * values
    }
}

/// exp of a row of log-decays, into the start of `to`.
#[inline(always)]
pub(crate) fn decays<S: Simd>(s: S, log: &[S::E], to: &mut [S::E]) {
    for i in (0..log.len()).step_by(S::LANES) {
        let at = i..(i + S::LANES).min(log.len());
        s.store_any(s.exp(s.load_any(&log[at.clone()])), &mut to[at]);
    }
}

/// Vector `j` of `lanes` lanes at `row`.
///
/// # Safety
/// `row` has whole vectors if `WHOLE`, else `lanes` elements.
#[inline(always)]
pub(crate) unsafe fn load<S: Simd, const WHOLE: bool>(s: S, row: *const S::E, j: usize, lanes: usize) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        if WHOLE {
            return s.load_ptr(row.add(j * S::LANES));
        }
        let at = (j * S::LANES).min(lanes);
        s.load_any(std::slice::from_raw_parts(row.add(at), S::LANES.min(lanes - at)))
    }
}

/// The way back from [`load`].
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn store<S: Simd, const WHOLE: bool>(s: S, x: S::V, row: *mut S::E, j: usize, lanes: usize) {
    // SAFETY: the caller's.
    unsafe {
        if WHOLE {
            return s.store_ptr(x, row.add(j * S::LANES));
        }
        let at = (j * S::LANES).min(lanes);
        s.store_any(x, std::slice::from_raw_parts_mut(row.add(at), S::LANES.min(lanes - at)));
    }
}

/// `y += a x`.
#[inline(always)]
pub(crate) fn axpy<T: Real>(y: &mut [T], a: T, x: &[T]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = a.mul_add(*x, *y));
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
