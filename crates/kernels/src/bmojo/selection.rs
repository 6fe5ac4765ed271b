//! Which tokens are in the eidetic buffer, and until when.

use crate::disjoint::Disjoint;
use crate::rows::expect_len;
use crate::scratch::{SLACK, Scratch, bytes};
use crate::{Pool, Real};

/// What decides who is in the buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Selection {
    /// Tokens W of a window, and of a chunk.
    pub window: usize,
    /// E, the most tokens at a time.
    pub slots: usize,
    /// Tokens of lower scores are not taken in.
    pub threshold: Option<f64>,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the message says it
pub enum SelectionError {
    #[error("the innovation of row {row} is not finite; outputs of the fading memory must be")]
    Score { row: usize },
    #[error(
        "row {row} is of slot {slot}; of {slots} slots each may have rows that follow each other, one position after the other"
    )]
    Row { row: usize, slot: i32, slots: usize },
}

/// The first row whose score is not finite.
pub(super) fn check_scores<T: Real>(scores: &[T]) -> Result<(), SelectionError> {
    scores.iter().position(|s| !s.is_finite()).map_or(Ok(()), |row| Err(SelectionError::Score { row }))
}

/// The tokens of a buffer, by rising position.
pub(super) struct Chosen<'a, T> {
    pub position: &'a mut [i32],
    pub score: &'a mut [T],
    /// Where a token's key and value are, whatever that means to the caller.
    pub source: &'a mut [i32],
    pub len: usize,
}

impl<'a, T: Real> Chosen<'a, T> {
    /// An empty buffer.
    pub fn take(slots: usize, scratch: &mut Scratch<'a>) -> Chosen<'a, T> {
        Chosen { position: scratch.take(slots), score: scratch.take(slots), source: scratch.take(slots), len: 0 }
    }

    /// Bytes of [`Chosen::take`].
    pub fn bytes(slots: usize) -> usize {
        2 * bytes::<i32>(slots) + bytes::<T>(slots)
    }

    /// Adds one at the end, which has room.
    pub fn push(&mut self, position: i32, score: T, source: i32) {
        let at = self.len;
        (self.position[at], self.score[at], self.source[at]) = (position, score, source);
        self.len += 1;
    }

    /// Offers a token later than all in the buffer, and returns the position of the one that is not, or no longer, in it.
    pub fn offer(&mut self, a: &Selection, position: i32, score: T, source: i32) -> Option<i32> {
        if a.slots == 0 || a.threshold.is_some_and(|least| score < T::of(least)) {
            return Some(position);
        }
        if self.len < a.slots {
            self.push(position, score, source);
            return None;
        }
        // The first of the lowest: of equal ones the later stays.
        let worst = (1..self.len).fold(0, |worst, i| if self.score[i] < self.score[worst] { i } else { worst });
        if score < self.score[worst] {
            return Some(position);
        }
        let gone = self.position[worst];
        self.position[..self.len].copy_within(worst + 1.., worst);
        self.score[..self.len].copy_within(worst + 1.., worst);
        self.source[..self.len].copy_within(worst + 1.., worst);
        self.len -= 1;
        self.push(position, score, source);
        Some(gone)
    }
}

/// Tokens that may enter at chunk `chunk`: those that have left the window since the chunk before.
pub(super) fn candidates(window: usize, chunk: usize) -> std::ops::Range<usize> {
    match chunk {
        0 => 0..0,
        1 => 0..1,
        _ => (chunk - 2) * window + 1..(chunk - 1) * window + 1,
    }
}

/// Bytes of scratch that [`select`] needs on `threads`.
pub fn select_scratch<T: Real>(a: &Selection, threads: usize) -> usize {
    SLACK + threads * Chosen::<T>::bytes(a.slots)
}

/// For each token the chunk from which on it is not in the buffer, `until` `[N]`; `i32::MAX` if it stays.
///
/// # Errors
/// If a score is not finite.
///
/// # Panics
/// If a length does not fit, or scratch is too small.
pub fn select<T: Real>(
    pool: &Pool,
    a: &Selection,
    scores: &[T],
    cu_seqlens: &[i32],
    until: &mut [i32],
    scratch: &mut [u8],
) -> Result<(), SelectionError> {
    expect_len("scores", scores.len(), cu_seqlens.last().map_or(0, |&n| n as usize));
    expect_len("until", until.len(), scores.len());
    check_scores(scores)?;
    let workers = Scratch::new(scratch).per_worker(pool.threads(), Chosen::<T>::bytes(a.slots));
    let until = Disjoint::new(until);
    pool.run(cu_seqlens.len() - 1, |sequence, worker| {
        let rows = cu_seqlens[sequence] as usize..cu_seqlens[sequence + 1] as usize;
        // SAFETY: sequences do not overlap; the pool runs one task at a time on each worker.
        let (until, mut scratch) = unsafe { (until.part(rows.clone()), workers.of(worker)) };
        let scores = &scores[rows];
        let mut chosen = Chosen::take(a.slots, &mut scratch);
        until.fill(0);
        for chunk in 1..scores.len().div_ceil(a.window) {
            for t in candidates(a.window, chunk) {
                until[t] = i32::MAX;
                if let Some(gone) = chosen.offer(a, t as i32, scores[t], 0) {
                    until[gone as usize] = chunk as i32;
                }
            }
        }
    });
    Ok(())
}
