//! Mamba's selective scan over sequences, and its step on states.

use memwall_graph::ops::reshape;
use memwall_graph::ops::selective_scan::{SelectiveScan, SelectiveScanStep};

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{How, IN_PLACE, Made, Operator, integer, made, real};

pub const SELECTIVE_SCAN: Operator = Operator {
    name: "selective_scan",
    about: "Mamba: h_t = exp(delta_t a) ⊙ h_{t−1} + delta_t x_t b_t, y_t = c_t · h_t + skip x_t, channel by channel",
    inputs: &[
        real("x", "B T D", "inputs"),
        real("delta", "B T D", "time steps, at least 0"),
        real("a", "D K", "rates, at most 0"),
        real("b", "B T K", "what a token writes"),
        real("c", "B T K", "what a token reads"),
        real("skip", "D", "what passes by the states"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &[real("y", "B T D", "outputs"), real("final_state", "S K D", "the states of each sequence after")],
    attributes: &[],
    forms: &[],
    how: How::Graph(selective_scan),
};

pub const SELECTIVE_SCAN_STEP: Operator = Operator {
    name: "selective_scan_step",
    about: "selective_scan for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S K D", "the states"),
        real("x", "N D", "inputs"),
        real("delta", "N D", "time steps, at least 0"),
        real("a", "D K", "rates, at most 0"),
        real("b", "N K", "what a token writes"),
        real("c", "N K", "what a token reads"),
        real("skip", "D", "what passes by the states"),
        integer("slots", "N", "which state each row continues"),
    ],
    weights: None,
    outputs: &[real("y", "N D", "outputs"), real("state", "S K D", "the states after")],
    attributes: &[],
    forms: &[],
    how: How::Step(selective_scan_step, IN_PLACE),
};

fn check(b: &Builder<'_>) -> anyhow::Result<()> {
    b.check_elements("delta", "finite and at least 0", |x| x.is_finite() && x >= 0.0)?;
    b.check_elements("a", "finite and at most 0", |x| x.is_finite() && x <= 0.0)
}

fn selective_scan(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    check(b)?;
    let (rows, tokens, d, k) = (b.size('B'), b.size('T'), b.size('D'), b.size('K'));
    let n = rows * tokens;
    let (x, delta, a) = (b.reshaped("x", &[n, d])?, b.reshaped("delta", &[n, d])?, b.real("a")?);
    let (write, read, skip) = (b.reshaped("b", &[n, k])?, b.reshaped("c", &[n, k])?, b.real("skip")?);
    let (cu, _) = cu_seqlens(b)?;
    let out = b.g.push(SelectiveScan, &[x, delta, a, write, read, skip, cu])?;
    let y = reshape(&mut b.g, out[0], fixed(&[rows, tokens, d])?)?;
    Ok(vec![made("y", y), made("final_state", out[1])])
}

fn selective_scan_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    check(b)?;
    let [state, x, delta, a] = [b.real("state")?, b.real("x")?, b.real("delta")?, b.real("a")?];
    let [write, read, skip] = [b.real("b")?, b.real("c")?, b.real("skip")?];
    let slots = b.integers("slots").unwrap_or_default();
    let slots = b.feed_integers("slots", &[b.size('N')], slots)?;
    let out = b.g.push(SelectiveScanStep, &[state, x, delta, a, write, read, skip, slots])?;
    Ok(vec![made("y", out[1]), made("state", out[0])])
}
