//! Ridge regression at every token over sequences, and its step on states.

use memwall_graph::ops::reshape;
use memwall_graph::ops::ridge::{Ridge, RidgeStep};
use memwall_kernels::ridge::{Form as KernelForm, Ridge as Kernel, RidgeInputs};

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, IN_PLACE, Made, Operator, integer, made, real};

pub const RIDGE: Operator = Operator {
    name: "ridge",
    about: "H_t = exp(g_t) H_{t−1} + k_t k_tᵀ, x_t = (H_t + a ‖H_t‖_F I)⁻¹ q_t by Chebyshev's iteration: the solve of \
            Gated KalmaNet; the output of `gla` for queries q + α (x − q) is its read-out. Gradients are those of the \
            exact solution",
    inputs: &[
        real("q", "B T H K", "queries"),
        real("k", "B T H K", "keys, times β"),
        real("g", "B T H", "log-gates, at most 0; nothing is forgotten if absent").optional(),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
        real("initial_state", "S H K K", "H of each sequence before, symmetric; 0 if absent").optional(),
    ],
    weights: None,
    outputs: &[real("x", "B T H K", "solutions"), real("final_state", "S H K K", "H of each sequence after")],
    attributes: &["num-iter", "ridge-strength", "chunk"],
    forms: &[Form::Recurrent, Form::Chunked],
    how: How::Graph(ridge),
};

pub const RIDGE_STEP: Operator = Operator {
    name: "ridge_step",
    about: "the ridge regression for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S H K K", "the states H"),
        real("q", "N H K", "queries"),
        real("k", "N H K", "keys, times β"),
        integer("slots", "N", "which state each row continues"),
        real("g", "N H", "log-gates, at most 0").optional(),
    ],
    weights: None,
    outputs: &[real("x", "N H K", "solutions"), real("state", "S H K K", "the states after")],
    attributes: &["num-iter", "ridge-strength"],
    forms: &[],
    how: How::Step(ridge_step, IN_PLACE),
};

/// The kernel, its options and the elements of gates and states checked.
fn kernel(b: &Builder<'_>, tokens: usize, states: &str) -> anyhow::Result<Kernel> {
    let mut kernel = Kernel::new(b.size('H'), b.size('K'));
    kernel.num_iter = b.attributes.count("num-iter").unwrap_or(kernel.num_iter);
    kernel.ridge_strength = b.attributes.number("ridge-strength").unwrap_or(kernel.ridge_strength);
    kernel.chunk = b.attributes.count("chunk").unwrap_or(kernel.chunk);
    kernel.check_options()?;
    let reals = |name: &str| b.given(name).and_then(|t| t.reals());
    let (g, initial) = (reals("g"), reals(states));
    let zeros = vec![0.0; tokens * kernel.heads * kernel.width];
    let initial_state = initial.as_deref();
    // Each state stands for a sequence; here all tokens are in the first.
    let sequences = initial_state.map_or(1, |states| states.len() / kernel.state_elements(1));
    let cu: Vec<i32> = (0..=sequences).map(|i| if i == 0 { 0 } else { tokens as i32 }).collect();
    kernel.check(&RidgeInputs { q: &zeros, k: &zeros, g: g.as_deref(), cu_seqlens: &cu, initial_state })?;
    Ok(kernel)
}

fn ridge(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (rows, tokens) = (b.size('B'), b.size('T'));
    let n = rows * tokens;
    let (cu, _) = cu_seqlens(b)?;
    let kernel = kernel(b, n, "initial_state")?;
    let size = [n, kernel.heads, kernel.width];
    let mut inputs = vec![b.reshaped("q", &size)?, b.reshaped("k", &size)?, cu];
    let gated = b.given("g").is_some();
    if gated {
        inputs.push(b.reshaped("g", &[n, kernel.heads])?);
    }
    let initial = b.maybe_real("initial_state")?;
    inputs.extend(initial);
    let form = if b.form == Some(Form::Chunked) { KernelForm::Chunked } else { KernelForm::Recurrent };
    let out = b.g.push(Ridge::new(kernel, gated, Some(form), initial.is_some()), &inputs)?;
    let x = reshape(&mut b.g, out[0], fixed(&[rows, tokens, kernel.heads, kernel.width])?)?;
    Ok(vec![made("x", x), made("final_state", out[1])])
}

fn ridge_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let n = b.size('N');
    let kernel = kernel(b, n, "state")?;
    let slots = b.integers("slots").unwrap_or_default();
    let mut inputs = vec![b.real("state")?, b.real("q")?, b.real("k")?];
    inputs.push(b.feed_integers("slots", &[n], slots)?);
    let gated = b.given("g").is_some();
    if gated {
        inputs.push(b.real("g")?);
    }
    let out = b.g.push(RidgeStep::new(kernel, gated), &inputs)?;
    Ok(vec![made("x", out[1]), made("state", out[0])])
}
