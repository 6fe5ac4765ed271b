//! Models of characters on plays: the text, the sizes and the training that claims share.

use std::sync::Arc;

use memwall_nn::{Activation, ChannelConfig, LayerConfig, MixerConfig, ModelConfig};
use memwall_tasks::data::TINY_SHAKESPEARE;
use memwall_tasks::{Corpus, Documents, Fractions, TextTask};

use crate::{
    Error, Run,
    trial::{Figure, Training},
};

/// A text, and what every model of it gets.
pub(crate) struct Characters {
    corpus: Arc<Corpus>,
    /// Steps, batch and length; figures are nats a character.
    pub(crate) training: Training,
    layers: usize,
    /// Width of the models.
    pub(crate) width: usize,
}

impl Characters {
    /// The text at the sizes of the run's scale: 0.8 million weights at desk scale.
    pub(crate) fn read(run: &Run) -> Result<Characters, Error> {
        let files = run.data(&TINY_SHAKESPEARE)?;
        let corpus = Corpus::read_bytes(&files, &Documents::Files, Fractions::default()).map_err(Error::experiment)?;
        Ok(Characters {
            corpus: Arc::new(corpus),
            training: Training {
                steps: run.pick(3, 400, 4000),
                batch: run.pick(2, 8, 32),
                time: run.pick(16, 128, 256),
                measured: run.pick(2, 24, 48),
                figure: Figure::Nats,
            },
            layers: run.pick(1, 4, 8),
            width: run.pick(16, 128, 256),
        })
    }

    /// Windows of the text in an order of `seed`.
    pub(crate) fn task(&self, seed: u64) -> Result<TextTask, Error> {
        TextTask::new(self.corpus.clone(), self.training.time, 256, seed).map_err(Error::experiment)
    }

    /// Blocks of `mixer` and a gated MLP, of `width`.
    pub(crate) fn model(&self, mixer: MixerConfig, width: usize) -> ModelConfig {
        let channel = ChannelConfig::Glu { hidden: width * 8 / 3, activation: Activation::Silu, bias: false };
        ModelConfig {
            norm_eps: 1e-6,
            tie_embeddings: true,
            ..ModelConfig::new(256, width, self.training.time, vec![LayerConfig { mixer, channel }; self.layers])
        }
    }
}
