//! A model's configuration as `config.json` has it.

use anyhow::bail;
use memwall_formats::hub::Scheme;
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, GgufForm, MixerConfig, ModelConfig, QuantizationConfig, RopeConfig,
    RopeScaling,
};
use serde_json::{Map, Value, json};

/// The keys of a model of the families `llama`, `qwen2` or `qwen3`; and, where its rotary pairs lie side by side, the same
/// model with the two channels of a pair half a head apart, which is how these families have them.
///
/// A model that rounds what its layers read is one of `bitnet` where it has that family's norms, and stored by no other scheme.
pub(super) fn config_json(
    config: &ModelConfig,
    scheme: Scheme,
) -> anyhow::Result<(Map<String, Value>, Option<ModelConfig>)> {
    let half = half_split(&without_rounding(config, scheme)?);
    let family = GgufForm::of(&half).architecture();
    let (Some(first), "llama" | "qwen2" | "qwen3") = (config.layers.first(), family) else {
        bail!("the hub has no configuration for this model: it is none of llama, qwen2 and qwen3");
    };
    let (MixerConfig::Attention(a), ChannelConfig::Glu { hidden, bias, .. }) = (&first.mixer, &first.channel) else {
        bail!("the hub has no configuration for layers of other kinds than attention and gated MLPs");
    };
    let Some(rope) = &a.rope else { bail!("the hub's {family} has rotary positions, this model has none") };
    if rope.frequency_factors {
        bail!("the frequencies of this model come from the tensor rope_freqs.weight, which config.json has no key for");
    }
    if a.window.is_some() && family != "llama" {
        bail!("a sliding window in {family} is not written");
    }
    let sub_norms = config.quantization.as_ref().is_some_and(|q| q.sub_norms);
    let (model_type, name) = match (family, a.window) {
        ("llama", None) if sub_norms && !bias => ("bitnet", "BitNetForCausalLM"),
        _ if sub_norms => bail!("the hub has norms before last products in llamas without windows and biases only"),
        ("llama", Some(_)) => ("mistral", "MistralForCausalLM"),
        ("llama", None) => ("llama", "LlamaForCausalLM"),
        ("qwen2", _) => ("qwen2", "Qwen2ForCausalLM"),
        _ => ("qwen3", "Qwen3ForCausalLM"),
    };
    if model_type == "mistral" && (a.qkv_bias || a.o_bias || *bias) {
        bail!("the hub has no configuration for a sliding window with biases");
    }
    if model_type == "llama" && a.qkv_bias != a.o_bias {
        bail!("the hub's llama has biases in all of attention or in none");
    }
    let mut keys = json!({
        "architectures": [name],
        "model_type": model_type,
        "hidden_act": if has_squares(config) { "relu2" } else { "silu" },
        "hidden_size": config.d_model,
        "intermediate_size": hidden,
        "num_hidden_layers": config.layers.len(),
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.kv_heads,
        "head_dim": a.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": rope.theta,
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": "float32",
    });
    more(&mut keys, model_type, a, rope, *bias);
    let Value::Object(keys) = keys else { bail!("a configuration is an object") };
    Ok((keys, rope.interleaved.then_some(half)))
}

fn more(keys: &mut Value, model_type: &str, a: &AttentionConfig, rope: &RopeConfig, mlp_bias: bool) {
    match model_type {
        "bitnet" => keys["attention_bias"] = json!(a.o_bias),
        "llama" => {
            keys["attention_bias"] = json!(a.o_bias);
            keys["mlp_bias"] = json!(mlp_bias);
        }
        "mistral" => keys["sliding_window"] = json!(a.window),
        _ => {}
    }
    let scaling = match rope.scaling {
        RopeScaling::None => return,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original,
        }),
        RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attention_factor } => json!({
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            "beta_fast": beta_fast, "beta_slow": beta_slow, "attention_factor": attention_factor,
        }),
    };
    keys["rope_scaling"] = scaling;
}

/// The model without what the scheme's layers do anyway, BitNet's round what they read, and with the activation that llamas have.
fn without_rounding(config: &ModelConfig, scheme: Scheme) -> anyhow::Result<ModelConfig> {
    let mut plain = ModelConfig { quantization: None, ..config.clone() };
    let Some(q) = &config.quantization else { return Ok(plain) };
    let bitnet = QuantizationConfig { weights: None, ..QuantizationConfig::bitnet() };
    if scheme != Scheme::BitNet || (QuantizationConfig { sub_norms: false, ..q.clone() }) != bitnet {
        bail!(
            "this model rounds what its layers read, which the hub has a configuration for in one case: activations in int8, \
             weights by --hub bitnet"
        );
    }
    if has_squares(config) {
        for layer in &mut plain.layers {
            if let ChannelConfig::Glu { activation, .. } = &mut layer.channel {
                *activation = Activation::Silu;
            }
        }
    }
    Ok(plain)
}

/// Whether the model is one of BitNet's with their usual activation in every layer.
fn has_squares(config: &ModelConfig) -> bool {
    let squares = |c: &ChannelConfig| matches!(c, ChannelConfig::Glu { activation: Activation::Relu2, .. });
    config.quantization.as_ref().is_some_and(|q| q.sub_norms) && config.layers.iter().all(|l| squares(&l.channel))
}

/// The model with rotary pairs half a head apart.
fn half_split(config: &ModelConfig) -> ModelConfig {
    let mut half = config.clone();
    for layer in &mut half.layers {
        if let MixerConfig::Attention(AttentionConfig { rope: Some(rope), .. }) = &mut layer.mixer {
            rope.interleaved = false;
        }
    }
    half
}
