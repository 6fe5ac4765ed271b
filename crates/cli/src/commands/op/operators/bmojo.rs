//! B'MOJO's attention: window, fading memory and eidetic buffer under one softmax; and the innovation that fills the buffer.

use anyhow::bail;
use memwall_formats::Dtype;
use memwall_graph::Value;
use memwall_graph::ops::bmojo::BmojoAttention;
use memwall_graph::ops::cache_write::CacheWrite;
use memwall_graph::ops::cached_attention::CachedAttention;
use memwall_graph::ops::eidetic::{EideticSelection, EideticStep};
use memwall_graph::ops::innovation::Innovation;
use memwall_graph::ops::merge_attention::MergeAttention;
use memwall_graph::ops::reshape;
use memwall_kernels::bmojo::{Bmojo as Kernel, Selection};

use super::sequences::{cu_seqlens, longest, slots};
use crate::commands::op::Precision;
use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{Form, How, Made, Operator, integer, made, real};

pub const BMOJO: Operator = Operator {
    name: "bmojo",
    about: "one softmax over k_j of j in [i − W + 1, i], over k_fading of j in [i − 2W + 1, i − W], and over k_eidetic of \
            tokens j ≤ i − 2W of a buffer, B'MOJO (arXiv 2407.06324); chunk c of W tokens sees the E tokens j ≤ (c − 1)W of \
            the highest scores, the later one of equal ones. Without q_eidetic, k_eidetic and scores it is B'MOJO-F",
    inputs: &[
        real("q", "B T H K", "queries"),
        real("k", "B T G K", "keys of tokens; query head h reads head h·G/H"),
        real("v", "B T G V", "values of tokens, those of the buffer too"),
        real("k_fading", "B T G K", "keys of the fading memory's outputs"),
        real("v_fading", "B T G V", "values of the fading memory's outputs"),
        real("q_fading", "B T H K", "queries to the fading memory; q if absent").optional(),
        real("q_eidetic", "B T H K", "queries to the buffer").optional(),
        real("k_eidetic", "B T G K", "keys of tokens in the buffer").optional(),
        real("scores", "B T", "innovations, as `innovation` gives them; they choose, and have no gradient").optional(),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &[
        real("o", "B T H V", "outputs"),
        real("lse", "H N", "joint log-sum-exp of the scores, N = B·T"),
        integer("until", "B T", "chunk from which on a token is not in the buffer; with a buffer, chunked form"),
    ],
    attributes: &["window", "slots", "threshold", "scale"],
    forms: &[Form::Chunked, Form::Recurrent],
    how: How::Graph(bmojo),
};

pub const INNOVATION: Operator = Operator {
    name: "innovation",
    about: "e_t = mean_d (f_t − Σ_s w_s ⊙ f_{t−s})² / m_t, m_t the mean square of the channel so far, weighted by 0.99 to the \
            age: how badly B'MOJO's predictor foresaw an output of the fading memory. Gradients are those of the weight by \
            the mean alone",
    inputs: &[
        real("f", "B T D", "outputs of the fading memory"),
        real("weight", "L D", "the predictor: tap s − 1 is of the output s tokens before"),
        integer("cu_seqlens", "S+1", "where packed sequences begin, and the end; then B is 1").optional(),
    ],
    weights: None,
    outputs: &[real("scores", "B T", "innovations"), real("mean", "1", "their mean over all tokens")],
    attributes: &[],
    forms: &[],
    how: How::Graph(innovation),
};

/// A query and its key, by the names of the inputs.
const BUFFER: [&str; 3] = ["q_eidetic", "k_eidetic", "scores"];

/// Sizes, checked; whether there is a buffer.
fn kernel(b: &Builder<'_>) -> anyhow::Result<(Kernel, bool)> {
    let a = b.attributes;
    let window: usize = a.required("window", a.count("window"))?;
    if window == 0 {
        bail!("--window 0: at least 1 is needed");
    }
    let given = BUFFER.map(|name| b.given(name).is_some());
    let eidetic = given.contains(&true);
    if let (true, Some(missing)) = (eidetic, given.iter().position(|given| !given)) {
        bail!("input {} is missing: a buffer needs {}", BUFFER[missing], BUFFER.join(", "));
    }
    let slots: Option<usize> = a.count("slots");
    match slots {
        Some(0) => bail!("--slots 0: at least 1 is needed; without a buffer leave out {}", BUFFER.join(", ")),
        None if eidetic => bail!("--slots is missing: how many tokens the buffer holds"),
        _ => {}
    }
    if let Some(name) = ["slots", "threshold"].into_iter().find(|name| a.switch(name) && !eidetic) {
        bail!("--{name} belongs to a buffer, but the input has no {}", BUFFER.join(", "));
    }
    let (heads, kv_heads, key_width) = (b.size('H'), b.size('G'), b.size('K'));
    let kernel = Kernel {
        heads,
        kv_heads,
        key_width,
        value_width: b.size('V'),
        scale: a.number("scale").unwrap_or((key_width as f64).powf(-0.5)),
        window,
        slots: slots.unwrap_or(0),
        compute: b.g.compute(),
    };
    kernel.recent().check_self()?;
    b.check_elements("scores", "a finite number", f64::is_finite)?;
    Ok((kernel, eidetic))
}

fn bmojo(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (a, eidetic) = kernel(b)?;
    let (rows, tokens) = (b.size('B'), b.size('T'));
    let n = rows * tokens;
    let (cu, offsets) = cu_seqlens(b)?;
    let [q, k, v] = [[a.heads, a.key_width], [a.kv_heads, a.key_width], [a.kv_heads, a.value_width]]
        .map(|[heads, width]| [n, heads, width]);
    let recent = [b.reshaped("q", &q)?, b.reshaped("k", &k)?, b.reshaped("v", &v)?];
    let q_fading = if b.given("q_fading").is_some() { b.reshaped("q_fading", &q)? } else { recent[0] };
    let fading = [q_fading, b.reshaped("k_fading", &k)?, b.reshaped("v_fading", &v)?];
    let buffer = match eidetic {
        true => Some([b.reshaped("q_eidetic", &q)?, b.reshaped("k_eidetic", &k)?, b.constant("scores", &[n])?]),
        false => None,
    };
    let threshold = b.attributes.number("threshold");
    let mut outputs = Vec::new();
    let (o, lse) = if b.form == Some(Form::Recurrent) {
        steps(b, a, recent, fading, buffer, &offsets)?
    } else {
        let mut inputs = [recent, fading].concat();
        inputs.push(cu);
        if let Some([q, k, scores]) = buffer {
            let selection = Selection { window: a.window, slots: a.slots, threshold };
            let until = b.g.push1(EideticSelection { selection }, &[scores, cu])?;
            inputs.extend([q, k, until]);
            outputs.push(Made { name: "until", value: until, shape: Some(vec![rows, tokens]) });
        }
        let made = b.g.push(BmojoAttention { kernel: a, eidetic }, &inputs)?;
        (made[0], made[1])
    };
    let o = reshape(&mut b.g, o, fixed(&[rows, tokens, a.heads, a.value_width])?)?;
    outputs.splice(0..0, [made("o", o), made("lse", lse)]);
    Ok(outputs)
}

/// Token by token over caches of both windows and the buffer, as inference does.
fn steps(
    b: &mut Builder<'_>,
    a: Kernel,
    [q, k, v]: [Value; 3],
    fading: [Value; 3],
    buffer: Option<[Value; 3]>,
    offsets: &[i32],
) -> anyhow::Result<(Value, Value)> {
    if b.precision == Precision::F64 {
        bail!("--dtype f64: kept states are for f32; the chunked form has f64");
    }
    let rows = slots(offsets);
    let rows = b.feed_integers("rows", &[rows.len(), 2], rows.as_flattened())?;
    let (sequences, context) = (offsets.len() - 1, longest(offsets).max(1));
    let mut sets = Vec::new();
    if let Some([q, k, scores]) = buffer {
        let rings = b.g.state("ring", [sequences, context, a.ring_elements(1)], Dtype::F32)?;
        let buffers = b.g.state("eidetic", [sequences, a.slots, a.buffer_elements() / a.slots], Dtype::F32)?;
        let op = EideticStep { kernel: a, threshold: b.attributes.number("threshold") };
        let made = b.g.push(op, &[rings, buffers, q, k, v, scores, rows])?;
        sets.extend([made[2], made[3]]);
    }
    let [key_row, value_row] = [a.key_width, a.value_width].map(|w| a.kv_heads * w);
    for (name, kernel, [q, k, v]) in [("fading", a.fading(), fading), ("recent", a.recent(), [q, k, v])] {
        let mut keep = |part: &str, width: usize, x: Value| -> anyhow::Result<Value> {
            let cache = b.g.state(&format!("{name}.{part}"), [sequences, context, width], Dtype::F32)?;
            Ok(b.g.push1(CacheWrite, &[cache, x, rows])?)
        };
        let inputs = [q, keep("keys", key_row, k)?, keep("values", value_row, v)?, rows];
        sets.extend(b.g.push(CachedAttention::new(kernel), &inputs)?.into_iter().take(2));
    }
    let made = b.g.push(MergeAttention, &sets)?;
    Ok((made[0], made[1]))
}

fn innovation(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let (rows, tokens, width) = (b.size('B'), b.size('T'), b.size('D'));
    let (cu, _) = cu_seqlens(b)?;
    // What is to be predicted is taken as given.
    let f = b.constant("f", &[rows * tokens, width])?;
    let weight = b.real("weight")?;
    let made = b.g.push(Innovation, &[f, weight, cu])?;
    let shape = Some(vec![rows, tokens]);
    Ok(vec![Made { name: "scores", value: made[0], shape }, Made { name: "mean", value: made[1], shape: None }])
}
