//! Hugging Face folders: `config.json` beside safetensors files, each family with its own keys and tensor names.

mod bitnet;
mod config_json;
mod delta_net;
mod experts;
mod flash_linear_attention;
mod gla;
mod hgrn2;
mod hybrid_qwen3;
mod infinite_vl;
mod lfm2;
mod linear_attention;
mod llama;
mod mamba;
mod mamba2;
mod phi4flash;
mod qwen3_next;
mod retnet;
mod rope;
mod rwkv;
mod rwkv6;
mod rwkv7;
mod rwkv_pairs;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use memwall_formats::{Container, FileError, TensorInfo};

use super::adapt::Adapt;
use super::memwall::{ARCHITECTURE, CONFIG_KEY};
use super::naming::OWN;
use super::{Checkpoint, CheckpointError};
use crate::config::{Activation, ModelConfig};
use config_json::ConfigJson;
use llama::Family;

/// The families, as errors name them.
const KNOWN: &str = "llama, mistral, qwen2, qwen3, bitnet, qwen3_next, phi4flash, hybrid_qwen3, lfm2, lfm2_moe, infinite_vl (its text), gla, retnet, hgrn2, delta_net, \
                     gated_deltanet, linear_attn, mamba, mamba2, rwkv, rwkv6, rwkv7 and memwall";

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
    let quantization = bitnet::quantization(&json, model_type)?;
    let adapt = |naming| Adapt::new(file, naming, tensors);
    // Sizes that go together, before anything is cut by them.
    let checked = |config: ModelConfig| {
        let file = || file.display().to_string();
        config.check().map_err(|error| CheckpointError::Config { file: file(), error }).map(|()| config)
    };
    let family = match model_type {
        "llama" => Some(Family::Llama),
        "mistral" => Some(Family::Mistral),
        "qwen2" => Some(Family::Qwen2),
        "qwen3" => Some(Family::Qwen3),
        "bitnet" => Some(Family::BitNet),
        _ => None,
    };
    let (config, adapted) = match (family, model_type) {
        (Some(family), _) => {
            let config = llama::config(&json, family, tensors.len())?;
            (ModelConfig { quantization, ..config }, adapt(&OWN))
        }
        (None, "mamba2") => {
            let config = mamba2::config(&json, tensors.len())?;
            let mut adapted = adapt(&mamba2::NAMING);
            mamba2::adapt(&mut adapted.tensors, &config);
            (config, adapted)
        }
        (None, "rwkv") => {
            let config = rwkv::config(&json, tensors.len())?;
            let mut adapted = adapt(&rwkv::NAMING);
            rwkv::adapt(&mut adapted.tensors);
            (config, adapted)
        }
        (None, "rwkv6" | "rwkv7") => {
            let version: &'static rwkv_pairs::Version =
                if model_type == "rwkv6" { &rwkv6::VERSION } else { &rwkv7::VERSION };
            let config = checked(version.config(&json, tensors.len())?)?;
            let mut adapted = adapt(&version.naming);
            version.adapt(&mut adapted, &config)?;
            (config, adapted)
        }
        (None, "mamba") => {
            let config = mamba::config(&json, tensors.len())?;
            let mut adapted = adapt(&mamba::NAMING);
            mamba::adapt(&mut adapted.tensors);
            (config, adapted)
        }
        (None, "lfm2" | "lfm2_moe") => {
            let config = checked(lfm2::config(&json, tensors.len())?)?;
            let mut adapted = adapt(&lfm2::NAMING);
            lfm2::adapt(&mut adapted, &config)?;
            (config, adapted)
        }
        (None, "qwen3_next") => {
            let config = checked(qwen3_next::config(&json, tensors.len())?)?;
            let mut adapted = adapt(&qwen3_next::NAMING);
            qwen3_next::adapt(&mut adapted, &config)?;
            (config, adapted)
        }
        (None, "phi4flash") => {
            let config = checked(phi4flash::config(&json, tensors.len())?)?;
            let mut adapted = adapt(&phi4flash::NAMING);
            phi4flash::adapt(&mut adapted, &config)?;
            (config, adapted)
        }
        (None, "hybrid_qwen3") => {
            let config = checked(hybrid_qwen3::config(&json, tensors.len())?)?;
            let mut adapted = adapt(&hybrid_qwen3::NAMING);
            hybrid_qwen3::adapt(&mut adapted, &config);
            (config, adapted)
        }
        (None, "infinite_vl" | "infinite_vl_text") => {
            let config = infinite_vl::config(&json, tensors.len())?;
            let mut adapted = adapt(&OWN);
            infinite_vl::adapt(&mut adapted, &config);
            (config, adapted)
        }
        (None, ARCHITECTURE) => (own(&json)?, adapt(&OWN)),
        (None, other) => {
            if let Some(family) = flash_linear_attention::Family::of(other) {
                let config = flash_linear_attention::config(&json, family, tensors.len())?;
                let mut adapted = adapt(&flash_linear_attention::NAMING);
                flash_linear_attention::adapt(&mut adapted.tensors, &config);
                return Ok(adapted.finish(config, json.unread()));
            }
            let file = file.display().to_string();
            return Err(CheckpointError::Architecture { file, found: other.into(), known: KNOWN });
        }
    };
    Ok(adapted.finish(config, json.unread()))
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
    // Of models of images and text the decoder is read.
    let predicts = |name: &&str| name.ends_with("ForCausalLM") || name.starts_with("InfiniteVL");
    if architectures.is_empty() || architectures.iter().any(predicts) {
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

/// The width of a head: `head_dim`, or hidden_size shared out among the heads.
fn head_dim(json: &ConfigJson, heads: usize, d_model: usize) -> Result<usize, CheckpointError> {
    match json.find("head_dim")? {
        Some(width) => Ok(width),
        None if heads > 0 && d_model.is_multiple_of(heads) => Ok(d_model / heads),
        None => {
            let problem = format!("is {heads}, which does not divide hidden_size {d_model}; and there is no head_dim");
            Err(json.wrong("num_attention_heads", problem))
        }
    }
}

/// A depthwise convolution's weight as PyTorch has it, [channels, 1, taps], without the dimension of one group.
fn without_group(tensors: &mut BTreeMap<String, TensorInfo>, name: &str) {
    if let Some(weight) = tensors.get_mut(name)
        && let [channels, 1, taps] = weight.shape[..]
    {
        weight.shape = vec![channels, taps];
    }
}

/// The activation of the MLP.
fn activation(json: &ConfigJson) -> Result<Activation, CheckpointError> {
    activation_or(json, "silu")
}

/// The activation of the MLP, `usual` where nothing is said.
fn activation_or(json: &ConfigJson, usual: &str) -> Result<Activation, CheckpointError> {
    match json.find("hidden_act")?.unwrap_or(usual) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" => Ok(Activation::GeluErf),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::Gelu),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::Relu2),
        other => Err(json.wrong(
            "hidden_act",
            format!("is {other:?}; silu, swish, gelu, gelu_pytorch_tanh, gelu_new, relu and relu2 are supported"),
        )),
    }
}
