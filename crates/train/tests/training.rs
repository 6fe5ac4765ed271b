//! Recipes, resuming and schedules of training.

use std::path::{Path, PathBuf};

use memwall_formats::{Container, Dtype};
use memwall_graph::Memory;
use memwall_kernels::gemm::Compute;
use memwall_train::language::{LanguageOptions, train};
use memwall_train::{Batch, Optimizer, Recipe, Trainer, TrainerOptions};

const PAGE: &str = include_str!("../../../docs/src/crates/train.md");

fn example() -> Recipe {
    let begin = PAGE.find("```toml\n").expect("an example") + 8;
    let end = begin + PAGE[begin..].find("```").expect("its end");
    Recipe::parse(Path::new("train.md"), &PAGE[begin..end]).expect("the page's example is a recipe")
}

/// A folder that goes when the test ends.
struct Folder(PathBuf);
impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("memwall-train-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }
}
impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Text with something to learn: sentences of a small grammar.
fn text(sentences: usize) -> String {
    let (who, what, whom) =
        (["the cat", "a dog", "my friend"], ["sees", "likes", "follows"], ["the bird", "a fish", "us"]);
    let mut state = 12_345_u32;
    let mut pick = |of: [&'static str; 3]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        of[(state >> 16) as usize % 3]
    };
    (0..sentences).map(|_| format!("{} {} {}. ", pick(who), pick(what), pick(whom))).collect()
}

#[test]
fn recipes_of_the_repository_and_of_the_page_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut read = 0;
    for entry in std::fs::read_dir(folder).expect("the recipes") {
        let path = entry.expect("a recipe").path();
        Recipe::read(&path).unwrap_or_else(|e| panic!("{e}"));
        read += 1;
    }
    assert!(read >= 2);
    assert_eq!(example().train.recompute, 1);
}

#[test]
fn a_wrong_recipe_is_refused_by_file_and_key() {
    let base = toml::to_string(&example()).expect("TOML");
    let refused = |from: &str, to: &str| {
        assert!(base.contains(from), "{from} is in {base}");
        Recipe::parse(Path::new("r.toml"), &base.replacen(from, to, 1)).expect_err(to).to_string()
    };
    for (from, to, parts) in [
        ("warm_up = 10", "warmup = 10", ["r.toml", "warmup", "warm_up"]),
        ("window = 64", "window = 512", ["r.toml", "train.window", "256"]),
        ("heads = 2", "heads = 0", ["r.toml", "model.layers.0.mixer.heads", "at least 1"]),
        ("learning_rate = 0.003", "learning_rate = -1.0", ["r.toml", "train.learning_rate", "above 0"]),
    ] {
        let error = refused(from, to);
        for part in parts {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}

fn run(recipe: &Recipe, data: &Path, out: &Path, resume: bool) -> (f64, Vec<u8>) {
    let options = LanguageOptions { data: data.into(), out: out.into(), threads: 2, resume, export: Dtype::F32 };
    let summary = train(recipe, &options, |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let container = Container::open(out.join("checkpoint.safetensors")).expect("a checkpoint");
    let bytes = container.tensors().iter().flat_map(|t| container.bytes(t).to_vec()).collect();
    (summary.test_bits_per_byte, bytes)
}

#[test]
fn training_learns_and_a_resumed_training_ends_with_the_same_bits() {
    let folder = Folder::new("resume");
    std::fs::write(folder.0.join("text.txt"), text(4000)).expect("written");
    let mut recipe = example();
    recipe.data.files = vec!["text.txt".into()];
    recipe.model.vocab_size = 280;
    recipe.train.steps = 60;
    let (whole, bytes) = run(&recipe, &folder.0, &folder.0.join("whole"), false);
    assert!(whole < 1.0, "{whole} bits a byte of a text with log2(27) bits in about 24 bytes");

    // Stopped after 23 steps, by a training that checkpoints there and is then killed: its folder is copied.
    let mut first = recipe.clone();
    first.train.checkpoint_every = 23;
    let parts = folder.0.join("parts");
    let copy = folder.0.join("copy");
    std::fs::create_dir_all(&copy).expect("a folder");
    let options =
        LanguageOptions { data: folder.0.clone(), out: parts.clone(), threads: 2, resume: false, export: Dtype::F32 };
    train(&first, &options, |p| {
        if p.step == 24 {
            for file in ["checkpoint.safetensors", "tokenizer.json"] {
                std::fs::copy(parts.join(file), copy.join(file)).expect("copied");
            }
        }
    })
    .unwrap_or_else(|e| panic!("{e}"));
    let (_, resumed) = run(&first, &folder.0, &copy, true);
    assert!(resumed == bytes, "a resumed training differs from an uninterrupted one");
    assert!(copy.join("model.gguf").exists());

    let other = Recipe { name: "other".into(), ..first };
    let options = LanguageOptions { data: folder.0.clone(), out: copy, threads: 1, resume: true, export: Dtype::F32 };
    let error = train(&other, &options, |_| {}).expect_err("another recipe").to_string();
    assert!(error.contains("checkpoint.safetensors") && error.contains("another recipe"), "{error}");
}

fn steps(compute: Compute, threads: usize, recompute: usize, fences: bool) -> (Vec<f64>, usize) {
    let config = example().model;
    let o = TrainerOptions { tokens: 96, sequences: 3, threads, compute, recompute, seed: 3, fences };
    let mut trainer = Trainer::new(config, o, Memory::new()).expect("a trainer");
    let ids: Vec<i32> = (0..97).map(|i| (i * i * 7 + i) % 512).collect();
    let batch = Batch { ids: ids[..96].to_vec(), targets: ids[1..].to_vec(), lengths: vec![40, 1, 55] };
    let losses =
        (0..4).map(|_| trainer.step(std::slice::from_ref(&batch), 1e-2, &Optimizer::default()).expect("a step").loss);
    let losses = losses.collect();
    (losses, trainer.plan().arena_bytes)
}

#[test]
fn losses_do_not_depend_on_threads_or_on_what_is_recomputed() {
    for compute in [Compute::F32, Compute::Bf16] {
        let (want, _) = steps(compute, 1, 0, false);
        assert!(want[3] < want[0], "{want:?}");
        for (threads, recompute, fences) in [(2, 0, false), (1, 1, true), (2, 1, false)] {
            assert_eq!(
                steps(compute, threads, recompute, fences).0,
                want,
                "{compute:?}, {threads} threads, recompute {recompute}"
            );
        }
    }
    assert_ne!(steps(Compute::F32, 1, 0, false).0, steps(Compute::Bf16, 1, 0, false).0, "bf16 rounds");
}

#[test]
fn a_step_that_is_not_finite_names_an_operator_and_leaves_the_weights() {
    let o = TrainerOptions {
        tokens: 8,
        sequences: 1,
        threads: 1,
        compute: Compute::F32,
        recompute: 0,
        seed: 3,
        fences: false,
    };
    let mut trainer = Trainer::new(example().model, o, Memory::new()).expect("a trainer");
    let name = "model.layers.0.mlp.up_proj.weight";
    trainer.memory_mut().get_mut::<f32>(name).expect("a weight")[5] = f32::NAN;
    let before: Vec<u32> = trainer.memory().get::<u32>(name).expect("a weight").to_vec();
    let batch = Batch { ids: vec![1; 8], targets: vec![2; 8], lengths: vec![8] };
    let error = trainer.step(&[batch], 1e-2, &Optimizer::default()).expect_err("NaN").to_string();
    assert!(error.contains("linear") && error.contains("layers.0") && error.contains("NaN"), "{error}");
    assert_eq!(trainer.memory().get::<u32>(name).expect("a weight"), before);
}
