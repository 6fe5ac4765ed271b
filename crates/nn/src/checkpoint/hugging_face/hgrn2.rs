//! The mixer of `HGRN2ForCausalLM`; its lower bounds are one tensor of the model.
//!
//! Source: fla-org/flash-linear-attention, `fla/layers/hgrn2.py`, `fla/models/hgrn2`.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use super::flash_linear_attention::{Place, short_conv};
use crate::mixers::hgrn2::{Hgrn2Config, LowerBound};

pub(super) fn mixer(config: &ConfigJson, place: Place) -> Result<Hgrn2Config, CheckpointError> {
    config.only("elementwise_affine", &Value::Bool(true), "norms without weights")?;
    let Place { d_model, norm_eps, layer, layers } = place;
    // The width of a head decides; the number of heads says the same.
    let width: usize = config.find("expand_ratio")?.unwrap_or(128);
    if width == 0 || !d_model.is_multiple_of(width) {
        let problem = format!("is {width}, which does not divide hidden_size {d_model}");
        return Err(config.wrong("expand_ratio", problem));
    }
    let heads = d_model / width;
    if let Some(other) = config.find::<usize>("num_heads")?.filter(|&other| other != heads) {
        let problem = format!("is {other}, but hidden_size {d_model} has {heads} heads of expand_ratio {width}");
        return Err(config.wrong("num_heads", problem));
    }
    let bounded = config.find("use_lower_bound")?.unwrap_or(true);
    Ok(Hgrn2Config {
        lower_bound: bounded.then_some(LowerBound { layer, layers }),
        short_conv: short_conv(config, false)?,
        norm_eps,
        ..Hgrn2Config::new(heads, width, width)
    })
}
