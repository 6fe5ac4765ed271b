//! Hugging Face folders of every family against reference outputs of other software.

use std::path::Path;

use memwall_cache::KvFormat;
use memwall_formats::Dtype;
use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted, sample};
use memwall_testdata::model_folder::{MODELS, ModelFolder, Stored};

fn options(tokens: usize) -> EngineOptions {
    let kv = KvFormat::both(Dtype::F32);
    EngineOptions { kv, context: tokens, step: tokens, outputs: tokens, ..Default::default() }
}

/// Logits of all of the reference's tokens, in one step.
fn logits(folder: &Path, reference: &ModelFolder) -> Result<Vec<f32>, InferError> {
    let model = Model::open(folder)?;
    let mut engine = Engine::new(&model, options(reference.tokens.len()))?;
    Ok(engine.step(&[StepRows { slot: 0, tokens: &reference.tokens }], Wanted::All)?.to_vec())
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_equal_the_reference_and_so_do_the_greedy_tokens() -> Result<(), InferError> {
    for name in MODELS {
        let reference = ModelFolder::read(name);
        let folder = tempfile::tempdir()?;
        reference.write(folder.path(), Stored::F32, 1);
        let made = logits(folder.path(), &reference)?;
        let difference = worst(&made, &reference.logits);
        println!("{name}: logits differ by at most {difference:e}");
        assert!(difference < 1e-4, "{name}: logits differ by {difference}");

        let model = Model::open(folder.path())?;
        assert!(model.checkpoint().unread.is_empty(), "{name}: {:?}", model.checkpoint().unread);
        let mut engine = Engine::new(&model, options(reference.tokens.len()))?;
        let (prompt, want) = reference.tokens.split_at(reference.prompt);
        let mut next = sample::greedy(engine.prefill(0, prompt)?);
        let mut tokens = vec![next];
        while tokens.len() < want.len() {
            next = sample::greedy(engine.step(&[StepRows { slot: 0, tokens: &[next] }], Wanted::Last)?);
            tokens.push(next);
        }
        assert_eq!(want.len(), 64);
        assert_eq!(tokens, want, "{name}");
    }
    Ok(())
}

#[test]
fn shards_and_an_index_are_one_model() -> Result<(), InferError> {
    for name in ["llama_tied", "gla_hybrid"] {
        let reference = ModelFolder::read(name);
        let (whole, parts) = (tempfile::tempdir()?, tempfile::tempdir()?);
        reference.write(whole.path(), Stored::F32, 1);
        reference.write(parts.path(), Stored::F32, 3);
        assert_eq!(logits(whole.path(), &reference)?, logits(parts.path(), &reference)?, "{name}");
    }
    Ok(())
}

#[test]
fn half_precision_weights_give_the_reference_up_to_their_rounding() -> Result<(), InferError> {
    for name in ["llama_grouped", "qwen3", "gla_grouped"] {
        let reference = ModelFolder::read(name);
        let spread = reference.logits.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for (stored, bound) in [(Stored::F16, 0.01), (Stored::BF16, 0.08)] {
            let folder = tempfile::tempdir()?;
            reference.write(folder.path(), stored, 1);
            let difference = worst(&logits(folder.path(), &reference)?, &reference.logits) / spread;
            println!("{name} in {stored:?}: logits differ by at most {difference} of the largest");
            assert!((1e-6..bound).contains(&difference), "{name} in {stored:?}: {difference}");
        }
    }
    Ok(())
}

#[test]
fn a_header_of_any_length_gives_the_same_logits() -> Result<(), InferError> {
    let reference = ModelFolder::read("llama");
    for stored in [Stored::F32, Stored::BF16] {
        let folder = tempfile::tempdir()?;
        reference.write(folder.path(), stored, 1);
        let file = folder.path().join("model.safetensors");
        let whole = std::fs::read(&file)?;
        let want = logits(folder.path(), &reference)?;
        let length = u64::from_le_bytes(*whole.first_chunk().expect("8 bytes"));
        for spaces in 1..4_usize {
            // JSON may end in spaces; the format asks for no alignment.
            let (header, data) = whole[8..].split_at(length as usize);
            let longer = (length + spaces as u64).to_le_bytes();
            std::fs::write(&file, [&longer, header, &b"   "[..spaces], data].concat())?;
            assert_eq!(logits(folder.path(), &reference)?, want, "{stored:?}, {spaces} spaces");
        }
    }
    Ok(())
}
