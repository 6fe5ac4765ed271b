//! The buffers of all chunks of a call as lists of rows.

use super::Bmojo;
use super::selection::candidates;
use crate::scratch::{Scratch, bytes};

/// For each chunk of each sequence the rows of its tokens, by rising position.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    /// Number of the first chunk of each sequence.
    first: &'a [i32],
    /// Tokens of each chunk's buffer.
    counts: &'a [i32],
    /// [chunks, E].
    rows: &'a [i32],
    slots: usize,
}

/// The most chunks of `tokens` in `sequences`.
fn most_chunks(a: &Bmojo, tokens: usize, sequences: usize) -> usize {
    tokens.div_ceil(a.window) + sequences
}

impl<'a> Lists<'a> {
    /// Bytes of scratch for them.
    pub fn bytes(a: &Bmojo, tokens: usize, sequences: usize) -> usize {
        let chunks = most_chunks(a, tokens, sequences);
        bytes::<i32>(sequences + 1) + bytes::<i32>(chunks) + bytes::<i32>(chunks * a.slots)
    }

    /// From what [`super::select`] says of each token.
    ///
    /// # Panics
    /// If more than E tokens are in a buffer, or scratch is too small.
    pub fn new(a: &Bmojo, until: &[i32], cu_seqlens: &[i32], scratch: &mut Scratch<'a>) -> Lists<'a> {
        let sequences = cu_seqlens.len() - 1;
        let chunks = most_chunks(a, until.len(), sequences);
        let (first, counts) = (scratch.take::<i32>(sequences + 1), scratch.take::<i32>(chunks));
        let rows = scratch.take::<i32>(chunks * a.slots);
        let mut next = 0;
        for (sequence, ends) in cu_seqlens.windows(2).enumerate() {
            first[sequence] = next as i32;
            let (start, n) = (ends[0] as usize, (ends[1] - ends[0]) as usize);
            for chunk in 0..n.div_ceil(a.window) {
                let (before, list) = rows.split_at_mut(next * a.slots);
                let earlier =
                    if chunk == 0 { &[] } else { &before[(next - 1) * a.slots..][..counts[next - 1] as usize] };
                let new = candidates(a.window, chunk).map(|t| (start + t) as i32);
                let mut count = 0;
                for row in earlier.iter().copied().chain(new).filter(|&row| until[row as usize] > chunk as i32) {
                    assert!(count < a.slots, "more than {} tokens in the buffer of chunk {chunk}", a.slots);
                    list[count] = row;
                    count += 1;
                }
                counts[next] = count as i32;
                next += 1;
            }
        }
        first[sequences] = next as i32;
        Lists { first, counts, rows, slots: a.slots }
    }

    /// Rows that the query at `position` of `sequence`, whose first row is `start`, sees: those past its fading window.
    pub fn seen(&self, a: &Bmojo, sequence: usize, start: usize, position: usize) -> &'a [i32] {
        let chunk = self.first[sequence] as usize + position / a.window;
        let list = &self.rows[chunk * self.slots..][..self.counts[chunk] as usize];
        let Some(last) = position.checked_sub(2 * a.window) else { return &[] };
        &list[..list.partition_point(|&row| row as usize <= start + last)]
    }
}
