//! Characters of plays, with the ablations of the paper; and recall of pairs beyond the field.

use memwall_nn::{AttentionConfig, GatedAssociativeConfig, MixerConfig, ModelConfig, Paths, RopeConfig};

use crate::{
    Better, Error, Run, SweepPlan, TuneOn, characters::Characters, evidence::Sweep, recall::Recall, sweep,
    trial::Training,
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
    recall: Recall,
}

impl Learning {
    pub(super) fn new(run: &Run) -> Result<Learning, Error> {
        Ok(Learning { text: Characters::read(run)?, recall: Recall::new(run) })
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
            let bank = || MixerConfig::GatedAssociative(GatedAssociativeConfig::new(self.recall.width, 3));
            let mixers = match arm {
                ATTENTION => [self.recall.convolution(), self.recall.attention(None)],
                _ => [bank(), bank()],
            };
            self.recall.trial(run, mixers, rate, seed)
        })
    }
}
