//! B'MOJO: one softmax over recent tokens, a fading memory's outputs before them, and old tokens that it failed to predict.
//!
//! f = SSM(x) with its own parameters and state; q = W_q x, k = W_k x, v = W_v x and k' = W_k f, v' = W_v f with the same
//! weights, or with ones of their own (also W_q) if they are not tied; rotary positions on q, k and k'. With a window of W
//! tokens row i attends to k_j of j in [i − W + 1, i], to k'_j of j in [i − 2W + 1, i − W], and to k_j of the tokens
//! j ≤ i − 2W of the eidetic buffer, as [`memwall_kernels::bmojo`] defines it; y = W_o o. The distances to eidetic tokens
//! are clipped at 2W: their keys are not turned, and q is by 2W positions. Without a buffer it is B'MOJO-F.
//!
//! The buffer's predictor is trained by 0.01 times the mean innovation, which it lowers alone ([`Sequences::losses`]).
//!
//! Source: "B'MOJO: Hybrid State Space Realizations of Foundation Models with Eidetic and Fading Memory" (2024), arXiv
//! 2407.06324; names of B'MOJO-F as in awslabs/hybrid-model-factory.

use memwall_graph::ops::bmojo::BmojoAttention;
use memwall_graph::ops::eidetic::{EideticSelection, EideticStep};
use memwall_graph::ops::fill::Fill;
use memwall_graph::ops::innovation::{Innovation, InnovationStep};
use memwall_graph::ops::merge_attention::MergeAttention;
use memwall_graph::ops::rope::Rope;
use memwall_graph::{Graph, GraphError, Type, Value, ops};
use memwall_kernels::bmojo::{Bmojo as Kernel, Innovation as Predictor, Selection};
use memwall_kernels::gemm::Compute;
use serde::{Deserialize, Serialize};

use super::linear_memory::check_heads;
use super::{Form, Mixer};
use crate::config::{ConfigError, MOST_WIDTH, MixerConfig, at_most};
use crate::layers::{linear, rms_norm};
use crate::rope::RopeConfig;
use crate::sequences::{Kept, Sequences};
use crate::weights::WeightTypes;

/// B'MOJO of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BmojoConfig {
    /// Query heads H.
    pub heads: usize,
    /// Key-value heads G, a divisor of H.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// W: tokens that are seen as they are; the W before those are seen through the fading memory.
    #[serde(default = "window_size")]
    pub window_size: usize,
    /// The fading memory: `mamba2`, `delta_net` or `gated_kalmanet`.
    pub ssm: Box<MixerConfig>,
    /// The fading memory's outputs go through the projections of tokens.
    #[serde(default = "yes")]
    pub tie_attn_weights: bool,
    /// RMS norms of each head of q and k, before rope.
    #[serde(default)]
    pub qk_norm: bool,
    /// ε of those norms.
    #[serde(default = "qk_eps")]
    pub qk_norm_eps: f64,
    /// Rotary positions; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope: Option<RopeConfig>,
    /// The eidetic buffer; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eidetic: Option<EideticConfig>,
}

/// The eidetic buffer of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EideticConfig {
    /// E, tokens that it holds, at least 1.
    pub size: usize,
    /// Tokens with an innovation below this are not taken in, so that the buffer grows as far as there is need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Outputs that a prediction is made of.
    #[serde(default = "predictor_len")]
    pub predictor_len: usize,
    /// Weight of the mean innovation in the loss of training; 0 leaves the predictor as it is.
    #[serde(default = "predictor_loss")]
    pub predictor_loss: f64,
    /// How rotary positions reach the buffer.
    #[serde(default)]
    pub rope: EideticRope,
}

/// Rotary positions of eidetic tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EideticRope {
    /// Distances are at most 2W, which they all exceed.
    #[default]
    Clipped,
    /// Neither queries nor keys are turned.
    None,
}

fn window_size() -> usize {
    2048
}
fn yes() -> bool {
    true
}
fn qk_eps() -> f64 {
    1e-6
}
fn predictor_len() -> usize {
    4
}
fn predictor_loss() -> f64 {
    0.01
}

/// Positions that a buffer of f32 can hold.
const MOST_CONTEXT: usize = 1 << 24;
/// The most outputs of a prediction.
const MOST_TAPS: usize = 64;

impl EideticConfig {
    /// A buffer of `size` tokens without a threshold.
    pub fn new(size: usize) -> EideticConfig {
        EideticConfig {
            size,
            threshold: None,
            predictor_len: predictor_len(),
            predictor_loss: predictor_loss(),
            rope: EideticRope::default(),
        }
    }

    fn check(&self, key: &str) -> Result<(), ConfigError> {
        for (name, n, most) in [("size", self.size, MOST_WIDTH), ("predictor_len", self.predictor_len, MOST_TAPS)] {
            if n == 0 {
                return Err(ConfigError::at(format!("{key}.{name}"), "is 0, at least 1 is needed"));
            }
            at_most(&format!("{key}.{name}"), n, most)?;
        }
        if let Some(threshold) = self.threshold.filter(|t| !t.is_finite()) {
            return Err(ConfigError::at(format!("{key}.threshold"), format!("is {threshold}, a number is needed")));
        }
        if !(self.predictor_loss >= 0.0 && self.predictor_loss.is_finite()) {
            let problem = format!("is {}, a number from 0 on is needed", self.predictor_loss);
            return Err(ConfigError::at(format!("{key}.predictor_loss"), problem));
        }
        Ok(())
    }
}

/// Queries, keys and values of rows; keys and queries before rotary positions.
#[derive(Clone, Copy)]
struct Projected {
    q: Value,
    k: Value,
    v: Value,
}

impl BmojoConfig {
    /// B'MOJO-F with those heads, a window, and a fading memory, all else as published.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize, window_size: usize, ssm: MixerConfig) -> BmojoConfig {
        BmojoConfig {
            heads,
            kv_heads,
            head_dim,
            window_size,
            ssm: Box::new(ssm),
            tie_attn_weights: true,
            qk_norm: false,
            qk_norm_eps: qk_eps(),
            rope: None,
            eidetic: None,
        }
    }

    /// Checks the sizes; `key` is where the configuration stands.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn check(&self, key: &str) -> Result<(), ConfigError> {
        check_heads(key, self.heads, ("kv_heads", self.kv_heads), &[("head_dim", self.head_dim)])?;
        if self.window_size == 0 {
            return Err(ConfigError::at(format!("{key}.window_size"), "is 0, at least 1 is needed"));
        }
        at_most(&format!("{key}.window_size"), self.window_size, MOST_CONTEXT)?;
        if self.ssm_name().is_none() {
            let problem = "is no fading memory; `mamba2`, `delta_net` or `gated_kalmanet` is needed";
            return Err(ConfigError::at(format!("{key}.ssm.kind"), problem));
        }
        self.ssm.check(&format!("{key}.ssm"))?;
        if let Some(rope) = &self.rope {
            rope.check(&format!("{key}.rope"), self.head_dim)?;
        }
        let Some(eidetic) = &self.eidetic else { return Ok(()) };
        eidetic.check(&format!("{key}.eidetic"))?;
        if self.rope.as_ref().is_some_and(|r| r.frequency_factors) && eidetic.rope == EideticRope::Clipped {
            let problem = "is `clipped`, which factors of frequencies in a checkpoint do not go with; `none` does";
            return Err(ConfigError::at(format!("{key}.eidetic.rope"), problem));
        }
        Ok(())
    }

    /// What checkpoints call the fading memory.
    fn ssm_name(&self) -> Option<&'static str> {
        match *self.ssm {
            MixerConfig::Mamba2(_) => Some("mamba"),
            MixerConfig::DeltaNet(_) => Some("gdn"),
            MixerConfig::GatedKalmanet(_) => Some("gka"),
            _ => None,
        }
    }

    fn kernel(&self, compute: Compute) -> Kernel {
        Kernel {
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_width: self.head_dim,
            value_width: self.head_dim,
            scale: 1.0 / (self.head_dim as f64).sqrt(),
            window: self.window_size,
            slots: self.eidetic.map_or(0, |e| e.size),
            compute,
        }
    }

    /// Heads of x W, weights `name.part_proj + end`, normalized if q and k are.
    fn heads(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        (part, end): (&str, &str),
        heads: usize,
        x: Value,
    ) -> Result<Value, GraphError> {
        let rows = g.shape(x).dims()[0];
        let y = linear(g, types, &format!("{name}.{part}_proj{end}"), x, heads * self.head_dim, false)?;
        let y = ops::reshape(g, y, [rows, heads.into(), self.head_dim.into()])?;
        if !self.qk_norm || part == "v" {
            return Ok(y);
        }
        rms_norm(g, &format!("{name}.{part}_norm{end}"), y, self.qk_norm_eps)
    }

    /// What tokens and the fading memory's outputs are projected to.
    fn project(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        f: Value,
    ) -> Result<[Projected; 2], GraphError> {
        let (h, kv) = (self.heads, self.kv_heads);
        let mut heads = |part, heads, x| self.heads(g, types, name, part, heads, x);
        let recent = Projected { q: heads(("q", ""), h, x)?, k: heads(("k", ""), kv, x)?, v: heads(("v", ""), kv, x)? };
        let end = if self.tie_attn_weights { "" } else { "_" };
        let q = if self.tie_attn_weights { recent.q } else { heads(("q", end), h, x)? };
        let fading = Projected { q, k: heads(("k", end), kv, f)?, v: heads(("v", end), kv, f)? };
        Ok([recent, fading])
    }

    /// Turned by the positions of their rows.
    fn turned(&self, g: &mut Graph, seqs: &Sequences, x: Projected) -> Result<Projected, GraphError> {
        let Some(rope) = &self.rope else { return Ok(x) };
        let q = seqs.rotate(g, rope, self.head_dim, x.q)?;
        Ok(Projected { q, k: seqs.rotate(g, rope, self.head_dim, x.k)?, v: x.v })
    }

    /// q and k as the buffer sees them.
    fn clipped(&self, g: &mut Graph, eidetic: &EideticConfig, x: Projected) -> Result<[Value; 2], GraphError> {
        let Some(rope) = self.rope.as_ref().filter(|_| eidetic.rope == EideticRope::Clipped) else {
            return Ok([x.q, x.k]);
        };
        let (distance, magnitude) = ((2 * self.window_size) as f64, rope.magnitude());
        let angles: Vec<f64> = rope.inverse_frequencies(self.head_dim).iter().map(|f| distance * f).collect();
        let turns = |f: fn(f64) -> f64| angles.iter().map(move |&angle| f(angle) * magnitude);
        let row: Vec<f64> = turns(f64::cos).chain(turns(f64::sin)).collect();
        let rows = g.shape(x.q).dims()[0];
        let zeros = g.push1(Fill::new(Type::new([rows, row.len().into()], g.elem()), 0.0), &[])?;
        let row = g.constant("bmojo.clipped_turn", [row.len()], &row)?;
        let table = ops::add(g, zeros, row)?;
        let q = g.push1(Rope { pairing: rope.pairing(), back: false }, &[x.q, table])?;
        let k = if magnitude == 1.0 { x.k } else { ops::scale(g, x.k, magnitude)? };
        Ok([q, k])
    }

    /// The weights [l, D] that predict outputs of the fading memory.
    fn predictor(&self, g: &mut Graph, name: &str, eidetic: &EideticConfig, f: Value) -> Result<Value, GraphError> {
        let width = g.shape(f).width().ok_or_else(|| g.refused("innovation", "a model has a fixed width"))?;
        g.weight(&format!("{name}.predictor.weight"), [eidetic.predictor_len, width], g.elem())
    }

    /// Elements that the buffer of a sequence of up to `context` tokens needs, and the tokens of its ring.
    fn kept(&self, kernel: &Kernel, context: usize, step: usize) -> (usize, usize) {
        // A step's rows are all in the ring before the first of them looks back.
        let ring = (2 * self.window_size - 1 + step).min(context);
        (kernel.ring_elements(ring) + kernel.buffer_elements(), ring)
    }

    /// o [N, H, V] of rows that continue sequences.
    fn step(
        &self,
        g: &mut Graph,
        name: &str,
        seqs: &Sequences,
        [recent, fading]: [Projected; 2],
        eidetic: Option<([Value; 2], f64, Value, Value)>,
    ) -> Result<Value, GraphError> {
        let kernel = self.kernel(g.compute());
        let mut sets = Vec::new();
        if let (Some((pair, _, f, weight)), Some(config), Kept::Slots { rows, .. }) =
            (eidetic, &self.eidetic, &seqs.kept)
        {
            if rows.context > MOST_CONTEXT {
                let problem = format!("an eidetic buffer holds positions up to {MOST_CONTEXT}, not {}", rows.context);
                return Err(g.refused("eidetic_step", problem));
            }
            let width = g.shape(f).width().unwrap_or(0);
            let size = [rows.slots, config.predictor_len + 1, width];
            let outputs = g.state(&format!("{name}.outputs"), size, g.elem())?;
            let scores = g.push(InnovationStep, &[outputs, f, weight, rows.rows])?[1];
            let (_, ring) = self.kept(&kernel, rows.context, rows.step);
            let rings = g.state(&format!("{name}.ring"), [rows.slots, ring, kernel.ring_elements(1)], g.elem())?;
            let token = kernel.buffer_elements() / kernel.slots;
            let buffers = g.state(&format!("{name}.eidetic"), [rows.slots, kernel.slots, token], g.elem())?;
            let op = EideticStep { kernel, threshold: config.threshold };
            let made = g.push(op, &[rings, buffers, pair[0], pair[1], recent.v, scores, rows.rows])?;
            sets.extend([made[2], made[3]]);
        }
        for (part, kernel, x) in [("fading", kernel.fading(), fading), ("recent", kernel.recent(), recent)] {
            let visible = seqs.keep(g, &format!("{name}.{part}"), &kernel, x.k, x.v)?;
            let (o, lse) = seqs.attend_with_lse(g, &kernel, x.q, visible)?;
            sets.extend([o, lse]);
        }
        Ok(g.push(MergeAttention, &sets)?[0])
    }
}

impl Mixer for BmojoConfig {
    fn causal(&self) -> bool {
        true
    }

    fn forms(&self) -> &'static [Form] {
        &[Form::Chunked, Form::Recurrent]
    }

    fn forward(
        &self,
        g: &mut Graph,
        types: &WeightTypes,
        name: &str,
        x: Value,
        seqs: &Sequences,
    ) -> Result<Value, GraphError> {
        let Some(ssm) = self.ssm_name() else {
            return Err(g.refused("bmojo", "its fading memory must be mamba2, delta_net or gated_kalmanet"));
        };
        let (rows, width) = (g.shape(x).dims()[0], g.shape(x).width().unwrap_or(0));
        let f = self.ssm.mixer().forward(g, types, &format!("{name}.{ssm}"), x, seqs)?;
        let name = format!("{name}.bmojo_attn");
        let [plain, fading] = self.project(g, types, &name, x, f)?;
        let eidetic = match &self.eidetic {
            Some(e) => Some((self.clipped(g, e, plain)?, e.predictor_loss, f, self.predictor(g, &name, e, f)?)),
            None => None,
        };
        let (recent, fading) = (self.turned(g, seqs, plain)?, self.turned(g, seqs, fading)?);
        let o = match &seqs.kept {
            Kept::Whole { cu_seqlens } => {
                let kernel = self.kernel(g.compute());
                let mut inputs = vec![recent.q, recent.k, recent.v, fading.q, fading.k, fading.v, *cu_seqlens];
                if let (Some((pair, share, f, weight)), Some(config)) = (eidetic, &self.eidetic) {
                    let made = g.push(Innovation, &[f, weight, *cu_seqlens])?;
                    if share > 0.0 {
                        let loss = ops::scale(g, made[1], share)?;
                        seqs.add_loss(loss);
                    }
                    let (window, slots, threshold) = (self.window_size, config.size, config.threshold);
                    let op = EideticSelection { selection: Selection { window, slots, threshold } };
                    let until = g.push1(op, &[made[0], *cu_seqlens])?;
                    inputs.extend([pair[0], pair[1], until]);
                }
                g.push(BmojoAttention { kernel, eidetic: eidetic.is_some() }, &inputs)?[0]
            }
            Kept::Slots { .. } => self.step(g, &name, seqs, [recent, fading], eidetic)?,
        };
        let o = ops::reshape(g, o, [rows, (self.heads * self.head_dim).into()])?;
        linear(g, types, &format!("{name}.o_proj"), o, width, false)
    }

    fn state_bytes(&self, d_model: usize, name: &str, tokens: usize, seqs: &Sequences) -> usize {
        let kernel = self.kernel(Compute::F32);
        let ssm = self.ssm.mixer().state_bytes(d_model, name, tokens, seqs);
        let windows = seqs.kv_bytes(name, &kernel.recent(), tokens) + seqs.kv_bytes(name, &kernel.fading(), tokens);
        let step = match &seqs.kept {
            Kept::Slots { rows, .. } => rows.step,
            Kept::Whole { .. } => 1,
        };
        let buffer = self.eidetic.map_or(0, |e| {
            let predictor = Predictor { channels: d_model, taps: e.predictor_len };
            (self.kept(&kernel, tokens, step).0 + predictor.state()) * 4
        });
        ssm + windows + buffer
    }
}
