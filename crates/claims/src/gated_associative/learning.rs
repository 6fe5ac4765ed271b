//! Characters of plays, with the ablations of the paper; and recall of pairs beyond the field.

use memwall_nn::{
    AttentionConfig, ChannelConfig, GatedAssociativeConfig, LayerConfig, MixerConfig, ModelConfig, Paths, RopeConfig,
    ShortConvConfig,
};
use memwall_tasks::{GeneratedData, GeneratedTask, GeneratorConfig, MqarConfig};

use crate::{
    Better, Error, Run, SweepPlan, TuneOn,
    characters::Characters,
    evidence::Sweep,
    sweep,
    trial::{Figure, Training},
};

pub(super) const TRANSFORMER: &str = "transformer";
pub(super) const FULL: &str = "gated associative memory";
pub(super) const GLOBAL: &str = "bank alone";
pub(super) const LOCAL: &str = "convolution alone";
pub(super) const SUM: &str = "without gates";
pub(super) const ATTENTION: &str = "convolution, attention";

const RATES: [f64; 3] = [1e-3, 3e-3, 1e-2];

pub(super) struct Learning {
    text: Characters,
    recall: Training,
    vocabulary: usize,
    pairs: usize,
    width: usize,
}

impl Learning {
    pub(super) fn new(run: &Run) -> Result<Learning, Error> {
        Ok(Learning {
            text: Characters::read(run)?,
            recall: Training {
                steps: run.pick(4, 1200, 20_000),
                batch: run.pick(4, 32, 64),
                time: run.pick(16, 64, 256),
                measured: run.pick(2, 16, 32),
                figure: Figure::Accuracy,
            },
            vocabulary: run.pick(40, 128, 8192),
            pairs: run.pick(2, 8, 16),
            width: run.pick(8, 64, 128),
        })
    }

    fn model(&self, arm: &str) -> ModelConfig {
        let width = self.text.width;
        let bank = GatedAssociativeConfig::new(width, 3);
        let heads = width.div_ceil(64);
        self.text.model(
            match arm {
                TRANSFORMER => MixerConfig::Attention(AttentionConfig {
                    rope: Some(RopeConfig::default()),
                    ..AttentionConfig::new(heads, heads, width / heads)
                }),
                GLOBAL => MixerConfig::GatedAssociative(GatedAssociativeConfig { paths: Paths::Global, ..bank }),
                LOCAL => MixerConfig::GatedAssociative(GatedAssociativeConfig { paths: Paths::Local, ..bank }),
                SUM => MixerConfig::GatedAssociative(GatedAssociativeConfig { gated: false, ..bank }),
                _ => MixerConfig::GatedAssociative(bank),
            },
            width,
        )
    }

    /// Few steps on characters.
    pub(super) fn text(&self, run: &Run) -> Result<Sweep, Error> {
        let plan = SweepPlan {
            what: "characters",
            arms: &[TRANSFORMER, FULL, GLOBAL, LOCAL, SUM],
            rates: &RATES,
            better: Better::Lower,
            tune_on: TuneOn::FirstSeed,
        };
        sweep(run, plan, |arm, rate, seed| {
            self.text.training.trial(run, &self.model(arm), &self.text.task(seed)?, rate, seed)
        })
    }

    /// Loss of ours and of the transformer after three times as many steps, at the rates of `short`.
    pub(super) fn longer(&self, run: &Run, short: &Sweep) -> Result<[Vec<f64>; 2], Error> {
        let training = Training { steps: 3 * self.text.training.steps, ..self.text.training };
        let mut losses = [Vec::new(), Vec::new()];
        for (arm, losses) in [FULL, TRANSFORMER].into_iter().zip(&mut losses) {
            let rate = short.arms.iter().find(|a| a.name == arm).map_or(RATES[0], |a| a.chosen_rate);
            for &seed in run.seeds() {
                losses.push(training.trial(run, &self.model(arm), &self.text.task(seed)?, rate, seed)?.score);
            }
        }
        Ok(losses)
    }

    /// Recall of pairs, two layers without channel layers.
    pub(super) fn recall(&self, run: &Run) -> Result<Sweep, Error> {
        let plan = SweepPlan {
            what: "recall",
            arms: &[ATTENTION, FULL],
            rates: &RATES,
            better: Better::Higher,
            tune_on: TuneOn::FirstSeed,
        };
        sweep(run, plan, |arm, rate, seed| {
            self.recall.trial(run, &self.recall_model(arm), &self.pairs(seed)?, rate, seed)
        })
    }

    fn pairs(&self, seed: u64) -> Result<GeneratedTask, Error> {
        let of = |batches: u64| {
            let examples = batches * self.recall.batch as u64;
            let config = MqarConfig::new(self.vocabulary, self.recall.time, self.pairs, examples);
            vec![GeneratorConfig::Mqar(MqarConfig { random_non_queries: false, ..config })]
        };
        GeneratedTask::new(GeneratedData {
            train_configs: of(self.recall.steps),
            validation_configs: of(self.recall.measured as u64),
            test_configs: of(self.recall.measured as u64),
            seed,
        })
        .map_err(Error::experiment)
    }

    fn recall_model(&self, arm: &str) -> ModelConfig {
        let bank = || MixerConfig::GatedAssociative(GatedAssociativeConfig::new(self.width, 3));
        let mixers = match arm {
            ATTENTION => [
                MixerConfig::ShortConv(ShortConvConfig { taps: 3, gated: true }),
                MixerConfig::Attention(AttentionConfig {
                    rope: Some(RopeConfig::default()),
                    ..AttentionConfig::new(1, 1, self.width)
                }),
            ],
            _ => [bank(), bank()],
        };
        ModelConfig {
            vocab_size: self.vocabulary,
            d_model: self.width,
            max_context: self.recall.time,
            layers: mixers.map(|mixer| LayerConfig { mixer, channel: ChannelConfig::None }).into(),
            norm_eps: 1e-5,
            tie_embeddings: true,
            logit_softcap: None,
            learned_positions: false,
            norm: Default::default(),
            embedding_norm: false,
        }
    }
}
