//! Multi-query recall as Zoology asks it: the task, the sizes and the two-layer models that claims share.

use memwall_nn::{
    AttentionConfig, BaseConvConfig, ChannelConfig, LayerConfig, MixerConfig, ModelConfig, RopeConfig, ShortConvConfig,
};
use memwall_tasks::{GeneratedData, GeneratedTask, GeneratorConfig, MqarConfig};

use crate::{
    Error, Run, Trial,
    trial::{Figure, Training},
};

/// Keys and values, then keys whose values are asked for; no distracting filler.
pub(crate) struct Recall {
    training: Training,
    /// Different ids, half of them keys.
    pub(crate) vocabulary: usize,
    /// Pairs of a sequence.
    pub(crate) pairs: usize,
    /// Width of the models.
    pub(crate) width: usize,
}

impl Recall {
    /// At the sizes of the run's scale.
    pub(crate) fn new(run: &Run) -> Recall {
        Recall {
            training: Training {
                steps: run.pick(4, 1200, 20_000),
                batch: run.pick(4, 32, 64),
                time: run.pick(16, 64, 256),
                measured: run.pick(2, 16, 32),
                figure: Figure::Accuracy,
            },
            vocabulary: run.pick(40, 128, 8192),
            pairs: run.pick(2, 8, 16),
            width: run.pick(8, 64, 128),
        }
    }

    /// The convolution whose filter does not depend on what it reads: short, or as long as the sequence.
    pub(crate) fn base_conv(&self, long: bool) -> MixerConfig {
        MixerConfig::BaseConv(if long { BaseConvConfig::long(self.training.time) } else { BaseConvConfig::short(3) })
    }

    /// A short gated convolution.
    pub(crate) fn convolution(&self) -> MixerConfig {
        MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true })
    }

    /// One head of attention to all tokens, or to so many.
    pub(crate) fn attention(&self, window: Option<usize>) -> MixerConfig {
        let rope = Some(RopeConfig::default());
        MixerConfig::Attention(AttentionConfig { window, rope, ..AttentionConfig::new(1, 1, self.width) })
    }

    /// Trains these two mixers, without channel layers, and measures the share of values that are recalled.
    pub(crate) fn trial(&self, run: &Run, mixers: [MixerConfig; 2], rate: f64, seed: u64) -> Result<Trial, Error> {
        let model = ModelConfig {
            tie_embeddings: true,
            ..ModelConfig::new(
                self.vocabulary,
                self.width,
                self.training.time,
                mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
            )
        };
        self.training.trial(run, &model, &self.task(seed)?, rate, seed)
    }

    fn task(&self, seed: u64) -> Result<GeneratedTask, Error> {
        let of = |batches: u64| {
            let examples = batches * self.training.batch as u64;
            let config = MqarConfig::new(self.vocabulary, self.training.time, self.pairs, examples);
            vec![GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..config })]
        };
        GeneratedTask::new(GeneratedData {
            train_configs: of(self.training.steps),
            validation_configs: of(self.training.measured as u64),
            test_configs: of(self.training.measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }
}
