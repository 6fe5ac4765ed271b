//! The eidetic buffer of sequences that go on: kept in slots of a size that does not depend on their length.
//!
//! A slot holds the tokens that may still enter the buffer, in a ring, and the buffer. All rows of a call are written to the
//! ring before the first of them looks back; the buffer takes in what the rows have brought after the last.

use super::Bmojo;
use super::eidetic::Row;
use super::selection::{Chosen, Selection, SelectionError, candidates, check_scores};
use crate::disjoint::Disjoint;
use crate::rows::expect_len;
use crate::scratch::{SLACK, Scratch, bytes, span};
use crate::{Pool, Real};
use std::ops::Range;

/// What a step reads.
#[derive(Clone, Copy)]
pub struct EideticStep<'a, T> {
    /// [N, H, K].
    pub q: &'a [T],
    /// [N, G, K].
    pub k: &'a [T],
    /// [N, G, V].
    pub v: &'a [T],
    /// Innovations `[N]`.
    pub scores: &'a [T],
    /// Slot and position of each row, [N, 2]; rows of a slot follow each other, at positions that do.
    pub rows: &'a [i32],
    /// Tokens of the ring of a slot: at least 2 W − 1 more than rows of a slot, or all of a sequence.
    pub ring: usize,
}

/// Elements of a token in the ring: key, value, score.
fn ring_width(a: &Bmojo) -> usize {
    a.kv_heads * (a.key_width + a.value_width) + 1
}

/// Elements of a token in the buffer: key, value, score, and its position and 1, or 0 if the place is free.
fn buffer_width(a: &Bmojo) -> usize {
    ring_width(a) + 1
}

impl Bmojo {
    /// Elements of a slot's ring of `tokens`.
    pub fn ring_elements(&self, tokens: usize) -> usize {
        tokens * ring_width(self)
    }

    /// Elements of a slot's buffer.
    pub fn buffer_elements(&self) -> usize {
        self.slots * buffer_width(self)
    }
}

/// Consecutive rows of one slot.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Run {
    slot: usize,
    first: usize,
    count: usize,
    /// Position of the first row.
    position: usize,
    /// Number of its first list: it has one for each chunk that it touches.
    list: usize,
}

impl Run {
    fn chunks(&self, a: &Bmojo) -> Range<usize> {
        self.position / a.window..(self.position + self.count - 1) / a.window + 1
    }
}

/// Cuts rows into runs and returns their number; each slot may have one.
fn cut(a: &Bmojo, rows: &[i32], runs: &mut [Run], taken: &mut [u8]) -> Result<usize, SelectionError> {
    let (mut count, mut list) = (0usize, 0);
    taken.fill(0);
    for (row, of) in rows.chunks_exact(2).enumerate() {
        let refused = SelectionError::Row { row, slot: of[0], slots: taken.len() };
        let (Ok(slot), Ok(position)) = (usize::try_from(of[0]), usize::try_from(of[1])) else { return Err(refused) };
        if let Some(last) = count.checked_sub(1).map(|last: usize| &mut runs[last])
            && last.slot == slot
            && last.position + last.count == position
        {
            last.count += 1;
            continue;
        }
        list += count.checked_sub(1).map_or(0, |last: usize| runs[last].chunks(a).len());
        match taken.get_mut(slot) {
            Some(taken) if *taken == 0 => *taken = 1,
            _ => return Err(refused),
        }
        runs[count] = Run { slot, first: row, count: 1, position, list };
        count += 1;
    }
    Ok(count)
}

/// Puts rows into the ring of their slot.
fn write<T: Real>(a: &Bmojo, x: &EideticStep<'_, T>, run: &Run, ring: &mut [T]) {
    let (keys, values) = (a.kv_heads * a.key_width, a.kv_heads * a.value_width);
    for i in 0..run.count {
        let row = run.first + i;
        let token = &mut ring[(run.position + i) % x.ring * ring_width(a)..][..ring_width(a)];
        token[..keys].copy_from_slice(&x.k[row * keys..][..keys]);
        token[keys..keys + values].copy_from_slice(&x.v[row * values..][..values]);
        token[keys + values] = x.scores[row];
    }
}

/// The tokens of a kept buffer, by rising position; a token's source is its place.
fn read<T: Real>(a: &Bmojo, buffer: &[T], chosen: &mut Chosen<'_, T>) {
    let width = buffer_width(a);
    for (place, token) in buffer.chunks_exact(width).enumerate() {
        let position = token[width - 1].f64() as i32 - 1;
        if position < 0 {
            continue;
        }
        chosen.push(position, token[width - 2], place as i32);
        for i in (1..chosen.len).rev() {
            if chosen.position[i - 1] < chosen.position[i] {
                break;
            }
            chosen.position.swap(i - 1, i);
            chosen.score.swap(i - 1, i);
            chosen.source.swap(i - 1, i);
        }
    }
}

/// Makes a kept buffer hold these tokens and no others: those from the ring take the places of those that are gone.
fn keep<T: Real>(a: &Bmojo, positions: &[i32], sources: &[i32], ring: &[T], buffer: &mut [T]) {
    let (from, to) = (ring_width(a), buffer_width(a));
    let stays = |place: usize| sources.contains(&(place as i32));
    let mut place = 0;
    for (&position, &source) in positions.iter().zip(sources).filter(|(_, source)| **source < 0) {
        while stays(place) {
            place += 1;
        }
        let token = &mut buffer[place * to..][..to];
        token[..from].copy_from_slice(&ring[(-1 - source) as usize * from..][..from]);
        token[from] = T::of(f64::from(position) + 1.0);
        place += 1;
    }
    for (place, token) in buffer.chunks_exact_mut(to).enumerate().skip(place) {
        if !stays(place) {
            token[from] = T::ZERO;
        }
    }
}

/// Of what all runs of a call need: most lists, since each run has one for each chunk that it touches.
fn most_lists(a: &Bmojo, rows: usize) -> usize {
    rows.div_ceil(a.window) + 2 * rows
}

/// Bytes of scratch that [`eidetic_step`] needs for up to `rows` of `slots` on `threads`.
pub fn eidetic_step_scratch<T: Real>(a: &Bmojo, rows: usize, slots: usize, threads: usize) -> usize {
    let lists = most_lists(a, rows);
    SLACK
        + bytes::<Run>(rows)
        + bytes::<u8>(slots)
        + bytes::<i32>(lists)
        + 2 * bytes::<i32>(lists * a.slots)
        + threads * (Chosen::<T>::bytes(a.slots) + bytes::<T>(a.slots))
}

/// Attention of rows to the buffers of their slots, o [N, H, V] and log-sum-exps [H, N], with the bits of whole sequences;
/// `rings` and `buffers` [slots, ..] move on.
///
/// # Errors
/// If a score is not finite.
///
/// # Panics
/// If a length does not fit, a slot is none of those that there are, rows of a slot do not follow each other, or scratch is
/// too small.
pub fn eidetic_step<T: Real>(
    pool: &Pool,
    a: &Bmojo,
    threshold: Option<f64>,
    x: &EideticStep<'_, T>,
    rings: &mut [T],
    buffers: &mut [T],
    o: &mut [T],
    lse: &mut [T],
    scratch: &mut [u8],
) -> Result<(), SelectionError> {
    let n = x.scores.len();
    expect_len("q", x.q.len(), n * a.heads * a.key_width);
    expect_len("k", x.k.len(), n * a.kv_heads * a.key_width);
    expect_len("v", x.v.len(), n * a.kv_heads * a.value_width);
    expect_len("rows", x.rows.len(), 2 * n);
    expect_len("o", o.len(), n * a.heads * a.value_width);
    expect_len("lse", lse.len(), n * a.heads);
    expect_len("buffers", buffers.len() * a.ring_elements(x.ring), rings.len() * a.buffer_elements());
    check_scores(x.scores)?;
    let selection = Selection { window: a.window, slots: a.slots, threshold };
    let mut scratch = Scratch::new(scratch);
    let (ring, buffer) = (a.ring_elements(x.ring), a.buffer_elements());
    let (runs, taken) = (scratch.take::<Run>(n), scratch.take::<u8>(rings.len() / ring));
    let count = cut(a, x.rows, runs, taken)?;
    let runs = &runs[..count];
    let lists = most_lists(a, n);
    let counts = scratch.take::<i32>(lists);
    let (positions, sources) = (scratch.take::<i32>(lists * a.slots), scratch.take::<i32>(lists * a.slots));
    let workers = scratch.per_worker(pool.threads(), Chosen::<T>::bytes(a.slots));
    let scores = scratch.per_worker(pool.threads(), bytes::<T>(a.slots));

    // Rows into rings, and who is in the buffer of each chunk.
    {
        let (rings, counts) = (Disjoint::new(&mut *rings), Disjoint::new(&mut *counts));
        let (positions, sources) = (Disjoint::new(&mut *positions), Disjoint::new(&mut *sources));
        let buffers = &*buffers;
        pool.run(runs.len(), |task, worker| {
            let run = runs[task];
            // SAFETY: a slot has one run, a run has lists of its own; the pool runs one task at a time on each worker.
            let (ring, mut scratch) = unsafe { (rings.part(span(run.slot * ring, ring)), workers.of(worker)) };
            write(a, x, &run, ring);
            let mut chosen = Chosen::take(a.slots, &mut scratch);
            if run.position > 0 {
                read(a, &buffers[run.slot * buffer..][..buffer], &mut chosen);
            }
            for (i, chunk) in run.chunks(a).enumerate() {
                if chunk * a.window >= run.position {
                    for t in candidates(a.window, chunk) {
                        let place = t % x.ring;
                        let score = ring[(place + 1) * ring_width(a) - 1];
                        chosen.offer(&selection, t as i32, score, -1 - place as i32);
                    }
                }
                let list = run.list + i;
                // SAFETY: as above.
                unsafe {
                    counts.part(span(list, 1))[0] = chosen.len as i32;
                    let at = span(list * a.slots, chosen.len);
                    positions.part(at.clone()).copy_from_slice(&chosen.position[..chosen.len]);
                    sources.part(at).copy_from_slice(&chosen.source[..chosen.len]);
                }
            }
        });
    }

    // Rows look at the buffers of their chunks.
    {
        let (rings, buffers) = (&*rings, &*buffers);
        let (counts, positions, sources) = (&*counts, &*positions, &*sources);
        let (o, lse) = (Disjoint::new(o), Disjoint::new(lse));
        pool.run(n, |row, worker| {
            let run = runs[runs.partition_point(|run| run.first <= row) - 1];
            let position = run.position + row - run.first;
            let list = run.list + position / a.window - run.position / a.window;
            let (at, count) = (list * a.slots, counts[list] as usize);
            let seen = match position.checked_sub(2 * a.window) {
                Some(last) => positions[at..at + count].partition_point(|&p| p as usize <= last),
                None => 0,
            };
            let (ring, buffer) = (&rings[run.slot * ring..][..ring], &buffers[run.slot * buffer..][..buffer]);
            let token = |i: usize| match sources[at + i] {
                place @ ..0 => &ring[(-1 - place) as usize * ring_width(a)..][..ring_width(a)],
                place => &buffer[place as usize * buffer_width(a)..][..buffer_width(a)],
            };
            // SAFETY: the pool runs one task at a time on each worker.
            let scores = unsafe { scores.of(worker) }.take::<T>(a.slots);
            for head in 0..a.heads {
                let of = head / a.group();
                // SAFETY: a row belongs to one task.
                let (o, lse) = unsafe {
                    let at = (row * a.heads + head) * a.value_width;
                    (o.part(span(at, a.value_width)), lse.part(span(head * n + row, 1)))
                };
                let values = a.kv_heads * a.key_width;
                lse[0] = T::dispatch(Row {
                    scale: a.scale,
                    q: &x.q[(row * a.heads + head) * a.key_width..][..a.key_width],
                    pair: |i: usize| {
                        let token = token(i);
                        (
                            &token[of * a.key_width..][..a.key_width],
                            &token[values + of * a.value_width..][..a.value_width],
                        )
                    },
                    scores: &mut scores[..seen],
                    o,
                });
            }
        });
    }

    // Buffers become those of the last chunk.
    let buffers = Disjoint::new(buffers);
    pool.run(runs.len(), |task, _| {
        let run = runs[task];
        let list = run.list + run.chunks(a).len() - 1;
        let (at, count) = (list * a.slots, counts[list] as usize);
        // SAFETY: a slot has one run.
        let buffer = unsafe { buffers.part(span(run.slot * buffer, buffer)) };
        let ring = &rings[run.slot * ring..][..ring];
        keep(a, &positions[at..at + count], &sources[at..at + count], ring, buffer);
    });
    Ok(())
}
