//! A model of characters whose keys have loud channels, run by hand so that its keys can be stored in any format.
//!
//! Channels are planted without changing the function: rows of `k_proj` times twelve, rows of `q_proj` over twelve.

use memwall_formats::{Format, scaled};
use memwall_kernels::rope::Pairing;
use memwall_kernels::{Pool, gemm};
use memwall_nn::{AttentionConfig, MixerConfig, RopeConfig};
use memwall_quantize::KeyOrder;
use memwall_tasks::{Batches, Philox, Position, Split, distinct};
use memwall_train::Trainer;

use super::simulation::stored;
use crate::trial::packed;
use crate::{Error, Run, characters::Characters};

/// How many times as large a planted channel is, and rotary pairs of a head that are.
const TIMES: f32 = 12.0;
const LOUD_PAIRS: usize = 2;

/// What keys are stored in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    /// f32.
    Plain,
    /// Mantissas of so many bits, blocks of 16 channels, in an order.
    Bfp(u32, Order),
}

/// The order of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    AsTheyAre,
    /// By norms of the rows of `k_proj`.
    ByWeight,
    /// By root mean squares of keys on a part of the text that is not scored.
    ByKeys,
    Random,
}

/// A trained model, its channels planted.
pub(super) struct Planted {
    layers: usize,
    width: usize,
    heads: usize,
    head_dim: usize,
    hidden: usize,
    vocab: usize,
    eps: f64,
    trainer: Trainer,
    weights: std::collections::HashMap<String, Vec<f32>>,
    seed: u64,
    pool: Pool,
}

/// Texts as token ids and targets, whole windows.
pub(super) struct Windows {
    ids: Vec<Vec<i32>>,
    targets: Vec<Vec<i32>>,
}

impl Planted {
    /// Trains a model and plants loud channels.
    pub(super) fn train(run: &Run, text: &Characters, seed: u64, rate: f64) -> Result<Planted, Error> {
        let heads = 2;
        let rope = Some(RopeConfig::default());
        let attention = AttentionConfig { rope, ..AttentionConfig::new(heads, heads, text.width / heads) };
        let config = text.model(MixerConfig::Attention(attention), text.width);
        let mut trainer = text.training.trainer(run, &config, seed)?;
        text.training.train(run, &mut trainer, &text.task(seed)?, rate)?;
        let names: Vec<String> = trainer.parameters().map(str::to_owned).collect();
        let get = |name: &String| trainer.memory().get::<f32>(name).map(|w| (name.clone(), w.to_vec()));
        let mut weights: std::collections::HashMap<String, Vec<f32>> = names.iter().filter_map(get).collect();
        let (width, head_dim) = (text.width, text.width / heads);
        let mut rng = Philox::new(seed, 72);
        for layer in 0..config.layers.len() {
            for head in 0..heads {
                for pair in distinct(&mut rng, head_dim / 2, LOUD_PAIRS) {
                    for channel in [pair, pair + head_dim / 2] {
                        let row = (head * head_dim + channel) * width..(head * head_dim + channel + 1) * width;
                        for (name, factor) in [("k_proj", TIMES), ("q_proj", 1.0 / TIMES)] {
                            let name = format!("model.layers.{layer}.self_attn.{name}.weight");
                            let weight =
                                weights.get_mut(&name).ok_or_else(|| Error::experiment(format!("no {name}")))?;
                            weight[row.clone()].iter_mut().for_each(|w| *w *= factor);
                        }
                    }
                }
            }
        }
        let hidden = weights["model.layers.0.mlp.up_proj.weight"].len() / width;
        Ok(Planted {
            layers: config.layers.len(),
            width,
            heads,
            head_dim,
            hidden,
            vocab: config.vocab_size,
            eps: config.norm_eps,
            trainer,
            weights,
            seed,
            pool: Pool::new(run.threads()),
        })
    }

    /// Windows of the test text, and what the trained model itself loses there.
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

    /// y [N, outputs] = x Wᵀ.
    fn linear(&self, name: &str, x: &[f32], inputs: usize) -> Vec<f32> {
        let w = self.weight(name);
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
        let mut scratch = vec![0; gemm::gemm_scratch(&product, 4, self.pool.threads())];
        gemm::gemm(&self.pool, product, x, w, &mut y, &mut scratch);
        y
    }

    fn norm(&self, name: &str, x: &[f32]) -> Vec<f32> {
        let weight = self.weight(name);
        let row = |x: &[f32]| -> Vec<f32> {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (mean + self.eps).sqrt();
            x.iter().zip(weight).map(|(x, w)| (f64::from(*x) * scale) as f32 * w).collect()
        };
        x.chunks(self.width).flat_map(row).collect()
    }

    fn rotate(&self, x: &mut [f32]) -> Result<(), Error> {
        let identity = KeyOrder::new(vec![(0..self.head_dim).collect(); self.heads]).map_err(Error::experiment)?;
        let positions: Vec<i32> = (0..(x.len() / self.width) as i32).collect();
        let frequencies = RopeConfig::default().inverse_frequencies(self.head_dim);
        identity.rotate(Pairing::HalfSplit, &frequencies, &positions, x).map_err(Error::experiment)
    }

    /// The order of each layer's key heads.
    fn orders(&self, order: Order, calibration: &Windows) -> Result<Vec<Option<KeyOrder>>, Error> {
        let sizes: Vec<Vec<f32>> = match order {
            Order::AsTheyAre => return Ok(vec![None; self.layers]),
            Order::Random => {
                let mut rng = Philox::new(self.seed, 73);
                (0..self.layers).map(|_| (0..self.width).map(|_| rng.unit() as f32).collect()).collect()
            }
            Order::ByWeight => {
                let norm = |row: &[f32]| row.iter().map(|w| w * w).sum::<f32>().sqrt();
                let name = |layer| format!("model.layers.{layer}.self_attn.k_proj.weight");
                (0..self.layers).map(|l| self.weight(&name(l)).chunks(self.width).map(norm).collect()).collect()
            }
            Order::ByKeys => {
                let mut sums = vec![vec![0f32; self.width]; self.layers];
                for ids in &calibration.ids {
                    self.forward(ids, |layer, k| {
                        for row in k.chunks(self.width) {
                            sums[layer].iter_mut().zip(row).for_each(|(sum, k)| *sum += k * k);
                        }
                        Ok(())
                    })?;
                }
                sums
            }
        };
        let of = |sizes: &Vec<f32>| Ok(Some(KeyOrder::by_size(self.heads, sizes).map_err(Error::experiment)?));
        sizes.iter().map(of).collect()
    }

    /// Logits [T, V] of a window; `keys` may change the keys [T, heads · head_dim] of a layer after rotary positions.
    fn forward(
        &self,
        ids: &[i32],
        mut keys: impl FnMut(usize, &mut [f32]) -> Result<(), Error>,
    ) -> Result<Vec<f32>, Error> {
        let (d, time) = (self.width, ids.len());
        let embedding = self.weight("model.embed_tokens.weight");
        let mut x: Vec<f32> = ids.iter().flat_map(|id| embedding[*id as usize * d..][..d].to_vec()).collect();
        for layer in 0..self.layers {
            let name = format!("model.layers.{layer}");
            let h = self.norm(&format!("{name}.input_layernorm.weight"), &x);
            let project = |part: &str| self.linear(&format!("{name}.self_attn.{part}.weight"), &h, d);
            let (mut q, mut k, v) = (project("q_proj"), project("k_proj"), project("v_proj"));
            self.rotate(&mut q)?;
            self.rotate(&mut k)?;
            keys(layer, &mut k)?;
            let o = self.attend(time, &q, &k, &v);
            let y = self.linear(&format!("{name}.self_attn.o_proj.weight"), &o, d);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            let h = self.norm(&format!("{name}.post_attention_layernorm.weight"), &x);
            let gate = self.linear(&format!("{name}.mlp.gate_proj.weight"), &h, d);
            let up = self.linear(&format!("{name}.mlp.up_proj.weight"), &h, d);
            let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let y = self.linear(&format!("{name}.mlp.down_proj.weight"), &inner, self.hidden);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
        }
        let h = self.norm("model.norm.weight", &x);
        Ok(self.linear("model.embed_tokens.weight", &h, d))
    }

    /// Causal softmax attention of one window.
    fn attend(&self, time: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let (d, width) = (self.width, self.head_dim);
        let scale = 1.0 / (width as f64).sqrt();
        let mut o = vec![0.0; time * d];
        for t in 0..time {
            for head in 0..self.heads {
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

    /// Mean nats of a character, keys stored so.
    pub(super) fn loss(&self, windows: &Windows, calibration: &Windows, keys: Keys) -> Result<f64, Error> {
        let (format, orders): (Option<Box<dyn Format>>, _) = match keys {
            Keys::Plain => (None, vec![None; self.layers]),
            Keys::Bfp(bits, order) => {
                let format = scaled::bfp(bits, 16.min(self.head_dim)).map_err(Error::experiment)?;
                (Some(Box::new(format)), self.orders(order, calibration)?)
            }
        };
        let (mut nats, mut count) = (0.0, 0.0);
        for (ids, targets) in windows.ids.iter().zip(&windows.targets) {
            let logits = self.forward(ids, |layer, k| {
                if let Some(format) = &format {
                    let back = stored(&**format, orders[layer].as_ref(), self.width, k)?;
                    k.copy_from_slice(&back);
                }
                Ok(())
            })?;
            for (row, target) in logits.chunks(self.vocab).zip(targets).filter(|(_, target)| **target >= 0) {
                let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = row.iter().map(|l| f64::from(l - most).exp()).sum();
                nats += sum.ln() - f64::from(row[*target as usize] - most);
                count += 1.0;
            }
        }
        Ok(nats / count)
    }
}
