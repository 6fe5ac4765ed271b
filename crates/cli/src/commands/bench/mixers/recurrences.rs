//! What `--mixers` measures: a graph, a step and the operations of each recurrence.

use memwall_graph::Value;
use memwall_graph::ops;
use memwall_graph::ops::attention::Attention;
use memwall_graph::ops::delta::{Delta, DeltaStep};
use memwall_graph::ops::gla::{GateShape, Gla, GlaStep};
use memwall_graph::ops::mlstm::{MlstmGates, MlstmGatesStep};
use memwall_graph::ops::normalizer::{AppendOne, Normalize};
use memwall_graph::ops::ridge::{Ridge, RidgeStep};
use memwall_graph::ops::selective_scan::{SelectiveScan, SelectiveScanStep};
use memwall_graph::ops::wkv4::{Wkv4, Wkv4Step};
use memwall_graph::ops::wkv6::{Wkv6, Wkv6Step};
use memwall_graph::ops::wkv7::{Wkv7, Wkv7Step};
use memwall_kernels::attention::Attention as AttentionKernel;
use memwall_kernels::delta::{Delta as DeltaKernel, Form as DeltaForm, delta_backward_form};
use memwall_kernels::gemm::Compute;
use memwall_kernels::gla::{Form as GlaForm, Gla as GlaKernel, gla_form};
use memwall_kernels::ridge::{Form as RidgeForm, Ridge as RidgeKernel, ridge_form};
use memwall_kernels::wkv6::{Form as Wkv6Form, Wkv6 as Wkv6Kernel, wkv6_form};
use memwall_kernels::wkv7::Wkv7 as Wkv7Kernel;

use super::sequence::{HEADS, KEYS, Like, Sequence, VALUES};

/// Adds a recurrence in one form to a graph; its output.
pub type Build = fn(&mut Sequence, &str) -> anyhow::Result<Value>;

/// A recurrence that is measured.
pub struct Recurrence {
    /// Its name.
    pub name: &'static str,
    /// Its forms.
    pub forms: &'static [&'static str],
    /// The form that memwall chooses for so many tokens.
    pub chosen: fn(Compute, usize) -> &'static str,
    /// Operations of a forward pass over so many tokens.
    pub operations: fn(f64) -> f64,
    /// How many times that a forward and a backward pass are.
    pub with_backward: f64,
    /// The whole sequence.
    pub build: Build,
    /// One token that continues a state.
    pub step: Option<Build>,
}

/// Channels of Mamba's scan and of RWKV-4.
const CHANNELS: usize = HEADS * VALUES;
/// State rows of a channel of Mamba's scan, as published.
const SCAN_KEYS: usize = 16;

const BY_CHUNKS: &[&str] = &["recurrent", "chunked"];
const BY_TOKENS: &[&str] = &["recurrent"];
/// Tokens one by one forward, chunks backward.
const MIXED: &str = "mixed";
const MIXABLE: &[&str] = &["recurrent", "chunked", MIXED];

fn by_tokens(_: Compute, _: usize) -> &'static str {
    "recurrent"
}

fn gla_chosen(compute: Compute, tokens: usize) -> &'static str {
    let kernel = GlaKernel { compute, ..GlaKernel::new(HEADS, KEYS, VALUES) };
    if gla_form(&kernel, &[tokens]) == GlaForm::Chunked { "chunked" } else { "recurrent" }
}

fn delta_chosen(_: Compute, tokens: usize) -> &'static str {
    if delta_backward_form(tokens) == DeltaForm::Chunked { MIXED } else { "recurrent" }
}

fn form_of_delta(form: &str) -> Option<DeltaForm> {
    match form {
        MIXED => None,
        "chunked" => Some(DeltaForm::Chunked),
        _ => Some(DeltaForm::Recurrent),
    }
}

fn wkv6_chosen(_: Compute, tokens: usize) -> &'static str {
    match wkv6_form(&Wkv6Kernel::new(HEADS, KEYS, VALUES), &[tokens]) {
        Wkv6Form::Chunked => "chunked",
        Wkv6Form::Parallel => "parallel",
        Wkv6Form::Recurrent => "recurrent",
    }
}

/// Elements of the states of all heads.
const STATE: f64 = (HEADS * KEYS * VALUES) as f64;

/// A recurrence of matrix states on the gated linear attention kernels.
const fn gla(name: &'static str, operations: fn(f64) -> f64, build: Build, step: Build) -> Recurrence {
    Recurrence { name, forms: BY_CHUNKS, chosen: gla_chosen, operations, with_backward: 4.0, build, step: Some(step) }
}

const fn delta(name: &'static str, build: Build, step: Build) -> Recurrence {
    Recurrence {
        name,
        forms: MIXABLE,
        chosen: delta_chosen,
        operations: |t| 7.0 * t * STATE,
        with_backward: 4.0,
        build,
        step: Some(step),
    }
}

/// Every recurrence, and attention.
pub const ALL: &[Recurrence] = &[
    Recurrence {
        name: "attention",
        forms: &["parallel"],
        chosen: |_, _| "parallel",
        operations: |t| 2.0 * (HEADS * (KEYS + VALUES)) as f64 * t * (t + 1.0) / 2.0,
        with_backward: 3.5,
        build: attention,
        step: None,
    },
    gla(
        "linear_attention",
        |t| 4.0 * t * STATE,
        |s, form| whole_gla(s, form, GateShape::None),
        |s, _| gla_step(s, GateShape::None),
    ),
    gla(
        "retention",
        |t| 5.0 * t * STATE,
        |s, form| whole_gla(s, form, GateShape::Head),
        |s, _| gla_step(s, GateShape::Head),
    ),
    gla(
        "gla",
        |t| 5.0 * t * STATE,
        |s, form| whole_gla(s, form, GateShape::Channel),
        |s, _| gla_step(s, GateShape::Channel),
    ),
    gla("mlstm", |t| 5.0 * t * STATE, mlstm, |s, _| mlstm_step(s)),
    delta("delta", |s, form| whole_delta(s, form, GateShape::None), |s, _| delta_step(s, GateShape::None)),
    delta("gated_delta", |s, form| whole_delta(s, form, GateShape::Head), |s, _| delta_step(s, GateShape::Head)),
    delta("kda", |s, form| whole_delta(s, form, GateShape::Channel), |s, _| delta_step(s, GateShape::Channel)),
    Recurrence {
        name: "kalmanet",
        forms: BY_CHUNKS,
        chosen: |_, tokens| if ridge_form(&[tokens]) == RidgeForm::Chunked { "chunked" } else { "recurrent" },
        // The start and 30 steps of the solution, H, and the reading of values; the way back solves once more.
        operations: |t| (2.0 * 31.0 + 3.0 + 5.0) * t * STATE,
        with_backward: 3.0,
        build: kalmanet,
        step: Some(|s, _| kalmanet_step(s)),
    },
    Recurrence {
        name: "wkv6",
        forms: BY_CHUNKS,
        chosen: wkv6_chosen,
        operations: |t| 5.0 * t * STATE,
        with_backward: 4.0,
        build: wkv6,
        step: Some(|s, _| wkv6_step(s)),
    },
    Recurrence {
        name: "wkv7",
        forms: MIXABLE,
        chosen: delta_chosen,
        operations: |t| 9.0 * t * STATE,
        with_backward: 4.0,
        build: wkv7,
        step: Some(|s, _| wkv7_step(s)),
    },
    Recurrence {
        name: "selective_scan",
        forms: BY_TOKENS,
        chosen: by_tokens,
        operations: |t| 5.0 * t * (CHANNELS * SCAN_KEYS) as f64,
        with_backward: 4.0,
        build: |s, _| scan(s),
        step: Some(|s, _| scan_step(s)),
    },
    Recurrence {
        name: "wkv4",
        forms: BY_TOKENS,
        chosen: by_tokens,
        // Two sums with a decay and an addition each, and their quotient: exponentials are not counted.
        operations: |t| 9.0 * t * CHANNELS as f64,
        with_backward: 4.0,
        build: |s, _| wkv4(s),
        step: Some(|s, _| wkv4_step(s)),
    },
];

fn keys_and_values(s: &mut Sequence, like: Like) -> anyhow::Result<[Value; 3]> {
    let q = s.rows("q", &[HEADS, KEYS], like)?;
    let k = s.rows("k", &[HEADS, KEYS], like)?;
    Ok([q, k, s.rows("v", &[HEADS, VALUES], Like::Any)?])
}

fn gate(s: &mut Sequence, shape: GateShape) -> anyhow::Result<Option<Value>> {
    Ok(match shape {
        GateShape::None => None,
        GateShape::Head => Some(s.rows("g", &[HEADS], Like::LogGate)?),
        GateShape::Channel => Some(s.rows("g", &[HEADS, KEYS], Like::LogGate)?),
    })
}

fn attention(s: &mut Sequence, _: &str) -> anyhow::Result<Value> {
    let [q, k, v] = keys_and_values(s, Like::Any)?;
    let kernel = AttentionKernel {
        heads: HEADS,
        kv_heads: HEADS,
        key_width: KEYS,
        value_width: VALUES,
        causal: true,
        compute: s.g.compute(),
        ..AttentionKernel::default()
    };
    Ok(s.g.push(Attention::new(kernel), &[q, k, v, s.offsets])?[0])
}

fn gla_kernel(s: &Sequence, values: usize) -> GlaKernel {
    GlaKernel { compute: s.g.compute(), ..GlaKernel::new(HEADS, KEYS, values) }
}

fn form_of_gla(form: &str) -> Option<GlaForm> {
    Some(if form == "chunked" { GlaForm::Chunked } else { GlaForm::Recurrent })
}

fn whole_gla(s: &mut Sequence, form: &str, shape: GateShape) -> anyhow::Result<Value> {
    let [q, k, v] = keys_and_values(s, Like::Any)?;
    let mut inputs = vec![q, k, v, s.offsets];
    inputs.extend(gate(s, shape)?);
    Ok(s.g.push(Gla::new(gla_kernel(s, VALUES), shape, form_of_gla(form), false), &inputs)?[0])
}

fn gla_step(s: &mut Sequence, shape: GateShape) -> anyhow::Result<Value> {
    let state = s.state("state", &[1, HEADS, KEYS, VALUES])?;
    let [q, k, v] = keys_and_values(s, Like::Any)?;
    let mut inputs = vec![state, q, k, v, s.offsets];
    inputs.extend(gate(s, shape)?);
    Ok(s.g.push(GlaStep::new(gla_kernel(s, VALUES), shape), &inputs)?[1])
}

/// Queries, keys times the input gates and values with a one behind; the gates' log-gates and bounds.
fn mlstm_inputs(s: &mut Sequence, gates: [Value; 3]) -> anyhow::Result<[Value; 3]> {
    let [q, k, v] = keys_and_values(s, Like::Any)?;
    let input = ops::reshape(&mut s.g, gates[1], [s.tokens, HEADS, 1])?;
    let k = ops::mul(&mut s.g, k, input)?;
    Ok([q, k, s.g.push1(AppendOne, &[v])?])
}

fn mlstm_read(s: &mut Sequence, o: Value, bound: Value) -> anyhow::Result<Value> {
    Ok(s.g.push1(Normalize { eps: 1e-6 }, &[o, bound])?)
}

fn mlstm(s: &mut Sequence, form: &str) -> anyhow::Result<Value> {
    let (i, f) = (s.rows("i", &[HEADS], Like::Any)?, s.rows("f", &[HEADS], Like::LogGate)?);
    let made = s.g.push(MlstmGates, &[i, f, s.offsets])?;
    let gates = [made[0], made[1], made[2]];
    let [q, k, v] = mlstm_inputs(s, gates)?;
    let op = Gla::new(gla_kernel(s, VALUES + 1), GateShape::Head, form_of_gla(form), false);
    let o = s.g.push(op, &[q, k, v, s.offsets, gates[0]])?[0];
    mlstm_read(s, o, gates[2])
}

fn mlstm_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let m = s.state("m", &[1, HEADS])?;
    let (i, f) = (s.rows("i", &[HEADS], Like::Any)?, s.rows("f", &[HEADS], Like::LogGate)?);
    let made = s.g.push(MlstmGatesStep, &[m, i, f, s.offsets])?;
    let gates = [made[1], made[2], made[3]];
    let state = s.state("state", &[1, HEADS, KEYS, VALUES + 1])?;
    let [q, k, v] = mlstm_inputs(s, gates)?;
    let op = GlaStep::new(gla_kernel(s, VALUES + 1), GateShape::Head);
    let o = s.g.push(op, &[state, q, k, v, s.offsets, gates[0]])?[1];
    mlstm_read(s, o, gates[2])
}

fn delta_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 4]> {
    let [q, k, v] = keys_and_values(s, Like::Unit)?;
    Ok([q, k, v, s.rows("beta", &[HEADS], Like::Share)?])
}

fn whole_delta(s: &mut Sequence, form: &str, shape: GateShape) -> anyhow::Result<Value> {
    let mut inputs = delta_inputs(s)?.to_vec();
    inputs.push(s.offsets);
    inputs.extend(gate(s, shape)?);
    Ok(s.g.push(Delta::new(DeltaKernel::new(HEADS, KEYS, VALUES), shape, form_of_delta(form), false), &inputs)?[0])
}

fn delta_step(s: &mut Sequence, shape: GateShape) -> anyhow::Result<Value> {
    let mut inputs = vec![s.state("state", &[1, HEADS, KEYS, VALUES])?];
    inputs.extend(delta_inputs(s)?);
    inputs.push(s.offsets);
    inputs.extend(gate(s, shape)?);
    Ok(s.g.push(DeltaStep::new(DeltaKernel::new(HEADS, KEYS, VALUES), shape), &inputs)?[1])
}

/// Queries, keys, values and gates of one width.
fn kalmanet_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 4]> {
    let [q, k, v] = keys_and_values(s, Like::Unit)?;
    Ok([q, k, v, s.rows("g", &[HEADS], Like::LogGate)?])
}

fn kalmanet(s: &mut Sequence, form: &str) -> anyhow::Result<Value> {
    let [q, k, v, g] = kalmanet_inputs(s)?;
    let solver = if form == "chunked" { RidgeForm::Chunked } else { RidgeForm::Recurrent };
    let x = s.g.push(Ridge::new(RidgeKernel::new(HEADS, KEYS), true, Some(solver), false), &[q, k, s.offsets, g])?[0];
    // The values are read by the form of gated linear attention that is chosen.
    let op = Gla::new(gla_kernel(s, VALUES), GateShape::Head, None, false);
    Ok(s.g.push(op, &[x, k, v, s.offsets, g])?[0])
}

fn kalmanet_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let [h, u] = [s.state("h", &[1, HEADS, KEYS, KEYS])?, s.state("u", &[1, HEADS, KEYS, VALUES])?];
    let [q, k, v, g] = kalmanet_inputs(s)?;
    let x = s.g.push(RidgeStep::new(RidgeKernel::new(HEADS, KEYS), true), &[h, q, k, s.offsets, g])?[1];
    Ok(s.g.push(GlaStep::new(gla_kernel(s, VALUES), GateShape::Head), &[u, x, k, v, s.offsets, g])?[1])
}

fn wkv6_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 5]> {
    let [r, k, v] = keys_and_values(s, Like::Any)?;
    let g = s.rows("g", &[HEADS, KEYS], Like::LogGate)?;
    Ok([r, k, v, g, s.input("bonus", &[HEADS, KEYS], Like::Any)?])
}

fn wkv6(s: &mut Sequence, form: &str) -> anyhow::Result<Value> {
    let [r, k, v, g, bonus] = wkv6_inputs(s)?;
    let form = if form == "chunked" { Wkv6Form::Chunked } else { Wkv6Form::Recurrent };
    let op = Wkv6::new(Wkv6Kernel::new(HEADS, KEYS, VALUES), Some(form));
    Ok(s.g.push(op, &[r, k, v, g, bonus, s.offsets])?[0])
}

fn wkv6_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let state = s.state("state", &[1, HEADS, KEYS, VALUES])?;
    let [r, k, v, g, bonus] = wkv6_inputs(s)?;
    let op = Wkv6Step::new(Wkv6Kernel::new(HEADS, KEYS, VALUES));
    Ok(s.g.push(op, &[state, r, k, v, g, bonus, s.offsets])?[1])
}

fn wkv7_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 6]> {
    let [r, k, v] = keys_and_values(s, Like::Any)?;
    let (a, b) = (s.rows("a", &[HEADS, KEYS], Like::Half)?, s.rows("b", &[HEADS, KEYS], Like::Unit)?);
    Ok([r, k, v, a, b, s.rows("g", &[HEADS, KEYS], Like::LogGate)?])
}

fn wkv7(s: &mut Sequence, form: &str) -> anyhow::Result<Value> {
    let [r, k, v, a, b, g] = wkv7_inputs(s)?;
    let op = Wkv7::new(Wkv7Kernel::new(HEADS, KEYS, VALUES), form_of_delta(form));
    Ok(s.g.push(op, &[r, k, v, a, b, g, s.offsets])?[0])
}

fn wkv7_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let state = s.state("state", &[1, HEADS, KEYS, VALUES])?;
    let [r, k, v, a, b, g] = wkv7_inputs(s)?;
    let op = Wkv7Step::new(Wkv7Kernel::new(HEADS, KEYS, VALUES));
    Ok(s.g.push(op, &[state, r, k, v, a, b, g, s.offsets])?[1])
}

fn scan_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 6]> {
    let x = s.rows("x", &[CHANNELS], Like::Any)?;
    let delta = s.rows("delta", &[CHANNELS], Like::TimeStep)?;
    let a = s.input("a", &[CHANNELS, SCAN_KEYS], Like::Rate)?;
    let (b, c) = (s.rows("b", &[SCAN_KEYS], Like::Any)?, s.rows("c", &[SCAN_KEYS], Like::Any)?);
    Ok([x, delta, a, b, c, s.input("skip", &[CHANNELS], Like::Any)?])
}

fn scan(s: &mut Sequence) -> anyhow::Result<Value> {
    let [x, delta, a, b, c, skip] = scan_inputs(s)?;
    Ok(s.g.push(SelectiveScan, &[x, delta, a, b, c, skip, s.offsets])?[0])
}

fn scan_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let state = s.state("state", &[1, SCAN_KEYS, CHANNELS])?;
    let [x, delta, a, b, c, skip] = scan_inputs(s)?;
    Ok(s.g.push(SelectiveScanStep, &[state, x, delta, a, b, c, skip, s.offsets])?[1])
}

fn wkv4_inputs(s: &mut Sequence) -> anyhow::Result<[Value; 4]> {
    let decay = s.input("log_decay", &[CHANNELS], Like::LogGate)?;
    let bonus = s.input("bonus", &[CHANNELS], Like::Any)?;
    Ok([decay, bonus, s.rows("k", &[CHANNELS], Like::Any)?, s.rows("v", &[CHANNELS], Like::Any)?])
}

fn wkv4(s: &mut Sequence) -> anyhow::Result<Value> {
    let [decay, bonus, k, v] = wkv4_inputs(s)?;
    Ok(s.g.push(Wkv4, &[decay, bonus, k, v, s.offsets])?[0])
}

fn wkv4_step(s: &mut Sequence) -> anyhow::Result<Value> {
    let state = s.state("state", &[1, 3, CHANNELS])?;
    let [decay, bonus, k, v] = wkv4_inputs(s)?;
    Ok(s.g.push(Wkv4Step, &[state, decay, bonus, k, v, s.offsets])?[1])
}
