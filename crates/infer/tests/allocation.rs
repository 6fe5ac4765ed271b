//! Opening a model takes memory in proportion to its header, and none for its weights.
//!
//! One test in its own process, so that nothing else is counted.

use std::collections::BTreeMap;
use std::path::Path;

use memwall_formats::gguf::TensorPlan;
use memwall_formats::{Dtype, safetensors};
use memwall_infer::{InferError, Model};
use memwall_testdata::model_folder::{MODELS, ModelFolder, Stored};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// The most that is allocated while the folder is opened, and the bytes of its headers.
fn opened(folder: &Path) -> Result<(usize, usize), InferError> {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    drop(Model::open(folder)?);
    let peak = ALLOCATOR.peak_usage() - before;
    let file = std::fs::read(folder.join("model.safetensors"))?;
    let header = u64::from_le_bytes(*file.first_chunk().expect("8 bytes")) as usize;
    Ok((peak, header + std::fs::metadata(folder.join("config.json"))?.len() as usize))
}

/// As many layers as possible in as few bytes as possible.
fn deep(folder: &Path, layers: usize) -> Result<(), InferError> {
    let config = format!(
        r#"{{"model_type":"llama","hidden_size":2,"intermediate_size":1,"num_attention_heads":1,
            "num_hidden_layers":{layers},"vocab_size":2,"max_position_embeddings":8,"tie_word_embeddings":true}}"#
    );
    std::fs::write(folder.join("config.json"), config)?;
    let mut plans = vec![("model.embed_tokens.weight".to_string(), vec![2, 2])];
    for i in 0..layers {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        plans.extend([("input_layernorm", vec![2]), ("post_attention_layernorm", vec![2])].map(|(n, s)| (name(n), s)));
        plans.extend(["q_proj", "k_proj", "v_proj", "o_proj"].map(|n| (name(&format!("self_attn.{n}")), vec![2, 2])));
        plans.extend([("gate_proj", vec![1, 2]), ("up_proj", vec![1, 2])].map(|(n, s)| (name(&format!("mlp.{n}")), s)));
        plans.push((name("mlp.down_proj"), vec![2, 1]));
    }
    plans.push(("model.norm.weight".into(), vec![2]));
    let bytes = 2 * plans.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum::<usize>();
    let plans: Vec<TensorPlan> =
        plans.into_iter().map(|(name, shape)| TensorPlan { name, dtype: Dtype::F16, shape }).collect();
    let mut writer = safetensors::Writer::create(folder.join("model.safetensors"), &BTreeMap::new(), &plans)?;
    writer.write(&vec![0; bytes])?;
    Ok(writer.finish()?)
}

#[test]
fn opening_a_model_allocates_in_proportion_to_its_header() -> Result<(), InferError> {
    let check = |name: &str, folder: &Path| -> Result<(), InferError> {
        let (peak, header) = opened(folder)?;
        println!("{name}: {peak} bytes at once for {header} of header");
        assert!(peak <= 64 * header + (1 << 20), "{name}: {peak} bytes for a header of {header}");
        Ok(())
    };
    for name in MODELS {
        let folder = tempfile::tempdir()?;
        ModelFolder::read(name).write(folder.path(), Stored::F32, 1);
        check(name, folder.path())?;
    }
    let folder = tempfile::tempdir()?;
    deep(folder.path(), 2000)?;
    check("2000 layers", folder.path())
}
