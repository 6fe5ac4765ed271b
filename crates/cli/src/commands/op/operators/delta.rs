//! The gated delta rule over sequences, and its step on states.

use memwall_graph::Value;
use memwall_graph::ops::delta::{Delta, DeltaStep};
use memwall_graph::ops::gla::GateShape;
use memwall_graph::ops::reshape;
use memwall_kernels::delta::{Delta as Kernel, DeltaInputs, Form as KernelForm, Gate};

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, IN_PLACE, Made, Operator, integer, made, real};

const EQUATION: &str = "S_t = (I − β_t k_t k_tᵀ) diag(exp(g_t)) S_{t−1} + β_t k_t v_tᵀ, o_t = scale · S_tᵀ q_t: \
                        without g DeltaNet, one g a head Gated DeltaNet, one a key channel KDA; \
                        keys are taken as they are: normalize them first";

pub const DELTA: Operator = Operator {
    name: "delta",
    about: EQUATION,
    inputs: &[
        real("q", "B T G K", "queries; head h uses those of h·G/H"),
        real("k", "B T G K", "keys, of length 1"),
        real("v", "B T H V", "values"),
        real("beta", "B T H", "which share of what a key holds is replaced, 0 to 2"),
        real("g", "B T H K | B T H", "log-gates, at most 0: one a key channel, or one a head").optional(),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
        real("initial_state", "S H K V", "the state of each sequence before; 0 if absent").optional(),
    ],
    weights: None,
    outputs: &[real("o", "B T H V", "outputs"), real("final_state", "S H K V", "the state of each sequence after")],
    attributes: &["scale", "chunk"],
    forms: &[Form::Recurrent, Form::Chunked],
    how: How::Graph(delta),
};

pub const DELTA_STEP: Operator = Operator {
    name: "delta_step",
    about: "the gated delta rule for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S H K V", "the states"),
        real("q", "N G K", "queries"),
        real("k", "N G K", "keys, of length 1"),
        real("v", "N H V", "values"),
        real("beta", "N H", "which share of what a key holds is replaced, 0 to 2"),
        integer("slots", "N", "which state each row continues"),
        real("g", "N H K | N H", "log-gates, at most 0").optional(),
    ],
    weights: None,
    outputs: &[real("o", "N H V", "outputs"), real("state", "S H K V", "the states after")],
    attributes: &["scale"],
    forms: &[],
    how: How::Step(delta_step, IN_PLACE),
};

fn kernel(b: &Builder<'_>) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::new(b.size('H'), b.size('K'), b.size('V'));
    kernel.key_heads = b.size('G');
    kernel.scale = b.attributes.number("scale").unwrap_or(kernel.scale);
    kernel.chunk = b.attributes.count("chunk").unwrap_or(kernel.chunk);
    kernel.check_options()?;
    Ok(kernel)
}

/// Which gates there are; their elements and those of β, checked.
fn gate(b: &Builder<'_>, kernel: &Kernel, tokens: usize, row_axes: usize) -> anyhow::Result<GateShape> {
    let reals = |name: &str| b.given(name).and_then(|t| t.reals()).unwrap_or_default();
    let (beta, values) = (reals("beta"), reals("g"));
    let (shape, g) = match b.given("g") {
        None => (GateShape::None, Gate::None),
        Some(t) if t.shape.len() > row_axes + 1 => (GateShape::Channel, Gate::Channel(&values[..])),
        Some(_) => (GateShape::Head, Gate::Head(&values[..])),
    };
    let zeros = |n: usize| vec![0.0; n];
    let (q, k) =
        (zeros(tokens * kernel.key_heads * kernel.key_width), zeros(tokens * kernel.key_heads * kernel.key_width));
    let v = zeros(tokens * kernel.heads * kernel.value_width);
    let (beta, cu_seqlens) = (&beta[..], &[0, tokens as i32][..]);
    kernel.check(&DeltaInputs { q: &q, k: &k, v: &v, beta, g, cu_seqlens, initial_state: None })?;
    Ok(shape)
}

fn add_gate(b: &mut Builder<'_>, kernel: &Kernel, shape: GateShape, n: usize) -> anyhow::Result<Option<Value>> {
    Ok(match shape {
        GateShape::None => None,
        GateShape::Head => Some(b.reshaped("g", &[n, kernel.heads])?),
        GateShape::Channel => Some(b.reshaped("g", &[n, kernel.heads, kernel.key_width])?),
    })
}

fn delta(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b)?;
    let (rows, tokens) = (b.size('B'), b.size('T'));
    let n = rows * tokens;
    let gates = gate(b, &kernel, n, 2)?;
    let q = b.reshaped("q", &[n, kernel.key_heads, kernel.key_width])?;
    let k = b.reshaped("k", &[n, kernel.key_heads, kernel.key_width])?;
    let v = b.reshaped("v", &[n, kernel.heads, kernel.value_width])?;
    let beta = b.reshaped("beta", &[n, kernel.heads])?;
    let (cu, _) = cu_seqlens(b)?;
    let mut inputs = vec![q, k, v, beta, cu];
    inputs.extend(add_gate(b, &kernel, gates, n)?);
    let initial = b.maybe_real("initial_state")?;
    inputs.extend(initial);
    let form = if b.form == Some(Form::Chunked) { KernelForm::Chunked } else { KernelForm::Recurrent };
    let out = b.g.push(Delta::new(kernel, gates, Some(form), initial.is_some()), &inputs)?;
    let o = reshape(&mut b.g, out[0], fixed(&[rows, tokens, kernel.heads, kernel.value_width])?)?;
    Ok(vec![made("o", o), made("final_state", out[1])])
}

fn delta_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b)?;
    let n = b.size('N');
    let gates = gate(b, &kernel, n, 1)?;
    let slots = b.integers("slots").unwrap_or_default();
    let mut inputs = vec![b.real("state")?, b.real("q")?, b.real("k")?, b.real("v")?, b.real("beta")?];
    inputs.push(b.feed_integers("slots", &[n], slots)?);
    inputs.extend(add_gate(b, &kernel, gates, n)?);
    let out = b.g.push(DeltaStep::new(kernel, gates), &inputs)?;
    Ok(vec![made("o", out[1]), made("state", out[0])])
}
