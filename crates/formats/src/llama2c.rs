//! llama2.c version 0 checkpoints: seven integers, then all weights as f32, layer by layer within each kind.
//!
//! ```text
//! dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len: i32 each; vocab_size < 0 = own classifier
//! token_embedding [vocab, dim]   rms_att [L, dim]   wq [L, dim, dim]   wk, wv [L, kv_dim, dim]   wo [L, dim, dim]
//! rms_ffn [L, dim]   w1 [L, hidden, dim]   w2 [L, dim, hidden]   w3 [L, hidden, dim]   rms_final [dim]
//! freq_cos, freq_sin [seq_len, head_dim/2] (computed anew by every reader)   classifier [vocab, dim] if its own
//! ```
//!
//! The tensors and keys are given GGUF's names for the Llama architecture (the two agree in the order of rotated pairs:
//! neighbours), so that a loader needs no third naming. Source: `export.py` (`legacy_export`) and `run.c` of llama2.c.

use std::path::Path;

use crate::{
    Dtype,
    container::{FileError, Header, TensorInfo},
    gguf::Metadata,
};

const HEADER_BYTES: u64 = 7 * 4;

/// The seven integers, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // llama2.c's own names
pub struct Config {
    pub dim: u32,
    pub hidden_dim: u32,
    pub n_layers: u32,
    pub n_heads: u32,
    pub n_kv_heads: u32,
    pub vocab_size: u32,
    pub seq_len: u32,
    /// The classifier is the embedding.
    pub tied: bool,
}

impl Config {
    /// Reads and checks the seven integers.
    ///
    /// # Errors
    /// When the file is shorter than that, or they describe no model.
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Config, FileError> {
        let Some(header) = bytes.first_chunk::<{ HEADER_BYTES as usize }>() else {
            return Err(FileError::Truncated {
                file: file.to_path_buf(),
                what: "the header of a llama2.c checkpoint".into(),
                at: 0,
                needed: HEADER_BYTES,
                length: bytes.len() as u64,
            });
        };
        let field =
            |i: usize| i32::from_le_bytes([header[4 * i], header[4 * i + 1], header[4 * i + 2], header[4 * i + 3]]);
        const NAMES: [&str; 7] = ["dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"];
        let not_a_model = |found: String| FileError::NotRecognized {
            file: file.to_path_buf(),
            found: format!("read as a llama2.c checkpoint, {found}"),
            expected: "a GGUF file, a safetensors file, an rwkv.cpp checkpoint, or a llama2.c version 0 checkpoint",
        };
        for (i, name) in NAMES.iter().enumerate() {
            if field(i) <= 0 && !(i == 5 && field(i) < 0 && field(i) > i32::MIN) {
                return Err(not_a_model(format!("its {name} is {}", field(i))));
            }
        }
        let config = Config {
            dim: field(0) as u32,
            hidden_dim: field(1) as u32,
            n_layers: field(2) as u32,
            n_heads: field(3) as u32,
            n_kv_heads: field(4) as u32,
            vocab_size: field(5).unsigned_abs(),
            seq_len: field(6) as u32,
            tied: field(5) > 0,
        };
        if !config.dim.is_multiple_of(config.n_heads) || !(config.dim / config.n_heads).is_multiple_of(2) {
            return Err(not_a_model(format!(
                "its {} heads do not share a dim of {} evenly",
                config.n_heads, config.dim
            )));
        }
        if !config.n_heads.is_multiple_of(config.n_kv_heads) {
            return Err(not_a_model(format!(
                "its {} heads do not share {} kv heads",
                config.n_heads, config.n_kv_heads
            )));
        }
        Ok(config)
    }

    /// The keys that a GGUF file of this model would have.
    fn metadata(&self, file: &Path) -> Metadata {
        let mut metadata = Metadata::new(file);
        metadata.insert("general.architecture", "llama");
        metadata.insert("general.file_type", 0u32);
        metadata.insert("llama.vocab_size", self.vocab_size);
        metadata.insert("llama.context_length", self.seq_len);
        metadata.insert("llama.embedding_length", self.dim);
        metadata.insert("llama.feed_forward_length", self.hidden_dim);
        metadata.insert("llama.block_count", self.n_layers);
        metadata.insert("llama.attention.head_count", self.n_heads);
        metadata.insert("llama.attention.head_count_kv", self.n_kv_heads);
        metadata.insert("llama.rope.dimension_count", self.dim / self.n_heads);
        metadata.insert("llama.rope.freq_base", 10000.0f32);
        metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
        metadata
    }
}

/// Reads the header of a checkpoint; `bytes` is the whole file, of which only the header is touched.
///
/// # Errors
/// When the seven integers describe no model, or not one of this file's size.
pub fn parse(file: &Path, bytes: &[u8]) -> Result<Header, FileError> {
    let config = Config::parse(file, bytes)?;
    let [dim, hidden, layers, vocab] =
        [config.dim, config.hidden_dim, config.n_layers, config.vocab_size].map(|n| n as usize);
    let head_dim = dim / config.n_heads as usize;
    let kv_dim = head_dim * config.n_kv_heads as usize;
    let rope = [config.seq_len as usize, head_dim / 2];
    // (name, whether one a layer, shape) in the order of the file; the tables between them have no name.
    let mut kinds: Vec<(&str, bool, Vec<usize>)> = vec![
        ("token_embd.weight", false, vec![vocab, dim]),
        ("attn_norm.weight", true, vec![dim]),
        ("attn_q.weight", true, vec![dim, dim]),
        ("attn_k.weight", true, vec![kv_dim, dim]),
        ("attn_v.weight", true, vec![kv_dim, dim]),
        ("attn_output.weight", true, vec![dim, dim]),
        ("ffn_norm.weight", true, vec![dim]),
        ("ffn_gate.weight", true, vec![hidden, dim]),
        ("ffn_down.weight", true, vec![dim, hidden]),
        ("ffn_up.weight", true, vec![hidden, dim]),
        ("output_norm.weight", false, vec![dim]),
        ("", false, rope.to_vec()),
        ("", false, rope.to_vec()),
    ];
    if !config.tied {
        kinds.push(("output.weight", false, vec![vocab, dim]));
    }
    // Summed before anything is allocated; i32 factors cannot overflow 128 bits.
    let total: u128 = kinds.iter().fold(u128::from(HEADER_BYTES), |sum, (_, per_layer, shape)| {
        let values: u128 = shape.iter().map(|&d| d as u128).product();
        sum + 4 * values * if *per_layer { layers as u128 } else { 1 }
    });
    if total != bytes.len() as u128 {
        return Err(FileError::NotRecognized {
            file: file.to_path_buf(),
            found: format!(
                "read as a llama2.c checkpoint, its header asks for {total} bytes, but the file has {}",
                bytes.len()
            ),
            expected: "a GGUF file, a safetensors file, an rwkv.cpp checkpoint, or a llama2.c version 0 checkpoint",
        });
    }
    let mut tensors = Vec::new();
    let mut offset = HEADER_BYTES;
    for (name, per_layer, shape) in kinds {
        let bytes = 4 * shape.iter().product::<usize>() as u64;
        for layer in 0..if per_layer { layers } else { 1 } {
            if !name.is_empty() {
                let name = if per_layer { format!("blk.{layer}.{name}") } else { name.to_string() };
                tensors.push(TensorInfo { name, dtype: Dtype::F32, shape: shape.clone(), file: 0, offset, bytes });
            }
            offset += bytes;
        }
    }
    Ok(Header { metadata: config.metadata(file), tensors, unsupported: Vec::new() })
}
