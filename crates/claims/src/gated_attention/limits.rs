//! A gate at its limits, a gate a head against a gate a channel, and the orders of rows of published checkpoints.

use std::sync::Arc;

use memwall_formats::Dtype;
use memwall_graph::check::pseudo_random;
use memwall_graph::{Executor, Graph, Memory, PlanOptions, Source};
use memwall_kernels::Pool;
use memwall_nn::{AttentionConfig, GateConfig, GateLayout, Granularity, Mixer, Sequences, WeightTypes};

use crate::{Error, largest::largest};

/// Largest absolute differences between layers that should be the same.
pub(super) struct Limits {
    /// Between gates that are open and none.
    pub(super) open: f64,
    /// Between gates that are closed and nothing.
    pub(super) closed: f64,
    /// Between a gate a head and gates of channels that are equal in a head.
    pub(super) headwise: f64,
    /// Between a layer and itself from the packed rows of either published layout.
    pub(super) layouts: f64,
}

const TOKENS: usize = 9;
const WIDTH: usize = 16;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const CHANNELS: usize = WIDTH / HEADS;

fn layer(granularity: Option<Granularity>) -> AttentionConfig {
    AttentionConfig {
        gate: granularity.map(|granularity| GateConfig { granularity, ..GateConfig::default() }),
        ..AttentionConfig::new(HEADS, KV_HEADS, CHANNELS)
    }
}

/// A layer with 4 heads on inputs whose channel 0 is 1, so that the gate's weight on it is a bias.
pub(super) fn limits(seed: u64) -> Result<Limits, Error> {
    let plain = output(&layer(None), seed, |_, _| None)?;
    let bias = |logit: f64| {
        move |name: &str, i: usize| {
            name.contains("gate_proj").then(|| if i.is_multiple_of(WIDTH) { logit } else { 0.0 })
        }
    };
    let (mut open, mut closed, mut layouts) = (Vec::new(), Vec::new(), Vec::new());
    for granularity in [Granularity::Elementwise, Granularity::Headwise] {
        let layer = layer(Some(granularity));
        open.push(difference(&plain, &output(&layer, seed, bias(1e4))?));
        closed.push(difference(&vec![0.0; plain.len()], &output(&layer, seed, bias(-1e4))?));
        for layout in [GateLayout::ByKvHead, GateLayout::ByHead] {
            layouts.push(layout_error(&layer, granularity, layout, seed)?);
        }
    }
    // Row r of the weight is that of gate r: of head r, or of channel r of all heads.
    let row = |head: usize, column: usize| pseudo_random("gates", seed as usize * 97 + head * WIDTH + column);
    let by_head = output(&layer(Some(Granularity::Headwise)), seed, |name, i| {
        name.contains("gate_proj").then(|| row(i / WIDTH, i % WIDTH))
    })?;
    let by_channel = output(&layer(Some(Granularity::Elementwise)), seed, |name, i| {
        name.contains("gate_proj").then(|| row(i / WIDTH / CHANNELS, i % WIDTH))
    })?;
    Ok(Limits {
        open: largest(open),
        closed: largest(closed),
        headwise: difference(&by_head, &by_channel),
        layouts: largest(layouts),
    })
}

/// A layer against itself from a `q_proj` that is packed as `layout` is described, and split by [`GateLayout::rows`].
fn layout_error(
    layer: &AttentionConfig,
    granularity: Granularity,
    layout: GateLayout,
    seed: u64,
) -> Result<f64, Error> {
    let query = |row: usize, column: usize| pseudo_random(&format!("query {seed}"), row * WIDTH + column);
    let gate = |row: usize, column: usize| pseudo_random(&format!("gate {seed}"), row * WIDTH + column);
    let gates = if granularity == Granularity::Headwise { 1 } else { CHANNELS };
    let together = if layout == GateLayout::ByKvHead { HEADS / KV_HEADS } else { 1 };
    let mut packed: Vec<Vec<f64>> = Vec::new();
    for group in 0..HEADS / together {
        let heads = group * together..(group + 1) * together;
        let whole = |row: usize, of: &dyn Fn(usize, usize) -> f64| (0..WIDTH).map(|c| of(row, c)).collect();
        packed.extend(heads.clone().flat_map(|h| h * CHANNELS..(h + 1) * CHANNELS).map(|row| whole(row, &query)));
        packed.extend(heads.flat_map(|h| h * gates..(h + 1) * gates).map(|row| whole(row, &gate)));
    }
    let rows = layout.rows(layer, packed.len()).map_err(Error::experiment)?;
    let split = output(layer, seed, |name, i| match name {
        "mixer.q_proj.weight" => Some(packed[rows.query[i / WIDTH]][i % WIDTH]),
        "mixer.gate_proj.weight" => Some(packed[rows.gate[i / WIDTH]][i % WIDTH]),
        _ => None,
    })?;
    let own = output(layer, seed, |name, i| match name {
        "mixer.q_proj.weight" => Some(query(i / WIDTH, i % WIDTH)),
        "mixer.gate_proj.weight" => Some(gate(i / WIDTH, i % WIDTH)),
        _ => None,
    })?;
    Ok(difference(&own, &split))
}

fn difference(x: &[f32], y: &[f32]) -> f64 {
    largest(x.iter().zip(y).map(|(x, y)| f64::from((x - y).abs())))
}

/// What `layer` makes of the same random inputs; element i of a weight is `weight(name, i)`, or random.
fn output(layer: &AttentionConfig, seed: u64, weight: impl Fn(&str, usize) -> Option<f64>) -> Result<Vec<f32>, Error> {
    let mut g = Graph::new(Dtype::F32);
    let seqs = Sequences::whole(&mut g, TOKENS, 1).map_err(Error::experiment)?;
    let x = g.input("x", [TOKENS, WIDTH], Dtype::F32).map_err(Error::experiment)?;
    let y = layer.forward(&mut g, &WeightTypes::new(), "mixer", x, &seqs).map_err(Error::experiment)?;
    g.output("y", y);
    let mut memory = Memory::new();
    for (_, info) in g.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
        let elements = info.ty.bytes(&[]) / 4;
        let random = |i: usize| pseudo_random(&format!("{} {seed}", info.name), i);
        let values: Vec<f32> =
            (0..elements).map(|i| weight(&info.name, i).unwrap_or_else(|| random(i)) as f32).collect();
        memory.set(&info.name, Dtype::F32, &values).map_err(Error::experiment)?;
    }
    let cu_seqlens = g.find("cu_seqlens");
    let pool = Arc::new(Pool::new(1));
    let mut e = Executor::new(g, PlanOptions::default(), &mut memory, pool).map_err(Error::experiment)?;
    for (i, x) in e.input::<f32>(x).iter_mut().enumerate() {
        *x = if i.is_multiple_of(WIDTH) { 1.0 } else { pseudo_random("x", seed as usize * 1009 + i) as f32 };
    }
    if let Some(cu) = cu_seqlens.filter(|&cu| e.reads(cu)) {
        e.input::<i32>(cu).copy_from_slice(&[0, TOKENS as i32]);
    }
    e.run(&mut memory).map_err(Error::experiment)?;
    Ok(e.output::<f32>("y").to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_at_its_limits_is_none_or_all_and_layouts_are_one_function() {
        let limits = limits(5).unwrap();
        assert!(limits.open <= 1e-6 && limits.closed == 0.0 && limits.headwise <= 1e-6 && limits.layouts == 0.0);
        // The limits are of a layer that does something.
        let plain = output(&layer(None), 5, |_, _| None).unwrap();
        assert!(plain.iter().all(|y| y.abs() > 0.0));
    }

    #[test]
    fn rows_in_the_wrong_order_are_another_function() {
        let gated = layer(Some(Granularity::Headwise));
        let [right, wrong] = [GateLayout::ByKvHead, GateLayout::ByHead].map(|l| l.rows(&gated, 20).unwrap());
        let with = |rows: memwall_nn::GatedRows| {
            output(&gated, 5, move |name, i| {
                let packed = |row: usize| pseudo_random("packed", row * WIDTH + i % WIDTH);
                match name {
                    "mixer.q_proj.weight" => Some(packed(rows.query[i / WIDTH])),
                    "mixer.gate_proj.weight" => Some(packed(rows.gate[i / WIDTH])),
                    _ => None,
                }
            })
            .unwrap()
        };
        assert!(difference(&with(right), &with(wrong)) > 1e-3);
    }
}
