//! Mamba in GGUF: the architecture `mamba`, whose A is stored as it acts.

use std::collections::BTreeMap;

use memwall_formats::gguf::Metadata;
use memwall_formats::{Container, TensorInfo};

use super::naming::Naming;
use super::{Checkpoint, CheckpointError};
use crate::config::{ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use crate::mixers::decay::DecayForm;
use crate::mixers::mamba::MambaConfig;

/// The value of `general.architecture`.
pub(super) const ARCHITECTURE: &str = "mamba";

const NAMING: Naming = Naming::of_layers(
    &[("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output.")],
    "blk.",
    &[
        ("input_layernorm.", "attn_norm."),
        ("mixer.in_proj.", "ssm_in."),
        ("mixer.conv1d.", "ssm_conv1d."),
        ("mixer.x_proj.", "ssm_x."),
        ("mixer.dt_proj.", "ssm_dt."),
        ("mixer.A_log", "ssm_a"),
        ("mixer.D", "ssm_d"),
        ("mixer.out_proj.", "ssm_out."),
    ],
);

fn needed(m: &Metadata, key: &str) -> Result<usize, CheckpointError> {
    Ok(m.require::<u64>(&format!("{ARCHITECTURE}.{key}"))? as usize)
}

pub(super) fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
    let m = container.metadata();
    let tensors: BTreeMap<String, TensorInfo> =
        container.tensors().iter().map(|t| (NAMING.ours(&t.name), t.clone())).collect();
    let normed = format!("{ARCHITECTURE}.ssm.dt_b_c_rms");
    if m.find::<bool>(&normed)?.unwrap_or(false) {
        return Err(m.wrong(&normed, "is true: norms of the time steps, B and C are not supported").into());
    }
    let has = |name: &str| tensors.contains_key(&format!("model.layers.0.mixer.{name}"));
    let mamba = MambaConfig {
        inner: needed(m, "ssm.inner_size")?,
        state_size: needed(m, "ssm.state_size")?,
        dt_rank: needed(m, "ssm.time_step_rank")?,
        conv: needed(m, "ssm.conv_kernel")?,
        bias: has("in_proj.bias"),
        conv_bias: has("conv1d.bias"),
        decay: DecayForm::Log,
    };
    let layers = needed(m, "block_count")?;
    // A tensor table bounds what a header may ask for.
    if layers > tensors.len() {
        let problem = format!("is {layers}, but the file has {} tensors", tensors.len());
        return Err(m.wrong(&format!("{ARCHITECTURE}.block_count"), problem).into());
    }
    let vocab_size = match tensors.get("model.embed_tokens.weight").and_then(|t| t.shape.first()) {
        Some(&rows) => rows,
        None => needed(m, "vocab_size")?,
    };
    let epsilon = format!("{ARCHITECTURE}.attention.layer_norm_rms_epsilon");
    let layer = LayerConfig { mixer: MixerConfig::Mamba(mamba), channel: ChannelConfig::None };
    let config = ModelConfig {
        norm_eps: m.find::<f64>(&epsilon)?.unwrap_or(1e-5),
        tie_embeddings: !tensors.contains_key("lm_head.weight"),
        ..ModelConfig::new(
            vocab_size,
            needed(m, "embedding_length")?,
            needed(m, "context_length")?,
            vec![layer; layers],
        )
    };
    Ok(Checkpoint { config, tensors, unread: Vec::new(), assembled: BTreeMap::new(), naming: &NAMING })
}
