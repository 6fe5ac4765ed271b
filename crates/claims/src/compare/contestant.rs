//! A contestant: mixers by name, in a model that fills the budget of parameters.

use memwall_formats::Dtype;
use memwall_graph::{Graph, GraphError, Source};
use memwall_nn::{
    Activation, AttentionConfig, BaseConvConfig, BmojoConfig, ChannelConfig, DeltaGate, DeltaNetConfig,
    DifferentialConfig, EideticConfig, FeatureMap, GateConfig, GatedAssociativeConfig, GatedKalmanetConfig, GlaConfig,
    Hgrn2Config, LayerConfig, LinearAttentionConfig, Mamba2Config, MixerConfig, MlstmConfig, ModelConfig,
    RetentionConfig, RopeConfig, Select, SelectiveAttentionConfig, Sequences, ShortConvConfig, WeightTypes,
};

use super::{Budget, CompareError, Subject};
use crate::Error;

/// The mixers that have a name.
pub const MIXERS: [&str; 24] = [
    "attention",
    "gated_attention",
    "windowed_attention",
    "differential_attention",
    "bmojo_f",
    "bmojo",
    "gla",
    "linear_attention",
    "based",
    "retention",
    "mamba2",
    "hgrn2",
    "mlstm",
    "delta_net",
    "gated_delta_net",
    "negative_delta_net",
    "kda",
    "gated_kalmanet",
    "base_conv",
    "long_base_conv",
    "selective_attention",
    "seen_before_attention",
    "gated_associative",
    "short_conv",
];

/// Tokens that windowed attention sees.
const WINDOW: usize = 16;
/// Taps of a short convolution.
const TAPS: usize = 4;
/// The width of a head, where the model's is a multiple of it.
const HEAD: usize = 32;

/// Mixers joined by `+`, and the model that they make.
pub(super) struct Contestant {
    pub(super) name: String,
    pub(super) model: ModelConfig,
}

impl Contestant {
    pub(super) fn new(name: &str, subject: Subject, budget: &Budget) -> Result<Contestant, CompareError> {
        let mixers = name
            .split('+')
            .map(|part| mixer(name, part.trim(), budget.width, subject.longest(budget.time)))
            .collect::<Result<Vec<_>, _>>()?;
        if mixers.len() > budget.layers {
            return Err(CompareError::Layers { name: name.into(), mixers: mixers.len(), layers: budget.layers });
        }
        let frame = Frame {
            vocabulary: subject.vocabulary(budget.time),
            context: subject.longest(budget.time),
            tied: subject.answers_are_inputs(),
            width: budget.width,
            layers: budget.layers,
            parameters: budget.parameters,
        };
        match frame.filled(&mixers).map_err(Error::experiment)? {
            Ok(model) => Ok(Contestant { name: name.into(), model }),
            Err(least) => Err(CompareError::Parameters { name: name.into(), least, budget: budget.parameters }),
        }
    }
}

/// What models of a comparison have in common.
pub(crate) struct Frame {
    pub(crate) vocabulary: usize,
    pub(crate) context: usize,
    /// One table serves inputs and answers.
    pub(crate) tied: bool,
    pub(crate) width: usize,
    pub(crate) layers: usize,
    /// The most parameters.
    pub(crate) parameters: u64,
}

impl Frame {
    /// The model that repeats `mixers` over its layers, with channel layers as wide as the parameters allow; the parameters
    /// without channel layers if those are too many.
    pub(crate) fn filled(&self, mixers: &[MixerConfig]) -> Result<Result<ModelConfig, u64>, GraphError> {
        let count = |hidden| parameters(&self.model(mixers, hidden));
        let (least, one, two) = (count(0)?, count(1)?, count(2)?);
        if least > self.parameters {
            return Ok(Err(least));
        }
        // Parameters grow by as many for each hidden channel, after the norms that the first brings.
        let hidden = if self.parameters < one { 0 } else { 1 + (self.parameters - one) / (two - one) };
        Ok(Ok(self.model(mixers, hidden as usize)))
    }

    fn model(&self, mixers: &[MixerConfig], hidden: usize) -> ModelConfig {
        let channel = match hidden {
            0 => ChannelConfig::None,
            hidden => ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false },
        };
        let layer = |i: usize| {
            let mut mixer = mixers[i % mixers.len()].clone();
            if let MixerConfig::Attention(AttentionConfig { differential: Some(differential), .. }) = &mut mixer {
                differential.depth = i;
            }
            LayerConfig { mixer, channel: channel.clone() }
        };
        ModelConfig {
            tie_embeddings: self.tied,
            ..ModelConfig::new(self.vocabulary, self.width, self.context, (0..self.layers).map(layer).collect())
        }
    }
}

fn mixer(name: &str, part: &str, width: usize, longest: usize) -> Result<MixerConfig, CompareError> {
    let heads = if width.is_multiple_of(HEAD) { width / HEAD } else { 1 };
    let head = width / heads;
    let attention =
        || AttentionConfig { rope: Some(RopeConfig::default()), ..AttentionConfig::new(heads, heads, head) };
    // Keys of half the width of values, as published.
    let gla = || GlaConfig::new(heads, (head / 2).max(1), head);
    let delta = || DeltaNetConfig::new(heads, (head / 2).max(1), head);
    // Half of what windowed attention sees as it is, the other half through the fading memory.
    let bmojo = || {
        let memory = MixerConfig::Mamba2(Mamba2Config::new(2 * heads, head, (head / 2).max(1)));
        let rope = Some(RopeConfig::default());
        BmojoConfig { rope, ..BmojoConfig::new(heads, heads, head, WINDOW / 2, memory) }
    };
    Ok(match part {
        "attention" => MixerConfig::Attention(attention()),
        "gated_attention" => {
            MixerConfig::Attention(AttentionConfig { gate: Some(GateConfig::default()), ..attention() })
        }
        // Pairs of heads, half as wide.
        "differential_attention" => {
            let differential = Some(DifferentialConfig::new(0));
            let rope = Some(RopeConfig::default());
            let attention = AttentionConfig::new(2 * heads, 2 * heads, head / 2);
            MixerConfig::Attention(AttentionConfig { differential, rope, ..attention })
        }
        "windowed_attention" => MixerConfig::Attention(AttentionConfig { window: Some(WINDOW), ..attention() }),
        "bmojo_f" => MixerConfig::Bmojo(bmojo()),
        // As many tokens in the buffer as in the window.
        "bmojo" => MixerConfig::Bmojo(BmojoConfig { eidetic: Some(EideticConfig::new(WINDOW)), ..bmojo() }),
        "gla" => MixerConfig::Gla(gla()),
        "linear_attention" => MixerConfig::Gla(GlaConfig { gate: false, ..gla() }),
        // The second-order map makes K² features of K channels.
        "based" => MixerConfig::LinearAttention(LinearAttentionConfig {
            feature_map: FeatureMap::Taylor,
            normalize: true,
            ..LinearAttentionConfig::new(heads, (head / 4).max(1), head)
        }),
        "retention" => MixerConfig::Retention(RetentionConfig::new(heads, (head / 2).max(2), head)),
        // An expansion of 2, heads as wide as those of the others, states of half that width.
        "mamba2" => MixerConfig::Mamba2(Mamba2Config::new(2 * heads, head, (head / 2).max(1))),
        "hgrn2" => MixerConfig::Hgrn2(Hgrn2Config::new(heads, (head / 2).max(1), head)),
        "mlstm" => MixerConfig::Mlstm(MlstmConfig::new(heads, (head / 2).max(1), head)),
        "delta_net" => MixerConfig::DeltaNet(DeltaNetConfig { gate: DeltaGate::None, ..delta() }),
        "gated_delta_net" => MixerConfig::DeltaNet(delta()),
        "negative_delta_net" => MixerConfig::DeltaNet(DeltaNetConfig { allow_neg_eigval: true, ..delta() }),
        "kda" => MixerConfig::DeltaNet(DeltaNetConfig { gate: DeltaGate::Channel, ..delta() }),
        // Square states: keys as wide as values.
        "gated_kalmanet" => MixerConfig::GatedKalmanet(GatedKalmanetConfig::new(heads, head)),
        "base_conv" => MixerConfig::BaseConv(BaseConvConfig::short(TAPS)),
        "long_base_conv" => MixerConfig::BaseConv(BaseConvConfig::long(longest)),
        "selective_attention" => {
            MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(attention(), Select::Soft))
        }
        "seen_before_attention" => {
            MixerConfig::SelectiveAttention(SelectiveAttentionConfig::new(attention(), Select::SeenBefore))
        }
        "gated_associative" => MixerConfig::GatedAssociative(GatedAssociativeConfig::new(width, TAPS)),
        "short_conv" => MixerConfig::ShortConv(ShortConvConfig { taps: TAPS, gated: true }),
        other => {
            let score = |m: &&str| strsim::jaro_winkler(m, other);
            let near = MIXERS.into_iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default();
            return Err(CompareError::Mixer { name: name.into(), found: other.into(), near });
        }
    })
}

/// Parameters of a model, counted in its graph.
pub(crate) fn parameters(config: &ModelConfig) -> Result<u64, GraphError> {
    let (mut g, types) = (Graph::new(Dtype::F32), WeightTypes::new());
    let seqs = Sequences::whole(&mut g, 1, 1)?;
    let hidden = config.hidden(&mut g, &types, &seqs)?;
    config.logits(&mut g, &types, hidden, None)?;
    let weights = g.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    Ok(weights.map(|(_, info)| info.ty.bytes(&[]) as u64 / 4).sum())
}
