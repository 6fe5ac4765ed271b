//! Any bytes read as `config.json` beside the tensors of a known model give that model, or an error.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use memwall_formats::{Dtype, TensorInfo};
use memwall_fuzz::bounded;
use memwall_nn::{Checkpoint, GgufForm};

/// Tensors of a dense model, one with norms of q and k, and some with linear memories.
static FOLDERS: LazyLock<Vec<Vec<TensorInfo>>> = LazyLock::new(|| {
    [
        include_str!("../../crates/testdata/fixtures/hugging_face/llama_grouped/weights.json"),
        include_str!("../../crates/testdata/fixtures/hugging_face/qwen3/weights.json"),
        include_str!("../../crates/testdata/fixtures/hugging_face/gla_hybrid/weights.json"),
        include_str!("../../crates/testdata/fixtures/hugging_face/mamba2/weights.json"),
        include_str!("../../crates/testdata/fixtures/hugging_face/hgrn2/weights.json"),
        include_str!("../../crates/testdata/fixtures/hugging_face/gated_deltanet/weights.json"),
    ]
    .map(|json| {
        let table: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let shapes = table["shapes"].as_object().expect("shapes").iter();
        let size = |d: &serde_json::Value| d.as_u64().expect("a size") as usize;
        let shapes = shapes.map(|(name, shape)| (name, shape.as_array().expect("a shape").iter().map(size).collect()));
        let tensor = |(name, shape): (&String, Vec<usize>)| {
            let bytes = 4 * shape.iter().product::<usize>() as u64;
            TensorInfo { name: name.clone(), dtype: Dtype::F32, shape, file: 0, offset: 0, bytes }
        };
        shapes.map(tensor).collect()
    })
    .into()
});

fuzz_target!(|bytes: &[u8]| {
    for tensors in FOLDERS.iter() {
        let read = || Checkpoint::from_config_json(Path::new("config.json"), bytes, tensors);
        let Ok(checkpoint) = bounded(bytes.len(), read) else { continue };
        let form = GgufForm::of(&checkpoint.config);
        let mut metadata = memwall_formats::gguf::Metadata::new("fuzz.gguf");
        form.put_keys(&mut metadata);
        for (name, shape) in checkpoint.weights() {
            assert_eq!(checkpoint.tensors[&name].shape, shape);
            for row in 0..shape[0] {
                assert!(form.source_row(&name, row) < shape[0]);
            }
        }
        if let Some((_, factors)) = form.frequency_factors() {
            assert!(!factors.is_empty());
        }
    }
});
