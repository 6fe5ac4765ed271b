//! Norms and softmax of rows.

use anyhow::bail;
use memwall_graph::ops::norm::Norm;
use memwall_graph::ops::softmax::Softmax;

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, made, real};

pub const RMS_NORM: Operator = Operator {
    name: "rms_norm",
    about: "y = x / √(mean(x²) + ε) ⊙ weight over the last axis",
    inputs: &[real("x", "... W", "inputs"), real("weight", "W", "factors")],
    weights: None,
    outputs: &[real("y", "... W", "outputs")],
    attributes: &["eps"],
    forms: &[],
    how: How::Graph(rms_norm),
};

pub const LAYER_NORM: Operator = Operator {
    name: "layer_norm",
    about: "y = (x − mean) / √(variance + ε) ⊙ weight + bias over the last axis",
    inputs: &[
        real("x", "... W", "inputs"),
        real("weight", "W", "factors"),
        real("bias", "W", "added at the end").optional(),
    ],
    weights: None,
    outputs: &[real("y", "... W", "outputs")],
    attributes: &["eps"],
    forms: &[],
    how: How::Graph(layer_norm),
};

pub const SOFTMAX: Operator = Operator {
    name: "softmax",
    about: "y = e^(x − max) / Σ e^(x − max) over the last axis; a row of −∞ only becomes 0",
    inputs: &[real("x", "... W", "inputs")],
    weights: None,
    outputs: &[real("y", "... W", "outputs")],
    attributes: &[],
    forms: &[],
    how: How::Graph(softmax),
};

fn eps(b: &Builder<'_>) -> anyhow::Result<f64> {
    match b.attributes.number("eps") {
        Some(eps) if eps < 0.0 => bail!("--eps {eps}: a number from 0 on is needed"),
        eps => Ok(eps.unwrap_or(1e-5)),
    }
}

fn rms_norm(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let inputs = [b.real("x")?, b.real("weight")?];
    let norm = Norm::rms(b.size('W'), eps(b)?);
    Ok(vec![made("y", b.g.push1(norm, &inputs)?)])
}

fn layer_norm(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let mut inputs = vec![b.real("x")?, b.real("weight")?];
    inputs.extend(b.maybe_real("bias")?);
    let norm = Norm::layer(b.size('W'), eps(b)?);
    Ok(vec![made("y", b.g.push1(norm, &inputs)?)])
}

fn softmax(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(Softmax, &[x])?)])
}
