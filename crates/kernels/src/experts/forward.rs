//! The mixture on weights in any storage format: experts in batches, each batch three calls of grouped products.

use super::Experts;
use super::combine::add_rows;
use super::order::by_expert;
use crate::Pool;
use crate::linear::{Group, Stack, grouped_scratch, linear_grouped};
use crate::map::silu;
use crate::rows::for_rows;
use crate::scratch::{self, Scratch};
use memwall_formats::Dtype;

/// Rows of a batch of experts where few tokens choose: enough that a decoding step is one batch.
const BATCH: usize = 256;

/// The most rows of a batch of experts: an expert has at most one of each token.
fn batch_rows(e: &Experts, tokens: usize) -> usize {
    tokens.max(BATCH).min(tokens * e.active)
}

/// Bytes of scratch that [`experts`] needs for up to `tokens` tokens; `dtypes` are those of W_gate, W_up and W_down.
pub fn experts_scratch(e: &Experts, dtypes: [Dtype; 3], tokens: usize, threads: usize) -> usize {
    let rows = batch_rows(e, tokens);
    let groups = e.experts.min(rows);
    let grouped = |dtype, k| grouped_scratch(dtype, rows, k, groups, threads);
    let [gate, up, down] = dtypes;
    scratch::SLACK
        + scratch::bytes::<u32>(e.experts + 1)
        + scratch::bytes::<u32>(tokens * e.active)
        + scratch::bytes::<Group>(groups)
        + 2 * scratch::bytes::<f32>(rows * e.hidden)
        + scratch::bytes::<f32>(rows * e.width)
        + grouped(gate, e.width).max(grouped(up, e.width)).max(grouped(down, e.hidden)).next_multiple_of(64)
}

/// y [N, D] of x [N, D], chosen and weights [N, k]; `stacks` are W_gate, W_up and W_down.
///
/// # Panics
/// If a slice has the wrong length, `chosen` is not as [`super::check_chosen`] wants it, or scratch is smaller than
/// [`experts_scratch`] says.
pub fn experts(
    pool: &Pool,
    e: &Experts,
    stacks: [Stack<'_>; 3],
    x: &[f32],
    chosen: &[i32],
    weights: &[f32],
    y: &mut [f32],
    scratch: &mut [u8],
) {
    let tokens = chosen.len().checked_div(e.active).unwrap_or(0);
    assert_eq!((x.len(), y.len()), (tokens * e.width, tokens * e.width), "experts: x and y [{tokens}, {}]", e.width);
    assert_eq!(weights.len(), chosen.len(), "experts: as many weights as choices");
    y.fill(0.0);
    let batch = batch_rows(e, tokens);
    let mut scratch = Scratch::new(scratch);
    let offsets = scratch.take::<u32>(e.experts + 1);
    let order = scratch.take::<u32>(chosen.len());
    let groups = scratch.take::<Group>(e.experts.min(batch));
    let (gate, up) = (scratch.take::<f32>(batch * e.hidden), scratch.take::<f32>(batch * e.hidden));
    let out = scratch.take::<f32>(batch * e.width);
    let rest = scratch.rest();
    by_expert(chosen, offsets, order);

    let [gate_stack, up_stack, down_stack] = stacks;
    let mut first = 0;
    while first < e.experts {
        let begin = offsets[first] as usize;
        let (mut count, mut rows) = (0, 0);
        // As many experts as fit; one always does.
        while first < e.experts {
            let own = (offsets[first + 1] - offsets[first]) as usize;
            if rows + own > batch {
                break;
            }
            if own > 0 {
                groups[count] = Group { matrix: first as u32, begin: rows as u32, end: (rows + own) as u32 };
                count += 1;
                rows += own;
            }
            first += 1;
        }
        let (groups, order) = (&groups[..count], &order[begin..begin + rows]);
        let (gate, up, out) = (&mut gate[..rows * e.hidden], &mut up[..rows * e.hidden], &mut out[..rows * e.width]);
        let token = |r: usize| order[r] as usize / e.active;
        linear_grouped(pool, &[gate_stack, up_stack], x, token, groups, &mut [&mut *gate, &mut *up], rest);
        gated(pool, e.hidden, gate, up);
        linear_grouped(pool, &[down_stack], gate, |r| r, groups, &mut [&mut *out], rest);
        add_rows(pool, e.width, out, token, |r| weights[order[r] as usize], y);
    }
}

/// gate = silu(gate) ⊙ up.
fn gated(pool: &Pool, width: usize, gate: &mut [f32], up: &[f32]) {
    let rows = gate.len().checked_div(width).unwrap_or(0);
    let gate = crate::disjoint::Disjoint::new(gate);
    for_rows(pool, rows, width, |rows| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: rows of tasks do not overlap.
        let gate = unsafe { gate.part(range.clone()) };
        silu(gate);
        gate.iter_mut().zip(&up[range]).for_each(|(g, u)| *g *= u);
    });
}
