//! Families in GGUF (and llama2.c files, which are seen under GGUF's names); those that are like Llama are read here.

mod lfm2;
mod qwen3_next;

pub(super) use lfm2::NORMALIZE_EPS as LFM2_NORMALIZE_EPS;

use std::collections::BTreeMap;

use memwall_formats::gguf::{Array, Metadata, Value};
use memwall_formats::{Container, TensorInfo};

use super::adapt::Adapt;
use super::naming::{GGUF, GGUF_LFM2, GGUF_QWEN3_NEXT};
use super::{Checkpoint, CheckpointError, gguf_mamba};
use crate::channels::moe::MoeConfig;
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::attention::AttentionConfig;
use crate::rope::{RopeConfig, RopeScaling, yarn_magnitude};

/// The architectures, as errors name them.
pub const KNOWN: &str = "llama (Llama 2 and 3, Mistral), qwen2, qwen3, qwen3next, lfm2, lfm2moe, mamba and memwall";

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
    let adapt = |naming| Adapt::new(container.path(), naming, container.tensors());
    let family = match arch {
        "llama" => Family { interleaved: true, qkv_bias: false, qk_norm: false },
        "qwen2" => Family { interleaved: false, qkv_bias: true, qk_norm: false },
        "qwen3" => Family { interleaved: false, qkv_bias: false, qk_norm: true },
        gguf_mamba::ARCHITECTURE => return gguf_mamba::open(container),
        "lfm2" | "lfm2moe" => {
            let adapted = adapt(&GGUF_LFM2);
            let config = lfm2::config(m, arch, &adapted.tensors)?;
            return Ok(adapted.finish(config, Vec::new()));
        }
        "qwen3next" => {
            let mut adapted = adapt(&GGUF_QWEN3_NEXT);
            let config = qwen3_next::config(m, arch, &adapted.tensors)?;
            let file = || container.path().display().to_string();
            config.check().map_err(|error| CheckpointError::Config { file: file(), error })?;
            qwen3_next::adapt(&mut adapted, &config)?;
            return Ok(adapted.finish(config, Vec::new()));
        }
        other => {
            let file = container.path().display().to_string();
            return Err(CheckpointError::Architecture { file, found: other.into(), known: KNOWN });
        }
    };
    let adapted = adapt(&GGUF);
    let config = config(m, arch, &family, &adapted.tensors)?;
    Ok(adapted.finish(config, Vec::new()))
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
    let head_dim = head_dim(m, arch, heads, d_model)?;
    let layers = layers(m, arch, tensors)?;
    let hidden = needed(m, &key("feed_forward_length"))?;
    let norm_eps = m.find::<f64>(&key("attention.layer_norm_rms_epsilon"))?.unwrap_or(1e-5);
    let rope = rope(m, arch, head_dim, family.interleaved, tensors)?;
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
    Ok(ModelConfig {
        norm_eps,
        tie_embeddings: !tensors.contains_key("lm_head.weight"),
        ..ModelConfig::new(
            vocab_size(m, arch, tensors)?,
            d_model,
            needed(m, &key("context_length"))?,
            vec![layer; layers],
        )
    })
}

/// The width of a head: its key, or the width of the model shared out among the heads.
fn head_dim(m: &Metadata, arch: &str, heads: usize, d_model: usize) -> Result<usize, CheckpointError> {
    let key = |name: &str| format!("{arch}.{name}");
    match number(m, &key("attention.key_length"))? {
        Some(width) => Ok(width),
        None if heads > 0 && d_model.is_multiple_of(heads) => Ok(d_model / heads),
        None => {
            let problem = format!(
                "{heads} heads do not divide the width {d_model}, and {} is missing",
                key("attention.key_length")
            );
            Err(m.wrong(&key("attention.head_count"), problem).into())
        }
    }
}

/// The number of layers, no more than there are tensors: their table bounds what a header may ask for.
fn layers(m: &Metadata, arch: &str, tensors: &BTreeMap<String, TensorInfo>) -> Result<usize, CheckpointError> {
    let key = format!("{arch}.block_count");
    let layers = needed(m, &key)?;
    if layers > tensors.len() {
        return Err(m.wrong(&key, format!("is {layers}, but the file has {} tensors", tensors.len())).into());
    }
    Ok(layers)
}

/// Rows of the embedding, or the key.
fn vocab_size(m: &Metadata, arch: &str, tensors: &BTreeMap<String, TensorInfo>) -> Result<usize, CheckpointError> {
    match tensors.get("model.embed_tokens.weight").and_then(|t| t.shape.first()) {
        Some(&rows) => Ok(rows),
        None => needed(m, &format!("{arch}.vocab_size")),
    }
}

fn rope(
    m: &Metadata,
    arch: &str,
    head_dim: usize,
    interleaved: bool,
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<RopeConfig, CheckpointError> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    Ok(RopeConfig {
        theta: m.find::<f64>(&key("freq_base"))?.unwrap_or(10_000.0),
        rotary_dim: number(m, &key("dimension_count"))?.filter(|&n| n != head_dim),
        interleaved,
        scaling: scaling(m, arch)?,
        frequency_factors: tensors.contains_key("rope_freqs.weight"),
    })
}

/// What all families say of their experts: how many there are, how many a token goes through, and how wide they are.
fn experts(m: &Metadata, arch: &str) -> Result<MoeConfig, CheckpointError> {
    let key = |name: &str| format!("{arch}.{name}");
    let hidden = needed(m, &key("expert_feed_forward_length"))?;
    let scaling = m.find::<f64>(&key("expert_weights_scale"))?.filter(|&s| s != 0.0).unwrap_or(1.0);
    let normalize = m.find::<bool>(&key("expert_weights_norm"))?.unwrap_or(true);
    let moe = MoeConfig::new(needed(m, &key("expert_count"))?, needed(m, &key("expert_used_count"))?, hidden);
    Ok(MoeConfig { scaling, normalize, ..moe })
}

/// A key that holds one number for all layers, or one for each.
fn of_layers(m: &Metadata, key: &str, layers: usize) -> Result<Option<Vec<usize>>, CheckpointError> {
    let numbers: Vec<Option<usize>> = match m.get(key) {
        None => return Ok(None),
        Some(Value::Array(Array::U32(all))) => all.iter().map(|&n| n.try_into().ok()).collect(),
        Some(Value::Array(Array::I32(all))) => all.iter().map(|&n| n.try_into().ok()).collect(),
        Some(Value::Array(Array::U64(all))) => all.iter().map(|&n| n.try_into().ok()).collect(),
        Some(Value::Array(Array::I64(all))) => all.iter().map(|&n| n.try_into().ok()).collect(),
        Some(Value::Array(_)) => return Err(m.wrong(key, "holds no integers").into()),
        Some(_) => vec![number(m, key)?; layers],
    };
    if numbers.len() != layers {
        return Err(m.wrong(key, format!("has {} elements for {layers} layers", numbers.len())).into());
    }
    match numbers.into_iter().collect() {
        Some(numbers) => Ok(Some(numbers)),
        None => Err(m.wrong(key, "has an element below 0").into()),
    }
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
