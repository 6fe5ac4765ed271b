//! First values of weights: N(0, 0.02), norms 1, biases 0, outputs of blocks smaller by √(2 L).
//!
//! The bank of a gated associative memory is uniform to √(6 / (M + D)), its taps and those of BaseConv to 1/√W, as
//! published; what reads the place in time for BaseConv's long filter is N(0, 1), so that filters differ along it.
//! The gates of Mamba-2 and Gated DeltaNet, −exp(A_log) softplus(x + dt_bias), begin with exp(A_log)
//! uniform to 16 and softplus(dt_bias) log-uniform from 0.001 to 0.1: memories of 1 to 1000 tokens and more. Mamba-2's
//! D is 1; mLSTM's forget gates begin with biases from 3 to 6 over its heads; HGRN2's lower bounds rise evenly. Mamba's
//! states begin with rates of 1 to S and the same time steps. RWKV's token shifts and decays rise over the channels of a
//! layer, from short memories to long ones, as published; what varies there from layer to layer is left out. The vectors of
//! differential attention are N(0, 0.1). A low-rank correction begins with B = 0 and A of deviation 1 / √inputs.
//! B'MOJO's predictor begins with the last output.

use memwall_formats::Dtype;
use memwall_graph::{Graph, GraphError, Memory, Source};

/// Bias of mLSTM's input gates: little is written at first.
const INPUT_GATE: f64 = -10.0;
/// Standard deviation of the vectors that λ of differential attention is made of.
const LAMBDA_DEVIATION: f64 = 0.1;
/// Standard deviation of matrices.
const DEVIATION: f64 = 0.02;

/// Gives every weight of `graph` that `memory` does not have its first values; `seed` fixes them.
///
/// A weight's values depend on the seed and its name alone. `layers` is the number of blocks.
///
/// # Errors
/// If there is no room for one.
pub fn initialize(graph: &Graph, memory: &mut Memory, layers: usize, seed: u64) -> Result<(), GraphError> {
    for (_, info) in graph.values().filter(|(_, info)| matches!(info.source, Source::Weight)) {
        let n = info.ty.shape.dims().iter().filter_map(|d| d.known()).product::<usize>();
        if memory.get::<u8>(&info.name).is_some() {
            continue;
        }
        let stream = info
            .name
            .bytes()
            .fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let shape: Vec<usize> = info.ty.shape.dims().iter().filter_map(|d| d.known()).collect();
        let values: Vec<f64> = if let Some(values) = recurrent(&info.name, &shape, stream) {
            values
        } else if ["norm.weight", "norm_.weight", ".subln.weight", ".D"].iter().any(|end| info.name.ends_with(end)) {
            vec![1.0; n]
        } else if info.name.contains(".self_attn.lambda_") {
            (0..n as u64).map(|i| LAMBDA_DEVIATION * normal(stream, i)).collect()
        } else if info.name.ends_with(".predictor.weight") {
            // Of [taps, D]: the next output is the last one.
            let width = info.ty.shape.width().unwrap_or(1);
            (0..n).map(|i| if i < width { 1.0 } else { 0.0 }).collect()
        } else if info.name.ends_with("igate_proj.bias") {
            vec![INPUT_GATE; n]
        } else if info.name.ends_with("fgate_proj.bias") {
            (0..n).map(|i| 3.0 + 3.0 * i as f64 / (n - 1).max(1) as f64).collect()
        } else if info.name.ends_with(".hgf_B.weight") {
            vec![0.0; n]
        } else if info.name.ends_with(".hgf_A.weight") {
            let deviation = (shape.last().copied().unwrap_or(1).max(1) as f64).powf(-0.5);
            (0..n as u64).map(|i| deviation * normal(stream, i)).collect()
        } else if info.name.ends_with(".bias") || info.name.ends_with(".lower_bounds") {
            vec![0.0; n]
        } else if info.name.ends_with(".conv.filter.up_proj.weight") {
            (0..n as u64).map(|i| normal(stream, i)).collect()
        } else if ["memory_bank.weight", "causal_conv.weight", ".base_conv.conv.weight"]
            .iter()
            .any(|end| info.name.ends_with(end))
        {
            let last = info.ty.shape.width().unwrap_or(1);
            // Xavier for the bank [M, D], 1/√W for taps [D, W].
            let bank = info.name.ends_with("memory_bank.weight");
            let reach = if bank { (6.0 / (n / last + last) as f64).sqrt() } else { 1.0 / (last as f64).sqrt() };
            (0..n as u64).map(|i| reach * (2.0 * uniform(stream, i) - 1.0)).collect()
        } else if info.name.ends_with(".A_log") {
            (0..n as u64).map(|i| (16.0 * (1.0 - uniform(stream, i))).ln()).collect()
        } else if info.name.ends_with(".dt_bias") {
            (0..n as u64).map(|i| inverse_softplus(0.001 * 100f64.powf(uniform(stream, i)))).collect()
        } else {
            let into_stream = INTO_STREAM.iter().any(|end| info.name.ends_with(end));
            let deviation = if into_stream { DEVIATION / (2.0 * layers as f64).sqrt() } else { DEVIATION };
            (0..n as u64).map(|i| deviation * normal(stream, i)).collect()
        };
        match info.ty.dtype {
            Dtype::F64 => memory.set(&info.name, Dtype::F64, &values)?,
            _ => memory.set(&info.name, Dtype::F32, &values.iter().map(|x| *x as f32).collect::<Vec<_>>())?,
        }
    }
    Ok(())
}

/// How the names of matrices end whose products are added to the residual stream.
const INTO_STREAM: [&str; 6] = [
    "o_proj.weight",
    "down_proj.weight",
    ".mixer.out_proj.weight",
    ".gmu.out_proj.weight",
    ".time_mix.output.weight",
    ".channel_mix.value.weight",
];

/// First values of the parameters of Mamba and RWKV that are no plain matrices.
fn recurrent(name: &str, shape: &[usize], stream: u64) -> Option<Vec<f64>> {
    let n = shape.iter().product::<usize>();
    let (layer, part) = ["mixer", "time_mix", "channel_mix"]
        .into_iter()
        .find_map(|layer| Some((layer, name.split_once(&format!(".{layer}."))?.1)))
        // Mamba-2 within B'MOJO begins as a layer of its own.
        .or_else(|| Some(("mixer", name.split_once(".bmojo.mamba.")?.1)))?;
    let all = |value: f64| Some(vec![value; n]);
    // From 0 to 1 over the channels.
    let rising = |from: f64, to: f64| {
        let last = (n.max(2) - 1) as f64;
        Some((0..n).map(|i| from + (to - from) * i as f64 / last).collect())
    };
    let spread = |width: f64| Some((0..n as u64).map(|i| width * (2.0 * uniform(stream, i) - 1.0)).collect());
    match (layer, part) {
        // Mamba-2 has one a head, and begins as the gates above.
        ("mixer", "A_log") if shape.len() == 2 => {
            Some((0..n).map(|i| ((i % shape[1].max(1) + 1) as f64).ln()).collect())
        }
        ("mixer", "D") => all(1.0),
        ("mixer", "dt_proj.bias") => {
            Some((0..n as u64).map(|i| inverse_softplus(0.001 * 100f64.powf(uniform(stream, i)))).collect())
        }
        ("mixer", "dt_proj.weight" | "conv1d.weight") => spread((shape[1].max(1) as f64).powf(-0.5)),
        ("time_mix", "time_decay") => rising(-6.0, -1.0),
        ("time_mix", "time_first") => all(0.5),
        ("time_mix", "w0") => rising(-6.5, -1.5),
        ("time_mix", "a0" | "r_k") => all(0.0),
        ("time_mix", "v0" | "k_a") => all(1.0),
        ("time_mix", "k_k") => all(0.85),
        (_, mix) if mix.starts_with("time_mix_") || mix.starts_with("x_") && layer != "mixer" => rising(0.0, 1.0),
        _ => None,
    }
}

/// The number whose softplus is `y`, above 0.
fn inverse_softplus(y: f64) -> f64 {
    y + (-(-y).exp_m1()).ln()
}

/// Sample `i` of the uniform distribution from 0 to 1, without 1, in stream `stream`.
fn uniform(stream: u64, i: u64) -> f64 {
    (bits(stream, i) >> 11) as f64 / (1u64 << 53) as f64
}

/// Sample `i` of the standard normal distribution in stream `stream` (Box-Muller on counter-based bits).
fn normal(stream: u64, i: u64) -> f64 {
    let (u, v) = (1.0 - uniform(stream, 2 * i), uniform(stream, 2 * i + 1));
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

/// SplitMix64 at a position.
fn bits(stream: u64, position: u64) -> u64 {
    let mut z = stream.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_begin_with_the_published_time_steps() {
        let dt: Vec<f64> = (0..1000)
            .map(|i| inverse_softplus(0.001 * 100f64.powf(uniform(3, i))))
            .map(|bias| bias.exp().ln_1p())
            .collect();
        assert!(dt.iter().all(|dt| (0.000_999_9..0.100_001).contains(dt)));
        let short = dt.iter().filter(|dt| **dt < 0.01).count();
        assert!((400..600).contains(&short), "{short} of 1000 below 0.01: uniform in the logarithm");
    }

    #[test]
    fn parameters_of_recurrences_begin_as_published() {
        let of = |name: &str, shape: &[usize]| recurrent(&format!("model.layers.3.{name}"), shape, 5);
        let rates = of("mixer.A_log", &[2, 3]).expect("known");
        assert_eq!(rates.iter().map(|a| a.exp().round()).collect::<Vec<_>>(), [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
        assert_eq!(of("time_mix.w0", &[3]).expect("known"), [-6.5, -4.0, -1.5]);
        assert_eq!(of("channel_mix.x_k", &[3]).expect("known"), [0.0, 0.5, 1.0]);
        assert_eq!(of("time_mix.k_k", &[2]).expect("known"), [0.85; 2]);
        for mamba in ["mixer", "bmojo.mamba"] {
            let taps = of(&format!("{mamba}.conv1d.weight"), &[64, 4]).expect("known");
            let largest = taps.iter().fold(0.0f64, |most, w| most.max(w.abs()));
            assert!((0.4..=0.5).contains(&largest), "{mamba}: {largest}");
        }
        assert!(of("mixer.dt_proj.weight", &[4, 16]).expect("known").iter().all(|w| w.abs() <= 0.25));
        for other in ["mixer.x_proj.weight", "time_mix.key.weight", "time_mix.g_norm.weight", "self_attn.q_proj.weight"]
        {
            assert_eq!(of(other, &[2, 2]), None, "{other}");
        }
    }

    #[test]
    fn samples_are_standard_normal() {
        let n = 100_000;
        let x: Vec<f64> = (0..n).map(|i| normal(7, i)).collect();
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|x| x * x).sum::<f64>() / n as f64;
        let beyond = x.iter().filter(|x| x.abs() > 1.96).count() as f64 / n as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02 && (beyond - 0.05).abs() < 0.004);
    }
}
