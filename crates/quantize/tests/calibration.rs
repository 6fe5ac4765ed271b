//! Calibration against what the model itself computes, and against its own bound.

use memwall_infer::{Engine, EngineOptions, Model, StepRows, Wanted};
use memwall_quantize::{Calibration, CalibrationText, Collect, QuantizeError};
use memwall_store::Budget;
use memwall_testdata::model_folder::{ModelFolder, Stored};

const CONTEXT: usize = 16;

fn model(name: &str) -> (tempfile::TempDir, Model) {
    let folder = tempfile::tempdir().expect("a folder");
    ModelFolder::read(name).write(folder.path(), Stored::F32, 1);
    let model = Model::open(folder.path()).expect("a model");
    (folder, model)
}

fn tokens(model: &Model, n: usize) -> Vec<u32> {
    let vocab = model.checkpoint().config.vocab_size;
    (0..n).map(|i| (i * 37 % 101 % vocab) as u32).collect()
}

#[test]
fn every_matrix_that_multiplies_has_statistics_once() {
    for name in ["llama", "llama_tied", "llama_grouped", "qwen2", "gla_hybrid"] {
        let (_folder, model) = model(name);
        let tokens = tokens(&model, 4 * CONTEXT);
        let text = CalibrationText { tokens: &tokens, context: CONTEXT, bos: None };
        let mut run = Calibration::new(&model, text, Collect::Squares, 1, &Budget::unlimited()).expect("a text");
        let mut seen = Vec::new();
        while let Some(block) = run.next_block().expect("a block") {
            for s in block {
                assert_eq!((s.tokens(), s.mean_squares().len()), (4 * CONTEXT, s.width()));
                assert!(s.mean_squares().iter().any(|&x| x > 0.0), "{name}: {:?}", s.weights());
                seen.extend(s.weights().to_vec());
            }
        }
        let tied = model.checkpoint().config.tie_embeddings;
        let mut matrices: Vec<String> = model
            .checkpoint()
            .weights()
            .into_iter()
            .filter(|(n, shape)| shape.len() == 2 && !n.contains("conv1d") && (tied || !n.contains("embed_tokens")))
            .map(|(n, _)| n)
            .collect();
        matrices.sort();
        seen.sort();
        assert_eq!(seen, matrices, "{name}");
    }
}

#[test]
fn the_heads_inputs_are_those_that_give_the_engines_logits() {
    let (_folder, model) = model("llama");
    let context = 64;
    let tokens = tokens(&model, context);
    let text = CalibrationText { tokens: &tokens, context, bos: None };
    let mut run = Calibration::new(&model, text, Collect::Moments, 1, &Budget::unlimited()).expect("a text");
    let mut last = None;
    while let Some(block) = run.next_block().expect("a block") {
        last = Some(block);
    }
    let head = &last.expect("a head")[0];
    let options = EngineOptions { context, step: context, outputs: context, ..EngineOptions::default() };
    let mut engine = Engine::new(&model, options).expect("an engine");
    let logits = engine.step(&[StepRows { slot: 0, tokens: &tokens }], Wanted::All).expect("logits").to_vec();
    let weights = engine.weights().find(|(n, ..)| *n == "lm_head.weight").map(|(_, _, bytes)| bytes.to_vec());
    let weights: Vec<f32> =
        weights.expect("a head").chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    let vocab = model.checkpoint().config.vocab_size;
    // Σ over tokens of logit² = w XᵀX wᵀ, for each row w of the head.
    for (row, w) in weights.chunks(head.width()).enumerate() {
        let got: f64 = logits.chunks(vocab).map(|l| f64::from(l[row]).powi(2)).sum();
        let moments = head.moments().expect("moments");
        let mut want = 0.0;
        for (i, a) in w.iter().enumerate() {
            for (j, b) in w.iter().enumerate() {
                want += f64::from(*a) * moments[i * head.width() + j] * f64::from(*b);
            }
        }
        assert!((got - want).abs() <= 2e-3 * want.abs().max(1e-3), "row {row}: {got} and {want}");
    }
}

#[test]
fn memory_stays_within_the_bound_that_was_stated() {
    for name in ["llama", "gla_hybrid"] {
        let (_folder, model) = model(name);
        let tokens = tokens(&model, 24 * CONTEXT);
        let text = CalibrationText { tokens: &tokens, context: CONTEXT, bos: None };
        for collect in [Collect::Squares, Collect::Moments] {
            let bound = Calibration::bound(&model, text, collect, 2).expect("a bound");
            let budget = Budget::new(bound);
            let mut run = Calibration::new(&model, text, collect, 2, &budget).expect("a text");
            while let Some(block) = run.next_block().expect("a block within the bound") {
                drop(block);
            }
            let peak = budget.report().peak;
            assert!(peak * 10 >= bound * 7, "{name}: the bound {bound} is far from the peak {peak}");
        }
    }
}

#[test]
fn a_text_too_short_says_how_much_is_needed() {
    let (_folder, model) = model("llama");
    let tokens = tokens(&model, CONTEXT);
    let refused = |tokens: &[u32], collect| {
        let text = CalibrationText { tokens, context: CONTEXT, bos: None };
        match Calibration::new(&model, text, collect, 1, &Budget::unlimited()) {
            Err(QuantizeError::ShortText { have, need, .. }) => (have, need),
            other => panic!("{:?}", other.err()),
        }
    };
    assert_eq!(refused(&tokens[..5], Collect::Squares), (5, CONTEXT));
    let (have, need) = refused(&tokens, Collect::Moments);
    assert!(have == CONTEXT && need > CONTEXT && need.is_multiple_of(CONTEXT), "{have} {need}");
}
