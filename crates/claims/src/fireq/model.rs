//! A model of characters whose keys have loud channels, run by hand with inputs in E4M3, weights and keys and values in integers of four
//! bits.
//!
//! Channels are planted without changing the function, as in the claim of block quantization: rows of `k_proj` times twelve, rows of
//! `q_proj` over twelve.

use std::collections::HashMap;

use memwall_formats::element::{E4M3_FN, Element, Rounding};
use memwall_formats::packing::{
    Dequantization, GroupScale, INT4_FP8_GROUP, int4_group, pack_int4_fp8, tensor_exponent,
};
use memwall_kernels::linear::{Int4Fp8, int4_fp8, int4_fp8_scratch};
use memwall_kernels::rope::Pairing;
use memwall_kernels::{Pool, gemm};
use memwall_nn::{AttentionConfig, ChannelConfig, MixerConfig, RopeConfig};
use memwall_quantize::{KeyMaxima, RopeScaling, RopeScalingOptions};
use memwall_tasks::{Batches, Philox, Position, Split, distinct};
use memwall_train::Trainer;

use super::keys::{ALPHA, BETA, rotate, stored};
use crate::trial::packed;
use crate::{Error, Run, characters::Characters};

/// How many times as large a planted channel is, and rotary pairs of a head that are.
const TIMES: f32 = 12.0;
const LOUD_PAIRS: usize = 2;
const HEADS: usize = 2;
/// Channels of a head with their partners that are scaled after the rotation: the share that is shipped, 8 of 128.
const TOP_SHARE: usize = 16;

/// What moves outliers away.
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

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numbers {
    /// All in f32.
    Single,
    /// Weights, keys and values in integers of four bits under such scales, inputs and queries in E4M3.
    Stored(GroupScale, Dequantization),
}

/// A trained model, its channels planted.
pub(super) struct Planted {
    width: usize,
    head_dim: usize,
    layers: usize,
    vocab: usize,
    eps: f64,
    trainer: Trainer,
    weights: HashMap<String, Vec<f32>>,
    seed: u64,
    pool: Pool,
}

/// Texts as token ids and targets, whole windows.
pub(super) struct Windows {
    ids: Vec<Vec<i32>>,
    targets: Vec<Vec<i32>>,
}

/// A weight as a product reads it.
enum Matrix {
    Single(Vec<f32>),
    Groups { bytes: Vec<u8>, exponent: u32 },
}

/// The model made ready for one way to store it.
struct Prepared<'m> {
    model: &'m Planted,
    numbers: Numbers,
    matrices: HashMap<String, Matrix>,
    norms: HashMap<String, Vec<f32>>,
    /// Scales of keys, a layer each.
    scalings: Vec<RopeScaling>,
}

/// Matrices of a layer.
const MATRICES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

fn name(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

impl Planted {
    /// Trains a model and plants loud channels.
    pub(super) fn train(run: &Run, text: &Characters, seed: u64, rate: f64) -> Result<Planted, Error> {
        let width = run.pick(128, 128, 256);
        let rope = Some(RopeConfig::default());
        let attention = AttentionConfig { rope, ..AttentionConfig::new(HEADS, HEADS, width / HEADS) };
        let mut config = text.model(MixerConfig::Attention(attention), width);
        for layer in &mut config.layers {
            // Rows of whole groups of 128.
            if let ChannelConfig::Glu { hidden, .. } = &mut layer.channel {
                *hidden = 3 * width;
            }
        }
        let mut trainer = text.training.trainer(run, &config, seed)?;
        text.training.train(run, &mut trainer, &text.task(seed)?, rate)?;
        let names: Vec<String> = trainer.parameters().map(str::to_owned).collect();
        let get = |name: &String| trainer.memory().get::<f32>(name).map(|w| (name.clone(), w.to_vec()));
        let weights: HashMap<String, Vec<f32>> = names.iter().filter_map(get).collect();
        let mut model = Planted {
            width,
            head_dim: width / HEADS,
            layers: config.layers.len(),
            vocab: config.vocab_size,
            eps: config.norm_eps,
            trainer,
            weights,
            seed,
            pool: Pool::new(run.threads()),
        };
        model.plant();
        Ok(model)
    }

    fn plant(&mut self) {
        let (width, head_dim) = (self.width, self.head_dim);
        let mut rng = Philox::new(self.seed, 434);
        for layer in 0..self.layers {
            for head in 0..HEADS {
                for pair in distinct(&mut rng, head_dim / 2, LOUD_PAIRS) {
                    for channel in [pair, pair + head_dim / 2] {
                        let row = (head * head_dim + channel) * width..(head * head_dim + channel + 1) * width;
                        for (part, factor) in [("self_attn.k_proj", TIMES), ("self_attn.q_proj", 1.0 / TIMES)] {
                            if let Some(weight) = self.weights.get_mut(&name(layer, part)) {
                                weight[row.clone()].iter_mut().for_each(|w| *w *= factor);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Windows of a split, and what the trained model itself loses there.
    pub(super) fn windows(&mut self, text: &Characters, count: usize, split: Split) -> Result<(Windows, f64), Error> {
        let task = text.task(self.seed)?;
        let batches =
            Batches::new(&task, split, text.training.batch, Position::default()).map_err(Error::experiment)?;
        let (mut windows, mut loss, mut labels) = (Windows { ids: Vec::new(), targets: Vec::new() }, 0.0, 0.0);
        for batch in batches.rest_of_epoch() {
            let batch = batch.map_err(Error::experiment)?;
            loss += self.trainer.evaluate(&packed(&batch)).map_err(Error::experiment)?.loss * batch.labels() as f64;
            labels += batch.labels() as f64;
            windows.ids.extend(batch.inputs.chunks(batch.time).map(<[i32]>::to_vec));
            windows.targets.extend(batch.targets.chunks(batch.time).map(<[i32]>::to_vec));
            if windows.ids.len() >= count {
                break;
            }
        }
        Ok((windows, loss / labels))
    }

    fn weight(&self, name: &str) -> &[f32] {
        self.weights.get(name).map_or(&[], |w| w)
    }

    /// Mean nats of a character; keys are calibrated on other windows.
    pub(super) fn loss(
        &self,
        windows: &Windows,
        calibration: &Windows,
        scaling: Scaling,
        numbers: Numbers,
    ) -> Result<f64, Error> {
        let model = self.prepare(calibration, scaling, numbers)?;
        let (mut nats, mut count) = (0.0, 0.0);
        for (ids, targets) in windows.ids.iter().zip(&windows.targets) {
            let logits = model.forward(ids, |_, _, _| Ok(()))?;
            for (row, target) in logits.chunks(self.vocab).zip(targets).filter(|(_, target)| **target >= 0) {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|l| f64::from(l - most).exp()).sum();
                nats += sum.ln() - f64::from(row[*target as usize] - most);
                count += 1.0;
            }
        }
        Ok(nats / count)
    }

    fn prepare(&self, calibration: &Windows, scaling: Scaling, numbers: Numbers) -> Result<Prepared<'_>, Error> {
        let mut weights = self.weights.clone();
        if scaling.channels {
            self.scale_channels(&mut weights);
        }
        let identity = vec![1.0; self.width];
        let none = RopeScaling::from_scales(self.head_dim, identity.clone(), identity);
        let mut scalings = vec![none; self.layers];
        if scaling.before || scaling.after {
            scalings = self.key_scalings(calibration, scaling)?;
        }
        for (layer, scaling) in scalings.iter().enumerate() {
            let [mut q, mut k] =
                ["self_attn.q_proj", "self_attn.k_proj"].map(|part| weights[&name(layer, part)].clone());
            scaling.fold(self.width, &mut q, &mut k);
            weights.insert(name(layer, "self_attn.q_proj"), q);
            weights.insert(name(layer, "self_attn.k_proj"), k);
        }
        let mut matrices = HashMap::new();
        for layer in 0..self.layers {
            for part in MATRICES {
                let name = name(layer, part);
                let w = weights.remove(&name).ok_or_else(|| Error::experiment(format!("no {name}")))?;
                let inputs = self.inputs(part);
                matrices.insert(name, matrix(w, inputs, numbers)?);
            }
        }
        Ok(Prepared { model: self, numbers, matrices, norms: weights, scalings })
    }

    /// Inputs of a matrix.
    fn inputs(&self, part: &str) -> usize {
        if part == "mlp.down_proj" { 3 * self.width } else { self.width }
    }

    /// Columns times the mean magnitude over their own, and what makes their inputs over it: the norm for `gate_proj` and `up_proj`, rows of
    /// `up_proj` for `down_proj`, the two that are scaled in the published settings.
    fn scale_channels(&self, weights: &mut HashMap<String, Vec<f32>>) {
        for layer in 0..self.layers {
            let norm = name(layer, "post_attention_layernorm");
            let (gate, up, down) =
                (name(layer, "mlp.gate_proj"), name(layer, "mlp.up_proj"), name(layer, "mlp.down_proj"));
            for (producer, readers) in [(norm, vec![gate, up.clone()]), (up, vec![down])] {
                let inputs = if readers.len() > 1 { self.width } else { 3 * self.width };
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

    /// Scales from the keys of a text.
    fn key_scalings(&self, calibration: &Windows, scaling: Scaling) -> Result<Vec<RopeScaling>, Error> {
        let maxima = KeyMaxima::new(HEADS, self.head_dim, Pairing::HalfSplit).map_err(Error::experiment)?;
        let mut maxima = vec![maxima; self.layers];
        let plain = self.prepare(calibration, Scaling::NONE, Numbers::Single)?;
        for ids in &calibration.ids {
            plain.forward(ids, |layer, before, after| maxima[layer].add(before, after).map_err(Error::experiment))?;
        }
        let options = RopeScalingOptions {
            alpha: scaling.before.then_some(ALPHA),
            beta: scaling.after.then_some((BETA, self.head_dim / TOP_SHARE)),
        };
        let mut rng = Philox::new(self.seed, 435);
        let of = |maxima: &KeyMaxima| -> Result<RopeScaling, Error> {
            let made = RopeScaling::new(maxima, options).map_err(Error::experiment)?;
            if !scaling.shuffled {
                return Ok(made);
            }
            // Pairs keep one scale, and a channel that is scaled after the rotation gives its scale to another.
            let half = self.head_dim / 2;
            let mut pairs: Vec<usize> = (0..half).collect();
            rng.shuffle(&mut pairs);
            let turn = |scales: &[f32]| -> Vec<f32> {
                let channel =
                    |i: usize| i / self.head_dim * self.head_dim + i % self.head_dim / half * half + pairs[i % half];
                (0..scales.len()).map(|i| scales[channel(i)]).collect()
            };
            Ok(RopeScaling::from_scales(self.head_dim, turn(made.before()), turn(made.after())))
        };
        maxima.iter().map(of).collect()
    }
}

/// A weight [outputs, inputs] as it is stored.
fn matrix(w: Vec<f32>, inputs: usize, numbers: Numbers) -> Result<Matrix, Error> {
    Ok(match numbers {
        Numbers::Single => Matrix::Single(w),
        Numbers::Stored(GroupScale::Bf16, _) => {
            let back = |x: &[f32]| {
                let (s, codes) = int4_group(x, GroupScale::Bf16);
                codes.map(|q| f32::from(q) * s).collect::<Vec<f32>>()
            };
            Matrix::Single(w.chunks(INT4_FP8_GROUP).flat_map(back).collect())
        }
        Numbers::Stored(GroupScale::E4M3, _) => {
            let exponent = tensor_exponent(&w, true);
            let bytes = pack_int4_fp8(&w, w.len() / inputs, inputs, exponent).map_err(Error::experiment)?;
            Matrix::Groups { bytes, exponent }
        }
    })
}

/// Rows of `width` as they come back from E4M3, one scale a row.
fn in_fp8(x: &[f32], width: usize) -> Vec<f32> {
    let row = |x: &[f32]| {
        let amax = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        let s = half::bf16::from_f32(amax / E4M3_FN.max()).to_f32();
        let s = if s > 0.0 { s } else { 1.0 };
        x.iter().map(|x| E4M3_FN.decode(E4M3_FN.encode(x / s, Rounding::HalfEven, true)) * s).collect::<Vec<f32>>()
    };
    x.chunks(width).flat_map(row).collect()
}

impl Prepared<'_> {
    /// y [N, outputs] = x Wᵀ.
    fn linear(&self, name: &str, x: &[f32], inputs: usize) -> Result<Vec<f32>, Error> {
        let rows = x.len() / inputs;
        let matrix = self.matrices.get(name).ok_or_else(|| Error::experiment(format!("no {name}")))?;
        match (matrix, self.numbers) {
            (Matrix::Groups { bytes, exponent }, Numbers::Stored(_, how)) => {
                let outputs = bytes.len() / memwall_formats::packing::INT4_FP8_BYTES * INT4_FP8_GROUP / inputs;
                let w = Int4Fp8::new(bytes, outputs, inputs, *exponent).map_err(Error::experiment)?;
                let mut y = vec![0.0; rows * outputs];
                let mut scratch = vec![0; int4_fp8_scratch(&w, rows, self.model.pool.threads())];
                int4_fp8(&self.model.pool, &w, how, x, rows, &mut y, &mut scratch);
                Ok(y)
            }
            (Matrix::Single(w), Numbers::Stored(..)) => Ok(self.product(&in_fp8(x, inputs), w, inputs)),
            (Matrix::Single(w), Numbers::Single) => Ok(self.product(x, w, inputs)),
            (Matrix::Groups { .. }, Numbers::Single) => unreachable!("weights in f32 have no groups"),
        }
    }

    fn product(&self, x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
        let (rows, outputs) = (x.len() / inputs, w.len() / inputs);
        let product = gemm::Gemm {
            m: rows,
            n: outputs,
            k: inputs,
            a_trans: false,
            b_trans: true,
            accumulate: false,
            compute: gemm::Compute::F32,
        };
        let mut y = vec![0.0; rows * outputs];
        let mut scratch = vec![0; gemm::gemm_scratch(&product, 4, self.model.pool.threads())];
        gemm::gemm(&self.model.pool, product, x, w, &mut y, &mut scratch);
        y
    }

    fn norm(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let weight = self.norms.get(name).map_or(&[][..], |w| w);
        let row = |x: &[f32]| -> Vec<f32> {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + self.model.eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| (f64::from(*x) * scale) as f32 * w).collect()
        };
        x.chunks(self.model.width).flat_map(row).collect()
    }

    /// Logits [T, V] of a window; `keys` is shown the keys [T, heads · head_dim] of a layer before and after the rotation.
    fn forward(
        &self,
        ids: &[i32],
        mut keys: impl FnMut(usize, &[f32], &[f32]) -> Result<(), Error>,
    ) -> Result<Vec<f32>, Error> {
        let (d, head_dim) = (self.model.width, self.model.head_dim);
        let embedding = self.model.weight("model.embed_tokens.weight");
        let mut x: Vec<f32> = ids.iter().flat_map(|id| embedding[*id as usize * d..][..d].to_vec()).collect();
        for (layer, scaling) in self.scalings.iter().enumerate() {
            let h = self.norm(&name(layer, "input_layernorm"), &x);
            let project = |part: &str| self.linear(&name(layer, part), &h, d);
            let mut q = project("self_attn.q_proj")?;
            let (mut k, mut v) = (project("self_attn.k_proj")?, project("self_attn.v_proj")?);
            rotate(&mut q, HEADS, head_dim, 0, Pairing::HalfSplit)?;
            let before = k.clone();
            rotate(&mut k, HEADS, head_dim, 0, Pairing::HalfSplit)?;
            keys(layer, &before, &k)?;
            scaling.scale_rotated(&mut q, HEADS, &mut k);
            if let Numbers::Stored(scale, _) = self.numbers {
                q = in_fp8(&q, head_dim);
                k = stored(&k, head_dim, scale);
                v = stored(&v, head_dim, scale);
            }
            let o = self.attend(ids.len(), &q, &k, &v);
            let y = self.linear(&name(layer, "self_attn.o_proj"), &o, d)?;
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            let h = self.norm(&name(layer, "post_attention_layernorm"), &x);
            let gate = self.linear(&name(layer, "mlp.gate_proj"), &h, d)?;
            let up = self.linear(&name(layer, "mlp.up_proj"), &h, d)?;
            let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let y = self.linear(&name(layer, "mlp.down_proj"), &inner, 3 * d)?;
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
        }
        let h = self.norm("model.norm.weight", &x);
        Ok(self.product(&h, embedding, d))
    }

    /// Causal softmax attention of one window.
    fn attend(&self, time: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let (d, width) = (self.model.width, self.model.head_dim);
        let scale = 1.0 / (width as f64).sqrt();
        let mut o = vec![0.0; time * d];
        for t in 0..time {
            for head in 0..HEADS {
                let at = |row: usize| row * d + head * width;
                let q = &q[at(t)..][..width];
                let dot = |s: usize| {
                    let k = &k[at(s)..][..width];
                    scale * q.iter().zip(k).map(|(q, k)| f64::from(q * k)).sum::<f64>()
                };
                let scores: Vec<f64> = (0..=t).map(dot).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for (s, weight) in weights.iter().enumerate() {
                    let share = (weight / sum) as f32;
                    let v = &v[at(s)..][..width];
                    o[at(t)..][..width].iter_mut().zip(v).for_each(|(o, v)| *o += share * v);
                }
            }
        }
        o
    }
}
