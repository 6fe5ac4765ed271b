//! Depthwise causal convolution with a filter as long as the sequence.

use memwall_graph::ops::long_conv::LongConv;
use memwall_graph::ops::reshape;

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const LONG_CONV: Operator = Operator {
    name: "long_conv",
    about: "y_t = Σ_{s ≤ t} filter_{t−s} ⊙ x_s within each sequence, none longer than L",
    inputs: &[
        real("x", "B T D", "inputs"),
        real("filter", "L D", "by distance, 0 first"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &[real("y", "B T D", "outputs")],
    attributes: &[],
    forms: &[],
    how: How::Graph(long_conv),
};

fn long_conv(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (rows, tokens, channels) = (b.size('B'), b.size('T'), b.size('D'));
    let x = b.reshaped("x", &[rows * tokens, channels])?;
    let filter = b.real("filter")?;
    let (cu, _) = cu_seqlens(b)?;
    let y = b.g.push1(LongConv, &[x, cu, filter])?;
    Ok(vec![made("y", reshape(&mut b.g, y, fixed(&[rows, tokens, channels])?)?)])
}
