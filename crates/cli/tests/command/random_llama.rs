//! A Llama-shaped model of any size with values that are a fixed scramble: for what depends on sizes only.

use std::path::{Path, PathBuf};

use memwall_formats::Dtype;
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};

/// Its sizes.
pub struct RandomLlama {
    pub vocab: usize,
    pub width: usize,
    pub hidden: usize,
    pub layers: usize,
    pub context: usize,
}

impl RandomLlama {
    /// Writes it with matrices in f16; it has no tokenizer.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let mut m = Metadata::new("random");
        m.insert("general.architecture", "llama");
        for (key, n) in [
            ("context_length", self.context),
            ("embedding_length", self.width),
            ("block_count", self.layers),
            ("feed_forward_length", self.hidden),
            ("attention.head_count", self.width / 64),
            ("attention.head_count_kv", self.width / 64),
        ] {
            m.insert(format!("llama.{key}"), n as u32);
        }
        m.insert("llama.attention.layer_norm_rms_epsilon", 1e-5_f32);
        let (w, h) = (self.width, self.hidden);
        let plan = |name: String, shape: Vec<usize>| TensorPlan {
            name,
            dtype: if shape.len() > 1 { Dtype::F16 } else { Dtype::F32 },
            shape,
        };
        let mut tensors = vec![plan("token_embd.weight".into(), vec![self.vocab, w])];
        for layer in 0..self.layers {
            for (part, shape) in [
                ("attn_norm", vec![w]),
                ("attn_q", vec![w, w]),
                ("attn_k", vec![w, w]),
                ("attn_v", vec![w, w]),
                ("attn_output", vec![w, w]),
                ("ffn_norm", vec![w]),
                ("ffn_gate", vec![h, w]),
                ("ffn_up", vec![h, w]),
                ("ffn_down", vec![w, h]),
            ] {
                tensors.push(plan(format!("blk.{layer}.{part}.weight"), shape));
            }
        }
        tensors.push(plan("output_norm.weight".into(), vec![w]));
        let path = folder.join("random.gguf");
        let mut writer = Writer::create(&path, &m, tensors.clone()).expect("a header");
        // f16 bits of ±[2⁻⁶, 2⁻⁵), which a longer block repeats: small enough that nothing overflows.
        let mut state = 1_u32;
        let block: Vec<u8> = (0..1 << 19)
            .flat_map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let bits = 0x2400 | (state >> 16 & 0x83FF) as u16;
                bits.to_le_bytes()
            })
            .collect();
        for t in &tensors {
            let elements = t.shape.iter().product::<usize>();
            if t.dtype == Dtype::F32 {
                let ones: Vec<u8> = 1.0_f32.to_le_bytes().repeat(elements);
                writer.write(&ones).expect("a norm");
                continue;
            }
            let mut left = 2 * elements;
            while left > 0 {
                let piece = left.min(block.len());
                writer.write(&block[..piece]).expect("a matrix");
                left -= piece;
            }
        }
        writer.finish().expect("a file");
        path
    }
}
