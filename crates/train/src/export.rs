//! A trained model as a GGUF file, its tokenizer inside.
//!
//! The architecture is `memwall`: the configuration is the JSON of a [`ModelConfig`] under
//! `memwall.config`, and tensors have memwall's own names. A model that is a plain Llama is written
//! as `llama`, so that other engines read it.

use std::path::Path;

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, FileError, FormatError, format};
use memwall_graph::Memory;
use memwall_nn::{Activation, ChannelConfig, MixerConfig, ModelConfig, RopeScaling};
use memwall_tokenizer::TokenizerError;

/// Why a model cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The file cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer has no GGUF form.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A weight does not fit the format.
    #[error("tensor {tensor}: {error}")]
    Format {
        /// The tensor.
        tensor: String,
        /// Why, and what would fit.
        error: FormatError,
    },
    /// A weight is not in memory.
    #[error("weight {name} is not in memory as f32")]
    Missing {
        /// The weight.
        name: String,
    },
}

/// Writes `weights` (names and shapes) of a model; matrices in `matrices`, vectors, and matrices whose rows are no whole
/// number of blocks, in f32. `put_tokenizer` adds the tokenizer's keys.
///
/// # Errors
/// If a value does not fit the format, or the file cannot be written.
pub fn gguf(
    path: &Path,
    name: &str,
    config: &ModelConfig,
    weights: &[(String, Vec<usize>)],
    memory: &Memory,
    put_tokenizer: impl FnOnce(&mut Metadata) -> Result<(), TokenizerError>,
    matrices: Dtype,
) -> Result<(), ExportError> {
    let plain = plain_llama(config);
    let mut m = Metadata::new(path);
    m.insert("general.name", name);
    if let Some(llama) = &plain {
        llama.put(&mut m, config);
    } else {
        m.insert("general.architecture", "memwall");
        let json = serde_json::to_string(config).unwrap_or_default();
        m.insert("memwall.config", json.as_str());
    }
    put_tokenizer(&mut m)?;
    let dtype_of = |shape: &[usize]| match shape {
        [.., _, width] if width.is_multiple_of(matrices.block_len()) => matrices,
        _ => Dtype::F32,
    };
    let plans = weights
        .iter()
        .map(|(n, shape)| {
            let name = if plain.is_some() { llama_name(n) } else { n.clone() };
            TensorPlan { name, dtype: dtype_of(shape), shape: shape.clone() }
        })
        .collect();
    let mut writer = Writer::create(path, &m, plans)?;
    for (name, shape) in weights {
        let values = memory.get::<f32>(name).ok_or_else(|| ExportError::Missing { name: name.clone() })?;
        let dtype = dtype_of(shape);
        let width = shape.last().copied().unwrap_or(1);
        let bytes = values.len() / dtype.block_len() * dtype.block_bytes();
        let mut encoded = vec![0; bytes];
        format(dtype)
            .encode(width, values, &mut encoded)
            .map_err(|error| ExportError::Format { tensor: name.clone(), error })?;
        writer.write(&encoded)?;
    }
    Ok(writer.finish()?)
}

/// The sizes of a model whose layers are all the same plain Llama layer.
struct Llama {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden: usize,
    theta: f64,
}

fn plain_llama(config: &ModelConfig) -> Option<Llama> {
    let first = config.layers.first()?;
    let (MixerConfig::Attention(a), ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false }) =
        (&first.mixer, &first.channel)
    else {
        return None;
    };
    let rope = a.rope.as_ref()?;
    let plain = config.layers.iter().all(|l| l == first)
        && a.gate.is_none()
        && a.window.is_none()
        && a.softcap.is_none()
        && a.scale.is_none()
        && !(a.qk_norm || a.qkv_bias || a.o_bias || config.learned_positions)
        && config.logit_softcap.is_none()
        && rope.interleaved
        && rope.rotary_dim.is_none()
        && !rope.frequency_factors
        && rope.scaling == RopeScaling::None;
    plain.then_some(Llama {
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        hidden: *hidden,
        theta: rope.theta,
    })
}

impl Llama {
    fn put(&self, m: &mut Metadata, config: &ModelConfig) {
        m.insert("general.architecture", "llama");
        m.insert("llama.vocab_size", config.vocab_size as u32);
        m.insert("llama.context_length", config.max_context as u32);
        m.insert("llama.embedding_length", config.d_model as u32);
        m.insert("llama.feed_forward_length", self.hidden as u32);
        m.insert("llama.block_count", config.layers.len() as u32);
        m.insert("llama.attention.head_count", self.heads as u32);
        m.insert("llama.attention.head_count_kv", self.kv_heads as u32);
        m.insert("llama.attention.key_length", self.head_dim as u32);
        m.insert("llama.attention.value_length", self.head_dim as u32);
        m.insert("llama.rope.dimension_count", self.head_dim as u32);
        m.insert("llama.rope.freq_base", self.theta as f32);
        m.insert("llama.attention.layer_norm_rms_epsilon", config.norm_eps as f32);
    }
}

fn llama_name(name: &str) -> String {
    let parts = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
    ];
    parts.iter().fold(name.to_string(), |n, (ours, gguf)| n.replace(ours, gguf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_exact_llama_is_called_one() {
        let plain = "vocab_size = 64\nd_model = 32\nmax_context = 16\n\
            [[layers]]\nmixer = { kind = \"attention\", heads = 2, kv_heads = 1, head_dim = 16, rope = { interleaved = true } }\n\
            channel = { kind = \"glu\", hidden = 64 }\n";
        let is_llama = |text: &str| plain_llama(&toml::from_str(text).expect("a model")).is_some();
        assert!(is_llama(plain));
        assert!(is_llama(&format!("tie_embeddings = true\nnorm_eps = 1e-6\n{plain}")));
        for (from, to) in [
            ("interleaved = true", "interleaved = false"),
            ("interleaved = true", "interleaved = true, rotary_dim = 8"),
            ("interleaved = true", "interleaved = true, frequency_factors = true"),
            ("interleaved = true", "interleaved = true, scaling = { kind = \"linear\", factor = 2.0 }"),
            (", rope = { interleaved = true }", ""),
            ("head_dim = 16", "head_dim = 16, window = 8"),
            ("head_dim = 16", "head_dim = 16, qk_norm = true"),
            ("head_dim = 16", "head_dim = 16, qkv_bias = true"),
            ("head_dim = 16", "head_dim = 16, gate = {}"),
            ("head_dim = 16", "head_dim = 16, softcap = 30.0"),
            ("hidden = 64", "hidden = 64, activation = \"gelu\""),
            ("hidden = 64", "hidden = 64, bias = true"),
            ("\"glu\"", "\"mlp\""),
            ("max_context = 16", "max_context = 16\nlogit_softcap = 30.0"),
            ("max_context = 16", "max_context = 16\nlearned_positions = true"),
        ] {
            let other = plain.replacen(from, to, 1);
            assert_ne!(other, plain, "{from}");
            assert!(!is_llama(&other), "{to}");
        }
        let wider = plain[plain.find("[[layers]]").unwrap_or(0)..].replace("hidden = 64", "hidden = 96");
        assert!(!is_llama(&format!("{plain}{wider}")), "layers that differ");
    }
}
