//! RWKV in rwkv.cpp's files: versions 4, 5, 6 and 7, told apart by their tensors.
//!
//! A layer of the file is two of memwall's: a time mix and a channel mix. Decays of versions 4 and 5 are stored as they
//! act, −exp(w) and exp(−exp(w)). The header names neither the sizes of heads nor of low-rank projections: shapes do.

use std::collections::BTreeMap;

use memwall_formats::rwkv_cpp::{EMBED_KEY, LAYER_KEY, VOCAB_KEY};
use memwall_formats::{Container, FileError, TensorInfo};

use super::naming::Naming;
use super::{Checkpoint, CheckpointError};
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig, NormKind};
use crate::mixers::decay::DecayForm;
use crate::mixers::rwkv_channel_mix::RwkvChannelMixConfig;
use crate::mixers::rwkv4::Rwkv4Config;
use crate::mixers::rwkv5::Rwkv5Config;
use crate::mixers::rwkv6::Rwkv6Config;
use crate::mixers::rwkv7::Rwkv7Config;
use crate::mixers::token_shift::TokenMix;

/// Tokens of a sequence: no position enters a model, so this is only where memwall stops.
pub(super) const CONTEXT: usize = 1 << 20;
/// ε of the norms of blocks.
const NORM_EPS: f64 = 1e-5;
/// ε of the norm of heads in versions 5.0 and 5.1.
const HEAD_EPS: f64 = 1e-5;

const NAMING: Naming = Naming::of_pairs(
    &[
        ("model.embed_tokens.", "emb."),
        ("model.embed_norm.", "blocks.0.ln0."),
        ("model.norm.", "ln_out."),
        ("lm_head.", "head."),
    ],
    "blocks.",
    &[
        ("input_layernorm.", "ln1."),
        ("time_mix.g_norm.", "att.ln_x."),
        ("time_mix.time_first", "att.time_first"),
        ("time_mix.time_first", "att.time_faaaa"),
        ("time_mix.mix_w1.weight", "att.time_maa_w1"),
        ("time_mix.decay_w1.weight", "att.time_decay_w1"),
        ("time_mix.decay_w2.weight", "att.time_decay_w2"),
        // Version 6's shares of the token before are version 7's x_*, in which "maa" stands for 1 − μ.
        ("time_mix.x_", "att.x_"),
        ("time_mix.w1.weight", "att.w1"),
        ("time_mix.w2.weight", "att.w2"),
        ("time_mix.a1.weight", "att.a1"),
        ("time_mix.a2.weight", "att.a2"),
        ("time_mix.v1.weight", "att.v1"),
        ("time_mix.v2.weight", "att.v2"),
        ("time_mix.g1.weight", "att.g1"),
        ("time_mix.g2.weight", "att.g2"),
        ("time_mix.", "att."),
    ],
    &[("input_layernorm.", "ln2."), ("channel_mix.x_", "ffn.time_maa_"), ("channel_mix.", "ffn.")],
);

/// Version 7's shares of the token before, stacked in this order.
const STACKED_7: [&str; 6] = ["r", "w", "k", "v", "a", "g"];
/// Version 6's matrices of the token shift, stacked in this order.
const STACKED_6: [&str; 5] = ["w", "k", "v", "r", "g"];

pub(super) fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
    let m = container.metadata();
    let [vocab_size, d_model, count] =
        [m.require::<u32>(VOCAB_KEY)?, m.require::<u32>(EMBED_KEY)?, m.require::<u32>(LAYER_KEY)?].map(|n| n as usize);
    if count > container.tensors().len() {
        let problem = format!("is {count}, but the file has {} tensors", container.tensors().len());
        return Err(m.wrong(LAYER_KEY, problem).into());
    }
    let mut tensors: BTreeMap<String, TensorInfo> =
        container.tensors().iter().map(|t| (NAMING.ours(&t.name), t.clone())).collect();
    for layer in 0..count {
        unstack(&mut tensors, &format!("model.layers.{}.time_mix.", 2 * layer));
    }
    tensors.iter_mut().for_each(|(name, tensor)| flatten(name, &mut tensor.shape));
    let file = File { container, tensors: &tensors };
    let mut layers = Vec::new();
    for i in 0..count {
        layers.push(LayerConfig { mixer: file.time_mix(2 * i)?, channel: ChannelConfig::None });
        layers.push(LayerConfig { mixer: file.channel_mix(2 * i + 1)?, channel: ChannelConfig::None });
    }
    let config = ModelConfig {
        norm_eps: NORM_EPS,
        norm: NormKind::Layer,
        embedding_norm: true,
        ..ModelConfig::new(vocab_size, d_model, CONTEXT, layers)
    };
    Ok(Checkpoint { config, tensors, unread: Vec::new(), assembled: BTreeMap::new(), naming: &NAMING })
}

/// Drops the sizes of 1 that stand before vectors, [1, 1, D], and after what heads have, [H, 1, 1].
pub(super) fn flatten(name: &str, shape: &mut Vec<usize>) {
    let part = name.rsplit('.').next().unwrap_or(name);
    match part {
        "weight" | "bias" | "r_k" => {}
        "time_first" | "time_decay" => {
            while shape.len() > 1 && shape.last() == Some(&1) {
                shape.pop();
            }
        }
        _ => {
            let leading = shape.iter().take_while(|&&n| n == 1).count();
            shape.drain(..leading.min(shape.len().saturating_sub(1)));
        }
    }
}

/// Gives parts of stacked tensors names of their own.
fn unstack(tensors: &mut BTreeMap<String, TensorInfo>, layer: &str) {
    let stacks = [
        ("x_rwkvag", STACKED_7.map(|part| format!("x_{part}")).to_vec()),
        ("time_maa_w2", STACKED_6.map(|part| format!("mix_w2_{part}.weight")).to_vec()),
    ];
    for (stack, parts) in stacks {
        let name = format!("{layer}{stack}");
        if tensors.get(&name).is_none_or(|t| t.shape.first() != Some(&parts.len()) || t.shape.len() < 2) {
            continue;
        }
        let Some(whole) = tensors.remove(&name) else { continue };
        let bytes = whole.bytes / parts.len() as u64;
        for (i, part) in parts.into_iter().enumerate() {
            let offset = whole.offset + i as u64 * bytes;
            let one = TensorInfo { shape: whole.shape[1..].to_vec(), offset, bytes, ..whole.clone() };
            tensors.insert(format!("{layer}{part}"), one);
        }
    }
    // Version 6's vectors.
    for part in ["x", "w", "k", "v", "r", "g"] {
        if let Some(tensor) = tensors.remove(&format!("{layer}time_maa_{part}")) {
            tensors.insert(format!("{layer}x_{part}"), tensor);
        }
    }
}

/// What a file's tensors say about a layer.
struct File<'a> {
    container: &'a Container,
    tensors: &'a BTreeMap<String, TensorInfo>,
}

impl File<'_> {
    fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A size of a tensor's shape.
    fn size(&self, name: &str, axis: usize) -> Result<usize, CheckpointError> {
        let found = self.tensors.get(name).map(|t| t.shape.get(axis).copied());
        match found {
            Some(Some(size)) => Ok(size),
            Some(None) => Err(self.wrong(name, format!("has no axis {axis}, which tells the sizes of its layer"))),
            None => {
                let (file, tensor) = (self.container.path().to_path_buf(), NAMING.theirs(name));
                Err(FileError::MissingTensor { file, tensor, nearest: None }.into())
            }
        }
    }

    fn wrong(&self, name: &str, problem: String) -> CheckpointError {
        let (file, tensor) = (self.container.path().to_path_buf(), NAMING.theirs(name));
        FileError::Tensor { file, tensor, problem }.into()
    }

    /// Heads and their width, from a tensor whose first axis is the heads.
    fn heads(&self, layer: &str, of: &str) -> Result<(usize, usize), CheckpointError> {
        let (name, all) = (format!("{layer}{of}"), self.size(&format!("{layer}key.weight"), 0)?);
        let heads = self.size(&name, 0)?;
        if heads == 0 || !all.is_multiple_of(heads) {
            return Err(self.wrong(&name, format!("has {heads} heads, which do not share {all} channels evenly")));
        }
        Ok((heads, all / heads))
    }

    fn time_mix(&self, i: usize) -> Result<MixerConfig, CheckpointError> {
        let layer = format!("model.layers.{i}.time_mix.");
        let name = |part: &str| format!("{layer}{part}");
        if self.has(&name("r_k")) {
            return self.version_7(&layer).map(MixerConfig::Rwkv7);
        }
        if self.has(&name("mix_w1.weight")) {
            let (heads, head_dim) = self.heads(&layer, "time_first")?;
            return Ok(MixerConfig::Rwkv6(Rwkv6Config {
                mix_rank: self.size(&name("mix_w1.weight"), 0)? / STACKED_6.len(),
                decay_rank: self.size(&name("decay_w1.weight"), 0)?,
                ..Rwkv6Config::new(heads, head_dim)
            }));
        }
        if self.has(&name("g_norm.weight")) {
            let (heads, head_dim) = self.heads(&layer, "time_decay")?;
            let by_channel = self.tensors[&name("time_decay")].shape.len() > 1;
            let published = Rwkv5Config::new(heads, head_dim);
            return Ok(MixerConfig::Rwkv5(Rwkv5Config {
                by_channel,
                gate: self.has(&name("gate.weight")),
                decay: DecayForm::Factor,
                norm_eps: if by_channel { published.norm_eps } else { HEAD_EPS },
                ..published
            }));
        }
        let width = self.size(&name("key.weight"), 0)?;
        Ok(MixerConfig::Rwkv4(Rwkv4Config { width, decay: DecayForm::Log }))
    }

    fn version_7(&self, layer: &str) -> Result<Rwkv7Config, CheckpointError> {
        let name = |part: &str| format!("{layer}{part}");
        let (heads, width) = self.heads(layer, "r_k")?;
        let value_rank = match self.has(&name("v1.weight")) {
            true => Some(self.size(&name("v1.weight"), 0)?),
            false => None,
        };
        Ok(Rwkv7Config {
            decay_rank: self.size(&name("w1.weight"), 0)?,
            rate_rank: self.size(&name("a1.weight"), 0)?,
            value_rank,
            gate_rank: self.size(&name("g1.weight"), 0)?,
            ..Rwkv7Config::new(heads, width)
        })
    }

    fn channel_mix(&self, i: usize) -> Result<MixerConfig, CheckpointError> {
        let name = |part: &str| format!("model.layers.{i}.channel_mix.{part}");
        let mix = if self.has(&name("x_k")) { TokenMix::Previous } else { TokenMix::Current };
        let hidden = self.size(&name("key.weight"), 0)?;
        let receptance = self.has(&name("receptance.weight"));
        Ok(MixerConfig::RwkvChannelMix(RwkvChannelMixConfig { hidden, receptance, mix }))
    }
}
