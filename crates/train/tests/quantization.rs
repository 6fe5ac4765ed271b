//! Training with quantization: what is exported is what was trained, resuming changes no bit, and what makes no sense is named.

mod small;

use std::path::Path;

use memwall_cache::KvFormat;
use memwall_formats::{Container, Dtype};
use memwall_graph::Memory;
use memwall_infer::{Engine, EngineOptions, Model, StepRows, Wanted};
use memwall_kernels::gemm::Compute;
use memwall_nn::{ModelConfig, Operands, QuantizationConfig};
use memwall_train::export::{Stored, gguf};
use memwall_train::language::{LanguageOptions, train};
use memwall_train::{Batch, Optimizer, Recipe, Trainer, TrainerOptions};

use small::{example, options, text};

const TOKENS: usize = 24;

fn config(quantization: &str) -> ModelConfig {
    let config: ModelConfig = toml::from_str(&format!(
        "vocab_size = 64\nd_model = 256\nmax_context = 64\nquantization = {{ {quantization} }}\n\
         [[layers]]\nmixer = {{ kind = \"attention\", heads = 4, kv_heads = 2, head_dim = 64, rope = {{}} }}\n\
         channel = {{ kind = \"glu\", hidden = 256 }}\n"
    ))
    .expect("a model");
    config.check().expect("a model that can be built");
    config
}

fn trainer(config: &ModelConfig) -> Trainer {
    let options = TrainerOptions {
        tokens: TOKENS,
        sequences: 1,
        threads: 1,
        compute: Compute::F32,
        recompute: 0,
        seed: 5,
        input_noise: None,
        distillation: None,
        fences: true,
    };
    Trainer::new(config.clone(), options, Memory::new()).expect("a trainer")
}

fn batch(seed: i32) -> Batch {
    let ids: Vec<i32> = (0..TOKENS as i32).map(|i| (i * i * 7 + i * seed + 3) % 64).collect();
    let targets = ids.iter().map(|id| (id * 5 + 1) % 64).collect();
    Batch { ids, targets, lengths: vec![TOKENS] }
}

/// Trains a little, exports, and gives the logits of trainer and file, and the format of a matrix in the file.
fn both(quantization: &str, export: Option<Dtype>) -> Result<(Vec<f32>, Vec<f32>, Dtype), String> {
    let config = config(quantization);
    let mut trainer = trainer(&config);
    for step in 0..4 {
        trainer.step(&[batch(step)], 3e-3, &Optimizer::default()).map_err(|e| e.to_string())?;
    }
    let trained = trainer.evaluate(&batch(9)).map_err(|e| e.to_string())?.logits;

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.gguf");
    let g = trainer.graph();
    let shape = |name: &str| {
        let value = g.find(name).expect("a weight");
        g.shape(value).dims().iter().filter_map(|d| d.known()).collect::<Vec<_>>()
    };
    let weights: Vec<_> = trainer.parameters().map(|name| (name.to_string(), shape(name))).collect();
    let stored = Stored::of(&config, g, export);
    gguf(&path, "small", &stored, &weights, trainer.memory(), |_| Ok(())).map_err(|e| e.to_string())?;

    let container = Container::open(&path).expect("a file");
    let q = container.tensors().iter().find(|t| t.name.contains("q_proj") || t.name.contains("attn_q")).expect("q");
    let dtype = q.dtype;
    let model = Model::open(&path).map_err(|e| e.to_string())?;
    let kv = KvFormat::both(Dtype::F32);
    let options = EngineOptions { kv, context: TOKENS, step: TOKENS, outputs: TOKENS, ..Default::default() };
    let mut engine = Engine::new(&model, options).map_err(|e| e.to_string())?;
    let tokens: Vec<u32> = batch(9).ids.iter().map(|id| *id as u32).collect();
    let logits = engine.step(&[StepRows { slot: 0, tokens: &tokens }], Wanted::All).map_err(|e| e.to_string())?;
    Ok((trained, logits.to_vec(), dtype))
}

#[test]
fn the_file_says_what_the_rounded_model_said() {
    let cases = [
        ("weights = \"ternary_f16\", activations = \"int8\"", None, Dtype::TQ2_0),
        ("weights = \"ternary_f16\", activations = \"int8\", sub_norms = true", Some(Dtype::TQ1_0), Dtype::TQ1_0),
        ("weights = \"ternary\", activations = \"int8\", norm_eps = 1e-5", None, Dtype::F32),
        ("weights = \"ternary\", activations = \"int8\", correction = { rank = 3 }", Some(Dtype::F32), Dtype::F32),
        ("weights = \"ternary\"", None, Dtype::F32),
        ("weights = \"Q4_K\", activations = \"int8\"", None, Dtype::Q4_K),
        ("weights = \"Q8_0\", activations = \"int8\"", None, Dtype::Q8_0),
        ("weights = \"mxfp4\", activations = \"int8\"", None, Dtype::MXFP4),
        ("weights = \"int4:group32\", activations = \"int8\"", None, Dtype::F32),
        ("weights = \"nvfp4\", activations = \"mxfp8_e4m3\", straight_through = \"reached\"", None, Dtype::F32),
        ("activations = \"int8\"", None, Dtype::F32),
    ];
    for (quantization, export, stored) in cases {
        let (trained, file, dtype) = both(quantization, export).unwrap_or_else(|e| panic!("{quantization}: {e}"));
        assert_eq!(dtype, stored, "{quantization}");
        let spread = trained.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let rows = trained.chunks(64).zip(file.chunks(64));
        let worst: Vec<f32> =
            rows.map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / spread).collect();
        let most = worst.iter().fold(0.0_f32, |m, x| m.max(*x));
        println!("{quantization}: logits differ by at most {most:e} of the largest");
        // A last bit moves an activation over the middle of two codes now and then: a step of eight bits in one token.
        let apart = worst.iter().filter(|d| **d > 1e-5).count();
        assert!(apart <= 2 && most < 1e-2, "{quantization}: {apart} tokens differ, by up to {most}");
    }
}

#[test]
fn a_format_that_changes_what_was_rounded_is_refused() {
    let error = both("weights = \"int4:group32\"", Some(Dtype::Q8_0)).expect_err("refused");
    assert!(error.contains("int4:group32") && error.contains("Q8_0") && error.contains("export it as F32"), "{error}");
    let error = both("weights = \"ternary_f16\"", Some(Dtype::Q4_K)).expect_err("refused");
    assert!(error.contains("ternary_f16") && error.contains("export it as TQ2_0"), "{error}");
}

#[test]
fn six_low_bit_operands_train_a_model_and_stay_near_f32() {
    let named = |name: &str| name.parse().expect("a quantizer");
    let losses = |quantization: Option<QuantizationConfig>| -> Vec<f64> {
        let mut config = config("activations = \"int8\"");
        config.quantization = quantization;
        let mut trainer = trainer(&config);
        (0..30).map(|_| trainer.step(&[batch(1)], 3e-3, &Optimizer::default()).expect("a step").loss).collect()
    };
    let all = |name: &str, down: &str| QuantizationConfig {
        weights: Some(named(name)),
        activations: Some(named(name)),
        // 24 tokens: blocks of 8 down the columns.
        backward: Some(Operands { dw_dy: Some(named(down)), dw_x: Some(named(down)), ..Operands::all(named(name)) }),
        ..Default::default()
    };
    let plain = losses(None);
    let eight = losses(Some(all("mxint8_ceil", "int8:group8")));
    let four = losses(Some(all("int4:group32", "int4:group8")));
    let last = plain.len() - 1;
    assert!((eight[0] - plain[0]).abs() < 0.01 && (eight[last] - plain[last]).abs() < 0.05, "{eight:?}\n{plain:?}");
    assert!(four[last] < four[0] / 2.0, "{four:?}");
    assert!(eight.iter().zip(&plain).any(|(a, b)| a != b), "eight bits change something");
}

#[test]
fn resuming_gives_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("text.txt"), text(2000)).expect("written");
    let mut recipe = example();
    recipe.data.files = vec!["text.txt".into()];
    recipe.model.as_mut().expect("a model").vocab_size = 280;
    recipe.train.steps = 8;
    recipe.train.warm_up = 2;
    recipe.train.checkpoint_every = 3;
    recipe.sample = None;
    let quantization = "weights = \"ternary_f16\"\nactivations = \"int8\"\n\
                        correction = { rank = 2, schedule = { hold = 2, ramp = 3, freeze = 6, penalty = 1e-3 } }\n";
    recipe.quantization = Some(toml::from_str(quantization).expect("a section"));
    let run = |out: &Path, threads, resume, stop: Option<u64>| {
        let options = LanguageOptions { export: None, ..options(folder.path(), out, threads, resume) };
        let mut gates = Vec::new();
        let summary = train(
            &recipe,
            &options,
            |_| {},
            |line| {
                assert!(stop.is_none_or(|stop| line.step < stop), "stopped here");
                gates.push(line.gates.expect("gates").mean);
            },
        );
        summary.map(|_| gates).map_err(|e| e.to_string())
    };
    let (whole, cut) = (folder.path().join("whole"), folder.path().join("cut"));
    let gates = run(&whole, 1, false, None).unwrap_or_else(|e| panic!("{e}"));
    let begins = |at: usize| (gates[at] - 0.1).abs() < 1e-6;
    assert!(begins(0) && begins(1) && !begins(3), "held, then trained: {gates:?}");
    assert_eq!(gates[6], gates[7], "frozen: {gates:?}");
    let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&cut, 1, false, Some(5)).is_ok()));
    assert!(stopped.is_err(), "stopped in the middle");
    run(&cut, 2, true, None).unwrap_or_else(|e| panic!("{e}"));
    let bytes = |out: &Path, name: &str| std::fs::read(out.join(name)).expect("a file");
    assert!(bytes(&whole, "model.gguf") == bytes(&cut, "model.gguf"));
}

#[test]
fn a_penalty_is_the_mean_square_of_gates_and_nothing_else_pulls_at_them() {
    let loss = |correction: &str| {
        let mut trainer =
            trainer(&config(&format!("weights = \"ternary\", correction = {{ rank = 2, {correction} }}")));
        let before = trainer.gates().expect("gates");
        let optimizer = Optimizer { decay_all: true, weight_decay: 0.5, ..Optimizer::default() };
        let loss = trainer.step(&[batch(1)], 1e-2, &optimizer).expect("a step").loss;
        (loss, before, trainer.gates().expect("gates"))
    };
    for gate in ["sigmoid", "tanh", "identity"] {
        for by_channel in [false, true] {
            let of = |penalty: f64| {
                loss(&format!(
                    "gate = \"{gate}\", by_channel = {by_channel}, initial = 0.3, schedule = {{ penalty = {penalty:?} }}"
                ))
            };
            let ((plain, before, after), (penalized, _, pulled)) = (of(0.0), of(10.0));
            // B is 0, so that the loss alone says nothing of gates; and they do not decay.
            assert_eq!(before, after, "{gate} {by_channel}");
            assert!((penalized - plain - 10.0 * 0.09).abs() < 1e-5, "{gate} {by_channel}: {plain} {penalized}");
            assert!(pulled.most < before.least, "{gate} {by_channel}: {pulled:?}");
        }
    }
}

#[test]
fn sections_that_make_no_sense_are_named() {
    let refused = |section: &str| {
        let mut text = toml::to_string(&example()).expect("a recipe");
        text.push_str(&format!("\n[quantization]\n{section}\n"));
        Recipe::parse(Path::new("r.toml"), &text).expect_err(section).to_string()
    };
    let error = refused("weights = \"tenary\"");
    assert!(error.contains("tenary") && error.contains("did you mean ternary?"), "{error}");
    let error = refused("weight = \"ternary\"");
    assert!(error.contains("did you mean `weights`?"), "{error}");
    let error = refused("activations = \"int8:tensor\"");
    assert!(error.contains("quantization.activations") && error.contains("int8:row"), "{error}");
    assert!(refused("").contains("rounds nothing"));
    let error = refused("weights = \"ternary\"\nnorm_eps = -1.0");
    assert!(error.contains("quantization.norm_eps"), "{error}");
    let error = refused("weights = \"ternary\"\ncorrection = { rank = 0 }");
    assert!(error.contains("quantization.correction.rank"), "{error}");
}
