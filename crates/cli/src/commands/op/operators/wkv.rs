//! The recurrences of RWKV over sequences, and their steps on states.

use memwall_graph::Value;
use memwall_graph::ops::reshape;
use memwall_graph::ops::wkv4::{Wkv4, Wkv4Step};
use memwall_graph::ops::wkv6::{Wkv6, Wkv6Step};
use memwall_graph::ops::wkv7::{Wkv7, Wkv7Step};
use memwall_kernels::wkv6::{Form as KernelForm, Wkv6 as Kernel6};
use memwall_kernels::wkv7::{Form as KernelForm7, Wkv7 as Kernel7};

use super::sequences::cu_seqlens;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Argument, Form, How, IN_PLACE, Made, Operator, integer, made, real};

const PACKED: Argument =
    integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional();
const SLOTS: Argument = integer("slots", "N", "which state each row continues");

pub const WKV4: Operator = Operator {
    name: "wkv4",
    about: "RWKV-4: y_t is the mean of v_s with weights e^{(t−1−s) log_decay + k_s} for s < t, and e^{bonus + k_t} for t",
    inputs: &[
        real("log_decay", "D", "what a weight's logarithm loses with each token, at most 0"),
        real("bonus", "D", "what the current token's weight gains"),
        real("k", "B T D", "logarithms of weights"),
        real("v", "B T D", "values"),
        PACKED,
    ],
    weights: None,
    outputs: &[
        real("y", "B T D", "outputs"),
        real("final_state", "S 3 D", "sums a, b and exponent p of each sequence"),
    ],
    attributes: &[],
    forms: &[],
    how: How::Graph(wkv4),
};

pub const WKV4_STEP: Operator = Operator {
    name: "wkv4_step",
    about: "wkv4 for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S 3 D", "the states; zeros are empty ones"),
        real("log_decay", "D", "what a weight's logarithm loses with each token, at most 0"),
        real("bonus", "D", "what the current token's weight gains"),
        real("k", "N D", "logarithms of weights"),
        real("v", "N D", "values"),
        SLOTS,
    ],
    weights: None,
    outputs: &[real("y", "N D", "outputs"), real("state", "S 3 D", "the states after")],
    attributes: &[],
    forms: &[],
    how: How::Step(wkv4_step, IN_PLACE),
};

pub const WKV6: Operator = Operator {
    name: "wkv6",
    about: "RWKV-5 and RWKV-6: o_t = (S_{t−1} + diag(bonus) k_t v_tᵀ)ᵀ r_t, S_t = diag(exp(log_decay_t)) S_{t−1} + k_t v_tᵀ",
    inputs: &[
        real("r", "B T H K", "receptances"),
        real("k", "B T H K", "keys"),
        real("v", "B T H V", "values"),
        real("log_decay", "B T H K", "at most 0"),
        real("bonus", "H K", "what the current token weighs"),
        PACKED,
    ],
    weights: None,
    outputs: &[real("o", "B T H V", "outputs"), real("final_state", "S H K V", "the state of each sequence after")],
    attributes: &["chunk"],
    forms: &[Form::Recurrent, Form::Chunked, Form::Parallel],
    how: How::Graph(wkv6),
};

pub const WKV6_STEP: Operator = Operator {
    name: "wkv6_step",
    about: "wkv6 for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S H K V", "the states"),
        real("r", "N H K", "receptances"),
        real("k", "N H K", "keys"),
        real("v", "N H V", "values"),
        real("log_decay", "N H K", "at most 0"),
        real("bonus", "H K", "what the current token weighs"),
        SLOTS,
    ],
    weights: None,
    outputs: &[real("o", "N H V", "outputs"), real("state", "S H K V", "the states after")],
    attributes: &[],
    forms: &[],
    how: How::Step(wkv6_step, IN_PLACE),
};

pub const WKV7: Operator = Operator {
    name: "wkv7",
    about: "RWKV-7: S_t = diag(exp(log_decay_t)) S_{t−1} + b_t (a_tᵀ S_{t−1}) + k_t v_tᵀ, o_t = S_tᵀ r_t",
    inputs: &[
        real("r", "B T H K", "receptances"),
        real("k", "B T H K", "keys"),
        real("v", "B T H V", "values"),
        real("a", "B T H K", "what is read of the state before the token"),
        real("b", "B T H K", "under which key that is added"),
        real("log_decay", "B T H K", "at most 0"),
        PACKED,
    ],
    weights: None,
    outputs: &[real("o", "B T H V", "outputs"), real("final_state", "S H K V", "the state of each sequence after")],
    attributes: &["chunk"],
    forms: &[Form::Recurrent, Form::Chunked],
    how: How::Graph(wkv7),
};

pub const WKV7_STEP: Operator = Operator {
    name: "wkv7_step",
    about: "wkv7 for rows that continue kept states; rows of one slot are taken in order",
    inputs: &[
        real("state", "S H K V", "the states"),
        real("r", "N H K", "receptances"),
        real("k", "N H K", "keys"),
        real("v", "N H V", "values"),
        real("a", "N H K", "what is read of the state before the token"),
        real("b", "N H K", "under which key that is added"),
        real("log_decay", "N H K", "at most 0"),
        SLOTS,
    ],
    weights: None,
    outputs: &[real("o", "N H V", "outputs"), real("state", "S H K V", "the states after")],
    attributes: &[],
    forms: &[],
    how: How::Step(wkv7_step, IN_PLACE),
};

/// Refuses decays above 0 and what is no number.
fn check_decays(b: &Builder<'_>) -> anyhow::Result<()> {
    b.check_elements("log_decay", "finite and at most 0", |x| x.is_finite() && x <= 0.0)
}

fn slots(b: &mut Builder<'_>) -> anyhow::Result<Value> {
    let slots = b.integers("slots").unwrap_or_default();
    b.feed_integers("slots", &[b.size('N')], slots)
}

/// Tensors over all tokens, with the axes of `tail` behind.
fn rows<const N: usize>(b: &mut Builder<'_>, names: [&str; N], tail: &[usize]) -> anyhow::Result<[Value; N]> {
    let shape = [&[b.size('B') * b.size('T')], tail].concat();
    let values: Vec<Value> = names.iter().map(|name| b.reshaped(name, &shape)).collect::<Result<_, _>>()?;
    Ok(std::array::from_fn(|i| values[i]))
}

/// The outputs o and final_state, o by rows and tokens again.
fn outputs(b: &mut Builder<'_>, name: &'static str, out: &[Value], tail: &[usize]) -> anyhow::Result<Vec<Made>> {
    let shape = [&[b.size('B'), b.size('T')], tail].concat();
    let o = reshape(&mut b.g, out[0], fixed(&shape)?)?;
    Ok(vec![made(name, o), made("final_state", out[1])])
}

fn wkv4(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    check_decays(b)?;
    let d = b.size('D');
    let [k, v] = rows(b, ["k", "v"], &[d])?;
    let (w, u) = (b.real("log_decay")?, b.real("bonus")?);
    let (cu, _) = cu_seqlens(b)?;
    let out = b.g.push(Wkv4, &[w, u, k, v, cu])?;
    outputs(b, "y", &out, &[d])
}

fn wkv4_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    check_decays(b)?;
    let inputs = [b.real("state")?, b.real("log_decay")?, b.real("bonus")?, b.real("k")?, b.real("v")?, slots(b)?];
    let out = b.g.push(Wkv4Step, &inputs)?;
    Ok(vec![made("y", out[1]), made("state", out[0])])
}

fn kernel_6(b: &Builder<'_>) -> anyhow::Result<Kernel6> {
    check_decays(b)?;
    let kernel = Kernel6::new(b.size('H'), b.size('K'), b.size('V'));
    let kernel = Kernel6 { chunk: b.attributes.count("chunk").unwrap_or(kernel.chunk), ..kernel };
    kernel.check_options()?;
    Ok(kernel)
}

fn wkv6(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel_6(b)?;
    let [r, k, w] = rows(b, ["r", "k", "log_decay"], &[kernel.heads, kernel.key_width])?;
    let [v] = rows(b, ["v"], &[kernel.heads, kernel.value_width])?;
    let u = b.real("bonus")?;
    let (cu, _) = cu_seqlens(b)?;
    let form = match b.form {
        Some(Form::Chunked) => KernelForm::Chunked,
        Some(Form::Parallel) => KernelForm::Parallel,
        Some(Form::Recurrent) | None => KernelForm::Recurrent,
    };
    let out = b.g.push(Wkv6::new(kernel, Some(form)), &[r, k, v, w, u, cu])?;
    outputs(b, "o", &out, &[kernel.heads, kernel.value_width])
}

fn wkv6_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel_6(b)?;
    let [state, r, k, v] = [b.real("state")?, b.real("r")?, b.real("k")?, b.real("v")?];
    let inputs = [state, r, k, v, b.real("log_decay")?, b.real("bonus")?, slots(b)?];
    let out = b.g.push(Wkv6Step::new(kernel), &inputs)?;
    Ok(vec![made("o", out[1]), made("state", out[0])])
}

fn kernel_7(b: &Builder<'_>) -> anyhow::Result<Kernel7> {
    check_decays(b)?;
    let kernel = Kernel7::new(b.size('H'), b.size('K'), b.size('V'));
    let kernel = Kernel7 { chunk: b.attributes.count("chunk").unwrap_or(kernel.chunk), ..kernel };
    kernel.check_options()?;
    Ok(kernel)
}

fn wkv7(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel_7(b)?;
    let [r, k, a, to, w] = rows(b, ["r", "k", "a", "b", "log_decay"], &[kernel.heads, kernel.key_width])?;
    let [v] = rows(b, ["v"], &[kernel.heads, kernel.value_width])?;
    let (cu, _) = cu_seqlens(b)?;
    let form = match b.form {
        Some(Form::Chunked) => KernelForm7::Chunked,
        _ => KernelForm7::Recurrent,
    };
    let out = b.g.push(Wkv7::new(kernel, Some(form)), &[r, k, v, a, to, w, cu])?;
    outputs(b, "o", &out, &[kernel.heads, kernel.value_width])
}

fn wkv7_step(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let kernel = kernel_7(b)?;
    let [state, r, k, v] = [b.real("state")?, b.real("r")?, b.real("k")?, b.real("v")?];
    let inputs = [state, r, k, v, b.real("a")?, b.real("b")?, b.real("log_decay")?, slots(b)?];
    let out = b.g.push(Wkv7Step::new(kernel), &inputs)?;
    Ok(vec![made("o", out[1]), made("state", out[0])])
}
