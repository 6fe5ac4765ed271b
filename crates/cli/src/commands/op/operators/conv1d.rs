//! Depthwise causal convolution over sequences, and its step on states.

use memwall_graph::ops::conv1d::{Conv1d, Conv1dStep};
use memwall_graph::ops::reshape;
use memwall_kernels::conv1d::Conv1d as Kernel;

use super::sequences::{cu_seqlens, slots};
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, IN_PLACE, Made, Operator, integer, made, real};

pub const CONV1D: Operator = Operator {
    name: "conv1d",
    about: "y_t = act(bias + Σ_j weight_j ⊙ x_{t−W+1+j}) within each sequence, x being 0 before it; W from 1 to 8",
    inputs: &[
        real("x", "B T D", "inputs"),
        real("weight", "D W", "taps, oldest first"),
        real("bias", "D", "added to the sum").optional(),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &[real("y", "B T D", "outputs")],
    attributes: &["silu"],
    forms: &[Form::Parallel, Form::Recurrent],
    how: How::Graph(conv1d),
};

pub const CONV1D_STEP: Operator = Operator {
    name: "conv1d_step",
    about: "the same convolution for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("weight", "D W", "taps, oldest first"),
        real("state", "S W-1 D", "the inputs before, oldest first"),
        real("x", "N D", "inputs"),
        integer("slots", "N", "which state each row continues"),
        real("bias", "D", "added to the sum").optional(),
    ],
    weights: None,
    outputs: &[real("y", "N D", "outputs"), real("state", "S W-1 D", "the states after")],
    attributes: &["silu"],
    forms: &[],
    how: How::Step(conv1d_step, IN_PLACE),
};

fn kernel(b: &Builder<'_>) -> Kernel {
    Kernel { channels: b.size('D'), taps: b.size('W'), silu: b.attributes.switch("silu") }
}

fn conv1d(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b);
    let (rows, tokens) = (b.size('B'), b.size('T'));
    let x = b.reshaped("x", &[rows * tokens, kernel.channels])?;
    let weight = b.real("weight")?;
    let bias = b.maybe_real("bias")?;
    let (cu, offsets) = cu_seqlens(b)?;
    let y = if b.form == Some(Form::Recurrent) {
        let of_row: Vec<i32> = slots(&offsets).iter().map(|row| row[0]).collect();
        let of_row = b.feed_integers("slots", &[of_row.len()], &of_row)?;
        let shape = [offsets.len() - 1, kernel.taps.saturating_sub(1), kernel.channels];
        let state = b.g.state("state", shape, b.g.elem())?;
        let mut inputs = vec![state, x, of_row, weight];
        inputs.extend(bias);
        b.g.push(Conv1dStep { kernel }, &inputs)?[1]
    } else {
        let mut inputs = vec![x, cu, weight];
        inputs.extend(bias);
        b.g.push1(Conv1d { kernel }, &inputs)?
    };
    Ok(vec![made("y", reshape(&mut b.g, y, fixed(&[rows, tokens, kernel.channels])?)?)])
}

fn conv1d_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b);
    let slots = b.integers("slots").unwrap_or_default();
    let mut inputs = vec![b.real("state")?, b.real("x")?];
    inputs.push(b.feed_integers("slots", &[b.size('N')], slots)?);
    inputs.push(b.real("weight")?);
    inputs.extend(b.maybe_real("bias")?);
    let out = b.g.push(Conv1dStep { kernel }, &inputs)?;
    Ok(vec![made("y", out[1]), made("state", out[0])])
}
