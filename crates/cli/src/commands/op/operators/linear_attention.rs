//! What surrounds a linear memory: a feature map before it, a normalizer behind it.

use memwall_graph::ops::feature_map::Taylor;
use memwall_graph::ops::normalizer::{AppendOne, Normalize};

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Made, Operator, made, real};

pub const TAYLOR: Operator = Operator {
    name: "taylor",
    about: "φ(x) = [1, x / w^¼, vec(x xᵀ) / (√2 √w)] of rows of w, so that φ(q) · φ(k) = 1 + s + s²/2 with s = q · k / √w \
            (Based, arXiv 2402.18668)",
    inputs: &[real("x", "... W", "inputs")],
    weights: None,
    outputs: &[real("y", "... F", "the 1 + w + w² features")],
    attributes: &[],
    forms: &[],
    how: How::Graph(taylor),
};

pub const APPEND_ONE: Operator = Operator {
    name: "append_one",
    about: "y = [x, 1]: a memory of such values also keeps the sum of its keys",
    inputs: &[real("x", "... W", "inputs")],
    weights: None,
    outputs: &[real("y", "... W+1", "x and a column of ones")],
    attributes: &[],
    forms: &[],
    how: How::Graph(append_one),
};

pub const NORMALIZE: Operator = Operator {
    name: "normalize",
    about: "y = x[.., :W] / d with d = x[.., W] + ε, or max(|x[.., W]|, bound) + ε",
    inputs: &[
        real("x", "N H W+1", "what a memory of [v, 1] gave"),
        real("bound", "N H", "the least normalizer, from 0").optional(),
    ],
    weights: None,
    outputs: &[real("y", "N H W", "outputs")],
    attributes: &["eps"],
    forms: &[],
    how: How::Graph(normalize),
};

fn taylor(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(Taylor, &[x])?)])
}

fn append_one(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", b.g.push1(AppendOne, &[x])?)])
}

fn normalize(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let eps = b.attributes.number("eps").unwrap_or(1e-5);
    let mut inputs = vec![b.real("x")?];
    inputs.extend(b.maybe_real("bound")?);
    Ok(vec![made("y", b.g.push1(Normalize { eps }, &inputs)?)])
}
