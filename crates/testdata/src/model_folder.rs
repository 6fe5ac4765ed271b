//! Tiny random models as Hugging Face folders, with reference outputs that other software computed.
//!
//! `fixtures/hugging_face/NAME` holds `config.json`, the shapes of the weights, and what transformers (or, for the
//! families of flash-linear-attention, naive recurrences) made of them; `make.py` beside it says how. The weights themselves are made
//! here, by the same formula.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

/// The models there are.
pub const MODELS: [&str; 41] = [
    "llama",
    "llama_tied",
    "llama_grouped",
    "llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen3",
    "rwkv",
    "mamba",
    "gla",
    "gla_grouped",
    "gla_older",
    "gla_hybrid",
    "mamba2",
    "mamba2_tied",
    "retnet",
    "retnet_grouped",
    "hgrn2",
    "hgrn2_unbounded",
    "delta_net",
    "gated_deltanet",
    "linear_attn",
    "linear_attn_normalized",
    "lfm2",
    "lfm2_older",
    "lfm2_moe",
    "lfm2_moe_apart",
    "qwen3_next",
    "qwen3_next_apart",
    "infinite_vl",
    "bitnet",
    "bitnet_llama",
    "phi4flash",
    "hybrid_qwen3",
    "hybrid_qwen3_bmojo",
    "hybrid_qwen3_bmojo_untied",
    "rwkv6",
    "rwkv6_hybrid",
    "rwkv7",
    "rwkv7_hybrid",
];

fn shape(sizes: &Value) -> Vec<usize> {
    let sizes = sizes.as_array().expect("a shape").iter();
    sizes.map(|d| d.as_u64().expect("a size") as usize).collect()
}

/// How the weights of a folder are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As the reference has them.
    F32,
    /// Rounded.
    F16,
    /// Rounded.
    BF16,
}

/// A model of [`MODELS`]: its configuration, the shapes of its weights, and the reference.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The text of `config.json`.
    pub config: String,
    /// Names and shapes, in the order of the file.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// How many of the tokens are the prompt.
    pub prompt: usize,
    /// The prompt, then the likeliest tokens.
    pub tokens: Vec<u32>,
    /// Logits [tokens, vocabulary].
    pub logits: Vec<f32>,
    seed: u64,
    /// The family adds 1 to its norms.
    zero_centred: bool,
}

impl ModelFolder {
    /// Reads the fixture `name`.
    ///
    /// # Panics
    /// If there is none of that name, or it is damaged.
    pub fn read(name: &str) -> ModelFolder {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/hugging_face").join(name);
        let read = |file: &str| fs::read(folder.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
        let config = String::from_utf8(read("config.json")).expect("text");
        let weights: Value = serde_json::from_slice(&read("weights.json")).expect("JSON");
        let shapes = weights["shapes"].as_object().expect("shapes").iter();
        let reference = read("reference.safetensors");
        let header_bytes = u64::from_le_bytes(reference[..8].try_into().expect("8 bytes")) as usize;
        let header: Value = serde_json::from_slice(&reference[8..8 + header_bytes]).expect("a header");
        let words = |tensor: &str| {
            let at = |i: usize| header[tensor]["data_offsets"][i].as_u64().expect("an offset") as usize;
            let bytes = &reference[8 + header_bytes..][at(0)..at(1)];
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes"))).collect::<Vec<u32>>()
        };
        ModelFolder {
            config,
            shapes: shapes.map(|(name, v)| (name.clone(), shape(v))).collect(),
            prompt: header["__metadata__"]["prompt"].as_str().and_then(|n| n.parse().ok()).expect("a number"),
            tokens: words("tokens"),
            logits: words("logits").into_iter().map(f32::from_bits).collect(),
            seed: weights["seed"].as_u64().expect("a seed"),
            zero_centred: weights["zero_centred"].as_bool().unwrap_or(false),
        }
    }

    /// The values of a weight.
    pub fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let scale = match (name, shape) {
            (_, [_]) => 0.5,
            (name, _) if name.contains("embed") => 1.0,
            (_, shape) => {
                let fan_in = *shape.last().expect("a matrix") as f64;
                ((6.0 / fan_in).sqrt().log2() + 0.5).floor().exp2()
            }
        };
        let is_norm = name.contains("norm") || name.contains("ln") && name.ends_with(".weight");
        let centre = if self.zero_centred && !name.contains("linear_attn") { 0.0 } else { 1.0 };
        let state = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ self.seed, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let count = shape.iter().product::<usize>() as u64;
        let value = |i: u64| {
            let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(i));
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            let x = ((z >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0) * scale;
            (if is_norm { centre + x / 4.0 } else { x }) as f32
        };
        (1..=count).map(value).collect()
    }

    /// Writes the model into `folder`, its weights in `shards` files, with an index if there are several.
    ///
    /// # Panics
    /// If the folder cannot be written.
    pub fn write(&self, folder: &Path, stored: Stored, shards: usize) {
        fs::write(folder.join("config.json"), &self.config).expect("the configuration");
        let part = self.shapes.len().div_ceil(shards);
        let mut map = Map::new();
        for (number, shapes) in self.shapes.chunks(part).enumerate() {
            let name = match shards {
                1 => "model.safetensors".to_string(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", number + 1),
            };
            for (weight, _) in shapes {
                map.insert(weight.clone(), json!(name));
            }
            self.write_file(&folder.join(name), shapes, stored);
        }
        if shards > 1 {
            let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
            fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("the index");
        }
    }

    fn write_file(&self, path: &PathBuf, shapes: &[(String, Vec<usize>)], stored: Stored) {
        let (mut header, mut data) = (Map::new(), Vec::new());
        for (name, shape) in shapes {
            let begin = data.len();
            for x in self.values(name, shape) {
                match stored {
                    Stored::F32 => data.extend(x.to_le_bytes()),
                    Stored::F16 => data.extend(half::f16::from_f32(x).to_le_bytes()),
                    Stored::BF16 => data.extend(half::bf16::from_f32(x).to_le_bytes()),
                }
            }
            let dtype = format!("{stored:?}");
            header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, data.len()] }));
        }
        header.insert("__metadata__".into(), json!({ "format": "pt" }));
        let header = Value::Object(header).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
        fs::write(path, bytes).expect("the weights");
    }
}
