//! A small transformer run by hand in f32, for claims that store its inputs, weights or keys in ways that no engine runs.

use std::collections::HashMap;
use std::sync::Arc;

use memwall_kernels::rope::Pairing;
use memwall_kernels::{Pool, gemm};
use memwall_nn::RopeConfig;
use memwall_quantize::KeyOrder;

use crate::Error;
use crate::characters::{Windows, nats};

/// The inputs' norm of a layer, its projections, and so on, by Llama's names.
pub(crate) fn name(layer: usize, part: &str) -> String {
    format!("model.layers.{layer}.{part}.weight")
}

/// Layers of softmax attention, as many key heads as heads, and gated MLPs; the embedding is the head.
#[derive(Clone)]
pub(crate) struct Decoder {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) heads: usize,
    pub(crate) vocab: usize,
    pub(crate) eps: f64,
    /// By name, rows [outputs, inputs].
    pub(crate) weights: HashMap<String, Vec<f32>>,
    pub(crate) pool: Arc<Pool>,
}

/// What a run does in its own way.
pub(crate) trait Hooks {
    /// y [N, outputs] = x [N, inputs] Wᵀ, W the matrix of a layer with this name.
    fn product(&self, decoder: &Decoder, name: &str, x: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(decoder.product(name, x))
    }

    /// May change queries, keys and values [T, width] of a layer after rotary positions; `before`: the keys before them.
    fn rotated(&mut self, layer: usize, before: &[f32], qkv: &mut [Vec<f32>; 3]) -> Result<(), Error>;
}

impl Decoder {
    /// Values of a head.
    pub(crate) fn head_dim(&self) -> usize {
        self.width / self.heads
    }

    pub(crate) fn weight(&self, name: &str) -> &[f32] {
        self.weights.get(name).map_or(&[], |w| w)
    }

    /// Inputs of a matrix.
    pub(crate) fn inputs(&self, name: &str) -> usize {
        // Every matrix reads the stream but the one that writes what the MLP holds.
        if name.contains("mlp.down_proj") { self.weight(name).len() / self.width } else { self.width }
    }

    /// y [N, outputs] = x Wᵀ.
    pub(crate) fn product(&self, name: &str, x: &[f32]) -> Vec<f32> {
        self.times(x, self.weight(name), self.inputs(name))
    }

    /// y [N, outputs] = x [N, inputs] Wᵀ of a matrix that is not among the weights.
    pub(crate) fn times(&self, x: &[f32], w: &[f32], inputs: usize) -> Vec<f32> {
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
        let identity = KeyOrder::new(vec![(0..self.head_dim()).collect(); self.heads]).map_err(Error::experiment)?;
        let positions: Vec<i32> = (0..(x.len() / self.width) as i32).collect();
        let frequencies = RopeConfig::default().inverse_frequencies(self.head_dim());
        identity.rotate(Pairing::HalfSplit, &frequencies, &positions, x).map_err(Error::experiment)
    }

    /// Logits [T, V] of a window.
    pub(crate) fn forward(&self, ids: &[i32], hooks: &mut impl Hooks) -> Result<Vec<f32>, Error> {
        let d = self.width;
        let embedding = self.weight("model.embed_tokens.weight");
        let mut x: Vec<f32> = ids.iter().flat_map(|id| embedding[*id as usize * d..][..d].to_vec()).collect();
        for layer in 0..self.layers {
            let h = self.norm(&name(layer, "input_layernorm"), &x);
            let [q, k, v] = ["q_proj", "k_proj", "v_proj"]
                .map(|part| hooks.product(self, &name(layer, &format!("self_attn.{part}")), &h));
            let mut qkv = [q?, k?, v?];
            let before = qkv[1].clone();
            self.rotate(&mut qkv[0])?;
            self.rotate(&mut qkv[1])?;
            hooks.rotated(layer, &before, &mut qkv)?;
            let o = self.attend(ids.len(), &qkv);
            let y = hooks.product(self, &name(layer, "self_attn.o_proj"), &o)?;
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            let h = self.norm(&name(layer, "post_attention_layernorm"), &x);
            let gate = hooks.product(self, &name(layer, "mlp.gate_proj"), &h)?;
            let up = hooks.product(self, &name(layer, "mlp.up_proj"), &h)?;
            let inner: Vec<f32> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let y = hooks.product(self, &name(layer, "mlp.down_proj"), &inner)?;
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
        }
        Ok(self.times(&self.norm("model.norm.weight", &x), embedding, d))
    }

    /// Causal softmax attention of one window.
    fn attend(&self, time: usize, [q, k, v]: &[Vec<f32>; 3]) -> Vec<f32> {
        let (d, width) = (self.width, self.head_dim());
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

    /// Mean nats of a character.
    pub(crate) fn loss(&self, windows: &Windows, hooks: &mut impl Hooks) -> Result<f64, Error> {
        let (mut sum, mut count) = (0.0, 0.0);
        for (ids, targets) in windows {
            let logits = self.forward(ids, hooks)?;
            let (nats, labels) = nats(&logits, self.vocab, targets);
            sum += nats;
            count += labels;
        }
        Ok(sum / count)
    }
}
