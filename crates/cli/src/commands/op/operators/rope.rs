//! Rotary positions.

use std::sync::Arc;

use anyhow::Context;
use memwall_formats::Dtype;
use memwall_graph::ops::reshape;
use memwall_graph::ops::rope::{Rope, RopeTable};
use memwall_nn::{RopeConfig, RopeScaling};

use crate::commands::op::builder::{Builder, fixed};
use crate::commands::op::operator::{How, Made, Operator, integer, made, real};

pub const ROPE: Operator = Operator {
    name: "rope",
    about: "pairs of channels of x turned by position · frequency; frequency_i = θ^(−2i / rotary-dim), changed by the scaling",
    inputs: &[
        real("x", "B T H W", "inputs"),
        integer("positions", "B T", "position of each token; 0, 1, … in each row if absent").optional(),
        real("factors", "P", "divide the frequencies, one a pair (rope_freqs.weight)").optional(),
    ],
    weights: None,
    outputs: &[real("y", "B T H W", "outputs")],
    attributes: &["theta", "rotary-dim", "interleaved", "scaling"],
    forms: &[],
    how: How::Graph(rope),
};

fn rope(b: &mut Builder<'_>) -> anyhow::Result<Vec<Made>> {
    let a = b.attributes;
    let scaling = match a.text("scaling") {
        Some(text) => serde_json::from_str(text).context("--scaling")?,
        None => RopeScaling::None,
    };
    let config = RopeConfig {
        theta: a.number("theta").unwrap_or(10_000.0),
        rotary_dim: a.count("rotary-dim"),
        interleaved: a.switch("interleaved"),
        scaling,
        frequency_factors: b.given("factors").is_some(),
    };
    let shape = [b.size('B'), b.size('T'), b.size('H'), b.size('W')];
    let [rows, tokens, heads, width] = shape;
    config.check("rope", width)?;
    let counted: Vec<i32> = (0..rows * tokens).map(|i| (i % tokens) as i32).collect();
    let positions = b.integers("positions").unwrap_or(&counted);
    let positions = b.feed_integers("positions", &[rows * tokens], positions)?;
    let inverse_frequency: Arc<[f64]> = config.inverse_frequencies(width).into();
    let mut inputs = vec![positions];
    if config.frequency_factors {
        let factors = b.needed("factors")?.reals().unwrap_or_default();
        let factors: Vec<f32> = factors.into_iter().map(|x| x as f32).collect();
        let bytes = bytemuck::cast_slice(&factors).to_vec();
        inputs.push(b.feed("factors", fixed(&[factors.len()])?, Dtype::F32, bytes)?);
    }
    let table = RopeTable { inverse_frequency, magnitude: config.magnitude(), elem: b.g.elem() };
    let table = b.g.push1(table, &inputs)?;
    let x = b.reshaped("x", &[rows * tokens, heads, width])?;
    let y = b.g.push1(Rope { pairing: config.pairing(), back: false }, &[x, table])?;
    Ok(vec![made("y", reshape(&mut b.g, y, fixed(&shape)?)?)])
}
