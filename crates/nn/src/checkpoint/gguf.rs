//! Llama-like families in GGUF (and llama2.c files, which are seen under GGUF's names).

use std::collections::BTreeMap;

use memwall_formats::gguf::Metadata;
use memwall_formats::{Container, TensorInfo};

use super::naming::GGUF;
use super::{Checkpoint, CheckpointError, gguf_mamba};
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::rope::{RopeConfig, RopeScaling, yarn_magnitude};

/// The architectures, as errors name them.
pub const KNOWN: &str = "llama (Llama 2 and 3, Mistral), qwen2, qwen3, mamba and memwall";

/// What differs between the families.
struct Family {
    /// Rotary pairs are neighbours rather than halves.
    interleaved: bool,
    qkv_bias: bool,
    qk_norm: bool,
}

pub fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
    let m = container.metadata();
    let arch: &str = m.require("general.architecture")?;
    let family = match arch {
        "llama" => Family { interleaved: true, qkv_bias: false, qk_norm: false },
        "qwen2" => Family { interleaved: false, qkv_bias: true, qk_norm: false },
        "qwen3" => Family { interleaved: false, qkv_bias: false, qk_norm: true },
        gguf_mamba::ARCHITECTURE => return gguf_mamba::open(container),
        other => {
            let file = container.path().display().to_string();
            return Err(CheckpointError::Architecture { file, found: other.into(), known: KNOWN });
        }
    };
    let tensors: BTreeMap<String, TensorInfo> =
        container.tensors().iter().map(|t| (GGUF.ours(&t.name), t.clone())).collect();
    let config = config(m, arch, &family, &tensors)?;
    Ok(Checkpoint { config, tensors, unread: Vec::new(), naming: &GGUF })
}

fn number(m: &Metadata, key: &str) -> Result<Option<usize>, CheckpointError> {
    Ok(m.find::<u64>(key)?.map(|n| n as usize))
}

fn needed(m: &Metadata, key: &str) -> Result<usize, CheckpointError> {
    Ok(m.require::<u64>(key)? as usize)
}

fn config(
    m: &Metadata,
    arch: &str,
    family: &Family,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<ModelConfig, CheckpointError> {
    let key = |name: &str| format!("{arch}.{name}");
    let d_model = needed(m, &key("embedding_length"))?;
    let heads = needed(m, &key("attention.head_count"))?;
    if heads == 0 {
        return Err(m.wrong(&key("attention.head_count"), "is 0, at least 1 is needed").into());
    }
    let kv_heads = number(m, &key("attention.head_count_kv"))?.unwrap_or(heads);
    let head_dim = match number(m, &key("attention.key_length"))? {
        Some(width) => width,
        None if d_model.is_multiple_of(heads) => d_model / heads,
        None => {
            let problem = format!(
                "{heads} heads do not divide the width {d_model}, and {} is missing",
                key("attention.key_length")
            );
            return Err(m.wrong(&key("attention.head_count"), problem).into());
        }
    };
    let layers = needed(m, &key("block_count"))?;
    let hidden = needed(m, &key("feed_forward_length"))?;
    let norm_eps = m.find::<f64>(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5);
    let vocab_size = match tensors.get("model.embed_tokens.weight").and_then(|t| t.shape.first()) {
        Some(&rows) => rows,
        None => needed(m, &key("vocab_size"))?,
    };
    let rope = RopeConfig {
        theta: m.find::<f64>(&key("rope.freq_base"))?.unwrap_or(10_000.0),
        rotary_dim: number(m, &key("rope.dimension_count"))?.filter(|&n| n != head_dim),
        interleaved: family.interleaved,
        scaling: scaling(m, arch)?,
        frequency_factors: tensors.contains_key("rope_freqs.weight"),
    };
    let attention = AttentionConfig {
        rope: Some(rope),
        window: number(m, &key("attention.sliding_window"))?.filter(|&w| w > 0),
        qk_norm: family.qk_norm,
        qk_norm_eps: norm_eps,
        // The llama architecture leaves it to the file whether there are biases.
        qkv_bias: family.qkv_bias || tensors.contains_key("model.layers.0.self_attn.q_proj.bias"),
        o_bias: tensors.contains_key("model.layers.0.self_attn.o_proj.bias"),
        ..AttentionConfig::new(heads, kv_heads, head_dim)
    };
    let bias = tensors.contains_key("model.layers.0.mlp.up_proj.bias");
    let layer = LayerConfig {
        mixer: MixerConfig::Attention(attention),
        channel: ChannelConfig::Glu { hidden, activation: Default::default(), bias },
    };
    // A tensor table bounds what a header may ask for.
    if layers > tensors.len() {
        return Err(m
            .wrong(&key("block_count"), format!("is {layers}, but the file has {} tensors", tensors.len()))
            .into());
    }
    Ok(ModelConfig {
        vocab_size,
        d_model,
        max_context: needed(m, &key("context_length"))?,
        layers: vec![layer; layers],
        norm_eps,
        tie_embeddings: !tensors.contains_key("lm_head.weight"),
        logit_softcap: None,
        learned_positions: false,
        norm: Default::default(),
        embedding_norm: false,
    })
}

fn scaling(m: &Metadata, arch: &str) -> Result<RopeScaling, CheckpointError> {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    let factor = || -> Result<f64, CheckpointError> { Ok(m.require::<f64>(&key("factor"))?) };
    match m.find::<&str>(&key("type"))? {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original: needed(m, &key("original_context_length"))?,
            beta_fast: m.find::<f64>(&key("yarn_beta_fast"))?.unwrap_or(32.0),
            beta_slow: m.find::<f64>(&key("yarn_beta_slow"))?.unwrap_or(1.0),
            // GGUF's factor comes on top of YaRN's own.
            attention_factor: match m.find::<f64>(&key("attn_factor"))? {
                Some(own) => Some(own * yarn_magnitude(factor()?)),
                None => None,
            },
        }),
        Some(other) => Err(m.wrong(&key("type"), format!("is {other:?}; none, linear and yarn are known")).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ggufs_attention_factor_multiplies_yarns_own() {
        let mut m = Metadata::new("m.gguf");
        m.insert("llama.rope.scaling.type", "yarn");
        m.insert("llama.rope.scaling.factor", 4.0_f32);
        m.insert("llama.rope.scaling.original_context_length", 64_u32);
        let magnitude = |m: &Metadata| {
            let rope = RopeConfig { scaling: scaling(m, "llama").expect("yarn"), ..RopeConfig::default() };
            rope.magnitude()
        };
        assert_eq!(magnitude(&m), 0.1 * 4.0_f64.ln() + 1.0);
        m.insert("llama.rope.scaling.attn_factor", 0.5_f32);
        assert_eq!(magnitude(&m), 0.5 * (0.1 * 4.0_f64.ln() + 1.0));
        m.insert("llama.rope.scaling.type", "longrope");
        assert!(scaling(&m, "llama").expect_err("unknown").to_string().contains("longrope"));
    }
}
