//! Mamba as GGUF has it: other names, and A as it acts rather than its logarithm.

use std::path::Path;

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Container, Dtype};
use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted};
use memwall_testdata::model_folder::{ModelFolder, Stored};

const NAMES: [(&str, &str); 11] = [
    ("backbone.embeddings.", "token_embd."),
    ("backbone.norm_f.", "output_norm."),
    ("backbone.layers.", "blk."),
    (".mixer.in_proj.", ".ssm_in."),
    (".mixer.conv1d.", ".ssm_conv1d."),
    (".mixer.x_proj.", ".ssm_x."),
    (".mixer.dt_proj.", ".ssm_dt."),
    (".mixer.out_proj.", ".ssm_out."),
    (".mixer.A_log", ".ssm_a"),
    (".mixer.D", ".ssm_d"),
    (".norm.", ".attn_norm."),
];

/// The folder's model as GGUF, and keys changed by `change`.
fn write(folder: &Path, to: &Path, change: impl Fn(&mut Metadata)) {
    let source = Container::open(folder).expect("the folder opens");
    let name = |name: &str| NAMES.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to));
    let shape = |shape: &[usize]| shape.iter().copied().filter(|&n| n > 1).collect::<Vec<_>>();
    let plans = source.tensors().iter();
    let plans = plans.map(|t| TensorPlan { name: name(&t.name), dtype: Dtype::F32, shape: shape(&t.shape) }).collect();
    let mut keys = Metadata::new(to);
    keys.insert("general.architecture", "mamba");
    for (key, n) in [
        ("context_length", 256),
        ("embedding_length", 32),
        ("block_count", 2),
        ("ssm.conv_kernel", 4),
        ("ssm.inner_size", 64),
        ("ssm.state_size", 8),
        ("ssm.time_step_rank", 2u32),
    ] {
        keys.insert(format!("mamba.{key}"), n);
    }
    keys.insert("mamba.attention.layer_norm_rms_epsilon", 1e-5f32);
    change(&mut keys);
    let mut writer = Writer::create(to, &keys, plans).expect("the file is new");
    for tensor in source.tensors() {
        let bytes = source.bytes(tensor).chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let acts = |x: f32| if tensor.name.ends_with("A_log") { -x.exp() } else { x };
        writer.write(&bytes.flat_map(|x| acts(x).to_le_bytes()).collect::<Vec<u8>>()).expect("written");
    }
    writer.finish().expect("complete");
}

#[test]
fn logits_from_gguf_are_those_of_the_folder() -> Result<(), InferError> {
    let reference = ModelFolder::read("mamba");
    let folder = tempfile::tempdir()?;
    reference.write(folder.path(), Stored::F32, 1);
    let file = folder.path().join("mamba.gguf");
    write(folder.path(), &file, |_| {});
    let tokens = reference.tokens.len();
    let options = EngineOptions { context: tokens, step: tokens, outputs: tokens, ..Default::default() };
    let mut engine = Engine::new(&Model::open(&file)?, options)?;
    let logits = engine.step(&[StepRows { slot: 0, tokens: &reference.tokens }], Wanted::All)?;
    let worst = logits.iter().zip(&reference.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("mamba in GGUF: logits differ by at most {worst:e}");
    assert!(worst < 1e-4, "{worst}");
    Ok(())
}

#[test]
fn what_the_architecture_may_also_have_is_refused_by_key() {
    let reference = ModelFolder::read("mamba");
    let folder = tempfile::tempdir().expect("a folder");
    reference.write(folder.path(), Stored::F32, 1);
    let file = folder.path().join("mamba.gguf");
    let refused = |change: &dyn Fn(&mut Metadata), part: &str| {
        write(folder.path(), &file, change);
        let error = Model::open(&file).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
        std::fs::remove_file(&file).expect("it was there");
    };
    refused(&|m| drop(m.insert("mamba.ssm.dt_b_c_rms", true)), "mamba.ssm.dt_b_c_rms");
    refused(&|m| drop(m.insert("mamba.ssm.state_size", 9u32)), "blk.0.ssm_");
    refused(&|m| drop(m.insert("mamba.ssm.conv_kernel", 9u32)), "conv");
    refused(&|m| drop(m.insert("mamba.block_count", 3u32)), "blk.2.");
    refused(&|m| drop(m.remove("mamba.ssm.inner_size")), "mamba.ssm.inner_size");
}
