//! Hugging Face folders: `config.json` beside safetensors files, each family with its own keys and tensor names.

mod config_json;
mod delta_net;
mod flash_linear_attention;
mod gla;
mod hgrn2;
mod linear_attention;
mod llama;
mod mamba;
mod mamba2;
mod retnet;
mod rope;
mod rwkv;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use memwall_formats::{Container, FileError, TensorInfo};
use serde_json::Value;

use super::memwall::{ARCHITECTURE, CONFIG_KEY};
use super::naming::{Naming, OWN};
use super::{Checkpoint, CheckpointError};
use crate::config::{Activation, ModelConfig};
use config_json::ConfigJson;
use llama::Family;

/// The families, as errors name them.
const KNOWN: &str = "llama, mistral, qwen2, qwen3, gla, retnet, hgrn2, delta_net, gated_deltanet, linear_attn, mamba, mamba2, rwkv \
                     and memwall";

/// The file that says what the model is.
const CONFIG_FILE: &str = "config.json";

pub(super) fn open(container: &Container) -> Result<Checkpoint, CheckpointError> {
    let file = container.folder().join(CONFIG_FILE);
    let json = fs::read(&file).map_err(|source| FileError::Io { file: file.clone(), action: "read", source })?;
    read(&file, &json, container.tensors())
}

/// Reads a configuration; `file` is its name for messages, `tensors` what the files beside it hold.
pub(super) fn read(file: &Path, json: &[u8], tensors: &[TensorInfo]) -> Result<Checkpoint, CheckpointError> {
    let json = ConfigJson::parse(file, json)?;
    let model_type: &str = json.require("model_type")?;
    causal(&json)?;
    if let Some(method) = json.get("quantization_config") {
        let method = method.get("quant_method").unwrap_or(&Value::Null);
        let problem = format!("has quant_method {method}; weights in F32, F16 or BF16 are supported");
        return Err(json.wrong("quantization_config", problem));
    }
    let named = |naming: &Naming| -> BTreeMap<String, TensorInfo> {
        tensors.iter().map(|t| (naming.ours(&t.name), t.clone())).collect()
    };
    let family = match model_type {
        "llama" => Some(Family::Llama),
        "mistral" => Some(Family::Mistral),
        "qwen2" => Some(Family::Qwen2),
        "qwen3" => Some(Family::Qwen3),
        _ => None,
    };
    let (config, naming, tensors) = match (family, model_type) {
        (Some(family), _) => (llama::config(&json, family, tensors.len())?, &OWN, named(&OWN)),
        (None, "mamba2") => {
            let config = mamba2::config(&json, tensors.len())?;
            let mut tensors = named(&mamba2::NAMING);
            mamba2::adapt(&mut tensors, &config);
            (config, &mamba2::NAMING, tensors)
        }
        (None, "rwkv") => {
            let config = rwkv::config(&json, tensors.len())?;
            let mut tensors = named(&rwkv::NAMING);
            rwkv::adapt(&mut tensors);
            (config, &rwkv::NAMING, tensors)
        }
        (None, "mamba") => {
            let config = mamba::config(&json, tensors.len())?;
            let mut tensors = named(&mamba::NAMING);
            mamba::adapt(&mut tensors);
            (config, &mamba::NAMING, tensors)
        }
        (None, ARCHITECTURE) => (own(&json)?, &OWN, named(&OWN)),
        (None, other) => {
            if let Some(family) = flash_linear_attention::Family::of(other) {
                let config = flash_linear_attention::config(&json, family, tensors.len())?;
                let mut tensors = named(&flash_linear_attention::NAMING);
                flash_linear_attention::adapt(&mut tensors, &config);
                let naming = &flash_linear_attention::NAMING;
                return Ok(Checkpoint { config, tensors, unread: json.unread(), naming });
            }
            let file = file.display().to_string();
            return Err(CheckpointError::Architecture { file, found: other.into(), known: KNOWN });
        }
    };
    Ok(Checkpoint { config, tensors, unread: json.unread(), naming })
}

/// memwall's own: the configuration as it stands in GGUF, as an object.
fn own(json: &ConfigJson) -> Result<ModelConfig, CheckpointError> {
    let Some(config) = json.get(CONFIG_KEY) else {
        let (file, expected) = (json.file().to_path_buf(), "the configuration of a model, an object");
        return Err(FileError::MissingKey { file, key: CONFIG_KEY.into(), expected }.into());
    };
    serde_json::from_value(config.clone())
        .map_err(|error| json.wrong(CONFIG_KEY, format!("is no configuration of a model: {error}")))
}

/// Refuses models of these families that do not predict the next token.
fn causal(json: &ConfigJson) -> Result<(), CheckpointError> {
    let Some(architectures) = json.find::<Vec<&str>>("architectures")? else { return Ok(()) };
    if architectures.is_empty() || architectures.iter().any(|name| name.ends_with("ForCausalLM")) {
        return Ok(());
    }
    let problem = format!("is {architectures:?}; a model that predicts the next token (…ForCausalLM) is needed");
    Err(json.wrong("architectures", problem))
}

/// The number of layers, no more than there are tensors: a file of a few bytes must not ask for millions.
fn layers(json: &ConfigJson, tensors: usize) -> Result<usize, CheckpointError> {
    let layers: usize = json.require("num_hidden_layers")?;
    if layers > tensors {
        let problem = format!("is {layers}, but the files beside it hold {tensors} tensors");
        return Err(json.wrong("num_hidden_layers", problem));
    }
    Ok(layers)
}

/// The activation of the MLP.
fn activation(json: &ConfigJson) -> Result<Activation, CheckpointError> {
    match json.find("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::GeluErf),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::Gelu),
        "relu" => Ok(Activation::Relu),
        other => Err(json.wrong(
            "hidden_act",
            format!("is {other:?}; silu, swish, gelu, gelu_pytorch_tanh, gelu_new and relu are supported"),
        )),
    }
}

/// Gives the weight of a depthwise convolution, [D, 1, W], its shape without the dimension of one group.
fn without_group(weight: Option<&mut TensorInfo>) {
    if let Some(weight) = weight
        && let [channels, 1, taps] = weight.shape[..]
    {
        weight.shape = vec![channels, taps];
    }
}
