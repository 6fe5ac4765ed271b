//! The law of schedules on whole models: threads, the cut of a prompt and who else is in the batch change no bit.

use std::path::{Path, PathBuf};

use memwall_cache::KvFormat;
use memwall_formats::gguf::{Metadata, TensorPlan, Writer};
use memwall_formats::{Dtype, format};
use memwall_graph::check::pseudo_random;
use memwall_graph::{Graph, Source};
use memwall_infer::{Engine, EngineOptions, InferError, Model, StepRows, Wanted};
use memwall_nn::{
    AttentionConfig, BaseConvConfig, BmojoConfig, CONFIG_KEY, ChannelConfig, DecayForm, DeltaNetConfig,
    DifferentialConfig, EideticConfig, FeatureMap, GatedAssociativeConfig, GatedKalmanetConfig, GatedMemoryUnitConfig,
    GlaConfig, Hgrn2Config, LayerConfig, LinearAttentionConfig, Mamba2Config, MambaConfig, MixerConfig, MlstmConfig,
    ModelConfig, MoeConfig, RetentionConfig, RopeConfig, Rwkv4Config, Rwkv5Config, Rwkv6Config, Rwkv7Config,
    RwkvChannelMixConfig, Select, SelectiveAttentionConfig, Sequences, SharedExpert, ShortConvConfig, TokenMix,
    WeightTypes,
};

/// Tokens of the prompt, so that parts of 512 are cut too.
const PROMPT: usize = 530;

/// A model of a layer for each mixer, beside channel layers in turn, some of which have experts.
fn model(mixers: Vec<MixerConfig>) -> ModelConfig {
    let channel = ChannelConfig::Glu { hidden: 96, activation: Default::default(), bias: false };
    let shared = Some(SharedExpert { hidden: 32, gate: true });
    let experts = ChannelConfig::Moe(MoeConfig { shared, ..MoeConfig::new(6, 2, 32) });
    let channels = [channel.clone(), experts.clone(), experts, channel.clone(), channel].into_iter().cycle();
    let layers = mixers.into_iter().zip(channels).map(|(mixer, channel)| LayerConfig { mixer, channel });
    ModelConfig { norm_eps: 1e-6, ..ModelConfig::new(200, WIDTH, 600, layers.collect()) }
}

/// Width of the models.
const WIDTH: usize = 64;

/// Attention with norms of q and k and grouped heads as in Qwen3, within a window, of differences, over another layer's
/// keys; convolutions; a memory that a later layer gates; B'MOJO without a buffer and with one.
fn windows() -> ModelConfig {
    let rope = Some(RopeConfig::default());
    let attention = AttentionConfig { rope, qk_norm: true, ..AttentionConfig::new(4, 2, 16) };
    let window = AttentionConfig { window: Some(24), ..attention.clone() };
    let differential =
        AttentionConfig { differential: Some(DifferentialConfig::new(2)), qk_norm: false, ..attention.clone() };
    let shared = AttentionConfig { kv_source: Some(0), ..attention.clone() };
    let memory = || MixerConfig::Mamba2(Mamba2Config::new(4, 32, 16));
    let fading = BmojoConfig { rope: attention.rope.clone(), ..BmojoConfig::new(4, 2, 16, 24, memory()) };
    let buffer = BmojoConfig { eidetic: Some(EideticConfig::new(12)), ..fading.clone() };
    let mamba = MambaConfig::new(WIDTH);
    let unit = GatedMemoryUnitConfig::new(1, mamba.inner);
    model(vec![
        MixerConfig::Attention(attention),
        MixerConfig::Mamba(mamba),
        MixerConfig::Bmojo(fading),
        MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true }),
        MixerConfig::Bmojo(buffer),
        MixerConfig::Attention(differential),
        MixerConfig::GatedMemoryUnit(unit),
        MixerConfig::GatedAssociative(GatedAssociativeConfig::new(24, 3)),
        MixerConfig::Attention(shared),
        MixerConfig::Attention(window),
    ])
}

/// States of linear memories, of the delta rule and of a regression.
fn memories() -> ModelConfig {
    model(vec![
        MixerConfig::Gla(GlaConfig { short_conv: Some(4), ..GlaConfig::new(2, 16, 32) }),
        MixerConfig::DeltaNet(DeltaNetConfig::new(2, 16, 32)),
        MixerConfig::GatedKalmanet(GatedKalmanetConfig { kv_heads: Some(1), ..GatedKalmanetConfig::new(2, 16) }),
        MixerConfig::LinearAttention(LinearAttentionConfig {
            feature_map: FeatureMap::Elu,
            normalize: true,
            ..LinearAttentionConfig::new(2, 16, 32)
        }),
        MixerConfig::Retention(RetentionConfig::new(2, 16, 32)),
        MixerConfig::Mamba2(Mamba2Config::new(4, 32, 16)),
        MixerConfig::Hgrn2(Hgrn2Config::new(2, 16, 32)),
        MixerConfig::Mlstm(MlstmConfig::new(2, 16, 32)),
    ])
}

/// RWKV's time mixes and its channel mix.
fn rwkv() -> ModelConfig {
    model(vec![
        MixerConfig::Rwkv4(Rwkv4Config { width: WIDTH, decay: DecayForm::Exponent }),
        MixerConfig::Rwkv5(Rwkv5Config::new(2, 32)),
        MixerConfig::Rwkv6(Rwkv6Config::new(2, 32)),
        MixerConfig::Rwkv7(Rwkv7Config::new(2, 32)),
        MixerConfig::RwkvChannelMix(RwkvChannelMixConfig { hidden: 96, receptance: true, mix: TokenMix::Previous }),
    ])
}

/// Filters as long as the context and short ones, and attention at tokens that are chosen.
fn recall() -> ModelConfig {
    let plain = || AttentionConfig::new(4, 2, 16);
    model(vec![
        MixerConfig::BaseConv(BaseConvConfig::short(3)),
        MixerConfig::BaseConv(BaseConvConfig::long(600)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(plain(), Select::Threshold)),
        MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(plain(), Select::SeenBefore)),
    ])
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
    let mut all = vec![("the model that ships", Model::open(ships).expect("the model that ships"))];
    for (name, config) in [("windows", windows()), ("memories", memories()), ("rwkv", rwkv()), ("recall", recall())] {
        all.push((name, random(&folder.join(format!("{name}.gguf")), &config, Dtype::Q8_0)));
    }
    if let Some(path) = memwall_testdata::data("models-llama2c/stories260K-restored.bin") {
        all.push(("stories260K", Model::open(path).expect("the model opens")));
    }
    all
}

#[test]
fn no_mixer_is_left_out() {
    let tested: Vec<String> = [windows(), memories(), rwkv(), recall()]
        .iter()
        .flat_map(|config| config.layers.iter().map(|layer| serde_json::to_value(&layer.mixer).expect("JSON")))
        .map(|mixer| mixer["kind"].as_str().expect("a kind").to_owned())
        .collect();
    // The kinds that there are, as the refusal of another says: `a`, `b`, ...
    let refusal = serde_json::from_str::<MixerConfig>(r#"{"kind": "none"}"#).expect_err("no such kind").to_string();
    let kinds: Vec<&str> = refusal.split('`').skip(3).step_by(2).collect();
    assert!(kinds.len() > 15 && kinds.contains(&"bmojo"), "{refusal}");
    for kind in kinds {
        assert!(tested.iter().any(|t| t == kind), "{kind} is in none of the models");
    }
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
        // What came long ago may be forgotten.
        let mut other = prompt.clone();
        other[length - 3] = (other[length - 3] + 1) % config.vocab_size as u32;
        let options = EngineOptions { context: length, kv, ..EngineOptions::default() };
        let other = bits(Engine::new(&model, options)?.prefill(0, &other)?);
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
