//! One step of AdamW.

use anyhow::bail;
use memwall_kernels::adamw::{AdamW, adamw};
use memwall_kernels::{Pool, Real};

use crate::commands::op::Precision;
use crate::commands::op::builder::Builder;
use crate::commands::op::operator::{How, Operator, real};
use crate::commands::op::tensors::{Elements, NamedTensors, Tensor};

pub const ADAMW: Operator = Operator {
    name: "adamw",
    about: "m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g², p ← p − ηλp − η (m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + ε) (Loshchilov & Hutter 2019)",
    inputs: &[
        real("p", "...", "parameters"),
        real("g", "...", "gradient, of the same shape"),
        real("m", "...", "first moment, of the same shape"),
        real("v", "...", "second moment, of the same shape"),
    ],
    weights: None,
    outputs: &[
        real("p", "...", "parameters after"),
        real("m", "...", "first moment after"),
        real("v", "...", "second moment after"),
    ],
    attributes: &["learning-rate", "beta1", "beta2", "eps", "weight-decay", "gradient-scale", "step"],
    forms: &[],
    how: How::Alone(step, "an optimizer's step is not differentiated"),
};

fn step(b: &mut Builder<'_>) -> anyhow::Result<NamedTensors> {
    let a = b.attributes;
    let update = AdamW {
        learning_rate: a.required("learning-rate", a.number("learning-rate"))?,
        beta1: a.number("beta1").unwrap_or(0.9),
        beta2: a.number("beta2").unwrap_or(0.95),
        eps: a.number("eps").unwrap_or(1e-8),
        weight_decay: a.number("weight-decay").unwrap_or(0.0),
        gradient_scale: a.number("gradient-scale").unwrap_or(1.0),
        step: a.count("step").unwrap_or(1),
    };
    for (name, x) in [("beta1", update.beta1), ("beta2", update.beta2)] {
        if !(0.0..1.0).contains(&x) {
            bail!("--{name} {x}: a number in [0, 1) is needed");
        }
    }
    if update.step == 0 {
        bail!("--step 0: the first step is 1");
    }
    let shape = b.needed("p")?.shape.clone();
    for name in ["g", "m", "v"] {
        let other = &b.needed(name)?.shape;
        if *other != shape {
            bail!("input {name} has shape {other:?}; {shape:?} is needed, as p has");
        }
    }
    let [p, m, v] = match b.precision {
        Precision::F64 => moved::<f64>(b, &update)?.map(Elements::F64),
        Precision::F32 => moved::<f32>(b, &update)?.map(Elements::F32),
        Precision::Bf16 => bail!("--dtype bf16: parameters and moments are kept in f32"),
    };
    let tensor = |name: &str, elements| (name.to_string(), Tensor { shape: shape.clone(), elements });
    Ok(vec![tensor("p", p), tensor("m", m), tensor("v", v)])
}

fn moved<T: Real>(b: &Builder<'_>, update: &AdamW) -> anyhow::Result<[Vec<T>; 3]> {
    let read = |name: &str| -> anyhow::Result<Vec<T>> {
        Ok(b.needed(name)?.reals().unwrap_or_default().into_iter().map(T::of).collect())
    };
    let (mut p, g, mut m, mut v) = (read("p")?, read("g")?, read("m")?, read("v")?);
    adamw(&Pool::new(b.threads), update, &mut p, &g, &mut m, &mut v);
    Ok([p, m, v])
}
