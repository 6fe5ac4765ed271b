//! Recipes, resuming and schedules of training.

use std::path::Path;

use memwall_formats::Container;
use memwall_graph::Memory;
use memwall_kernels::gemm::Compute;
use memwall_nn::{
    BmojoConfig, DeltaGate, DeltaNetConfig, EideticConfig, FeatureMap, GatedKalmanetConfig, Hgrn2Config,
    LinearAttentionConfig, Mamba2Config, MixerConfig, MlstmConfig, RetentionConfig,
};
use memwall_train::language::train;
use memwall_train::{Batch, Optimizer, Recipe, TrainError, Trainer, TrainerOptions};

mod small;
use small::{example, options, text};

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
    assert_eq!(example().train.recompute, Some(1));
}

#[test]
fn a_wrong_recipe_is_refused_by_file_and_key() {
    let base = toml::to_string(&example()).expect("TOML");
    let refused = |from: &str, to: &str| {
        assert!(base.contains(from), "{from} is in {base}");
        Recipe::parse(Path::new("r.toml"), &base.replacen(from, to, 1)).expect_err(to).to_string()
    };
    for (from, to, parts) in [
        ("warm_up = 10", "warmup = 10", ["r.toml", "warmup", "did you mean `warm_up`"]),
        ("kind = \"gla\"", "kind = \"gala\"", ["r.toml", "gala", "did you mean `gla`"]),
        ("hidden = 192", "hiden = 192", ["r.toml", "hiden", "did you mean `hidden`"]),
        ("recompute = 1", "recompute = 2", ["r.toml", "train.recompute", "1 blocks"]),
        ("steps = 100", "steps = 5", ["r.toml", "train.warm_up", "train.steps is 5"]),
        ("beta1 = 0.9", "beta1 = 1.0", ["r.toml", "optimizer.beta1", "below 1"]),
        ("weight_decay = 0.0", "weight_decay = -1.0", ["r.toml", "optimizer.groups.0.weight_decay", "from 0"]),
        ("[sample]\nevery = 50", "[sample]\nevery = 0", ["r.toml", "sample.every", "at least 1"]),
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
    let summary = train(recipe, &options(data, out, 2, resume), |_| {}, |_| {}).unwrap_or_else(|e| panic!("{e}"));
    let container = Container::open(out.join("checkpoint.safetensors")).expect("a checkpoint");
    let bytes = container.tensors().iter().flat_map(|t| container.bytes(t).to_vec()).collect();
    (summary.test_bits_per_byte, bytes)
}

#[test]
fn training_learns_and_a_resumed_training_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    std::fs::write(data.join("text.txt"), text(4000)).expect("written");
    let mut recipe = example();
    recipe.data.files = vec!["text.txt".into()];
    recipe.model.as_mut().expect("a model").vocab_size = 280;
    recipe.train.steps = 60;
    recipe.sample = None;
    let (whole, bytes) = run(&recipe, data, &data.join("whole"), false);
    assert!(whole < 1.0, "{whole} bits a byte of a text with log2(27) bits in about 24 bytes");

    // Stopped after 23 steps, by a training that checkpoints there and is then killed: its folder is copied.
    let mut first = recipe.clone();
    first.train.checkpoint_every = 23;
    let (parts, copy) = (data.join("parts"), data.join("copy"));
    std::fs::create_dir_all(&copy).expect("a folder");
    let report = |p: &memwall_train::language::Progress| {
        if p.step == 24 {
            for file in ["checkpoint.safetensors", "tokenizer.json", "metrics.jsonl"] {
                std::fs::copy(parts.join(file), copy.join(file)).expect("copied");
            }
        }
    };
    train(&first, &options(data, &parts, 2, false), |_| {}, report).unwrap_or_else(|e| panic!("{e}"));
    let (_, resumed) = run(&first, data, &copy, true);
    assert!(resumed == bytes, "a resumed training differs from an uninterrupted one");
    assert!(copy.join("model.gguf").exists());

    let refused = |recipe: &Recipe, parts: [&str; 2]| {
        let error = train(recipe, &options(data, &copy, 1, true), |_| {}, |_| {}).expect_err("refused").to_string();
        parts.iter().for_each(|part| assert!(error.contains(part), "{part} in: {error}"));
    };
    refused(&Recipe { name: "other".into(), ..first.clone() }, ["checkpoint.safetensors", "another recipe"]);
    std::fs::write(data.join("text.txt"), text(4001)).expect("written");
    refused(&first, ["checkpoint.safetensors", "other text"]);
}

#[test]
fn a_recipe_trains_the_delta_rule_with_every_kind_of_gate() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    std::fs::write(data.join("text.txt"), text(2000)).expect("written");
    for (name, gate) in [("none", DeltaGate::None), ("head", DeltaGate::Head), ("channel", DeltaGate::Channel)] {
        let mut recipe = example();
        let mixer = MixerConfig::DeltaNet(DeltaNetConfig { gate, ..DeltaNetConfig::new(2, 16, 32) });
        recipe.model.as_mut().expect("a model").layers[0].mixer = mixer;
        let written = toml::to_string(&recipe).expect("TOML");
        assert!(
            written.contains("kind = \"delta_net\"") && written.contains(&format!("gate = \"{name}\"")),
            "{written}"
        );
        let mut recipe = Recipe::parse(Path::new("r.toml"), &written).unwrap_or_else(|e| panic!("{e}"));
        recipe.data.files = vec!["text.txt".into()];
        recipe.model.as_mut().expect("a model").vocab_size = 280;
        recipe.train.steps = 60;
        recipe.sample = None;
        let (bits, _) = run(&recipe, data, &data.join(name), false);
        assert!(bits < 1.0, "gate {name}: {bits} bits a byte of a text with log2(27) bits in about 24 bytes");
    }
}

#[test]
fn a_recipe_trains_every_memory_that_decays_by_head_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path();
    std::fs::write(data.join("text.txt"), text(2000)).expect("written");
    let linear = LinearAttentionConfig {
        feature_map: FeatureMap::Taylor,
        normalize: true,
        short_conv: Some(4),
        ..LinearAttentionConfig::new(2, 8, 32)
    };
    let memory = MixerConfig::Mamba2(Mamba2Config::new(4, 32, 16));
    let bmojo = BmojoConfig { eidetic: Some(EideticConfig::new(4)), ..BmojoConfig::new(2, 1, 32, 8, memory) };
    for (name, mixer) in [
        ("linear_attention", MixerConfig::LinearAttention(linear)),
        ("retention", MixerConfig::Retention(RetentionConfig::new(2, 16, 32))),
        ("mamba2", MixerConfig::Mamba2(Mamba2Config::new(4, 32, 16))),
        ("bmojo", MixerConfig::Bmojo(bmojo)),
        ("gated_kalmanet", MixerConfig::GatedKalmanet(GatedKalmanetConfig::new(2, 32))),
        ("hgrn2", MixerConfig::Hgrn2(Hgrn2Config { short_conv: Some(4), ..Hgrn2Config::new(2, 32, 32) })),
        ("mlstm", MixerConfig::Mlstm(MlstmConfig::new(2, 16, 32))),
    ] {
        let mut recipe = example();
        recipe.model.as_mut().expect("a model").layers[0].mixer = mixer;
        let written = toml::to_string(&recipe).expect("TOML");
        assert!(written.contains(&format!("kind = \"{name}\"")), "{written}");
        let mut recipe = Recipe::parse(Path::new("r.toml"), &written).unwrap_or_else(|e| panic!("{e}"));
        recipe.data.files = vec!["text.txt".into()];
        recipe.model.as_mut().expect("a model").vocab_size = 280;
        recipe.train.steps = 60;
        recipe.sample = None;
        let (bits, _) = run(&recipe, data, &data.join(name), false);
        println!("{name}: {bits} bits a byte");
        assert!(bits < 1.7, "{name}: {bits} bits a byte of a text with log2(27) bits in about 24 bytes");
    }
}

fn steps(compute: Compute, threads: usize, recompute: usize, fences: bool) -> (Vec<f64>, usize) {
    let config = example().model.expect("a model");
    let o = TrainerOptions {
        tokens: 96,
        sequences: 3,
        threads,
        compute,
        recompute,
        seed: 3,
        input_noise: None,
        distillation: None,
        fences,
    };
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
        input_noise: None,
        distillation: None,
        fences: false,
    };
    let batch = Batch { ids: vec![1; 8], targets: vec![2; 8], lengths: vec![8] };
    // One that the first operator after it meets, and one inside the recurrence, whose operator refuses it.
    for (name, op) in [("model.layers.0.mlp.up_proj.weight", "linear"), ("model.layers.0.attn.k_proj.weight", "linear")]
    {
        for (value, word) in [(f32::NAN, "NaN"), (f32::INFINITY, "infinity"), (f32::NEG_INFINITY, "infinity")] {
            let config = example().model.expect("a model");
            let mut trainer = Trainer::new(config, o, Memory::new()).expect("a trainer");
            trainer.memory_mut().get_mut::<f32>(name).unwrap_or_else(|| panic!("{name}"))[5] = value;
            let before: Vec<u32> = trainer.memory().get::<u32>(name).expect("a weight").to_vec();
            let error = trainer.step(std::slice::from_ref(&batch), 1e-2, &Optimizer::default()).expect_err(name);
            assert!(matches!(error, TrainError::NotFinite { step: 0, .. }), "{error}");
            let error = error.to_string();
            for part in [op, "layers.0", name] {
                assert!(error.contains(part), "{part} in: {error}");
            }
            assert!(error.contains(word) || error.contains("NaN"), "{error}");
            assert_eq!(trainer.memory().get::<u32>(name).expect("a weight"), before);
        }
    }
}
