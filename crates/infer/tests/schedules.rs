//! The law of schedules on whole models: threads, the cut of a prompt and who else is in the batch change no bit.

use std::path::{Path, PathBuf};

use memwall_cache::KvFormat;
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, format};
use memwall_graph::check::pseudo_random;
use memwall_graph::{Graph, Source};
use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted};
use memwall_nn::{
    AttentionConfig, BaseConvConfig, CONFIG_KEY, ChannelConfig, DeltaNetConfig, GatedAssociativeConfig,
    GatedKalmanetConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig, MoeConfig, RopeConfig, Select,
    SelectiveAttentionConfig, Sequences, SharedExpert, ShortConvConfig, WeightTypes,
};

/// Tokens of the prompt, so that parts of 512 are cut too.
const PROMPT: usize = 530;

/// Mixers of several kinds: norms of q and k and grouped heads as in Qwen3, a window, a gated state behind convolutions; and
/// experts in some layers.
fn mixed() -> ModelConfig {
    let rope = Some(RopeConfig::default());
    let attention = AttentionConfig { rope, qk_norm: true, ..AttentionConfig::new(4, 2, 16) };
    let window = AttentionConfig { window: Some(24), ..attention.clone() };
    let gla = GlaConfig { short_conv: Some(4), ..GlaConfig::new(2, 16, 32) };
    let plain = || AttentionConfig::new(4, 2, 16);
    let mixers = [
        MixerConfig::Gla(gla),
        MixerConfig::Attention(attention),
        MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true }),
        MixerConfig::DeltaNet(DeltaNetConfig::new(2, 16, 32)),
        MixerConfig::GatedKalmanet(GatedKalmanetConfig { kv_heads: Some(1), ..GatedKalmanetConfig::new(2, 16) }),
        MixerConfig::GatedAssociative(GatedAssociativeConfig::new(24, 3)),
        MixerConfig::BaseConv(BaseConvConfig::long(600)),
        MixerConfig::BaseConv(BaseConvConfig::short(3)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(plain(), Select::Threshold)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(plain(), Select::SeenBefore)),
        MixerConfig::Attention(window),
    ];
    let channel = ChannelConfig::Glu { hidden: 96, activation: Default::default(), bias: false };
    let shared = Some(SharedExpert { hidden: 32, gate: true });
    let experts = ChannelConfig::Moe(MoeConfig { shared, ..MoeConfig::new(6, 2, 32) });
    let channels = [channel.clone(), experts.clone(), experts, channel.clone(), channel];
    let layers =
        mixers.into_iter().zip(channels.into_iter().cycle()).map(|(mixer, channel)| LayerConfig { mixer, channel });
    ModelConfig { norm_eps: 1e-6, ..ModelConfig::new(200, 64, 600, layers.collect()) }
}

/// A model of pseudo-random weights, its matrices in `matrices` where their rows fit.
fn random(path: &Path, config: &ModelConfig, matrices: Dtype) -> Model {
    let mut g = Graph::new(Dtype::F32);
    let types = WeightTypes::new();
    let seqs = Sequences::whole(&mut g, 1, 1).expect("inputs");
    let hidden = config.hidden(&mut g, &types, &seqs).expect("a model");
    config.logits(&mut g, &types, hidden, None).expect("a head");
    let mut m = Metadata::new(path);
    m.insert("general.architecture", "memwall");
    m.insert(CONFIG_KEY, serde_json::to_string(config).expect("JSON").as_str());
    let weights: Vec<(String, Vec<usize>)> = g
        .values()
        .filter(|(_, info)| matches!(info.source, Source::Weight))
        .map(|(_, info)| (info.name.to_string(), info.ty.shape.sizes(&[]).axes().to_vec()))
        .collect();
    let dtype = |name: &str, shape: &[usize]| match shape {
        [.., _, width]
            if !name.contains("conv1d") && !name.contains("conv.weight") && !name.contains("memory_bank") =>
        {
            if matrices.row_bytes(*width).is_some() { matrices } else { Dtype::F32 }
        }
        _ => Dtype::F32,
    };
    let plans = weights.iter().map(|(n, s)| TensorPlan { name: n.clone(), dtype: dtype(n, s), shape: s.clone() });
    let mut writer = Writer::create(path, &m, plans.collect()).expect("a file");
    for (name, shape) in &weights {
        let (n, width) = (shape.iter().product::<usize>(), shape[shape.len() - 1]);
        let scale = if name.contains("norm") { 1.0 } else { 2.0 / (width as f64).sqrt() };
        let values: Vec<f32> = (0..n).map(|i| (scale * pseudo_random(name, i)) as f32).collect();
        let dtype = dtype(name, shape);
        let mut bytes = vec![0; n / width * dtype.row_bytes(width).expect("rows fit")];
        format(dtype).encode(width, &values, &mut bytes).expect("finite");
        writer.write(&bytes).expect("written");
    }
    writer.finish().expect("whole");
    Model::open(path).expect("a model")
}

fn models(folder: &Path) -> Vec<(&'static str, Model)> {
    let ships = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/memwall-books.gguf");
    let mut all = vec![
        ("the model that ships", Model::open(ships).expect("the model that ships")),
        ("every mixer, Q8_0", random(&folder.join("q8_0.gguf"), &mixed(), Dtype::Q8_0)),
    ];
    if let Some(path) = memwall_testdata::data("models-llama2c/stories260K-restored.bin") {
        all.push(("stories260K", Model::open(path).expect("the model opens")));
    }
    all
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The logits of the last token of `prompt` in slot 2 of 5, the others being at other lengths: beside it in each step.
fn in_a_batch(model: &Model, options: EngineOptions, prompt: &[u32], part: usize) -> Result<Vec<u32>, InferError> {
    let o = EngineOptions { slots: 5, outputs: 5, step: part + 4, ..options };
    let mut engine = Engine::new(model, o)?;
    for slot in [0, 1, 3, 4] {
        engine.prefill(slot, &prompt[..3 * slot + 1])?;
    }
    let mut last = Vec::new();
    for (i, tokens) in prompt.chunks(part).enumerate() {
        // One more token of each of the others, around the rows of this one, while their context lasts.
        let beside = [i * 5 % prompt.len()].map(|t| prompt[t]);
        let other = |slot| StepRows { slot, tokens: &beside };
        let alone = i > 400;
        let batch: Vec<StepRows<'_>> = match alone {
            true => vec![StepRows { slot: 2, tokens }],
            false => vec![other(4), other(0), StepRows { slot: 2, tokens }, other(1), other(3)],
        };
        let at = if alone { 0 } else { 2 };
        let vocabulary = model.checkpoint().config.vocab_size;
        last = bits(&engine.step(&batch, Wanted::Last)?[at * vocabulary..(at + 1) * vocabulary]);
    }
    Ok(last)
}

#[test]
fn threads_parts_and_neighbours_change_no_bit() -> Result<(), InferError> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, model) in models(folder.path()) {
        let config = &model.checkpoint().config;
        let length = PROMPT.min(config.max_context);
        let prompt: Vec<u32> =
            (0..length as u32).map(|i| (i * i * 31 + 7 * i + 1) % config.vocab_size as u32).collect();
        let kv = KvFormat::both(Dtype::F16);
        let mut want: Option<Vec<u32>> = None;
        for threads in [1, 2] {
            for part in [1, 7, 64, 512] {
                let options = EngineOptions { threads, context: length, step: part, kv, ..EngineOptions::default() };
                let alone = bits(Engine::new(&model, options)?.prefill(0, &prompt)?);
                assert_eq!(want.get_or_insert_with(|| alone.clone()), &alone, "{name}: {threads} threads, {part} rows");
                let batch = in_a_batch(&model, options, &prompt, part)?;
                assert_eq!(want.as_ref(), Some(&batch), "{name}: {threads} threads, {part} rows, in a batch of 5");
            }
        }
        let other = bits(
            Engine::new(&model, EngineOptions { context: length, ..EngineOptions::default() })?
                .prefill(0, &prompt[1..])?,
        );
        assert_ne!(want, Some(other), "{name}: another prompt has other logits");
    }
    Ok(())
}

#[test]
fn what_stands_at_positions_is_forgotten_token_by_token() -> Result<(), InferError> {
    let folder = tempfile::tempdir().expect("a folder");
    let attention = AttentionConfig::new(4, 2, 16);
    let mixers = [
        MixerConfig::BaseConv(BaseConvConfig::long(64)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(attention.clone(), Select::Threshold)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(attention, Select::SeenBefore)),
    ];
    let layers = mixers.into_iter().map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None });
    let model = random(&folder.path().join("f32.gguf"), &ModelConfig::new(50, 64, 64, layers.collect()), Dtype::F32);
    let options = EngineOptions { context: 40, ..EngineOptions::default() };
    let (first, other) = ([7, 9, 7, 30, 9, 41, 2], [3, 9, 7, 12, 3]);
    let fresh = bits(Engine::new(&model, options)?.prefill(0, &[&first[..3], &other[..]].concat())?);
    let mut engine = Engine::new(&model, options)?;
    engine.prefill(0, &first)?;
    assert!(engine.rewind(0, 3));
    assert_eq!(bits(engine.prefill(0, &other)?), fresh);
    let short = ModelConfig::new(
        50,
        64,
        64,
        vec![LayerConfig { mixer: MixerConfig::BaseConv(BaseConvConfig::short(3)), channel: ChannelConfig::None }],
    );
    let mut engine = Engine::new(&random(&folder.path().join("short.gguf"), &short, Dtype::F32), options)?;
    engine.prefill(0, &first)?;
    assert!(!engine.rewind(0, 3), "a short convolution keeps its last inputs only");
    Ok(())
}
