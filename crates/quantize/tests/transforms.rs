//! A transformed model is the same function, and another set of weights.

use std::path::Path;

use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, format};
use memwall_infer::Model;
use memwall_kernels::Pool;
use memwall_nn::{ARCHITECTURE, CONFIG_KEY, MixerConfig};
use memwall_quantize::{
    CalibrationText, QuantizeError, Rewrite, RotateHeads, RotateResidual, Smooth, Subject, Transform,
    logits_difference, transforms,
};
use memwall_store::Budget;
use memwall_testdata::model_folder::{MODELS, ModelFolder, Stored};

const CONTEXT: usize = 16;
/// Of the largest logit; two models in f32 differ by rounding.
const TOLERANCE: f64 = 1e-4;

fn open(folder: &Path, name: &str) -> Model {
    ModelFolder::read(name).write(folder, Stored::F32, 1);
    Model::open(folder).expect("a model")
}

fn tokens(model: &Model) -> Vec<u32> {
    let vocab = model.checkpoint().config.vocab_size;
    (0..4 * CONTEXT).map(|i| (i * 37 % 101 % vocab) as u32).collect()
}

fn values(model: &Model, weight: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = &model.checkpoint().tensors[weight];
    let mut values = vec![0.0; tensor.elements()];
    let width = tensor.shape.last().copied().unwrap_or(1);
    format(tensor.dtype).decode(width, model.container().bytes(tensor), &mut values).expect("values");
    (tensor.shape.clone(), values)
}

/// The model after a rewrite, as a file of memwall's own.
fn rewritten(model: &Model, rewrite: &Rewrite, file: &Path) -> Model {
    let mut metadata = Metadata::new(file);
    metadata.insert("general.architecture", ARCHITECTURE);
    metadata.insert(CONFIG_KEY, serde_json::to_string(&rewrite.config).expect("JSON"));
    let own = model.checkpoint().weights().into_iter().map(|(name, _)| (name.clone(), name));
    let added = rewrite.added().map(|(weight, from)| (weight.to_string(), from.to_string()));
    let all: Vec<(String, String)> = own.chain(added).collect();
    let plan = |(name, from): &(String, String)| TensorPlan {
        name: name.clone(),
        dtype: Dtype::F32,
        shape: values(model, from).0,
    };
    let mut writer = Writer::create(file, &metadata, all.iter().map(plan).collect()).expect("a file");
    for (name, from) in &all {
        let (shape, mut values) = values(model, from);
        rewrite.apply(name, &shape, &mut values, &Pool::new(1));
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        writer.write(&bytes).expect("a tensor");
    }
    writer.finish().expect("a whole file");
    Model::open(file).expect("a model")
}

fn rewrite(model: &Model, transform: &dyn Transform, text: bool) -> Result<Rewrite, QuantizeError> {
    let tokens = tokens(model);
    let text = text.then_some(CalibrationText { tokens: &tokens, context: CONTEXT, bos: None });
    let subject = Subject { model, text, format: &|_| Dtype::Q4_0, threads: 1, budget: &Budget::unlimited() };
    transform.rewrite(&subject)
}

#[test]
fn every_transform_leaves_every_model_the_same_function() {
    let folder = tempfile::tempdir().expect("a folder");
    let families = ["rwkv", "mamba", "bitnet", "hybrid_qwen3_bmojo"];
    let (mut worst, mut refused) = ((0.0, String::new()), Vec::new());
    for name in MODELS {
        let model = open(folder.path(), name);
        // Weights that are put together of several tensors are not rewritten.
        if !model.checkpoint().assembled.is_empty() {
            continue;
        }
        let tokens = tokens(&model);
        for transform in transforms() {
            let rewrite = match rewrite(&model, transform, true) {
                Ok(rewrite) => rewrite,
                // What does not commute is refused rather than changed.
                // Nor do layers that read others' values, as RWKV-7's, run one by one.
                Err(e)
                    if e.to_string().contains("the model would be another one")
                        || e.to_string().contains("no layer without it stands before this one") =>
                {
                    refused.push(format!("{name}, {}", transform.name()));
                    continue;
                }
                Err(e) => panic!("{name}: {e}"),
            };
            let other = rewritten(&model, &rewrite, &folder.path().join("other.gguf"));
            let off = logits_difference(&model, &other, &tokens[..CONTEXT], 1, &Budget::unlimited()).expect("logits");
            assert!(off <= TOLERANCE, "{name}, {}: {off}", transform.name());
            if off > worst.0 {
                worst = (off, format!("{name}, {}", transform.name()));
            }
            // Models without attention have no value heads.
            let layers = &model.checkpoint().config.layers;
            let has_heads = layers.iter().any(|layer| matches!(layer.mixer, MixerConfig::Attention(_)));
            let turns = transform.name() != "rotate-heads" || has_heads;
            let changed = model.checkpoint().weights().iter().any(|(weight, _)| {
                let (a, b) = (values(&model, weight).1, values(&other, weight).1);
                a.iter().zip(&b).any(|(a, b)| (a - b).abs() > 1e-3)
            });
            // A model without a link, as RWKV's between layer norms, has nothing to move; nor has a norm that is not read alone.
            assert!(
                changed == turns || !changed && families.iter().any(|f| name.starts_with(f)),
                "{name}, {}",
                transform.name()
            );
        }
    }
    assert!(refused.iter().all(|of| families.iter().any(|f| of.starts_with(f))), "{refused:?}");
    eprintln!("{} models, {} transforms, worst {:.1e}: {}", MODELS.len(), transforms().len(), worst.0, worst.1);
}

#[test]
fn one_transform_may_follow_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(folder.path(), "llama_grouped");
    let mut last = model.clone();
    for (i, transform) in transforms().into_iter().enumerate() {
        let rewrite = rewrite(&last, transform, true).expect("a rewrite");
        last = rewritten(&last, &rewrite, &folder.path().join(format!("{i}.gguf")));
    }
    let off = logits_difference(&model, &last, &tokens(&model)[..CONTEXT], 1, &Budget::unlimited()).expect("logits");
    assert!(off <= TOLERANCE, "{off}");
}

#[test]
fn a_rotation_spreads_an_input_that_is_loud() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(folder.path(), "llama");
    let mut loud = Rewrite::of(&model.checkpoint().config);
    let (shape, _) = values(&model, "model.embed_tokens.weight");
    let factors: Vec<f32> = (0..shape[1]).map(|j| if j == 3 { 30.0 } else { 1.0 }).collect();
    loud.edit("model.embed_tokens.weight", memwall_quantize::Edit::Columns(factors));
    let loud = rewritten(&model, &loud, &folder.path().join("loud.gguf"));
    let turned = rewrite(&loud, &RotateResidual { seed: 1 }, false).expect("a rewrite");
    let turned = rewritten(&loud, &turned, &folder.path().join("turned.gguf"));
    let crest = |model: &Model| {
        let (_, x) = values(model, "model.embed_tokens.weight");
        let most = x.iter().fold(0f32, |m, x| m.max(x.abs()));
        most / (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
    };
    assert!(crest(&turned) < 0.7 * crest(&loud), "{} before, {} after", crest(&loud), crest(&turned));
}

#[test]
fn smoothing_evens_out_inputs_and_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(folder.path(), "llama");
    let smoothed = rewrite(&model, &Smooth { alpha: 1.0 }, true).expect("a rewrite");
    let smoothed = rewritten(&model, &smoothed, &folder.path().join("smooth.gguf"));
    // With all of it moved, every input of the first layer has the same largest magnitude.
    let tokens = tokens(&model);
    let text = CalibrationText { tokens: &tokens, context: CONTEXT, bos: None };
    let budget = Budget::unlimited();
    let mut run = memwall_quantize::Calibration::new(&smoothed, text, memwall_quantize::Collect::Squares, 1, &budget)
        .expect("a text");
    let block = run.next_block().expect("a block").expect("the first");
    let q = block.iter().find(|s| s.weights()[0].contains("q_proj")).expect("q");
    assert!(q.largest().iter().all(|x| (x - 1.0).abs() < 1e-3), "{:?}", q.largest());
}

#[test]
fn what_a_transform_needs_and_lacks_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = open(folder.path(), "llama");
    for transform in transforms() {
        match (transform.reads_text(), rewrite(&model, transform, false)) {
            (true, Err(error @ QuantizeError::NoText { .. })) => {
                assert!(error.to_string().contains(transform.name()) && error.to_string().contains("text"));
            }
            (false, Ok(_)) => {}
            (_, other) => panic!("{}: {other:?}", transform.name()),
        }
    }
    let gla = open(folder.path(), "gla");
    let nothing = rewrite(&gla, &RotateHeads { seed: 1 }, false).expect("a rewrite");
    assert!(
        !nothing.changes("model.layers.0.attn.v_proj.weight"),
        "a norm follows the values of gated linear attention"
    );
}
