//! A Llama-shaped model of a few kilobytes, whole or with one thing wrong.

use std::path::{Path, PathBuf};

use memwall_formats::Dtype;
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};

pub const VOCAB: usize = 259;
pub const CONTEXT: usize = 64;
const WIDTH: usize = 32;
const HIDDEN: usize = 64;

/// What goes into the file.
pub struct Tiny {
    pub metadata: Metadata,
    pub tensors: Vec<TensorPlan>,
    /// The first value of this tensor is NaN.
    pub nan: Option<&'static str>,
}

impl Tiny {
    pub fn new() -> Tiny {
        let mut m = Metadata::new("tiny");
        m.insert("general.architecture", "llama");
        for (key, n) in [
            ("context_length", CONTEXT),
            ("embedding_length", WIDTH),
            ("block_count", 1),
            ("feed_forward_length", HIDDEN),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
        ] {
            m.insert(format!("llama.{key}"), n as u32);
        }
        m.insert("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
        m.insert("tokenizer.ggml.model", "llama");
        let names: Vec<String> = ["<unk>", "<s>", "</s>"]
            .map(String::from)
            .into_iter()
            .chain((0..256).map(|b| format!("<0x{b:02X}>")))
            .collect();
        let kinds: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).collect();
        m.insert("tokenizer.ggml.tokens", names);
        m.insert("tokenizer.ggml.scores", vec![0.0_f32; VOCAB]);
        m.insert("tokenizer.ggml.token_type", kinds);
        m.insert("tokenizer.ggml.bos_token_id", 1_u32);
        m.insert("tokenizer.ggml.eos_token_id", 2_u32);
        let tensors = [
            ("token_embd.weight", vec![VOCAB, WIDTH]),
            ("blk.0.attn_norm.weight", vec![WIDTH]),
            ("blk.0.attn_q.weight", vec![WIDTH, WIDTH]),
            ("blk.0.attn_k.weight", vec![WIDTH / 2, WIDTH]),
            ("blk.0.attn_v.weight", vec![WIDTH / 2, WIDTH]),
            ("blk.0.attn_output.weight", vec![WIDTH, WIDTH]),
            ("blk.0.ffn_norm.weight", vec![WIDTH]),
            ("blk.0.ffn_gate.weight", vec![HIDDEN, WIDTH]),
            ("blk.0.ffn_up.weight", vec![HIDDEN, WIDTH]),
            ("blk.0.ffn_down.weight", vec![WIDTH, HIDDEN]),
            ("output_norm.weight", vec![WIDTH]),
        ];
        let tensors = tensors.map(|(name, shape)| TensorPlan { name: name.into(), dtype: Dtype::F32, shape }).into();
        Tiny { metadata: m, tensors, nan: None }
    }

    /// Writes it; values are a fixed scramble of their places.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("tiny.gguf");
        let mut writer = Writer::create(&path, &self.metadata, self.tensors.clone()).expect("a header");
        let mut state = 1_u32;
        for t in &self.tensors {
            let mut values: Vec<f32> = (0..t.shape.iter().product::<usize>())
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) as f32 / (1 << 24) as f32 - 0.5
                })
                .collect();
            if self.nan == Some(t.name.as_str()) {
                values[0] = f32::NAN;
            }
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write(&bytes).expect("a tensor");
        }
        writer.finish().expect("a file");
        path
    }

    pub fn tensor(&mut self, name: &str) -> &mut TensorPlan {
        self.tensors.iter_mut().find(|t| t.name == name).expect("a tensor of that name")
    }
}
