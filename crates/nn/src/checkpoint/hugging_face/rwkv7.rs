//! The time mix of `RWKV7ForCausalLM`.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/rwkv7.py`.

use super::super::CheckpointError;
use super::super::naming::Naming;
use super::config_json::ConfigJson;
use super::flash_linear_attention::Place;
use super::rwkv_pairs::{TOP, Version, cut_vectors};
use crate::config::MixerConfig;
use crate::mixers::rwkv7::Rwkv7Config;

pub(super) const VERSION: Version = Version {
    naming: Naming::of_pairs(
        TOP,
        "model.layers.",
        &[
            ("input_layernorm.", "attn_norm."),
            ("time_mix.receptance.", "attn.r_proj."),
            ("time_mix.key.", "attn.k_proj."),
            ("time_mix.value.", "attn.v_proj."),
            ("time_mix.output.", "attn.o_proj."),
            ("time_mix.w0", "attn.w_lora.lora.2.bias"),
            ("time_mix.w1.", "attn.w_lora.lora.0."),
            ("time_mix.w2.", "attn.w_lora.lora.2."),
            ("time_mix.a0", "attn.a_lora.lora.2.bias"),
            ("time_mix.a1.", "attn.a_lora.lora.0."),
            ("time_mix.a2.", "attn.a_lora.lora.2."),
            ("time_mix.v0", "attn.v_lora.lora.2.bias"),
            ("time_mix.v1.", "attn.v_lora.lora.0."),
            ("time_mix.v2.", "attn.v_lora.lora.2."),
            ("time_mix.g1.", "attn.g_lora.lora.0."),
            ("time_mix.g2.", "attn.g_lora.lora.2."),
            ("time_mix.", "attn."),
            ("self_attn.", "attn."),
        ],
        &[("input_layernorm.", "ffn_norm."), ("channel_mix.", "ffn.")],
    ),
    hidden_ratio: 4.0,
    receptance: false,
    mixer: |config, place| mixer(config, place).map(MixerConfig::Rwkv7),
    adapt: |adapt, own, _, d_model| {
        // The first releases have all six in one tensor.
        cut_vectors(adapt, own, "x_x", ["r", "w", "k", "v", "a", "g"], d_model);
        Ok(())
    },
};

/// What the fused norm of κ adds to its squared length; the plain one divides by the length itself.
const FUSED_LENGTH_EPS: f64 = 1e-6;

fn mixer(config: &ConfigJson, place: Place) -> Result<Rwkv7Config, CheckpointError> {
    let Place { d_model, norm_eps, layer, layers } = place;
    // The width of a head decides, whatever the number of heads says.
    let (key, head_dim) = match (config.find("head_dim")?, config.find::<usize>("num_heads")?) {
        (Some(width), _) => ("head_dim", width),
        (None, Some(heads)) => ("num_heads", d_model.checked_div(heads).unwrap_or(0)),
        (None, None) => ("head_dim", 64),
    };
    if head_dim == 0 || !d_model.is_multiple_of(head_dim) {
        let problem = format!("gives heads of width {head_dim}, which does not divide hidden_size {d_model}");
        return Err(config.wrong(key, problem));
    }
    let heads = d_model / head_dim;
    if config.find::<Vec<usize>>("attn.layers")?.is_some_and(|own| own.contains(&0)) {
        let problem = "has layer 0, whose values all later layers mix in: it is a layer of RWKV-7";
        return Err(config.wrong("attn.layers", problem));
    }
    let values = value_dim(config, d_model, layers)?;
    let rank = |key: &str, factor: f64, default: usize| match config.find(key)? {
        Some(rank) => Ok(rank),
        None if config.is_null(key) => Ok(rank_of_width(factor * (d_model as f64).sqrt())),
        None => Ok::<usize, CheckpointError>(default),
    };
    // Wider heads have wider projections but for the gate's.
    let wider = head_dim as f64 / 64.0;
    let fused: bool = config.find("fuse_norm")?.unwrap_or(true);
    let plain = Rwkv7Config::new(heads, head_dim);
    Ok(Rwkv7Config {
        value_head_dim: (values != d_model).then_some(values / heads),
        decay_rank: rank("decay_low_rank_dim", 2.5 * wider, 64)?,
        rate_rank: rank("a_low_rank_dim", 2.5 * wider, 64)?,
        value_rank: if layer == 0 { None } else { Some(rank("v_low_rank_dim", 1.7 * wider, 16)?) },
        gate_rank: rank("gate_low_rank_dim", 5.0, 128)?,
        norm_eps: head_dim as f64 * norm_eps,
        length_eps: if fused { FUSED_LENGTH_EPS } else { plain.length_eps },
        ..plain
    })
}

/// The multiple of 32 nearest to `width`, at least 32.
fn rank_of_width(width: f64) -> usize {
    ((width / 32.0).round_ties_even() * 32.0).max(32.0) as usize
}

/// Channels of all values: a number, or one for each layer.
fn value_dim(config: &ConfigJson, d_model: usize, layers: usize) -> Result<usize, CheckpointError> {
    let key = "value_dim";
    let width = match config.get(key) {
        None => d_model,
        Some(list) if list.is_array() => {
            let list: Vec<usize> = config.find(key)?.unwrap_or_default();
            match list.first() {
                Some(&first) if list.len() == layers && list.iter().all(|&width| width == first) => first,
                _ => {
                    let problem =
                        format!("is {list:?}; one width for each of {layers} layers is needed, the same for all");
                    return Err(config.wrong(key, problem));
                }
            }
        }
        Some(_) => config.require(key)?,
    };
    if width == 0 || !width.is_multiple_of(d_model) {
        return Err(config.wrong(key, format!("is {width}, no multiple of hidden_size {d_model}")));
    }
    Ok(width)
}
