//! Which tokens an output depends on, and how many parameters the published model has.

use memwall_nn::{Activation, ChannelConfig, GatedAssociativeConfig, LayerConfig, MixerConfig, ModelConfig, NormKind};
use memwall_train::Batch;

use crate::compare::parameters;
use crate::trial::{Figure, Training};
use crate::{Error, Run};

/// How many of one token's logits change.
pub(super) struct Field {
    /// When all tokens before its field change.
    pub(super) beyond: usize,
    /// When the first token of its field changes.
    pub(super) within: usize,
    /// When all tokens after it change.
    pub(super) future: usize,
}

const VOCABULARY: usize = 64;

/// The model of the paper, of any size.
pub(super) fn published(vocabulary: usize, context: usize, width: usize, slots: usize, layers: usize) -> ModelConfig {
    let mixer = MixerConfig::GatedAssociative(GatedAssociativeConfig::new(slots, 3));
    let channel = ChannelConfig::Mlp { hidden: 4 * width, activation: Activation::GeluErf, bias: true };
    ModelConfig {
        tie_embeddings: true,
        learned_positions: true,
        norm: NormKind::Layer,
        ..ModelConfig::new(vocabulary, width, context, vec![LayerConfig { mixer, channel }; layers])
    }
}

/// Parameters of the published sizes.
pub(super) fn published_parameters() -> Result<u64, Error> {
    parameters(&published(10_000, 256, 512, 512, 6)).map_err(Error::experiment)
}

/// Of a token late in a sequence, in a model of six layers with random weights.
pub(super) fn field(run: &Run, seed: u64) -> Result<Field, Error> {
    let (time, layers, token) = (48, 6, 32);
    let first = token - 2 * layers;
    let training = Training { steps: 0, batch: 1, time, measured: 0, figure: Figure::Nats };
    let model = published(VOCABULARY, time, 32, 48, layers);
    let mut trainer = training.trainer(run, &model, seed)?;
    let mut logits = |changed: std::ops::Range<usize>| {
        let id = |i: usize| (i * 7 + seed as usize + usize::from(changed.contains(&i))) % VOCABULARY;
        let ids: Vec<i32> = (0..time).map(|i| id(i) as i32).collect();
        let batch = Batch { targets: vec![0; time], ids, lengths: vec![time] };
        let evaluated = trainer.evaluate(&batch).map_err(Error::experiment)?;
        Ok::<_, Error>(evaluated.logits[token * VOCABULARY..(token + 1) * VOCABULARY].to_vec())
    };
    let plain = logits(0..0)?;
    let mut differing = |changed| {
        let other = logits(changed)?;
        Ok::<_, Error>(plain.iter().zip(&other).filter(|(a, b)| a.to_bits() != b.to_bits()).count())
    };
    Ok(Field {
        beyond: differing(0..first)?,
        within: differing(first..first + 1)?,
        future: differing(token + 1..time)?,
    })
}
