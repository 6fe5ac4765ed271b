//! A contestant: mixers by name, in a model that fills the budget of parameters.

use memwall_formats::Dtype;
use memwall_graph::{Graph, GraphError, Source};
use memwall_nn::{
    Activation, AttentionConfig, ChannelConfig, GateConfig, GlaConfig, LayerConfig, MixerConfig, ModelConfig,
    RopeConfig, Sequences, ShortConvConfig, WeightTypes,
};

use super::{Budget, CompareError, Subject};
use crate::Error;

/// The mixers that have a name.
pub const MIXERS: [&str; 6] =
    ["attention", "gated_attention", "windowed_attention", "gla", "linear_attention", "short_conv"];

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
        let mixers =
            name.split('+').map(|part| mixer(name, part.trim(), budget.width)).collect::<Result<Vec<_>, _>>()?;
        if mixers.len() > budget.layers {
            return Err(CompareError::Layers { name: name.into(), mixers: mixers.len(), layers: budget.layers });
        }
        let model = |hidden: usize| {
            let channel = match hidden {
                0 => ChannelConfig::None,
                hidden => ChannelConfig::Glu { hidden, activation: Activation::Silu, bias: false },
            };
            let layer = |i: usize| LayerConfig { mixer: mixers[i % mixers.len()].clone(), channel: channel.clone() };
            ModelConfig {
                vocab_size: subject.vocabulary(budget.time),
                d_model: budget.width,
                max_context: budget.time,
                layers: (0..budget.layers).map(layer).collect(),
                norm_eps: 1e-5,
                tie_embeddings: true,
                logit_softcap: None,
                learned_positions: false,
                norm: Default::default(),
                embedding_norm: false,
            }
        };
        let count = |hidden| parameters(&model(hidden)).map_err(Error::experiment);
        let (least, one, two) = (count(0)?, count(1)?, count(2)?);
        if least > budget.parameters {
            return Err(CompareError::Parameters { name: name.into(), least, budget: budget.parameters });
        }
        // Parameters grow by as many for each hidden channel, after the norms that the first brings.
        let hidden = if budget.parameters < one { 0 } else { 1 + (budget.parameters - one) / (two - one) };
        Ok(Contestant { name: name.into(), model: model(hidden as usize) })
    }
}

fn mixer(name: &str, part: &str, width: usize) -> Result<MixerConfig, CompareError> {
    let heads = if width.is_multiple_of(HEAD) { width / HEAD } else { 1 };
    let head = width / heads;
    let attention =
        || AttentionConfig { rope: Some(RopeConfig::default()), ..AttentionConfig::new(heads, heads, head) };
    // Keys of half the width of values, as published.
    let gla = || GlaConfig::new(heads, (head / 2).max(1), head);
    Ok(match part {
        "attention" => MixerConfig::Attention(attention()),
        "gated_attention" => {
            MixerConfig::Attention(AttentionConfig { gate: Some(GateConfig::default()), ..attention() })
        }
        "windowed_attention" => MixerConfig::Attention(AttentionConfig { window: Some(WINDOW), ..attention() }),
        "gla" => MixerConfig::Gla(gla()),
        "linear_attention" => MixerConfig::Gla(GlaConfig { gate: false, ..gla() }),
        "short_conv" => MixerConfig::ShortConv(ShortConvConfig { taps: TAPS, gated: true }),
        other => {
            let score = |m: &&str| strsim::jaro_winkler(m, other);
            let near = MIXERS.into_iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap_or_default();
            return Err(CompareError::Mixer { name: name.into(), found: other.into(), near });
        }
    })
}

/// Parameters of a model, counted in its graph.
fn parameters(config: &ModelConfig) -> Result<u64, GraphError> {
    let (mut g, types) = (Graph::new(Dtype::F32), WeightTypes::new());
    let seqs = Sequences::whole(&mut g, 1, 1)?;
    let hidden = config.hidden(&mut g, &types, &seqs)?;
    config.logits(&mut g, &types, hidden, None)?;
    let weights = g.values().filter(|(_, info)| matches!(info.source, Source::Weight));
    Ok(weights.map(|(_, info)| info.ty.bytes(&[]) as u64 / 4).sum())
}
