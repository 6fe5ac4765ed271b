//! BitNet b1.58: what `quantization_config` says of a model whose linear layers are `AutoBitLinear` or `BitLinear`.
//!
//! Layers round what they read to eight bits by token. Online, the weights in the files are those that are trained, and
//! are rounded to -s, 0 and s in every pass; offline, they have been rounded. Four of them in a byte are unpacked by
//! `memwall quantize`. The model type `bitnet` has norms before the last products besides.

use serde_json::Value;

use super::super::CheckpointError;
use super::config_json::ConfigJson;
use crate::quantization::QuantizationConfig;

const KEY: &str = "quantization_config";
/// Families whose linear layers transformers replaces.
const FAMILIES: [&str; 5] = ["bitnet", "llama", "mistral", "qwen2", "qwen3"];
/// The head, which is not rounded.
const HEAD: &str = "lm_head";

/// How linear layers round in a model of that type; `None` where nothing does and nothing is different.
pub(super) fn quantization(json: &ConfigJson, model_type: &str) -> Result<Option<QuantizationConfig>, CheckpointError> {
    let sub_norms = model_type == "bitnet";
    let plain = QuantizationConfig { sub_norms, ..Default::default() };
    if json.get(KEY).is_none() {
        return Ok(sub_norms.then_some(plain));
    }
    let key = |name: &str| format!("{KEY}.{name}");
    let method: Option<&str> = json.find(&key("quant_method"))?;
    if method != Some("bitnet") || !FAMILIES.contains(&model_type) {
        let method = json.get(&key("quant_method")).unwrap_or(&Value::Null);
        let problem =
            format!("has quant_method {method}; weights in F32, F16 or BF16 are supported, and bitnet in llama's kin");
        return Err(json.wrong(KEY, problem));
    }
    let class: &str = json.find(&key("linear_class"))?.unwrap_or("bitlinear");
    if !["autobitlinear", "bitlinear"].contains(&class) {
        return Err(
            json.wrong(&key("linear_class"), format!("is {class:?}; autobitlinear and bitlinear are supported"))
        );
    }
    let online = match json.find(&key("quantization_mode"))?.unwrap_or("offline") {
        "offline" => false,
        // A packed layer has nothing left to round.
        "online" => class == "autobitlinear",
        other => {
            return Err(
                json.wrong(&key("quantization_mode"), format!("is {other:?}; online and offline are supported"))
            );
        }
    };
    if let Some(kept) = json.find::<Vec<&str>>(&key("modules_to_not_convert"))?
        && let Some(other) = kept.iter().find(|name| **name != HEAD)
    {
        let problem = format!("has {other}; all layers but {HEAD} are rounded");
        return Err(json.wrong(&key("modules_to_not_convert"), problem));
    }
    let norm_eps = match json.find(&key("use_rms_norm"))?.unwrap_or(false) {
        true => Some(json.find(&key("rms_norm_eps"))?.unwrap_or(1e-6)),
        // Read, so that it is no key without effect.
        false => json.find::<f64>(&key("rms_norm_eps"))?.and(None),
    };
    let QuantizationConfig { weights, activations, .. } = QuantizationConfig::bitnet();
    Ok(Some(QuantizationConfig { weights: weights.filter(|_| online), activations, norm_eps, ..plain }))
}
