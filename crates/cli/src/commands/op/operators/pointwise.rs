//! Functions of one or two elements, and gated pairs.

use anyhow::bail;
use memwall_graph::ops::{self, pointwise::Unary};

use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{Argument, How, Made, Operator, made, real};

const X: &[Argument] = &[real("x", "...", "inputs")];
const Y: &[Argument] = &[real("y", "...", "outputs")];
const PAIR: &[Argument] =
    &[real("a", "...", "inputs"), real("b", "...", "inputs; the shape of one ends the other's, or ends in 1")];
const GATED: &[Argument] =
    &[real("gate", "...", "goes through the activation"), real("up", "...", "of the same shape")];

const fn operator(
    name: &'static str,
    about: &'static str,
    inputs: &'static [Argument],
    build: fn(&mut Builder<'_>) -> anyhow::Result<Vec<Made>>,
) -> Operator {
    Operator { name, about, inputs, weights: None, outputs: Y, attributes: &[], forms: &[], how: How::Graph(build) }
}

const fn with_constant(
    name: &'static str,
    about: &'static str,
    build: fn(&mut Builder<'_>) -> anyhow::Result<Vec<Made>>,
) -> Operator {
    Operator { attributes: &["constant"], ..operator(name, about, X, build) }
}

pub const ADD: Operator = operator("add", "y = a + b", PAIR, |b| {
    let (x, y) = (b.real("a")?, b.real("b")?);
    Ok(vec![made("y", ops::add(&mut b.g, x, y)?)])
});
pub const SUB: Operator = operator("sub", "y = a − b", PAIR, |b| {
    let (x, y) = (b.real("a")?, b.real("b")?);
    Ok(vec![made("y", ops::sub(&mut b.g, x, y)?)])
});
pub const MUL: Operator = operator("mul", "y = a · b, element by element", PAIR, |b| {
    let (x, y) = (b.real("a")?, b.real("b")?);
    Ok(vec![made("y", ops::mul(&mut b.g, x, y)?)])
});
pub const SWIGLU: Operator = operator("swiglu", "y = silu(gate) · up", GATED, |b| gated(b, Unary::Silu));
pub const GEGLU: Operator =
    operator("geglu", "y = gelu(gate) · up, gelu by the tanh approximation", GATED, |b| gated(b, Unary::Gelu));
pub const SILU: Operator = operator("silu", "y = x σ(x)", X, |b| unary(b, Unary::Silu));
pub const GELU: Operator = operator("gelu", "y = x Φ(x) by the tanh approximation", X, |b| unary(b, Unary::Gelu));
pub const GELU_ERF: Operator =
    operator("gelu_erf", "y = x Φ(x) by the error function", X, |b| unary(b, Unary::GeluErf));
pub const RELU: Operator = operator("relu", "y = max(x, 0)", X, |b| unary(b, Unary::Relu));
pub const SIGMOID: Operator = operator("sigmoid", "y = σ(x)", X, |b| unary(b, Unary::Sigmoid));
pub const LOG_SIGMOID: Operator = operator("log_sigmoid", "y = ln σ(x)", X, |b| unary(b, Unary::LogSigmoid));
pub const TANH: Operator = operator("tanh", "y = tanh(x)", X, |b| unary(b, Unary::Tanh));
pub const EXP: Operator = operator("exp", "y = eˣ", X, |b| unary(b, Unary::Exp));
pub const LN: Operator = operator("ln", "y = ln x", X, |b| unary(b, Unary::Ln));
pub const NEG: Operator = operator("neg", "y = −x", X, |b| unary(b, Unary::Neg));
pub const SQUARE: Operator = operator("square", "y = x²", X, |b| unary(b, Unary::Square));
pub const RECIPROCAL: Operator = operator("reciprocal", "y = 1/x", X, |b| unary(b, Unary::Reciprocal));
pub const SCALE: Operator = with_constant("scale", "y = c · x", |b| {
    let c = constant(b)?;
    unary(b, Unary::Scale(c))
});
pub const OFFSET: Operator = with_constant("offset", "y = x + c", |b| {
    let c = constant(b)?;
    unary(b, Unary::Offset(c))
});
pub const AT_LEAST: Operator = with_constant("at_least", "y = max(x, c)", |b| {
    let c = constant(b)?;
    unary(b, Unary::AtLeast(c))
});
pub const SOFTCAP: Operator = with_constant("softcap", "y = c · tanh(x / c), c above 0", |b| {
    let c = constant(b)?;
    if c <= 0.0 {
        bail!("--constant {c}: a number above 0 is needed");
    }
    unary(b, Unary::Softcap(c))
});

fn constant(b: &Builder<'_>) -> anyhow::Result<f64> {
    b.attributes.required("constant", b.attributes.number("constant"))
}

fn unary(b: &mut Builder<'_>, f: Unary) -> anyhow::Result<Vec<Made>> {
    let x = b.real("x")?;
    Ok(vec![made("y", ops::unary(&mut b.g, f, x)?)])
}

fn gated(b: &mut Builder<'_>, f: Unary) -> anyhow::Result<Vec<Made>> {
    let (gate, up) = (b.real("gate")?, b.real("up")?);
    let gate = ops::unary(&mut b.g, f, gate)?;
    Ok(vec![made("y", ops::mul(&mut b.g, gate, up)?)])
}
