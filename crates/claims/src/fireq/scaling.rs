//! What moves outliers of a model away, without changing its function.

use std::collections::HashMap;

use memwall_kernels::rope::Pairing;
use memwall_quantize::{KeyMaxima, RopeScaling, RopeScalingOptions};
use memwall_tasks::Philox;

use super::keys::{ALPHA, BETA};
use crate::Error;
use crate::characters::Windows;
use crate::decoder::{Decoder, Hooks, name};
use crate::planted::Planted;

/// Channels of a head with their partners that are scaled after the rotation: the share that is shipped, 8 of 128.
const TOP_SHARE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scaling {
    /// Columns of weights made alike.
    pub(super) channels: bool,
    /// Keys before the rotation.
    pub(super) before: bool,
    /// Keys after it.
    pub(super) after: bool,
    /// The scales before the rotation go to other pairs than they were made for.
    pub(super) shuffled: bool,
}

impl Scaling {
    pub(super) const NONE: Scaling = Scaling { channels: false, before: false, after: false, shuffled: false };
    pub(super) const ALL: Scaling = Scaling { channels: true, before: true, after: true, shuffled: false };
}

/// The model scaled, and scales that its keys get after the rotation, a layer each.
pub(super) fn scaled(
    model: &Planted,
    calibration: &Windows,
    scaling: Scaling,
) -> Result<(Decoder, Vec<RopeScaling>), Error> {
    let mut decoder = model.decoder.clone();
    if scaling.channels {
        scale_channels(&mut decoder);
    }
    let identity = vec![1.0; decoder.width];
    let none = RopeScaling::from_scales(decoder.head_dim(), identity.clone(), identity);
    let mut scalings = vec![none; decoder.layers];
    if scaling.before || scaling.after {
        scalings = key_scalings(model, calibration, scaling)?;
    }
    for (layer, scaling) in scalings.iter().enumerate() {
        let names = ["self_attn.q_proj", "self_attn.k_proj"].map(|part| name(layer, part));
        let [mut q, mut k] = names.each_ref().map(|name| decoder.weight(name).to_vec());
        scaling.fold(decoder.width, &mut q, &mut k);
        decoder.weights.extend(names.into_iter().zip([q, k]));
    }
    Ok((decoder, scalings))
}

/// Columns times the mean magnitude over their own, and what makes their inputs over it: the norm for `gate_proj` and `up_proj`, rows of
/// `up_proj` for `down_proj`, the two that are scaled in the published settings.
fn scale_channels(decoder: &mut Decoder) {
    for layer in 0..decoder.layers {
        let norm = name(layer, "post_attention_layernorm");
        let (gate, up, down) = (name(layer, "mlp.gate_proj"), name(layer, "mlp.up_proj"), name(layer, "mlp.down_proj"));
        for (producer, readers) in [(norm, vec![gate, up.clone()]), (up, vec![down])] {
            let inputs = decoder.inputs(&readers[0]);
            let weights: &mut HashMap<String, Vec<f32>> = &mut decoder.weights;
            let mut sums = vec![0f32; inputs];
            for row in readers.iter().flat_map(|reader| weights[reader].chunks(inputs)) {
                sums.iter_mut().zip(row).for_each(|(sum, w)| *sum += w.abs());
            }
            let mean = sums.iter().sum::<f32>() / inputs as f32;
            let factors: Vec<f32> = sums.iter().map(|sum| if *sum > 0.0 { mean / sum } else { 1.0 }).collect();
            for reader in &readers {
                if let Some(weight) = weights.get_mut(reader) {
                    weight.iter_mut().enumerate().for_each(|(i, w)| *w *= factors[i % inputs]);
                }
            }
            if let Some(weight) = weights.get_mut(&producer) {
                let row = weight.len() / inputs;
                weight.iter_mut().enumerate().for_each(|(i, w)| *w /= factors[i / row]);
            }
        }
    }
}

/// The largest keys of each layer.
struct Maxima(Vec<KeyMaxima>);

impl Hooks for Maxima {
    fn rotated(&mut self, layer: usize, before: &[f32], [_, k, _]: &mut [Vec<f32>; 3]) -> Result<(), Error> {
        self.0[layer].add(before, k).map_err(Error::experiment)
    }
}

/// Scales from the keys of a text.
fn key_scalings(model: &Planted, calibration: &Windows, scaling: Scaling) -> Result<Vec<RopeScaling>, Error> {
    let decoder = &model.decoder;
    let head_dim = decoder.head_dim();
    let maxima = KeyMaxima::new(decoder.heads, head_dim, Pairing::HalfSplit).map_err(Error::experiment)?;
    let mut maxima = Maxima(vec![maxima; decoder.layers]);
    for (ids, _) in calibration {
        decoder.forward(ids, &mut maxima)?;
    }
    let options = RopeScalingOptions {
        alpha: scaling.before.then_some(ALPHA),
        beta: scaling.after.then_some((BETA, head_dim / TOP_SHARE)),
    };
    let mut rng = Philox::new(model.seed, 435);
    let of = |maxima: &KeyMaxima| -> Result<RopeScaling, Error> {
        let made = RopeScaling::new(maxima, options).map_err(Error::experiment)?;
        if !scaling.shuffled {
            return Ok(made);
        }
        // Pairs keep one scale, and a channel that is scaled after the rotation gives its scale to another.
        let half = head_dim / 2;
        let mut pairs: Vec<usize> = (0..half).collect();
        rng.shuffle(&mut pairs);
        let turn = |scales: &[f32]| -> Vec<f32> {
            let channel = |i: usize| i / head_dim * head_dim + i % head_dim / half * half + pairs[i % half];
            (0..scales.len()).map(|i| scales[channel(i)]).collect()
        };
        Ok(RopeScaling::from_scales(head_dim, turn(made.before()), turn(made.after())))
    };
    maxima.0.iter().map(of).collect()
}
