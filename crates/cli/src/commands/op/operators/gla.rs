//! Gated linear attention over sequences, and its step on states.

use memwall_graph::Value;
use memwall_graph::ops::gla::{GateShape, Gla, GlaStep};
use memwall_graph::ops::reshape;
use memwall_kernels::gla::{Form as KernelForm, Gate, Gla as Kernel};

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, IN_PLACE, Made, Operator, integer, made, real};

const EQUATION: &str = "S_t = diag(exp(g_t)) S_{t−1} + k_t v_tᵀ, o_t = scale · S_tᵀ q_t (GLA, arXiv 2312.06635); \
                        one g a head: retention (g fixed), Mamba-2 (k = B, q = C, v = Δ x, scale 1); \
                        without g: linear attention";

pub const GLA: Operator = Operator {
    name: "gla",
    about: EQUATION,
    inputs: &[
        real("q", "B T H K", "queries"),
        real("k", "B T G K", "keys; query head h uses key head h·G/H"),
        real("v", "B T G V", "values"),
        real("g", "B T G K | B T G", "log-gates, at most 0: one a key channel, or one a head").optional(),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
        real("initial_state", "S H K V", "the state of each sequence before; 0 if absent").optional(),
    ],
    weights: None,
    outputs: &[real("o", "B T H V", "outputs"), real("final_state", "S H K V", "the state of each sequence after")],
    attributes: &["scale", "chunk", "growing-gates"],
    forms: &[Form::Recurrent, Form::Chunked, Form::Parallel],
    how: How::Graph(gla),
};

pub const GLA_STEP: Operator = Operator {
    name: "gla_step",
    about: "the same recurrence for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S H K V", "the states"),
        real("q", "N H K", "queries"),
        real("k", "N G K", "keys"),
        real("v", "N G V", "values"),
        integer("slots", "N", "which state each row continues"),
        real("g", "N G K | N G", "log-gates, at most 0").optional(),
    ],
    weights: None,
    outputs: &[real("o", "N H V", "outputs"), real("state", "S H K V", "the states after")],
    attributes: &["scale", "growing-gates"],
    forms: &[],
    how: How::Step(gla_step, IN_PLACE),
};

fn kernel(b: &Builder<'_>) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::new(b.size('H'), b.size('K'), b.size('V'));
    kernel.kv_heads = b.size('G');
    kernel.compute = b.g.compute();
    kernel.scale = b.attributes.number("scale").unwrap_or(kernel.scale);
    kernel.chunk = b.attributes.count("chunk").unwrap_or(kernel.chunk);
    kernel.growing_gates = b.attributes.switch("growing-gates");
    kernel.check_options()?;
    Ok(kernel)
}

/// The gates' elements, checked: finite, and at most 0 unless they may grow.
fn gate(b: &Builder<'_>, kernel: &Kernel, tokens: usize, row_axes: usize) -> anyhow::Result<GateShape> {
    let Some(tensor) = b.given("g") else { return Ok(GateShape::None) };
    let values = tensor.reals().unwrap_or_default();
    let channel = tensor.shape.len() > row_axes + 1;
    let given = if channel { Gate::Channel(&values[..]) } else { Gate::Head(&values[..]) };
    let zeros = |n: usize| vec![0.0; n];
    let (q, k) = (zeros(tokens * kernel.heads * kernel.key_width), zeros(tokens * kernel.kv_heads * kernel.key_width));
    let v = zeros(tokens * kernel.kv_heads * kernel.value_width);
    kernel.check(&q, &k, &v, given, &[0, tokens as i32], None)?;
    Ok(if channel { GateShape::Channel } else { GateShape::Head })
}

fn add_gate(b: &mut Builder<'_>, kernel: &Kernel, shape: GateShape, n: usize) -> anyhow::Result<Option<Value>> {
    Ok(match shape {
        GateShape::None => None,
        GateShape::Head => Some(b.reshaped("g", &[n, kernel.kv_heads])?),
        GateShape::Channel => Some(b.reshaped("g", &[n, kernel.kv_heads, kernel.key_width])?),
    })
}

fn gla(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b)?;
    let (rows, tokens) = (b.size('B'), b.size('T'));
    let n = rows * tokens;
    let gates = gate(b, &kernel, n, 2)?;
    let q = b.reshaped("q", &[n, kernel.heads, kernel.key_width])?;
    let k = b.reshaped("k", &[n, kernel.kv_heads, kernel.key_width])?;
    let v = b.reshaped("v", &[n, kernel.kv_heads, kernel.value_width])?;
    let (cu, _) = cu_seqlens(b)?;
    let mut inputs = vec![q, k, v, cu];
    inputs.extend(add_gate(b, &kernel, gates, n)?);
    let initial = b.maybe_real("initial_state")?;
    inputs.extend(initial);
    let form = match b.form {
        Some(Form::Parallel) => KernelForm::Parallel,
        Some(Form::Chunked) => KernelForm::Chunked,
        Some(Form::Recurrent) | None => KernelForm::Recurrent,
    };
    let out = b.g.push(Gla::new(kernel, gates, Some(form), initial.is_some()), &inputs)?;
    let o = reshape(&mut b.g, out[0], fixed(&[rows, tokens, kernel.heads, kernel.value_width])?)?;
    Ok(vec![made("o", o), made("final_state", out[1])])
}

fn gla_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel(b)?;
    let n = b.size('N');
    let gates = gate(b, &kernel, n, 1)?;
    let slots = b.integers("slots").unwrap_or_default();
    let mut inputs = vec![b.real("state")?, b.real("q")?, b.real("k")?, b.real("v")?];
    inputs.push(b.feed_integers("slots", &[n], slots)?);
    inputs.extend(add_gate(b, &kernel, gates, n)?);
    let out = b.g.push(GlaStep::new(kernel, gates), &inputs)?;
    Ok(vec![made("o", out[1]), made("state", out[0])])
}
