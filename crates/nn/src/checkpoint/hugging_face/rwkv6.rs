//! The time mix of `RWKV6ForCausalLM`.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/rwkv6.py`.

use super::super::CheckpointError;
use super::super::adapt::Adapt;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, head_width};
use super::rwkv_pairs::{TOP, Version, cut_vectors};
use crate::config::MixerConfig;
use crate::mixers::rwkv6::{PARTS, Rwkv6Config};

/// Tensor names; of those that are cut, the name of the first part.
pub(super) const VERSION: Version = Version {
    naming: Naming::of_pairs(
        TOP,
        "model.layers.",
        &[
            ("input_layernorm.", "attn_norm."),
            ("time_mix.receptance.", "attn.r_proj.linear."),
            ("time_mix.key.", "attn.k_proj.linear."),
            ("time_mix.value.", "attn.v_proj.linear."),
            ("time_mix.gate.", "attn.g_proj.linear."),
            ("time_mix.output.", "attn.o_proj."),
            ("time_mix.time_decay", "attn.w_proj.linear.lora.2.bias"),
            ("time_mix.decay_w1.", "attn.w_proj.linear.lora.0."),
            ("time_mix.decay_w2.", "attn.w_proj.linear.lora.2."),
            ("time_mix.time_first", "attn.bonus"),
            ("time_mix.x_x", "attn.x_proj.0.mu"),
            ("time_mix.x_r", "attn.x_bias"),
            ("time_mix.mix_w1.", "attn.x_proj.0.linear."),
            ("time_mix.mix_w2_r.", "attn.x_proj.2."),
            ("time_mix.", "attn."),
            ("self_attn.", "attn."),
        ],
        &[
            ("input_layernorm.", "ffn_norm."),
            ("channel_mix.key.", "ffn.key.linear."),
            ("channel_mix.receptance.", "ffn.receptance.linear."),
            ("channel_mix.x_k", "ffn.key.mu"),
            ("channel_mix.x_r", "ffn.receptance.mu"),
            ("channel_mix.", "ffn."),
        ],
    ),
    hidden_ratio: 3.5,
    receptance: true,
    mixer: |config, place| mixer(config, place).map(MixerConfig::Rwkv6),
    adapt: |adapt, own, mixer, d_model| match mixer {
        MixerConfig::Rwkv6(time_mix) => cut(adapt, own, time_mix, d_model),
        _ => Ok(()),
    },
};

/// What is mixed from a token and the one before it, in the order in which the file has it.
const STORED: [&str; 5] = ["r", "w", "k", "v", "g"];

fn mixer(config: &ConfigJson, place: Place) -> Result<Rwkv6Config, CheckpointError> {
    let heads: usize = config.find("num_heads")?.unwrap_or(4);
    let width = |key, default| head_width(config, place.d_model, heads, key, default);
    let (head_dim, value_width) = (width("expand_k", 0.5)?, width("expand_v", 1.0)?);
    Ok(Rwkv6Config {
        value_head_dim: (value_width != head_dim).then_some(value_width),
        mix_rank: config.find("proj_low_rank_dim")?.unwrap_or(32),
        decay_rank: config.find("gate_low_rank_dim")?.unwrap_or(64),
        norm_eps: place.norm_eps,
        ..Rwkv6Config::new(heads, head_dim)
    })
}

/// Cuts what holds all five parts: shares of the token before, rows of the first matrix that makes them of a token, columns of
/// the second.
fn cut(adapt: &mut Adapt, own: &str, time_mix: &Rwkv6Config, d_model: usize) -> Result<(), CheckpointError> {
    adapt.require(&format!("{own}x_r"), &[STORED.len(), d_model])?;
    cut_vectors(adapt, own, "x_r", STORED, d_model);
    let (rank, all) = (time_mix.mix_rank, STORED.len() * time_mix.mix_rank);
    let first = format!("{own}mix_w1.weight");
    let tensor = adapt.require(&first, &[all, d_model])?;
    let place = |part: &str| STORED.iter().position(|stored| *stored == part).unwrap_or_default();
    let rows = PARTS.map(|part| (tensor.clone(), place(part) * rank..(place(part) + 1) * rank));
    adapt.put_rows(first, vec![all, d_model], rows.to_vec())?;
    let mut tensor = adapt.require(&format!("{own}mix_w2_r.weight"), &[d_model, all])?;
    // A channel's row holds one short row for each part.
    tensor.shape = vec![d_model * STORED.len(), rank];
    for (part, name) in STORED.into_iter().enumerate() {
        let row = |channel: usize| channel * STORED.len() + part;
        let rows = (0..d_model).map(|channel| (tensor.clone(), row(channel)..row(channel) + 1)).collect();
        adapt.put_rows(format!("{own}mix_w2_{name}.weight"), vec![d_model, rank], rows)?;
    }
    Ok(())
}
